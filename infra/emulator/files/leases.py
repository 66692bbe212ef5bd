"""The rules of a lease, on a share or on a file: a pure state machine over what is stored and the time.

Source: "Lease Share" and "Lease File" of the storage services REST reference (tables of outcomes), and recordings.
"""

from __future__ import annotations

import math
import time
import uuid
from dataclasses import dataclass
from typing import Any

from infra.emulator.files.exceptions import StorageError, error

INFINITE = -1


@dataclass
class Lease:
    """A lease as it was last changed. `duration_seconds` is 15 to 60, or INFINITE; `ends` is a Unix time.

    `state` is leased, breaking or broken; that a leased one has expired, or a breaking one is broken by now, is a
    matter of the time: ask `current`.
    """

    id: str
    duration_seconds: int
    state: str
    ends: float | None

    def current(self) -> str:
        """leased, breaking, broken or expired, at this moment."""
        if self.ends is not None and time.time() >= self.ends:
            return {"leased": "expired", "breaking": "broken"}.get(self.state, self.state)
        return self.state

    @property
    def holds(self) -> bool:
        """Whether it still keeps others away."""
        return self.current() in ("leased", "breaking")


def load(stored: dict[str, Any] | None) -> Lease | None:
    """The lease of a document's member."""
    return None if stored is None else Lease(**stored)


def headers(lease: Lease | None) -> dict[str, str]:
    """x-ms-lease-status, -state and, while leased, -duration."""
    state = "available" if lease is None else lease.current()
    found = {
        "x-ms-lease-status": "locked" if state in ("leased", "breaking") else "unlocked",
        "x-ms-lease-state": state,
    }
    if lease is not None and state == "leased":
        found["x-ms-lease-duration"] = "infinite" if lease.duration_seconds == INFINITE else "fixed"
    return found


def acquire(lease: Lease | None, duration_seconds: int, proposed: str | None) -> Lease:
    """A new lease. Raises 409 while another one holds."""
    if lease is not None and lease.holds:
        if lease.current() == "breaking":
            raise error("LeaseIsBreakingAndCannotBeAcquired")
        if proposed != lease.id:
            raise error("LeaseAlreadyPresent")
    return _started(proposed or str(uuid.uuid4()), duration_seconds)


def renew(lease: Lease | None, lease_id: str) -> Lease:
    """The same lease with its time from now. Also an expired one, as long as nobody else took it."""
    lease = _matching(lease, lease_id)
    if lease.current() in ("breaking", "broken"):
        raise error("LeaseIsBrokenAndCannotBeRenewed")
    return _started(lease.id, lease.duration_seconds)


def change(lease: Lease | None, lease_id: str, proposed: str) -> Lease:
    """The same lease under another id; asking again after success succeeds."""
    if lease is None:
        raise error("LeaseNotPresentWithLeaseOperation")
    if lease.id not in (lease_id, proposed):
        raise error("LeaseIdMismatchWithLeaseOperation")
    state = lease.current()
    if state == "breaking":
        raise error("LeaseIsBreakingAndCannotBeChanged")
    if state != "leased":
        raise error("LeaseNotPresentWithLeaseOperation")
    return Lease(proposed, lease.duration_seconds, "leased", lease.ends)


def release(lease: Lease | None, lease_id: str) -> None:
    """Nothing when it may be released: at once free for others."""
    _matching(lease, lease_id)


def break_(lease: Lease | None, period_seconds: int | None) -> tuple[Lease, int]:
    """The breaking lease and how many seconds it still holds.

    Without a period a fixed lease runs out its time and an infinite one ends at once.
    """
    if lease is None:
        raise error("LeaseNotPresentWithLeaseOperation")
    if not lease.holds:
        return Lease(lease.id, lease.duration_seconds, "broken", None), 0
    remaining = math.inf if lease.ends is None else max(0.0, lease.ends - time.time())
    if period_seconds is not None:
        wait = min(float(period_seconds), remaining)
    else:
        wait = 0.0 if remaining == math.inf else remaining
    if wait <= 0:
        return Lease(lease.id, lease.duration_seconds, "broken", None), 0
    return Lease(lease.id, lease.duration_seconds, "breaking", time.time() + wait), math.ceil(wait)


def check_write(lease: Lease | None, given: str | None, *, noun: str) -> None:
    """Whether a changing request may pass. `noun` is "Share" or "File". Raises 412."""
    if lease is not None and lease.holds and given is None:
        thing = "file share" if noun == "Share" else "file"
        raise StorageError(
            412,
            "LeaseIdMissing",
            f"There is currently a lease on the {thing} and no lease ID was specified in the request.",
        )
    check_given(lease, given, noun=noun)


def check_given(lease: Lease | None, given: str | None, *, noun: str) -> None:
    """A lease id that a request brings, also a reading one, must be the lease's. Raises 412."""
    if given is None:
        return
    if lease is None or lease.current() == "broken":
        raise error(f"LeaseNotPresentWith{noun}Operation")
    if given.lower() != lease.id:
        raise error(f"LeaseIdMismatchWith{noun}Operation")
    if lease.current() == "expired":
        raise error("LeaseLost")


def parse_id(text: str) -> str | None:
    """A lease id in any of the ways a GUID is written, lower case; None when it is none."""
    try:
        return str(uuid.UUID(text))
    except ValueError:
        return None


def _started(lease_id: str, duration_seconds: int) -> Lease:
    ends = None if duration_seconds == INFINITE else time.time() + duration_seconds
    return Lease(lease_id, duration_seconds, "leased", ends)


def _matching(lease: Lease | None, lease_id: str) -> Lease:
    if lease is None or lease.id != lease_id:
        raise error("LeaseIdMismatchWithLeaseOperation")
    return lease

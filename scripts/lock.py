"""The right to change the releases of a share: a lease on the share that one run holds at a time.

Knows leases and nothing of releases; who holds the lock is told by whoever keeps a record of the runs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType

from scripts.errors import CloudError, Forbidden, Locked, Unanswered
from scripts.files import ShareClient

LEASE_SECONDS = 60
"""How long a lease lives without a renewal: the longest that a share's lease may be finite (REST: Lease Share)."""

_LOOK_AGAIN_SECONDS = 1.0
_RELEASE_SECONDS = 5.0
"""How long to try to release a lease, which ends by itself as well."""

_NOT_ALLOWED = {"AuthorizationPermissionMismatch", "AuthorizationResourceTypeMismatch", "AuthorizationFailure"}

# "Permissions for File service operations" of the storage services REST reference; a lease on a file, for which a data
# role would do, knows no end, so that a run that died would hold it until somebody broke it.
_RIGHT_TO_THE_LEASE = (
    "Runs keep apart by a lease on the share itself. For a signed-in identity that is the action "
    "Microsoft.Storage/storageAccounts/fileServices/shares/lease/action, which no data role has: give it a role with "
    "it, such as Storage Account Contributor on the account. A signature must be the account's, allow writing, and be "
    "for shares and objects (srt=co)."
)


class Lock:
    """A lease on the share, renewed by a thread while the block runs.

    A holder that dies frees it within lease_seconds, because nobody renews it. wait_seconds is how long to wait for
    another holder before Locked is raised; holder tells in a few words who that is, None when it is not known; say gets
    a line when there is something to wait for or to worry about.
    """

    def __init__(
        self,
        share: ShareClient,
        *,
        wait_seconds: float = 0,
        lease_seconds: int = LEASE_SECONDS,
        holder: Callable[[], str | None] = lambda: None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._share = share
        self._wait_seconds = wait_seconds
        self._lease_seconds = lease_seconds
        self._holder = holder
        self._say = say
        self._lease: str | None = None
        self._held_until = 0.0
        self._stop = threading.Event()

    def __enter__(self) -> Lock:
        give_up_at = time.monotonic() + self._wait_seconds
        waiting = False
        while not self._acquire():
            if time.monotonic() >= give_up_at:
                raise Locked(
                    f"The share '{self._share.share_name}' is held by {self._holder_shown()}; nothing was changed.",
                    f"Run the same command again when that has ended. If it was killed, the share frees itself within "
                    f"{self._lease_seconds} seconds.",
                )
            if not waiting:
                self._say(f"waiting up to {self._wait_seconds:.0f} s: the share is held by {self._holder_shown()}")
            waiting = True
            time.sleep(min(_LOOK_AGAIN_SECONDS, max(0.0, give_up_at - time.monotonic())))
        threading.Thread(target=self._renew, name="lease", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The renewer is not waited for: the answer that it waits for may never come.
        self._stop.set()
        if self._lease is None:
            return
        give_up_at = _now() + _RELEASE_SECONDS

        def seconds_left() -> float:
            left = give_up_at - _now()
            if left <= 0:
                raise Unanswered("there was no answer.", "It ends by itself.")
            return left

        try:
            self._share.within(seconds_left).release_lease(self._lease)
        except CloudError as failure:
            # What was to be done under the lease is done or failed by itself; the lease ends without us.
            self._say(f"the lease on the share was not released and ends by itself: {failure.message}")

    def check(self) -> None:
        """Raise Locked unless the lease is certainly still ours (no request)."""
        self.seconds_left()

    def seconds_left(self) -> float:
        """How long the lease is certainly still ours, should it not be renewed (no request). Raises Locked."""
        left = self._held_until - _now()
        if left <= 0:
            raise Locked(
                f"The lease on the file share '{self._share.share_name}' was lost: it could not be renewed in time, "
                "and another run may have started.",
                "Run the same command again.",
            )
        return left

    def _holder_shown(self) -> str:
        return self._holder() or "another run"

    def _acquire(self) -> bool:
        asked_at = _now()
        try:
            self._lease = self._share.within(self._seconds_for_an_answer).acquire_lease(self._lease_seconds)
        except CloudError as error:
            if error.code == "LeaseAlreadyPresent":
                return False
            if error.code in _NOT_ALLOWED:
                raise Forbidden(
                    f"{error.message} Nothing was changed.", _RIGHT_TO_THE_LEASE, code=error.code, status=error.status
                ) from None
            raise
        self._held_until = asked_at + self._lease_seconds
        return True

    def _renew(self) -> None:
        share = self._share.within(self._seconds_for_an_answer)
        pause = self._seconds_to_renewal()
        while self._lease is not None and not self._stop.wait(pause):
            asked_at = _now()
            try:
                share.renew_lease(self._lease)
            except _Ended:
                return
            except CloudError as error:
                if self._stop.is_set():
                    return
                self._say(f"the lease on the share could not be renewed: {error.message}")
                if error.status in (409, 412):
                    self._held_until = 0.0  # somebody broke the lease, and it may be another's by now
                    return
                # One that has run out can be renewed as well, unless another has had it (REST: Lease Share).
                pause = self._lease_seconds / 4
            else:
                self._held_until = asked_at + self._lease_seconds
                pause = self._seconds_to_renewal()

    def _seconds_to_renewal(self) -> float:
        """Until a quarter of the lease's life is over; it may have taken longer than that to get it."""
        return max(0.0, self._held_until - _now() - self._lease_seconds * 3 / 4)

    def _seconds_for_an_answer(self) -> float:
        """For ShareClient.within: an attempt takes a quarter of the lease's life, so that another one comes in time."""
        if self._stop.is_set():
            raise _Ended
        return self._lease_seconds / 2


class _Ended(Exception):
    """The block has ended, and with it what was to be asked about the lease."""


def _now() -> float:
    """Seconds on a clock that goes on while the machine sleeps, where there is one: the lease ends meanwhile."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()

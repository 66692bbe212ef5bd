"""What was done to the releases of a share, by whom and with what outcome: the file releases/history.jsonl.

One line of JSON for each run that changed something, oldest first. A line is written when the run begins, under the
lock, so that it also tells others who holds the lock; and again with its outcome when the run ends. A line without an
outcome is of a run that is under way, or was cut off. The file is replaced in one request, so it is never half a file.
Knows no container app, and not how it is shown.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Literal

from scripts import release as releases
from scripts import share as shares
from scripts.errors import CloudError, InferopsError, Locked
from scripts.files import ShareClient
from scripts.lock import Lock
from scripts.release import RELEASES, Current, Release

FILE = f"{RELEASES}/history.jsonl"

LONGEST = 1000
"""Runs that are remembered at most, and no more than one request can write: the oldest are forgotten first. With one
adapter a run takes some 400 bytes, with 80 of them 5 kB."""

Verb = Literal["deploy", "rollback", "gc"]
Outcome = Literal["proven", "failed", "interrupted", "cut off", "done"]
"""proven: the release passed its proof. failed: it did not, or something else did. interrupted: by a person or the
runner. cut off: the run died; who came next noted it. done: what was not about putting a release into use."""


@dataclass(frozen=True)
class Who:
    """Who runs a verb: a person's or an account's name, and the address of the job's page where there is one."""

    name: str
    run_url: str | None = None


@dataclass(frozen=True)
class Entry:
    """One run. Times are ISO 8601 in UTC; release and what follows it are of the release that was put into use.

    previous was in use before. detail is a line on what came of it, empty when the outcome says all.
    """

    verb: Verb
    who: Who
    begun: str
    release: str | None = None
    commit: str | None = None
    base: str | None = None
    adapters: Mapping[str, str] = dataclasses.field(default_factory=dict)
    previous: str | None = None
    ended: str | None = None
    outcome: Outcome | None = None
    detail: str = ""
    read: Mapping[str, Any] = dataclasses.field(default_factory=dict, compare=False, repr=False)
    """The line that it was read from: what only a later version of this program knows is written back as it came."""

    def __str__(self) -> str:
        what = f"{self.verb} of release {self.release}" if self.release else self.verb
        run = f" ({self.who.run_url})" if self.who.run_url else ""
        return f"a {what} by {self.who.name}{run} since {self.begun}"

    def to_json(self) -> dict[str, Any]:
        """The line as a value."""
        told = dataclasses.asdict(self)
        read = told.pop("read")
        return {**read, **told, "who": {**read.get("who", {}), **told["who"]}}


@dataclass(frozen=True)
class History:
    """What was done to a share, and what is left of it.

    runs are those that are remembered, oldest first; unrecorded are releases on the share that no run tells of (made
    before there was a history, or forgotten); on_share the ids of all releases that the share has.
    """

    current: Current | None
    runs: tuple[Entry, ...]
    unrecorded: tuple[Release, ...]
    on_share: frozenset[str]


@dataclass
class Run:
    """A run under way. detail may be set before it ends.

    left_open: should the block fail now, no outcome is written, because only the next run can tell it.
    """

    detail: str = ""
    left_open: bool = False


def begun(verb: Verb, who: Who, release: Release | None = None, *, previous: str | None = None) -> Entry:
    """An entry for a run that begins now."""
    if release is None:
        return Entry(verb, who, _now())
    return Entry(verb, who, _now(), release.id, release.commit, release.base, dict(release.adapters), previous)


def of(share: ShareClient) -> History:
    """Everything that a person may want to see of the past (three requests, and one for each unrecorded release)."""
    current = releases.read_current(share)
    runs = read(share, current)
    ids = releases.list_ids(share)
    recorded = {run.release for run in runs}
    unrecorded = releases.read_releases(share, [name for name in ids if name not in recorded])
    return History(current, runs, unrecorded, frozenset(ids))


def read(share: ShareClient, current: Current | None) -> tuple[Entry, ...]:
    """Every run that is remembered, oldest first (one request).

    A run that died after its release had passed the proof counts as proven: `current` says so. Raises InferopsError
    when the file makes no sense.
    """
    found = shares.read_small_file(share, FILE)
    entries = [] if found is None else [_entry(number, line) for number, line in enumerate(found.content.splitlines())]
    if entries and entries[-1].outcome is None and _is_proven(entries[-1], current):
        entries[-1] = dataclasses.replace(entries[-1], outcome="proven")
    return tuple(entries)


def holder(share: ShareClient) -> str | None:
    """Who holds the lock of the share, in a few words; None when it is not known (yet)."""
    try:
        entries = read(share, None)
    except InferopsError:
        return None  # who asks is told that somebody holds it; that the history is broken is told to who reads it
    return str(entries[-1]) if entries and entries[-1].outcome is None else None


@contextlib.contextmanager
def recorded(
    share: ShareClient, lock: Lock, entry: Entry, current: Current | None, *, say: Callable[[str], None]
) -> Iterator[Run]:
    """Writes the entry down for the time of the block, and then with its outcome.

    Runs before it that never ended are noted as cut off: the lock is ours, so they are dead. An outcome that cannot be
    written is said and no error: what was done is done, and the next run notes it.
    """
    before = [old if old.outcome else dataclasses.replace(old, outcome="cut off") for old in read(share, current)]
    _write(share, lock, [*before, entry])
    run = Run()
    outcome: Outcome = "done" if entry.release is None else "proven"
    try:
        yield run
        run.left_open = False
    except BaseException as error:
        if isinstance(error, Exception):
            outcome, run.detail = "failed", error.message if isinstance(error, InferopsError) else type(error).__name__
        else:
            outcome = "interrupted"
        raise
    finally:
        ended = dataclasses.replace(entry, ended=_now(), outcome=outcome, detail=run.detail)
        try:
            if not run.left_open:
                _write(share, lock, [*before, ended])
        except (CloudError, Locked) as failure:
            say(f"the outcome could not be written into {FILE}: {failure.message}")


def proven_before(entries: Sequence[Entry], current: str) -> tuple[str, ...]:
    """The releases to go back to from the current one, nearest first.

    A deploy puts its release on top of those that were proven before; a rollback takes off what lay above its own. So a
    second rollback goes further back, and not forth again to what the first one left.
    """
    stack: list[str] = []
    for entry in entries:
        if entry.outcome != "proven" or entry.release is None:
            continue
        if entry.release in stack:
            at = stack.index(entry.release)
            stack = stack[:at] if entry.verb == "rollback" else stack[:at] + stack[at + 1 :]
        stack.append(entry.release)
    return tuple(release for release in reversed(stack) if release != current)


def last_use(entries: Sequence[Entry]) -> dict[str, str]:
    """When each release was last put into use and proven."""
    return {entry.release: entry.begun for entry in entries if entry.release and entry.outcome == "proven"}


def _entry(number: int, line: bytes) -> Entry:
    try:
        value = json.loads(line)
        who = Who(**_known(Who, value["who"]))
        return Entry(**{**_known(Entry, value), "who": who, "read": value})
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InferopsError(
            f"Line {number + 1} of the file {FILE} on the share is not a run's record.",
            "Something else wrote it. Correct the line, or delete the file: it holds the history alone.",
        ) from None


def _known(kind: type[Who] | type[Entry], value: Mapping[str, Any]) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(kind)}
    return {name: each for name, each in value.items() if name in names}


def _write(share: ShareClient, lock: Lock, entries: Sequence[Entry]) -> None:
    content = _content(entries)
    share = share.within(lock.seconds_left)
    try:
        shares.write_small_file(share, FILE, content)
    except CloudError as error:
        if error.code != "ParentNotFound":
            raise
        shares.make_folders(share, [RELEASES])
        shares.write_small_file(share, FILE, content)


def _content(entries: Sequence[Entry]) -> bytes:
    """A line for each of the newest entries, as many as are remembered."""
    lines = [f"{json.dumps(entry.to_json(), ensure_ascii=False)}\n".encode() for entry in entries[-LONGEST:]]
    surplus = sum(map(len, lines)) - shares.RANGE_BYTES
    forgotten = 0
    while surplus > 0:
        surplus -= len(lines[forgotten])
        forgotten += 1
    return b"".join(lines[forgotten:])


def _is_proven(entry: Entry, current: Current | None) -> bool:
    return current is not None and current.proven and current.release == entry.release


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z")

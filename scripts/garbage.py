"""Releases and adapters on the share that nobody needs any more: which they are, and how they go.

What goes is first renamed out of its place in one request, so that whatever has the name of a release or of an adapter
is whole at any moment. A rename or a deletion that was cut off is found and finished by the next run. Touches nothing
outside releases/ and adapters/, and nothing there that has no name of a deploy's own making. Knows no container app.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from scripts import history
from scripts import release as releases
from scripts import share as shares
from scripts.errors import InferopsError
from scripts.files import ShareClient
from scripts.history import Entry
from scripts.lock import Lock
from scripts.release import ADAPTERS, RELEASES, Current

REMOVED = ".removed-"
"""What a folder's name begins with once it is on its way out."""

Kind = Literal["release", "adapter", "rest"]

_HASH = re.compile(r"[0-9a-f]{16}")
"""The name that a deploy gives to the folder of a release or of an uploaded model."""

_REST = re.compile(rf"({re.escape(releases.INCOMPLETE)}|{re.escape(REMOVED)}).+")


@dataclass(frozen=True)
class Item:
    """A folder that can go: its place on the share now, and the files and bytes below it.

    kind `rest` is of an upload or a removal that was cut off.
    """

    kind: Kind
    folder: str
    files: tuple[str, ...]
    folders: tuple[str, ...]
    bytes: int


@dataclass(frozen=True)
class Garbage:
    """What can go, rests first, then releases, then adapters; kept are the ids of the releases that stay."""

    items: tuple[Item, ...]
    kept: tuple[str, ...]

    @property
    def bytes(self) -> int:
        return sum(item.bytes for item in self.items)


def find(share: ShareClient, *, keep: int) -> Garbage:
    """What can go when the release in use, the one to fall back to, and `keep` others before them stay.

    The others are those that were last in use and proven; one that was made before there was a history counts by when
    it was made. An adapter stays as long as a release that stays uses it, or a folder above it, or one below it; Azure
    Files ignores case, and so does this. Whatever a deploy would not have named so stays, too. Raises InferopsError
    when a release that stays has no manifest, since nobody can tell then what it uses.
    """
    current = releases.read_current(share)
    entries = history.read(share, current)
    ids = releases.list_ids(share)
    kept = _kept(share, ids, current, entries, keep)
    used = _used(share, kept)
    used += [_parts(f"{RELEASES}/{name}") for name in kept]
    named: list[tuple[Kind, str, str]] = [("release", RELEASES, name) for name in _folders(share, RELEASES)]
    for adapter in _folders(share, ADAPTERS):
        parent = f"{ADAPTERS}/{adapter}"
        named += [("adapter", parent, name) for name in _folders(share, parent)]
    found: list[tuple[Kind, str]] = []
    for kind, parent, name in named:
        folder = f"{parent}/{name}"
        is_rest = _REST.fullmatch(name) is not None
        if (is_rest or _HASH.fullmatch(name)) and not _touches(folder, used):
            found.append(("rest" if is_rest else kind, folder))
    # An adapter goes after the releases that use it: a release that has its name has its adapters too.
    found.sort(key=lambda item: (("rest", "release", "adapter").index(item[0]), item[1]))
    with ThreadPoolExecutor(shares.PARALLEL_REQUESTS) as pool:
        items = tuple(pool.map(lambda item: _measured(share, *item), found))
    return Garbage(items, tuple(kept))


def remove(
    share: ShareClient, lock: Lock, items: Sequence[Item], *, progress: Callable[[Item], None] | None = None
) -> None:
    """Remove the items, in their order. progress gets each one once it is gone.

    Raises CloudError when the share refuses, Locked when the lease was lost; what was renamed by then is found as a
    rest by the next run.
    """
    share = share.within(lock.seconds_left)
    for item in items:
        parent, _, name = item.folder.rpartition("/")
        place = item.folder
        if not name.startswith("."):
            place = f"{parent}/{REMOVED}{name}"
            shares.move_folder(share, item.folder, place)
        with ThreadPoolExecutor(shares.PARALLEL_REQUESTS) as pool:
            list(pool.map(lambda path, place=place: shares.delete_file(share, f"{place}/{path}"), item.files))
        for folder in sorted(item.folders, key=lambda path: path.count("/"), reverse=True):
            shares.delete_folder(share, f"{place}/{folder}")
        shares.delete_folder(share, place)
        if progress:
            progress(item)


def _kept(
    share: ShareClient, ids: Collection[str], current: Current | None, entries: Sequence[Entry], keep: int
) -> list[str]:
    """The ids of the releases that stay, the one in use first."""
    needed = [] if current is None else [current.release, *([current.previous] if current.previous else [])]
    used = history.last_use(entries)
    recorded = {entry.release for entry in entries}
    unrecorded = releases.read_releases(share, [name for name in ids if name not in recorded])
    used |= {release.id: release.time for release in unrecorded}
    others = [name for name in ids if name in used and name not in needed]
    # Times are of whole seconds; what was written down later was in use later.
    place = {entry.release: number for number, entry in enumerate(entries)}
    others.sort(key=lambda name: (used[name], place.get(name, -1)), reverse=True)
    return [*needed, *others[:keep]]


def _used(share: ShareClient, kept: Iterable[str]) -> list[tuple[str, ...]]:
    """The folders that the releases use, wherever on the share, in the parts of their paths."""
    names = list(kept)
    found = {release.id: release for release in releases.read_releases(share, names)}
    for name in names:
        if name not in found:
            raise InferopsError(
                f"Release {name}, which has to stay, has no {releases.MANIFEST} on the share; nothing was removed.",
                "Deploy again, which makes a whole release, and then run this once more.",
            )
    return [_parts(folder) for release in found.values() for folder in (release.base, *release.adapters.values())]


def _parts(folder: str) -> tuple[str, ...]:
    """A path's parts, as two that name the same folder of Azure Files have them in common."""
    return tuple(folder.casefold().split("/"))


def _touches(folder: str, used: Iterable[tuple[str, ...]]) -> bool:
    """Whether the folder is one of these, lies above one or lies below one."""
    parts = _parts(folder)
    # What is above or below has the same parts as far as the shorter of the two goes.
    return any(parts[: len(other)] == other[: len(parts)] for other in used)


def _folders(share: ShareClient, folder: str) -> list[str]:
    return [name for name, size in shares.list_folder(share, folder) if size is None]


def _measured(share: ShareClient, kind: Kind, folder: str) -> Item:
    files: list[str] = []
    folders: list[str] = []
    total = 0
    waiting = [""]
    while waiting:
        below = waiting.pop()
        for name, size in shares.list_folder(share, shares.join(folder, below)):
            path = shares.join(below, name)
            if size is None:
                folders.append(path)
                waiting.append(path)
            else:
                files.append(path)
                total += size
    return Item(kind, folder, tuple(files), tuple(folders), total)

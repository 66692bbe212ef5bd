"""The directories and files of the shares: real folders and files, and what the disk cannot tell in the store.

The disk is the truth about names, sizes, contents and write times, so that a local process that works in a share's
folder is seen at once. A document in the store adds HTTP headers, metadata, lease, ranges and the service's own times.
It says which state of the file it describes (inode, size, mtime): a file that no longer looks so was changed locally.
Writing a document never precedes its file without the document of the old file inside (`before`), so a process killed
between the two leaves a file with its own properties.
"""

# These run in every request, where a Path costs more than the system call that it makes.
# ruff: noqa: PTH102, PTH104, PTH106, PTH108, PTH112, PTH114, PTH116, PTH120, PTH208

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from infra.emulator.files import formats, leases
from infra.emulator.files.content import replace
from infra.emulator.files.exceptions import StorageError, error
from infra.emulator.files.names import is_text
from infra.emulator.files.shares import ENTRY_KIND
from infra.emulator.store import Store

_ID_BASE = 0xC000_0000_0000_0000
_INDEXED_DIRECTORIES = 64


@dataclass(frozen=True)
class Place:
    """A path on a share; no names: the root directory."""

    account: str
    share: str
    names: tuple[str, ...]

    @property
    def key(self) -> str:
        """The document's key. Names are compared without regard to case; ':' is in no name."""
        if not self.names:
            return f"{self.account}/{self.share}/:"
        parent = "/".join(self.names[:-1]).lower()
        return f"{self.account}/{self.share}/{parent}:{self.names[-1].lower()}"

    def inner_prefixes(self) -> tuple[str, str]:
        """What the keys of everything below this directory begin with: its own children, and deeper ones."""
        path = f"{self.account}/{self.share}/{'/'.join(self.names).lower()}"
        return f"{path}:", f"{path}/"


@dataclass
class Properties:
    """What is remembered of a directory or file. created, changed, modified are ticks; mtime is in nanoseconds.

    `ranges` are the written parts of a file as [first, end) pairs; None: all of it.
    """

    created: int
    changed: int
    modified: int
    inode: int = 0
    mtime: int = 0
    size: int = -1
    headers: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    attributes: str = ""
    permission: str = ""
    lease: dict[str, Any] | None = None
    copy: dict[str, str] | None = None
    ranges: list[list[int]] | None = None
    before: dict[str, Any] | None = None

    def as_document(self) -> dict[str, Any]:
        """Members that hold their default are left out."""
        return {name: value for name in _MEMBERS if (value := getattr(self, name)) not in (None, "", {})}

    def describes(self, status: os.stat_result) -> bool:
        """Whether the file still is what these properties were written for."""
        return self.mtime == status.st_mtime_ns and self.size == status.st_size


_MEMBERS = tuple(member.name for member in fields(Properties))


@dataclass
class Entry:
    """A directory or file that exists: `path` on disk (names in their real case), what stat says, its properties."""

    place: Place
    path: str
    status: os.stat_result
    properties: Properties

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.status.st_mode)

    @property
    def size(self) -> int:
        return self.status.st_size

    @property
    def last_write(self) -> int:
        """In ticks."""
        return formats.from_nanoseconds(self.status.st_mtime_ns)

    @property
    def lease(self) -> leases.Lease | None:
        return leases.load(self.properties.lease)

    @property
    def attributes(self) -> str:
        """As the service writes them: `Archive`, `Directory`, `ReadOnly | Archive`."""
        return self.properties.attributes or ("Directory" if self.is_directory else "Archive")


@dataclass(frozen=True)
class Location:
    """Where a path is on disk, or would be: its parent directory exists."""

    path: str
    status: os.stat_result | None


class Tree:
    """Directories and files under root/<account>/<share>."""

    def __init__(self, root: Path, store: Store) -> None:
        self._root = str(root)
        self._store = store
        # Lower-case to real names per directory, good while the directory's mtime stays.
        self._indexes: dict[str, tuple[int, dict[str, str]]] = {}
        # By inode: how many requests write into the file now.
        self._being_written: Counter[int] = Counter()

    def locate(self, place: Place) -> Location:
        """Where the place is. Raises StorageError 404 ShareNotFound or ParentNotFound."""
        folder = f"{self._root}/{place.account}/{place.share}"
        path = "/".join((folder, *place.names))
        try:
            return Location(path, os.stat(path))
        except (FileNotFoundError, NotADirectoryError):
            if not place.names or not os.path.isdir(folder):
                raise error("ShareNotFound") from None
        parent = "/".join((folder, *place.names[:-1]))
        try:
            os.stat(parent + "/.")
        except (FileNotFoundError, NotADirectoryError):
            parent = self._in_any_case(folder, place.names[:-1])
        real = self._real_name(parent, place.names[-1])
        if real is None:
            return Location(f"{parent}/{place.names[-1]}", None)
        path = f"{parent}/{real}"
        try:
            return Location(path, os.stat(path))
        except FileNotFoundError:
            return Location(path, None)  # a link that leads nowhere

    def find(self, place: Place) -> Entry | None:
        """The directory or file, None when only its parent exists. Raises StorageError 404 ParentNotFound."""
        location = self.locate(place)
        if location.status is None or not _is_shared(location.status):
            return None
        return self.entry(place, location.path, location.status)

    def entry(self, place: Place, path: str, status: os.stat_result) -> Entry:
        """What is known of something that is there."""
        stored = self._store.get(ENTRY_KIND, place.key)
        if stored is not None and status.st_ino in self._being_written and stored.get("inode") == status.st_ino:
            return Entry(place, path, status, Properties(**stored))
        return Entry(place, path, status, _effective(stored, status))

    @contextmanager
    def writing(self, entry: Entry) -> Iterator[None]:
        """While a request writes into the file: what differs on disk from the stored properties is the service's own
        doing, for whichever request looks."""
        inode = entry.status.st_ino
        self._being_written[inode] += 1
        try:
            yield
        finally:
            self._being_written[inode] -= 1
            if not self._being_written[inode]:
                del self._being_written[inode]

    def id_of(self, status: os.stat_result) -> str:
        """The file id: it stays over a rename, as an inode does."""
        return str(_ID_BASE | (status.st_ino & 0x0FFF_FFFF_FFFF_FFFF))

    def parent_id(self, entry: Entry) -> str:
        """The id of the directory that holds it; 0 is the root."""
        if len(entry.place.names) <= 1:
            return "0"
        return self.id_of(os.stat(os.path.dirname(entry.path)))

    def names_in(self, path: str) -> list[str]:
        """Names in a directory on disk, in the order of a listing. Names that are not Unicode are left out."""
        names = [name for name in os.listdir(path) if name.isascii() or is_text(name)]
        return sorted(names, key=lambda name: (name.lower(), name))

    def states_in(self, path: str, names: list[str]) -> Iterator[tuple[str, str, os.stat_result]]:
        """Name, path and state of those that are directories or files; what vanished meanwhile is passed over."""
        for name in names:
            try:
                status = os.stat(f"{path}/{name}")
            except OSError:
                continue  # gone, or a link that leads nowhere
            if _is_shared(status):
                yield name, f"{path}/{name}", status

    def put(self, entry: Entry) -> None:
        """Stores changed properties of an entry as it is on disk now."""
        status = os.stat(entry.path)
        entry.status = status
        properties = entry.properties
        properties.inode, properties.mtime, properties.size = status.st_ino, status.st_mtime_ns, status.st_size
        properties.before = None
        self._store.put(ENTRY_KIND, entry.place.key, properties.as_document())

    def touch(self, entry: Entry) -> None:
        """Stores changed properties with a new entity tag and change time."""
        present = formats.now()
        entry.properties.changed = entry.properties.modified = present
        self.put(entry)

    def make_directory(self, place: Place, properties: Properties) -> Entry:
        """A new directory. Raises StorageError 409, 404 ParentNotFound."""
        location = self.locate(place)
        if location.status is not None:
            raise error("ResourceAlreadyExists")
        os.mkdir(location.path)
        self._noted(location.path)
        entry = Entry(place, location.path, os.stat(location.path), properties)
        self.put(entry)
        return entry

    def put_file(self, temporary: str, entry: Entry, replaced: Entry | None) -> None:
        """Makes a finished temporary file the one of `entry`, at once and whole; `replaced` is what is there now."""
        place, path, status, properties = entry.place, entry.path, entry.status, entry.properties
        properties.inode, properties.mtime, properties.size = status.st_ino, status.st_mtime_ns, status.st_size
        properties.before = None
        if replaced is None:
            self._store.put(ENTRY_KIND, place.key, properties.as_document())
            os.rename(temporary, path)
            self._noted(path)
        else:
            old, state = replaced.properties, replaced.status
            old.inode, old.mtime, old.size, old.before = state.st_ino, state.st_mtime_ns, state.st_size, None
            properties.before = old.as_document()
            self._store.put(ENTRY_KIND, place.key, properties.as_document())
            replace(temporary, path)

    def remove(self, entry: Entry) -> None:
        """Deletes a file or an empty directory. Raises StorageError 409 DirectoryNotEmpty."""
        if entry.is_directory and not os.path.islink(entry.path):
            os.rmdir(entry.path)
        else:
            os.unlink(entry.path)
        self._noted(entry.path, removed=True)
        with self._store.transaction():
            self._store.delete(ENTRY_KIND, entry.place.key)
            if entry.is_directory:
                # Of files that a local process removed before.
                for key in self._inner_keys(entry.place):
                    self._store.delete(ENTRY_KIND, key)

    def rename(self, entry: Entry, target: Place, location: Location) -> Entry:
        """Moves a file or directory with all that is in it; a file at the target is replaced."""
        entry.properties.changed = entry.properties.modified = formats.now()
        moved: dict[str, Any] = {}
        if entry.is_directory:
            for old, new in zip(entry.place.inner_prefixes(), target.inner_prefixes(), strict=True):
                moved |= {new + key[len(old) :]: (key, value) for key, value in self._store.items(ENTRY_KIND, old)}
        properties = entry.properties
        properties.inode, properties.mtime = entry.status.st_ino, entry.status.st_mtime_ns
        properties.size, properties.before = entry.status.st_size, None
        if location.status is not None and location.path != entry.path:
            properties.before = _effective(self._store.get(ENTRY_KIND, target.key), location.status).as_document()
        # Documents first: until the file is there they describe nothing, and afterwards none is missing.
        with self._store.transaction():
            self._store.put(ENTRY_KIND, target.key, properties.as_document())
            for key, (_, value) in moved.items():
                self._store.put(ENTRY_KIND, key, value)
        os.rename(entry.path, location.path)
        self._noted(entry.path, removed=True)
        self._noted(location.path)
        with self._store.transaction():
            gone = [entry.place.key, *(old for old, _ in moved.values())]
            for key in gone:
                if key != target.key and key not in moved:
                    self._store.delete(ENTRY_KIND, key)
        return Entry(target, location.path, os.stat(location.path), properties)

    def _inner_keys(self, place: Place) -> list[str]:
        return [key for prefix in place.inner_prefixes() for key, _ in self._store.items(ENTRY_KIND, prefix)]

    def _in_any_case(self, folder: str, names: tuple[str, ...]) -> str:
        """The directory on disk whose names differ from these at most in case. Raises ParentNotFound."""
        path = folder
        for name in names:
            real = self._real_name(path, name)
            if real is None or not os.path.isdir(f"{path}/{real}"):
                raise error("ParentNotFound")
            path = f"{path}/{real}"
        return path

    def _real_name(self, directory: str, name: str) -> str | None:
        """What stands in the directory under this name in any case. A name in this very case comes first."""
        mtime = os.stat(directory).st_mtime_ns
        known = self._indexes.get(directory)
        if known is None or known[0] != mtime:
            if len(self._indexes) >= _INDEXED_DIRECTORIES:
                self._indexes.pop(next(iter(self._indexes)))
            known = (mtime, {found.lower(): found for found in os.listdir(directory)})
            self._indexes[directory] = known
        return known[1].get(name.lower())

    def _noted(self, path: str, *, removed: bool = False) -> None:
        """Carries a change of our own into the directory's index, so that it need not be read again."""
        directory, _, name = path.rpartition("/")
        known = self._indexes.pop(directory, None)
        if known is None:
            return
        try:
            mtime = os.stat(directory).st_mtime_ns
        except FileNotFoundError:
            return
        if removed:
            known[1].pop(name.lower(), None)
        else:
            known[1][name.lower()] = name
        self._indexes[directory] = (mtime, known[1])


def _is_shared(status: os.stat_result) -> bool:
    """Sockets and pipes that a local process makes are not part of a share."""
    return stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)


def in_service_words(problem: OSError) -> StorageError:
    """What the disk refused, as the service would say it."""
    if problem.errno in (errno.ENOSPC, errno.EDQUOT):
        return error("ShareSizeLimitReached")
    if problem.errno == errno.ENOTEMPTY:
        return error("DirectoryNotEmpty")
    if problem.errno == errno.EEXIST:
        return error("ResourceAlreadyExists")
    if problem.errno in (errno.ENOENT, errno.ENOTDIR):
        return error("ParentNotFound")
    if problem.errno in (errno.EISDIR, errno.EINVAL):
        return error("ResourceTypeMismatch")
    if problem.errno in (errno.ENAMETOOLONG, errno.ELOOP):
        return error("InvalidFileOrDirectoryPathName")
    return StorageError(500, "InternalError", f"The disk under the local stand-in refused: {problem.strerror}.")


def _effective(stored: dict[str, Any] | None, status: os.stat_result) -> Properties:
    """The properties of what is on disk, out of a document that may be older or newer than it."""
    directory = stat.S_ISDIR(status.st_mode)
    if stored is not None:
        properties = Properties(**stored)
        if directory or properties.describes(status):
            return properties
        if properties.inode == status.st_ino:
            return _written_locally(properties, status)
        if properties.before is not None:
            before = Properties(**properties.before)
            if before.describes(status):
                return before
            if before.inode == status.st_ino:
                return _written_locally(before, status)
    written = formats.from_nanoseconds(status.st_mtime_ns)
    changed = formats.from_nanoseconds(status.st_ctime_ns)
    return Properties(created=min(written, changed), changed=changed, modified=max(written, changed))


def _written_locally(properties: Properties, status: os.stat_result) -> Properties:
    """A process wrote into the file: as over SMB its properties stay, and the times and ranges are the disk's."""
    properties.modified = properties.changed = formats.from_nanoseconds(status.st_ctime_ns)
    properties.ranges = None
    return properties

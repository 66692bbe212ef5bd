"""A folder on the file share: what it holds, small files in it, and what has to happen so that it holds a local folder.

Works on any folder. Knows no releases, no adapters and no container app; the client that it gets is signed in already.

The SHA-256 of a file's content is kept in its metadata, because a listing carries no hash. A file whose content MD5 is
set is complete; one without may be the rest of an upload that was cut off. A file that an upload has made was last
written when it was made, to the very tick: whoever writes into it later, as through a mount, moves that time on.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import PurePosixPath

from scripts.bundle import FileEntry, LocalFile
from scripts.errors import CloudError
from scripts.file_answers import FileProperties
from scripts.files import ShareClient

PARALLEL_REQUESTS = 32
"""Requests in flight at once; more makes small files no faster (docs/benchmarks.md, at 30 ms per request)."""

RANGE_BYTES = 4 * 1024 * 1024
"""The most that one request may carry, to create a file with its content or to write a range (REST: Put Range)."""

SENT_ANYWAY_BYTES = 64 * 1024
"""A file of up to so many bytes is sent even if the share holds it elsewhere. To send it takes one request; to copy it,
and to see that what was copied is what was meant, takes two. At 30 ms a request, 64 files of 256 kB took as long either
way; a line of 20 Mbit/s carries 64 KiB in that time."""

HASH_METADATA = "sha256"
"""The metadata key that carries the hexadecimal SHA-256 of a file's content."""


@dataclass(frozen=True)
class SmallFile:
    """A file that was read from the share in one request."""

    content: bytes
    metadata: Mapping[str, str]


@dataclass(frozen=True)
class Copy:
    """A file whose content stands elsewhere on the share: source is its path there, from the share's root."""

    entry: FileEntry
    source: str


@dataclass(frozen=True)
class SyncPlan:
    """What has to happen to `folder` on the share so that it holds the local files and nothing else.

    copied are those of the added and changed files whose content need not be sent.
    """

    folder: str
    added: tuple[FileEntry, ...]
    changed: tuple[FileEntry, ...]
    removed: tuple[FileEntry, ...]
    unchanged: tuple[FileEntry, ...]
    copied: tuple[Copy, ...] = ()

    @property
    def to_send(self) -> tuple[FileEntry, ...]:
        """The files whose content goes over the network."""
        copied = {copy.entry.path for copy in self.copied}
        return tuple(entry for entry in self.added + self.changed if entry.path not in copied)

    @property
    def bytes_to_send(self) -> int:
        return sum(entry.bytes for entry in self.to_send)

    @property
    def is_empty(self) -> bool:
        return not (self.added or self.changed or self.removed)


def read_remote(share: ShareClient, folder: str, *, sizes: Container[int] | None = None) -> tuple[FileEntry, ...]:
    """The files under a folder of the share, by paths relative to it; empty when there is no such folder.

    One request per directory and one per file, because a listing carries neither MD5 nor metadata; with sizes, only the
    files that have so many bytes are asked for and told. A file that is not whole, or that somebody has written into
    since its upload, has no hash.
    """
    found: dict[str, int] = {}
    with ThreadPoolExecutor(PARALLEL_REQUESTS) as pool:
        level = [""]
        while level:
            listed = pool.map(lambda below: (below, list_folder(share, join(folder, below))), level)
            items = [(join(below, name), size) for below, children in listed for name, size in children]
            found |= {path: size for path, size in items if size is not None and (sizes is None or size in sizes)}
            level = [path for path, size in items if size is None]

        def entry(path: str) -> FileEntry:
            properties = share.get_file_properties(join(folder, path))
            digest = properties.metadata.get(HASH_METADATA, "") if _is_as_made(properties) else ""
            return FileEntry(path, found[path], digest)

        return tuple(pool.map(entry, sorted(found)))


def list_folder(share: ShareClient, folder: str) -> list[tuple[str, int | None]]:
    """(name, bytes) of what lies directly in a folder, bytes None for a folder; empty when it does not exist."""
    try:
        return share.list_directories_and_files(folder)
    except CloudError as error:
        if _is_missing(error):
            return []
        raise


def read_small_file(share: ShareClient, path: str) -> SmallFile | None:
    """A small file on the share (one request); None when it or its folder does not exist."""
    try:
        return SmallFile(*share.get_file(path))
    except CloudError as error:
        if _is_missing(error):
            return None
        raise


def read_in_ranges(share: ShareClient, path: str) -> Iterator[bytes]:
    """The content of a file of any size, piece by piece: not of one moment, should somebody write into it meanwhile."""
    first, size = 0, 1
    while first < size:
        content, size = share.get_range(path, first, RANGE_BYTES)
        if not content:
            return
        yield content
        first += len(content)


def write_small_file(
    share: ShareClient,
    path: str,
    content: bytes,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Create or replace a file of up to 4 MiB in one request: a reader sees the old content or the new.

    metadata is kept with the file, beside the SHA-256 of its content.
    """
    hashed = {**(metadata or {}), HASH_METADATA: hashlib.sha256(content).hexdigest()}
    create_file(share, path, content, hashed)


def create_file(share: ShareClient, path: str, content: bytes, metadata: Mapping[str, str]) -> None:
    """The one request of write_small_file, for whoever knows the hash already and puts it into the metadata.

    The service checks what arrives against the MD5 that goes with it, and keeps the MD5 with the file.
    """
    made = time_of_making()
    share.create_file(
        path,
        len(content),
        b"" if is_zero(content) else content,
        metadata=metadata,
        content_md5=base64_md5(content),
        created=made,
        last_written=made,
    )


def time_of_making() -> str:
    """When a file is made that is made now: to be its time of creation, and of its last write once it is whole."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.0000000Z")


def holds_untouched(properties: FileProperties, entry: FileEntry) -> bool:
    """Whether a file is what an upload made of this entry, and nobody has written into it since."""
    hashed = properties.metadata.get(HASH_METADATA)
    return _is_as_made(properties) and properties.bytes == entry.bytes and hashed == entry.sha256


def delete_file(share: ShareClient, path: str) -> None:
    """Delete a file; one that is not there is as good as deleted."""
    try:
        share.delete_file(path)
    except CloudError as error:
        if not _is_missing(error):
            raise


def delete_folder(share: ShareClient, folder: str) -> None:
    """Delete an empty folder; one that is not there is as good as deleted."""
    try:
        share.delete_directory(folder)
    except CloudError as error:
        if not _is_missing(error):
            raise


def delete_folder_if_empty(share: ShareClient, folder: str) -> None:
    """The same for one that somebody may have put something into: it stays then."""
    try:
        delete_folder(share, folder)
    except CloudError as error:
        if error.code != "DirectoryNotEmpty":
            raise


def folder_exists(share: ShareClient, folder: str) -> bool:
    """Whether the folder is on the share (one request)."""
    return _exists(lambda: share.get_directory_properties(folder))


def file_exists(share: ShareClient, path: str) -> bool:
    """Whether the file is on the share (one request)."""
    return _exists(lambda: share.get_file_properties(path))


def make_folders(share: ShareClient, folders: Iterable[str], below: str = "") -> None:
    """Create the folders and their parents, each once, parents first; those that exist stay as they are.

    below is a folder that exists already, with its own parents.
    """
    levels: dict[int, set[str]] = {}
    for folder in folders:
        parts = PurePosixPath(folder).parts
        for depth in range(len(PurePosixPath(below).parts) + 1, len(parts) + 1):
            levels.setdefault(depth, set()).add("/".join(parts[:depth]))
    with ThreadPoolExecutor(PARALLEL_REQUESTS) as pool:
        for depth in sorted(levels):
            list(pool.map(lambda folder: _make_folder(share, folder), sorted(levels[depth])))


def move_folder(share: ShareClient, source: str, target: str) -> None:
    """Give a folder its final name in one request, which the service does whole or not at all."""
    try:
        share.rename_directory(source, target)
    except CloudError as error:
        # The answer to a rename that succeeded may be lost; the repeated request then finds no source.
        if not (_is_missing(error) and folder_exists(share, target)):
            raise


def plan(
    local: Iterable[LocalFile],
    remote: Iterable[FileEntry],
    *,
    folder: str,
    elsewhere: Mapping[str, str] | None = None,
) -> SyncPlan:
    """Compare by path and SHA-256. remote may be a listing (read_remote) or an earlier release's manifest.

    elsewhere tells what else the share holds: the SHA-256 of a content -> the path of a file that has it.
    """
    wanted = {file.entry.path: file.entry for file in local}
    present = {entry.path: entry for entry in remote}
    added = tuple(entry for path, entry in wanted.items() if path not in present)
    changed = tuple(entry for path, entry in wanted.items() if path in present and present[path] != entry)
    sources = elsewhere or {}
    return SyncPlan(
        folder=folder,
        added=added,
        changed=changed,
        removed=tuple(entry for path, entry in present.items() if path not in wanted),
        unchanged=tuple(entry for path, entry in wanted.items() if present.get(path) == entry),
        copied=tuple(Copy(entry, sources[entry.sha256]) for entry in added + changed if is_copied(entry, sources)),
    )


def is_copied(entry: FileEntry, elsewhere: Mapping[str, str]) -> bool:
    """Whether a new file is copied from where the share holds its content (as in plan), and not sent."""
    return entry.bytes > SENT_ANYWAY_BYTES and entry.sha256 in elsewhere


def join(folder: str, name: str) -> str:
    """A path below a folder, either of which may be the root, written as an empty text."""
    return f"{folder}/{name}" if folder and name else folder or name


def base64_md5(content: bytes) -> str:
    """As the service wants it in a header."""
    return base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()


def is_zero(content: bytes) -> bool:
    """Whether there is nothing but zeros in it, which a new file on the share is full of without being sent any."""
    return not content.strip(b"\0")


def _is_as_made(properties: FileProperties) -> bool:
    """Whether the file is whole, and was last written when it was made."""
    copying = properties.copy_status not in (None, "success")  # such a file has its source's MD5 from the start
    return properties.content_md5 is not None and not copying and properties.last_written == properties.created


def _make_folder(share: ShareClient, folder: str) -> None:
    try:
        share.create_directory(folder)
    except CloudError as error:
        if error.code != "ResourceAlreadyExists":
            raise


def _exists(ask: Callable[[], object]) -> bool:
    try:
        ask()
    except CloudError as error:
        if not _is_missing(error):
            raise
        return False
    return True


def _is_missing(error: CloudError) -> bool:
    """The file or a folder above it does not exist; not that the share or the account does not."""
    return error.status == 404 and error.code in {"ResourceNotFound", "ParentNotFound", None}

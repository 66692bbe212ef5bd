"""A local folder and a folder on the file share -> SyncPlan -> the share made to hold exactly that folder.

Works on any folder. Knows no releases, no adapters and no container app; the client that it gets is signed in already.

A file of up to 4 MiB goes up in one request. A larger one goes up in ranges of 4 MiB, several at once, and gets its
content MD5 last: a file on the share whose content MD5 is set is complete, one without may be the rest of an upload
that was cut off. The SHA-256 of the content is kept in the file's metadata, because a listing carries no hash.
"""

from __future__ import annotations

import base64
import hashlib
import re
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import TYPE_CHECKING

from scripts import cloud
from scripts.errors import BadInput, CloudError, InferopsError, Problem

if TYPE_CHECKING:
    from scripts.cloud import ShareClient

PARALLEL_REQUESTS = 8
"""Requests in flight at once; more does not make small files faster (measured at 30 ms per request)."""

RANGE_BYTES = 4 * 1024 * 1024
"""The most that one request may carry, to create a file with its content or to write a range (REST: Put Range)."""

DEFAULT_IGNORE = ("__pycache__", ".venv", ".git", "*.pyc")
"""Names of files and folders that are never part of a bundle, as shell patterns."""

HASH_METADATA = "sha256"
"""The metadata key that carries the hexadecimal SHA-256 of a file's content."""

# REST: Naming and referencing shares, directories, files, and metadata.
_LONGEST_NAME = 255
_LONGEST_PATH = 2048
_DEEPEST_PATH = 250
_FORBIDDEN_CHARACTERS = re.compile(r'["\\:|<>*?\x00-\x1f\x7f-\x9f\ue000\ufffe\uffff]')
_DEVICE_NAMES = re.compile(r"CON|PRN|AUX|NUL|CLOCK\$|COM[1-9]|LPT[1-9]", re.IGNORECASE)


@dataclass(frozen=True)
class FileEntry:
    """One file's content. path is relative, with `/`; sha256 is hexadecimal, empty when the file is incomplete."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class SmallFile:
    """A file that was read from the share in one request."""

    content: bytes
    metadata: Mapping[str, str]


@dataclass(frozen=True)
class LocalFile:
    """A file to send: what it held when it was read for the plan, and where it lies on this machine."""

    entry: FileEntry
    source: Path


@dataclass(frozen=True)
class SyncPlan:
    """What has to happen to `folder` on the share so that it holds the local files and nothing else."""

    folder: str
    added: tuple[FileEntry, ...]
    changed: tuple[FileEntry, ...]
    removed: tuple[FileEntry, ...]
    unchanged: tuple[FileEntry, ...]

    @property
    def to_send(self) -> tuple[FileEntry, ...]:
        """The files whose content goes over the network."""
        return self.added + self.changed

    @property
    def bytes_to_send(self) -> int:
        return sum(entry.bytes for entry in self.to_send)

    @property
    def is_empty(self) -> bool:
        return not (self.added or self.changed or self.removed)


@dataclass(frozen=True)
class Progress:
    """How far an upload is; path is the file that the last finished request belonged to."""

    files_done: int
    files_total: int
    bytes_done: int
    bytes_total: int
    path: str


def read_local(sources: Mapping[str, Path], *, ignore: Sequence[str] = DEFAULT_IGNORE) -> tuple[LocalFile, ...]:
    """Read and hash the files to send: target path -> local file or folder (target "" for a folder that is the root).

    Files come back sorted by path. Raises BadInput with every file that cannot be sent as it is: a symbolic link,
    something that is not a plain file, an unreadable one, a name that Azure Files cannot hold, two names that differ
    only in case.
    """
    problems: list[Problem] = []
    found: list[LocalFile] = []
    for target, source in sources.items():
        for path, local in _walk(target, source, ignore, problems):
            problems.extend(_name_problems(path, local))
            try:
                found.append(LocalFile(_read_entry(path, local), local))
            except OSError as error:
                problems.append(_unreadable(local, error))
    problems.extend(_case_collisions(found))
    if problems:
        raise BadInput(problems)
    return tuple(sorted(found, key=lambda file: file.entry.path))


def read_remote(share: ShareClient, folder: str) -> tuple[FileEntry, ...]:
    """The files under a folder of the share, by paths relative to it; empty when there is no such folder.

    One request per directory and one per file: a listing carries neither MD5 nor metadata.
    """
    sizes: dict[str, int] = {}
    waiting = [""]
    while waiting:
        below = waiting.pop()
        for name, size in list_folder(share, _join(folder, below)):
            if size is None:
                waiting.append(_join(below, name))
            else:
                sizes[_join(below, name)] = size

    def entry(path: str) -> FileEntry:
        with cloud.translated(f"reading the properties of {_join(folder, path)}"):
            properties = share.get_file_client(_join(folder, path)).get_file_properties()
        complete = properties.content_settings.content_md5 is not None
        digest = (properties.metadata or {}).get(HASH_METADATA, "") if complete else ""
        return FileEntry(path, sizes[path], digest)

    with ThreadPoolExecutor(PARALLEL_REQUESTS) as pool:
        return tuple(pool.map(entry, sorted(sizes)))


def list_folder(share: ShareClient, folder: str) -> list[tuple[str, int | None]]:
    """(name, bytes) of what lies directly in a folder, bytes None for a folder; empty when it does not exist."""
    try:
        with cloud.translated(f"listing the folder '{folder or '/'}' of the share"):
            items = list(share.get_directory_client(folder or None).list_directories_and_files())
    except CloudError as error:
        if _is_missing(error):
            return []
        raise
    return [(item.name, None if item.is_directory else int(item["size"])) for item in items]


def read_small_file(share: ShareClient, path: str) -> SmallFile | None:
    """A small file on the share (one request); None when it or its folder does not exist."""
    try:
        with cloud.translated(f"reading {path} on the share"):
            download = share.get_file_client(path).download_file()
            return SmallFile(bytes(download.readall()), dict(download.properties.metadata or {}))
    except CloudError as error:
        if _is_missing(error):
            return None
        raise


def write_small_file(share: ShareClient, path: str, content: bytes, metadata: Mapping[str, str] | None = None) -> None:
    """Create or replace a file of up to 4 MiB in one request: a reader sees the old content or the new.

    metadata is kept with the file, beside the SHA-256 of its content.
    """
    with cloud.translated(f"writing {path} on the share"):
        share.get_file_client(path).create_file(
            len(content),
            data=content or None,
            headers={"x-ms-content-md5": _base64_md5(content)},
            metadata={**(metadata or {}), HASH_METADATA: hashlib.sha256(content).hexdigest()},
        )


def delete_file(share: ShareClient, path: str) -> None:
    """Delete a file; one that is not there is as good as deleted."""
    try:
        with cloud.translated(f"deleting {path} on the share"):
            share.get_file_client(path).delete_file()
    except CloudError as error:
        if not _is_missing(error):
            raise


def folder_exists(share: ShareClient, folder: str) -> bool:
    """Whether the folder is on the share (one request)."""
    with cloud.translated(f"looking for the folder {folder} on the share"):
        return bool(share.get_directory_client(folder).exists())


def file_exists(share: ShareClient, path: str) -> bool:
    """Whether the file is on the share (one request)."""
    with cloud.translated(f"looking for {path} on the share"):
        return bool(share.get_file_client(path).exists())


def make_folders(share: ShareClient, folders: Iterable[str]) -> None:
    """Create the folders and their parents, each once, parents first; those that exist stay as they are."""
    levels: dict[int, set[str]] = {}
    for folder in folders:
        parts = PurePosixPath(folder).parts
        for depth in range(1, len(parts) + 1):
            levels.setdefault(depth, set()).add("/".join(parts[:depth]))
    with ThreadPoolExecutor(PARALLEL_REQUESTS) as pool:
        for depth in sorted(levels):
            list(pool.map(lambda folder: _make_folder(share, folder), sorted(levels[depth])))


def move_folder(share: ShareClient, source: str, target: str) -> None:
    """Give a folder its final name in one request, which the service does whole or not at all."""
    try:
        with cloud.translated(f"renaming {source} to {target} on the share"):
            share.get_directory_client(source).rename_directory(target)
    except CloudError as error:
        # The answer to a rename that succeeded may be lost; the repeated request then finds no source.
        if not (_is_missing(error) and folder_exists(share, target)):
            raise


def plan(local: Iterable[LocalFile], remote: Iterable[FileEntry], *, folder: str) -> SyncPlan:
    """Compare by path and SHA-256. remote may be a listing (read_remote) or an earlier release's manifest."""
    wanted = {file.entry.path: file.entry for file in local}
    present = {entry.path: entry for entry in remote}
    return SyncPlan(
        folder=folder,
        added=tuple(entry for path, entry in wanted.items() if path not in present),
        changed=tuple(entry for path, entry in wanted.items() if path in present and present[path] != entry),
        removed=tuple(entry for path, entry in present.items() if path not in wanted),
        unchanged=tuple(entry for path, entry in wanted.items() if present.get(path) == entry),
    )


def apply(
    share: ShareClient,
    sync_plan: SyncPlan,
    local: Iterable[LocalFile],
    *,
    progress: Callable[[Progress], None] | None = None,
) -> None:
    """Carry the plan out: delete what was removed, then send what was added or changed.

    local holds at least the files that the plan sends. progress is called from the sending threads, one call at a time.
    Raises InferopsError for a file that no longer holds what the plan says (the share then has a part of the plan, and
    the same call with a new plan completes it), CloudError when the share refuses.
    """
    sources = {file.entry.path: file for file in local}
    files = [sources[entry.path] for entry in sync_plan.to_send]
    for entry in sync_plan.removed:
        delete_file(share, _join(sync_plan.folder, entry.path))
    parents = {str(PurePosixPath(_join(sync_plan.folder, file.entry.path)).parent) for file in files}
    make_folders(share, [sync_plan.folder, *(parents - {"."})])
    with _Sender(share, sync_plan, progress) as sender:
        # Small files first: their requests keep every slot busy while the first large file is opened.
        for file in sorted(files, key=lambda file: file.entry.bytes > RANGE_BYTES):
            if file.entry.bytes > RANGE_BYTES:
                sender.send_large(file)
            else:
                sender.send_small(file)


class _Sender:
    """Sends files with a fixed number of requests in flight; leaving the block waits for all of them.

    The first failure stops the sending of anything further and is raised when the block is left. At most
    PARALLEL_REQUESTS + 2 ranges are in memory, whatever the size of the files.
    """

    def __init__(self, share: ShareClient, sync_plan: SyncPlan, progress: Callable[[Progress], None] | None) -> None:
        self._share = share
        self._folder = sync_plan.folder
        self._files_total = len(sync_plan.to_send)
        self._bytes_total = sync_plan.bytes_to_send
        self._report = progress
        self._files_done = 0
        self._bytes_done = 0
        self._failure: BaseException | None = None
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(PARALLEL_REQUESTS + 2)
        self._pool = ThreadPoolExecutor(PARALLEL_REQUESTS, thread_name_prefix="upload")

    def __enter__(self) -> _Sender:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=error is not None)
        if error is None and self._failure is not None:
            raise self._failure

    def send_small(self, file: LocalFile) -> None:
        """Queue a file of up to RANGE_BYTES: one request."""

        def send() -> None:
            content = _content(file)
            if len(content) > RANGE_BYTES or hashlib.sha256(content).hexdigest() != file.entry.sha256:
                raise _changed(file)
            write_small_file(self._share, _join(self._folder, file.entry.path), content)
            self._count(file, len(content), complete=True)

        self._submit(send)

    def send_large(self, file: LocalFile) -> None:
        """Send a file of any size in ranges, then set its content MD5. Returns when it is complete."""
        path = _join(self._folder, file.entry.path)
        client = self._share.get_file_client(path)
        what = f"uploading {path}"
        with cloud.translated(what):
            client.create_file(file.entry.bytes, metadata={HASH_METADATA: file.entry.sha256})
        sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        ranges: list[Future[None]] = []
        offset = 0
        for content in _ranges_of(file):
            sha256.update(content)
            md5.update(content)

            def send(content: bytes = content, offset: int = offset) -> None:
                with cloud.translated(what):
                    client.upload_range(content, offset, len(content))
                self._count(file, len(content), complete=False)

            ranges.append(self._submit(send))
            offset += len(content)
        if offset != file.entry.bytes or sha256.hexdigest() != file.entry.sha256:
            raise _changed(file)
        for sent in ranges:
            sent.result()
        with self._lock:
            if self._failure is not None:
                raise self._failure
        with cloud.translated(what):
            properties = client.get_file_properties()
            properties.content_settings.content_md5 = bytearray(md5.digest())
            client.set_http_headers(properties.content_settings)
        self._count(file, 0, complete=True)

    def _submit(self, send: Callable[[], None]) -> Future[None]:
        self._slots.acquire()
        with self._lock:
            failure = self._failure
        if failure is not None:
            self._slots.release()
            raise failure

        def run() -> None:
            try:
                send()
            except BaseException as error:  # kept and raised in the calling thread
                with self._lock:
                    self._failure = self._failure or error
            finally:
                self._slots.release()

        return self._pool.submit(run)

    def _count(self, file: LocalFile, sent_bytes: int, *, complete: bool) -> None:
        with self._lock:
            self._bytes_done += sent_bytes
            self._files_done += complete
            if self._report is not None:
                self._report(
                    Progress(self._files_done, self._files_total, self._bytes_done, self._bytes_total, file.entry.path)
                )


def _walk(target: str, source: Path, ignore: Sequence[str], problems: list[Problem]) -> Iterator[tuple[str, Path]]:
    """(path on the share, local path) of every plain file; what is neither a plain file nor a folder is a problem."""
    try:
        mode = source.lstat().st_mode
        if stat.S_ISDIR(mode):
            names = sorted(child.name for child in source.iterdir())
    except FileNotFoundError:
        problems.append(Problem(shown(source), "", None, "there is no such file or folder", "Name one that exists."))
        return
    except OSError as error:
        problems.append(_unreadable(source, error))
        return
    if stat.S_ISREG(mode):
        yield target, source
    elif stat.S_ISDIR(mode):
        for name in names:
            if not any(fnmatchcase(name, pattern) for pattern in ignore):
                yield from _walk(_join(target, name), source / name, ignore, problems)
    elif stat.S_ISLNK(mode):
        points_to = str(source.readlink())
        message = "is a symbolic link, which a release cannot carry"
        problems.append(
            Problem(shown(source), "", points_to, message, "Replace the link by a copy of the file, or remove it.")
        )
    else:
        problems.append(
            Problem(shown(source), "", None, "is neither a file nor a folder", "Remove it from the folder.")
        )


def _read_entry(path: str, local: Path) -> FileEntry:
    digest = hashlib.sha256()
    size = 0
    with local.open("rb") as stream:
        while chunk := stream.read(RANGE_BYTES):
            digest.update(chunk)
            size += len(chunk)
    return FileEntry(path, size, digest.hexdigest())


def _name_problems(path: str, local: Path) -> Iterator[Problem]:
    def problem(value: str, message: str) -> Problem:
        return Problem(shown(local), "", _printable(value), message, "Rename it.")

    if len(path) > _LONGEST_PATH:
        yield problem(f"{len(path)} characters", f"the path is longer than the {_LONGEST_PATH} that Azure Files holds")
    names = path.split("/")
    if len(names) > _DEEPEST_PATH:
        yield problem(f"{len(names)} levels", f"the path is deeper than the {_DEEPEST_PATH} that Azure Files holds")
    for name in names:
        if len(name) > _LONGEST_NAME:
            yield problem(name, f"the name is longer than the {_LONGEST_NAME} characters that Azure Files holds")
        if any("\ud800" <= character <= "\udfff" for character in name):
            yield problem(name, "the name is not valid Unicode")
        elif _FORBIDDEN_CHARACTERS.search(name):
            yield problem(name, "the name has a character that Azure Files cannot hold")
        if _DEVICE_NAMES.fullmatch(name):
            yield problem(name, "the name is reserved for a device")
        if name.endswith((".", " ")):
            yield problem(name, "the name ends with a dot or a space, which Azure Files drops")


def _case_collisions(files: Iterable[LocalFile]) -> Iterator[Problem]:
    """Names on the share are case-insensitive: two that differ only in case would be one, folders included."""
    spellings: dict[str, dict[str, Path]] = {}
    for file in files:
        parts = file.entry.path.split("/")
        local = file.source
        for depth in range(len(parts), 0, -1):
            spelling = "/".join(parts[:depth])
            spellings.setdefault(spelling.casefold(), {}).setdefault(spelling, local)
            local = local.parent
    told: set[str] = set()
    for folded, variants in sorted(spellings.items()):
        parent = folded.rpartition("/")[0]
        if len(variants) > 1 and parent in told:
            told.add(folded)  # the parent's own collision says it already
        elif len(variants) > 1:
            told.add(folded)
            first, *others = sorted(variants)
            for other in others:
                yield Problem(
                    shown(variants[other]),
                    "",
                    _printable(other),
                    f"differs only in case from {_printable(first)}, and Azure Files does not tell them apart",
                    "Rename one of them.",
                )


def _content(file: LocalFile) -> bytes:
    try:
        return file.source.read_bytes()
    except OSError:
        raise _changed(file) from None


def _ranges_of(file: LocalFile) -> Iterator[bytes]:
    try:
        with file.source.open("rb") as stream:
            while content := stream.read(RANGE_BYTES):
                yield content
    except OSError:
        raise _changed(file) from None


def _make_folder(share: ShareClient, folder: str) -> None:
    try:
        with cloud.translated(f"creating the folder {folder} on the share"):
            share.get_directory_client(folder).create_directory()
    except CloudError as error:
        if error.code != "ResourceAlreadyExists":
            raise


def _is_missing(error: CloudError) -> bool:
    """The file or a folder above it does not exist; not that the share or the account does not."""
    return error.status == 404 and error.code in {"ResourceNotFound", "ParentNotFound", None}


def _unreadable(path: Path, error: OSError) -> Problem:
    reason = (error.strerror or str(error)).lower()
    return Problem(shown(path), "", None, f"cannot be read: {reason}", "Make it readable, or remove it.")


def _changed(file: LocalFile) -> InferopsError:
    return InferopsError(
        f"{shown(file.source)} changed while it was being uploaded; the release in use was not touched.",
        "Run the same command again when nothing writes to the folder.",
    )


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder and name else folder or name


def _base64_md5(content: bytes) -> str:
    return base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()


def shown(path: Path) -> str:
    """A path as the person knows it: from where the command runs, and whole when it lies elsewhere."""
    here = Path.cwd()
    return _printable(str(path.relative_to(here) if path.is_relative_to(here) else path))


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()

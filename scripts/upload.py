"""Carries a SyncPlan out: the share's folder is made to hold exactly the local files, in few requests, many at once.

A file of up to 4 MiB goes up in one request. A larger one goes up in ranges of 4 MiB, several at once, each checked by
the service against its MD5, and gets the MD5 of the whole content last, which marks it as complete. Meanwhile its
metadata say for which content it was made, by SHA-256, up to where the service has confirmed every range, and the
SHA-256 of what was confirmed: an upload that was cut off is taken up there when the local file begins with the same.
Ranges of zeros are not sent into a new file. What the share holds elsewhere is copied by the service, and sent when the
copy shows that somebody has written into it there. Knows no releases.
"""

from __future__ import annotations

import base64
import hashlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from types import TracebackType

from scripts import files
from scripts import share as shares
from scripts.bundle import FileEntry, LocalFile, folders_above, shown
from scripts.errors import CloudError, InferopsError
from scripts.files import ShareClient
from scripts.progress import Counter, Progress
from scripts.share import HASH_METADATA, PARALLEL_REQUESTS, RANGE_BYTES, Copy, SyncPlan, base64_md5, is_zero, join

PARALLEL_BYTES = 48 * 1024 * 1024
"""How much content is in memory at most, read and not yet sent: enough for a line of 1 Gbit/s and 300 ms."""

PARALLEL_LARGE_FILES = 4
"""How many files are cut into ranges at once: while one waits for its first or last request, others fill the line."""

RECORD_BYTES = 32 * 1024 * 1024
"""How much of a large file is confirmed before that is written down, in one request: the most that is sent again."""

SENT_METADATA = "sent"
"""The metadata key for how many bytes from the beginning the service has confirmed, each range by its MD5. The service
lists a file's ranges too, but the list does not tell a range that was confirmed from one that was cut off."""

SENT_HASH_METADATA = "sentsha256"
"""The metadata key for the SHA-256 of these bytes. They need not be those of the content that the file is made for: the
local file may have changed while it was sent."""

_COPY_POLLING_SECONDS = 1.0


def apply(
    share: ShareClient,
    sync_plan: SyncPlan,
    local: Iterable[LocalFile],
    *,
    progress: Callable[[Progress], None] | None = None,
) -> None:
    """Carry the plan out: delete what was removed, copy what the share holds elsewhere, send the rest.

    local holds at least the files that the plan adds or changes. progress is called from the sending threads, one call
    at a time. Raises InferopsError for a file that no longer holds what the plan says (the share then has a part of the
    plan, and the same call with a new plan completes it), CloudError when the share refuses.
    """
    upload = _Upload(share, sync_plan, {file.entry.path: file for file in local}, progress)
    upload.remove()
    upload.make_folders()
    refused = upload.copy()
    upload.send([*sync_plan.to_send, *refused])


class _Upload:
    """The steps of one plan. Each returns when all of its requests are done."""

    def __init__(
        self,
        share: ShareClient,
        sync_plan: SyncPlan,
        sources: dict[str, LocalFile],
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self._share = share
        self._plan = sync_plan
        self._folder = sync_plan.folder
        self._sources = sources
        self._wanted = sync_plan.added + sync_plan.changed
        self._was_there = {entry.path for entry in sync_plan.changed}
        self._counter = Counter(len(self._wanted), sum(entry.bytes for entry in self._wanted), progress)

    def remove(self) -> None:
        """The files that the local folder does not have, then the folders in which nothing is left."""
        with _Requests(self._share) as requests:
            for entry in self._plan.removed:
                requests.submit(0, partial(shares.delete_file, requests.share, join(self._folder, entry.path)))
        emptied = _folders(self._plan.removed) - _folders(self._wanted + self._plan.unchanged)
        for folder in sorted(emptied, key=lambda folder: folder.count("/"), reverse=True):
            shares.delete_folder_if_empty(self._share, join(self._folder, folder))

    def make_folders(self) -> None:
        """The folder, and those below it that get a file; not those that hold one already."""
        wanted, there = _folders(self._wanted), _folders(self._plan.unchanged + self._plan.changed)
        if not (self._plan.unchanged or self._plan.changed):
            shares.make_folders(self._share, [self._folder])
        shares.make_folders(self._share, (join(self._folder, path) for path in wanted - there), self._folder)

    def copy(self) -> list[FileEntry]:
        """Let the service copy what it holds elsewhere; returns what it would not copy, which is here as well."""
        refused: list[FileEntry] = []

        def copy(copied: Copy) -> None:
            try:
                self._copy(copied, requests)
            except CloudError as error:
                if error.status is None:
                    raise
                refused.append(copied.entry)

        with _Requests(self._share) as requests:
            for copied in self._plan.copied:
                requests.submit(0, partial(copy, copied))
        return refused

    def send(self, entries: Iterable[FileEntry]) -> None:
        """Send the files, small and large ones at the same time."""
        with _Requests(self._share) as requests:
            for entry in entries:
                if entry.bytes > RANGE_BYTES:
                    requests.submit_large(partial(self._send_large, self._sources[entry.path], requests))
            for entry in entries:
                if entry.bytes <= RANGE_BYTES:
                    requests.submit(entry.bytes, partial(self._send_small, self._sources[entry.path], requests))

    def _copy(self, copied: Copy, requests: _Requests) -> None:
        path = join(self._folder, copied.entry.path)
        # With all that the source tells of itself, its hash and its times among it, which are looked at then.
        requests.share.copy_file(copied.source, path, created=files.SOURCE, last_written=files.SOURCE)
        properties = requests.share.get_file_properties(path)
        while properties.copy_status == "pending":
            time.sleep(_COPY_POLLING_SECONDS)
            properties = requests.share.get_file_properties(path)
        if properties.copy_status != "success":
            message = f"Copying {copied.source} ended as {properties.copy_status}."
            raise CloudError(message, "It is sent instead.", status=409)
        if not shares.holds_untouched(properties, copied.entry):
            message = f"{copied.source} is no longer what was uploaded there."
            raise CloudError(message, "It is sent instead.", status=409)
        self._counter.add(copied.entry.path, copied.entry.bytes, files=1)

    def _send_small(self, file: LocalFile, requests: _Requests) -> None:
        """One request."""
        try:
            content = file.source.read_bytes()
        except OSError:
            raise _changed(file) from None
        if len(content) > RANGE_BYTES or hashlib.sha256(content).hexdigest() != file.entry.sha256:
            raise _changed(file)
        path = join(self._folder, file.entry.path)
        shares.create_file(requests.share, path, content, {HASH_METADATA: file.entry.sha256})
        sent_bytes = 0 if is_zero(content) else len(content)
        self._counter.add(file.entry.path, len(content), sent_bytes=sent_bytes, files=1)

    def _send_large(self, file: LocalFile, requests: _Requests) -> None:
        large = _LargeFile(join(self._folder, file.entry.path), file, requests, self._counter)
        large.send(may_be_there=file.entry.path in self._was_there)


class _LargeFile:
    """One file that is sent in ranges; see the module."""

    def __init__(self, path: str, file: LocalFile, requests: _Requests, counter: Counter) -> None:
        self._path, self._file, self._requests, self._counter = path, file, requests, counter
        self._share = requests.share
        self._waiting: deque[tuple[int, str, Future[None]]] = deque()
        """The ranges that are not known to be confirmed, each with its offset, which go up, and with the SHA-256 of
        what comes before it."""
        self._recorded = 0
        self._made: str | None = None

    def send(self, *, may_be_there: bool) -> None:
        """Make the file whole. may_be_there: a part of it may be on the share."""
        before = self._sent_before() if may_be_there else None
        if before is not None and self._send_after(*before):
            return
        self._made = shares.time_of_making()
        metadata = {HASH_METADATA: self._file.entry.sha256}
        self._share.create_file(self._path, self._file.entry.bytes, metadata=metadata, created=self._made)
        self._send_after(0, "")

    def _send_after(self, sent: int, sent_sha256: str) -> bool:
        """Send what comes after the first `sent` bytes, 0 in a new file, and mark the file as complete.

        False, with nothing sent, when the first bytes here are not those that the share has.
        """
        entry = self._file.entry
        self._recorded = sent
        sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        end = 0
        # The two hashes of a range are made at the same time: either leaves the interpreter to others meanwhile.
        with ThreadPoolExecutor(1, thread_name_prefix="hash") as beside:
            for content in _ranges_of(self._file):
                offset, end = end, end + len(content)
                if end > entry.bytes:
                    raise _changed(self._file)  # before the service refuses what has no place in the file
                before = sha256.hexdigest()
                hashed = beside.submit(sha256.update, content)
                # After what was sent, an earlier upload may have left bytes where zeros belong.
                if end > sent and is_zero(content) and not sent:
                    self._counter.add(entry.path, len(content))
                elif end > sent:
                    request = self._requests.submit(len(content), partial(self._send_range, content, offset))
                    self._waiting.append((offset, before, request))
                md5.update(content)
                hashed.result()
                if end == sent:
                    if sha256.hexdigest() != sent_sha256:
                        return False
                    self._counter.add(entry.path, sent)
                self._record(end, sha256.hexdigest())
        if end != entry.bytes or sha256.hexdigest() != entry.sha256:
            raise _changed(self._file)
        while self._waiting:
            self._waiting[0][2].result()
            self._record(end, entry.sha256)
        content_md5 = base64.b64encode(md5.digest()).decode()
        self._share.set_file_properties(self._path, content_md5=content_md5, last_written=self._made)
        self._counter.add(entry.path, 0, files=1)
        return True

    def _sent_before(self) -> tuple[int, str] | None:
        """How many bytes a cut off upload of this file has left on the share, and their SHA-256; None to begin anew."""
        properties = self._share.get_file_properties(self._path)
        metadata, entry = properties.metadata, self._file.entry
        if metadata.get(HASH_METADATA) != entry.sha256 or properties.bytes != entry.bytes:
            return None
        if properties.content_md5 is not None:
            return None  # it was whole once, and somebody has written into it
        sent = metadata.get(SENT_METADATA, "")
        confirmed = int(sent) if sent.isascii() and sent.isdigit() else 0
        is_end_of_a_range = confirmed % RANGE_BYTES == 0 or confirmed == entry.bytes
        if not 0 < confirmed <= entry.bytes or not is_end_of_a_range:
            return None
        self._made = properties.created
        return confirmed, metadata.get(SENT_HASH_METADATA, "")

    def _send_range(self, content: bytes, offset: int) -> None:
        self._share.put_range(self._path, offset, content, base64_md5(content))
        self._counter.add(self._file.entry.path, len(content), sent_bytes=len(content))

    def _record(self, end: int, sha256: str) -> None:
        """Write down how far it is, if that is much farther than what is written.

        end is how far was read, sha256 the hash up to there.
        """
        while self._waiting and self._waiting[0][2].done():
            self._waiting.popleft()
        # A request that failed is done, too.
        self._requests.check()
        confirmed, confirmed_sha256 = self._waiting[0][:2] if self._waiting else (end, sha256)
        if confirmed - self._recorded >= RECORD_BYTES:
            metadata = {
                HASH_METADATA: self._file.entry.sha256,
                SENT_METADATA: str(confirmed),
                SENT_HASH_METADATA: confirmed_sha256,
            }
            self._share.set_file_metadata(self._path, metadata)
            self._recorded = confirmed


class _Requests:
    """Requests in flight, limited in number and in the bytes that they hold; leaving the block waits for all of them.

    The first failure keeps everything else from being sent, also again, and is raised when the block is left. share is
    the client for the requests.
    """

    def __init__(self, share: ShareClient) -> None:
        self.share = share.within(self._seconds_left)
        self._pool = ThreadPoolExecutor(PARALLEL_REQUESTS, thread_name_prefix="request")
        self._large = ThreadPoolExecutor(PARALLEL_LARGE_FILES, thread_name_prefix="file")
        self._failure: BaseException | None = None
        self._bytes = 0
        self._changed = threading.Condition()

    def __enter__(self) -> _Requests:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._fail(error)
        try:
            self._wait()
        except BaseException as interruption:  # while it waits here, most often: Ctrl-C
            self._fail(interruption)
            self._wait()
            raise
        if error is None:
            self.check()

    def submit(self, content_bytes: int, send: Callable[[], None]) -> Future[None]:
        """Queue a request that holds so many bytes; waits while too many are held. Raises the failure, if any."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._failure is not None or not self._bytes or self._bytes + content_bytes <= PARALLEL_BYTES
            )
            self.check()
            self._bytes += content_bytes

        def run() -> None:
            try:
                self._unless_failed(send)
            finally:
                with self._changed:
                    self._bytes -= content_bytes
                    self._changed.notify_all()

        return self._pool.submit(run)

    def submit_large(self, send: Callable[[], None]) -> None:
        """Queue what reads a large file and submits its ranges."""
        self._large.submit(self._unless_failed, send)

    def check(self) -> None:
        """Raise the failure, if there has been one."""
        if self._failure is not None:
            raise self._failure

    def _wait(self) -> None:
        """For everything that was begun; what was not begun sees a failure, if there is one."""
        self._large.shutdown(wait=True)
        self._pool.shutdown(wait=True)

    def _seconds_left(self) -> float:
        self.check()
        return math.inf

    def _unless_failed(self, send: Callable[[], None]) -> None:
        if self._failure is not None:
            return
        try:
            send()
        except BaseException as error:  # kept, and raised where the block is left
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            self._failure = self._failure or error
            self._changed.notify_all()


def _folders(entries: Iterable[FileEntry]) -> set[str]:
    return folders_above(entry.path for entry in entries)


def _ranges_of(file: LocalFile) -> Iterator[bytes]:
    try:
        with file.source.open("rb") as stream:
            while content := stream.read(RANGE_BYTES):
                yield content
    except OSError:
        raise _changed(file) from None


def _changed(file: LocalFile) -> InferopsError:
    return InferopsError(
        f"{shown(file.source)} changed while it was being uploaded; the release in use was not touched.",
        "Run the same command again when nothing writes to the folder.",
    )

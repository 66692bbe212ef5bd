"""A client of one share of Azure Files: its REST operations, with their retries and in their words.

Sources: the operations' pages of the Azure Files REST reference. Knows no release, no local file and no SDK: importing
it and sending a small request cost a fraction of what the SDK's client takes (docs/benchmarks.md). Every method raises
CloudError when the service refuses or does not answer. Paths are relative to the share, decoded, without a slash
before.
"""

from __future__ import annotations

import copy
import itertools
import ssl
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from urllib.parse import quote, urlencode, urlsplit

from scripts import file_answers, service_errors
from scripts.connections import Connections
from scripts.errors import CloudError
from scripts.file_answers import FileProperties
from scripts.file_credentials import FileCredential
from scripts.http_answer import Answer

VERSION = "2026-02-06"
"""x-ms-version: the first in which a file is created together with its content."""

CONNECTIONS = 40
"""How many connections are kept: for share.PARALLEL_REQUESTS, upload.PARALLEL_LARGE_FILES, and the lease that is
renewed meanwhile."""

CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 60.0
"""The longest to wait for a connection, and for an answer to go on."""

MORE_ATTEMPTS = 5
"""How often a request is sent again whose answer says to, or does not come: after 1 second, 2, 4, ... and up to half as
much again, or after as long as the service says."""

SOURCE = "source"
"""In place of a time: the one that the source of a copy has."""

_LOOK_SECONDS = 0.5
"""How often it is looked whether a request that waits to be sent again may still be sent."""

_PATH_SAFE = "/~"
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_DIRECTORY = {"restype": "directory"}


class ShareClient:
    """The share of this name of the account at the address. Can be used from many threads; close it, or use `with`.

    certificate is a PEM file to trust in place of what connections.Connections trusts.
    """

    def __init__(
        self, address: str, share_name: str, credential: FileCredential, certificate: Path | None = None
    ) -> None:
        parts = urlsplit(address)
        self.share_name = share_name
        self._origin = f"{parts.scheme}://{parts.netloc}"
        self._root = f"{parts.path.rstrip('/')}/{quote(share_name)}"
        self._credential = credential
        self._connections = Connections(self._origin, CONNECTIONS, certificate)
        self._seconds_left: Callable[[], float] | None = None

    def within(self, seconds_left: Callable[[], float]) -> ShareClient:
        """The same client for requests that may only be sent for so long, as under a lease.

        seconds_left is asked before each attempt, before each piece of what it sends and while the next attempt is
        waited for. None of these takes more than half of what is left, so that what is on its way by then has as long
        again to arrive. What seconds_left raises ends the request, and is raised in place of any failure. A client that
        is limited already keeps to both limits.
        """
        limited, before = copy.copy(self), self._seconds_left
        limited._seconds_left = seconds_left if before is None else lambda: min(seconds_left(), before())
        return limited

    def close(self) -> None:
        self._connections.close()

    def __enter__(self) -> ShareClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- the share's lease

    def acquire_lease(self, seconds: int) -> str:
        """Take the share's lease for 15 to 60 seconds; returns its id (Lease Share)."""
        # Here, and not above: importing it takes as long as a request.
        import uuid

        # The id is ours, so that the repetition of a request whose answer was lost succeeds.
        lease_id = str(uuid.uuid4())
        headers = {"x-ms-lease-duration": str(seconds), "x-ms-proposed-lease-id": lease_id}
        self._lease("taking", "acquire", headers)
        return lease_id

    def renew_lease(self, lease_id: str) -> None:
        """From now on it lives for its seconds again."""
        self._lease("renewing", "renew", {"x-ms-lease-id": lease_id})

    def release_lease(self, lease_id: str) -> None:
        """Another one may take it at once."""
        self._lease("releasing", "release", {"x-ms-lease-id": lease_id})

    def _lease(self, what: str, action: str, headers: Mapping[str, str]) -> None:
        query = {"comp": "lease", "restype": "share"}
        self._send(f"{what} the lease on the share", "PUT", "", query, {"x-ms-lease-action": action, **headers})

    # --- folders

    def list_directories_and_files(self, folder: str) -> list[tuple[str, int | None]]:
        """(name, bytes) of what lies directly in a folder, bytes None for a folder; one request for 5,000 of them."""
        found: list[tuple[str, int | None]] = []
        query = {"comp": "list", "restype": "directory"}
        what = f"listing the folder '{folder or '/'}' of the share"
        while True:
            entries, marker = file_answers.listed(what, self._send(what, "GET", folder, query))
            found += entries
            if not marker:
                return found
            query["marker"] = marker

    def create_directory(self, folder: str) -> None:
        """Its parent must exist, and it must not."""
        self._send(f"creating the folder {folder} on the share", "PUT", folder, _DIRECTORY)

    def get_directory_properties(self, folder: str) -> None:
        """Raises CloudError 404 when it is not there; nothing it has is of interest."""
        self._send(f"looking for the folder {folder} on the share", "GET", folder, _DIRECTORY)

    def rename_directory(self, source: str, target: str) -> None:
        """Whole or not at all; the target must not exist."""
        query = {"comp": "rename", **_DIRECTORY}
        what = f"renaming {source} to {target} on the share"
        self._send(what, "PUT", target, query, {"x-ms-file-rename-source": self._address(source)})

    def delete_directory(self, folder: str) -> None:
        """It must be empty."""
        self._send(f"deleting the folder {folder} on the share", "DELETE", folder, _DIRECTORY)

    # --- files

    def create_file(
        self,
        path: str,
        size: int,
        content: bytes = b"",
        *,
        metadata: Mapping[str, str],
        content_md5: str | None = None,
        created: str | None = None,
        last_written: str | None = None,
    ) -> None:
        """Create a file, or replace it in one step, with its first up to 4 MiB; the rest of it is zeros.

        content_md5 (base64) is kept with the file, and what arrives is checked against it when content is the whole of
        it. Times are now unless they are given.
        """
        headers = {"x-ms-type": "file", "x-ms-content-length": str(size)} | _metadata_headers(metadata)
        headers |= _times(created, last_written)
        if content_md5 is not None:
            headers["x-ms-content-md5"] = content_md5
            if content and len(content) == size:
                headers["Content-MD5"] = content_md5
        self._send(f"writing {path} on the share", "PUT", path, {}, headers, content)

    def put_range(self, path: str, first: int, content: bytes, content_md5: str) -> None:
        """Write up to 4 MiB into a file that exists, from the byte `first` on, checked against their MD5 (base64)."""
        headers = {"x-ms-write": "update", "x-ms-range": f"bytes={first}-{first + len(content) - 1}"}
        headers["Content-MD5"] = content_md5
        self._send(f"writing {path} on the share", "PUT", path, {"comp": "range"}, headers, content)

    def set_file_metadata(self, path: str, metadata: Mapping[str, str]) -> None:
        """Replace all of it."""
        what = f"writing the metadata of {path} on the share"
        self._send(what, "PUT", path, {"comp": "metadata"}, _metadata_headers(metadata))

    def set_file_properties(self, path: str, *, content_md5: str, last_written: str | None = None) -> None:
        """Give a file its content MD5 (base64), and the time of its last write, now unless it is given."""
        headers = {"x-ms-content-type": "application/octet-stream", "x-ms-content-md5": content_md5}
        headers |= _times(None, last_written)
        self._send(f"writing the properties of {path} on the share", "PUT", path, {"comp": "properties"}, headers)

    def copy_file(
        self, source: str, target: str, *, created: str | None = None, last_written: str | None = None
    ) -> None:
        """Begin a copy on the share, with the source's metadata and MD5; get_file_properties tells how far it is."""
        headers = {"x-ms-copy-source": self._address(source), **_times(created, last_written)}
        self._send(f"copying {source} to {target} on the share", "PUT", target, {}, headers)

    def get_file_properties(self, path: str) -> FileProperties:
        """One request, without the content."""
        return file_answers.properties(self._send(f"reading the properties of {path}", "HEAD", path))

    def get_file(self, path: str) -> tuple[bytes, dict[str, str]]:
        """The content of a small file, and its metadata, in one request."""
        answer = self._send(f"reading {path} on the share", "GET", path)
        return answer.content, file_answers.metadata(answer)

    def get_range(self, path: str, first: int, length: int) -> tuple[bytes, int]:
        """Up to so many bytes from `first` on, and how many the file has in all."""
        headers = {"x-ms-range": f"bytes={first}-{first + length - 1}"}
        try:
            answer = self._send(f"reading {path} on the share", "GET", path, {}, headers)
        except CloudError as error:
            if error.status != 416:
                raise
            return b"", first  # there is nothing from there on, as in an empty file
        return answer.content, file_answers.size_in_all(answer)

    def delete_file(self, path: str) -> None:
        self._send(f"deleting {path} on the share", "DELETE", path)

    # --- requests

    def _address(self, path: str) -> str:
        """As the service wants that of a source."""
        query = self._credential.query
        return f"{self._origin}{self._root}/{quote(path, safe=_PATH_SAFE)}" + (f"?{query}" if query else "")

    def _send(
        self,
        what: str,
        method: str,
        path: str,
        query: Mapping[str, str] = {},
        headers: Mapping[str, str] = {},
        content: bytes = b"",
    ) -> Answer:
        """The answer of a request that succeeded, sent as often as MORE_ATTEMPTS says. what is as in service_errors."""
        target = f"{self._root}/{quote(path, safe=_PATH_SAFE)}" if path else self._root
        may_be_refused = True
        for attempt in itertools.count():
            last = attempt >= MORE_ATTEMPTS
            try:
                answer = self._ask(what, method, target, query, headers, content)
            except OSError as error:
                self._check_limit()
                if isinstance(error, ssl.SSLCertVerificationError):
                    raise service_errors.untrusted(what, str(error)) from error
                if last:
                    raise service_errors.no_answer(what, str(error) or type(error).__name__) from error
                self._wait(_pause(attempt))
                continue
            if answer.status < 300:
                return answer
            self._check_limit()
            if answer.status == 401 and may_be_refused and self._credential.refused():
                may_be_refused = False
                continue
            if last or not _is_passing(answer.status):
                raise file_answers.refusal(what, answer, if_unknown=self._credential.if_unknown)
            told = answer.headers.get("retry-after", "")
            self._wait(float(told) if told.isascii() and told.isdigit() else _pause(attempt))
        raise AssertionError("there is no end to counting")

    def _ask(
        self,
        what: str,
        method: str,
        target: str,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        content: bytes,
    ) -> Answer:
        """One attempt."""
        connect_seconds = self._at_most(CONNECT_SECONDS)
        sent = {"x-ms-date": _now(), "x-ms-version": VERSION, **headers}
        sent |= self._credential.headers(what, method, target, query, sent, len(content))
        queries = [urlencode(query, quote_via=quote)] if query else []
        if self._credential.query:
            queries.append(self._credential.query)
        whole = f"{target}?{'&'.join(queries)}" if queries else target
        return self._connections.request(
            method,
            whole,
            sent,
            content,
            connect_seconds=connect_seconds,
            answer_seconds=lambda: self._at_most(ANSWER_SECONDS),
        )

    def _wait(self, seconds: float) -> None:
        """Before a request is sent again; ends early by what seconds_left raises."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(left, _LOOK_SECONDS))
            self._check_limit()

    def _at_most(self, seconds: float) -> float:
        return seconds if self._seconds_left is None else min(seconds, self._seconds_left() / 2)

    def _check_limit(self) -> None:
        if self._seconds_left is not None:
            self._seconds_left()


def _now() -> str:
    """The time as HTTP writes it (RFC 9110, section 5.6.7), in English whatever the locale says."""
    now = time.gmtime()
    day, month = _DAYS[now.tm_wday], _MONTHS[now.tm_mon - 1]
    return f"{day}, {now.tm_mday:02} {month} {now.tm_year} {now.tm_hour:02}:{now.tm_min:02}:{now.tm_sec:02} GMT"


def _is_passing(status: int) -> bool:
    return status in (408, 429) or (status >= 500 and status not in (501, 505))


def _pause(attempt: int) -> float:
    """Seconds; not the same for all, so that not all come back at once."""
    import random  # here, because few runs need it

    return float(2**attempt) * random.uniform(1, 1.5)  # noqa: S311 (no secret)


def _times(created: str | None, last_written: str | None) -> dict[str, str]:
    named = {"x-ms-file-creation-time": created, "x-ms-file-last-write-time": last_written}
    return {name: value for name, value in named.items() if value is not None}


def _metadata_headers(metadata: Mapping[str, str]) -> dict[str, str]:
    return {f"{file_answers.METADATA}{name}": value for name, value in metadata.items()}

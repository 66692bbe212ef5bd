"""Copies that the file service does not finish at once, as the real one may; the stand-in always does.

A tiny service of its own answers what the upload asks, in the words of the REST reference (Copy File, Get File
Properties).
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from scripts import share as shares
from scripts import upload
from scripts.bundle import read_local
from scripts.file_credentials import AccountKey
from scripts.files import ShareClient
from scripts.progress import Progress

CONTENT = b"weights" * 10_000


class SlowCopies(ThreadingHTTPServer):
    """Copies are pending for two looks, and end as told; a file that is written is remembered."""

    daemon_threads = True

    def __init__(self, ends_as: str) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.ends_as = ends_as
        self.looks = 0
        self.copied_from: list[str] = []
        self.written: dict[str, bytes] = {}


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: SlowCopies

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        source = self.headers.get("x-ms-copy-source")
        if "restype=directory" in self.path:
            self._answer(201)
        elif source is not None:
            self.server.copied_from.append(source)
            self._answer(202, {"x-ms-copy-id": "1", "x-ms-copy-status": "pending"})
        else:
            self.server.written[self.path.partition("?")[0]] = content
            self._answer(201)

    def do_HEAD(self) -> None:
        self.server.looks += 1
        status = "pending" if self.server.looks < 3 else self.server.ends_as
        made = "2022-01-01T00:00:00.0000000Z"
        source = {
            "x-ms-meta-sha256": hashlib.sha256(CONTENT).hexdigest(),
            "Content-MD5": shares.base64_md5(CONTENT),
            "x-ms-file-creation-time": made,
            "x-ms-file-last-write-time": made,
            "Content-Length": str(len(CONTENT)),
        }
        self._answer(200, {"x-ms-copy-id": "1", "x-ms-copy-status": status, "x-ms-type": "File", **source})

    def _answer(self, status: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        times = {"x-ms-version": "2026-10-06", "ETag": '"1"', "Last-Modified": "Sat, 01 Jan 2022 00:00:00 GMT"}
        for name, value in {**times, "Content-Length": "0", **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """A test's output is not the place for it."""


@contextlib.contextmanager
def serving(ends_as: str) -> Iterator[SlowCopies]:
    with SlowCopies(ends_as) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def copy(server: SlowCopies, folder: Path, told: list[Progress]) -> None:
    """A plan with one file, whose content stands elsewhere."""
    (folder / "weights").write_bytes(CONTENT)
    local = read_local({"": folder})
    plan = shares.plan(local, (), folder="new", elsewhere={hashlib.sha256(CONTENT).hexdigest(): "old/weights"})
    key = base64.b64encode(b"key").decode()
    credential = AccountKey("account", key)
    with ShareClient(f"http://127.0.0.1:{server.server_port}/account", "share", credential) as share:
        upload.apply(share, plan, local, progress=told.append)


def test_a_copy_that_takes_its_time_is_waited_for(tmp_path: Path) -> None:
    told: list[Progress] = []
    with serving("success") as server:
        copy(server, tmp_path, told)
    assert server.copied_from == [f"http://127.0.0.1:{server.server_port}/account/share/old/weights"]
    assert (server.looks, server.written) == (3, {})
    assert [(step.files_done, step.bytes_done, step.bytes_sent) for step in told] == [(1, len(CONTENT), 0)]


@pytest.mark.parametrize("ends_as", ["failed", "aborted"])
def test_a_copy_that_fails_in_the_end_is_sent_instead(tmp_path: Path, ends_as: str) -> None:
    told: list[Progress] = []
    with serving(ends_as) as server:
        copy(server, tmp_path, told)
    assert server.written == {"/account/share/new/weights": CONTENT}
    assert (told[-1].files_done, told[-1].bytes_sent) == (1, len(CONTENT))

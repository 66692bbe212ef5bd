"""Bytes on their way between a connection and the disk: request bodies, temporary files, writes into a file.

Small pieces are done at once; what may keep the disk busy for long goes to a thread, and only a few large bodies are in
memory at a time.
"""

from __future__ import annotations

import asyncio
import ctypes
import hashlib
import itertools
import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import web

from infra.emulator.files.exceptions import error, not_emulated

# The service's limit for one range, and for the data of a created file.
MAXIMUM_BODY_BYTES = 4 * 1024 * 1024
# Up to here a write to the page cache is quicker than handing it to a thread.
SMALL_BYTES = 128 * 1024
_LARGE_BODIES = 8
_ZEROS = bytes(1024 * 1024)
# Linux: <fcntl.h> and <linux/fs.h>.
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2

Result = TypeVar("Result")


class Spool:
    """Temporary files on the disk of the shares, outside of what is visible. What a dead process left is removed."""

    def __init__(self, root: Path) -> None:
        self._folder = root / ".incomplete"
        if self._folder.exists():
            shutil.rmtree(self._folder)
        self._folder.mkdir(parents=True)
        self._numbers = itertools.count()

    def path(self) -> str:
        """A new name."""
        return f"{self._folder}/{next(self._numbers)}"


class Bodies:
    """Reads the bodies of requests."""

    def __init__(self) -> None:
        self._large = asyncio.Semaphore(_LARGE_BODIES)

    @asynccontextmanager
    async def read(self, request: web.Request) -> AsyncIterator[bytes | bytearray]:
        """The whole body, up to MAXIMUM_BODY_BYTES. Raises StorageError 411, 413."""
        if request.headers.get("x-ms-structured-body") is not None:
            raise not_emulated("structured bodies (send the content as it is, checked by Content-MD5)")
        length = request.content_length
        if length is None:
            if request.body_exists:
                raise error("MissingContentLengthHeader")
            length = 0
        if length > MAXIMUM_BODY_BYTES:
            raise error("RequestBodyTooLarge", MaxLimit=str(MAXIMUM_BODY_BYTES))
        if length <= SMALL_BYTES:
            small = await request.content.read()
            _check_whole(len(small), length)
            yield small
            return
        async with self._large:
            # In place, so that there is one copy of it and not two.
            body = bytearray(length)
            position = 0
            while chunk := await request.content.readany():
                body[position : position + len(chunk)] = chunk
                position += len(chunk)
            _check_whole(position, length)
            yield body


def _check_whole(received: int, promised: int) -> None:
    if received != promised:
        raise ConnectionResetError(f"{received} of {promised} bytes of the body were received")


async def work(size: int, function: Callable[[], Result]) -> Result:
    """Runs disk work on `size` bytes: at once when it is small, else in a thread."""
    if size <= SMALL_BYTES:
        return function()
    return await asyncio.to_thread(function)


def md5(data: bytes | bytearray) -> bytes:
    """The digest by which the service and its clients recognise damage in transit."""
    return hashlib.md5(data, usedforsecurity=False).digest()


def write_at(descriptor: int, data: bytes | bytearray, offset: int) -> None:
    """Writes all of the data."""
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def write_new(path: str, data: bytes | bytearray, size: int) -> None:
    """A new file of `size` bytes that begins with the data; the rest is zeros that take no disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        write_at(descriptor, data, 0)
        if size > len(data):
            os.ftruncate(descriptor, size)
    except BaseException:
        Path(path).unlink()
        raise
    finally:
        os.close(descriptor)


def replace(temporary: str, path: str) -> None:
    """Makes a finished temporary file the one at `path`, in one step; what was there is gone.

    ext4 waits for the disk while a file is renamed onto another one (mount option auto_da_alloc, for the sake of power
    cuts): 0.2 to 3 ms, by how busy the disk is. Exchanging the two names does not wait: 0.05 ms.
    """
    exchange = _exchange()
    if exchange is not None:
        names = os.fsencode(temporary), os.fsencode(path)
        if exchange(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
            os.unlink(temporary)  # noqa: PTH108 - in every request, where a Path costs more than the call
            return
    os.replace(temporary, path)  # noqa: PTH105 - nothing there yet, or a system that cannot exchange


@cache
def _exchange() -> Any:
    """renameat2 of the C library; None where there is none."""
    return getattr(ctypes.CDLL(None), "renameat2", None)


def clear(descriptor: int, first: int, end: int) -> None:
    """Makes a part of a file zeros; one that reaches the end gives its disk back."""
    if end >= os.fstat(descriptor).st_size:
        os.ftruncate(descriptor, first)
        os.ftruncate(descriptor, end)
        return
    for offset in range(first, end, len(_ZEROS)):
        write_at(descriptor, _ZEROS[: end - offset], offset)


def with_range(ranges: list[list[int]] | None, first: int, end: int) -> list[list[int]] | None:
    """Written ranges after one more write. Ranges are [first, end) pairs in order; None means everything."""
    if ranges is None:
        return None
    before = [pair for pair in ranges if pair[1] < first]
    after = [pair for pair in ranges if pair[0] > end]
    touched = [pair for pair in ranges if pair[1] >= first and pair[0] <= end]
    joined = (
        [min(first, *(pair[0] for pair in touched)), max(end, *(pair[1] for pair in touched))]
        if touched
        else [
            first,
            end,
        ]
    )
    return [*before, joined, *after]


def without_range(ranges: list[list[int]] | None, first: int, end: int, size: int) -> list[list[int]]:
    """Written ranges after a part was cleared."""
    left: list[list[int]] = []
    for begin, stop in ranges if ranges is not None else [[0, size]]:
        left += [pair for pair in ([begin, min(stop, first)], [max(begin, end), stop]) if pair[0] < pair[1]]
    return left


def within(ranges: list[list[int]] | None, first: int, end: int, size: int) -> list[list[int]]:
    """The written ranges between two offsets."""
    cut = [[max(begin, first), min(stop, end)] for begin, stop in (ranges if ranges is not None else [[0, size]])]
    return [pair for pair in cut if pair[0] < pair[1]]

"""Operations on the bytes of a file: read, write, clear, list its written ranges."""

from __future__ import annotations

import asyncio
import base64
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web

from infra.emulator.files import content, formats, leases
from infra.emulator.files.backend import WRITTEN, Backend, check_writable, existing_file, versions
from infra.emulator.files.context import Context
from infra.emulator.files.exceptions import StorageError, error, invalid_header
from infra.emulator.files.file_operations import describe_file
from infra.emulator.files.share_operations import page_size
from infra.emulator.files.tree import Entry

log = logging.getLogger(__name__)

_READ_BYTES = 1024 * 1024
_MD5_RANGE_BYTES = 4 * 1024 * 1024
# A SAS may say how the content is to be served.
_OVERRIDES = {
    "rscc": "Cache-Control",
    "rscd": "Content-Disposition",
    "rsce": "Content-Encoding",
    "rscl": "Content-Language",
    "rsct": "Content-Type",
}


async def get_file(backend: Backend, context: Context) -> web.StreamResponse:
    """Get File: all of it, or the range of x-ms-range or Range."""
    text = _range_text(context)
    asked = None if text is None else formats.parse_range("Range", text)
    entry = existing_file(backend, context)
    leases.check_given(entry.lease, context.header("x-ms-lease-id"), noun="File")
    descriptor = os.open(entry.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        first, end = bounds_of(asked, entry.size)
        headers = _read_headers(backend, context, entry, (first, end), partial=asked is not None)
        if asked is not None and context.flag("x-ms-range-get-content-md5"):
            headers["Content-MD5"] = await _range_md5(descriptor, first, end)
        status = 200 if asked is None else 206
        if end - first <= content.SMALL_BYTES:
            return context.answer(status, headers, os.pread(descriptor, end - first, first))
        return await _stream(context, status, headers, descriptor, (first, end))
    finally:
        os.close(descriptor)


def _range_text(context: Context) -> str | None:
    return context.header("x-ms-range") or context.header("Range")


def bounds_of(asked: tuple[int, int | None] | None, size: int) -> tuple[int, int]:
    """First byte and the one after the last."""
    if asked is None:
        return 0, size
    first, last = asked
    if first >= size:
        raise error("InvalidRange", {"Content-Range": f"bytes */{size}"})
    return first, size if last is None else min(last + 1, size)


def _read_headers(
    backend: Backend, context: Context, entry: Entry, bounds: tuple[int, int], *, partial: bool
) -> dict[str, str]:
    headers = {**describe_file(backend, entry), **entry.properties.headers, "Accept-Ranges": "bytes"}
    if partial:
        headers["Content-Range"] = f"bytes {bounds[0]}-{bounds[1] - 1}/{entry.size}"
        digest = headers.pop("Content-MD5", None)
        if digest is not None:
            headers["x-ms-content-md5"] = digest
    if "sig" in context.query:
        headers |= {told: context.query[name] for name, told in _OVERRIDES.items() if context.query.get(name)}
    return headers


async def _range_md5(descriptor: int, first: int, end: int) -> str:
    if end - first > _MD5_RANGE_BYTES:
        raise error("InvalidHeaderValue", HeaderName="x-ms-range-get-content-md5", HeaderValue="true")
    digest = await content.work(end - first, lambda: content.md5(os.pread(descriptor, end - first, first)))
    return base64.b64encode(digest).decode()


async def _stream(
    context: Context, status: int, headers: dict[str, str], descriptor: int, bounds: tuple[int, int]
) -> web.StreamResponse:
    position, end = bounds
    response = web.StreamResponse(status=status, headers=context.headers(headers))
    response.content_length = end - position
    try:
        await response.prepare(context.request)
        while position < end:
            piece = await asyncio.to_thread(os.pread, descriptor, min(_READ_BYTES, end - position), position)
            if not piece:
                # A local process cut the file short: what was promised cannot be sent, and the client must notice.
                if context.request.transport is not None:
                    context.request.transport.abort()
                break
            await response.write(piece)
            position += len(piece)
    except ConnectionError:
        log.info("GET %s: the client went away after %d bytes", context.request.path, position - bounds[0])
    return response


async def put_range(backend: Backend, context: Context) -> web.Response:
    """Put Range: update (4 MiB at most) or clear a part of a file that exists."""
    text = _range_text(context)
    if text is None:
        raise error("MissingRequiredHeader", HeaderName="x-ms-range")
    first, last = formats.parse_range("x-ms-range", text)
    if last is None:
        raise invalid_header("x-ms-range", text)
    what = context.required("x-ms-write").lower()
    if what == "clear":
        if context.request.content_length:
            raise invalid_header("Content-Length", str(context.request.content_length))
        return await _clear(backend, context, first, last + 1)
    if what != "update":
        raise invalid_header("x-ms-write", what)
    length = context.request.content_length
    if length is None:
        raise error("MissingContentLengthHeader")
    if length != last + 1 - first:
        raise invalid_header("Content-Length", str(length))
    async with backend.bodies.read(context.request) as body:
        entry, digest = await write_range(backend, context, first, body)
    return context.answer(201, {**after_write(entry), "Content-MD5": digest})


async def write_range(backend: Backend, context: Context, first: int, body: bytes | bytearray) -> tuple[Entry, str]:
    """Writes into the file that is asked for. The entry afterwards, and the MD5 of the data in base64."""
    expected = formats.parse_md5(context.header("Content-MD5"))
    with _open_for_write(backend, context, first + len(body)) as (entry, descriptor):

        def write() -> bytes:
            digest = content.md5(body)
            if expected is not None and digest != expected:
                raise error("Md5Mismatch")
            content.write_at(descriptor, body, first)
            return digest

        digest = await content.work(len(body), write)
        after = _reread(backend, context, entry)
        after.properties.ranges = content.with_range(after.properties.ranges, first, first + len(body))
        _finish_write(backend, context, after, entry)
    return after, base64.b64encode(digest).decode()


async def _clear(backend: Backend, context: Context, first: int, end: int) -> web.Response:
    with _open_for_write(backend, context, end) as (entry, descriptor):
        await content.work(end - first, lambda: content.clear(descriptor, first, end))
        after = _reread(backend, context, entry)
        after.properties.ranges = content.without_range(after.properties.ranges, first, end, after.size)
        _finish_write(backend, context, after, entry)
    return context.answer(201, after_write(after))


@contextmanager
def _open_for_write(backend: Backend, context: Context, end: int) -> Iterator[tuple[Entry, int]]:
    """The file that is asked for and a descriptor to write into it, until the block ends. Raises StorageError."""
    entry = existing_file(backend, context)
    check_writable(entry, context.header("x-ms-lease-id"))
    if end > entry.size:
        raise error("InvalidRange")
    descriptor = os.open(entry.path, os.O_RDWR | os.O_CLOEXEC)
    try:
        with backend.tree.writing(entry):
            yield entry, descriptor
    finally:
        os.close(descriptor)


def _reread(backend: Backend, context: Context, before: Entry) -> Entry:
    """The file after a write that may have taken its time in a thread: others may have written too, or removed it."""
    after = existing_file(backend, context)
    if after.status.st_ino != before.status.st_ino:
        raise StorageError(404, "ResourceNotFound", "The file was replaced while the range was being written.")
    if before.properties.ranges is None:
        # A local process wrote into it before: all of it counts as written.
        after.properties.ranges = None
    return after


def _finish_write(backend: Backend, context: Context, after: Entry, before: Entry) -> None:
    if (context.header("x-ms-file-last-write-time") or "now").lower() == "preserve":
        os.utime(after.path, ns=(before.status.st_mtime_ns, before.status.st_mtime_ns))
    backend.tree.touch(after)


def after_write(entry: Entry) -> dict[str, str]:
    return {
        **versions(entry.properties),
        **WRITTEN,
        "x-ms-file-last-write-time": formats.iso(entry.last_write),
    }


async def list_ranges(backend: Backend, context: Context) -> web.Response:
    """List Ranges: the written parts, each by its first and last byte; in pages when marker or maxresults ask so."""
    query = context.query
    text = _range_text(context)
    asked = None if text is None else formats.parse_range("x-ms-range", text)
    paged = "maxresults" in query or "marker" in query
    size, marker = page_size(query.get("maxresults")), query.get("marker") or "0"
    if not marker.isascii() or not marker.isdigit():
        raise error("InvalidQueryParameterValue", QueryParameterName="marker", QueryParameterValue=marker)
    entry = existing_file(backend, context)
    leases.check_given(entry.lease, context.header("x-ms-lease-id"), noun="File")
    first, end = (0, entry.size) if asked is None else bounds_of(asked, entry.size)
    found = content.within(entry.properties.ranges, max(first, int(marker)), end, entry.size)
    shown = found[:size] if paged else found
    body = "".join(f"<Range><Start>{begin}</Start><End>{stop - 1}</End></Range>" for begin, stop in shown)
    if paged:
        body += formats.element("NextMarker", str(found[size][0]) if len(found) > size else "")
    body = f"<Ranges>{body}</Ranges>" if body else "<Ranges />"
    headers = {**versions(entry.properties), "x-ms-content-length": str(entry.size)}
    return context.xml(formats.xml(body), headers)

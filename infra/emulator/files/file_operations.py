"""Operations on a file and its properties. Its bytes are range_operations' matter."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from pathlib import Path

from aiohttp import web

from infra.emulator.files import content, formats, leases
from infra.emulator.files.backend import (
    WRITTEN,
    Backend,
    change_properties,
    check_writable,
    describe,
    existing_file,
    new_properties,
    versions,
    written_nanoseconds,
)
from infra.emulator.files.context import Context
from infra.emulator.files.exceptions import error, invalid_header
from infra.emulator.files.tree import Entry, Properties

# Request header, and the header that tells it again.
_HTTP_HEADERS = (
    ("x-ms-content-type", "Content-Type"),
    ("x-ms-content-encoding", "Content-Encoding"),
    ("x-ms-content-language", "Content-Language"),
    ("x-ms-cache-control", "Cache-Control"),
    ("x-ms-content-disposition", "Content-Disposition"),
    ("x-ms-content-md5", "Content-MD5"),
)
MAXIMUM_FILE_BYTES = 4 * 1024**4
# Since this version a file may be created with its first 4 MiB in the same request.
_DATA_SINCE = "2026-02-06"


async def create_file(backend: Backend, context: Context) -> web.Response:
    """Create File: of zeros, or with data. An existing file is replaced, at once and whole."""
    if context.required("x-ms-type").lower() != "file":
        raise invalid_header("x-ms-type", context.required("x-ms-type"))
    size = formats.parse_count("x-ms-content-length", context.required("x-ms-content-length"), 0, MAXIMUM_FILE_BYTES)
    assert size is not None
    length = context.request.content_length or 0
    if length and context.version < _DATA_SINCE:
        raise invalid_header("Content-Length", str(length))
    if length > size:
        raise error("InvalidRange")
    properties = new_properties(backend, context)
    properties.headers = parse_http_headers(context.request.headers)
    properties.headers.setdefault("Content-Type", "application/octet-stream")
    properties.ranges = [[0, length]] if length else []
    expected = formats.parse_md5(context.header("Content-MD5")) if length else None
    temporary = backend.spool.path()
    async with backend.bodies.read(context.request) as body:

        def write() -> bytes:
            digest = content.md5(body) if length else b""
            if expected is not None and digest != expected:
                raise error("Md5Mismatch")
            content.write_new(temporary, body, size)
            return digest

        digest = await content.work(length, write)
    try:
        entry = await place_file(backend, context, temporary, properties)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    headers = {**describe(backend, entry), **WRITTEN}
    if length:
        headers["Content-MD5"] = base64.b64encode(digest).decode()
    return context.answer(201, headers)


async def place_file(
    backend: Backend, context: Context, temporary: str, properties: Properties, *, preserved: int | None = None
) -> Entry:
    """Makes a temporary file the one that is asked for, when lease, type and grant allow it.

    `preserved` is the write time, in ticks, of what it was copied from. Raises StorageError 403 for a share without
    room, 404, 409, 412.
    """
    written = formats.to_nanoseconds(preserved) if preserved else written_nanoseconds(context, properties.modified)
    os.utime(temporary, ns=(written, written))
    status = os.stat(temporary)  # noqa: PTH116 - in every request, where a Path costs more than the call
    path, replaced = check_replaceable(backend, context, properties)
    growth = status.st_size - (replaced.size if replaced else 0)
    if not backend.shares.take(context.account, context.share, growth):
        await backend.shares.make_room(context.account, context.share, growth)
        path, replaced = check_replaceable(backend, context, properties)
    entry = Entry(context.place, path, status, properties)
    backend.tree.put_file(temporary, entry, replaced)
    return entry


def check_replaceable(backend: Backend, context: Context, properties: Properties) -> tuple[str, Entry | None]:
    """Where on disk the file that is asked for may be put, and what it replaces; its lease passes on to `properties`.

    Raises StorageError 404, 409, 412.
    """
    location = backend.tree.locate(context.place)
    lease_id = context.header("x-ms-lease-id")
    if location.status is None:
        leases.check_given(None, lease_id, noun="File")
        return location.path, None
    existing = backend.tree.entry(context.place, location.path, location.status)
    if existing.is_directory:
        raise error("ResourceTypeMismatch")
    check_writable(existing, lease_id)
    if not context.grant.allows("w"):
        raise error("AuthorizationPermissionMismatch")
    properties.lease = existing.properties.lease
    return location.path, existing


def parse_http_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The HTTP headers that a file is to be served with."""
    found = {told: headers[asked] for asked, told in _HTTP_HEADERS if headers.get(asked)}
    formats.parse_md5(found.get("Content-MD5"))
    return found


async def get_file_properties(backend: Backend, context: Context) -> web.Response:
    """Get File Properties (HEAD), and Get File Metadata, which answers the less of the two."""
    entry = existing_file(backend, context)
    leases.check_given(entry.lease, context.header("x-ms-lease-id"), noun="File")
    if context.query.get("comp") == "metadata":
        metadata = formats.metadata_headers(entry.properties.metadata)
        return context.answer(200, {**versions(entry.properties), **metadata})
    headers = {**describe_file(backend, entry), **entry.properties.headers, "Content-Length": str(entry.size)}
    return context.answer(200, headers)


def describe_file(backend: Backend, entry: Entry) -> dict[str, str]:
    """The headers of GET and HEAD but the HTTP headers of the content."""
    properties = entry.properties
    return {
        **describe(backend, entry),
        **formats.metadata_headers(properties.metadata),
        **leases.headers(entry.lease),
        **(properties.copy or {}),
        "x-ms-server-encrypted": "true",
        "x-ms-type": "File",
    }


async def set_file_properties(backend: Backend, context: Context) -> web.Response:
    """Set File Properties: HTTP headers that are not given are removed; x-ms-content-length resizes."""
    header = "x-ms-content-length"
    size = formats.parse_count(header, context.header(header), 0, MAXIMUM_FILE_BYTES)
    headers = parse_http_headers(context.request.headers)
    if size is not None:
        growth = size - existing_file(backend, context).size
        await backend.shares.make_room(context.account, context.share, growth)
    entry = existing_file(backend, context)
    leases.check_write(entry.lease, context.header("x-ms-lease-id"), noun="File")
    written = written_nanoseconds(context, entry.last_write, preserved=entry.last_write)
    if size is not None and size != entry.size:
        if "ReadOnly" in entry.attributes:
            raise error("ReadOnlyAttribute")
        entry.properties.ranges = content.within(entry.properties.ranges, 0, size, entry.size)
        os.truncate(entry.path, size)
    entry.properties.headers = headers
    change_properties(backend, context, entry)
    os.utime(entry.path, ns=(written, written))
    backend.tree.put(entry)
    return context.answer(200, {**describe(backend, entry), **WRITTEN})


async def set_file_metadata(backend: Backend, context: Context) -> web.Response:
    """Set File Metadata: replaces all of it."""
    metadata = formats.parse_metadata(context.request.headers.items())
    entry = existing_file(backend, context)
    leases.check_write(entry.lease, context.header("x-ms-lease-id"), noun="File")
    entry.properties.metadata = metadata
    backend.tree.touch(entry)
    return context.answer(200, {**versions(entry.properties), **WRITTEN})


async def delete_file(backend: Backend, context: Context) -> web.Response:
    """Delete File."""
    entry = existing_file(backend, context)
    check_writable(entry, context.header("x-ms-lease-id"))
    backend.tree.remove(entry)
    return context.answer(202)

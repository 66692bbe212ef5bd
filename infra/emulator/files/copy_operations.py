"""Operations with a second file or directory as their source: copy, put range from URL, rename."""

from __future__ import annotations

import asyncio
import os
import re
import uuid
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from aiohttp import web

from infra.emulator.files import content, formats, leases
from infra.emulator.files.authorization import Need
from infra.emulator.files.backend import (
    WRITTEN,
    Backend,
    describe,
    existing_file,
    parse_attributes,
    parse_permission,
    versions,
    written_nanoseconds,
)
from infra.emulator.files.context import Context
from infra.emulator.files.exceptions import error, invalid_header, not_emulated
from infra.emulator.files.file_operations import check_replaceable, place_file
from infra.emulator.files.names import check_share_name, split_path
from infra.emulator.files.range_operations import after_write, bounds_of, write_range
from infra.emulator.files.tree import Entry, Location, Place, Properties

_ACCOUNT_HOST = re.compile(r"([a-z0-9]{3,24})\.file\.", re.ASCII)
_COPY_BYTES = 1024 * 1024


async def copy_file(backend: Backend, context: Context) -> web.Response:
    """Copy File, from a share of this stand-in: done when the answer goes out, so its status is always success."""
    text = context.required("x-ms-copy-source")
    source = _source_file(backend, context, "x-ms-copy-source", Need("r", "o"))
    properties = _copied_properties(backend, context, source, text)
    # Refused before a long copy, and looked at again after it.
    check_replaceable(backend, context, properties)
    temporary = backend.spool.path()
    try:
        await asyncio.to_thread(_copy_content, source, temporary)
        written = _source_write_time(context, source)
        entry = await place_file(backend, context, temporary, properties, preserved=written)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    told = {"x-ms-copy-id": (properties.copy or {})["x-ms-copy-id"], "x-ms-copy-status": "success"}
    return context.answer(202, {**versions(entry.properties), **told})


async def abort_copy(backend: Backend, context: Context) -> web.Response:
    """Abort Copy File: every copy is finished at once, so there is never one to abort."""
    if (context.header("x-ms-copy-action") or "").lower() != "abort":
        raise invalid_header("x-ms-copy-action", context.header("x-ms-copy-action") or "")
    existing_file(backend, context)
    raise error("NoPendingCopyOperation")


async def put_range_from_url(backend: Backend, context: Context) -> web.Response:
    """Put Range from URL: 4 MiB at most, from a file of this stand-in."""
    for name in ("x-ms-source-content-crc64", "x-ms-source-if-match-crc64", "x-ms-source-if-none-match-crc64"):
        if context.header(name) is not None:
            raise not_emulated(f"checks by CRC64 ({name})")
    if (context.header("x-ms-write") or "").lower() != "update":
        raise invalid_header("x-ms-write", context.header("x-ms-write") or "")
    first, last = formats.parse_range("x-ms-range", context.header("x-ms-range") or context.required("Range"))
    source_first, source_last = formats.parse_range("x-ms-source-range", context.required("x-ms-source-range"))
    if last is None or source_last is None or last - first != source_last - source_first:
        raise invalid_header("x-ms-source-range", context.required("x-ms-source-range"))
    size = last + 1 - first
    if size > content.MAXIMUM_BODY_BYTES:
        raise error("OutOfRangeInput")
    source = _source_file(backend, context, "x-ms-copy-source", Need("r", "o"))
    begin, end = bounds_of((source_first, source_last), source.size)
    if end - begin != size:
        raise error("InvalidRange")
    data = await content.work(size, lambda: _read(source.path, begin, size))
    entry, _ = await write_range(backend, context, first, data)
    return context.answer(201, after_write(entry))


async def rename_file(backend: Backend, context: Context) -> web.Response:
    """Rename File. Id and times stay, but for the change time."""
    return _rename(backend, context, of_directory=False)


async def rename_directory(backend: Backend, context: Context) -> web.Response:
    """Rename Directory, with all that is in it, in one step."""
    return _rename(backend, context, of_directory=True)


def _rename(backend: Backend, context: Context, *, of_directory: bool) -> web.Response:
    place = _source_place(backend, context, "x-ms-file-rename-source", Need("w", "o"))
    target = context.place
    if (place.account, place.share) != (target.account, target.share):
        raise error("InvalidHeaderValue", HeaderName="x-ms-file-rename-source", Reason="It is on another share.")
    source = backend.tree.find(place)
    if source is None or source.is_directory != of_directory or not place.names:
        raise error("ResourceNotFound")
    if target.names[: len(place.names)] == place.names and len(target.names) > len(place.names):
        raise error("InvalidInput")
    ignore_read_only = context.flag("x-ms-file-rename-ignore-readonly")
    if not of_directory:
        leases.check_write(source.lease, context.header("x-ms-source-lease-id"), noun="File")
    if "ReadOnly" in source.attributes and not ignore_read_only:
        raise error("ReadOnlyAttribute")
    location = _free_location(backend, context, source, ignore_read_only)
    written = _renamed_properties(backend, context, source)
    aside = None
    if of_directory and location.status is not None:
        # A directory cannot replace a file in one step.
        aside = backend.spool.path()
        Path(location.path).rename(aside)
        location = Location(location.path, None)
    entry = backend.tree.rename(source, target, location)
    if aside is not None:
        Path(aside).unlink()
    if written is not None:
        os.utime(entry.path, ns=(written, written))
        backend.tree.put(entry)
    return context.answer(200, {**describe(backend, entry), **WRITTEN})


def _free_location(backend: Backend, context: Context, source: Entry, ignore_read_only: bool) -> Location:
    """Where the target is; what stands there may be replaced. Raises StorageError 404, 409, 412."""
    location = backend.tree.locate(context.place)
    if location.path == source.path:
        # Only the case of the name changes.
        return Location(str(Path(location.path).with_name(context.names[-1])), None)
    if location.status is None:
        return location
    existing = backend.tree.entry(context.place, location.path, location.status)
    if existing.is_directory or not context.flag("x-ms-file-rename-replace-if-exists"):
        raise error("ResourceAlreadyExists")
    leases.check_write(existing.lease, context.header("x-ms-destination-lease-id"), noun="File")
    if "ReadOnly" in existing.attributes and not ignore_read_only:
        raise error("ReadOnlyAttribute")
    return location


def _renamed_properties(backend: Backend, context: Context, source: Entry) -> int | None:
    """Puts what the request's headers change into the source's properties; a new write time in nanoseconds."""
    properties = source.properties
    metadata = formats.parse_metadata(context.request.headers.items())
    if metadata:
        properties.metadata = metadata
    content_type = context.header("x-ms-content-type")
    if content_type is not None:
        properties.headers["Content-Type"] = content_type
    properties.attributes = parse_attributes(context, properties.attributes)
    properties.permission = parse_permission(backend, context, properties.permission)
    header = "x-ms-file-creation-time"
    properties.created = formats.parse_file_time(
        header, context.header(header), properties.created, preserved=properties.created
    )
    if context.header("x-ms-file-last-write-time") is None:
        return None
    return written_nanoseconds(context, source.last_write, preserved=source.last_write)


def _copied_properties(backend: Backend, context: Context, source: Entry, url: str) -> Properties:
    present = formats.now()
    metadata = formats.parse_metadata(context.request.headers.items())
    created = context.header("x-ms-file-creation-time")
    attributes = (context.header("x-ms-file-attributes") or "").lower()
    from_source = (context.header("x-ms-file-permission-copy-mode") or "override").lower() == "source"
    return replace(
        source.properties,
        created=source.properties.created
        if (created or "").lower() == "source"
        else formats.parse_file_time("x-ms-file-creation-time", created, present),
        changed=present,
        modified=present,
        metadata=metadata or source.properties.metadata,
        attributes=source.properties.attributes if attributes == "source" else parse_attributes(context, ""),
        permission=source.properties.permission if from_source else parse_permission(backend, context, ""),
        lease=None,
        copy={
            "x-ms-copy-completion-time": formats.http_date(present),
            "x-ms-copy-id": str(uuid.uuid4()),
            "x-ms-copy-progress": f"{source.size}/{source.size}",
            "x-ms-copy-source": url,
            "x-ms-copy-status": "success",
        },
        before=None,
    )


def _source_write_time(context: Context, source: Entry) -> int | None:
    asked = (context.header("x-ms-file-last-write-time") or "").lower()
    return source.last_write if asked == "source" else None


def _copy_content(source: Entry, temporary: str) -> None:
    """Only what was written: the rest of a file made of zeros takes no disk."""
    content.write_new(temporary, b"", source.size)
    reader = os.open(source.path, os.O_RDONLY | os.O_CLOEXEC)
    writer = os.open(temporary, os.O_WRONLY | os.O_CLOEXEC)
    try:
        for first, end in content.within(source.properties.ranges, 0, source.size, source.size):
            for position in range(first, end, _COPY_BYTES):
                piece = os.pread(reader, min(_COPY_BYTES, end - position), position)
                content.write_at(writer, piece, position)
    finally:
        os.close(reader)
        os.close(writer)


def _read(path: str, first: int, size: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.pread(descriptor, size, first)
    finally:
        os.close(descriptor)


def _source_file(backend: Backend, context: Context, header: str, need: Need) -> Entry:
    place = _source_place(backend, context, header, need)
    entry = backend.tree.find(place)
    if entry is None or entry.is_directory:
        raise error("ResourceNotFound")
    return entry


def _source_place(backend: Backend, context: Context, header: str, need: Need) -> Place:
    """The place that a header's address names, if the caller may use it. Raises StorageError."""
    text = context.required(header)
    parts = urlsplit(text)
    path = unquote(parts.path).lstrip("/")
    host = _ACCOUNT_HOST.match(parts.hostname or "")
    if host is not None:
        account = host[1]
    elif parts.netloc == context.request.host:
        account, _, path = path.partition("/")
    elif not parts.netloc:
        raise invalid_header(header, text)
    else:
        raise not_emulated(f"a source outside of its own file shares ({parts.netloc})")
    if "sharesnapshot" in parts.query.lower():
        raise not_emulated("share snapshots (sharesnapshot)")
    backend.authorizer.check_source(context, account, path, parts.query, need)
    share, _, rest = path.partition("/")
    check_share_name(share)
    return Place(account, share, split_path(rest, context.flag("x-ms-source-allow-trailing-dot")))

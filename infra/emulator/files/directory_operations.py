"""Operations on directories, and the list of what is in one."""

from __future__ import annotations

import asyncio
import base64
import binascii
import itertools
import os
import stat

from aiohttp import web

from infra.emulator.files import formats
from infra.emulator.files.backend import (
    WRITTEN,
    Backend,
    change_properties,
    describe,
    existing_directory,
    new_properties,
    versions,
    written_nanoseconds,
)
from infra.emulator.files.context import Context
from infra.emulator.files.exceptions import error
from infra.emulator.files.formats import element, name_element
from infra.emulator.files.share_operations import page_size
from infra.emulator.files.tree import Entry, Place

_EXTENSIONS = frozenset({"timestamps", "etag", "attributes", "permissionkey"})
# Since this version lists tell ids.
_IDS_SINCE = "2020-10-02"
# A directory that takes no more than this on disk is read sooner than a thread is asked to: some 300 names on ext4.
_SMALL_DIRECTORY_BYTES = 8 * 1024


async def create_directory(backend: Backend, context: Context) -> web.Response:
    """Create Directory; its parent must exist."""
    properties = new_properties(backend, context)
    written = written_nanoseconds(context, properties.modified)
    if not context.names:
        raise error("ResourceAlreadyExists")
    entry = backend.tree.make_directory(context.place, properties)
    os.utime(entry.path, ns=(written, written))
    backend.tree.put(entry)
    return context.answer(201, {**describe(backend, entry), **WRITTEN})


async def get_directory_properties(backend: Backend, context: Context) -> web.Response:
    """Get Directory Properties, and Get Directory Metadata, which answers the less of the two."""
    entry = existing_directory(backend, context)
    headers = formats.metadata_headers(entry.properties.metadata)
    if context.query.get("comp") == "metadata":
        return context.answer(200, {**versions(entry.properties), **headers})
    return context.answer(200, {**describe(backend, entry), **headers, "x-ms-server-encrypted": "true"})


async def delete_directory(backend: Backend, context: Context) -> web.Response:
    """Delete Directory; it must be empty."""
    entry = existing_directory(backend, context)
    if not context.names:
        raise error("ResourceTypeMismatch")
    if "ReadOnly" in entry.attributes:
        raise error("ReadOnlyAttribute")
    backend.tree.remove(entry)
    return context.answer(202)


async def set_directory_properties(backend: Backend, context: Context) -> web.Response:
    """Set Directory Properties: attributes, times, permission."""
    entry = existing_directory(backend, context)
    change_properties(backend, context, entry)
    if context.header("x-ms-file-last-write-time") is not None:
        written = written_nanoseconds(context, formats.now(), preserved=entry.last_write)
        os.utime(entry.path, ns=(written, written))
    backend.tree.put(entry)
    return context.answer(200, {**describe(backend, entry), **WRITTEN})


async def set_directory_metadata(backend: Backend, context: Context) -> web.Response:
    """Set Directory Metadata: replaces all of it."""
    entry = existing_directory(backend, context)
    entry.properties.metadata = formats.parse_metadata(context.request.headers.items())
    backend.tree.touch(entry)
    return context.answer(200, {**versions(entry.properties), **WRITTEN})


async def list_handles(backend: Backend, context: Context) -> web.Response:
    """List Handles: nobody has a file open over SMB here."""
    if backend.tree.find(context.place) is None:
        raise error("ResourceNotFound")
    return context.xml(formats.xml("<EnumerationResults><Entries /><NextMarker /></EnumerationResults>"))


async def close_handles(backend: Backend, context: Context) -> web.Response:
    """Force Close Handles: there are none to close."""
    context.required("x-ms-handle-id")
    if backend.tree.find(context.place) is None:
        raise error("ResourceNotFound")
    return context.answer(200, {"x-ms-number-of-handles-closed": "0", "x-ms-number-of-handles-failed": "0"})


async def list_directory(backend: Backend, context: Context) -> web.Response:
    """List Directories and Files, one directory deep, in the order of the names without regard to case."""
    query = context.query
    include = {word.strip().lower() for word in query.get("include", "").split(",") if word.strip()}
    if include - _EXTENSIONS:
        raise error("InvalidQueryParameterValue", QueryParameterName="include", QueryParameterValue=query["include"])
    size = page_size(query.get("maxresults"))
    start = _parse_marker(query.get("marker", ""))
    directory = existing_directory(backend, context)
    asked = (backend, directory.path, query.get("prefix", "").lower(), start, size)
    small = directory.status.st_size <= _SMALL_DIRECTORY_BYTES
    page, following = _read_page(*asked) if small else await asyncio.to_thread(_read_page, *asked)
    with_ids = context.version >= _IDS_SINCE
    items = "".join(_item(backend, context, name, path, status, include, with_ids) for name, path, status in page)
    path = "/".join(context.names)
    body = (
        f'<EnumerationResults ServiceEndpoint="{context.endpoint}" ShareName="{context.share}"'
        f" DirectoryPath={_attribute(path)}>"
    )
    if query.get("prefix"):
        body += name_element("Prefix", query["prefix"])
    body += "".join(
        element(tag, query[name])
        for tag, name in (("Marker", "marker"), ("MaxResults", "maxresults"))
        if query.get(name)
    )
    if with_ids:
        body += element("DirectoryId", backend.tree.id_of(directory.status) if context.names else "0")
    body += f"<Entries>{items}</Entries>" if items else "<Entries />"
    body += element("NextMarker", _marker(following)) + "</EnumerationResults>"
    return context.xml(formats.xml(body))


def _read_page(
    backend: Backend, directory: str, prefix: str, start: tuple[str, str], size: int
) -> tuple[list[tuple[str, str, os.stat_result]], str]:
    """Names, paths and states of a page, and the name that begins the next one ('': no more). May run in a thread."""
    names = [
        name
        for name in backend.tree.names_in(directory)
        if (name.lower(), name) >= start and name.lower().startswith(prefix)
    ]
    found = backend.tree.states_in(directory, names)
    page = list(itertools.islice(found, size))
    return page, next((name for name, _, _ in found), "")


def _item(
    backend: Backend,
    context: Context,
    name: str,
    path: str,
    status: os.stat_result,
    include: set[str],
    with_ids: bool,
) -> str:
    is_directory = stat.S_ISDIR(status.st_mode)
    properties = "" if is_directory else element("Content-Length", str(status.st_size))
    after = ""
    if include:
        place = Place(context.account, context.share, (*context.names, name))
        entry = backend.tree.entry(place, path, status)
        properties += _extended_properties(entry, include)
        if "attributes" in include:
            after += element("Attributes", entry.attributes)
        if "permissionkey" in include:
            after += element("PermissionKey", describe(backend, entry)["x-ms-file-permission-key"])
    tag = "Directory" if is_directory else "File"
    file_id = element("FileId", backend.tree.id_of(status)) if with_ids else ""
    inner = f"<Properties>{properties}</Properties>" if properties else "<Properties />"
    return f"<{tag}>{name_element('Name', name)}{file_id}{inner}{after}</{tag}>"


def _extended_properties(entry: Entry, include: set[str]) -> str:
    found = ""
    properties = entry.properties
    if "timestamps" in include:
        found += (
            element("CreationTime", formats.iso(properties.created))
            + element("LastAccessTime", formats.iso(entry.last_write))
            + element("LastWriteTime", formats.iso(entry.last_write))
            + element("ChangeTime", formats.iso(properties.changed))
            + element("Last-Modified", formats.http_date(properties.modified))
        )
    if "etag" in include:
        found += element("Etag", formats.etag(properties.modified))
    return found


def _attribute(value: str) -> str:
    escaped = value.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    return f'"{escaped}"'


def _marker(name: str) -> str:
    """Where a list goes on, in the service's form: 1!<length>!<base64 of the name>."""
    if not name:
        return ""
    encoded = base64.b64encode(name.encode("utf-8", "surrogateescape")).decode()
    return f"1!{len(encoded)}!{encoded}"


def _parse_marker(marker: str) -> tuple[str, str]:
    if not marker:
        return "", ""
    try:
        one, length, encoded = marker.split("!")
        name = base64.b64decode(encoded, validate=True).decode("utf-8", "surrogateescape")
        if one != "1" or int(length) != len(encoded):
            raise ValueError
    except (ValueError, binascii.Error):
        raise error("InvalidQueryParameterValue", QueryParameterName="marker", QueryParameterValue=marker) from None
    return name.lower(), name

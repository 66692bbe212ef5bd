"""What every operation of the file service works with, and what several of them need to say of a directory or file."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web

from infra.emulator.files import formats, leases
from infra.emulator.files.authorization import AccountDirectory, Authorizer, Need
from infra.emulator.files.content import Bodies, Spool
from infra.emulator.files.context import Context
from infra.emulator.files.exceptions import error, invalid_header, not_emulated
from infra.emulator.files.shares import Share, Shares
from infra.emulator.files.tree import Entry, Properties, Tree

_DEFAULT_PERMISSION = "O:S-1-5-18G:S-1-5-18D:(A;OICI;FA;;;BA)(A;OICI;0x1301bf;;;AU)(A;OICI;FA;;;SY)"
_ATTRIBUTES = {
    word.lower(): word
    for word in (
        "ReadOnly",
        "Hidden",
        "System",
        "Directory",
        "Archive",
        "Temporary",
        "Offline",
        "NotContentIndexed",
        "NoScrubData",
    )
}


@dataclass
class Backend:
    """The parts of the file service."""

    shares: Shares
    tree: Tree
    spool: Spool
    bodies: Bodies
    authorizer: Authorizer
    accounts: AccountDirectory


Handler = Callable[[Backend, Context], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Operation:
    """A handler and what the caller must be allowed."""

    run: Handler
    need: Need


def describe(backend: Backend, entry: Entry) -> dict[str, str]:
    """The headers that come with create, set properties, rename, GET and HEAD."""
    properties = entry.properties
    return {
        "ETag": formats.etag(properties.modified),
        "Last-Modified": formats.http_date(properties.modified),
        "x-ms-file-attributes": entry.attributes,
        "x-ms-file-change-time": formats.iso(properties.changed),
        "x-ms-file-creation-time": formats.iso(properties.created),
        "x-ms-file-id": backend.tree.id_of(entry.status),
        "x-ms-file-last-write-time": formats.iso(entry.last_write),
        "x-ms-file-parent-id": backend.tree.parent_id(entry),
        "x-ms-file-permission-key": properties.permission or permission_key(_DEFAULT_PERMISSION),
    }


def versions(properties: Properties) -> dict[str, str]:
    """ETag and Last-Modified alone."""
    return {
        "ETag": formats.etag(properties.modified),
        "Last-Modified": formats.http_date(properties.modified),
    }


WRITTEN = {"x-ms-request-server-encrypted": "true"}


def existing_directory(backend: Backend, context: Context) -> Entry:
    """The directory that is asked for. Raises StorageError 404."""
    entry = backend.tree.find(context.place)
    if entry is None or not entry.is_directory:
        raise error("ResourceNotFound")
    return entry


def existing_file(backend: Backend, context: Context) -> Entry:
    """The file that is asked for. Raises StorageError 404."""
    entry = backend.tree.find(context.place)
    if entry is None or entry.is_directory:
        raise error("ResourceNotFound")
    return entry


def check_writable(entry: Entry, lease_id: str | None) -> None:
    """Whether a file may be changed. Raises StorageError 409 read-only, 412 leased."""
    leases.check_write(entry.lease, lease_id, noun="File")
    if "ReadOnly" in entry.attributes:
        raise error("ReadOnlyAttribute")


def parse_attributes(context: Context, old: str) -> str:
    """The attributes that x-ms-file-attributes asks for; '' is what a file or directory has anyway."""
    text = context.header("x-ms-file-attributes")
    if text is None or text.lower() == "preserve":
        return old
    words = [word for word in re.split(r"[|,\s]+", text) if word]
    if [word.lower() for word in words] in (["none"], ["directory"]):
        return ""
    if not words or any(word.lower() not in _ATTRIBUTES for word in words):
        raise invalid_header("x-ms-file-attributes", text)
    return " | ".join(_ATTRIBUTES[word.lower()] for word in words)


def parse_permission(backend: Backend, context: Context, old: str) -> str:
    """The permission key that the request asks for; '' is the inherited one."""
    for name in ("x-ms-mode", "x-ms-owner", "x-ms-group", "x-ms-file-file-type"):
        if context.header(name) is not None:
            raise not_emulated(f"NFS properties ({name})")
    if (context.header("x-ms-file-permission-format") or "Sddl").lower() != "sddl":
        raise not_emulated("security descriptors in binary form (x-ms-file-permission-format)")
    key = context.header("x-ms-file-permission-key")
    if key is not None and key.lower() != "preserve":
        known = backend.shares.get(context.account, context.share).permissions
        if key not in known and key != permission_key(_DEFAULT_PERMISSION):
            raise error("FileInvalidPermissionKey")
        return key
    text = context.header("x-ms-file-permission")
    if text is None or text.lower() == "preserve":
        return old
    if text.lower() == "inherit":
        return ""
    return remember_permission(backend, context, text)


def remember_permission(backend: Backend, context: Context, descriptor: str) -> str:
    """The key of a security descriptor, which the share remembers."""
    share = backend.shares.get(context.account, context.share)
    key = permission_key(descriptor)
    if share.permissions.get(key) != descriptor:
        share.permissions[key] = descriptor
        backend.shares.put(context.account, context.share, share)
    return key


def permission_of(share: Share, key: str) -> str:
    """The security descriptor of a key. Raises StorageError 400."""
    if key == permission_key(_DEFAULT_PERMISSION):
        return _DEFAULT_PERMISSION
    if key not in share.permissions:
        raise error("FileInvalidPermissionKey")
    return share.permissions[key]


def permission_key(descriptor: str) -> str:
    """Two numbers, as the service makes its keys look; equal descriptors have equal keys."""
    digest = hashlib.sha256(descriptor.encode()).digest()
    return f"{int.from_bytes(digest[:8], 'big')}*{int.from_bytes(digest[8:16], 'big')}"


def new_properties(backend: Backend, context: Context) -> Properties:
    """The properties of something that is created now, as the request's headers want them."""
    if (context.header("x-ms-file-property-semantics") or "New").lower() != "new":
        raise not_emulated("x-ms-file-property-semantics: Restore")
    present = formats.now()
    return Properties(
        created=formats.parse_file_time("x-ms-file-creation-time", context.header("x-ms-file-creation-time"), present),
        changed=formats.parse_file_time("x-ms-file-change-time", context.header("x-ms-file-change-time"), present),
        modified=present,
        metadata=formats.parse_metadata(context.request.headers.items()),
        attributes=parse_attributes(context, ""),
        permission=parse_permission(backend, context, ""),
    )


def written_nanoseconds(context: Context, default: int, *, preserved: int | None = None) -> int:
    """The Unix time that x-ms-file-last-write-time asks for. `default`, `preserved` are ticks."""
    header = "x-ms-file-last-write-time"
    ticks = formats.parse_file_time(header, context.header(header), default, preserved=preserved)
    return formats.to_nanoseconds(ticks)


def change_properties(backend: Backend, context: Context, entry: Entry) -> None:
    """What Set Properties, for directories and files alike, changes in the entry's properties; not yet stored."""
    properties = entry.properties
    properties.attributes = parse_attributes(context, properties.attributes)
    properties.permission = parse_permission(backend, context, properties.permission)
    header = "x-ms-file-creation-time"
    properties.created = formats.parse_file_time(
        header, context.header(header), properties.created, preserved=properties.created
    )
    header = "x-ms-file-change-time"
    present = formats.now()
    properties.changed = formats.parse_file_time(header, context.header(header), present, preserved=present)
    properties.modified = present

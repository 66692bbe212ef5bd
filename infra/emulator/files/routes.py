"""Which operation a request asks for, and what its caller must be allowed.

Permissions: "Create an account SAS" and "Create a service SAS" of the storage services REST reference.
"""

from __future__ import annotations

from infra.emulator.files import copy_operations as copies
from infra.emulator.files import directory_operations as directories
from infra.emulator.files import file_operations as files
from infra.emulator.files import range_operations as ranges
from infra.emulator.files import share_operations as shares
from infra.emulator.files.authorization import Need
from infra.emulator.files.backend import Handler, Operation
from infra.emulator.files.context import Context
from infra.emulator.files.exceptions import StorageError, error, not_emulated
from infra.emulator.files.lease_operations import lease_file, lease_share


def _service(run: Handler, permissions: str) -> Operation:
    return Operation(run, Need(permissions, "s", service_sas=False))


def _share(run: Handler, permissions: str) -> Operation:
    return Operation(run, Need(permissions, "c", service_sas=False))


def _inside(run: Handler, permissions: str) -> Operation:
    return Operation(run, Need(permissions, "o"))


# By kind of resource, method and comp. HEAD is answered as GET, but for files.
_OPERATIONS: dict[tuple[str, str, str], Operation] = {
    ("service", "GET", "list"): _service(shares.list_shares, "l"),
    ("service", "GET", "properties"): _service(shares.get_service_properties, "r"),
    ("share", "PUT", ""): _share(shares.create_share, "cw"),
    ("share", "GET", ""): _share(shares.get_share_properties, "r"),
    ("share", "DELETE", ""): _share(shares.delete_share, "d"),
    ("share", "PUT", "properties"): _share(shares.set_share_properties, "w"),
    ("share", "PUT", "metadata"): _share(shares.set_share_metadata, "w"),
    ("share", "GET", "metadata"): _share(shares.get_share_properties, "r"),
    ("share", "PUT", "acl"): _share(shares.set_share_acl, "w"),
    ("share", "GET", "acl"): _share(shares.get_share_acl, "r"),
    ("share", "GET", "stats"): _share(shares.get_share_stats, "r"),
    ("share", "PUT", "lease"): _share(lease_share, "wd"),
    ("share", "PUT", "filepermission"): Operation(shares.create_permission, Need("wc", "co")),
    ("share", "GET", "filepermission"): Operation(shares.get_permission, Need("r", "co")),
    ("directory", "PUT", ""): _inside(directories.create_directory, "cw"),
    ("directory", "GET", ""): _inside(directories.get_directory_properties, "r"),
    ("directory", "DELETE", ""): _inside(directories.delete_directory, "d"),
    ("directory", "PUT", "properties"): _inside(directories.set_directory_properties, "w"),
    ("directory", "PUT", "metadata"): _inside(directories.set_directory_metadata, "w"),
    ("directory", "GET", "metadata"): _inside(directories.get_directory_properties, "r"),
    ("directory", "GET", "list"): Operation(directories.list_directory, Need("l", "co")),
    ("directory", "GET", "listhandles"): _inside(directories.list_handles, "l"),
    ("directory", "PUT", "forceclosehandles"): _inside(directories.close_handles, "w"),
    ("directory", "PUT", "rename"): _inside(copies.rename_directory, "w"),
    ("file", "PUT", ""): _inside(files.create_file, "cw"),
    ("file", "GET", ""): _inside(ranges.get_file, "r"),
    ("file", "HEAD", ""): _inside(files.get_file_properties, "r"),
    ("file", "DELETE", ""): _inside(files.delete_file, "d"),
    ("file", "PUT", "properties"): _inside(files.set_file_properties, "w"),
    ("file", "PUT", "metadata"): _inside(files.set_file_metadata, "w"),
    ("file", "GET", "metadata"): _inside(files.get_file_properties, "r"),
    ("file", "PUT", "range"): _inside(ranges.put_range, "w"),
    ("file", "GET", "rangelist"): _inside(ranges.list_ranges, "r"),
    ("file", "PUT", "lease"): _inside(lease_file, "w"),
    ("file", "PUT", "copy"): _inside(copies.abort_copy, "w"),
    ("file", "PUT", "rename"): _inside(copies.rename_file, "w"),
    ("file", "GET", "listhandles"): _inside(directories.list_handles, "l"),
    ("file", "PUT", "forceclosehandles"): _inside(directories.close_handles, "w"),
}
_COPY = _inside(copies.copy_file, "cw")
_PUT_RANGE_FROM_URL = _inside(copies.put_range_from_url, "w")
_METHODS = frozenset({"GET", "HEAD", "PUT", "DELETE", "POST", "OPTIONS", "PATCH"})
_NOT_EMULATED = {
    ("service", "PUT", "properties"): "changing the properties of the file service",
    ("service", "POST", "userdelegationkey"): "user delegation keys",
    ("share", "PUT", "snapshot"): "share snapshots",
    ("share", "PUT", "undelete"): "soft delete of shares",
}
_CONDITIONS = ("If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since")


def operation_of(context: Context) -> Operation:
    """The operation. Raises StorageError 400, 405 for what Azure does not have and 501 for what is not done here."""
    kind = _kind(context)
    comp = context.query.get("comp", "").lower()
    method = context.request.method
    for name in ("sharesnapshot", "prevsharesnapshot"):
        if name in context.query:
            raise not_emulated(f"share snapshots ({name})")
    for name in _CONDITIONS:
        if name in context.request.headers:
            raise not_emulated(f"conditional requests ({name})")
    if kind == "file" and method == "PUT" and "x-ms-copy-source" in context.request.headers:
        if comp == "range":
            return _PUT_RANGE_FROM_URL
        if not comp:
            return _COPY
    operation = _OPERATIONS.get((kind, method, comp))
    if operation is None and method == "HEAD":
        operation = _OPERATIONS.get((kind, "GET", comp))
    if operation is None:
        raise _unknown(context, kind, method, comp)
    return operation


def _kind(context: Context) -> str:
    restype = context.query.get("restype", "").lower()
    comp = context.query.get("comp", "").lower()
    if not context.share:
        if restype == "service" or (not restype and comp == "list"):
            return "service"
    elif restype == "share" and not context.names:
        return "share"
    elif restype == "directory":
        return "directory"
    elif restype in ("symboliclink", "hardlink"):
        raise not_emulated(f"NFS links (restype={restype})")
    elif not restype:
        if context.names:
            return "file"
        if comp in ("listhandles", "forceclosehandles"):
            return "directory"
    raise error("InvalidQueryParameterValue", QueryParameterName="restype", QueryParameterValue=restype)


def _unknown(context: Context, kind: str, method: str, comp: str) -> StorageError:
    what = _NOT_EMULATED.get((kind, method, comp))
    if what is not None:
        return not_emulated(what)
    if any(known[0] == kind and known[2] == comp for known in (*_OPERATIONS, *_NOT_EMULATED)):
        return error("UnsupportedHttpVerb")
    return error(
        "InvalidQueryParameterValue", QueryParameterName="comp", QueryParameterValue=context.query.get("comp", "")
    )

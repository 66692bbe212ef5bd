"""comp=lease, for shares and for files."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from aiohttp import web

from infra.emulator.files import leases
from infra.emulator.files.backend import Backend, existing_file, versions
from infra.emulator.files.context import Context
from infra.emulator.files.exceptions import error, invalid_header
from infra.emulator.files.formats import etag, http_date, parse_count


async def lease_share(backend: Backend, context: Context) -> web.Response:
    """Lease Share: fixed or infinite. The entity tag stays."""
    share = backend.shares.get(context.account, context.share)
    share.lease, status, headers = _apply(context, backend.shares.lease(share), of_file=False)
    backend.shares.put(context.account, context.share, share)
    seen = {"ETag": etag(share.modified), "Last-Modified": http_date(share.modified)}
    return context.answer(status, {**seen, **headers})


async def lease_file(backend: Backend, context: Context) -> web.Response:
    """Lease File: infinite only. The entity tag stays."""
    entry = existing_file(backend, context)
    entry.properties.lease, status, headers = _apply(context, entry.lease, of_file=True)
    backend.tree.put(entry)
    return context.answer(status, {**versions(entry.properties), **headers})


def _apply(
    context: Context, lease: leases.Lease | None, *, of_file: bool
) -> tuple[dict[str, Any] | None, int, dict[str, str]]:
    """The lease as it is stored after the action, and the answer's status and headers."""
    action = context.required("x-ms-lease-action").lower()
    if action == "acquire":
        lease = leases.acquire(lease, _duration(context, of_file), _lease_id(context, "x-ms-proposed-lease-id"))
        return asdict(lease), 201, {"x-ms-lease-id": lease.id}
    if action == "renew" and not of_file:
        lease = leases.renew(lease, _required_id(context, "x-ms-lease-id"))
        return asdict(lease), 200, {"x-ms-lease-id": lease.id}
    if action == "change":
        proposed = _required_id(context, "x-ms-proposed-lease-id")
        lease = leases.change(lease, _required_id(context, "x-ms-lease-id"), proposed)
        return asdict(lease), 200, {"x-ms-lease-id": lease.id}
    if action == "release":
        leases.release(lease, _required_id(context, "x-ms-lease-id"))
        return None, 200, {"x-ms-lease-time": "0"}
    if action == "break":
        given = _lease_id(context, "x-ms-lease-id")
        if given is not None and lease is not None and given != lease.id:
            raise error("LeaseIdMismatchWithLeaseOperation")
        header = "x-ms-lease-break-period"
        period = None if of_file else parse_count(header, context.header(header), 0, 60)
        lease, seconds = leases.break_(lease, period)
        return asdict(lease), 202, {"x-ms-lease-time": str(seconds)}
    raise invalid_header("x-ms-lease-action", action)


def _duration(context: Context, of_file: bool) -> int:
    header = "x-ms-lease-duration"
    text = context.required(header)
    seconds = parse_count(header, text, -1, 60)
    if seconds is None or (seconds != leases.INFINITE and (of_file or seconds < 15)):
        raise invalid_header(header, text)
    return seconds


def _lease_id(context: Context, header: str) -> str | None:
    text = context.header(header)
    if text is None:
        return None
    lease_id = leases.parse_id(text)
    if lease_id is None:
        raise invalid_header(header, text)
    return lease_id


def _required_id(context: Context, header: str) -> str:
    context.required(header)
    lease_id = _lease_id(context, header)
    assert lease_id is not None
    return lease_id

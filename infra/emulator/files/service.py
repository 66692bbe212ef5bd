"""The file service of every storage account: HTTP in front, and what other rooms ask of its shares.

A request that was answered survives the death of the process. Used from one thread, the event loop's.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import aiohttp
from aiohttp import web

from infra.emulator.fault_switch import Fault
from infra.emulator.files import formats, leases
from infra.emulator.files.authorization import AccountDirectory, Authorizer
from infra.emulator.files.backend import Backend
from infra.emulator.files.content import Bodies, Spool
from infra.emulator.files.context import Context, check_version, is_version, new_request_id, parse_query
from infra.emulator.files.exceptions import StorageError, error, of_fault
from infra.emulator.files.names import check_share_name, split_path
from infra.emulator.files.routes import operation_of
from infra.emulator.files.shares import Shares
from infra.emulator.files.tree import Tree, in_service_words
from infra.emulator.store import Store

log = logging.getLogger(__name__)


class FileService:
    """Azure Files under `root`: the files of a share are real files in root/<account>/<share>."""

    def __init__(self, root: Path, store: Store, accounts: AccountDirectory) -> None:
        """Made inside a running event loop. Removes what an earlier process left unfinished under `root`."""
        shares = Shares(root, store)
        self._shares = shares
        self._backend = Backend(
            shares=shares,
            tree=Tree(root, store),
            spool=Spool(root),
            bodies=Bodies(),
            authorizer=Authorizer(accounts, shares),
            accounts=accounts,
        )

    async def handle(self, request: web.Request, account: str, path: str) -> web.StreamResponse:
        """Answers a request. `path` is what follows the account, percent-encoded as sent: share/directory/file.

        Never raises for what a client sent: errors are answered in the service's XML.
        """
        context = Context(
            request=request,
            account=account,
            share="",
            names=(),
            query=parse_query(request.rel_url.raw_query_string),
            endpoint=_endpoint(request, account),
            request_id=new_request_id(),
        )
        try:
            return await self._answer(context, path)
        except StorageError as refusal:
            return _refuse(context, refusal)
        except (ConnectionError, aiohttp.ClientError) as problem:
            # Nothing was changed, and nobody is there to be told.
            log.info("%s %s: the client went away: %s", request.method, request.path, problem)
            return _refuse(context, error("InvalidInput"))
        except OSError as problem:
            log.warning("%s %s: %s", request.method, request.path, problem)
            return _refuse(context, in_service_words(problem))

    def refuse(self, request: web.Request, fault: Fault) -> web.StreamResponse:
        """An error of the fault switch, as the service words it."""
        context = Context(request, "", "", (), {}, "", request_id=new_request_id())
        version = request.headers.get("x-ms-version", "")
        context.version = version if is_version(version) else context.version
        return _refuse(context, of_fault(fault))

    async def _answer(self, context: Context, path: str) -> web.StreamResponse:
        try:
            context.share, _, rest = unquote(path, errors="strict").strip("/").partition("/")
        except UnicodeDecodeError:
            raise error("InvalidUri") from None
        headers = context.request.headers
        version = headers.get("x-ms-version") or context.query.get("sv")
        if version:
            context.version = check_version(version)
        context.names = split_path(rest, context.flag("x-ms-allow-trailing-dot"))
        operation = operation_of(context)
        context.grant = self._backend.authorizer.check(context, operation.need)
        if context.share:
            check_share_name(context.share)
        return await operation.run(self._backend, context)

    def create_share(self, account: str, name: str, quota_gib: int, metadata: dict[str, str] | None = None) -> None:
        """A new, empty share. Raises StorageError: 400 for a name or quota that Azure refuses, 409 when it exists."""
        self._shares.create(account, name, quota_gib, metadata)

    def delete_share(self, account: str, name: str) -> None:
        """Removes a share with its files. Raises StorageError: 404, 412 while it is leased."""
        share = self._shares.get(account, name)
        leases.check_write(self._shares.lease(share), None, noun="Share")
        self._shares.delete(account, name)

    def set_share(
        self,
        account: str,
        name: str,
        *,
        quota_gib: int | None = None,
        metadata: dict[str, str] | None = None,
        access_tier: str | None = None,
    ) -> None:
        """Changes a share's quota, metadata or access tier; None leaves it. Raises StorageError 404."""
        share = self._shares.get(account, name)
        if access_tier is not None and access_tier != share.access_tier:
            share.access_tier, share.access_tier_changed = access_tier, formats.now()
        share.quota_gib = quota_gib if quota_gib is not None else share.quota_gib
        share.metadata = metadata if metadata is not None else share.metadata
        self._shares.touch(account, name, share)

    def share_exists(self, account: str, name: str) -> bool:
        """Whether there is such a share."""
        return self._shares.find(account, name) is not None

    def list_shares(self, account: str) -> list[str]:
        """The names of an account's shares, sorted."""
        return [name for name, _ in self._shares.list(account)]

    def share_properties(self, account: str, name: str) -> dict[str, Any]:
        """quota_gib, etag, last_modified (ISO 8601), access_tier, access_tier_changed (ISO 8601), lease_status,
        lease_state, metadata. Raises StorageError 404."""
        share = self._shares.get(account, name)
        lease = leases.headers(self._shares.lease(share))
        return {
            "quota_gib": share.quota_gib,
            "etag": formats.etag(share.modified),
            "last_modified": formats.iso(share.modified),
            "access_tier": share.access_tier,
            "access_tier_changed": formats.iso(share.access_tier_changed),
            "lease_status": lease["x-ms-lease-status"],
            "lease_state": lease["x-ms-lease-state"],
            "metadata": dict(share.metadata),
        }

    def share_folder(self, account: str, name: str) -> Path:
        """The local folder with the share's files; a process may work in it. Raises StorageError 404."""
        self._shares.get(account, name)
        return self._shares.folder(account, name).resolve()

    def delete_account(self, account: str) -> None:
        """Removes every share of an account, leased or not."""
        for name in self.list_shares(account):
            self._shares.delete(account, name)
        shutil.rmtree(self._shares.root / account, ignore_errors=True)


def _endpoint(request: web.Request, account: str) -> str:
    base = f"{request.scheme}://{request.host}/"
    return base if request.host.startswith(f"{account}.") else f"{base}{account}/"


def _refuse(context: Context, refusal: StorageError) -> web.Response:
    headers = {"x-ms-error-code": refusal.code, **refusal.headers}
    if context.request.method == "HEAD":
        return context.answer(refusal.status, headers)
    body = refusal.as_xml(context.request_id, formats.iso(formats.now()))
    return context.answer(refusal.status, headers, body, "application/xml")

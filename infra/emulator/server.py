"""The stand-in's one TLS port: tells by the first segment of the path which service is asked, and hands over.

/{tenant}/...                    the token endpoint
/subscriptions, /providers, ...  the resource manager (and the log stream of container apps)
/stand-in/...                    the stand-in's own path, which Azure does not have
/{account}/...                   the file service; also any path under the host {account}.file.core.localhost
"""

from __future__ import annotations

import logging
import re
import socket
from pathlib import Path
from typing import Any

from aiohttp import web

from infra.emulator import identity as entra
from infra.emulator import ports
from infra.emulator.certificate import ensure_certificate, server_context
from infra.emulator.containerapps import ContainerAppsProvider
from infra.emulator.exceptions import AzureError, NotEmulated
from infra.emulator.fault_switch import FaultSwitch
from infra.emulator.faults import Faults
from infra.emulator.files import FileService
from infra.emulator.identity import FederatedCredential, Identity
from infra.emulator.operationalinsights import OperationalInsightsProvider
from infra.emulator.operations import Operations
from infra.emulator.provider import Cloud
from infra.emulator.resourcemanager import ResourceManager
from infra.emulator.storage import StorageProvider
from infra.emulator.store import Store

log = logging.getLogger(__name__)

_RESOURCE_MANAGER = frozenset({"subscriptions", "providers", "tenants", "locations", "metadata"})
_AUTHORITY = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|common|organizations")
# Microsoft Graph, which clients look for at the address that /metadata/endpoints gives. No account has such a name.
_GRAPH = "v1.0"
_FILE_HOST = re.compile(r"([a-z0-9]{3,24})\.file\.(core\.)?localhost(:\d+)?")


class PortTaken(Exception):
    """The port is not free."""


class StandIn:
    """The whole cloud over one state folder. Made inside a running event loop."""

    def __init__(self, state: Path, port: int | None, rules: Faults) -> None:
        """`port` None: the port of the last time in this folder, or a free one the first time. Raises PortTaken."""
        self.state = state
        self._switch = FaultSwitch(rules)
        self._store = Store(state / "state.db")
        self._socket = _listen(port if port is not None else self._store.get("settings", "port"))
        self.port: int = self._socket.getsockname()[1]
        self._store.put("settings", "port", self.port)
        self.base_url = f"https://127.0.0.1:{self.port}"
        self.authority, chain, key = ensure_certificate(state / "tls")
        self._ssl = server_context(chain, key)
        self.identity = Identity(self._store, self.base_url, rules)
        self._operations = Operations(self._store)
        accounts = _Accounts(self.identity)
        self._files = FileService(state / "shares", self._store, accounts)
        cloud = Cloud(
            state=state,
            store=self._store,
            operations=self._operations,
            files=self._files,
            base_url=self.base_url,
            certificate=chain,
            private_key=key,
            subscription=entra.SUBSCRIPTION,
            tenant=entra.TENANT,
            faults=rules,
        )
        accounts.storage = StorageProvider(cloud)
        self._container_apps = ContainerAppsProvider(cloud)
        providers = (accounts.storage, OperationalInsightsProvider(cloud), self._container_apps)
        self._resource_manager = ResourceManager(cloud, self.identity, providers)
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Takes up what was going on when the folder was last served, then listens."""
        await self._resource_manager.start()
        # Sizes are the services' own rules: the file service streams, the resource manager refuses over 4 MiB.
        application = web.Application(client_max_size=0)
        application.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.SockSite(self._runner, self._socket, ssl_context=self._ssl, backlog=512).start()

    async def stop(self) -> None:
        """Ends everything that start() and the requests have started, within 10 s."""
        if self._runner is not None:
            await self._runner.cleanup()
        await self._resource_manager.stop()
        await self._operations.close()
        self._store.close()

    def announcement(self) -> dict[str, str]:
        """What a client must be told."""
        return {
            "authority": self.base_url,
            "resource_manager": self.base_url,
            "certificate": str(self.authority.resolve()),
            "tenant": entra.TENANT,
            "subscription": entra.SUBSCRIPTION,
            "client_id": entra.WRITER.client_id,
            "client_secret": self.identity.secret(entra.WRITER),
            "reader_client_id": entra.READER.client_id,
            "reader_client_secret": self.identity.secret(entra.READER),
        }

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        host = _FILE_HOST.fullmatch(request.host)
        if host is not None:
            return await self._file(request, host[1], request.rel_url.raw_path.lstrip("/"))
        first, _, rest = request.rel_url.raw_path.lstrip("/").partition("/")
        word = first.lower()
        if word in _RESOURCE_MANAGER:
            if self._container_apps.handles(request.path):
                answer = self._container_apps.log_stream
            else:
                answer = self._resource_manager.handle
            return await self._switch.through(
                request, "resource-manager", self._resource_manager, lambda: answer(request)
            )
        if word == "stand-in":
            return await self._own(request, rest)
        if _AUTHORITY.fullmatch(word):
            return await self._switch.through(request, "identity", self.identity, lambda: self.identity.handle(request))
        if word == _GRAPH:
            refusal = NotEmulated(f"Microsoft Graph ({request.path})")
            return web.json_response({"error": refusal.as_dict()}, status=refusal.status)
        if not first:
            return web.json_response({"service": "inferops stand-in for Azure", "apps": "/stand-in/apps"})
        return await self._file(request, first, rest)

    async def _file(self, request: web.Request, account: str, path: str) -> web.StreamResponse:
        return await self._switch.through(
            request, "files", self._files, lambda: self._files.handle(request, account, path)
        )

    async def _own(self, request: web.Request, rest: str) -> web.Response:
        """The stand-in's own path: what a person does elsewhere than in the resource manager."""
        if rest == "apps" and request.method == "GET":
            return web.json_response(self._container_apps.pages())
        if rest == "federated-credentials" and request.method == "POST":
            return self._refused_to(request) or await self._federate(request)
        if rest == "faults" or rest.startswith("faults/"):
            return self._refused_to(request) or await self._switch.answer(request, rest.removeprefix("faults"))
        return web.json_response({"error": f"There is no {request.method} /stand-in/{rest}."}, status=404)

    def _refused_to(self, request: web.Request) -> web.Response | None:
        """The refusal of a caller that may not change the stand-in itself."""
        try:
            caller = self.identity.principal(request.headers.get("Authorization"))
        except AzureError as refusal:
            return web.json_response({"error": refusal.as_dict()}, status=refusal.status)
        if not caller.may_write:
            return web.json_response({"error": "The reader may not change the stand-in."}, status=403)
        return None

    async def _federate(self, request: web.Request) -> web.Response:
        try:
            asked: dict[str, Any] = await request.json()
            credential = FederatedCredential(str(asked["client_id"]), str(asked["issuer"]), str(asked["subject"]))
        except (ValueError, KeyError, TypeError):
            return web.json_response({"error": "Needs JSON with client_id, issuer and subject."}, status=400)
        self.identity.federate(credential)
        return web.json_response(vars(credential), status=201)


class _Accounts:
    """What the file service asks about accounts and callers: keys of Microsoft.Storage, tokens of the identity."""

    storage: StorageProvider

    def __init__(self, identity: Identity) -> None:
        self._identity = identity

    def keys(self, account: str) -> list[bytes] | None:
        return self.storage.keys(account)

    def allows_shared_key(self, account: str) -> bool:
        return self.storage.allows_shared_key(account)

    def token_may(self, token: str, action: str) -> bool:
        principal = self._identity.principal_of(token, entra.STORAGE_AUDIENCES)
        return principal.may_write or action in ("read", "read-shares")


def _listen(port: int | None) -> socket.socket:
    if port is None:
        return ports.bound_to_any()
    try:
        return ports.bound(port)
    except OSError as problem:
        raise PortTaken(
            f"Port {port} of 127.0.0.1 is not free ({problem.strerror}). End what uses it, or choose another by --port."
        ) from None

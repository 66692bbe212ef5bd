"""The file service alone over real TLS, in a thread of the test process: its own loop, one account, a known key."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from azure.core.credentials import AccessToken
from azure.storage.fileshare import ShareClient, ShareServiceClient
from infra.emulator.certificate import ensure_certificate, server_context
from infra.emulator.exceptions import AzureError
from infra.emulator.files import FileService
from infra.emulator.store import Store

ACCOUNT = "teststore"
OTHER_ACCOUNT = "otherstore"
KEY = base64.b64encode(b"k" * 64).decode()
SECOND_KEY = base64.b64encode(b"s" * 64).decode()


@dataclass
class Accounts:
    """Two accounts with the same keys; tokens are plain words."""

    shared_key_allowed: bool = True
    asked: list[tuple[str, str]] = field(default_factory=list)

    def keys(self, account: str) -> list[bytes] | None:
        if account not in (ACCOUNT, OTHER_ACCOUNT):
            return None
        return [base64.b64decode(KEY), base64.b64decode(SECOND_KEY)]

    def allows_shared_key(self, account: str) -> bool:
        return self.shared_key_allowed

    def token_may(self, token: str, action: str) -> bool:
        self.asked.append((token, action))
        if token == "expired":
            raise AzureError(401, "ExpiredAuthenticationToken", "expired")
        if token == "wrong-audience":
            raise AzureError(401, "InvalidAuthenticationTokenAudience", "audience")
        if token not in ("writer", "reader"):
            raise AzureError(401, "InvalidAuthenticationToken", "unknown")
        return token == "writer" or action == "read"


@dataclass
class Token:
    """A credential that always has this token."""

    token: str

    def get_token(self, *scopes: str, **_: Any) -> AccessToken:
        return AccessToken(self.token, 4_000_000_000)


@dataclass
class RunningFiles:
    """A running file service and how to reach it."""

    service: FileService
    accounts: Accounts
    root: Path
    port: int
    certificate: Path
    loop: asyncio.AbstractEventLoop

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}/{ACCOUNT}"

    @property
    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.certificate)

    def options(self) -> dict[str, Any]:
        """What every client of the SDK is given: the certificate, and no patience with failures."""
        return {"connection_verify": str(self.certificate), "retry_total": 0}

    def client(self, credential: Any = None, account: str = ACCOUNT, **options: Any) -> ShareServiceClient:
        url = f"https://127.0.0.1:{self.port}/{account}"
        if credential is None:
            credential = {"account_name": account, "account_key": KEY}
        return ShareServiceClient(url, credential, **self.options(), **options)

    def share(self, name: str) -> ShareClient:
        """A new share."""
        client = self.client().get_share_client(name)
        client.create_share()
        return client

    def folder(self, share: str) -> Path:
        return self.root / ACCOUNT / share


@contextlib.contextmanager
def running_files(state: Path) -> Iterator[RunningFiles]:
    """Serves until the block ends."""
    started: list[RunningFiles] = []
    ready, stop = threading.Event(), threading.Event()

    async def serve() -> None:
        authority, chain, key = ensure_certificate(state / "tls")
        store = Store(state / "state.db")
        accounts = Accounts()
        service = FileService(state / "shares", store, accounts)

        async def handle(request: web.Request) -> web.StreamResponse:
            host = request.host.split(".file.localhost", 1)
            path = request.rel_url.raw_path.lstrip("/")
            if len(host) == 2:
                return await service.handle(request, host[0], path)
            account, _, rest = path.partition("/")
            return await service.handle(request, account, rest)

        application = web.Application(client_max_size=0)
        application.router.add_route("*", "/{path:.*}", handle)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=server_context(chain, key))
        await site.start()
        port = runner.addresses[0][1]
        loop = asyncio.get_running_loop()
        started.append(RunningFiles(service, accounts, state / "shares", port, authority, loop))
        ready.set()
        await loop.run_in_executor(None, stop.wait)
        await runner.cleanup()
        store.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert ready.wait(20), "the file service did not start"
    try:
        yield started[0]
    finally:
        stop.set()
        thread.join(20)

"""The file service alone over real TLS: its own loop in a thread of the test process, two accounts, known keys.

`python -m tests.files_service FOLDER` serves in a process of its own, which may be killed and measured.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

import httpx
from aiohttp import web
from azure.core.credentials import AccessToken
from azure.storage.fileshare import ShareClient, ShareServiceClient

from infra.emulator.certificate import ensure_certificate, server_context
from infra.emulator.exceptions import AzureError
from infra.emulator.files import FileService
from infra.emulator.store import Store

Result = TypeVar("Result")
ACCOUNT = "teststore"
OTHER_ACCOUNT = "otherstore"
KEY = base64.b64encode(b"k" * 64).decode()
SECOND_KEY = base64.b64encode(b"s" * 64).decode()


@dataclass
class Accounts:
    """Two accounts with the same keys; tokens are plain words, and what a test adds to `roles`.

    `data` is Storage File Data Privileged Contributor, which has no right to shares themselves.
    """

    shared_key_allowed: bool = True
    roles: dict[str, str] = field(default_factory=lambda: {name: name for name in ("writer", "reader", "data")})
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
        if token not in self.roles:
            raise AzureError(401, "InvalidAuthenticationToken", "unknown")
        may = {"writer": True, "reader": action.startswith("read"), "data": not action.endswith("-shares")}
        return may[self.roles[token]]


@dataclass
class Token:
    """A credential that always has this token."""

    token: str

    def get_token(self, *scopes: str, **_: Any) -> AccessToken:
        return AccessToken(self.token, 4_000_000_000)


@dataclass
class Reachable:
    """How to reach a running file service, and where its files are."""

    root: Path
    port: int
    certificate: Path

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

    def call(
        self,
        method: str,
        path: str,
        headers: dict[str, str] | None = None,
        body: bytes = b"",
        account: str = ACCOUNT,
        version: str = "2026-10-06",
    ) -> httpx.Response:
        """A request signed with the account's key; `path` is what follows the account, encoded, with its query."""
        sent = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": version, **(headers or {})}
        path, _, query = path.partition("?")
        url = f"/{account}{path}"
        sent["Authorization"] = shared_key(method, url, query, sent, len(body), account)
        address = f"https://127.0.0.1:{self.port}{url}" + (f"?{query}" if query else "")
        with httpx.Client(verify=self.trust, timeout=60) as client:
            request = client.build_request(method, address, content=body or None, headers=sent)
            if "Content-Type" not in sent:
                request.headers.pop("Content-Type", None)
            return client.send(request)


@dataclass
class RunningFiles(Reachable):
    """A file service in this process."""

    service: FileService
    accounts: Accounts
    loop: asyncio.AbstractEventLoop

    def inside(self, function: Callable[[FileService], Result]) -> Result:
        """What another room of the stand-in asks: in the service's own thread."""

        async def run() -> Result:
            return function(self.service)

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(60)


def shared_key(method: str, path: str, query: str, headers: dict[str, str], length: int, account: str = ACCOUNT) -> str:
    """The Authorization header, by the rules of "Authorize with Shared Key" and for plain header names."""
    lower = {name.lower(): value for name, value in headers.items()} | {"content-length": str(length) if length else ""}
    names = "content-encoding content-language content-length content-md5 content-type date if-modified-since"
    names += " if-match if-none-match if-unmodified-since range"
    lines = [method, *(lower.get(name, "") for name in names.split())]
    lines += [f"{name}:{lower[name]}" for name in sorted(lower) if name.startswith("x-ms-")]
    lines.append(f"/{account}{path}")
    lines += [
        f"{name}:{unquote(value)}"
        for name, _, value in sorted(part.partition("=") for part in query.split("&") if part)
    ]
    signature = hmac.digest(base64.b64decode(KEY), "\n".join(lines).encode(), hashlib.sha256)
    return f"SharedKey {account}:{base64.b64encode(signature).decode()}"


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
        started.append(RunningFiles(state / "shares", port, authority, service, accounts, loop))
        ready.set()
        await loop.run_in_executor(None, stop.wait)
        await runner.cleanup()
        store.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert ready.wait(60), "the file service did not start"
    try:
        yield started[0]
    finally:
        stop.set()
        thread.join(60)


@contextlib.contextmanager
def files_process(state: Path) -> Iterator[tuple[Reachable, subprocess.Popen[str]]]:
    """The same in a process of its own, which ends with the block when the block has not killed it."""
    command = [sys.executable, "-m", "tests.files_service", str(state)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent.parent
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        told = json.loads(process.stdout.readline())
        yield Reachable(state / "shares", told["port"], Path(told["certificate"])), process
    finally:
        process.stdin.close()
        process.wait(60)
        process.stdout.close()


if __name__ == "__main__":
    with running_files(Path(sys.argv[1])) as running:
        print(json.dumps({"port": running.port, "certificate": str(running.certificate)}), flush=True)
        sys.stdin.read()

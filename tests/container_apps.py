"""A container-apps provider of its own, in the test's event loop: the real store, file service and operations."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from infra.emulator.certificate import ensure_certificate
from infra.emulator.containerapps import ContainerAppsProvider
from infra.emulator.containerapps.pace import Pace
from infra.emulator.exceptions import AzureError
from infra.emulator.files import FileService
from infra.emulator.operations import Operations
from infra.emulator.provider import Answer, Call, Cloud, Principal, ResourceType
from infra.emulator.resource_id import ResourceId
from infra.emulator.store import Store

SUBSCRIPTION = "11111111-1111-4111-8111-111111111111"
GROUP = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/rg"
ENVIRONMENT = f"{GROUP}/providers/Microsoft.App/managedEnvironments/env"
ACCOUNT, SHARE = "account", "share"
CALLER = Principal("caller", "caller-object", "caller", may_write=True)

SERVER = """
import http.server, json, os, signal, sys, threading, time
print("starting", flush=True)
folder, waits_for = os.path.dirname(__file__), os.environ.get("READY_WHEN")
broken, came = threading.Event(), threading.Semaphore(0)
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def answer(self, status, body, kind="text/plain"):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        path, _, query = self.path.partition("?")
        if path == "/ready":
            return self.answer(200 if not waits_for or os.path.exists(waits_for) else 503, b"")
        if path == "/health":
            return self.answer(500 if broken.is_set() else 200, b"")
        if path == "/break":
            broken.set()
            return self.answer(200, b"broken")
        if path == "/exit":
            print("last words", flush=True)
            os._exit(int(query))
        if path == "/wait":
            while not os.path.exists(os.path.join(folder, query)):
                time.sleep(0.05)
            return self.answer(200, b"it came")
        if path == "/came":
            came.release()
        if path in ("/stream", "/parts"):
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for number in range(int(query)):
                part = b"data: %d\\n\\n" % number
                try:
                    self.wfile.write(b"%x\\r\\n%s\\r\\n" % (len(part), part))
                    self.wfile.flush()
                except OSError:
                    print("client left", flush=True)
                    return
                time.sleep(0.2) if path == "/stream" else came.acquire()
            self.wfile.write(b"0\\r\\n\\r\\n")
            return
        if path == "/redirect":
            self.send_response(302)
            self.send_header("Location", "/elsewhere")
            self.send_header("Set-Cookie", "a=1")
            self.send_header("Set-Cookie", "b=2; Path=/")
            self.send_header("Content-Encoding", "gzip")
            self.send_header("Content-Length", "3")
            self.end_headers()
            return self.wfile.write(b"raw")
        if path == "/read":
            return self.answer(200, open(query, "rb").read())
        shown = {"path": self.path, "headers": dict(self.headers), "env": dict(os.environ),
                 "pid": os.getpid(), "args": sys.argv[1:]}
        self.answer(200, json.dumps(shown).encode(), "application/json")
    def do_HEAD(self):
        self.send_response(200)
        self.send_header("Content-Length", "1234")
        self.end_headers()
    def do_POST(self):
        size = 0
        if self.headers.get("Transfer-Encoding") == "chunked":
            while count := int(self.rfile.readline(), 16):
                size += len(self.rfile.read(count))
                self.rfile.readline()
            self.rfile.readline()
        else:
            size = len(self.rfile.read(int(self.headers.get("Content-Length") or 0)))
        self.answer(201, b"%d" % size)
    def log_message(self, *args):
        pass
def end(*_):
    print("SIGTERM", flush=True)
    if os.environ.get("STUBBORN"):
        return
    os._exit(0)
signal.signal(signal.SIGTERM, end)
http.server.ThreadingHTTPServer.request_queue_size = 256
server = http.server.ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Handler)
print("listening", flush=True)
server.serve_forever()
"""
"""An app: tells what it was given, streams, waits, breaks, exits.

/wait?NAME is answered when there is such a file beside it; each of the /parts goes out when /came was asked for the
one before; READY_WHEN names a file that it is not ready without.
"""

READY_WHEN = [{"name": "READY_WHEN", "value": "/mount/ready"}]
"""Variables of an app that is ready once there is a file `ready` on its share."""

PATIENCE = {"periodSeconds": 1, "timeoutSeconds": 30}
"""Of a probe: a machine that is busy with other tests may be late with its answer."""


class _NoAccounts:
    def keys(self, account: str) -> list[bytes] | None:
        return None

    def allows_shared_key(self, account: str) -> bool:
        return False

    def token_may(self, token: str, action: str) -> bool:
        return False


def call(**query: str) -> Call:
    """A request of the newest API version, by one who may write."""
    return Call(CALLER, "2025-07-01", "https://127.0.0.1:1", query)


def app_body(*, name: str = "main", **template: Any) -> dict[str, Any]:
    """A request for an app that runs SERVER from the share, with ingress and quick probes."""
    container: dict[str, Any] = {
        "name": name,
        "image": "python:3.12",
        "command": ["python", "/mount/server.py"],
        "resources": {"cpu": 0.25, "memory": "0.5Gi"},
        "volumeMounts": [{"volumeName": "share", "mountPath": "/mount"}],
        "probes": [
            {"type": "Startup", "httpGet": {"path": "/health", "port": 8000}, "failureThreshold": 60, **PATIENCE},
            {"type": "Readiness", "httpGet": {"path": "/ready", "port": 8000}, **PATIENCE},
            {"type": "Liveness", "httpGet": {"path": "/health", "port": 8000}, "failureThreshold": 1, **PATIENCE},
        ],
    }
    container |= template.pop("container", {})
    return {
        "location": "swedencentral",
        "properties": {
            "environmentId": ENVIRONMENT,
            "configuration": {
                "ingress": {"external": True, "targetPort": 8000},
                "secrets": [{"name": "api-key", "value": "secret value"}],
            },
            "template": {
                "containers": [container],
                "scale": {"minReplicas": 1, "maxReplicas": 2},
                "volumes": [{"name": "share", "storageType": "AzureFile", "storageName": "storage"}],
                **template,
            },
        },
    }


@dataclass
class World:
    """The provider and what it works with."""

    cloud: Cloud
    provider: ContainerAppsProvider
    authority: Path

    def type(self, name: str) -> ResourceType:
        """A resource type of Microsoft.App."""
        return self.provider.types[f"microsoft.app/{name}".lower()]

    def app_id(self, name: str = "app") -> ResourceId:
        """The id of an app in the group."""
        return ResourceId.parse(f"{GROUP}/providers/Microsoft.App/containerApps/{name}")

    async def put(self, type_name: str, resource_id: ResourceId, body: Mapping[str, Any]) -> Answer:
        """PUT, and wait until the operation has ended. Raises AzureError when that fails."""
        answer = await self.type(type_name).put(call(), resource_id, dict(body))
        await self.ended(answer)
        return answer

    async def ended(self, answer: Answer) -> None:
        """Waits for the operation of an answer."""
        if answer.operation is not None:
            operation = await self.cloud.operations.wait(answer.operation)
            if operation.error:
                raise AzureError(400, operation.error["code"], operation.error["message"])

    async def get(self, type_name: str, resource_id: ResourceId) -> Any:
        """The body of a GET."""
        return (await self.type(type_name).get(call(), resource_id)).body

    async def app(self, name: str = "app") -> Any:
        """The properties of an app."""
        return (await self.get("containerApps", self.app_id(name)))["properties"]

    async def revisions(self, name: str = "app") -> list[dict[str, Any]]:
        """The revisions of an app, oldest first."""
        answer = await self.type("containerApps/revisions").list(call(), f"{self.app_id(name)}")
        return list(answer.body["value"])

    async def revision(self, name: str = "app") -> dict[str, Any]:
        """The properties of the newest revision."""
        properties: dict[str, Any] = (await self.revisions(name))[-1]["properties"]
        return properties

    async def replicas(self, name: str = "app", revision: str | None = None) -> list[dict[str, Any]]:
        """The replicas of a revision, of the newest one by default."""
        revision = revision or (await self.revisions(name))[-1]["name"]
        within = f"{self.app_id(name)}/revisions/{revision}"
        answer = await self.type("containerApps/revisions/replicas").list(call(), within)
        return list(answer.body["value"])

    async def environment(self) -> None:
        """An environment with a storage, and SERVER on its share."""
        self.cloud.files.create_share(ACCOUNT, SHARE, 100)
        self.share.joinpath("server.py").write_text(SERVER)
        profiles = [
            {"name": "Consumption", "workloadProfileType": "Consumption"},
            {"name": "T4", "workloadProfileType": "Consumption-GPU-NC8as-T4"},
        ]
        body = {"location": "swedencentral", "properties": {"workloadProfiles": profiles}}
        await self.put("managedEnvironments", ResourceId.parse(ENVIRONMENT), body)
        file = {"accountName": ACCOUNT, "accountKey": "key", "shareName": SHARE, "accessMode": "ReadWrite"}
        storage = ResourceId.parse(f"{ENVIRONMENT}/storages/storage")
        await self.put("managedEnvironments/storages", storage, {"properties": {"azureFile": file}})

    @property
    def share(self) -> Path:
        """The local folder of the share."""
        return self.cloud.files.share_folder(ACCOUNT, SHARE)

    def events(self) -> list[str]:
        """The last events of all apps, for a failure's message."""
        return [
            line for path in self.cloud.state.glob("apps/*/events.log") for line in path.read_text().splitlines()[-20:]
        ]

    @contextlib.asynccontextmanager
    async def http(self) -> AsyncIterator[aiohttp.ClientSession]:
        """A client that trusts the stand-in's authority."""
        context = ssl.create_default_context(cafile=str(self.authority))
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context, limit=0)) as session:
            yield session

    async def endpoint(self, name: str = "app") -> str:
        """The https address of an app."""
        return f"https://{(await self.app(name))['configuration']['ingress']['fqdn']}"

    async def ask(self, path: str = "/", name: str = "app") -> Any:
        """GET of the app through its ingress, as JSON."""
        async with self.http() as client, client.get(f"{await self.endpoint(name)}{path}") as response:
            assert response.status == 200, await response.text()
            return await response.json()

    async def running(self, name: str = "app", seconds: float = 90) -> dict[str, Any]:
        """The newest revision once it is running."""

        async def is_running() -> bool:
            return (await self.revision(name))["runningState"] in ("Running", "RunningAtMaxScale")

        await self.until(is_running, seconds)
        return await self.revision(name)

    async def at_zero(self, name: str = "app") -> bool:
        """Whether the newest revision is scaled to zero."""
        return bool((await self.revision(name))["runningState"] == "ScaledToZero")

    async def until(self, condition: Callable[[], Any], seconds: float = 90) -> None:
        """Waits until the condition holds."""
        end = time.monotonic() + seconds
        while not await condition():
            assert time.monotonic() < end, f"not within {seconds} s: {self.events()}"
            await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def world(state: Path, pace: Pace | None = None) -> AsyncIterator[World]:
    """A provider over a state folder, stopped at the end."""
    store = Store(state / "state.db")
    authority, chain, key = ensure_certificate(state / "tls")
    operations = Operations(store)
    cloud = Cloud(
        state=state,
        store=store,
        operations=operations,
        files=FileService(state / "shares", store, _NoAccounts()),
        base_url="https://127.0.0.1:1",
        certificate=chain,
        private_key=key,
        subscription=SUBSCRIPTION,
        tenant="tenant",
    )
    provider = ContainerAppsProvider(cloud, pace or Pace(factor=20))
    await provider.start()
    try:
        yield World(cloud, provider, authority)
    finally:
        await asyncio.wait_for(provider.stop(), 60)
        await operations.close()
        store.close()

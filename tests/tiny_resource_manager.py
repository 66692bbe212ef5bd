"""A tiny real resource manager behind HTTPS: one container app, whose revision and replicas a test sets as it likes.

The stand-in runs apps as Azure does; this one shows states at will that are hard to come by, in Azure's words (those of
the recordings of Microsoft.App 2024-03-01 and 2025-07-01).
"""

from __future__ import annotations

import contextlib
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

SUBSCRIPTION = "10c0a1de-0000-4000-8000-00000000000b"
GROUP = "rg"
APP = "theapp"
PREFIX = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}/providers/Microsoft.App/containerApps/{APP}"
STREAM_TOKEN = "stream-token"


def replica(name: str, running: str = "Running", *, restarts: int = 0, created: str = "2026-11-21T10:00:00Z") -> Any:
    container = {"name": "inference", "restartCount": restarts, "runningState": "Running", "ready": True}
    if restarts:
        container["runningStateDetails"] = "Container crashing: inference"
    properties = {"createdTime": created, "runningState": running, "containers": [container]}
    return {"name": name, "properties": properties}


@dataclass
class AppState:
    """What is answered. on_restart runs within the restart request."""

    running: str = "Running"
    health: str = "Healthy"
    provisioning: str = "Provisioned"
    details: str | None = None
    replicas: list[Any] = field(default_factory=lambda: [replica("theapp--1-old")])
    older_revision: bool = True
    log: list[str] = field(default_factory=lambda: ["starting", "Traceback: no such model"])
    log_status: int = 200
    failures: int = 0
    secrets: dict[str, str] = field(default_factory=dict)
    on_restart: Callable[[], None] = lambda: None
    seen: list[str] = field(default_factory=list)


class TinyResourceManager(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, certificate: Path) -> None:
        self.state = AppState()
        super().__init__(("127.0.0.1", 0), _Request)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self.socket = context.wrap_socket(self.socket, server_side=True)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.server_port}"


class _Request(BaseHTTPRequestHandler):
    server: TinyResourceManager
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes: the second would wait 40 ms for an acknowledgement

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        state = self.server.state
        address = urlsplit(self.path)
        state.seen.append(f"{self.command} {address.path}")
        if address.path.endswith("/logstream"):
            self._log_stream(parse_qs(address.query))
            return
        if state.failures > 0:
            state.failures -= 1
            self._send(400, {"error": {"code": "SomethingWrong", "message": "cannot say"}})
            return
        rest = address.path.removeprefix(PREFIX)
        routes: dict[str, Callable[[], Any]] = {
            "": self._app,
            "/revisions": self._revisions,
            "/revisions/theapp--1/replicas": lambda: {"value": state.replicas},
            "/revisions/theapp--1/restart": self._restart,
            "/listSecrets": lambda: {"value": [{"name": name, "value": text} for name, text in state.secrets.items()]},
            "/getAuthtoken": lambda: {"location": "x", "properties": {"token": STREAM_TOKEN}},
        }
        self._send(200, routes[rest]())

    def _app(self) -> Any:
        stream = f"{self.server.url}{PREFIX.replace('/providers/Microsoft.App', '')}/eventstream"
        return {"id": PREFIX, "name": APP, "location": "x", "properties": {"eventStreamEndpoint": stream}}

    def _revisions(self) -> Any:
        state = self.server.state
        properties = {
            "createdTime": "2026-11-20T10:00:00Z",
            "active": state.running != "Stopped",
            "healthState": state.health,
            "provisioningState": state.provisioning,
            "runningState": state.running,
        }
        if state.details:
            properties["runningStateDetails"] = state.details
        older = {"createdTime": "2026-11-01T10:00:00Z", "active": False, "runningState": "Stopped"}
        return {"value": [{"name": "theapp--1", "properties": properties}, {"name": "theapp--0", "properties": older}]}

    def _restart(self) -> Any:
        self.server.state.on_restart()
        return "Restart succeeded"

    def _log_stream(self, query: dict[str, list[str]]) -> None:
        state = self.server.state
        authorized = self.headers["Authorization"] == f"Bearer {STREAM_TOKEN}"
        self.send_response(state.log_status if authorized else 401)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Connection", "close")
        self.end_headers()
        if authorized and state.log_status == 200:
            for line in state.log[-int(query["tailLines"][0]) :]:
                self.wfile.write(f"{line}\n\n".encode())
        self.close_connection = True

    def _send(self, status: int, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        return None


@contextlib.contextmanager
def running_resource_manager(certificate: Path) -> Iterator[TinyResourceManager]:
    """Serve on a free loopback port; certificate is a PEM file with key and certificate."""
    server = TinyResourceManager(certificate)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

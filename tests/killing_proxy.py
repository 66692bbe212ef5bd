"""A TLS proxy in front of a cloud that counts requests and, after the n-th has been served, kills the caller.

The n-th request takes effect and its answer is never sent: what a process finds that dies between two requests.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import ssl
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit


class KillingProxy(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, upstreams: Mapping[str, str], trusted: Path, certificate: Path) -> None:
        """upstreams: a part of the path -> the address to pass such requests on to; the first that fits, "" fits all.

        trusted has the upstreams' certificates; certificate is the proxy's own, with its key.
        """
        self.upstreams = upstreams
        self.trust = ssl.create_default_context(cafile=str(trusted))
        self.requests: list[str] = []
        self._lock = threading.Condition()
        self._active = 0
        self._victim: int | None = None
        self._kill_after: int | None = None
        super().__init__(("127.0.0.1", 0), _Request)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.server_port}"

    def arm(self, kill_after: int | None) -> None:
        """Count from zero; kill whoever is named to `aim_at` after that many requests, None for never."""
        with self._lock:
            self.requests = []
            self._victim = None
            self._kill_after = kill_after

    def aim_at(self, pid: int) -> None:
        """The process to kill. It must not send a request before this call."""
        with self._lock:
            self._victim = pid

    def wait_until_idle(self) -> None:
        """Wait for the requests that were under way when the caller died."""
        with self._lock:
            assert self._lock.wait_for(lambda: self._active == 0, timeout=60)

    def begin(self) -> None:
        with self._lock:
            self._active += 1

    def served(self, line: str) -> bool:
        """Count a request that was answered; False when the answer must not be passed on."""
        with self._lock:
            self.requests.append(line)
            if self._kill_after is None or len(self.requests) < self._kill_after:
                return True
            if len(self.requests) == self._kill_after:
                assert self._victim is not None
                os.kill(self._victim, signal.SIGKILL)
            return False

    def end(self) -> None:
        with self._lock:
            self._active -= 1
            self._lock.notify_all()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """The caller is gone, as it should."""


class _Request(BaseHTTPRequestHandler):
    """One connection of a caller, with a connection of its own to each upstream that it asks for."""

    server: KillingProxy
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes: the second would wait 40 ms for an acknowledgement

    def setup(self) -> None:
        super().setup()
        self.connections: dict[str, http.client.HTTPSConnection] = {}

    def finish(self) -> None:
        for connection in self.connections.values():
            connection.close()
        super().finish()

    def pass_on(self) -> None:
        proxy = self.server
        proxy.begin()
        try:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length)
            if len(body) != length:  # the caller died while it was sending
                self.close_connection = True
                return
            address = next(address for part, address in proxy.upstreams.items() if part in self.path)
            upstream = self._upstream(address)
            upstream.request(self.command, self.path, body or None, dict(self.headers))
            response = upstream.getresponse()
            content = response.read()
            if not proxy.served(f"{self.command} {self.path}"):
                self.close_connection = True
                return
            self.send_response_only(response.status, response.reason)
            for name, value in response.getheaders():
                if name.lower() not in {"transfer-encoding", "connection"}:
                    self.send_header(name, value)
            if response.getheader("Content-Length") is None:
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        finally:
            proxy.end()

    def _upstream(self, address: str) -> http.client.HTTPSConnection:
        if address not in self.connections:
            where = urlsplit(address)
            self.connections[address] = http.client.HTTPSConnection(
                str(where.hostname), where.port, context=self.server.trust, timeout=60
            )
        return self.connections[address]

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = pass_on

    def log_message(self, format: str, *args: object) -> None:
        return None


@contextlib.contextmanager
def killing_proxy(upstreams: Mapping[str, str], trusted: Path, certificate: Path) -> Iterator[KillingProxy]:
    proxy = KillingProxy(upstreams, trusted, certificate)
    thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        thread.join()
        proxy.server_close()

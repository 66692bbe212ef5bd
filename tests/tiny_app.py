"""A tiny real app behind a real HTTPS port: the OpenAI-compatible routes and /ready, answering without a model.

Its behaviour can be changed while it runs, so that a test can see what the proof says of an app that does wrong.
"""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import json
import ssl
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

KEY = "the-key"


@dataclass
class Behaviour:
    """What the app answers. answers maps a question to the text.

    gateway_failures answers 503 that many times first, refusals as many questions with 429 and a wait of a second.
    While `open` is not set a request is held, as by an ingress without a replica that is ready.
    """

    release: str = "r1"
    status: str = "ready"
    error: str | None = None
    phase: str | None = None
    models: list[str] = field(default_factory=lambda: ["demo-base", "default"])
    answers: dict[str, str] = field(default_factory=dict)
    usage: bool = True
    asks_for_key: bool = True
    ends_with_done: bool = True
    breaks_off_with: str | None = None
    gateway_failures: int = 0
    open: threading.Event = field(default_factory=threading.Event)
    refusals: int = 0
    seen: list[str] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.open.set()


class TinyApp(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, certificate: Path | None) -> None:
        self.behaviour = Behaviour()
        self.certificate = certificate
        super().__init__(("127.0.0.1", 0), TinyAppRequest)
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True)

    @property
    def url(self) -> str:
        return f"{'https' if self.certificate else 'http'}://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A caller that hangs up (a refused certificate, a timeout) is no failure of the app."""


class TinyAppRequest(BaseHTTPRequestHandler):
    server: TinyApp
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes: the second would wait 40 ms for an acknowledgement

    def do_GET(self) -> None:
        behaviour = self.server.behaviour
        behaviour.seen.append(f"GET {self.path}")
        behaviour.open.wait()
        if self._gateway_fails():
            return
        if self.path == "/ready":
            told: dict[str, Any] = {"status": behaviour.status}
            if self._has_key():
                told |= {"release": behaviour.release, "models": behaviour.models, "phase": behaviour.phase}
                told |= {"error": behaviour.error, "ledger": {"wait_seconds": 1.5, "bytes_read": 10}}
            self._send(200 if behaviour.status == "ready" else 503, told)
        elif not self._has_key() and behaviour.asks_for_key:
            self._send(401, {"error": {"message": "wrong or missing key", "type": "invalid_request_error"}})
        elif self.path == "/v1/models":
            self._send(200, {"object": "list", "data": [{"id": name, "object": "model"} for name in behaviour.models]})
        else:
            self._send(404, {"error": {"message": "no such route"}})

    def do_POST(self) -> None:
        behaviour = self.server.behaviour
        behaviour.seen.append(f"POST {self.path}")
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        behaviour.requests.append(request)
        behaviour.open.wait()
        if self._gateway_fails():
            return
        if not self._has_key() and behaviour.asks_for_key:
            self._send(401, {"error": {"message": "wrong or missing key", "type": "invalid_request_error"}})
            return
        if behaviour.refusals > 0:
            behaviour.refusals -= 1
            error = {"message": "the key may send 1 request per minute", "code": "rate_limit_exceeded"}
            self._send(429, {"error": error}, {"Retry-After": "1"})
            return
        model = request["model"] if request["model"] != "default" else behaviour.models[-1]
        if model not in behaviour.models:
            self._send(404, {"error": {"message": f"the model {model} does not exist", "code": "model_not_found"}})
            return
        question = request["messages"][-1]["content"]
        text = behaviour.answers.get(question, f"{model} says hello")
        usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7} if behaviour.usage else None
        if request["stream"]:
            self._stream(model, text, usage)
            return
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        self._send(200, {"object": "chat.completion", "model": model, "choices": [choice], "usage": usage})

    def _stream(self, model: str, text: str, usage: dict[str, int] | None) -> None:
        behaviour = self.server.behaviour
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(b": keep-alive\n\n")
        for word in text.split(" "):
            delta = {"index": 0, "delta": {"content": f"{word} "}, "finish_reason": None}
            self._event({"model": model, "choices": [delta]})
        if behaviour.breaks_off_with is not None:
            self._event({"error": {"message": behaviour.breaks_off_with}})
        self._event({"model": model, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": None})
        self._event({"model": model, "choices": [], "usage": usage})
        if behaviour.ends_with_done:
            self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def _event(self, value: dict[str, Any]) -> None:
        self.wfile.write(b"data: " + json.dumps(value).encode() + b"\n\n")

    def _gateway_fails(self) -> bool:
        if self.server.behaviour.gateway_failures <= 0:
            return False
        self.server.behaviour.gateway_failures -= 1
        body = b"upstream connect error"
        self.send_response(503)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        return True

    def _has_key(self) -> bool:
        return self.headers["Authorization"] == f"Bearer {KEY}"

    def _send(self, status: int, value: dict[str, Any], headers: Mapping[str, str] | None = None) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        for name, text in (headers or {}).items():
            self.send_header(name, text)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        return None


@contextlib.contextmanager
def running_tiny_app(certificate: Path | None) -> Iterator[TinyApp]:
    """Serve on a free loopback port; certificate is a PEM file with key and certificate, None for plain HTTP."""
    server = TinyApp(certificate)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def make_certificate(path: Path) -> Path:
    """A self-signed certificate for 127.0.0.1 with its key, in one PEM file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    return path

"""Connections that are kept: how many there are, whom they trust, which proxy they go through, what ends them."""

from __future__ import annotations

import base64
import contextlib
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from scripts.connections import TRUST_VARIABLES, Connections
from scripts.errors import BadInput, Locked
from scripts.http_answer import Answer, BrokenAnswer
from tests.tiny_app import make_certificate


class Server(ThreadingHTTPServer):
    """Answers every request with its content; counts connections. As a proxy, it leads to wherever it is told."""

    daemon_threads = True

    def __init__(self, certificate: Path | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.connections = 0
        self.ended = threading.Semaphore(0)
        """One for each connection that the server has closed."""
        self.asked: list[str] = []
        self.authorized_by: list[str | None] = []
        self.wants_a_password = False
        self.scheme = "http" if certificate is None else "https"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        self.ended.release()

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_port}"


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def setup(self) -> None:
        super().setup()
        self.server.connections += 1

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.server.asked.append(self.path)
        moved = self.path.endswith("/moved")
        self.send_response(302 if moved else 201)
        if moved:
            self.send_header("Location", "/elsewhere")
        if self.path.endswith("/last"):
            self.send_header("Connection", "close")
        # What is promised is more than what comes.
        self.send_header("Content-Length", str(len(content) + (10 if self.path.endswith("/cut") else 0)))
        self.end_headers()
        self.wfile.write(content)
        # After `gone` the connection ends without a word.
        self.close_connection |= self.path.endswith(("/cut", "/gone"))

    def do_CONNECT(self) -> None:
        self.server.asked.append(self.path)
        self.server.authorized_by.append(self.headers["Proxy-Authorization"])
        if self.server.wants_a_password:
            self.send_error(407)
            return
        host, _, port = self.path.partition(":")
        with socket.create_connection((host, int(port))) as upstream:
            self.send_response(200)
            self.end_headers()
            back = threading.Thread(target=_pass_on, args=(upstream, self.connection))
            back.start()
            _pass_on(self.connection, upstream)
            back.join()
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """A test's output is not the place for it."""


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while content := source.recv(65536):
            target.sendall(content)
        target.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def serving(certificate: Path | None = None) -> Iterator[Server]:
    with Server(certificate) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def put(connections: Connections, target: str = "/", content: bytes = b"x") -> Answer:
    return connections.request("PUT", target, {}, content, connect_seconds=30, answer_seconds=lambda: 30)


@contextlib.contextmanager
def kept(url: str, count: int = 1, certificate: Path | None = None) -> Iterator[Connections]:
    with contextlib.closing(Connections(url, count, certificate)) as connections:
        yield connections


@pytest.fixture(autouse=True)
def nothing_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither its proxies nor the certificates that it trusts beside the usual ones."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy") or name in TRUST_VARIABLES]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("certificate") / "server.pem")


def test_many_requests_go_over_few_connections(certificate: Path) -> None:
    with serving(certificate) as server, kept(server.url, 4, certificate) as connections:
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda number: put(connections, f"/{number}", b"%d" % number), range(60)))
        assert [answer.content for answer in answers] == [b"%d" % number for number in range(60)]
        assert sorted(server.asked) == sorted(f"/{number}" for number in range(60))
        assert server.connections <= 4


def test_a_large_request_arrives_whole(certificate: Path) -> None:
    content = os.urandom(3 * 1024 * 1024 + 7)
    with serving(certificate) as server, kept(server.url, 1, certificate) as connections:
        answer = put(connections, "/a", content)
        assert (answer.status, answer.reason, answer.content) == (201, "Created", content)
        assert answer.headers["content-length"] == str(len(content))


@pytest.mark.parametrize("path", ["/last", "/gone"])
def test_a_connection_that_the_far_side_has_ended_is_opened_again(certificate: Path, path: str) -> None:
    with serving(certificate) as server, kept(server.url, 1, certificate) as connections:
        assert put(connections, path).status == 201
        assert server.ended.acquire(timeout=30)
        assert put(connections, "/next").status == 201
        assert server.asked == [path, "/next"]
        assert server.connections == 2


def test_an_answer_that_is_cut_short_is_an_error(certificate: Path) -> None:
    with serving(certificate) as server, kept(server.url, 1, certificate) as connections:
        with pytest.raises(BrokenAnswer, match="after 1 of 11 bytes"):
            put(connections, "/cut")
        assert put(connections).status == 201


def test_a_redirection_is_left_to_the_caller(certificate: Path) -> None:
    with serving(certificate) as server, kept(server.url, 1, certificate) as connections:
        assert put(connections, "/moved").status == 302
        assert server.asked == ["/moved"]


def test_only_a_certificate_that_is_trusted_is_good(
    certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    another = make_certificate(tmp_path / "another.pem")
    with serving(certificate) as server:
        with kept(server.url, 1, another) as connections, pytest.raises(ssl.SSLCertVerificationError):
            put(connections)
        with kept(server.url) as connections, pytest.raises(ssl.SSLCertVerificationError):
            put(connections)
        for variable in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
            monkeypatch.setenv(variable, str(certificate))
            with kept(server.url) as connections:
                assert put(connections).status == 201
            # What is named goes before what the process environment says.
            with kept(server.url, 1, another) as connections, pytest.raises(ssl.SSLCertVerificationError):
                put(connections)
            monkeypatch.delenv(variable)


@pytest.mark.parametrize("content", [None, b"no certificate"])
def test_certificates_that_cannot_be_read_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    file = tmp_path / "bundle.pem"
    if content is not None:
        file.write_bytes(content)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(file))
    with pytest.raises(BadInput, match=r"bundle\.pem: REQUESTS_CA_BUNDLE"):
        Connections("https://127.0.0.1", 1)


def test_a_proxy_of_the_process_environment_is_used_unless_it_is_not_for_the_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with serving() as server, serving() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        with kept(server.url) as connections:
            put(connections, "/a")
        assert (server.asked, proxy.asked) == ([], [f"{server.url}/a"])
        for number, excepted in enumerate(("127.0.0.1", "example.org, 127.0.0.0/8", f"127.0.0.1:{server.server_port}")):
            monkeypatch.setenv("no_proxy", excepted)
            with kept(server.url) as connections:
                put(connections, f"/{number}")
        assert (server.asked, len(proxy.asked)) == (["/0", "/1", "/2"], 1)


def test_through_a_proxy_the_trust_is_the_servers_and_the_proxy_learns_the_address_alone(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(certificate) as server, serving() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:se%40cret@127.0.0.1:{proxy.server_port}")
        with kept(server.url, 1, certificate) as connections:
            assert put(connections, "/a", b"content").content == b"content"
            assert put(connections, "/b").status == 201
        assert (server.asked, proxy.asked) == (["/a", "/b"], [f"127.0.0.1:{server.server_port}"])
        assert proxy.authorized_by == ["Basic " + base64.b64encode(b"me:se@cret").decode()]


def test_a_proxy_that_does_not_lead_on_is_an_error_with_its_reason(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(certificate) as server, serving() as proxy:
        proxy.wants_a_password = True
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        with (
            kept(server.url, 1, certificate) as connections,
            pytest.raises(OSError, match="the proxy answered 407 Proxy Authentication Required"),
        ):
            put(connections)
        assert server.connections == 0


def test_a_proxy_that_cannot_be_spoken_to_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "socks5://me:secret@127.0.0.1:1080")
    with pytest.raises(BadInput, match="HTTPS_PROXY") as caught:
        Connections("https://127.0.0.1", 1)
    assert "secret" not in str(caught.value)


@contextlib.contextmanager
def not_reading() -> Iterator[tuple[str, socket.socket]]:
    """The address of a server that takes connections, holds little of what comes, and reads none of it by itself."""
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", listening


def arrived(listening: socket.socket) -> tuple[int, bool]:
    """How many bytes come over the next connection in the end, and whether it was broken off."""
    connection, _ = listening.accept()
    connection.settimeout(60)
    count = 0
    with connection:
        try:
            while content := connection.recv(65536):
                count += len(content)
        except ConnectionResetError:
            return count, True
    return count, False


def test_what_has_not_left_when_a_request_is_given_up_never_leaves() -> None:
    """A server that is slow now would do it later, when somebody else may have changed what it is about."""
    with not_reading() as (url, listening), kept(url) as connections:
        with pytest.raises(TimeoutError):
            connections.request("PUT", "/", {}, b"x" * 100_000, connect_seconds=30, answer_seconds=lambda: 0.2)
        count, broken_off = arrived(listening)
    assert count < 100_000
    assert broken_off


def test_a_request_on_its_way_ends_when_its_time_does() -> None:
    """As when a lease is lost while a large file's range goes over a slow line."""
    pieces = 0

    def seconds() -> float:
        nonlocal pieces
        pieces += 1
        if pieces == 3:
            raise Locked("The lease was lost.", "Run the same command again.")
        return 60

    size = 1024 * 1024
    with not_reading() as (url, listening), kept(url) as connections, ThreadPoolExecutor(1) as beside:
        far_side = beside.submit(arrived, listening)
        with pytest.raises(Locked):
            connections.request("PUT", "/", {}, b"x" * size, connect_seconds=30, answer_seconds=seconds)
        count, broken_off = far_side.result(60)
    assert count < size
    assert broken_off


def test_no_answer_is_an_error_of_the_network() -> None:
    with serving() as server:
        url = server.url
    with kept(url) as connections, pytest.raises(ConnectionRefusedError):
        put(connections)

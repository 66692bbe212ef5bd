"""Connections that are kept: how many there are, whom they trust, which proxy they go through."""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests

from scripts.connections import KeptConnections
from tests.tiny_app import make_certificate


class Server(ThreadingHTTPServer):
    """Answers every request with its path; counts connections, and meets no more than that."""

    daemon_threads = True

    def __init__(self, certificate: Path | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.connections = 0
        self.asked: list[str] = []
        self.scheme = "http" if certificate is None else "https"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

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
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """A test's output is not the place for it."""


@contextlib.contextmanager
def serving(certificate: Path | None = None) -> Iterator[Server]:
    with Server(certificate) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def put(session: KeptConnections, url: str, content: bytes = b"x", *, stream: bool = False) -> requests.Response:
    headers = {"Content-Length": str(len(content))}
    return session.request("PUT", url, headers=headers, data=content, timeout=(5, 5), stream=stream)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("certificate") / "server.pem")


def test_many_requests_go_over_few_connections(certificate: Path) -> None:
    with serving(certificate) as server, KeptConnections(server.url, 4, str(certificate)) as session:
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda number: put(session, f"{server.url}/{number}", b"%d" % number), range(60)))
        assert [answer.content for answer in answers] == [b"%d" % number for number in range(60)]
        assert sorted(server.asked) == sorted(f"/{number}" for number in range(60))
        assert server.connections <= 4


def test_an_answer_may_be_read_piece_by_piece(certificate: Path) -> None:
    content = bytes(range(256)) * 1000
    with serving(certificate) as server, KeptConnections(server.url, 1, str(certificate)) as session:
        answer = put(session, f"{server.url}/a", content, stream=True)
        assert b"".join(answer.iter_content(1000)) == content
        assert put(session, f"{server.url}/b").content == b"x"
        assert server.connections == 1


def test_a_redirection_is_left_to_the_caller(certificate: Path) -> None:
    with serving(certificate) as server, KeptConnections(server.url, 1, str(certificate)) as session:
        assert put(session, f"{server.url}/moved").status_code == 302
        assert server.asked == ["/moved"]


def test_only_a_certificate_that_is_trusted_is_good(
    certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    another = make_certificate(tmp_path / "another.pem")
    with serving(certificate) as server:
        with KeptConnections(server.url, 1, str(another)) as session, pytest.raises(requests.exceptions.SSLError):
            put(session, server.url)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
        with KeptConnections(server.url, 1) as session:
            assert put(session, server.url).status_code == 201
        # What is named goes before what the process environment says.
        with KeptConnections(server.url, 1, str(another)) as session, pytest.raises(requests.exceptions.SSLError):
            put(session, server.url)


def test_a_proxy_of_the_process_environment_is_used_unless_it_is_not_for_the_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with serving() as server, serving() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        with KeptConnections(server.url, 1) as session:
            put(session, f"{server.url}/a")
        assert (server.asked, proxy.asked) == ([], [f"{server.url}/a"])
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        with KeptConnections(server.url, 1) as session:
            put(session, f"{server.url}/b")
        assert (server.asked, len(proxy.asked)) == (["/b"], 1)


def test_no_answer_is_an_error_of_requests() -> None:
    with serving() as server:
        url = server.url
    with KeptConnections(url, 1) as session, pytest.raises(requests.exceptions.ConnectionError):
        put(session, url)

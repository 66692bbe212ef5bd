"""Connections whose callers do not read what they have asked for, ask in two ways at once, or are too many."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn
from asgi import Application, Receive, Scope, Send
from connection import connection_class

ANSWER_BYTES = 30_000_000
"""More than the buffers between two processes of one machine hold."""


@contextmanager
def serving(server: uvicorn.Server) -> Iterator[Any]:
    """The server on a port of its own; its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()
        finally:
            server.should_exit = server.force_exit = True
            thread.join(30)


def server_of(application: Application, protocol: type[Any]) -> uvicorn.Server:
    told: Any = application
    return uvicorn.Server(uvicorn.Config(told, http=protocol, interface="asgi3", log_config=None, lifespan="off"))


class Served:
    """A server with one long answer, and the asking of it."""

    def __init__(self, unread_seconds: float) -> None:
        self.gone = threading.Event()
        """The application knows that its caller has gone."""
        self._server = server_of(self._answer, connection_class(30, unread_seconds))

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(ANSWER_BYTES // 100_000):
            await send({"type": "http.response.body", "body": b"x" * 100_000, "more_body": True})
        await receive()
        self.gone.set()

    @contextmanager
    def asked(self) -> Iterator[socket.socket]:
        with serving(self._server) as address, socket.create_connection(address, timeout=60) as caller:
            caller.sendall(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
            yield caller

    @property
    def waits_for_its_reader(self) -> bool:
        connections: list[Any] = list(self._server.server_state.connections)
        return any(connection._unread is not None for connection in connections)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_an_answer_that_nobody_reads_is_given_up() -> None:
    served = Served(unread_seconds=0.2)
    with served.asked():
        assert served.gone.wait(60)


def test_an_answer_that_is_read_in_the_end_stays() -> None:
    served = Served(unread_seconds=600)
    with served.asked() as caller:
        wait_until(lambda: served.waits_for_its_reader)
        read = 0
        while read < ANSWER_BYTES:
            read += len(caller.recv(1_000_000))
        wait_until(lambda: not served.waits_for_its_reader)
        assert not served.gone.is_set()


class Echo:
    """Answers with the body; knows the paths that it has been asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked.append(scope["path"])
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), bool(message.get("more_body"))
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def to_the_end(caller: socket.socket) -> bytes:
    """What comes until the connection is closed."""
    received = b""
    while piece := caller.recv(65536):
        received += piece
    return received


CHUNKED = b"Transfer-Encoding: chunked\r\n"


@pytest.mark.parametrize(
    "head",
    [
        b"POST /a HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n" + CHUNKED,
        b"POST /a HTTP/1.1\r\nHost: test\r\n" + CHUNKED + b"Content-Length: 5\r\n",
        b"POST /a HTTP/1.0\r\nHost: test\r\nConnection: keep-alive\r\n" + CHUNKED,
    ],
)
def test_a_body_whose_end_is_not_certain_is_refused_and_nothing_is_read_after_it(head: bytes) -> None:
    echo = Echo()
    with serving(server_of(echo, connection_class(30))) as address:
        with socket.create_connection(address, timeout=60) as caller:
            caller.sendall(head + b"\r\n" + b"0\r\n\r\n" + b"GET /b HTTP/1.1\r\nHost: test\r\n\r\n")
            answer = to_the_end(caller)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert answer.count(b"HTTP/1.1") == 1
        assert echo.asked == []
        with socket.create_connection(address, timeout=60) as caller:
            ask = b"POST /c HTTP/1.1\r\nHost: test\r\nConnection: close\r\n"
            caller.sendall(ask + CHUNKED + b"\r\n3\r\nfox\r\n0\r\n\r\n")
            assert to_the_end(caller).endswith(b"\r\n\r\nfox"), "told in one way it is taken"
        assert echo.asked == ["/c"]


def test_of_too_many_silent_connections_the_longest_silent_goes() -> None:
    def ask(caller: socket.socket) -> bytes:
        caller.sendall(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\n\r\nfox")
        answer = b""
        while not answer.endswith(b"fox"):
            piece = caller.recv(65536)
            assert piece, "the connection is closed"
            answer += piece
        return answer

    with serving(server_of(Echo(), connection_class(600, most_waiting=2))) as address:
        first, second, third, fourth = (socket.create_connection(address, timeout=60) for _ in range(4))
        with first, second, third, fourth:
            # Of the four that have said nothing two stay.
            assert to_the_end(first) == to_the_end(second) == b""
            assert ask(third)
            # The third one is silent since a moment ago now, the fourth for longer.
            with socket.create_connection(address, timeout=60) as fifth:
                assert to_the_end(fourth) == b""
                assert ask(fifth)
                assert ask(third), "one that has been used waits for its next request"

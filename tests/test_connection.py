"""A connection whose caller does not read what it has asked for."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from asgi import Receive, Scope, Send
from connection import connection_class

ANSWER_BYTES = 30_000_000
"""More than the buffers between two processes of one machine hold."""


class Served:
    """A server with one long answer, and the asking of it."""

    def __init__(self, unread_seconds: float) -> None:
        self.gone = threading.Event()
        """The application knows that its caller has gone."""
        protocol = connection_class(30, unread_seconds)
        self._server = uvicorn.Server(
            uvicorn.Config(self._answer, http=protocol, interface="asgi3", log_config=None, lifespan="off")
        )

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(ANSWER_BYTES // 100_000):
            await send({"type": "http.response.body", "body": b"x" * 100_000, "more_body": True})
        await receive()
        self.gone.set()

    @contextmanager
    def asked(self) -> Iterator[socket.socket]:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            serving = threading.Thread(target=self._server.run, kwargs={"sockets": [listener]}, daemon=True)
            serving.start()
            try:
                with socket.create_connection(listener.getsockname(), timeout=60) as caller:
                    caller.sendall(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
                    yield caller
            finally:
                self._server.should_exit = self._server.force_exit = True
                serving.join(30)

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

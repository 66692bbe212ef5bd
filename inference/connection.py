"""One HTTP/1.1 connection that nobody can hold open by sending a part of a request, or reading a part of an answer.

uvicorn ends a connection that is silent between two requests; for the rest of a request, and for somebody to read what
it has written, it waits without end. It also takes a request whose length is told in two ways.
"""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

SECONDS_TO_SAY_SO = 2.0
"""A body that is late is first refused with an answer (limits.py); a client that keeps sending is cut off."""

HEAD_BYTES = 16 * 1024
"""The longest head of a request; a longer one is refused."""

UNREAD_SECONDS = 60.0
"""How long an answer may lie unread once the buffers on the way are full: its key's place is taken meanwhile."""

IDLE_SECONDS = 300
"""How long a connection may be silent between two requests. Longer than Azure's ingress, and most clients, keep one:
whoever closes it first loses no request, and a server that does may close what a request is already on its way to."""

MOST_WAITING = 500
"""How many connections may wait for a request's head at once: each costs 8 KB, 24 with a part of one, and a file."""


def connection_class(
    seconds: float, unread_seconds: float = UNREAD_SECONDS, most_waiting: int = MOST_WAITING
) -> type[asyncio.Protocol]:
    """uvicorn's protocol, which closes the connection when a request's head is not there `seconds` after the first byte
    of it (or after a new connection), or its body somewhat more than that after its head, or when an answer is not read
    on for `unread_seconds`. Of more than `most_waiting` connections that wait for a head the one that has waited for
    the longest time is closed."""
    allowed = {h11.IDLE: seconds, h11.SEND_BODY: seconds + SECONDS_TO_SAY_SO}
    waiting: dict[asyncio.Protocol, asyncio.Transport] = {}

    class Connection(H11Protocol):
        _waits_for: object = None
        _timer: asyncio.TimerHandle | None = None
        _unread: asyncio.TimerHandle | None = None

        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            self.conn = _OneLength(h11.SERVER, HEAD_BYTES)

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._watch(h11.IDLE)
            self._count(h11.IDLE)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch(self.conn.their_state)
            self._count(self.conn.their_state)

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._count(self.conn.their_state)

        def connection_lost(self, error: Exception | None) -> None:
            self._watch(None)
            self._count(None)
            self._read_on()
            super().connection_lost(error)

        def pause_writing(self) -> None:
            super().pause_writing()
            # Not close(), which would wait until the rest is read.
            self._unread = self.loop.call_later(unread_seconds, self.transport.abort)

        def resume_writing(self) -> None:
            self._read_on()
            super().resume_writing()

        def _read_on(self) -> None:
            if self._unread is not None:
                self._unread.cancel()
                self._unread = None

        def _count(self, waits_for: object) -> None:
            if waits_for is not h11.IDLE or self.transport.is_closing():
                waiting.pop(self, None)
                return
            waiting.setdefault(self, self.transport)
            if len(waiting) > most_waiting:
                waiting.pop(next(iter(waiting))).close()

        def _watch(self, waits_for: object) -> None:
            if waits_for is self._waits_for:
                return
            if self._timer is not None:
                self._timer.cancel()
            self._waits_for = waits_for
            limit = allowed.get(waits_for)  # type: ignore[call-overload]  # h11's states have a private type
            self._timer = None if limit is None else self.loop.call_later(limit, self.transport.close)

    return Connection


class _OneLength(h11.Connection):
    """Refuses a request that tells its length by Content-Length and by Transfer-Encoding: where it ends, and what the
    next one is, might mean one thing to a proxy and another to this server. The connection must not go on after it
    (https://www.rfc-editor.org/rfc/rfc9112#section-6.1)."""

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        event = super().next_event()
        if isinstance(event, h11.Request):
            names = {name for name, _ in event.headers}
            if b"transfer-encoding" in names and (b"content-length" in names or event.http_version < b"1.1"):
                raise h11.RemoteProtocolError("it is not certain where the body ends")
        return event

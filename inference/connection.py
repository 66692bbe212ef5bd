"""One HTTP/1.1 connection that nobody can hold open by sending a part of a request, or reading a part of an answer.

uvicorn ends a connection that is silent between two requests; for the rest of a request, and for somebody to read what
it has written, it waits without end.
"""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

SECONDS_TO_SAY_SO = 2.0
"""A body that is late is first refused with an answer (limits.py); a client that keeps sending is cut off."""

UNREAD_SECONDS = 60.0
"""How long an answer may lie unread once the buffers on the way are full: its key's place is taken meanwhile."""


def connection_class(seconds: float, unread_seconds: float = UNREAD_SECONDS) -> type[asyncio.Protocol]:
    """uvicorn's protocol, which closes the connection when a request's head is not there after `seconds`, or its body
    somewhat more than that after its head, or when an answer is not read on for `unread_seconds`."""
    allowed = {h11.IDLE: seconds, h11.SEND_BODY: seconds + SECONDS_TO_SAY_SO}

    class Connection(H11Protocol):
        _waits_for: object = None
        _timer: asyncio.TimerHandle | None = None
        _unread: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._watch(h11.IDLE)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch(self.conn.their_state)

        def connection_lost(self, error: Exception | None) -> None:
            self._watch(None)
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

        def _watch(self, waits_for: object) -> None:
            if waits_for is self._waits_for:
                return
            if self._timer is not None:
                self._timer.cancel()
            self._waits_for = waits_for
            limit = allowed.get(waits_for)  # type: ignore[call-overload]  # h11's states have a private type
            self._timer = None if limit is None else self.loop.call_later(limit, self.transport.close)

    return Connection

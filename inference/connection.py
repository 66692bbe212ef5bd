"""One HTTP/1.1 connection that a caller cannot hold open by sending a part of a request.

uvicorn ends a connection that is silent between two requests; for the rest of a request it waits without end.
"""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

SECONDS_TO_SAY_SO = 2.0
"""A body that is late is first refused with an answer (limits.py); who still goes on sending is cut off."""


def connection_class(seconds: float) -> type[asyncio.Protocol]:
    """uvicorn's protocol, which closes the connection when a request's head is not there after `seconds`, or its body
    somewhat more than that after its head."""
    allowed = {h11.IDLE: seconds, h11.SEND_BODY: seconds + SECONDS_TO_SAY_SO}

    class Connection(H11Protocol):
        _waits_for: object = None
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._watch(h11.IDLE)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch(self.conn.their_state)

        def connection_lost(self, error: Exception | None) -> None:
            self._watch(None)
            super().connection_lost(error)

        def _watch(self, waits_for: object) -> None:
            if waits_for is self._waits_for:
                return
            if self._timer is not None:
                self._timer.cancel()
            self._waits_for = waits_for
            limit = allowed.get(waits_for)  # type: ignore[call-overload]  # h11's states have a private type
            self._timer = None if limit is None else self.loop.call_later(limit, self.transport.close)

    return Connection

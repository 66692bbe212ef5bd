"""The types of ASGI (https://asgi.readthedocs.io/en/latest/specs/www.html), and answers made without a framework.

What stands around the API and the page is made of these: it has to work for both, and for what neither of them knows.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]


async def answer(send: Send, status: int, body: bytes, headers: Headers) -> None:
    """A whole answer, which nobody may keep."""
    common = [(b"content-length", str(len(body)).encode()), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": status, "headers": [*common, *headers]})
    await send({"type": "http.response.body", "body": body})


async def answer_json(send: Send, status: int, document: object, headers: Headers | None = None) -> None:
    """A JSON document."""
    await answer(
        send, status, json.dumps(document).encode(), [(b"content-type", b"application/json"), *(headers or ())]
    )


async def answer_error(
    send: Send, status: int, message: str, *, kind: str, code: str, headers: Headers | None = None
) -> None:
    """An error in OpenAI's form: `kind` is its `type`."""
    error = {"message": message, "type": kind, "param": None, "code": code}
    await answer_json(send, status, {"error": error}, headers)

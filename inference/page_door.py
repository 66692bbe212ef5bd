"""What of the page can be asked for, and what can be sent to it: what its own script asks for, and text.

Every Gradio application answers much more, and takes files everywhere: a value that names one by its URL is downloaded
by the server, whole, whatever the size, and a value that names a component has one made. This layer knows neither files
nor components: what it does not know does not get through, and no page is built for it. Knows the requests of Gradio's
clients; imports no Gradio.
"""

from __future__ import annotations

import json
from typing import Any

from asgi import Application, Message, Receive, Scope, Send
from starlette.exceptions import HTTPException

READ = ("/", "/config", "/theme.css", "/favicon.ico", "/gradio_api/info", "/gradio_api/queue/data")
READ_BELOW = ("/assets/", "/static/", "/gradio_api/heartbeat/")
SENT = ("/gradio_api/queue/join", "/gradio_api/run/predict", "/gradio_api/cancel", "/gradio_api/reset")

EVENT = {"data", "event_data", "event_id", "fn_index", "session_hash", "trigger_id", "index", "value"}
TURN = {"role", "content", "metadata", "options", "type", "text"}
TITLE = {"title", "id", "parent_id", "log", "duration", "status"}
NAMES = frozenset(EVENT | TURN | TITLE)
"""The names that the objects in a body may have. A file has a `path` as well, a component a `component`."""


class PageDoor:
    """A layer around the page, below the API: 404 for any other route, 400 for a body that is more than text.

    Raises HTTPException, which the API answers in its own form: who asks for such a route has mistaken one of its.
    """

    def __init__(self, app: Application) -> None:
        self._application = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            method, path = scope["method"], scope["path"]
            if method == "POST" and path in SENT:
                receive = _text_alone(receive)
            elif method not in ("GET", "HEAD") or not (path in READ or path.startswith(READ_BELOW)):
                # To the log and the metrics it is not the page.
                scope.pop("endpoint", None)
                raise HTTPException(404)
        await self._application(scope, receive, send)


def _text_alone(receive: Receive) -> Receive:
    """The body as it has been understood here, so that nobody behind this understands it in another way.

    Raises HTTPException where the application reads the body, which is where it expects one.
    """
    body = bytearray()

    async def received() -> Message:
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return message
            body.extend(message.get("body", b""))
            if not message.get("more_body"):
                return {"type": "http.request", "body": json.dumps(_checked(bytes(body))).encode()}

    return received


def _checked(body: bytes) -> Any:
    """The document in a body. Raises HTTPException for what is none, and for more than text."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise HTTPException(400, "The body is not JSON.") from None
    waiting = [document]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            strange = next((name for name in value if name not in NAMES), None)
            if strange is not None:
                raise HTTPException(400, f"This page takes text alone: no object with `{strange[:40]}`.")
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
    return document

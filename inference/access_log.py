"""One line of JSON about every request, with its id, and the same facts for whoever else counts requests.

Knows what a request cost and who sent it: the name of the key, never the key. Knows no word of a prompt, an answer, a
query or a header, except for the id that a caller may give its request.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
import uuid
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from asgi import Application, Message, Receive, Scope, Send
from auth import API_PREFIX, KEY_NAME
from engine import Generation, Stream

log = logging.getLogger("access")

QUIET_PATHS = frozenset({"/health", "/ready", "/metrics"})
"""Asked every few seconds by machines; an answer that was to be expected has no line."""

PAGE, NO_ROUTE = "page", "none"
"""Routes that are no path: whatever the page is made of, and what there is no route for."""

_GENERATIONS = "inference.generations"
_SANE_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
_LONGEST_PATH = 200


def note(scope: Scope, stream: Stream, answers_per_prompt: int) -> None:
    """The request of this scope has begun to compute its answers."""
    scope[_GENERATIONS] = stream.generations, answers_per_prompt


@dataclass(frozen=True)
class Exchange:
    """One request and its answer. Moments are seconds of time.monotonic()."""

    request_id: str
    method: str
    path: str
    route: str
    """The path as it is declared, so that there are few of them; PAGE; NO_ROUTE."""
    key: str | None
    """The name of the key that was shown."""
    status: int | None
    """None: the caller went away before there was one."""
    began: float
    ended: float
    generations: Sequence[Generation] = ()
    """One of each answer."""
    answers_per_prompt: int = 1

    def line(self) -> str:
        """The line of JSON."""
        told: dict[str, Any] = {
            "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "request_id": self.request_id,
            "key": self.key,
            "method": self.method,
            "path": self.path[:_LONGEST_PATH],
            "route": self.route,
            "status": self.status,
            "seconds": round(self.ended - self.began, 4),
        }
        if self.generations:
            first = [each.first_token for each in self.generations if each.first_token is not None]
            # What has no reason yet was left by its caller a moment ago.
            reasons = {each.reason or "cancelled" for each in self.generations}
            prompts = self.generations[:: self.answers_per_prompt]
            told |= {
                "model": self.generations[0].model,
                "choices": len(self.generations),
                "prompt_tokens": sum(each.prompt_tokens for each in prompts),
                "cached_tokens": sum(each.reused_tokens for each in prompts),
                "completion_tokens": sum(each.completion_tokens for each in self.generations),
                "ttft_seconds": round(min(first) - self.began, 4) if first else None,
                "finish_reason": ",".join(sorted(reasons)),
            }
        return json.dumps(told)


class AccessLog:
    """The layer around everything: gives each request an id (`x-request-id`) and tells of it when it has ended.

    `routes` are the paths of the API as they are declared; `observe` is told every exchange, also those without a line.
    """

    def __init__(self, application: Application, routes: Collection[str], observe: Callable[[Exchange], None]) -> None:
        self._application, self._routes, self._observe = application, frozenset(routes), observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        request_id, began, status, gone = _request_id(scope), time.monotonic(), None, False

        async def heard() -> Message:
            nonlocal gone
            message = await receive()
            gone = gone or message["type"] == "http.disconnect"
            return message

        async def told(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                # What is said to nobody is no answer: an alert on errors would ring for every caller who gives up.
                status = None if gone else int(message["status"])
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self._application(scope, heard, told)
        finally:
            exchange = Exchange(
                request_id,
                scope["method"],
                scope["path"],
                self._route(scope),
                scope.get(KEY_NAME),
                status,
                began,
                time.monotonic(),
                *scope.get(_GENERATIONS, ()),
            )
            self._observe(exchange)
            if scope["path"] not in QUIET_PATHS or status not in (200, 503):
                log.info("%s", exchange.line())

    def _route(self, scope: Scope) -> str:
        path, declared = str(scope["path"]), getattr(scope.get("route"), "path", None)
        for each in (path, declared):
            if each in self._routes:
                return str(each)
        if path in ("/login", "/logout"):
            return path
        return NO_ROUTE if path.startswith(API_PREFIX) or "endpoint" not in scope else PAGE


def _request_id(scope: Scope) -> str:
    """The caller's own, when a log can take it; else a new one."""
    given = [value for name, value in scope["headers"] if name.lower() == b"x-request-id"]
    if len(given) == 1 and _SANE_ID.fullmatch(given[0]):
        return str(given[0].decode())
    return f"req_{uuid.uuid4().hex}"


def write_to_stdout() -> None:
    """Lines of JSON and nothing else on stdout; the server's other messages go to stderr."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.handlers, log.propagate = [handler], False
    log.setLevel(logging.INFO)

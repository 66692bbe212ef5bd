"""What one request may take of a replica, and what one key may: layers around the API and the page.

Knows names of keys, bytes and seconds; knows no model. The queue's length and the tokens of a prompt and an answer are
the engine's own limits.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from asgi import Application, Message, Receive, Scope, Send, answer_error
from auth import API_PREFIX, KEY_NAME
from settings import PerKey
from starlette.exceptions import HTTPException


class BodyLimit:
    """Refuses a body that is larger than allowed, before it is read whole, and one that does not arrive in time."""

    def __init__(self, application: Application, largest_bytes: int, seconds: float) -> None:
        self._application, self._largest, self._seconds = application, largest_bytes, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        announced = next((value for name, value in scope["headers"] if name.lower() == b"content-length"), b"0")
        too_large = f"The body is larger than {self._largest} bytes."
        deadline = time.monotonic() + self._seconds
        if announced.isdigit() and int(announced) > self._largest:
            # A client that sends `Expect` gets the answer first; one that sends anyway would see it only at the end.
            if not any(name.lower() == b"expect" for name, _ in scope["headers"]):
                await self._let_pass(receive, deadline)
            await answer_error(
                send, 413, too_large, kind="invalid_request_error", code="body_too_large", headers=_CLOSE
            )
            return
        size, whole = 0, False

        async def counted() -> Message:
            nonlocal size, whole
            if whole:
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(0.0, deadline - time.monotonic()))
            except asyncio.TimeoutError:
                said = f"The body did not arrive within {self._seconds:g} s."
                raise HTTPException(408, said, {"connection": "close"}) from None
            size += len(message.get("body", b""))
            whole = not message.get("more_body")
            if size > self._largest:
                if not whole:
                    await self._let_pass(receive, deadline)
                raise HTTPException(413, too_large, {"connection": "close"})
            return message

        await self._application(scope, counted, send)

    async def _let_pass(self, receive: Receive, deadline: float) -> None:
        """Read the rest of a body and keep nothing of it, for as long as a body may take."""
        with contextlib.suppress(asyncio.TimeoutError):
            while (await asyncio.wait_for(receive(), max(0.0, deadline - time.monotonic()))).get("more_body"):
                pass


_CLOSE = [(b"connection", b"close")]
"""What is left unread of a body would be taken for the next request."""


class KeyLimitReached(Exception):
    """A key asks for more than it may have: `code` says of what."""

    def __init__(self, message: str, code: str, retry_after_seconds: int) -> None:
        super().__init__(message)
        self.code, self.retry_after_seconds = code, retry_after_seconds


class KeyLimits:
    """How many requests of each key run, and how many it has begun lately.

    Requests per minute are a bucket that holds a minute's worth and fills evenly: a burst is let through, and what
    comes after it is told when to come again. `clock` gives seconds.
    """

    def __init__(
        self, concurrent: PerKey, requests_per_minute: PerKey, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._concurrent, self._per_minute, self._clock = concurrent, requests_per_minute, clock
        self._running: Counter[str] = Counter()
        self._buckets: dict[str, tuple[float, float]] = {}

    @contextmanager
    def request(self, name: str) -> Iterator[None]:
        """A request of the named key runs inside. Raises KeyLimitReached, and counts nothing then."""
        most = self._concurrent.of(name)
        if most and self._running[name] >= most:
            message = f"The key `{name}` may run {_requests(most)} at once. Try again when one has ended."
            raise KeyLimitReached(message, "concurrency_limit_exceeded", 1)
        self._take_from_bucket(name)
        self._running[name] += 1
        try:
            yield
        finally:
            self._running[name] -= 1

    def _take_from_bucket(self, name: str) -> None:
        most, now = self._per_minute.of(name), self._clock()
        if not most:
            return
        left, since = self._buckets.get(name, (float(most), now))
        left = min(float(most), left + (now - since) * most / 60)
        if left < 1:
            wait = max(1, math.ceil((1 - left) * 60 / most))
            message = f"The key `{name}` may send {_requests(most)} per minute. Try again in {wait} s."
            raise KeyLimitReached(message, "rate_limit_exceeded", wait)
        self._buckets[name] = (left - 1, now)


def _requests(count: int) -> str:
    return f"{count} request" if count == 1 else f"{count} requests"


class KeyLimitLayer:
    """Holds the API's answers to the limits of the key that the gate has found."""

    def __init__(self, application: Application, limits: KeyLimits) -> None:
        self._application, self._limits = application, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Only what is computed counts: a list of models costs nothing.
        if scope["type"] != "http" or scope["method"] != "POST" or not scope["path"].startswith(API_PREFIX):
            await self._application(scope, receive, send)
            return
        try:
            with self._limits.request(scope[KEY_NAME]):
                await self._application(scope, receive, send)
        except KeyLimitReached as reached:
            wait = [(b"retry-after", str(reached.retry_after_seconds).encode())]
            await answer_error(send, 429, str(reached), kind="rate_limit_error", code=reached.code, headers=wait)

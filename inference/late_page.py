"""The page's place at "/": the page itself is built when somebody first looks for it.

Importing Gradio costs seconds of a core and 60 to 100 MB: a replica that only serves the API never pays for it, and no
start waits for it. Until the page is there a browser gets a few words that reload by themselves, and any other
client waits. Knows no Gradio: what builds the page is handed to it.
"""

from __future__ import annotations

import asyncio
import html
import logging
from collections.abc import Callable

from asgi import Application, Message, Receive, Scope, Send
from engine import Engine
from fastapi import FastAPI

log = logging.getLogger("page")

RELOAD_SECONDS = 2


class LatePage:
    """An ASGI application; `build` runs once, in a thread of its own, after the engine has loaded its model."""

    def __init__(self, engine: Engine, build: Callable[[], FastAPI]) -> None:
        self._engine, self._build = engine, build
        self._application: Application | None = None
        self._running: asyncio.Task[None] | None = None
        self._settled = asyncio.Event()
        """The page has been built, or cannot be."""
        self._ending = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # the page uses no websocket
            await send({"type": "websocket.close", "code": 1008})
            return
        state = self._engine.state
        if self._application is None and state.status == "loading":
            await _say(send, f"The model is starting: {state.phase} ...", reload=True)
            return
        if self._application is None and state.status == "failed":
            await _say(send, f"The model cannot be served: {state.error}", reload=False)
            return
        if self._running is None and not self._ending.is_set():
            self._running = asyncio.create_task(self._run())
        if self._application is None and _wants_html(scope) and not self._settled.is_set():
            await _say(send, "The page is starting ...", reload=True)
            return
        if self._running is not None:
            await self._settled.wait()
        if self._application is None:
            await _say(send, "The page cannot be served; the server's log says why. The API goes on.", reload=False)
            return
        await self._application(scope, self._until_ending(receive), send)

    def end(self) -> None:
        """Let open pages go: they listen for ever."""
        self._ending.set()

    async def closed(self, timeout_seconds: float) -> None:
        """Wait until the page has shut down."""
        if self._running is not None:
            await asyncio.wait({self._running}, timeout=timeout_seconds)

    async def _run(self) -> None:
        """Build the page, and keep it until the end."""
        try:
            built = await asyncio.to_thread(self._build)
            async with built.router.lifespan_context(built):
                self._application = built
                self._settled.set()
                log.info("the page is there")
                await self._ending.wait()
        except Exception:  # the API goes on without the page
            log.exception("the page cannot be served")
        finally:
            self._settled.set()

    def _until_ending(self, receive: Receive) -> Receive:
        """Tell the application that the browser has gone when the server ends."""

        async def received() -> Message:
            message = asyncio.ensure_future(receive())
            ended = asyncio.ensure_future(self._ending.wait())
            try:
                await asyncio.wait({message, ended}, return_when=asyncio.FIRST_COMPLETED)
                return await message if message.done() else {"type": "http.disconnect"}
            finally:
                message.cancel()
                ended.cancel()

        return received


def _wants_html(scope: Scope) -> bool:
    return any(name.lower() == b"accept" and b"text/html" in value for name, value in scope["headers"])


async def _say(send: Send, words: str, *, reload: bool) -> None:
    body = _WORDS.replace("RELOAD", f'<meta http-equiv="refresh" content="{RELOAD_SECONDS}">' if reload else "")
    headers = [(b"content-type", b"text/html; charset=utf-8"), (b"cache-control", b"no-store")]
    if reload:
        headers.append((b"retry-after", str(RELOAD_SECONDS).encode()))
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": body.replace("WORDS", html.escape(words)).encode()})


_WORDS = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
RELOAD
<title>Chat</title>
<link rel="icon" href="data:,">
<style>
  :root { color-scheme: light dark; }
  body { margin: 0; min-height: 100vh; display: grid; place-items: center; font: 16px/1.5 system-ui, sans-serif; }
  p { padding: 1rem; max-width: 40rem; overflow-wrap: anywhere; }
</style>
</head>
<body><p>WORDS</p></body>
</html>
"""

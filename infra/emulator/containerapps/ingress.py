"""The ingress of one app: TLS on the app's own port (and plain http for a person's browser), everything streamed.

Knows HTTP and where the next replica is, nothing else. The texts of its own answers are Envoy's, which is what answers
in front of a container app in Azure.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager

import aiohttp
from aiohttp import hdrs, web
from multidict import CIMultiDict
from yarl import URL

from infra.emulator import faults
from infra.emulator.containerapps.replica import Replica
from infra.emulator.containerapps.workload import Refused
from infra.emulator.fault_switch import Fault, FaultSwitch
from infra.emulator.waiting import within

log = logging.getLogger(__name__)

_HOP_BY_HOP = frozenset(
    name.lower()
    for name in (
        "Connection",
        "Keep-Alive",
        "Proxy-Authenticate",
        "Proxy-Authorization",
        "TE",
        "Trailer",
        "Transfer-Encoding",
        "Upgrade",
        "Expect",
    )
)
_CHUNK = 64 * 1024
_CONNECT_SECONDS = 5.0
_NO_CONNECTION = "upstream connect error or disconnect/reset before headers. retried and the latest reset reason: {}"
_NO_UPSTREAM = "no healthy upstream"
_REFUSALS = {faults.THROTTLED: "local_rate_limited", faults.INTERNAL_ERROR: "Internal Server Error"}
ReplicaFor = Callable[[str], AbstractAsyncContextManager[Replica]]
"""A ready replica for one request to a host. Raises Refused."""


class Ingress:
    """Listens from start() to stop()."""

    def __init__(self, name: str, replica_for: ReplicaFor, idle_seconds: float, switch: FaultSwitch) -> None:
        self._name = name
        self._switch = switch
        self._replica_for = replica_for
        self._idle_seconds = idle_seconds
        self._runners: list[web.AppRunner] = []
        self._client: aiohttp.ClientSession | None = None

    async def start(self, tls: socket.socket, page: socket.socket, context: ssl.SSLContext) -> None:
        """Answers on both sockets, which are bound."""
        self._client = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=self._idle_seconds),
            middlewares=(_send_once,),
            skip_auto_headers=(hdrs.USER_AGENT, hdrs.ACCEPT, hdrs.ACCEPT_ENCODING, hdrs.CONTENT_TYPE),
        )
        for listener, tls_context in ((tls, context), (page, None)):
            application = web.Application(client_max_size=0)
            application.router.add_route("*", "/{path:.*}", self._through_the_switch)
            # A client that leaves ends the handler, and with it the request to the replica.
            runner = web.AppRunner(
                application, access_log=None, handle_signals=False, handler_cancellation=True, shutdown_timeout=1.0
            )
            await runner.setup()
            await web.SockSite(runner, listener, ssl_context=tls_context, backlog=512).start()
            self._runners.append(runner)

    async def stop(self) -> None:
        """Closes the ports; what is still being answered has a second."""
        await asyncio.gather(*(runner.cleanup() for runner in self._runners))
        if self._client is not None:
            await self._client.close()

    def refuse(self, request: web.Request, fault: Fault) -> web.StreamResponse:
        """An error of the fault switch, as Envoy words it."""
        answer = _text(fault.status, fault.message or _REFUSALS.get(fault.kind, _NO_UPSTREAM))
        answer.headers.update(fault.headers)
        return answer

    async def _through_the_switch(self, request: web.Request) -> web.StreamResponse:
        within = f"/{self._name}"
        return await self._switch.through(request, faults.INGRESS, self, lambda: self._handle(request), within=within)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get(hdrs.UPGRADE):
            return _text(501, "The local stand-in for Azure does not upgrade connections (web sockets).")
        try:
            async with self._replica_for(request.host) as replica:
                return await self._forward(request, replica)
        except Refused as refusal:
            return _text(refusal.status, refusal.text)

    async def _forward(self, request: web.Request, replica: Replica) -> web.StreamResponse:
        assert self._client is not None
        dropped = _dropped(request.headers)
        headers = CIMultiDict((name, value) for name, value in request.headers.items() if name.lower() not in dropped)
        client = request.remote or "127.0.0.1"
        before = headers.get("X-Forwarded-For")
        headers["X-Forwarded-For"] = f"{before}, {client}" if before else client
        headers["X-Forwarded-Proto"] = request.scheme
        headers["X-Forwarded-Host"] = request.host
        headers["X-Envoy-External-Address"] = client
        headers.setdefault("X-Request-Id", str(uuid.uuid4()))
        url = f"http://127.0.0.1:{replica.port}{request.raw_path}"
        body = _idle_limited(request.content, self._idle_seconds) if request.body_exists else None
        try:
            upstream = await self._client.request(
                request.method,
                URL(url, encoded=True),
                headers=headers,
                data=body,
                allow_redirects=False,
            )
        except (asyncio.TimeoutError, aiohttp.ServerTimeoutError):
            return _text(504, "stream timeout")
        except aiohttp.ClientConnectorError:
            return _text(503, _NO_CONNECTION.format("connection failure"))
        except (aiohttp.ClientError, ConnectionError):
            return _text(502, _NO_CONNECTION.format("connection termination"))
        async with upstream:
            return await self._answer(request, upstream)

    async def _answer(self, request: web.Request, upstream: aiohttp.ClientResponse) -> web.StreamResponse:
        response = web.StreamResponse(status=upstream.status, reason=upstream.reason)
        dropped = _dropped(upstream.headers)
        for name, value in upstream.headers.items():
            if name.lower() not in dropped:
                response.headers.add(name, value)
        await response.prepare(request)
        try:
            async for chunk in upstream.content.iter_any():
                await response.write(chunk)
            await response.write_eof()
        except (aiohttp.ClientError, asyncio.TimeoutError, ConnectionError) as problem:
            # The head is gone out: all that is left is to break the connection, so that the client notices.
            log.info("%s: the answer to %s broke off: %r", self._name, request.path, problem)
            if request.transport is not None:
                request.transport.abort()
        return response


def _dropped(headers: Mapping[str, str]) -> frozenset[str]:
    """The headers that concern one connection alone (RFC 9110, section 7.6.1)."""
    named = headers.get(hdrs.CONNECTION, "")
    return _HOP_BY_HOP | {name.strip().lower() for name in named.split(",")}


class _BrokenOff(aiohttp.ClientError):
    """The replica closed the connection before it answered."""


async def _send_once(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Keeps aiohttp from sending a request again by itself: whether to is for the app's client to decide."""
    try:
        return await send(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as problem:
        raise _BrokenOff(str(problem)) from problem


async def _idle_limited(content: aiohttp.StreamReader, seconds: float) -> AsyncIterator[bytes]:
    """What the client sends, as it comes; TimeoutError when nothing comes for that long."""
    while True:
        chunk = await within(seconds, content.readany())
        if not chunk and content.at_eof():
            return
        yield chunk


def _text(status: int, text: str) -> web.Response:
    return web.Response(status=status, text=text, content_type="text/plain")

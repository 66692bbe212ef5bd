"""The fault switch: /stand-in/faults, and what stands around every request to a service.

Knows rules and HTTP, and asks the service itself for the shape of an error.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from aiohttp import web

from infra.emulator import faults
from infra.emulator.faults import BadRule, Faults, Rule

Handler = Callable[[], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Fault:
    """An error that a service is asked to answer in its own shape. `code` and `message` None: the service's own."""

    kind: str
    status: int
    code: str | None = None
    message: str | None = None
    retry_after_seconds: int | None = None

    @property
    def headers(self) -> dict[str, str]:
        """What such an answer has beside the service's own headers."""
        return {} if self.retry_after_seconds is None else {"Retry-After": str(self.retry_after_seconds)}


class Service(Protocol):
    """What answers requests, and can refuse one without looking at it."""

    def refuse(self, request: web.Request, fault: Fault) -> web.StreamResponse:
        """The fault in the service's own shape."""


class FaultSwitch:
    """Rules as others add and remove them, and requests that pass through them."""

    def __init__(self, rules: Faults) -> None:
        self._rules = rules

    async def through(
        self, request: web.Request, name: str, service: Service, handle: Handler, *, within: str = ""
    ) -> web.StreamResponse:
        """The answer of `handle`, unless a rule says otherwise. `name` is one of faults.SERVICES; `within` is what
        stands before the path in the eyes of the rules."""
        if self._rules.none:
            return await handle()
        path = within + request.path_qs
        late, rule = self._rules.of_request(
            name, request.method, path, by_token=_shows_token(request), fills=_fills(request)
        )
        if late:
            await asyncio.sleep(late)
        if rule is None:
            return await handle()
        if rule.kind == faults.DROPPED:
            return await _dropped(request, rule, handle)
        return service.refuse(request, _fault_of(rule))

    async def answer(self, request: web.Request, rest: str) -> web.Response:
        """GET, POST and DELETE of /stand-in/faults, DELETE of /stand-in/faults/{id}. `rest` follows .../faults."""
        rule_id = rest.strip("/") or None
        if request.method == "GET" and rule_id is None:
            return _shown(list(self._rules), 200)
        if request.method == "POST" and rule_id is None:
            try:
                return _shown(self._rules.add(await _json(request)), 201)
            except BadRule as problem:
                return web.json_response({"error": "No rule was added.", "problems": problem.problems}, status=400)
        if request.method == "DELETE":
            gone = self._rules.remove(rule_id)
            if rule_id is not None and not gone:
                return web.json_response({"error": f"There is no rule {rule_id}."}, status=404)
            return _shown(gone, 200)
        return web.json_response({"error": f"{request.method} is not possible here."}, status=405)


async def _json(request: web.Request) -> object:
    try:
        return await request.json()
    except (json.JSONDecodeError, UnicodeDecodeError) as problem:
        raise BadRule([f"The body is not JSON: {problem}"]) from None


def _shown(rules: list[Rule], status: int) -> web.Response:
    return web.json_response({"faults": [rule.as_dict() for rule in rules]}, status=status)


def _shows_token(request: web.Request) -> bool:
    return request.headers.get("Authorization", "").lower().startswith("bearer ")


def _fills(request: web.Request) -> bool:
    """Whether a request to the file service needs space: a range, a file with a size, a copy."""
    headers = request.headers
    if request.method != "PUT":
        return False
    if request.query.get("comp") == "range":
        return headers.get("x-ms-write", "").lower() == "update"
    return "x-ms-copy-source" in headers or headers.get("x-ms-type", "").lower() == "file"


async def _dropped(request: web.Request, rule: Rule, handle: Handler) -> web.StreamResponse:
    """Cuts the connection: before anything was done, or once all was done and nothing of the answer is sent."""
    response: web.StreamResponse = web.Response()
    if rule.asked["when"] == faults.AFTER:
        response = await handle()
    if request.transport is not None:
        request.transport.abort()
    return response


def _fault_of(rule: Rule) -> Fault:
    asked = rule.asked
    if rule.kind == faults.THROTTLED:
        return Fault(rule.kind, 429, retry_after_seconds=asked["retry_after_seconds"])
    if rule.kind == faults.UNAVAILABLE:
        return Fault(rule.kind, 503, retry_after_seconds=asked["retry_after_seconds"])
    if rule.kind == faults.REFUSED:
        return Fault(rule.kind, asked["status"], asked["code"], asked["message"])
    return Fault(rule.kind, {faults.EXPIRED_TOKEN: 401, faults.FULL_SHARE: 403}.get(rule.kind, 500))

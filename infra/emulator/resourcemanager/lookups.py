"""reference() and list*() of a template, asked of the cloud: evaluation is synchronous, and what it asks for is not.

An evaluation that needs an answer is broken off, the answer is fetched, and the evaluation begun again with it. It has
no effects, so only the answers count.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from infra.emulator.template import Resolver

T = TypeVar("T")
Reference = Callable[[str, str, bool], Awaitable[Any]]
ListAction = Callable[[str, str, str, Any], Awaitable[Any]]


class _Needed(Exception):
    """Breaks off an evaluation: the answer of `fetch` is needed under `key`."""

    def __init__(self, key: tuple[str, ...], fetch: Callable[[], Awaitable[Any]]) -> None:
        super().__init__(key)
        self.key, self.fetch = key, fetch


class _Answers:
    """A Resolver over the answers that are known."""

    def __init__(self, reference: Reference, list_action: ListAction) -> None:
        self._reference, self._list_action = reference, list_action
        self.known: dict[tuple[str, ...], Any] = {}

    def reference(self, resource_id: str, api_version: str | None, full: bool) -> Any:
        version = api_version or ""
        key = ("reference", resource_id.lower(), version, str(full))
        return self._answer(key, lambda: self._reference(resource_id, version, full))

    def list_action(self, name: str, resource_id: str, api_version: str, body: Any) -> Any:
        key = (name.lower(), resource_id.lower(), api_version, json.dumps(body, sort_keys=True))
        return self._answer(key, lambda: self._list_action(name, resource_id, api_version, body))

    def _answer(self, key: tuple[str, ...], fetch: Callable[[], Awaitable[Any]]) -> Any:
        if key not in self.known:
            raise _Needed(key, fetch)
        return self.known[key]


async def evaluated(evaluate: Callable[[Resolver], T], reference: Reference, list_action: ListAction) -> T:
    """The value of `evaluate`. Raises what it raises, and what the two callables raise."""
    answers = _Answers(reference, list_action)
    while True:
        try:
            return evaluate(answers)
        except _Needed as needed:
            answers.known[needed.key] = await needed.fetch()

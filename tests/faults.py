"""The fault switch as tests use it: rules for the time of a block, and what became of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import httpx

from tests.conftest import RunningStandIn


class Switch:
    """/stand-in/faults of one stand-in."""

    def __init__(self, stand_in: RunningStandIn) -> None:
        self._address = stand_in.announcement["authority"] + "/stand-in/faults"
        headers = {"Authorization": f"Bearer {stand_in.token()}"}
        self._http = httpx.Client(verify=stand_in.trust, headers=headers, timeout=60)

    def request(self, method: str, rest: str = "", body: Any = None) -> httpx.Response:
        return self._http.request(method, self._address + rest, json=body)

    def rules(self) -> list[dict[str, Any]]:
        """The rules in force, with how often each was met and has fired."""
        found: list[dict[str, Any]] = self.request("GET").raise_for_status().json()["faults"]
        return found

    def fired(self) -> list[int]:
        """How often each rule has fired."""
        return [rule["fired"] for rule in self.rules()]

    @contextlib.contextmanager
    def on(self, *rules: dict[str, Any]) -> Iterator[Switch]:
        """The rules, and no others, until the block ends."""
        self.request("DELETE").raise_for_status()
        answer = self.request("POST", body=list(rules))
        assert answer.status_code == 201, answer.text
        try:
            yield self
        finally:
            self.request("DELETE").raise_for_status()

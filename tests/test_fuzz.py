"""A short run of what tests/bench/fuzz.py does at length: odd requests, and what must hold while and after."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from tests.bench.fuzz import Fuzzer, tracebacks
from tests.fixtures_inference import BEARER, MORE_KEYS, Server, server, tiny_model

__all__ = ["server", "tiny_model"]


def test_odd_requests_break_nothing(server: Server) -> None:
    logged = len(server.log())
    report = Fuzzer(server, count=240, seed=20).run()
    assert report.requests >= 200
    assert report.violations == []
    assert report.same_answers > 0, "the greedy question was asked meanwhile"
    assert len(report.sent) >= 10, "requests of every kind"
    assert report.statuses["200"] > 20
    assert report.statuses["400"] > 50
    assert tracebacks(server.log()[logged:]) == []


def test_no_metric_grows_with_what_callers_write(server: Server) -> None:
    """A label's values come from lists of the server's own, whatever the path, the method, the key and the model of a
    request: each new one would be kept for ever."""
    for odd in ("a", "b", "%F0%9F", "x" * 1000):
        server.get(f"/v1/{odd}", headers=BEARER)
        server.get(f"/{odd}", headers={"Authorization": f"Bearer {odd}", "x-request-id": odd})
        server.get(f"/v1/models/{odd}", headers=BEARER)
    told = server.get("/metrics", headers=BEARER).text
    values: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(told):
        for sample in family.samples:
            for label, value in sample.labels.items():
                values.setdefault(label, set()).add(value)
    paths = server.get("/openapi.json", headers=BEARER).json()["paths"]
    assert values["route"] <= {*paths, "page", "none", "/login", "/logout"}
    assert values["method"] <= {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "other"}
    assert values["key"] <= {"default", *MORE_KEYS, "none"}
    assert values["model"] <= {"tiny-base", "default", "other"}
    assert values["status"] <= {"loading", "ready", "failed", "draining", "none", *map(str, range(100, 600))}
    known = {"route", "method", "key", "model", "status", "finish_reason", "le", "release", "default_model"}
    assert set(values) <= known, "another label has bounds of its own here"

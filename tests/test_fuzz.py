"""A short run of what tests/bench/fuzz.py does at length: odd requests, and what must hold while and after."""

from __future__ import annotations

from tests.bench.fuzz import Fuzzer, tracebacks
from tests.fixtures_inference import Server, server, tiny_model

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

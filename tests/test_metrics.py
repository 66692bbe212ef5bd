"""The metrics of a real server, read by Prometheus' own parser, and the engine's part of them request by request."""

from __future__ import annotations

import json
from collections.abc import Callable

import httpx
from engine import Generation
from metrics import Metrics
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from tests.fixtures_inference import BEARER, MORE_KEYS, Server, server, tiny_model
from tests.waiting import until

__all__ = ["server", "tiny_model"]

QUESTION = {"messages": [{"role": "user", "content": "the quick brown fox"}], "max_tokens": 5}


class Reading:
    """One answer of /metrics: value of a series by its name and labels."""

    def __init__(self, text: str) -> None:
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        self._values = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families.values()
            for sample in family.samples
        }

    def value(self, name: str, **labels: str) -> float:
        return self._values.get((name, frozenset(labels.items())), 0.0)

    def names(self) -> set[str]:
        return {name for name, _ in self._values}


def read(server: Server) -> Reading:
    answer = server.get("/metrics", headers=BEARER)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return Reading(answer.text)


def read_until(server: Server, condition: Callable[[Reading], bool]) -> Reading:
    """Metrics of a request are there a moment after its answer."""
    (reading,) = until(lambda: [reading for reading in [read(server)] if condition(reading)])
    return reading


def ask(server: Server, key: str, **changes: object) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"}
    return server.request("POST", "/v1/chat/completions", json=QUESTION | changes, headers=headers)


def test_a_request_moves_the_counters(server: Server) -> None:
    before = read(server)
    answer = ask(server, MORE_KEYS["ci"], model="other").json()
    ask(server, MORE_KEYS["ci"], model="nobody")
    labels = {"route": "/v1/chat/completions", "method": "POST", "key": "ci"}

    def gained(name: str, **which: str) -> float:
        return after.value(name, **which) - before.value(name, **which)

    def counted(reading: Reading) -> list[float]:
        return [reading.value("inference_http_requests_total", **labels, status=status) for status in ("200", "404")]

    after = read_until(server, lambda reading: counted(reading) == [number + 1 for number in counted(before)])
    usage = answer["usage"]
    assert gained("inference_prompt_tokens_total", model="other") == usage["prompt_tokens"]
    assert gained("inference_generation_tokens_total", model="other") == usage["completion_tokens"]
    assert gained("inference_prompt_tokens_total", model="default") == 0
    reason = answer["choices"][0]["finish_reason"]
    assert gained("inference_requests_finished_total", model="other", finish_reason=reason) == 1
    for name in ("time_to_first_token_seconds", "request_duration_seconds", "queue_time_seconds"):
        assert gained(f"inference_{name}_count", model="other") == 1
    assert gained("inference_time_to_first_token_seconds_sum", model="other") > 0
    assert gained("inference_http_request_duration_seconds_count", route="/v1/chat/completions") == 2


def test_every_model_has_its_series_from_the_beginning(server: Server) -> None:
    reading = read(server)
    for name in ("inference_requests_waiting", "inference_requests_running", "inference_generation_tokens"):
        models = {sample.labels["model"] for sample in reading.families[name].samples}
        assert models == {"default", "other", "tiny-base"}


def test_states_and_the_ledger_of_the_start(server: Server) -> None:
    ledger = server.get("/ready", headers=BEARER).json()["ledger"]
    reading = read(server)
    assert ledger
    for name, number in ledger.items():
        assert reading.value(f"inference_start_{name}") == number
    assert reading.value("inference_info", release="0123abcd", default_model="default") == 1
    statuses = {sample.labels["status"]: sample.value for sample in reading.families["inference_status"].samples}
    assert statuses == {"loading": 0, "ready": 1, "failed": 0, "draining": 0}
    assert reading.value("process_resident_memory_bytes") > 1e7
    assert reading.value("inference_queue_limit") == 64


def test_running_requests_are_seen_while_they_run_and_gone_afterwards(server: Server) -> None:
    body = json.dumps(QUESTION | {"stream": True, "max_tokens": 100, "model": "default", "seed": 3}).encode()
    address = server.address + "/v1/chat/completions"

    def busy(reading: Reading) -> float:
        return reading.value("inference_requests_running", model="default")

    with httpx.stream("POST", address, content=body, headers=BEARER, timeout=60) as answer:
        pieces = answer.iter_raw()
        next(pieces)
        seen = [read(server)]
        for _ in pieces:
            if len(seen) < 3:
                seen.append(read(server))
    assert all(0 <= reading.value("inference_cache_usage_ratio") <= 1 for reading in seen)
    idle = read_until(server, lambda reading: busy(reading) == 0)
    assert idle.value("inference_requests_waiting", model="default") == 0
    assert idle.value("inference_cache_usage_ratio") == 0


def test_the_names_keep_prometheus_conventions(server: Server) -> None:
    reading = read(server)
    for family in reading.families.values():
        assert family.documentation, family.name
        if family.type == "counter":
            assert all(sample.name.endswith("_total") for sample in family.samples), family.name
        if "time" in family.name or "duration" in family.name:
            assert "seconds" in family.name
    assert not any(name.endswith("_created") for name in reading.names())
    ours = {name for name in reading.families if not name.startswith("process_")}
    assert all(name.startswith("inference_") for name in ours)


def test_openmetrics_for_who_asks_for_it(server: Server) -> None:
    accept = {"accept": "application/openmetrics-text; version=1.0.0"}
    answer = server.get("/metrics", headers=BEARER | accept)
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    families = openmetrics.text_string_to_metric_families(answer.text)  # type: ignore[no-untyped-call]
    names = [family.name for family in families]
    assert "inference_requests_running" in names


# The engine's part, one request after another


def values(metrics: Metrics) -> Reading:
    return Reading(metrics.expose("")[0].decode())


def test_times_are_those_of_the_request() -> None:
    metrics = Metrics()
    generation = Generation("m", prompt_tokens=40, queued=100.0)
    metrics.queued(generation)
    assert values(metrics).value("inference_requests_waiting", model="m") == 1
    generation.started = 102.0
    metrics.started(generation)
    assert values(metrics).value("inference_requests_waiting", model="m") == 0
    assert values(metrics).value("inference_requests_running", model="m") == 1
    generation.first_token, generation.ended, generation.reason = 103.0, 107.0, "length"
    generation.completion_tokens, generation.reused_tokens = 9, 32
    metrics.finished(generation)
    told = values(metrics)
    assert told.value("inference_requests_running", model="m") == 0
    assert told.value("inference_queue_time_seconds_sum", model="m") == 2
    assert told.value("inference_time_to_first_token_seconds_sum", model="m") == 3
    assert told.value("inference_time_per_output_token_seconds_sum", model="m") == 0.5
    assert told.value("inference_request_duration_seconds_sum", model="m") == 7
    assert told.value("inference_cached_prompt_tokens_total", model="m") == 32


def test_what_never_had_a_slot_has_no_times() -> None:
    metrics = Metrics()
    generation = Generation("m", prompt_tokens=40, queued=100.0)
    metrics.queued(generation)
    generation.ended, generation.reason = 107.0, "cancelled"
    metrics.finished(generation)
    told = values(metrics)
    assert told.value("inference_requests_waiting", model="m") == 0
    assert told.value("inference_requests_running", model="m") == 0
    assert told.value("inference_requests_finished_total", model="m", finish_reason="cancelled") == 1
    assert told.value("inference_prompt_tokens_total", model="m") == 0

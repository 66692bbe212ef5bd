"""What an operator watches, in Prometheus' text format (https://prometheus.io/docs/instrumenting/exposition_formats/).

Times and tokens of each model come from the engine as its requests end; states are read when somebody asks. Knows no
prompt and no key, only the names of both the models and the keys.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from access_log import Exchange
from engine import Engine, Generation, Observer
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

_FIRST_TOKEN_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2.5)
_REQUEST_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)
_TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536)

STATUSES = ("loading", "ready", "failed", "draining")


class Metrics(Observer):
    """Counts what the engine and the access log tell; has a registry of its own."""

    def __init__(self) -> None:
        # Otherwise every counter has a twin with the time of its first use.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        model = ("model",)
        self._waiting = Gauge("inference_requests_waiting", "Answers that wait for a slot", model, registry=registry)
        self._running = Gauge("inference_requests_running", "Answers that are computed", model, registry=registry)
        self._finished = Counter(
            "inference_requests_finished",
            "Answers that have ended, by the reason: stop, length, cancelled, timeout, error",
            ("model", "finish_reason"),
            registry=registry,
        )
        self._prompt = Counter("inference_prompt_tokens", "Tokens of the answers' prompts", model, registry=registry)
        self._cached = Counter(
            "inference_cached_prompt_tokens",
            "Tokens of the answers' prompts that were in the cache and not computed again",
            model,
            registry=registry,
        )
        self._generated = Counter("inference_generation_tokens", "Tokens of answers", model, registry=registry)
        self._prompt_length = Histogram(
            "inference_request_prompt_tokens", "Tokens of a prompt", model, buckets=_TOKENS, registry=registry
        )
        self._answer_length = Histogram(
            "inference_request_generation_tokens", "Tokens of an answer", model, buckets=_TOKENS, registry=registry
        )
        self._queue_seconds = Histogram(
            "inference_queue_time_seconds",
            "From the request to its slot",
            model,
            buckets=_FIRST_TOKEN_SECONDS,
            registry=registry,
        )
        self._first_token_seconds = Histogram(
            "inference_time_to_first_token_seconds",
            "From the request to its first token",
            model,
            buckets=_FIRST_TOKEN_SECONDS,
            registry=registry,
        )
        self._token_seconds = Histogram(
            "inference_time_per_output_token_seconds",
            "Between two tokens of an answer, on its average",
            model,
            buckets=_TOKEN_SECONDS,
            registry=registry,
        )
        self._request_seconds = Histogram(
            "inference_request_duration_seconds",
            "From the request to its last token",
            model,
            buckets=_REQUEST_SECONDS,
            registry=registry,
        )
        self._http_requests = Counter(
            "inference_http_requests",
            "HTTP requests by route, method, status (none: the caller went away) and the name of the key",
            ("route", "method", "status", "key"),
            registry=registry,
        )
        self._http_seconds = Histogram(
            "inference_http_request_duration_seconds",
            "From the head of an HTTP request to the end of its answer",
            ("route",),
            buckets=_REQUEST_SECONDS,
            registry=registry,
        )

    def watch(self, engine: Engine, release: str) -> None:
        """From now on the states of this engine are told, and every model has its series."""
        self._registry.register(_EngineCollector(engine, release))
        for model in engine.models:
            for metric in (self._waiting, self._running, self._prompt, self._cached, self._generated):
                metric.labels(model)

    def expose(self, accept: str) -> tuple[bytes, str]:
        """Everything by now, in the format that the header `accept` asks for, and its media type."""
        encode, media_type = choose_encoder(accept)
        return encode(self._registry), media_type

    # What the engine tells

    def queued(self, generation: Generation) -> None:
        self._waiting.labels(generation.model).inc()

    def started(self, generation: Generation) -> None:
        self._waiting.labels(generation.model).dec()
        self._running.labels(generation.model).inc()
        assert generation.started is not None
        self._queue_seconds.labels(generation.model).observe(generation.started - generation.queued)

    def finished(self, generation: Generation) -> None:
        model, queued, first, ended = generation.model, generation.queued, generation.first_token, generation.ended
        (self._waiting if generation.started is None else self._running).labels(model).dec()
        self._finished.labels(model, generation.reason).inc()
        if first is None or ended is None:
            return
        self._prompt.labels(model).inc(generation.prompt_tokens)
        self._cached.labels(model).inc(generation.reused_tokens)
        self._generated.labels(model).inc(generation.completion_tokens)
        self._prompt_length.labels(model).observe(generation.prompt_tokens)
        self._answer_length.labels(model).observe(generation.completion_tokens)
        self._first_token_seconds.labels(model).observe(first - queued)
        self._request_seconds.labels(model).observe(ended - queued)
        if generation.completion_tokens > 1:
            self._token_seconds.labels(model).observe((ended - first) / (generation.completion_tokens - 1))

    # What the access log tells

    def exchanged(self, exchange: Exchange) -> None:
        """A request has had its answer."""
        status = "none" if exchange.status is None else str(exchange.status)
        method = exchange.method if exchange.method in _METHODS else "other"
        self._http_requests.labels(exchange.route, method, status, exchange.key or "none").inc()
        self._http_seconds.labels(exchange.route).observe(exchange.ended - exchange.began)


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class _EngineCollector(Collector):
    """The engine's states, read at the moment of the question."""

    def __init__(self, engine: Engine, release: str) -> None:
        self._engine, self._release = engine, release

    def collect(self) -> Iterator[Metric]:
        engine, state = self._engine, self._engine.state
        about = GaugeMetricFamily("inference_info", "Always 1; tells the release", labels=["release", "default_model"])
        about.add_metric([self._release, engine.default_model], 1)
        yield about
        status = GaugeMetricFamily("inference_status", "1 for the status that the server has", labels=["status"])
        for name in STATUSES:
            status.add_metric([name], float(name == state.status))
        yield status
        yield GaugeMetricFamily(
            "inference_cache_usage_ratio", "The share of the cache that running requests hold", value=engine.cache_use
        )
        yield GaugeMetricFamily("inference_queue_limit", "How many requests may wait", value=engine.limits.max_queue)
        for name, number in sorted(state.ledger.items()):
            words = name.replace("_", " ")
            yield GaugeMetricFamily(f"inference_start_{_name(name)}", f"Of this replica's start: {words}", value=number)


def _name(ledger_name: str) -> str:
    """A part of a metric's name: letters, digits and underscores."""
    return re.sub(r"[^a-zA-Z0-9_]", "_", ledger_name)

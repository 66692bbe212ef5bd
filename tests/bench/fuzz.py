"""Odd requests by the thousand against a real server over a tiny model; what must hold while and after.

    python -m tests.bench.fuzz [--requests 10000] [--seed 1] [--json]

A fifth of the requests is made by schemathesis from the server's own OpenAPI document, which also holds the answers to
it; the rest are those of fuzz_requests.py. Meanwhile the same greedy question is asked again and again: its answer may
never change. Afterwards no request may be left running, and memory may not have grown. Exit code 1 when something does
not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice, pairwise
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from prometheus_client.parser import text_string_to_metric_families
from schemathesis.core.failures import FailureGroup
from schemathesis.generation import GenerationMode

from tests.bench.fuzz_requests import OddRequest, OddRequests

# The modules of a replica import each other by plain name.
sys.path.insert(0, str(Path(__file__).parents[2] / "inference"))

from infra.emulator.ports import free as free_port
from tests.fixtures_inference import BEARER, KEY, Server, environment_for, make_tiny_model, start_server

CONNECTIONS = 8
SHARE_BY_DOCUMENT = 0.2
GROWTH_SHARE = 0.01
"""How much more memory the last quarter of the requests may have than the one before: the server is flat by then."""
SAMPLES = 20
"""How often memory is read."""
SECONDS_TO_ANSWER = 60.0


@dataclass
class Report:
    """What was sent, what came back, and what did not hold."""

    seed: int
    sent: Counter[str] = field(default_factory=Counter)
    """Requests by kind."""
    statuses: Counter[str] = field(default_factory=Counter)
    """Answers by status; `none` when there was none, for the caller had gone or spoke no HTTP."""
    violations: list[str] = field(default_factory=list)
    same_answers: int = 0
    """How often the greedy question was asked meanwhile and had its answer."""
    refused_though_valid: int = 0
    """Requests that the document allows and the server refuses by a rule that JSON schema cannot say."""
    memory_bytes: list[int] = field(default_factory=list)
    """The server's own memory, without what it maps from files: again and again, at even distances."""
    seconds: float = 0.0

    @property
    def requests(self) -> int:
        return sum(self.sent.values())

    @property
    def quarters_bytes(self) -> list[int]:
        """The median memory of each quarter of the requests. In the first ones each slot, thread and kind of grammar is
        used for the first time."""
        edges = [len(self.memory_bytes) * number // 4 for number in range(5)]
        return [round(median(self.memory_bytes[one:other])) for one, other in pairwise(edges)]

    @property
    def growth_share(self) -> float:
        """By how much the last quarter's memory is more than that of the quarter before."""
        before, last = self.quarters_bytes[-2:]
        return last / before - 1

    def violated(self, what: str) -> None:
        if what not in self.violations:
            self.violations.append(what)


class Fuzzer:
    """One run against a server."""

    def __init__(self, server: Server, count: int, seed: int) -> None:
        self._address, self._process, self._count = server.address, server.process.pid, count
        self._client = httpx.Client(base_url=server.address, headers=BEARER, timeout=SECONDS_TO_ANSWER)
        self._document: dict[str, Any] = self._client.get("/openapi.json").json()
        self._models = [model["id"] for model in self._client.get("/v1/models").json()["data"]]
        self._lock = threading.Lock()
        self.report = Report(seed)

    def run(self) -> Report:
        """Send everything, wait until the server is idle again."""
        began = time.monotonic()
        by_document = round(self._count * SHARE_BY_DOCUMENT)
        truth = [self._ask(model) for model in self._models]
        ended = threading.Event()
        asking = threading.Thread(target=self._ask_until, args=(ended, truth))
        asking.start()
        try:
            # One after the other: while schemathesis thinks, this process may not send for seconds, and the server
            # would rightly end connections on which nothing comes.
            self._by_document(by_document)
            asyncio.run(self._by_hand(self._count - by_document))
        finally:
            ended.set()
            asking.join()
        self._wait_until_idle()
        if [self._ask(model) for model in self._models] != truth:
            self.report.violated("afterwards a greedy answer is another one")
        self.report.seconds = round(time.monotonic() - began, 1)
        return self.report

    # The question whose answer may not change

    def _ask(self, model: str) -> str:
        body = {"model": model, "temperature": 0, "max_tokens": 16}
        body["messages"] = [{"role": "user", "content": "the quick brown fox"}]
        answer = self._client.post("/v1/chat/completions", json=body)
        if answer.status_code != 200:
            return f"{answer.status_code}: {answer.text[:300]}"
        return str(answer.json()["choices"][0]["message"]["content"])

    def _ask_until(self, ended: threading.Event, truth: list[str]) -> None:
        while not ended.wait(0.2):
            for model, expected in zip(self._models, truth, strict=True):
                answer = self._ask(model)
                if answer != expected:
                    self.report.violated(f"meanwhile {model} said {answer!r}, not {expected!r}")
                self.report.same_answers += 1

    # Requests from the document

    def _by_document(self, count: int) -> None:
        schema = schemathesis.openapi.from_dict(self._document)
        session, modes = requests.Session(), [GenerationMode(mode) for mode in ("positive", "negative")]
        for mode in modes:

            @seed(self.report.seed)
            @settings(
                max_examples=max(1, count // len(modes)),
                database=None,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                phases=[Phase.generate],
            )
            @given(case=schema.as_strategy(mode))
            def send(case: schemathesis.Case[Any]) -> None:
                # Copies: schemathesis adds to what it is given.
                answer = case.call(
                    base_url=self._address, headers=dict(BEARER), session=session, timeout=SECONDS_TO_ANSWER
                )
                self._count_answer("from the document", str(answer.status_code))
                try:
                    case.validate_response(answer, headers=dict(BEARER))
                except FailureGroup as failures:
                    for failure in failures.exceptions:
                        self._note_failure(case, answer.text, failure)

            send()

    def _note_failure(self, case: schemathesis.Case[Any], answer: str, failure: Exception) -> None:
        if type(failure).__name__ == "RejectedPositiveData":
            self.report.refused_though_valid += 1
            return
        what = " ".join(str(failure).split())[:300]
        self.report.violated(f"{case.operation.label}: {type(failure).__name__}: {what}; answer: {answer[:200]}")

    # Odd requests

    async def _by_hand(self, count: int) -> None:
        odd = islice(OddRequests(self._document, self._models, KEY, self.report.seed), count)

        async def work() -> None:
            for request in odd:
                await self._send(request)

        await asyncio.gather(*(work() for _ in range(CONNECTIONS)))

    async def _send(self, request: OddRequest) -> None:
        url = httpx.URL(self._address)
        began = time.monotonic()
        reader, writer = await asyncio.open_connection(url.host, url.port)
        answer = b""
        try:
            half = request.leave == "with half of it sent"
            writer.write(request.data[: len(request.data) // 2] if half else request.data)
            with contextlib.suppress(ConnectionError):
                await writer.drain()
            if request.leave == "never":
                answer = await asyncio.wait_for(_read(reader), SECONDS_TO_ANSWER)
            elif request.leave == "after the first bytes of the answer":
                with contextlib.suppress(asyncio.TimeoutError, ConnectionError):
                    answer = await asyncio.wait_for(reader.read(4096), 1)
        except asyncio.TimeoutError:
            self.report.violated(f"{request.kind}: no end of the answer in {SECONDS_TO_ANSWER:g} s: {_shown(request)}")
        finally:
            writer.transport.abort()
        self._judge(request, answer, time.monotonic() - began)

    def _judge(self, request: OddRequest, answer: bytes, seconds: float) -> None:
        head, _, body = answer.partition(b"\r\n\r\n")
        status = int(head.split()[1]) if head.startswith(b"HTTP/1.1 ") else None
        self._count_answer(request.kind, str(status or "none"))
        if status is None:
            if request.leave == "never":
                self.report.violated(f"{request.kind}: no answer ({answer!r}) after {seconds:.1f} s: {_shown(request)}")
            return
        expected = request.statuses is None or status in request.statuses
        if status >= 500 or not expected:
            self.report.violated(f"{request.kind}: {status}: {_shown(request)}: {body[:300]!r}")
        if status >= 400 and request.leave == "never":
            try:
                told = json.loads(body)["error"]["message"]
            except (ValueError, KeyError, TypeError):
                told = None
            if not isinstance(told, str) or not told:
                self.report.violated(f"{request.kind}: {status} without a message: {_shown(request)}: {body[:300]!r}")
        if b'"error"' in body and b"data: " in body:
            self.report.statuses["an error in a stream"] += 1

    def _count_answer(self, kind: str, status: str) -> None:
        with self._lock:
            self.report.sent[kind] += 1
            self.report.statuses[status] += 1
            if self.report.requests % max(1, self._count // SAMPLES) == 0:
                self._note_memory()

    # What is left

    def _note_memory(self) -> None:
        for line in Path(f"/proc/{self._process}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                self.report.memory_bytes.append(int(line.split()[1]) * 1024)

    def _metrics(self) -> dict[str, float]:
        """Values by name, summed over labels."""
        values: Counter[str] = Counter()
        for family in text_string_to_metric_families(self._client.get("/metrics").text):
            for sample in family.samples:
                values[sample.name] += sample.value  # type: ignore[assignment]
        return dict(values)

    def _wait_until_idle(self) -> None:
        deadline = time.monotonic() + SECONDS_TO_ANSWER
        while time.monotonic() < deadline:
            left = self._metrics()
            if not left["inference_requests_running"] and not left["inference_requests_waiting"]:
                return
            time.sleep(0.1)
        self.report.violated(f"requests are stuck: {left['inference_requests_running']:g} still run")


async def _read(reader: asyncio.StreamReader) -> bytes:
    """Until the server closes the connection."""
    parts = []
    try:
        while part := await reader.read(65536):
            parts.append(part)
    except ConnectionError as error:
        parts.append(type(error).__name__.encode())
    return b"".join(parts)


def _shown(request: OddRequest) -> str:
    body = request.data.partition(b"\r\n\r\n")[2] or request.data
    return repr(body[:300]).replace(KEY, "KEY")


@contextlib.contextmanager
def _server() -> Iterator[Server]:
    """A server of its own, in which half-sent bodies and endless requests end soon."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        tiny = make_tiny_model(folder / "share")
        variables = {"INFERENCE_BODY_SECONDS": "5", "INFERENCE_REQUEST_SECONDS": "30"}
        server = start_server(folder, environment_for(tiny, free_port(), **variables))
        try:
            server.wait_until("ready")
            yield server
        finally:
            server.end()


def tracebacks(log: str) -> list[str]:
    """The last line of each traceback in a server's log."""
    parts = log.split("Traceback (most recent call last):")[1:]
    return [next((line for line in part.splitlines()[1:] if line and not line.startswith(" ")), "") for part in parts]


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one document on stdout")
    options = parser.parse_args()
    with _server() as server:
        report = Fuzzer(server, options.requests, options.seed).run()
        for line in tracebacks(server.log()):
            report.violated(f"a traceback in the log: {line}")
    if report.growth_share > GROWTH_SHARE:
        report.violated(f"memory grew by {report.growth_share:.1%} from the third quarter to the last")
    if options.json:
        print(json.dumps(vars(report) | {"requests": report.requests, "quarters_bytes": report.quarters_bytes}))
    else:
        _print(report)
    return 1 if report.violations else 0


def _print(report: Report) -> None:
    print(f"{report.requests} requests in {report.seconds:.0f} s (seed {report.seed})")
    for title, counts in (("sent", report.sent), ("answers", report.statuses)):
        print(f"{title}: " + ", ".join(f"{name} {count}" for name, count in sorted(counts.items())))
    print(f"the greedy question meanwhile: {report.same_answers} answers")
    print(f"allowed by the document, refused by a rule beyond it: {report.refused_though_valid}")
    print("memory by quarter, MB: " + " ".join(f"{size / 1e6:.0f}" for size in report.quarters_bytes))
    print("memory, MB: " + " ".join(f"{size / 1e6:.0f}" for size in report.memory_bytes))
    print(f"violations: {len(report.violations)}")
    for violation in report.violations:
        print(f"- {violation}")


if __name__ == "__main__":
    sys.exit(main())

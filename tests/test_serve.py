"""The process: it opens its port at once, says how far it is, fails with a reason, and ends in order."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai
import pytest

from infra.emulator.ports import free as free_port
from tests.fixtures_inference import (
    BEARER,
    INFERENCE,
    KEY,
    Server,
    TinyModel,
    environment_for,
    server,
    start_server,
    tiny_model,
)

__all__ = ["server", "tiny_model"]


QUESTION = {"messages": [{"role": "user", "content": "fox"}], "logit_bias": {"1": -100}}
"""An answer that does not end before its last token."""


class Crowd:
    """Streamed requests that begin at the same time, each in a thread."""

    def __init__(self, server: Server, size: int, tokens: int) -> None:
        self._answers: list[httpx.Response] = []
        self._begun = threading.Semaphore(0)

        def ask(seed: int) -> None:
            asked = QUESTION | {"seed": seed, "stream": True, "max_tokens": tokens}
            url = server.address + "/v1/chat/completions"
            with httpx.stream("POST", url, json=asked, headers=BEARER, timeout=120) as answer:
                self._begun.release()
                answer.read()
            self._answers.append(answer)

        self._threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(size)]
        for thread in self._threads:
            thread.start()

    def wait_until_all_run(self) -> None:
        for _ in self._threads:
            assert self._begun.acquire(timeout=60)

    def wait(self) -> list[httpx.Response]:
        for thread in self._threads:
            thread.join(120)
        return self._answers


def test_the_ledger_of_the_start(server: Server) -> None:
    ledger = server.get("/ready", headers=BEARER).json()["ledger"]
    assert ledger["read_bytes"] > 100_000
    parts = [ledger[name] for name in ("import_seconds", "read_seconds", "load_seconds", "warm_up_seconds")]
    assert sum(parts) <= ledger["ready_seconds"] + 0.1
    log = server.log()
    for line in (
        "listening on 127.0.0.1:",
        "imports done (import ",
        "weights read (0.5 MB, ",
        f"ready after {ledger['ready_seconds']:.2f} s: LlamaForCausalLM",
    ):
        assert line in log
    assert "release 0123abcd" in log
    assert "Traceback" not in log
    assert KEY not in log


@dataclass(frozen=True)
class HeldAdapter:
    """An adapter that takes as long to read as the test says: its configuration is a pipe."""

    folder: Path
    configuration: bytes

    def let_go(self) -> None:
        """Once the server has come to it."""
        (self.folder / "adapter_config.json").write_bytes(self.configuration)


@pytest.fixture
def held(tiny_model: TinyModel, tmp_path: Path) -> HeldAdapter:
    folder = shutil.copytree(tiny_model.adapters[0].folder, tmp_path / "held")
    configuration = folder / "adapter_config.json"
    adapter = HeldAdapter(folder, configuration.read_bytes())
    configuration.unlink()
    os.mkfifo(configuration)
    return adapter


def test_open_at_once_failing_with_a_reason_ending_in_order(
    tiny_model: TinyModel, held: HeldAdapter, tmp_path: Path
) -> None:
    """A model folder that is missing: the process stays up and says so everywhere."""
    adapters = f"held={held.folder},lost=/nowhere/at/all"
    started = start_server(tmp_path, environment_for(tiny_model, free_port(), MODEL_ADAPTERS=adapters))
    try:
        started.wait_for_port()
        assert started.get("/ready").json() == {"status": "loading"}, "the port opens before the model is there"
        asked = {"messages": [{"role": "user", "content": "x"}]}
        refused = started.request("POST", "/v1/chat/completions", json=asked, headers=BEARER)
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "model_loading"
        assert refused.headers["retry-after"] == "5"
        assert "not ready yet" in refused.json()["error"]["message"]
        page = started.get("/", headers=BEARER)
        assert page.status_code == 503
        assert "starting" in page.text

        held.let_go()
        told = started.wait_until("failed")
        assert told["error"] == "/nowhere/at/all: there is no such folder (it exists up to /)"
        assert started.get("/ready").status_code == 503
        assert started.get("/ready").json() == {"status": "failed"}
        assert started.get("/health").status_code == 200
        with pytest.raises(openai.InternalServerError, match="there is no such folder"):
            client = openai.OpenAI(base_url=started.address + "/v1", api_key=KEY, max_retries=0)
            client.chat.completions.create(model="lost", messages=[{"role": "user", "content": "x"}])
        lines = [line for line in started.log().splitlines() if "/nowhere/at/all" in line]
        assert lines == [lines[0]]
        assert "ERROR engine: the model cannot be served: /nowhere/at/all: there is no such folder" in lines[0]
        assert "Traceback" not in started.log()
        assert started.stop() == 0
    finally:
        started.end()


def test_a_stop_while_the_model_loads(tiny_model: TinyModel, held: HeldAdapter, tmp_path: Path) -> None:
    variables = {"MODEL_ADAPTERS": f"held={held.folder}", "INFERENCE_WAIT_SECONDS": "41"}
    started = start_server(tmp_path, environment_for(tiny_model, free_port(), **variables))
    try:
        started.wait_for_port()
        deadline = time.monotonic() + 120
        while (said := started.get("/ready", headers=BEARER).json())["phase"] == "starting":
            assert time.monotonic() < deadline
        assert (said["status"], said["ledger"]["wait_seconds"]) == ("loading", 41)
        assert started.stop() == 0
        assert started.log().splitlines()[-1].endswith("ended")
        assert "Traceback" not in started.log()
    finally:
        started.end()


def test_settings_that_cannot_be_used() -> None:
    ended = subprocess.run(
        [sys.executable, "serve.py"],
        cwd=INFERENCE,
        env={"PATH": "/usr/bin:/bin", "PORT": "x"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 2
    lines = [line for line in ended.stderr.splitlines() if "ERROR" in line]
    assert len(lines) == 4
    assert "PORT='x': is not a whole number" in lines[0]
    assert "INFERENCE_API_KEY: is not set" in lines[1]
    assert "there is no model to serve" in lines[2]
    assert lines[3].endswith("not started: 3 problems with the settings")


def test_a_port_that_is_taken(server: Server, tiny_model: TinyModel) -> None:
    environment = environment_for(tiny_model, httpx.URL(server.address).port or 0, INFERENCE_MAX_QUE="1")
    ended = subprocess.run(
        [sys.executable, "serve.py"], cwd=INFERENCE, env=environment, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 1
    assert "cannot listen on 127.0.0.1:" in ended.stderr
    assert "Address already in use" in ended.stderr
    assert "nothing reads the variable INFERENCE_MAX_QUE (did you mean INFERENCE_MAX_QUEUE?)" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_full_and_silent_queue_then_an_orderly_end(tiny_model: TinyModel, tmp_path: Path) -> None:
    """One slot, six places in the queue, twelve requests; then SIGTERM while requests run and a page is open."""
    environment = environment_for(
        tiny_model,
        free_port(),
        INFERENCE_MAX_CONCURRENT="1",
        INFERENCE_KEEP_ALIVE_SECONDS="0.05",
        INFERENCE_MAX_NEW_TOKENS="400",
        INFERENCE_MAX_PROMPT_TOKENS="60",
        INFERENCE_MAX_QUEUE="6",
        MODEL_ADAPTERS="",
    )
    started = start_server(tmp_path, environment)
    try:
        started.wait_until("ready")
        answers = Crowd(started, 12, tokens=60).wait()
        whole = [answer.text for answer in answers if answer.status_code == 200]
        assert any("\n\n: keep-alive\n\n" in text for text in whole), "who waits gets comments, which clients ignore"
        for text in whole:
            events = [event for event in text.split("\n\n") if event and not event.startswith(":")]
            assert events[-1] == "data: [DONE]"
            assert all(json.loads(event.removeprefix("data: ")) for event in events[:-1])
        full = [answer for answer in answers if answer.status_code == 429]
        assert full
        assert all(1 <= int(answer.headers["retry-after"]) <= 60 for answer in full)
        assert all(answer.json()["error"]["code"] == "queue_full" for answer in full)
        assert len(whole) + len(full) == 12

        started.wait_for_page()
        with httpx.Client(base_url=started.address, headers=BEARER, timeout=60) as client:
            page = client.send(client.build_request("GET", "/gradio_api/heartbeat/an-open-page"), stream=True)
            assert page.status_code == 200
            client.get("/ready")  # opens a second connection, which stays open while the server ends
            crowd = Crowd(started, 7, tokens=150)  # as many as fit, so that the end takes its time
            crowd.wait_until_all_run()
            started.process.send_signal(signal.SIGTERM)
            deadline = time.monotonic() + 60
            while (draining := client.get("/ready").json())["status"] == "ready":
                assert time.monotonic() < deadline
            assert draining["status"] == "draining"
            refused = client.post("/v1/chat/completions", json=QUESTION)
            assert refused.status_code == 503
            assert refused.json()["error"]["code"] == "model_draining"
            assert [answer.text.endswith("data: [DONE]\n\n") for answer in crowd.wait()] == [True] * 7
            assert started.process.wait(60) == 0, "an open page does not hold the server back"
        log = started.log()
        assert "SIGTERM: no new requests; " in log
        assert "cut short" not in log
        assert "Traceback" not in log
    finally:
        started.end()

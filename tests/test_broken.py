"""A server whose engine cannot go on: what is open gets its end, the reason is told, and the process ends with 3."""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path

import httpx

from infra.emulator.ports import free as free_port
from tests.fixtures_inference import BEARER, TinyModel, environment_for, start_server, tiny_model

__all__ = ["tiny_model"]

SERVER = """
import asyncio, os, sys, time, serve
from settings import read_settings

serve._configure_logging()
settings = read_settings(os.environ)
load_as_ever = serve._loader(settings)

def load(report):
    loaded = load_as_ever(report)
    forwards = []

    def fail(*_):
        forwards.append(1)
        if len(forwards) > 20:
            while not os.path.exists(sys.argv[1]):
                time.sleep(0.01)
            raise RuntimeError("an illegal memory access was encountered")

    loaded.batch.model.module.register_forward_pre_hook(fail)
    return loaded

sys.exit(asyncio.run(serve._serve(settings, load, telling_seconds=0.2)))
"""
"""serve.py with a model that computes 20 steps, waits until the file is there, and fails for ever, as a GPU may."""


def test_a_model_that_computes_nothing_any_more_ends_the_process(tiny_model: TinyModel, tmp_path: Path) -> None:
    environment = environment_for(tiny_model, free_port(), MODEL_ADAPTERS="", INFERENCE_MAX_CONCURRENT="2")
    fails = tmp_path / "fails"
    started = start_server(tmp_path, environment, (sys.executable, "-c", SERVER, str(fails)))
    streams: list[str] = []
    begun = threading.Semaphore(0)

    def ask() -> None:
        asked = {"prompt": [20, 21], "max_tokens": 100, "stream": True, "logit_bias": {"1": -100}}
        url = started.address + "/v1/completions"
        with httpx.stream("POST", url, json=asked, headers=BEARER, timeout=120) as answer:
            begun.release()
            streams.append("".join(answer.iter_text()))

    try:
        started.wait_until("ready")
        asking = [threading.Thread(target=ask) for _ in range(5)]
        for thread in asking:
            thread.start()
        for _ in asking:
            assert begun.acquire(timeout=60)
        fails.touch()
        for thread in asking:
            thread.join(60)
        assert started.process.wait(60) == 3
    finally:
        started.end()
    ends = [[event for event in stream.split("\n\n") if event][-1] for stream in streams]
    told = sorted(json.loads(end.removeprefix("data: "))["error"]["message"] for end in ends)
    of_the_step, waited = "the model failed to compute this answer.", "the server cannot compute answers any more, and"
    assert told[:2] == [of_the_step] * 2
    assert [message.startswith(waited) for message in told[2:]] == [True] * 3
    *_, reason, ended = [line for line in started.log().splitlines() if " ERROR " in line]
    said = "it computes nothing any more: RuntimeError: an illegal memory access was encountered"
    assert reason.endswith(f"ERROR engine: the model cannot be served: {said}")
    assert ended.endswith("ERROR serve: ended with exit code 3: a new process is needed")
    assert "Traceback" not in started.log()


def test_a_share_that_does_not_answer_is_tried_again_by_a_new_process(tiny_model: TinyModel, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").symlink_to("/proc/self/mem")  # which reads as an error of input and output
    environment = environment_for(tiny_model, free_port(), MODEL_ADAPTERS="", MODEL_BASE=str(base))
    command = (sys.executable, "-c", SERVER)
    started = start_server(tmp_path, environment, command)
    try:
        assert started.process.wait(120) == 3
    finally:
        started.end()
    *_, reason, ended = [line for line in started.log().splitlines() if " ERROR " in line]
    said = f"{base}: config.json cannot be read (Input/output error)"
    assert reason.endswith(f"ERROR engine: the model cannot be served: {said}")
    assert ended.endswith("ERROR serve: ended with exit code 3: a new process is needed")
    assert "Traceback" not in started.log()

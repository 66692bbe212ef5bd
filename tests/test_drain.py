"""Chats all the while: none is lost while a release is put into use and taken back, when two replicas run.

The app is a small one that starts in a moment: streamed answers of half a second, an orderly end on SIGTERM. All else
is real: the template, the stand-in and its processes, deploy and rollback. tests/bench/drain.py does it with the
product's own app.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from scripts import rollout, verbs
from scripts import share as shares
from scripts.session import Session
from tests.conftest import RunningStandIn, checkout
from tests.steady_load import steady_load

KEY = "key-of-the-drain-tests"
GROUP = "rg-drain"
BASE = "model-cache/small-base"

SERVER = """
import http.server, json, os, signal, threading, time

KEY, NAME = os.environ["INFERENCE_API_KEY"], "NAME"
with open("../release.json") as file:
    RELEASE = json.load(file)["id"]
running, draining = 0, threading.Event()
changed = threading.Condition()

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/health":
            return self.send(200, {})
        if self.path == "/ready":
            told = {"status": "draining" if draining.is_set() else "ready"}
            return self.send(503 if draining.is_set() else 200, told | ({"release": RELEASE} if self.may() else {}))
        if not self.may():
            return self.send(401, {"error": {"message": "no key"}})
        self.send(200, {"data": [{"id": "small-base"}]})

    def do_POST(self):
        global running
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self.may():
            return self.send(401, {"error": {"message": "no key"}})
        with changed:
            if draining.is_set():
                return self.send(503, {"error": {"message": "ending"}})
            running += 1
        try:
            self.answer(asked["stream"])
        finally:
            with changed:
                running -= 1
                changed.notify_all()

    def answer(self, stream):
        usage = {"prompt_tokens": 1, "completion_tokens": 5, "total_tokens": 6}
        if not stream:
            choice = {"index": 0, "message": {"role": "assistant", "content": NAME}, "finish_reason": "stop"}
            return self.send(200, {"model": "small-base", "choices": [choice], "usage": usage})
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for piece in (NAME, " ", " ", " ", " "):
            self.event({"model": "small-base", "choices": [{"index": 0, "delta": {"content": piece}}]})
            time.sleep(0.1)
        self.event({"choices": [], "usage": usage})
        self.wfile.write(b"data: [DONE]\\n\\n")

    def event(self, value):
        self.wfile.write(b"data: " + json.dumps(value).encode() + b"\\n\\n")

    def send(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def may(self):
        return self.headers["Authorization"] == "Bearer " + KEY

    def log_message(self, *args):
        pass

def end(*_):
    draining.set()
    def leave():
        with changed:
            changed.wait_for(lambda: not running)
        os._exit(0)
    threading.Thread(target=leave).start()

signal.signal(signal.SIGTERM, end)
http.server.ThreadingHTTPServer.request_queue_size = 64
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""


def write_server(root: Path, name: str) -> None:
    """Makes the checkout another release, whose answer is its name."""
    (root / "inference" / "serve.py").write_text(SERVER.replace('"NAME"', repr(name)))


@pytest.fixture
def session(stand_in: RunningStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    """The environment `local` with two replicas of the small app, whose first release serves."""
    root = checkout(tmp_path / "checkout")
    for file in (root / "inference").iterdir():
        if file.is_file():
            file.unlink()
    (root / "inference" / "start.sh").write_text('cd "$(dirname -- "$0")" && exec python3 serve.py\n')
    write_server(root, "first")
    folder = root / "environments" / "local"
    environment = yaml.safe_load((folder / "environment.yaml").read_text())
    environment |= {"resource_group": GROUP, "model": {"base": BASE}, "proof": {"prompts": []}}
    (folder / "environment.yaml").write_text(yaml.safe_dump(environment))
    parameters = json.loads((folder / "inference.parameters.json").read_text())
    parameters["parameters"] |= {"minimumInstanceCount": {"value": 2}, "maximumInstanceCount": {"value": 2}}
    (folder / "inference.parameters.json").write_text(json.dumps(parameters))
    monkeypatch.setenv("INFEROPS_STAND_IN", str(stand_in.announcement_file))
    monkeypatch.setenv("INFERENCE_API_KEY", KEY)
    said: list[str] = []
    with contextlib.closing(
        Session("local", root, role="deploy", config=None, say=said.append, progress=said.append)
    ) as opened:
        verbs.provision(opened)
        shares.make_folders(opened.share, [BASE])
        shares.write_small_file(opened.share, f"{BASE}/config.json", b"{}")
        rollout.deploy(opened)
        yield opened


def test_no_chat_is_lost_during_deploy_and_rollback(session: Session) -> None:
    with steady_load(session.endpoint, callers=6, max_tokens=5) as load:
        load.wait_for(12)
        write_server(session.root, "second")
        deployed = rollout.deploy(session)
        load.wait_for(12)
        back = rollout.rollback(session)
        load.wait_for(12)
    assert load.lost == []
    assert load.said.keys() == {"first", "second"}
    assert back.release.id == deployed.previous
    for done in (deployed, back):
        assert done.timings_seconds["unanswered"] == 0

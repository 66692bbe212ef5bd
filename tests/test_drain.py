"""Releases of a running app: no chat is lost when two replicas run, one that is worse than the last is taken back, and
a command that is ended half-way leaves one that serves.

The app is a small one that starts in a moment: streamed answers of a quarter of a second, an orderly end on SIGTERM.
All else is real: the template, the stand-in and its processes, deploy, rollback and restart. tests/bench/drain.py does
it with the product's own app.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts import release as releases
from scripts import rollout, verbs
from scripts import share as shares
from scripts.errors import ProofFailed
from scripts.session import Session
from tests.conftest import RunningStandIn, checkout
from tests.steady_load import steady_load

COMMAND = Path(sys.executable).parent / "inferops"
KEY = "key-of-the-drain-tests"
GROUP = "rg-drain"
BASE = "model-cache/small-base"

SERVER = """
import http.server, json, os, signal, threading, time

KEY, NAME, PIECE_SECONDS = os.environ["INFERENCE_API_KEY"], "NAME", 0.05
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
            time.sleep(PIECE_SECONDS)
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


def write_server(root: Path, name: str, piece_seconds: float = 0.05, starts_when: Path | None = None) -> None:
    """Makes the checkout another release, whose answer is its name; it may wait for a file before it starts."""
    waits = f"while not os.path.exists({str(starts_when)!r}): time.sleep(0.05)\n" if starts_when else ""
    text = SERVER.replace('"NAME", 0.05', f"{name!r}, {piece_seconds}").replace("\nKEY", f"\n{waits}KEY", 1)
    (root / "inference" / "serve.py").write_text(text)


def set_proof(root: Path, **proof: Any) -> None:
    file = root / "environments" / "local" / "environment.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | {"proof": proof}))


@contextlib.contextmanager
def opened(root: Path) -> Iterator[tuple[Session, list[str]]]:
    """A session, and what it says."""
    said: list[str] = []
    session = Session("local", root, role="deploy", config=None, say=said.append, progress=lambda line: None)
    with contextlib.closing(session):
        yield session, said


def run(root: Path, *arguments: str) -> dict[str, Any]:
    """A command as a person types it; the document that it prints."""
    done = subprocess.run([COMMAND, *arguments, "--json"], cwd=root, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


@pytest.fixture(scope="module")
def root(stand_in: RunningStandIn, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A checkout whose environment `local` has two replicas of the small app and serves a first release."""
    root = checkout(tmp_path_factory.mktemp("drain") / "checkout")
    for file in (root / "inference").iterdir():
        if file.is_file():
            file.unlink()
    (root / "inference" / "start.sh").write_text('cd "$(dirname -- "$0")" && exec python3 serve.py\n')
    write_server(root, "first")
    folder = root / "environments" / "local"
    environment = yaml.safe_load((folder / "environment.yaml").read_text())
    environment |= {"resource_group": GROUP, "model": {"base": BASE}}
    (folder / "environment.yaml").write_text(yaml.safe_dump(environment))
    set_proof(root, prompts=[])
    parameters = json.loads((folder / "inference.parameters.json").read_text())
    parameters["parameters"] |= {"minimumInstanceCount": {"value": 2}, "maximumInstanceCount": {"value": 2}}
    (folder / "inference.parameters.json").write_text(json.dumps(parameters))
    with pytest.MonkeyPatch.context() as environ, opened(root) as (session, _):
        environ.setenv("INFEROPS_STAND_IN", str(stand_in.announcement_file))
        environ.setenv("INFERENCE_API_KEY", KEY)
        verbs.provision(session)
        shares.make_folders(session.share, [BASE])
        shares.write_small_file(session.share, f"{BASE}/config.json", b"{}")
        rollout.deploy(session)
        yield root


def test_no_chat_is_lost_during_deploy_and_rollback(root: Path) -> None:
    with opened(root) as (session, _), steady_load(session.endpoint, callers=6, max_tokens=5) as load:
        load.wait_for(12)
        write_server(root, "second")
        deployed = rollout.deploy(session)
        load.wait_for(12)
        back = rollout.rollback(session)
        load.wait_for(12)
    assert load.lost == []
    assert load.said.keys() == {"first", "second"}
    assert back.release.id == deployed.previous
    # How long is the machine's too: one that stands still for a second answers nobody meanwhile.
    assert all("unanswered" in done.timings_seconds for done in (deployed, back))


def test_a_release_that_is_worse_than_the_one_in_use_is_taken_back(root: Path) -> None:
    set_proof(root, prompts=[{"prompt": "Who are you?", "contains": "first"}], slowest=0.9)
    write_server(root, "slower", piece_seconds=0.6)
    with opened(root) as (session, said):
        before = session.endpoint.ready().release
        with pytest.raises(ProofFailed) as caught:
            rollout.deploy(session)
        assert session.endpoint.ready().release == before
    assert f"Release {before} is back and serves." in caught.value.message
    text, speed = caught.value.details
    assert text == "the answer to 'Who are you?' contains 'first': the answer of small-base is 'slower'"
    assert speed.startswith(f"at least 0.9 times as many tokens in a second as release {before}: ")
    (shown,) = [line for line in said if line.startswith("Who are you?")]
    lines = shown.splitlines()
    assert [line.split(": ")[-1] for line in lines[1:3]] == ["first", "slower"]
    assert lines[3] == "    FAILED: it must contain 'first'"
    assert lines[4].endswith(f"of release {before}.")


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_deploy_that_is_ended_in_the_middle_leaves_a_release_that_serves(
    root: Path, ending: signal.Signals, tmp_path: Path
) -> None:
    set_proof(root, prompts=[])
    before = run(root, "status", "local")["release"]
    go_on = tmp_path / "go on"
    write_server(root, f"after {ending.name}", starts_when=go_on)
    command = [str(COMMAND), "deploy", "local"]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "is current; restarted" in line:
                break
        process.send_signal(ending)
        messages = process.stderr.read()
    with opened(root) as (session, _):
        current = releases.read_current(session.share)
        assert current is not None
        if ending is signal.SIGKILL:
            assert process.returncode == -signal.SIGKILL
        else:
            assert process.returncode == 130, messages
            assert f"Release {before} is current again" in messages
            assert current.release == before
        assert session.endpoint.ready().release == before
    # The next run finishes the job; after a kill it waits for the dead one's lock, at most a minute.
    go_on.touch()
    done = run(root, "deploy", "local")
    assert (done["changed"], done["previous"]) == (True, before)
    assert run(root, "status", "local")["app"]["release"] == done["release"]


def test_restart_waits_until_the_release_serves(root: Path) -> None:
    before = run(root, "status", "local")
    assert run(root, "restart", "local")["release"] == before["release"]
    names = [
        {replica["name"] for replica in status["revision"]["replicas"]}
        for status in (before, run(root, "status", "local"))
    ]
    assert names[0] != names[1]


def test_a_renewed_storage_key_reaches_the_mount_when_provision_is_told_to_deploy_always(root: Path) -> None:
    before = run(root, "status", "local")
    with opened(root) as (session, _):
        account = session.outputs.storage_account_name
        session.clients.storage.storage_accounts.regenerate_key(GROUP, account, {"keyName": "key1"})
    # No service gives a key back to compare.
    assert run(root, "what-if", "local", "--exit-code")["changes"] == []
    assert run(root, "provision", "local")["changed"] is False
    done = run(root, "provision", "local", "--always")
    assert (done["changed"], done["release"], done["plan"]["changes"]) == (True, before["release"], [])
    after = run(root, "status", "local")
    assert after["revision"]["name"] == before["revision"]["name"]
    names = [{replica["name"] for replica in status["revision"]["replicas"]} for status in (before, after)]
    assert names[1] - names[0], "a replica mounts the share when it starts"

"""What the tests share: the stand-in for Azure as a real process."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import httpx
import hypothesis
import pytest

ROOT = Path(__file__).parent.parent


LONGEST_FIRST = (
    *("test_release_killed", "test_api", "test_engine", "test_emulator_finetuning", "test_drain", "test_end_to_end"),
    *("test_workflows", "test_rollout_faults", "test_faults_survived", "test_emulator_container_apps_life"),
    *("test_azure_cli", "test_rollout", "test_azcopy", "test_start", "test_emulator_killed", "test_upload"),
)
"""Modules that take the most time: begun first, so that all workers end together."""

SHARING = {
    "a server process": ("access_log", "api", "auth", "fuzz", "limits", "metrics", "routes", "serve", "ui"),
    "torch": (
        *("batch", "broken", "constrain", "engine", "late_page", "lora", "machine", "memory", "model", "openapi"),
        *("packed", "prefix", "pretended_device", "sampling", "text", "tool_calls", "tools", "weights"),
    ),
}
"""Tests of modules that one worker runs, since it need not load or start that more than once: seconds each time."""


def pytest_configure() -> None:
    """What a shell starts in the background ignores SIGINT, and so would every process that a test interrupts. And what
    the tests start shares its cores with other tests: no thread of torch's looks for work before it sleeps."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # What is imported stays: looking for garbage in it, again and again, is a fifth of the time until the first test.
    gc.disable()
    # How long an example takes is the machine's, too: one that stands still for a moment makes no finding.
    hypothesis.settings.register_profile("untimed", deadline=None)
    hypothesis.settings.load_profile("untimed")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Longest modules first; within them, and for all others, the order stays."""
    items.sort(key=lambda item: next((i for i, name in enumerate(LONGEST_FIRST) if item.path.stem == name), 99))


def pytest_collection_finish() -> None:
    """From here on garbage is collected, of what the tests make."""
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    """Libraries in C tell of each object of theirs that is left at the end."""
    gc.unfreeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Where several workers run the suite by module: which modules go to the same one."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]

    with_others = {f"tests/test_{name}.py": what for what, names in SHARING.items() for name in names}

    class Sharing(LoadFileScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            module: str = super()._split_scope(nodeid)
            return with_others.get(module, module)

    return Sharing(config, log)


@dataclass
class RunningStandIn:
    """A stand-in in a process of its own, and what it announced."""

    state: Path
    process: subprocess.Popen[str]
    announcement: dict[str, str]
    log: Path

    @property
    def announcement_file(self) -> Path:
        """Where INFEROPS_STAND_IN points to."""
        path = self.state.parent / f"{self.state.name}.json"
        path.write_text(json.dumps(self.announcement))
        return path

    @property
    def trust(self) -> ssl.SSLContext:
        """Trusts the stand-in's certificate and nothing else."""
        return ssl.create_default_context(cafile=self.announcement["certificate"])

    def token(self, audience: str | None = None, *, reader: bool = False) -> str:
        """A token for the resource manager, or another audience, by client secret."""
        prefix = "reader_" if reader else ""
        response = httpx.post(
            f"{self.announcement['authority']}/{self.announcement['tenant']}/oauth2/v2.0/token",
            data={
                "grant_type": "client_credentials",
                "client_id": self.announcement[f"{prefix}client_id"],
                "client_secret": self.announcement[f"{prefix}client_secret"],
                "scope": f"{audience or self.announcement['resource_manager']}/.default",
            },
            verify=self.trust,
            timeout=60,
        )
        return str(response.raise_for_status().json()["access_token"])

    def fine_tune(self, resource_group: str = "rg-inference-local") -> None:
        """What the AI Toolkit's fine-tuning leaves: a group with a share that holds the demo model (cached)."""
        command = [sys.executable, "-m", "infra.emulator.finetuning", "--stand-in", str(self.announcement_file)]
        command += ["--resource-group", resource_group]
        subprocess.run(command, cwd=ROOT, check=True, timeout=850)

    def kill(self) -> None:
        """SIGKILL, as a crash."""
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def running_stand_in(state: Path, *arguments: str) -> Iterator[RunningStandIn]:
    """Starts a stand-in on the state folder and stops it by SIGTERM, which must end it with exit code 0.

    It ends within 10 s; a machine that is busy with other tests may take longer. One that hangs says where in its log.
    """
    log = state.parent / f"{state.name}.log"
    with log.open("a") as messages:
        process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-m", "infra.emulator", "--state", str(state), *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=messages,
            text=True,
        )
    try:
        assert process.stdout is not None
        line = _first_line(process.stdout, seconds=120)
        assert line, f"the stand-in did not start:\n{log.read_text()}"
        yield RunningStandIn(state, process, json.loads(line), log)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                code = process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGABRT)
                process.wait()
                raise AssertionError(f"the stand-in did not stop:\n{log.read_text()[-4000:]}") from None
            assert code == 0, log.read_text()[-4000:]
        assert process.stdout is not None
        process.stdout.close()


def checkout(folder: Path) -> Path:
    """A clone of this repository with the working tree as it is, so that a change is tested before it is committed."""
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    listing = subprocess.run(
        ["git", "ls-files", "-mo", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in listing.stdout.splitlines():
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
        else:
            (folder / name).unlink()
    return folder


def _first_line(stream: IO[str], seconds: float) -> str:
    """The first line, or an empty text when none comes in time."""
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.append(stream.readline()), daemon=True)
    reader.start()
    reader.join(seconds)
    return lines[0] if lines else ""


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--kill-rounds N`: how often the stand-in is killed and started again; more find more."""
    parser.addoption("--kill-rounds", type=int, default=20, help="how often the stand-in is killed (%(default)s)")


@pytest.fixture(scope="session")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStandIn]:
    """One stand-in for the whole session: a test uses a resource group of its own."""
    with running_stand_in(tmp_path_factory.mktemp("stand-in") / "state") as running:
        yield running


@pytest.fixture
def own_stand_in(tmp_path: Path) -> Iterator[RunningStandIn]:
    """A stand-in that belongs to one test alone: it may be killed, and starts empty."""
    with running_stand_in(tmp_path / "state") as running:
        yield running

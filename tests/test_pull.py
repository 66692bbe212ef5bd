"""A release of the share brought into a local folder: how far it is, and what an interruption leaves (test_garbage.py
has what arrives)."""

from __future__ import annotations

import hashlib
import signal
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from scripts import pull
from scripts import share as shares
from scripts import upload as uploads
from scripts.bundle import FileEntry, read_local
from scripts.files import ShareClient
from scripts.progress import Progress
from scripts.release import Release
from tests.conftest import RunningStandIn
from tests.faults import Switch
from tests.folders import write
from tests.share_on_stand_in import new_share

RELEASE = Release("0123456789abcdef", None, "2026-01-01T00:00:00Z", (), "model-cache/x", {})
RANGES = 12
FILES = {"inference/large": b"\1" * (RANGES * shares.RANGE_BYTES), "inference/small": b"small", "inference/empty": b""}


@pytest.fixture(scope="module")
def switch(stand_in: RunningStandIn) -> Switch:
    return Switch(stand_in)


@pytest.fixture(scope="module")
def share(stand_in: RunningStandIn, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShareClient]:
    """It holds the release."""
    with new_share(stand_in, f"s{uuid.uuid4().hex[:12]}") as client:
        local = read_local({"": write(tmp_path_factory.mktemp("release"), FILES)})
        folder = f"releases/{RELEASE.id}"
        uploads.apply(client, shares.plan(local, (), folder=folder), local)
        shares.write_small_file(client, f"{folder}/release.json", b"{}")
        yield client


@pytest.fixture
def release() -> Release:
    files = (FileEntry(path, len(content), hashlib.sha256(content).hexdigest()) for path, content in FILES.items())
    return Release(**{**vars(RELEASE), "files": tuple(files)})


@pytest.fixture
def interrupt() -> Iterator[Callable[[Progress], None]]:
    """Interrupts the main thread with the first range of the large file, and goes on when it knows."""
    knows = threading.Event()

    def handle(number: int, frame: object) -> NoReturn:
        knows.set()
        raise KeyboardInterrupt

    def progress(step: Progress) -> None:
        if step.path.endswith("large") and not knows.is_set():
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            assert knows.wait(60)

    before = signal.signal(signal.SIGINT, handle)
    yield progress
    signal.signal(signal.SIGINT, before)


def test_progress_counts_every_range_and_what_came_over_the_network(
    share: ShareClient, release: Release, tmp_path: Path
) -> None:
    steps: list[Progress] = []
    pull.pull(share, release, tmp_path / "out", progress=steps.append)
    total = sum(map(len, FILES.values()))
    assert len(steps) > RANGES
    assert [step.bytes_sent for step in steps] == sorted(step.bytes_done for step in steps)
    last = steps[-1]
    assert (last.files_done, last.bytes_done, last.bytes_sent) == (len(FILES), total, total)
    assert last.seconds > 0


@pytest.mark.parametrize("is_there", [True, False])
def test_an_interruption_ends_a_pull_in_the_middle_of_a_file_and_leaves_nothing(
    share: ShareClient,
    release: Release,
    switch: Switch,
    tmp_path: Path,
    interrupt: Callable[[Progress], None],
    is_there: bool,
) -> None:
    out = tmp_path / "out"
    if is_there:
        out.mkdir()
    # A rule that waits no time, for what it has met.
    with switch.on({"fault": "latency", "seconds": 0, "path": f"/{share.share_name}/.*/large"}):
        with pytest.raises(KeyboardInterrupt):
            pull.pull(share, release, out, progress=interrupt)
        (rule,) = switch.rules()
    assert rule["met"] < RANGES
    assert list(tmp_path.rglob("*")) == ([out] if is_there else [])


def test_an_interruption_ends_also_what_waits_to_be_asked_again(
    share: ShareClient, release: Release, switch: Switch, tmp_path: Path, interrupt: Callable[[Progress], None]
) -> None:
    busy = {"fault": "unavailable", "path": f"/{share.share_name}/.*/large", "after": 1, "retry_after_seconds": 3600}
    with switch.on(busy), pytest.raises(KeyboardInterrupt):
        pull.pull(share, release, tmp_path / "out", progress=interrupt)
    assert not list(tmp_path.iterdir())

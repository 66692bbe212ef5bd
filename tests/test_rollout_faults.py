"""Deploys, rollbacks and gc on a file service that fails: they complete, or fail with the share as it was.

The stand-in injects the faults; the SDK and the product meet them as they would meet Azure's.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from azure.identity import ClientSecretCredential

from scripts import history
from scripts import release as releases
from scripts.cloud import file_token
from scripts.errors import CloudError, InferopsError
from scripts.files import ShareClient
from tests.conftest import running_stand_in
from tests.faults import Switch
from tests.release_world import World, collect_garbage, deploy, rollback, running_world
from tests.waiting import until

COMMAND = Path(sys.executable).parent / "inferops"

FAULTS: dict[str, list[dict[str, Any]]] = {
    "throttled and unavailable": [
        {"fault": "throttled", "method": ["PUT"], "after": 2, "count": 2},
        {"fault": "unavailable", "method": ["GET", "HEAD"], "after": 1, "count": 2},
        {"fault": "internal-error", "method": ["DELETE", "PUT"], "after": 6, "count": 1},
    ],
    # A request whose answer is lost is sent again, although it has been done: each kind of them, one after the other.
    "answers lost": [
        {"fault": "dropped-connection", "when": "after", "path": path, "count": 1, **more}
        for path, more in (
            ("comp=lease", {}),
            ("comp=rename", {}),
            ("/current$", {"method": ["PUT"]}),
            ("history", {"method": ["PUT"]}),
            ("restype=directory$", {"method": ["PUT"], "after": 1}),
            (".removed", {"method": ["DELETE"]}),
            ("restype=directory", {"method": ["DELETE"]}),
        )
    ],
    "requests lost": [{"fault": "dropped-connection", "when": "before", "probability": 0.15, "seed": 5, "count": 4}],
    "seconds of latency": [{"fault": "latency", "seconds": 2, "path": "current|comp=rename|comp=lease", "count": 3}],
}


NUMBERS = itertools.count(10)


@dataclass
class Faulty:
    """A world whose cloud fails on demand."""

    world: World
    switch: Switch


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faulty]:
    """On a stand-in of this module's own: its faults meet no other test. Two releases, the second is in use."""
    with (
        running_stand_in(tmp_path_factory.mktemp("faulty") / "state") as stand_in,
        running_world(stand_in, tmp_path_factory.mktemp("world")) as world,
    ):
        for number in (1, 2):
            world.change(number)
            world.made.append(deploy(world.session))
        yield Faulty(world, Switch(stand_in))


def another_deploy(world: World) -> str:
    """Code and an adapter that the share does not have."""
    world.change(next(NUMBERS), adapter=True)
    return deploy(world.session)


def another_rollback(world: World) -> str:
    first, second = world.made
    return rollback(world.session, second if world.current() == first else first)


def a_gc(world: World) -> str:
    """Of a release that was just put out of use."""
    current = world.current()
    assert current is not None
    (world.folder / "releases" / ".incomplete-0123" / "inference").mkdir(parents=True)
    (world.folder / "releases" / ".incomplete-0123" / "inference" / "serve.py").write_bytes(b"pri")
    collect_garbage(world.session, keep=2)
    assert not (world.folder / "releases" / ".incomplete-0123").exists()
    return current


@pytest.mark.parametrize("verb", [another_deploy, another_rollback, a_gc], ids=lambda verb: verb.__name__)
@pytest.mark.parametrize("rules", FAULTS.values(), ids=FAULTS)
def test_faults_that_pass_are_outlived(
    faulty: Faulty,
    rules: list[dict[str, Any]],
    verb: Callable[[World], str],
    record_property: Callable[[str, object], None],
) -> None:
    world = faulty.world
    with faulty.switch.on(*({"service": "files", **rule} for rule in rules)):
        in_use = verb(world)
        fired = sum(faulty.switch.fired())
    assert fired, "nothing was put to the test"
    record_property("faults_injected", fired)
    assert releases.read_current(world.share) == releases.Current(in_use, True, None)
    assert world.app.behaviour.release == in_use
    world.check_all_whole()
    world.check_nothing_else()
    world.check_nothing_half_made()
    assert world.sdk.get_share_properties().lease.status == "unlocked"


REFUSED = {"fault": "refused", "status": 403, "code": "AuthorizationFailure", "message": "Not now."}


@pytest.mark.parametrize(
    ("verb", "path"),
    [
        (another_deploy, "incomplete"),
        (another_deploy, "comp=rename"),
        (another_deploy, "/current$"),
        (another_deploy, "history"),
        (another_rollback, "/current$"),
        (a_gc, "history"),
    ],
)
def test_what_is_refused_leaves_the_share_as_it_was(faulty: Faulty, verb: Callable[[World], str], path: str) -> None:
    world = faulty.world
    before = world.current()
    whole = world.check_all_whole()
    with (
        faulty.switch.on({"service": "files", "method": ["PUT"], "path": path, **REFUSED}),
        pytest.raises(CloudError, match="Not now") as caught,
    ):
        verb(world)
    assert caught.value.next_step
    assert world.current() == before == world.app.behaviour.release
    assert world.check_all_whole() >= whole
    world.check_nothing_else()
    shutil.rmtree(world.folder / "releases" / ".incomplete-0123", ignore_errors=True)
    in_use = another_deploy(world)
    assert releases.read_current(world.share) == releases.Current(in_use, True, None)


def test_a_release_whose_proof_cannot_be_noted_serves_and_the_next_deploy_notes_it(faulty: Faulty) -> None:
    """The very last request of a deploy fails: what it put into use is in use."""
    world = faulty.world
    in_use = world.current()
    noting = {"service": "files", "method": ["PUT"], "path": "/current$", "after": 1, **REFUSED}
    with faulty.switch.on(noting), pytest.raises(InferopsError, match="Not now") as caught:
        another_deploy(world)
    made = world.current()
    assert made is not None and made != in_use
    assert f"Release {made} serves" in caught.value.message
    assert caught.value.exit_code == 1
    assert world.app.behaviour.release == made
    assert history.read(world.share, None)[-1].outcome is None
    assert deploy(world.session) == made
    assert releases.read_current(world.share) == releases.Current(made, True, None)
    assert [run.outcome for run in history.read(world.share, None)[-2:]] == ["cut off", "proven"]


def test_the_signals_that_cancel_a_job_do_not_break_off_what_the_first_has_put_back(faulty: Faulty) -> None:
    """SIGINT, and SIGTERM a moment later: `current` is being put back then, and the restart is still to come."""
    world, manager = faulty.world, faulty.world.manager.state
    in_use = world.current()
    assert in_use is not None
    world.change(next(NUMBERS))

    def restarts() -> int:
        return sum(line.endswith("/restart") for line in manager.seen)

    before = restarts()
    slow = {"service": "files", "fault": "latency", "method": ["PUT"], "path": "/current$", "after": 1, "seconds": 3}
    restart, manager.on_restart = manager.on_restart, lambda: None  # the new release never serves
    try:
        with faulty.switch.on(slow):
            process = subprocess.Popen(
                [str(COMMAND), "deploy", "local", "--config", "world.json"],
                cwd=world.root,
                env={name: value for name, value in os.environ.items() if not name.startswith("GITHUB_")},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            until(lambda: restarts() > before, "the restart under the new release")
            process.send_signal(signal.SIGINT)
            until(lambda: faulty.switch.fired()[0], "the putting back")
            process.send_signal(signal.SIGTERM)
            _, messages = process.communicate(timeout=60)
    finally:
        manager.on_restart = restart
    assert process.returncode == 130, messages
    assert f"Release {in_use} is current again" in messages
    assert "Traceback" not in messages
    assert restarts() == before + 2
    assert releases.read_current(world.share) == releases.Current(in_use, True, None)
    assert history.read(world.share, None)[-1].outcome == "interrupted"


def test_a_token_that_ends_half_way_is_renewed(faulty: Faulty) -> None:
    """The share by a token in place of the account's key; the service refuses one that it took a moment before."""
    world = faulty.world
    announced = json.loads((world.root / ".local" / "stand-in.json").read_text())
    credential = ClientSecretCredential(
        announced["tenant"],
        announced["client_id"],
        announced["client_secret"],
        authority=announced["authority"],
        disable_instance_discovery=True,
        connection_verify=announced["certificate"],
    )
    address = f"{world.proxy.url}/{world.account}"
    token = file_token(credential)
    share = ShareClient(address, world.outputs.file_share_name, token, Path(announced["certificate"]))
    by_key = world.session.share
    with credential, share, faulty.switch.on({"fault": "short-token", "seconds": 5}):
        world.session.share = share
        try:
            in_use = another_deploy(world)
        finally:
            world.session.share = by_key
        assert faulty.switch.fired()[0] >= 2
    assert releases.read_current(world.share) == releases.Current(in_use, True, None)

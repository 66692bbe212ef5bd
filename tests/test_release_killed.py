"""Whole verbs killed after any of their requests: the share names one whole release, and the next run completes.

Each operation is killed after its first request, after its second, and so on until it ends by itself: at every point,
and not at a sample of them. The killed process is a real one; the requests are all that it makes but those to the app.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from scripts import garbage, history, rollout
from scripts import release as releases
from scripts import share as shares
from scripts.bundle import FileEntry
from scripts.lock import Lock
from tests.conftest import RunningStandIn
from tests.release_world import BASE, World, collect_garbage, deploy, hold_the_lock, rollback, running_world

SHORT_LEASE_SECONDS = 15


@pytest.fixture(scope="module")
def world(stand_in: RunningStandIn, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with running_world(stand_in, tmp_path_factory.mktemp("world")) as running:
        yield running


def last_run(world: World) -> history.Entry:
    return history.read(world.share, releases.read_current(world.share))[-1]


def check_dead(world: World, *allowed: str | None) -> None:
    """What a killed run left: a share that names one of the releases, whole, and an app that serves it."""
    current = world.current()
    assert current in allowed
    if current is not None:
        world.check_whole(current)
    world.check_all_whole()
    world.check_nothing_else()
    world.check_serves()
    world.free()


def check_complete(world: World, release_id: str, verb: str) -> None:
    """What a run leaves that ends."""
    assert releases.read_current(world.share) == releases.Current(release_id, True, None)
    world.check_whole(release_id)
    world.check_nothing_else()
    world.check_nothing_half_made()
    assert world.app.behaviour.release == release_id
    run = last_run(world)
    assert (run.verb, run.outcome) == (verb, "done" if verb == "gc" else "proven")
    assert all(entry.outcome for entry in history.read(world.share, releases.read_current(world.share)))


def test_a_first_deploy_killed_after_any_request(world: World, record_property: Callable[[str, object], None]) -> None:
    world.change(1, adapter=True)
    point, killed = 0, True
    while killed:
        point += 1
        world.new_share()
        killed = world.run_and_kill(deploy, point)
        new = rollout.packed(world.session, rollout.Timings()).release.id
        check_dead(world, None, new)
        assert deploy(world.session) == new
        check_complete(world, new, "deploy")
    record_property("kill_points", point - 1)
    assert point > 30


def test_an_update_killed_after_any_request(world: World, record_property: Callable[[str, object], None]) -> None:
    world.new_share()
    world.change(1, adapter=True)
    old = deploy(world.session)
    point, killed = 0, True
    while killed:
        point += 1
        # Other weights' settings with the same weights, which are copied on the share.
        world.change(point + 1)
        world.write("adapter/adapter_config.json", b'{"r": %d}' % point)
        killed = world.run_and_kill(deploy, point)
        new = rollout.packed(world.session, rollout.Timings()).release.id
        check_dead(world, old, new)
        world.check_whole(old)
        assert deploy(world.session) == new
        check_complete(world, new, "deploy")
        forget_all_but(world, new)
        old = new
    record_property("kill_points", point - 1)
    assert point > 30


def test_a_rollback_killed_after_any_request(world: World, record_property: Callable[[str, object], None]) -> None:
    world.new_share()
    world.change(1, adapter=True)
    target = deploy(world.session)
    world.change(2, adapter=True)
    current = deploy(world.session)
    point, killed = 0, True
    while killed:
        point += 1
        killed = world.run_and_kill(partial(rollback, name=target), point)
        check_dead(world, current, target)
        assert rollback(world.session, target) == target
        if last_run(world).verb == "rollback":
            check_complete(world, target, "rollback")
        current, target = target, current
    record_property("kill_points", point - 1)
    assert point > 14


def test_a_gc_killed_after_any_request(world: World, record_property: Callable[[str, object], None]) -> None:
    world.new_share()
    world.change(1, adapter=True)
    first = deploy(world.session)
    world.change(2)
    second = deploy(world.session)
    point, killed = 0, True
    while killed:
        point += 1
        make_garbage(world, point)
        killed = world.run_and_kill(partial(collect_garbage, keep=1), point)
        check_dead(world, second)
        assert world.check_all_whole() >= {first, second}
        collect_garbage(world.session, keep=1)
        assert world.check_all_whole() == {first, second}
        assert not garbage.find(world.share, keep=1).items
        world.check_nothing_half_made()
    record_property("kill_points", point - 1)
    assert point > 25


def forget_all_but(world: World, release_id: str) -> None:
    """As a gc would, so that the next deploy has no more to look through for what it can copy."""
    found = releases.read_release(world.share, release_id)
    assert found is not None
    kept = {release_id, Path(found.adapters["default"]).name}
    for folder in [*(world.folder / "releases").glob("*/"), *(world.folder / "adapters/default").iterdir()]:
        if folder.name not in kept:
            shutil.rmtree(folder)


def make_garbage(world: World, number: int) -> None:
    """A whole release that nobody needs, with an adapter of its own, and the rest of an upload."""
    share = world.share
    name = f"{number:016x}"  # as a deploy names them
    adapter = f"adapters/default/{name}"
    code = b"print('garbage')\n"
    release = releases.Release(
        id=name,
        commit=None,
        time="2020-01-01T00:00:00Z",
        files=(FileEntry("inference/serve.py", len(code), hashlib.sha256(code).hexdigest()),),
        base=BASE,
        adapters={"default": adapter},
    )
    folder = f"releases/{release.id}"
    shares.make_folders(share, [adapter, f"{folder}/inference", "releases/.incomplete-0123/inference"])
    files = {
        f"{adapter}/adapter_config.json": b"{}",
        f"{adapter}/adapter_model.safetensors": b"x",
        f"{folder}/inference/serve.py": code,
        f"{folder}/release.json": json.dumps(release.to_json()).encode(),
        "releases/.incomplete-0123/inference/serve.py": b"pri",
    }
    for path, content in files.items():
        shares.write_small_file(share, path, content)


def test_a_killed_run_frees_the_share_by_itself(world: World) -> None:
    assert world.run_and_kill(partial(hold_the_lock, lease_seconds=SHORT_LEASE_SECONDS), 3)
    said: list[str] = []
    with Lock(world.share, wait_seconds=SHORT_LEASE_SECONDS + 10, say=said.append):
        assert said, "it waited"

"""Deploys and rollbacks as a whole: what they cost, what becomes of failures, who is told what."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from scripts import history, report, rollout, verbs
from scripts import release as releases
from scripts import share as shares
from scripts.errors import BadInput, InferopsError, Locked, NotFound, ProofFailed
from scripts.history import Who
from scripts.lock import Lock
from scripts.status import Status
from tests.conftest import RunningStandIn
from tests.release_world import World, deploy, open_session, rollback, running_world
from tests.tiny_resource_manager import replica
from tests.waiting import until


@pytest.fixture(scope="module")
def running(stand_in: RunningStandIn, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with running_world(stand_in, tmp_path_factory.mktemp("world")) as world:
        yield world


@pytest.fixture
def world(running: World) -> World:
    """With a share of its own, which holds the base model alone."""
    running.broken.clear()
    running.manager.state.failures = 0
    running.change(0, adapter=True)
    running.new_share()
    return running


def deployed(world: World, count: int) -> list[str]:
    """So many releases, one after the other; the last is in use."""
    made = []
    for number in range(1, count + 1):
        world.change(number)
        made.append(deploy(world.session))
    return made


def outcomes(world: World) -> list[tuple[str, str | None, str | None]]:
    entries = history.read(world.share, releases.read_current(world.share))
    return [(entry.verb, entry.release, entry.outcome) for entry in entries]


def restarts(world: World) -> int:
    return sum(line.endswith("/restart") for line in world.manager.state.seen)


def share_requests(world: World) -> list[str]:
    return [line for line in world.proxy.requests if f"/{world.account}/" in line]


def tree(world: World) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in world.folder.rglob("*") if path.is_file()}


# --- deploy


def test_a_deploy_that_changes_nothing_asks_the_share_once_and_restarts_nothing(world: World) -> None:
    (release,) = deployed(world, 1)
    before, restarted = tree(world), restarts(world)
    world.proxy.arm(None)
    done = rollout.deploy(world.session)
    assert (done.changed, done.release.id, done.proof.passed) == (False, release, True)
    assert len(share_requests(world)) == 1
    assert restarts(world) == restarted
    assert tree(world) == before


def test_a_dry_run_tells_what_would_be_sent_and_writes_nothing(world: World) -> None:
    world.proxy.arm(None)
    first = rollout.planned(world.session)
    assert first.current is None
    assert [part.name for part in first.parts] == ["code", "base model", "adapter default"]
    sizes = [path.stat().st_size for folder in ("inference", "adapter") for path in (world.root / folder).iterdir()]
    sizes += [(world.root / path).stat().st_size for path in releases.CODE[1:]]
    assert first.bytes_to_send == sum(sizes)
    (release,) = deployed(world, 1)
    assert rollout.planned(world.session).is_empty
    world.change(2)
    before = tree(world)
    world.proxy.arm(None)
    second = rollout.planned(world.session)
    assert second.current == release
    (code,) = second.parts
    assert code.plan is not None
    assert [entry.path for entry in code.plan.changed] == ["inference/serve.py"]
    # A release's folder is new: its small files are sent into it, changed or not.
    assert second.bytes_to_send == sum(entry.bytes for entry in second.release.files)
    assert {line.split()[0] for line in share_requests(world)} <= {"GET", "HEAD"}
    assert tree(world) == before


def test_an_adapter_of_another_base_is_refused_before_anything_is_sent(world: World) -> None:
    deployed(world, 1)
    before, restarted = tree(world), restarts(world)
    world.write("adapter/adapter_config.json", b'{"base_model_name_or_path": "org/Another-7B"}')
    try:
        for refused in (rollout.deploy, rollout.planned):
            with pytest.raises(BadInput) as caught:
                refused(world.session)
            (problem,) = caught.value.problems
            assert str(problem.file).endswith("adapter/adapter_config.json")
            assert "the adapter default was trained on another base model than model-cache/demo-base" in problem.message
    finally:
        world.write("adapter/adapter_config.json", b"{}")
    assert (tree(world), restarts(world)) == (before, restarted)


def test_an_app_that_sleeps_is_not_woken_for_the_comparison(world: World) -> None:
    file = world.root / "environments" / "local" / "environment.yaml"
    text = file.read_text()
    file.write_text(yaml.safe_dump(yaml.safe_load(text) | {"proof": {"prompts": [{"prompt": "Who are you?"}]}}))
    state = world.manager.state
    try:
        world.new_share()
        deployed(world, 2)
        assert any(line.startswith("Who are you?\n    before ") for line in world.said)
        # What has ended stays listed for a while.
        state.running, state.replicas = "ScaledToZero", [replica("theapp--1-ended", "NotRunning")]
        world.said.clear()
        world.change(3)
        done = rollout.deploy(world.session)
        shown = str(Status(world.session.outputs, done.release.id, world.session.app.state(), None))
    finally:
        file.write_text(text)
        state.running = "Running"
    assert done.changed
    assert "none: it starts with the next request" in shown and "-ended" not in shown
    assert not any("before " in line for line in world.said)
    assert "unanswered" not in done.timings_seconds


def deployed_within_a_minute(world: World) -> rollout.Deployed:
    """A deploy that must not wait for what will not come."""
    done: list[rollout.Deployed] = []
    running = threading.Thread(target=lambda: done.append(rollout.deploy(world.session)), daemon=True)
    running.start()
    until(lambda: not running.is_alive(), "the deploy's end", seconds=60)
    return done[0]


@pytest.mark.parametrize("status", ["ready", "loading", "failed"])
def test_a_release_that_is_current_while_another_serves_is_started_at_once(world: World, status: str) -> None:
    """As a run leaves it that wrote `current` to put a release back, and could not restart the app."""
    first, second = deployed(world, 2)
    with Lock(world.share) as lock:
        releases.restore_current(world.share, releases.Current(first, True, None), lock)
    world.app.behaviour.status = status
    world.change(1)
    world.said.clear()
    restarted = restarts(world)
    done = deployed_within_a_minute(world)
    assert (done.changed, done.release.id, world.app.behaviour.release) == (True, first, first)
    assert restarts(world) == restarted + 1
    assert any(f"release {first} is current, but" in line and second in line for line in world.said)
    assert not any("No changes" in line for line in world.said)


def test_an_app_that_sleeps_under_an_unproven_release_is_not_woken_to_answer_for_the_one_before(world: World) -> None:
    """As a run leaves it that was cut off after its switch; what wakes is what `current` names."""
    file, state = world.root / "environments" / "local" / "environment.yaml", world.manager.state
    text = file.read_text()
    file.write_text(yaml.safe_dump(yaml.safe_load(text) | {"proof": {"prompts": [{"prompt": "Hi?"}], "slowest": 0.01}}))
    try:
        world.new_share()
        (first,) = deployed(world, 1)
        world.change(2)
        package = rollout.packed(world.session, rollout.Timings())
        with Lock(world.share) as lock:
            releases.upload(world.share, package, lock)
            releases.set_current(world.share, package.release.id, lock, previous=first)
        world.session.app.restart()
        state.running, state.replicas = "ScaledToZero", []
        world.session.progress = world.said.append
        world.said.clear()
        world.change(3)
        done = deployed_within_a_minute(world)
    finally:
        file.write_text(text)
        state.running = "Running"
    assert done.changed
    assert not any("waking" in line for line in world.said)


def test_a_first_release_that_fails_its_proof_leaves_the_app_empty(world: World) -> None:
    world.broken.add(rollout.packed(world.session, rollout.Timings()).release.id)
    with pytest.raises(InferopsError, match="There was no release before it") as caught:
        rollout.deploy(world.session)
    assert caught.value.exit_code == 1, "4 says that the release before is back"
    assert world.current() is None


def test_a_release_in_use_that_fails_its_proof_stays_and_is_not_told_to_be_back(world: World) -> None:
    (first,) = deployed(world, 1)
    world.app.behaviour.usage = False
    before = tree(world)
    with pytest.raises(InferopsError, match=f"Release {first}, which is in use already") as caught:
        rollout.deploy(world.session)
    assert caught.value.exit_code == 1
    assert caught.value.details
    assert tree(world) == before
    # Nor when it had to be started again first.
    world.broken.add(first)
    world.manager.state.running = "Failed"
    try:
        with pytest.raises(InferopsError, match="there is no other to go back to") as caught:
            rollout.deploy(world.session)
    finally:
        world.manager.state.running = "Running"
    assert caught.value.exit_code == 1
    assert releases.read_current(world.share) == releases.Current(first, True, None)


def test_a_release_that_fails_its_proof_is_taken_back_and_remembered(world: World) -> None:
    first, second = deployed(world, 2)
    world.change(3)
    bad = rollout.packed(world.session, rollout.Timings()).release.id
    world.broken.add(bad)
    with pytest.raises(ProofFailed, match=f"Release {second} is back") as caught:
        rollout.deploy(world.session)
    assert caught.value.exit_code == 4
    assert world.current() == second == world.app.behaviour.release
    assert outcomes(world) == [("deploy", first, "proven"), ("deploy", second, "proven"), ("deploy", bad, "failed")]
    assert "no usage" in history.read(world.share, None)[-1].detail or "does not answer" in str(caught.value)


def test_a_release_that_was_never_proven_is_not_when_it_is_put_back(world: World) -> None:
    """As the first deploy leaves it that is killed after its switch; then another one fails, or is killed."""
    with Lock(world.share) as lock:
        package = rollout.packed(world.session, rollout.Timings())
        releases.upload(world.share, package, lock)
        releases.set_current(world.share, package.release.id, lock, previous=None)
    unproven = releases.Current(package.release.id, False, None)
    world.change(2)
    bad = rollout.packed(world.session, rollout.Timings()).release.id
    world.broken.add(bad)
    seen: list[releases.Current | None] = []

    def look(line: str) -> None:
        if "is current; restarted" in line:
            seen.append(releases.read_current(world.share))

    world.session.say = look
    with pytest.raises(ProofFailed, match=f"Release {unproven.release} .never proven. is back"):
        rollout.deploy(world.session)
    assert seen == [releases.Current(bad, False, None)], "the next run must not take it for proven either"
    assert releases.read_current(world.share) == unproven
    world.change(0)
    assert deploy(world.session) == unproven.release
    assert releases.read_current(world.share) == releases.Current(unproven.release, True, None)


def test_a_release_that_fails_and_cannot_be_taken_back_does_not_end_as_if_it_were(world: World) -> None:
    (first,) = deployed(world, 1)
    world.change(2)
    bad = rollout.packed(world.session, rollout.Timings()).release.id
    world.broken.add(bad)

    def fail_from_here(line: str) -> None:
        if line.startswith("FAILED"):
            world.manager.state.failures = 1000

    world.session.say = fail_from_here
    with pytest.raises(InferopsError, match="failed too") as caught:
        rollout.deploy(world.session)
    assert not isinstance(caught.value, ProofFailed)
    assert caught.value.exit_code == 1
    assert outcomes(world)[-1] == ("deploy", bad, "failed")
    assert world.current() == first


def test_an_interrupted_deploy_is_remembered_as_such(world: World) -> None:
    (first,) = deployed(world, 1)
    world.change(2)

    def interrupt(line: str) -> None:
        if "is current; restarted" in line:
            raise KeyboardInterrupt

    world.session.say = interrupt
    with pytest.raises(KeyboardInterrupt):
        rollout.deploy(world.session)
    assert world.current() == first
    assert [outcome for _, _, outcome in outcomes(world)] == ["proven", "interrupted"]


def test_a_deploy_that_ends_while_it_uploads_tells_what_is_in_use(world: World) -> None:
    def interrupt(line: str) -> None:
        raise KeyboardInterrupt

    def interrupted() -> str:
        """The last line that a deploy says whose first line of progress interrupts it."""
        with contextlib.closing(open_session(world.root, world.said.append)) as session:
            session.progress = interrupt
            with pytest.raises(KeyboardInterrupt):
                rollout.deploy(session)
        return world.said[-1]

    goes_on = "the next deploy goes on with what was uploaded"
    assert interrupted() == f"the app has no release yet; {goes_on}"
    (first,) = deployed(world, 1)
    world.change(2)
    assert interrupted() == f"release {first} stays in use; {goes_on}"
    assert outcomes(world)[-1][2] == "interrupted"
    assert world.current() == first


def test_who_waits_for_an_answer_is_told_what_for(world: World) -> None:
    behaviour, said, pieces = world.app.behaviour, list[str](), list[str]()

    def say(line: str) -> None:
        said.append(line)
        behaviour.open.set()

    with contextlib.closing(open_session(world.root, say)) as session:
        behaviour.open.clear()
        verbs.chat(session, "Who are you?", pieces.append)
        assert said == [verbs.NO_ANSWER_YET]
        assert pieces
        verbs.chat(session, "Who are you?", pieces.append)
    assert said == [verbs.NO_ANSWER_YET]


def test_a_history_tells_who_and_from_what(world: World) -> None:
    deployed(world, 1)
    (entry,) = history.read(world.share, None)
    assert entry.who.name.count("@") == 1
    assert entry.adapters.keys() == {"default"}
    assert entry.ended is not None and entry.begun <= entry.ended


# --- rollback


def test_a_history_marks_the_release_in_use_also_before_it_is_proven(world: World) -> None:
    deployed(world, 1)
    world.change(2)
    shown: list[str] = []

    def look(line: str) -> None:
        if "is current; restarted" in line:
            shown.append(report.history_text(history.of(world.share), 20))

    world.session.say = look
    second = deploy(world.session)
    (marked,) = [line for line in shown[0].splitlines() if line.startswith("*")]
    assert second in marked and marked.endswith("under way, or cut off  default")


def test_a_rollback_goes_to_the_last_proven_one_and_then_further_back(world: World) -> None:
    first, second, third = deployed(world, 3)
    before = {path: content for path, content in tree(world).items() if "/releases/" in path and "history" not in path}
    world.proxy.arm(None)
    assert rollback(world.session) == second
    written = [line.partition("?")[0].rpartition("/")[2] for line in share_requests(world) if line.startswith("PUT")]
    assert written.count("current") == 2, "to switch, and to confirm"
    assert set(written) - {world.outputs.file_share_name} == {"current", "history.jsonl"}, "nothing is uploaded"
    assert rollback(world.session) == first
    assert world.app.behaviour.release == first
    with pytest.raises(NotFound, match=f"proven before {first}"):
        rollback(world.session)
    assert rollback(world.session, third[:6]) == third
    after = {path: content for path, content in tree(world).items() if "/releases/" in path and "history" not in path}
    assert after == before


def test_a_rollback_skips_what_failed_and_what_is_gone(world: World) -> None:
    first, second = deployed(world, 2)
    world.change(3)
    world.broken.add(rollout.packed(world.session, rollout.Timings()).release.id)
    with pytest.raises(ProofFailed):
        deploy(world.session)
    world.change(4)
    deploy(world.session)
    (world.folder / "releases" / second / "release.json").unlink()
    assert rollback(world.session) == first


def test_a_rollback_that_fails_its_proof_leaves_what_was_in_use(world: World) -> None:
    first, second = deployed(world, 2)
    world.broken.add(first)
    with pytest.raises(ProofFailed, match=f"Release {second} is back"):
        rollback(world.session)
    assert releases.read_current(world.share) == releases.Current(second, True, None)
    assert world.app.behaviour.release == second
    assert outcomes(world)[-1] == ("rollback", first, "failed")


def test_a_rollback_to_nothing_or_nobody_is_refused_before_anything_is_changed(world: World) -> None:
    with pytest.raises(NotFound, match="names no release yet"):
        rollback(world.session)
    (first,) = deployed(world, 1)
    before = tree(world)
    with pytest.raises(BadInput, match="1 problem") as caught:
        rollback(world.session, "0000")
    assert first in caught.value.problems[0].next_step
    done = rollout.rollback(world.session, first)
    assert not done.changed
    assert tree(world) == before


def test_a_rollback_whose_model_is_gone_is_refused(world: World) -> None:
    first = deployed(world, 1)[0]
    world.change(2, adapter=True)
    second = deploy(world.session)
    (entry, _) = history.read(world.share, releases.read_current(world.share))
    (world.folder / entry.adapters["default"] / "adapter_config.json").unlink()
    with pytest.raises(BadInput, match="the share has no adapters/default/"):
        rollback(world.session, first)
    assert world.current() == second


# --- two at once


def test_who_comes_second_is_told_who_holds_the_share_and_since_when(world: World) -> None:
    deployed(world, 1)
    entry = history.begun("gc", Who("octocat", "https://github.example/run/1"))
    with Lock(world.share) as lock, history.recorded(world.share, lock, entry, None, say=world.said.append):
        second = Lock(world.share, holder=lambda: history.holder(world.share))
        with pytest.raises(Locked, match="nothing was changed") as caught, second:
            pass
    for word in ("a gc by octocat", "https://github.example/run/1", f"since {entry.begun}"):
        assert word in caught.value.message
    with Lock(world.share, holder=lambda: history.holder(world.share)):
        assert history.holder(world.share) is None, "the last run has ended"


def test_a_deploy_waits_for_the_one_before_it_and_finds_its_work_done(world: World) -> None:
    waits = threading.Event()
    holder = Lock(world.share)
    results: list[rollout.Deployed] = []

    def say(line: str) -> None:
        world.said.append(line)
        if "the share is held by" in line:
            waits.set()

    world.session.say = say
    with holder:
        thread = threading.Thread(target=lambda: results.append(rollout.deploy(world.session)))
        thread.start()
        assert waits.wait(60)
        assert not results
    thread.join(120)
    assert results[0].changed
    assert world.current() == results[0].release.id


def test_a_run_that_died_is_noted_by_the_next(world: World) -> None:
    (first,) = deployed(world, 1)
    with Lock(world.share) as lock:
        found = releases.read_release(world.share, first)
        assert found is not None
        dead = history.begun("deploy", Who("somebody"), dataclasses.replace(found, id="dead"))
        with pytest.raises(SystemExit), history.recorded(world.share, lock, dead, None, say=world.said.append):
            content = (world.folder / history.FILE).read_bytes()
            raise SystemExit
        # As it stands when nobody could write the end.
        (world.folder / history.FILE).write_bytes(content)
    assert history.read(world.share, None)[-1].outcome is None
    world.change(2)
    second = deploy(world.session)
    assert outcomes(world)[1:] == [("deploy", "dead", "cut off"), ("deploy", second, "proven")]


def test_what_a_later_version_wrote_into_the_history_is_kept(world: World) -> None:
    """A commit that is reverted takes the program back, not what it has written."""
    deployed(world, 1)
    file = world.folder / history.FILE
    line = json.loads(file.read_text())
    line["approved_by"], line["who"]["team"] = "somebody", "ours"
    file.write_text(json.dumps(line) + "\n")
    world.change(2)
    deploy(world.session)
    assert json.loads(file.read_text().splitlines()[0]) == line
    assert history.read(world.share, None)[0].who.name == line["who"]["name"]


def test_a_history_that_is_none_is_an_error_with_its_line(world: World) -> None:
    deployed(world, 1)
    with (world.folder / history.FILE).open("a") as file:
        file.write("not a record\n")
    with pytest.raises(Exception, match=r"Line 2 of the file releases/history\.jsonl"):
        history.of(world.share)


def test_a_history_that_one_request_could_not_carry_forgets_its_oldest_runs(world: World) -> None:
    deployed(world, 1)
    file = world.folder / history.FILE
    line = json.loads(file.read_text())
    length, count = 8192, shares.RANGE_BYTES // 8192
    shortest = len(json.dumps(line | {"detail": ""})) + 1
    lines = [json.dumps(line | {"detail": str(number).ljust(length - shortest)}) for number in range(count)]
    file.write_text("".join(f"{line}\n" for line in lines))
    assert file.stat().st_size == shares.RANGE_BYTES
    world.change(2)
    now = deploy(world.session)
    assert outcomes(world)[-1] == ("deploy", now, "proven")
    kept = [run.detail.strip() for run in history.read(world.share, None)]
    assert kept == [*map(str, range(1, count)), ""]


def test_the_commit_of_a_checkout_with_changes_is_marked(world: World) -> None:
    git = ["git", "-C", str(world.root), "-c", "user.name=Octo", "-c", "user.email=octo@example.com"]
    try:
        for command in (["init", "-q"], ["add", "inference"], ["commit", "-qm", "first"]):
            subprocess.run([*git, *command], check=True, capture_output=True)
        head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
        deployed(world, 1)
        assert history.read(world.share, None)[0].commit == f"{head}-dirty"
    finally:
        subprocess.run(["rm", "-rf", str(Path(world.root) / ".git")], check=True)

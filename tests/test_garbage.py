"""What gc finds and removes, what diff shows, what pull brings; and the verbs of releases as they are typed."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts import diff, garbage, history, pull, report, rollout, verbs
from scripts import release as releases
from scripts.bundle import FileEntry
from scripts.errors import BadInput, InferopsError
from scripts.lock import Lock
from scripts.rollout import Timings
from tests.conftest import RunningStandIn
from tests.release_world import BASE, World, collect_garbage, deploy, rollback, running_world

COMMAND = Path(sys.executable).parent / "inferops"


@pytest.fixture(scope="module")
def world(stand_in: RunningStandIn, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Four releases, the first two with an adapter of their own; a rest of an upload; the third one is in use."""
    with running_world(stand_in, tmp_path_factory.mktemp("world")) as running:
        for number in range(4):
            running.change(number, adapter=number < 2)
            running.made.append(deploy(running.session))
        running.made.append(rollback(running.session))
        (running.folder / "releases" / ".incomplete-0123" / "inference").mkdir(parents=True)
        (running.folder / "releases" / ".incomplete-0123" / "inference" / "serve.py").write_bytes(b"pri")
        yield running


def files(world: World) -> set[str]:
    return {str(path.relative_to(world.folder)) for path in world.folder.rglob("*") if path.is_file()}


def typed(world: World, *arguments: str, code: int = 0) -> Any:
    """The one document that a command prints with --json."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("GITHUB_", "ACTIONS_"))}
    command = [str(COMMAND), *arguments, "--config", "world.json", "--json"]
    result = subprocess.run(command, cwd=world.root, env=variables, capture_output=True, text=True, timeout=120)
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    return json.loads(result.stdout)


# --- what is found


def test_what_stays_is_in_use_or_was_last_and_proven(world: World) -> None:
    first, second, third, fourth, _ = world.made
    assert garbage.find(world.share, keep=3).kept == (third, fourth, second, first)
    assert garbage.find(world.share, keep=2).kept == (third, fourth, second)
    found = garbage.find(world.share, keep=0)
    assert found.kept == (third,)
    assert [item.kind for item in found.items] == ["rest", "release", "release", "release", "adapter"]
    used = releases.find(world.share, third).adapters["default"]
    assert found.items[-1].folder != used, "an adapter that a kept release uses stays"
    on_disk = [world.folder / item.folder / path for item in found.items for path in item.files]
    assert found.bytes == sum(path.stat().st_size for path in on_disk)
    text = report.garbage_text(found)
    assert "- releases/.incomplete-0123 (1 file, 3 B)" in text
    assert text.endswith(f"Kept: {third}.")
    assert "3 releases, 1 adapter, 1 leftover of a run that was cut off, 4.3 MB" in text


@pytest.mark.parametrize(
    ("named", "goes"),
    [
        ("Adapters/DEFAULT/0123456789ABCDEF", False),
        ("adapters/default", False),
        ("adapters/default/0123456789abcdef/checkpoint", False),
        ("adapters/default/0123456789abcde", True),
    ],
)
@pytest.mark.parametrize("key", ["base", "default"])
def test_what_a_kept_release_names_stays_in_any_case_and_whole(world: World, key: str, named: str, goes: bool) -> None:
    folder = world.folder / "adapters" / "default" / "0123456789abcdef"
    folder.mkdir()
    manifest = world.folder / "releases" / world.made[2] / "release.json"
    content = manifest.read_bytes()
    document = json.loads(content)
    document |= {"base": named} if key == "base" else {"adapters": {**document["adapters"], "other": named}}
    manifest.write_text(json.dumps(document))
    try:
        found = {item.folder for item in garbage.find(world.share, keep=0).items}
    finally:
        manifest.write_bytes(content)
        folder.rmdir()
    assert ("adapters/default/0123456789abcdef" in found) == goes


def test_only_what_a_deploy_names_so_goes(world: World) -> None:
    mine = ["adapters/default/my-adapter", "adapters/default/.snapshot", "releases/notes", "releases/.hidden"]
    rests = ["adapters/default/.incomplete-0123", "releases/.removed-0123456789abcdef"]
    before = {item.folder for item in garbage.find(world.share, keep=0).items}
    for folder in mine + rests:
        (world.folder / folder).mkdir()
    found = {item.folder for item in garbage.find(world.share, keep=0).items}
    for folder in mine + rests:
        (world.folder / folder).rmdir()
    assert found - before == set(rests)


def test_a_release_that_stays_without_a_manifest_stops_everything(world: World) -> None:
    manifest = world.folder / "releases" / world.made[3] / "release.json"
    content = manifest.read_bytes()
    before = files(world)
    manifest.unlink()
    with pytest.raises(InferopsError, match="nothing was removed"):
        collect_garbage(world.session, keep=3)
    manifest.write_bytes(content)
    assert files(world) == before


def test_nothing_goes_when_nobody_agrees(world: World) -> None:
    before = files(world)
    shown: list[garbage.Garbage] = []

    def refuse(found: garbage.Garbage) -> bool:
        shown.append(found)
        return False

    assert verbs.collect_garbage(world.session, keep=0, agreed=refuse).items == ()
    assert len(shown[0].items) == 5
    assert files(world) == before


# --- diff


def test_a_difference_shows_files_adapters_and_short_texts(world: World) -> None:
    world.change(7, adapter=True)
    world.write("adapter/adapter_config.json", b'{"r": 8}\n')
    world.write("inference/new.bin", b"\0\1")
    world.write("inference/long.py", b"x\n" * 40_000)
    found = verbs.difference(world.session)
    lines = report.difference_text(found).splitlines()
    for line in (
        "+ inference/new.bin (2 B)",
        "~ inference/serve.py (9 B)",
        "    -print(2)",
        "    +print(7)",
        "~ adapter_config.json (9 B)",
        '    +{"r": 8}',
    ):
        assert line in lines
    assert lines[0].startswith(f"Release {found.release.id} (against {world.made[2]}): 2 added, 3 changed, 0 removed")
    document = report.difference_json(found)
    assert json.loads(json.dumps(document)) == document
    assert [part["name"] for part in document["parts"]] == ["code", "adapter default"]
    for path in ("inference/new.bin", "inference/long.py"):
        (world.root / path).unlink()
    world.write("adapter/adapter_config.json", b"{}")


def test_a_long_difference_is_told_in_numbers(world: World) -> None:
    world.write("inference/serve.py", b"x = 1\n" * 200)
    texts = verbs.difference(world.session).texts
    (lines,) = [lines for path, lines in texts.items() if path.endswith("serve.py")]
    assert lines == ("200 lines added, 1 line removed",)
    world.write("inference/serve.py", b"x" * (diff.LONGEST_TEXT_BYTES + 1))
    assert not [path for path in verbs.difference(world.session).texts if path.endswith("serve.py")]


def test_what_cannot_be_seen_is_written_out(world: World) -> None:
    folder = world.folder / "releases" / world.made[2] / "inference"
    old = (folder / "serve.py").read_bytes()
    assert old.endswith(b"\n")
    world.write("inference/serve.py", old[:-1] + b"\r\n\x1b[31m\xe2\x80\xaered")
    texts = verbs.difference(world.session).texts
    (lines,) = [lines for path, lines in texts.items() if path.endswith("serve.py")]
    line = old.decode().rstrip("\n")
    assert lines[3:] == (f"-{line}", f"+{line}\\r", "+\\x1b[31m\\u202ered", "\\ No newline at end of file")


def test_an_adapter_that_is_on_the_share_already_is_not_to_be_sent(world: World) -> None:
    world.change(1, adapter=True)
    world.write("inference/serve.py", b"print('other')\n")
    found = rollout.planned(world.session)
    world.change(0, adapter=True)
    (_, adapter) = rollout.planned(world.session).parts
    assert adapter.is_there and adapter.bytes_to_send == 0
    assert [part.name for part in found.parts] == ["code"]
    # The new folder's small files, changed or not.
    assert found.bytes_to_send == sum(entry.bytes for entry in found.release.files)


def test_the_bytes_to_send_are_those_that_a_deploy_sends(world: World) -> None:
    world.change(0, adapter=True)
    world.write("adapter/adapter_config.json", b'{"r": 4}')
    world.write("adapter/README.md", b"as before")
    found = rollout.planned(world.session)
    (adapter,) = (part for part in found.parts if part.name == "adapter default")
    # The weights are those of another adapter than the one in use: a deploy copies them on the share.
    assert adapter.bytes_to_send == len(b'{"r": 4}') + len(b"as before")
    world.write("adapter/adapter_config.json", b"{}")
    found = rollout.planned(world.session)
    (adapter,) = (part for part in found.parts if part.name == "adapter default")
    # The settings are those of the adapter in use, and small ones are sent into each new folder.
    assert adapter.plan is not None and [entry.path for entry in adapter.plan.unchanged] == ["adapter_config.json"]
    assert adapter.bytes_to_send == len(b"{}") + len(b"as before")
    files = report.difference_json(found)["parts"][-1]["files"]
    assert files["bytes_to_send"] == adapter.bytes_to_send
    assert "11 B to send" in report.difference_text(found)
    sent: dict[str, int] = {}
    package = rollout.packed(world.session, Timings())
    with Lock(world.share) as lock:
        releases.upload(
            world.share,
            package,
            lock,
            earlier=world.made[2],
            progress=lambda name, done: sent.update({name: done.bytes_sent}),
        )
    (world.root / "adapter" / "README.md").unlink()
    for folder in (adapter.after, f"releases/{package.release.id}"):
        shutil.rmtree(world.folder / str(folder))
    assert sent[str(adapter.after)] == adapter.bytes_to_send
    assert sum(sent.values()) == found.bytes_to_send


# --- pull


def test_a_release_is_pulled_whole_with_its_adapters(world: World, tmp_path: Path) -> None:
    found, count = verbs.pull_release(world.session, world.made[0][:7], tmp_path / "out", with_adapters=True)
    assert found.id == world.made[0]
    pulled = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert len(pulled) == count + 1
    for path in pulled:
        place = path if path.startswith("adapters/") else f"releases/{found.id}/{path}"
        assert (tmp_path / "out" / path).read_bytes() == (world.folder / place).read_bytes()
    assert any(path.endswith("adapter_model.safetensors") for path in pulled)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_that_is_not_empty_is_refused(world: World, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path, tmp_path / "file"):
        with pytest.raises(BadInput) as caught:
            verbs.pull_release(world.session, "current", folder, with_adapters=False)
        assert str(folder) in str(caught.value)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_file_that_is_not_what_its_hash_says_is_never_kept(world: World, tmp_path: Path) -> None:
    file = world.folder / "releases" / world.made[0] / "inference" / "serve.py"
    file.write_bytes(b"print(6)\n")
    (tmp_path / "out").mkdir()
    with pytest.raises(InferopsError, match=r"inference/serve\.py on the share does not hold") as caught:
        verbs.pull_release(world.session, world.made[0], tmp_path / "out", with_adapters=False)
    assert [path.name for path in tmp_path.rglob("*")] == ["out"]
    assert "deploy again from the commit" in caught.value.next_step
    world.change(0, adapter=True)
    package = rollout.packed(world.session, Timings())
    assert package.release.id == world.made[0]
    with Lock(world.share) as lock:
        releases.upload(world.share, package, lock, earlier=world.made[2])
    verbs.pull_release(world.session, world.made[0], tmp_path / "out", with_adapters=False)
    assert (tmp_path / "out" / "inference" / "serve.py").read_bytes() == b"print(0)\n"


def test_an_empty_folder_that_is_there_is_filled_and_stays_the_same(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = tmp_path.stat().st_ino
    verbs.pull_release(world.session, world.made[0], Path(), with_adapters=False)
    assert tmp_path.stat().st_ino == before
    assert sorted(path.name for path in Path().iterdir()) == ["inference", "release.json", "requirements"]
    (tmp_path / "below").mkdir()
    verbs.pull_release(world.session, world.made[0], Path("below/../missing/../out"), with_adapters=False)
    assert (tmp_path / "out" / "release.json").is_file()


def test_adapters_without_hashes_stay_on_the_share(world: World, tmp_path: Path) -> None:
    written = "adapters/default/checkpoint-100"
    (world.folder / written).mkdir()
    (world.folder / written / "adapter_config.json").write_bytes(b"{}")
    found = releases.find(world.share, world.made[0])
    both = dataclasses.replace(found, adapters={**found.adapters, "tuned": written})
    said: list[str] = []
    pulled = pull.pull(world.share, both, tmp_path / "out", with_adapters=True, say=said.append)
    shutil.rmtree(world.folder / written)
    assert any(entry.path.startswith(found.adapters["default"]) for entry in pulled)
    assert not (tmp_path / "out" / written).exists()
    assert [line.partition(" ")[0] for line in said] == [written, BASE]


def test_a_folder_that_cannot_be_looked_into_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="File name too long"):
        pull.check_empty(tmp_path / ("x" * 300))


@pytest.mark.parametrize("path", ["../outside", "/outside", "a/../../outside", "..\\outside"])
def test_a_manifest_that_names_files_outside_is_refused(world: World, tmp_path: Path, path: str) -> None:
    entry = FileEntry(path, 1, "00")
    bad = releases.Release("bad", None, "2020-01-01T00:00:00Z", (entry,), "model-cache/x", {})
    with pytest.raises(InferopsError, match="files outside its folder"):
        pull.pull(world.share, bad, tmp_path / "out")
    assert not list(tmp_path.iterdir())


# --- as typed; these are the last, because they remove


def test_a_person_at_a_terminal_is_asked(world: World) -> None:
    before = files(world)
    keyboard, terminal = os.openpty()
    try:
        os.write(keyboard, b"n\n")
        command = [str(COMMAND), "gc", "local", "--keep", "0", "--config", "world.json"]
        result = subprocess.run(command, cwd=world.root, stdin=terminal, capture_output=True, text=True, timeout=120)
    finally:
        os.close(keyboard)
        os.close(terminal)
    assert result.returncode == 0, result.stderr
    assert "Kept: " in result.stderr and "Remove them? [y/N]" in result.stderr
    assert result.stdout == "Removed nothing.\n"
    assert files(world) == before


def test_the_verbs_as_typed(world: World, tmp_path: Path) -> None:
    first, second, third, fourth, _ = world.made
    world.change(9)
    assert typed(world, "diff", "local", "--exit-code", code=3)["current"] == third
    past = typed(world, "history", "local")
    assert [run["release"] for run in past["runs"]] == [third, fourth, third, second, first]
    assert past["current"] == {"release": third, "proven": True, "previous": None}
    before = files(world)
    shown = typed(world, "gc", "local", "--keep", "1", "--dry-run")
    assert (shown["removed"], shown["kept"]) == (False, [third, fourth])
    assert files(world) == before
    removed = typed(world, "gc", "local", "--keep", "1")
    assert removed == shown | {"removed": True}
    gone = before - files(world)
    assert gone == {path for path in before if any(path.startswith(item["folder"] + "/") for item in shown["items"])}
    assert typed(world, "pull", "local", "current", str(tmp_path / "out"))["release"]["id"] == third
    refused = typed(world, "rollback", "local", "nobody", code=2)["error"]["details"]
    assert third in refused[0] and first not in refused[0]
    world.check_all_whole()
    world.check_nothing_else()
    world.check_nothing_half_made()


def test_a_removed_release_is_shown_as_such(world: World) -> None:
    text = report.history_text(history.of(world.share), 20)
    assert f"{world.made[0]} (not on the share)" in text
    marked = [line for line in text.splitlines() if line.startswith("*")]
    assert len(marked) == 1 and world.made[2] in marked[0] and "rollback" in marked[0]
    assert "2 releases" in text.splitlines()[1], "the gc and what it removed"

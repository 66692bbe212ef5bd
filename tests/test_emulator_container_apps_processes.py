"""A container's process: its supervisor, its mounts, and that nothing is ever left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.emulator.containerapps import processes
from infra.emulator.containerapps.launch import Launch, Names, make_scratch, plan, remove_scratch
from infra.emulator.store import Store

SUPERVISOR = Path(processes.__file__).with_name("supervisor.py")
NAMES = Names("app", "app--1", "app--1-abc-def", "domain.localhost")


class Supervised:
    """A command under the supervisor."""

    def __init__(self, disk: Path, *command: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(SUPERVISOR), str(disk), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        self.main_process = int(self.process.stdout.readline())

    def say(self, word: bytes) -> None:
        """Tells the supervisor something."""
        assert self.process.stdin is not None
        self.process.stdin.write(word + b"\n")
        self.process.stdin.flush()

    def line(self) -> bytes:
        """The next line that the command prints."""
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def close(self) -> None:
        """The line to the stand-in breaks: the stand-in has died."""
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
        self.process.wait(60)


@pytest.fixture
def supervise(tmp_path: Path) -> Iterator[Any]:
    """Makes supervised commands with a disk and ends them all."""
    made: list[Supervised] = []
    disk = tmp_path / "disk"
    disk.mkdir()

    def make(*command: str) -> Supervised:
        made.append(Supervised(disk, *command))
        return made[-1]

    yield make
    for each in made:
        each.close()


def gone(process_id: int, seconds: float = 60) -> bool:
    """Whether the process ends within that time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.kill(process_id, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


def test_exit_codes_are_a_container_s(supervise: Any) -> None:
    """The command's own, or 128 + the signal's number; 127 when there is no such command."""
    assert supervise("sh", "-c", "exit 7").process.wait(60) == 7
    ended = supervise("sleep", "60")
    os.kill(ended.main_process, signal.SIGSEGV)
    assert ended.process.wait(60) == 128 + signal.SIGSEGV
    absent = supervise("no-such-program")
    assert absent.process.wait(60) == 127
    assert absent.process.stderr.read() == b'exec: "no-such-program": No such file or directory\n'


def test_terminate_reaches_the_main_process_and_kill_all(supervise: Any) -> None:
    """SIGTERM may be handled, or ignored until SIGKILL."""
    polite = supervise("sh", "-c", "trap 'echo bye; exit 5' TERM; echo up; while :; do sleep 0.05; done")
    assert polite.line() == b"up\n"
    polite.say(b"terminate")
    assert (polite.line(), polite.process.wait(60)) == (b"bye\n", 5)
    stubborn = supervise("sh", "-c", "trap 'echo no' TERM; echo up; while :; do sleep 0.05; done")
    assert stubborn.line() == b"up\n"
    stubborn.say(b"terminate")
    assert stubborn.line() == b"no\n"
    assert stubborn.process.poll() is None
    stubborn.say(b"kill")
    assert stubborn.process.wait(60) == 137


def test_what_the_main_process_started_ends_with_it(supervise: Any) -> None:
    """Also what went into a session of its own, as everything in a container does."""
    script = "sleep 100 & echo $!; setsid sh -c 'echo $$; exec sleep 100' & sleep 0.3; exit 0"
    ended = supervise("sh", "-c", script)
    children = [int(ended.line()), int(ended.line())]
    assert ended.process.wait(60) == 0
    assert gone(children[0])
    if sys.platform == "linux":
        assert gone(children[1])
    else:
        os.kill(children[1], signal.SIGKILL)


def test_everything_ends_when_the_stand_in_dies(supervise: Any, tmp_path: Path) -> None:
    """The end of the line is enough, at once and without a grace period."""
    orphan = supervise("sh", "-c", "trap '' TERM; sleep 100 & echo $!; wait")
    child = int(orphan.line())
    assert supervise("true").process.wait(60) == 0
    assert (tmp_path / "disk").exists()
    orphan.close()
    assert gone(orphan.main_process)
    assert gone(child)
    assert not (tmp_path / "disk").exists()


def test_a_stand_in_that_dies_while_the_process_is_made_leaves_nothing(tmp_path: Path) -> None:
    """The line has ended before the main process leads its group."""
    for _ in range(5):
        command = [sys.executable, "-I", "-S", str(SUPERVISOR), str(tmp_path / "disk"), "sleep", "100"]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        try:
            assert process.wait(60) == 128 + signal.SIGKILL
        finally:
            process.kill()
            process.communicate()


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_the_main_process_ends_with_its_supervisor(supervise: Any) -> None:
    """A supervisor that is killed takes it along."""
    killed = supervise("sleep", "100")
    killed.process.kill()
    assert gone(killed.main_process)


def test_what_a_killed_stand_in_left_behind_is_ended_at_the_next_start(tmp_path: Path) -> None:
    """By id and start time: another process that got the id since is left alone."""
    store = Store(tmp_path / "state.db")
    left, other = (subprocess.Popen(["sleep", "100"], start_new_session=True) for _ in range(2))
    try:
        scratch = make_scratch()
        processes.record(store, "replica", [left.pid], scratch)
        processes.record(store, "reused", [other.pid], scratch)
        document = store.get("containerapp-process", "reused")
        assert document is not None
        document["processes"][str(other.pid)] = "an earlier process"
        store.put("containerapp-process", "reused", document)
        assert processes.end_left_over(store) == ["replica"]
        assert left.wait(60) == -signal.SIGKILL
        assert other.poll() is None
        assert not scratch.exists()
        assert processes.end_left_over(store) == []
    finally:
        for process in (left, other):
            process.kill()
            process.wait()
        store.close()


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A replica's own disk."""
    folder = make_scratch()
    yield folder
    remove_scratch(folder)


def launched(scratch: Path, share: Path, container: dict[str, Any], **given: Any) -> Launch:
    """The launch of a container that mounts a share at /mount."""
    mounts = given.pop("mounts", [{"volumeName": "share", "mountPath": "/mount"}])
    volumes = given.pop("volumes", [{"name": "share", "storageType": "AzureFile", "storageName": "s"}])
    return plan(
        NAMES,
        {"name": "main", "image": "i", "volumeMounts": mounts, **container},
        volumes,
        given.pop("secrets", {}),
        lambda name: share,
        target_port=8000,
        port=4321,
        scratch=scratch,
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/mount", "{}"),
        ("/mount/a/b", "{}/a/b"),
        ("cat /mount/x; ls '/mount'", "cat {}/x; ls '{}'"),
        ("A=/mount:/other", "A={}:/other"),
        ('"$HOME/mount/x" ~/mount ./mount ../mount', '"$HOME/mount/x" ~/mount ./mount ../mount'),
        ("/mount2 /mounted /mount-x /mount.d /a/mount", "/mount2 /mounted /mount-x /mount.d /a/mount"),
    ],
)
def test_a_mount_path_becomes_the_folder_wherever_it_stands_for_itself(
    scratch: Path, tmp_path: Path, text: str, expected: str
) -> None:
    """And nowhere else."""
    given = launched(scratch, tmp_path, {"command": ["sh", "-c", text], "env": [{"name": "E", "value": text}]})
    assert given.command == ("sh", "-c", expected.replace("{}", str(tmp_path)))
    assert given.environment["E"] == expected.replace("{}", str(tmp_path))


def test_a_folder_with_a_space_is_mounted_by_a_link(scratch: Path, tmp_path: Path) -> None:
    """A shell's text would fall apart at the space."""
    share = tmp_path / "my share"
    share.mkdir()
    (share / "file").write_text("content")
    given = launched(scratch, share, {"command": ["sh", "-c", "cat /mount/file"]})
    assert subprocess.check_output(given.command, text=True) == "content"
    remove_scratch(scratch)
    assert (share / "file").exists()


def test_sub_paths_empty_folders_and_secret_files(scratch: Path, tmp_path: Path) -> None:
    """Other kinds of volumes."""
    volumes = [
        {"name": "share", "storageType": "AzureFile", "storageName": "s"},
        {"name": "empty", "storageType": "EmptyDir"},
        {"name": "secret", "storageType": "Secret"},
    ]
    mounts = [
        {"volumeName": "share", "mountPath": "/models", "subPath": "deep/down"},
        {"volumeName": "empty", "mountPath": "/tmp/cache"},
        {"volumeName": "secret", "mountPath": "mnt/secrets/"},
    ]
    command = {"command": ["sh"], "args": ["/models", "/tmp/cache/x", "/mnt/secrets/key"]}
    given = launched(scratch, tmp_path, command, volumes=volumes, mounts=mounts, secrets={"key": "value"})
    _, models, cache, secret = given.command
    assert models == str(tmp_path / "deep" / "down")
    assert Path(cache).parent.is_relative_to(scratch.resolve())
    assert Path(secret).read_text() == "value"
    assert Path(secret).stat().st_mode & 0o777 == 0o400

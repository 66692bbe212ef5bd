"""A local folder against a folder on a share: what is refused, the plan, and the upload through the real SDK."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts import share as shares
from scripts import upload
from scripts.bundle import FileEntry, LocalFile, read_local
from scripts.errors import BadInput, InferopsError
from scripts.progress import Progress
from tests.conftest import RunningStandIn
from tests.share_on_stand_in import new_share

if TYPE_CHECKING:
    from scripts.cloud import ShareClient

MIB = 1024 * 1024


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder


def messages(error: pytest.ExceptionInfo[BadInput]) -> list[str]:
    return [f"{Path(problem.file or '').name}: {problem.message}" for problem in error.value.problems]


def contents(share: ShareClient, folder: str) -> dict[str, bytes]:
    """What the share holds, read back through the SDK."""
    found = {}
    for entry in shares.read_remote(share, folder):
        file = shares.read_small_file(share, f"{folder}/{entry.path}")
        assert file is not None
        assert hashlib.sha256(file.content).hexdigest() == entry.sha256
        found[entry.path] = file.content
    return found


# --- what a local folder may hold


def test_a_folder_is_read_without_what_is_never_part_of_a_bundle(tmp_path: Path) -> None:
    write(tmp_path, {"serve.py": b"one", "sub/model.py": b"two", "sub/__pycache__/model.pyc": b"x", ".git/HEAD": b"x"})
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "python").symlink_to(sys.executable)
    (tmp_path / "empty").mkdir()
    found = read_local({"code": tmp_path, "lock.txt": tmp_path / "serve.py"})
    assert [file.entry for file in found] == [
        FileEntry("code/serve.py", 3, hashlib.sha256(b"one").hexdigest()),
        FileEntry("code/sub/model.py", 3, hashlib.sha256(b"two").hexdigest()),
        FileEntry("lock.txt", 3, hashlib.sha256(b"one").hexdigest()),
    ]
    assert found[1].source == tmp_path / "sub" / "model.py"


def test_everything_that_cannot_be_sent_is_refused_at_once(tmp_path: Path) -> None:
    write(tmp_path, {"fine.py": b"", "question?.py": b"", "aux": b"", "dot.": b"", "colon:": b""})
    write(tmp_path, {"Model/config.json": b"", "model/weights.bin": b""})
    (tmp_path / "link").symlink_to("fine.py")
    (tmp_path / "broken").symlink_to("nowhere")
    (tmp_path / "folder-link").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    Path(os.fsdecode(bytes(tmp_path) + b"/latin-\xe9")).write_bytes(b"")
    with pytest.raises(BadInput) as caught:
        read_local({"": tmp_path})
    assert sorted(messages(caught)) == [
        "aux: the name is reserved for a device",
        "broken: is a symbolic link, which a release cannot carry",
        "colon:: the name has a character that Azure Files cannot hold",
        "dot.: the name ends with a dot or a space, which Azure Files drops",
        "folder-link: is a symbolic link, which a release cannot carry",
        "latin-\\udce9: the name is not valid Unicode",
        "link: is a symbolic link, which a release cannot carry",
        "model: differs only in case from Model, and Azure Files does not tell them apart",
        "pipe: is neither a file nor a folder",
        "question?.py: the name has a character that Azure Files cannot hold",
    ]
    str(caught.value).encode()


@contextlib.contextmanager
def ordinary_user() -> Iterator[Path]:
    """A folder, and within the block no more rights than an ordinary user has, also when root runs the tests."""
    folder = Path(tempfile.mkdtemp())
    try:
        if os.geteuid() != 0:
            yield folder
            return
        folder.chmod(0o777)
        os.seteuid(65534)
        try:
            yield folder
        finally:
            os.seteuid(0)
    finally:
        shutil.rmtree(folder)


def test_unreadable_files_are_refused_by_name() -> None:
    with ordinary_user() as folder:
        write(folder, {"secret": b"x", "closed/inside": b"x"})
        (folder / "secret").chmod(0)
        (folder / "closed").chmod(0)
        with pytest.raises(BadInput) as caught:
            read_local({"": folder})
        (folder / "closed").chmod(0o700)
    assert messages(caught) == [
        "closed: cannot be read: permission denied",
        "secret: cannot be read: permission denied",
    ]


def test_a_missing_source_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput) as caught:
        read_local({"a": tmp_path / "nowhere", "b": tmp_path / "also-nowhere"})
    assert messages(caught) == [
        "nowhere: there is no such file or folder",
        "also-nowhere: there is no such file or folder",
    ]


def test_two_files_that_differ_in_case_are_told_once_each(tmp_path: Path) -> None:
    write(tmp_path, {"Lib/A.py": b"", "lib/a.py": b"", "x.py": b"", "X.py": b"", "lib/b.py": b""})
    with pytest.raises(BadInput) as caught:
        read_local({"": tmp_path})
    assert sorted(problem.value or "" for problem in caught.value.problems) == ["lib", "x.py"]


# --- the plan

ENTRIES = st.dictionaries(
    st.sampled_from(["a", "b", "c/d", "c/e", "f"]), st.tuples(st.integers(0, 3), st.sampled_from(["0", "1"]))
)


@given(ENTRIES, ENTRIES)
def test_a_plan_carried_out_gives_the_local_folder(
    local: dict[str, tuple[int, str]], remote: dict[str, tuple[int, str]]
) -> None:
    files = [LocalFile(FileEntry(path, *content), Path(path)) for path, content in local.items()]
    present = {path: FileEntry(path, *content) for path, content in remote.items()}
    plan = shares.plan(files, present.values(), folder="x")
    result = dict(present)
    for entry in plan.removed:
        del result[entry.path]
    for entry in plan.added:
        assert entry.path not in result
    for entry in plan.changed:
        assert result[entry.path] != entry
    for entry in plan.unchanged:
        assert result[entry.path] == entry
    result |= {entry.path: entry for entry in plan.to_send}
    assert result == {file.entry.path: file.entry for file in files}
    assert plan.is_empty == (local == remote)


# --- the upload, through the real SDK


@pytest.fixture
def share(stand_in: RunningStandIn) -> Iterator[ShareClient]:
    with new_share(stand_in, f"s{uuid.uuid4().hex[:12]}") as client:
        yield client


def send(share: ShareClient, source: Path, folder: str, **options: object) -> shares.SyncPlan:
    local = read_local({"": source})
    plan = shares.plan(local, shares.read_remote(share, folder), folder=folder)
    upload.apply(share, plan, local, **options)  # type: ignore[arg-type]
    return plan


def test_small_files_large_files_and_empty_ones_arrive_whole(share: ShareClient, tmp_path: Path) -> None:
    large = os.urandom(9 * MIB + 17)
    files = {f"code/part{number}/file{number}.py": b"%d" % number for number in range(20)}
    files |= {"empty": b"", "exactly": b"e" * 4 * MIB, "large.bin": large, "code/größe.txt": b"umlaut"}
    write(tmp_path, files)
    seen: list[Progress] = []
    plan = send(share, tmp_path, "target/folder", progress=seen.append)
    assert len(plan.added) == len(files)
    assert contents(share, "target/folder") == files
    assert (seen[-1].files_done, seen[-1].bytes_done) == (len(files), sum(map(len, files.values())))
    assert [step.bytes_done for step in seen] == sorted(step.bytes_done for step in seen)
    properties = share.get_file_client("target/folder/large.bin").get_file_properties()
    assert bytes(properties.content_settings.content_md5 or b"") == hashlib.md5(large).digest()


def test_a_second_run_sends_what_changed_and_removes_what_went(share: ShareClient, tmp_path: Path) -> None:
    write(tmp_path, {"same": b"same", "changed": b"old", "gone": b"gone", "large": b"l" * 5 * MIB})
    send(share, tmp_path, "target")
    write(tmp_path, {"changed": b"new", "added": b"added"})
    (tmp_path / "gone").unlink()
    plan = send(share, tmp_path, "target")
    assert [[entry.path for entry in kind] for kind in (plan.added, plan.changed, plan.removed, plan.unchanged)] == [
        ["added"],
        ["changed"],
        ["gone"],
        ["large", "same"],
    ]
    assert contents(share, "target") == {
        "same": b"same",
        "changed": b"new",
        "added": b"added",
        "large": b"l" * 5 * MIB,
    }
    assert send(share, tmp_path, "target").is_empty


def test_a_large_file_without_its_md5_counts_as_incomplete(share: ShareClient, tmp_path: Path) -> None:
    write(tmp_path, {"large": b"l" * 5 * MIB})
    digest = hashlib.sha256(b"l" * 5 * MIB).hexdigest()
    shares.make_folders(share, ["target"])
    # What an upload that was killed before its last request leaves: the size and the hash, but not all of the content.
    share.get_file_client("target/large").create_file(5 * MIB, metadata={shares.HASH_METADATA: digest})
    assert shares.read_remote(share, "target") == (FileEntry("large", 5 * MIB, ""),)
    plan = send(share, tmp_path, "target")
    assert [entry.path for entry in plan.changed] == ["large"]
    assert contents(share, "target") == {"large": b"l" * 5 * MIB}


def test_a_file_that_changed_after_the_plan_is_noticed(share: ShareClient, tmp_path: Path) -> None:
    write(tmp_path, {"small": b"one", "large": b"l" * 5 * MIB})
    local = read_local({"": tmp_path})
    plan = shares.plan(local, (), folder="target")
    write(tmp_path, {"small": b"two"})
    with pytest.raises(InferopsError, match="small changed while it was being uploaded"):
        upload.apply(share, plan, local)
    write(tmp_path, {"small": b"one", "large": b"l" * 5 * MIB + b"more"})
    with pytest.raises(InferopsError, match="large changed while it was being uploaded"):
        upload.apply(share, plan, local)
    (tmp_path / "large").unlink()
    with pytest.raises(InferopsError, match="large changed while it was being uploaded"):
        upload.apply(share, plan, local)
    entries = {entry.path: entry.sha256 for entry in shares.read_remote(share, "target")}
    assert entries["large"] == ""


def test_many_files_have_at_most_eight_requests_in_flight(share: ShareClient, tmp_path: Path) -> None:
    write(tmp_path, {f"{number}.txt": b"x" for number in range(60)})
    before = threading.active_count()
    most = 0

    def count(step: Progress) -> None:
        nonlocal most
        most = max(most, threading.active_count() - before)

    send(share, tmp_path, "target", progress=count)
    assert 1 < most <= shares.PARALLEL_REQUESTS
    assert len(contents(share, "target")) == 60


def test_a_share_that_does_not_exist_is_an_error_and_not_an_empty_folder(stand_in: RunningStandIn) -> None:
    with new_share(stand_in, f"s{uuid.uuid4().hex[:12]}") as existing:
        gone = existing.get_directory_client("x")
        existing.delete_share()
        with pytest.raises(InferopsError, match="share"):
            shares.read_remote(existing, "x")
        with pytest.raises(InferopsError):
            shares.make_folders(existing, [str(gone.directory_path)])


def test_moving_and_deleting_can_be_repeated(share: ShareClient, tmp_path: Path) -> None:
    send(share, write(tmp_path, {"a": b"1", "b/c": b"2"}), "from")
    shares.make_folders(share, ["deep/er"])
    shares.move_folder(share, "from", "deep/er/to")
    assert contents(share, "deep/er/to") == {"a": b"1", "b/c": b"2"}
    assert not shares.folder_exists(share, "from")
    # The answer to the first request was lost, and it is sent again.
    shares.move_folder(share, "from", "deep/er/to")
    shares.delete_file(share, "deep/er/to/a")
    shares.delete_file(share, "deep/er/to/a")
    assert shares.list_folder(share, "deep/er/to") == [("b", None)]
    assert shares.list_folder(share, "nowhere/at/all") == []
    assert shares.read_small_file(share, "nowhere/at/all") is None
    with pytest.raises(InferopsError):
        shares.move_folder(share, "nowhere", "target")

"""A folder on a share: what it is found to hold, small files in it, folders; and the plan against a local folder."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts import share as shares
from scripts.bundle import FileEntry, LocalFile
from scripts.errors import InferopsError
from scripts.files import ShareClient
from tests.conftest import RunningStandIn
from tests.folders import contents
from tests.share_on_stand_in import new_share, sdk_share

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


# --- folders and small files


@pytest.fixture
def share(stand_in: RunningStandIn) -> Iterator[ShareClient]:
    with new_share(stand_in, f"s{uuid.uuid4().hex[:12]}") as client:
        yield client


def test_a_share_that_does_not_exist_is_an_error_and_not_an_empty_folder(stand_in: RunningStandIn) -> None:
    with new_share(stand_in, f"s{uuid.uuid4().hex[:12]}") as existing:
        sdk_share(stand_in, existing.share_name).delete_share()
        with pytest.raises(InferopsError, match="share"):
            shares.read_remote(existing, "x")
        with pytest.raises(InferopsError):
            shares.make_folders(existing, ["x"])


def test_moving_and_deleting_can_be_repeated(share: ShareClient) -> None:
    shares.make_folders(share, ["from/b", "deep/er"])
    shares.write_small_file(share, "from/a", b"1")
    shares.write_small_file(share, "from/b/c", b"2")
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
    shares.delete_folder_if_empty(share, "deep")
    shares.delete_folder_if_empty(share, "deep/er/to/b")
    shares.delete_file(share, "deep/er/to/b/c")
    shares.delete_folder_if_empty(share, "deep/er/to/b")
    shares.delete_folder_if_empty(share, "deep/er/to/b")
    assert shares.list_folder(share, "deep/er/to") == []


def test_only_files_of_the_sizes_asked_for_are_told(share: ShareClient) -> None:
    shares.make_folders(share, ["a/b", "c"])
    for path, content in {"a/one": b"1", "a/b/three": b"333", "c/two": b"22", "c/zero": b""}.items():
        shares.write_small_file(share, path, content)
    assert [entry.path for entry in shares.read_remote(share, "")] == ["a/b/three", "a/one", "c/two", "c/zero"]
    assert [(entry.path, entry.bytes) for entry in shares.read_remote(share, "", sizes={0, 3})] == [
        ("a/b/three", 3),
        ("c/zero", 0),
    ]


def test_what_is_known_to_stand_elsewhere_is_planned_as_a_copy() -> None:
    new, changed, small = FileEntry("new", 1, "aa"), FileEntry("changed", 70_000, "bb"), FileEntry("small", 9, "ee")
    same = FileEntry("same", 3, "cc")
    local = [LocalFile(entry, Path(entry.path)) for entry in (new, changed, small, same)]
    remote = [FileEntry("changed", 2, "xx"), same]
    elsewhere = {"bb": "old/b", "cc": "old/c", "ee": "old/e"}
    plan = shares.plan(local, remote, folder="x", elsewhere=elsewhere)
    # What is there stays; a small file takes one request to send, and two to copy.
    assert plan.copied == (shares.Copy(changed, "old/b"),)
    assert plan.to_send == (new, small)
    assert plan.bytes_to_send == 10

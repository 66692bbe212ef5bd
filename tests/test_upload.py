"""A SyncPlan carried out on a share, through the real SDK: what arrives, what is not sent, what a cut leaves behind."""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import signal
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from scripts import release as releases
from scripts import share as shares
from scripts import upload as uploads
from scripts.bundle import FileEntry, read_local
from scripts.errors import CloudError, InferopsError, Locked, NotFound
from scripts.files import ShareClient
from scripts.lock import Lock
from scripts.progress import Progress
from tests.conftest import RunningStandIn
from tests.faults import Switch
from tests.folders import contents, write
from tests.share_on_stand_in import ACCOUNT, RESOURCE_GROUP, clients_of, new_share, sdk_share
from tests.share_uploads import upload

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def switch(stand_in: RunningStandIn) -> Switch:
    return Switch(stand_in)


@pytest.fixture
def share(stand_in: RunningStandIn) -> Iterator[ShareClient]:
    with new_share(stand_in, f"s{uuid.uuid4().hex[:12]}") as client:
        yield client


def send(
    share: ShareClient, source: Path, folder: str, elsewhere: dict[str, str] | None = None, **options: object
) -> shares.SyncPlan:
    local = read_local({"": source})
    plan = shares.plan(local, shares.read_remote(share, folder), folder=folder, elsewhere=elsewhere)
    uploads.apply(share, plan, local, **options)  # type: ignore[arg-type]
    return plan


@dataclass
class Counts:
    """Requests that a share was asked, by kind."""

    ranges: int = 0
    files: int = 0
    all: int = 0


@contextlib.contextmanager
def counted(switch: Switch, share: ShareClient) -> Iterator[Counts]:
    """The requests to the share while the block runs."""
    place = f"/{share.share_name}[/?]"
    counts = Counts()
    # Rules that wait no time at all, for what they have met.
    paths = [f"{place}.*comp=range$", rf"{place}[^?]*$", place]
    with switch.on(*({"fault": "latency", "seconds": 0, "path": path} for path in paths)):
        yield counts
        counts.ranges, counts.files, counts.all = (rule["met"] for rule in switch.rules())


# --- what arrives


def test_small_files_large_files_and_empty_ones_arrive_whole(share: ShareClient, tmp_path: Path) -> None:
    large = os.urandom(9 * MIB + 17)
    files = {f"code/part{number}/file{number}.py": b"%d" % number for number in range(20)}
    files |= {"empty": b"", "exactly": b"e" * 4 * MIB, "large.bin": large, "code/größe.txt": b"umlaut"}
    write(tmp_path, files)
    seen: list[Progress] = []
    plan = send(share, tmp_path, "target/folder", progress=seen.append)
    assert len(plan.added) == len(files)
    assert contents(share, "target/folder") == files
    total = sum(map(len, files.values()))
    assert (seen[-1].files_done, seen[-1].bytes_done, seen[-1].bytes_sent) == (len(files), total, total)
    assert [step.bytes_done for step in seen] == sorted(step.bytes_done for step in seen)
    assert share.get_file_properties("target/folder/large.bin").content_md5 == shares.base64_md5(large)


def test_a_second_run_sends_what_changed_and_removes_what_went(share: ShareClient, tmp_path: Path) -> None:
    write(tmp_path, {"same": b"same", "changed": b"old", "gone/deep/file": b"gone", "large": b"l" * 5 * MIB})
    send(share, tmp_path, "target")
    write(tmp_path, {"changed": b"new", "added": b"added"})
    (tmp_path / "gone" / "deep" / "file").unlink()
    plan = send(share, tmp_path, "target")
    assert [[entry.path for entry in kind] for kind in (plan.added, plan.changed, plan.removed, plan.unchanged)] == [
        ["added"],
        ["changed"],
        ["gone/deep/file"],
        ["large", "same"],
    ]
    left = {"same": b"same", "changed": b"new", "added": b"added", "large": b"l" * 5 * MIB}
    assert contents(share, "target") == left
    assert sorted(shares.list_folder(share, "target")) == sorted((name, len(text)) for name, text in left.items())
    assert send(share, tmp_path, "target").is_empty


def test_a_file_takes_a_folders_place_and_the_other_way_round(share: ShareClient, tmp_path: Path) -> None:
    send(share, write(tmp_path / "before", {"a/b/c": b"1", "a/d": b"2", "e": b"3"}), "target")
    after = {"a": b"4", "e/f/g": b"5"}
    send(share, write(tmp_path / "after", after), "target")
    assert contents(share, "target") == after


def test_a_thousand_bytes_here_and_there_cost_one_request_a_file(
    share: ShareClient, switch: Switch, tmp_path: Path
) -> None:
    files = {f"part{number % 4}/{number}": b"%d" % number for number in range(80)}
    local = read_local({"": write(tmp_path, files)})
    plan = shares.plan(local, (), folder="target")
    with counted(switch, share) as counts:
        uploads.apply(share, plan, local)
    # The files, their four folders, and the folder of all.
    assert (counts.all, counts.files) == (80 + 5, 80)


def test_no_more_requests_at_once_than_there_are_connections(share: ShareClient, tmp_path: Path) -> None:
    write(tmp_path, {f"{number}.txt": b"x" for number in range(100)})
    before = threading.active_count()
    most = 0

    def count(step: Progress) -> None:
        nonlocal most
        most = max(most, threading.active_count() - before)

    send(share, tmp_path, "target", progress=count)
    assert 1 < most <= shares.PARALLEL_REQUESTS
    assert len(contents(share, "target")) == 100


# --- what is not sent


def test_zeros_are_not_sent(share: ShareClient, stand_in: RunningStandIn, switch: Switch, tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as stream:
        stream.truncate(40 * MIB)
        stream.seek(17 * MIB)
        stream.write(b"here")
    (tmp_path / "nothing").write_bytes(bytes(9 * MIB))
    (tmp_path / "small").write_bytes(bytes(1000))
    seen: list[Progress] = []
    with counted(switch, share) as counts:
        send(share, tmp_path, "target", progress=seen.append)
    assert counts.ranges == 1
    assert (seen[-1].bytes_done, seen[-1].bytes_sent) == (49 * MIB + 1000, 4 * MIB)
    sparse = sdk_share(stand_in, share.share_name).get_file_client("target/sparse")
    assert [(found.start, found.end + 1) for found in sparse.list_ranges()] == [(16 * MIB, 20 * MIB)]
    assert sparse.download_file().readall() == (tmp_path / "sparse").read_bytes()
    entries = read_local({"": tmp_path})
    assert shares.read_remote(share, "target") == tuple(file.entry for file in entries)


def sent(share: ShareClient, path: str) -> int:
    """What is written down of an upload."""
    try:
        metadata = share.get_file_properties(path).metadata
    except NotFound:
        return 0
    return int(metadata.get(uploads.SENT_METADATA, "0"))


def test_an_upload_that_was_killed_goes_on_where_it_stopped(
    share: ShareClient, stand_in: RunningStandIn, switch: Switch, tmp_path: Path
) -> None:
    content = os.urandom(80 * MIB + 5)
    source = write(tmp_path / "source", {"weights": content, "config.json": b"{}"})
    with clients_of(stand_in, RESOURCE_GROUP) as clients:
        key, address = clients.account_key(ACCOUNT), clients.cloud.file_endpoint.format(account=ACCOUNT)
        certificate = clients.cloud.certificate
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.share_uploads"])
    process = context.Process(target=upload, args=(address, share.share_name, key, certificate, source))
    # What comes after the sixteenth range never arrives: the SDK is trying again when its process is killed.
    with switch.on({"fault": "dropped-connection", "when": "before", "path": "comp=range$", "after": 16}):
        process.start()
        while process.is_alive() and not sent(share, "target/weights"):
            process.join(0.05)
        process.kill()
        process.join()
    assert process.exitcode == -9
    there = sent(share, "target/weights")
    assert uploads.RECORD_BYTES <= there <= 16 * 4 * MIB
    seen: list[Progress] = []
    with counted(switch, share) as counts:
        send(share, source, "target", progress=seen.append)
    assert seen[-1].bytes_done - len(b"{}") * (seen[-1].files_total == 2) == len(content)
    assert len(content) - there <= seen[-1].bytes_sent <= len(content) - there + 2
    assert counts.ranges == (len(content) - there) // (4 * MIB) + 1
    assert contents(share, "target") == {"weights": content, "config.json": b"{}"}
    assert share.get_file_properties("target/weights").content_md5 == shares.base64_md5(content)


@pytest.mark.parametrize(
    "left_behind",
    [
        "another content",
        "another size",
        "no record",
        "a strange record",
        "half a range",
        "another beginning",
        "no hash",
    ],
)
def test_only_what_was_written_down_for_the_same_content_is_trusted(
    share: ShareClient, tmp_path: Path, left_behind: str
) -> None:
    content = os.urandom(9 * MIB)
    write(tmp_path, {"large": content})
    shares.make_folders(share, ["target"])
    made_for = hashlib.sha256(b"another" if left_behind == "another content" else content).hexdigest()
    size = len(content) + (left_behind == "another size")
    until = {"no record": "", "a strange record": "4 MiB", "half a range": str(6 * MIB)}.get(left_behind, str(8 * MIB))
    # A local file that changes while it is sent leaves other bytes than those of the content that was planned.
    beginning = (
        bytes(8 * MIB) if left_behind == "another beginning" else content[: int(until) if until.isdigit() else 0]
    )
    hashed = "" if left_behind == "no hash" else hashlib.sha256(beginning).hexdigest()
    written_down = {uploads.SENT_METADATA: until, uploads.SENT_HASH_METADATA: hashed}
    share.create_file(
        "target/large",
        size,
        metadata={shares.HASH_METADATA: made_for} | {key: value for key, value in written_down.items() if value},
    )
    share.put_range("target/large", 1000, b"strange", shares.base64_md5(b"strange"))
    assert shares.read_remote(share, "target") == (FileEntry("large", size, ""),)
    seen: list[Progress] = []
    assert [entry.path for entry in send(share, tmp_path, "target", progress=seen.append).changed] == ["large"]
    assert (seen[-1].bytes_done, seen[-1].bytes_sent) == (len(content), len(content))
    assert contents(share, "target") == {"large": content}


def test_a_file_that_changed_during_an_earlier_run_is_sent_anew(share: ShareClient, tmp_path: Path) -> None:
    planned, other = os.urandom(96 * MIB), os.urandom(96 * MIB)
    write(tmp_path, {"large": planned})
    local = read_local({"": tmp_path})
    write(tmp_path, {"large": other})
    with pytest.raises(InferopsError, match="large changed while it was being uploaded"):
        uploads.apply(share, shares.plan(local, (), folder="target"), local)
    # At most 48 MiB wait to be confirmed when the last range is read.
    assert sent(share, "target/large") >= uploads.RECORD_BYTES
    write(tmp_path, {"large": planned})
    send(share, tmp_path, "target")
    assert contents(share, "target") == {"large": planned}


def test_zeros_replace_what_an_earlier_run_left_behind(share: ShareClient, tmp_path: Path) -> None:
    content = os.urandom(4 * MIB) + bytes(4 * MIB) + os.urandom(MIB)
    write(tmp_path, {"large": content})
    shares.make_folders(share, ["target"])
    written_down = {
        shares.HASH_METADATA: hashlib.sha256(content).hexdigest(),
        uploads.SENT_METADATA: str(4 * MIB),
        uploads.SENT_HASH_METADATA: hashlib.sha256(content[: 4 * MIB]).hexdigest(),
    }
    share.create_file("target/large", len(content), metadata=written_down)
    for first, sent_before in ((0, content[: 4 * MIB]), (5 * MIB, b"stale")):
        share.put_range("target/large", first, sent_before, shares.base64_md5(sent_before))
    seen: list[Progress] = []
    send(share, tmp_path, "target", progress=seen.append)
    assert (seen[-1].bytes_done, seen[-1].bytes_sent) == (len(content), 5 * MIB)
    assert contents(share, "target") == {"large": content}


def test_what_stands_elsewhere_on_the_share_is_copied_there(share: ShareClient, switch: Switch, tmp_path: Path) -> None:
    large = os.urandom(5 * MIB)
    one, two = os.urandom(100_000), os.urandom(200_000)
    first = {"weights.bin": large, "code/one.py": one, "code/two.py": two, "empty": b"", "small.py": b"small"}
    send(share, write(tmp_path / "first", first), "first")
    elsewhere = {entry.sha256: f"first/{entry.path}" for entry in shares.read_remote(share, "first")}
    second = {"renamed.bin": large, "code/one.py": one, "two.py": two, "empty": b"", "small.py": b"small"}
    local = read_local({"": write(tmp_path / "second", second)})
    plan = shares.plan(local, (), folder="second", elsewhere=elsewhere)
    assert [copy.source for copy in plan.copied] == ["first/code/one.py", "first/weights.bin", "first/code/two.py"]
    assert plan.bytes_to_send == len(b"small")
    seen: list[Progress] = []
    with counted(switch, share) as counts:
        uploads.apply(share, plan, local, progress=seen.append)
    # Each that is copied is looked at.
    assert (counts.ranges, counts.files) == (0, len(second) + len(plan.copied))
    assert (seen[-1].files_done, seen[-1].bytes_sent) == (5, 5)
    assert contents(share, "second") == second
    assert contents(share, "first") == first


def test_what_cannot_be_copied_is_sent(share: ShareClient, tmp_path: Path) -> None:
    files = {"small": os.urandom(100_000), "large": os.urandom(5 * MIB)}
    write(tmp_path, files)
    elsewhere = {file.entry.sha256: f"gone/{file.entry.path}" for file in read_local({"": tmp_path})}
    seen: list[Progress] = []
    send(share, tmp_path, "target", elsewhere, progress=seen.append)
    assert contents(share, "target") == files
    assert (seen[-1].files_done, seen[-1].bytes_sent) == (2, 5 * MIB + 100_000)


@pytest.mark.parametrize("written", ["in place", "cut off", "replaced"])
def test_what_somebody_wrote_into_through_a_mount_is_not_copied(
    share: ShareClient, stand_in: RunningStandIn, tmp_path: Path, written: str
) -> None:
    files = {"medium": os.urandom(100_000), "large": os.urandom(5 * MIB)}
    send(share, write(tmp_path / "here", files), "old")
    elsewhere = {entry.sha256: f"old/{entry.path}" for entry in shares.read_remote(share, "old")}
    for name in files:
        damaged = stand_in.state / "shares" / ACCOUNT / str(share.share_name) / "old" / name
        if written == "in place":
            with damaged.open("r+b") as stream:
                stream.seek(1000)
                stream.write(b"damaged")
        elif written == "cut off":
            os.truncate(damaged, 99_000)
        else:
            damaged.with_suffix(".new").write_bytes(os.urandom(damaged.stat().st_size))
            damaged.with_suffix(".new").rename(damaged)
    plan = send(share, tmp_path / "here", "new", elsewhere)
    assert len(plan.copied) == 2
    assert contents(share, "new") == files


def test_what_somebody_wrote_into_through_a_mount_is_sent_anew(
    share: ShareClient, stand_in: RunningStandIn, tmp_path: Path
) -> None:
    files = {"small": b"small", "large": os.urandom(41 * MIB), "untouched": b"untouched"}
    send(share, write(tmp_path / "here", files), "target")
    for name in ("small", "large"):
        with (stand_in.state / "shares" / ACCOUNT / share.share_name / "target" / name).open("r+b") as stream:
            stream.write(b"DAMAG")
    plan = send(share, tmp_path / "here", "target")
    assert [entry.path for entry in plan.changed] == ["large", "small"]
    assert contents(share, "target") == files


def test_a_release_sends_only_what_an_earlier_one_does_not_hold(
    share: ShareClient, switch: Switch, tmp_path: Path
) -> None:
    weights = os.urandom(5 * MIB)
    tokenizer = os.urandom(100_000)
    model = os.urandom(100_000)
    code = {"inference/serve.py": b"one", "inference/model.py": model}
    code |= {path: b"lock" for path in releases.CODE if path.startswith("requirements/")}
    write(tmp_path / "repository", code)
    adapter = {"adapter_config.json": b"{}", "adapter_model.safetensors": weights, "tokenizer.json": tokenizer}
    write(tmp_path / "adapter", adapter)

    def deployed(earlier: str | None) -> tuple[str, list[Progress]]:
        seen: dict[str, Progress] = {}
        package = releases.prepare(
            tmp_path / "repository", base="base", adapters={"default": tmp_path / "adapter"}, commit=None
        )
        with Lock(share) as lock:
            releases.upload(
                share, package, lock, earlier=earlier, progress=lambda name, done: seen.update({name: done})
            )
        return package.release.id, list(seen.values())

    first, _ = deployed(None)
    write(tmp_path / "repository", {"inference/serve.py": b"two"})
    (tmp_path / "adapter" / "adapter_model.safetensors").rename(tmp_path / "adapter" / "renamed.safetensors")
    second, seen = deployed(first)
    assert [(done.bytes_done, done.bytes_sent) for done in seen] == [
        (sum(map(len, adapter.values())), 2),
        (sum(map(len, code.values())), sum(map(len, code.values())) - len(model)),
    ]
    for release_id, serve in ((first, b"one"), (second, b"two")):
        release = releases.read_release(share, release_id)
        assert release is not None
        assert contents(share, f"releases/{release_id}/inference") == {"serve.py": serve, "model.py": model}
        assert weights in contents(share, release.adapters["default"]).values()


# --- what goes wrong


def test_a_file_that_changed_after_the_plan_is_noticed(share: ShareClient, tmp_path: Path) -> None:
    write(tmp_path, {"small": b"one", "large": b"l" * 5 * MIB})
    local = read_local({"": tmp_path})
    plan = shares.plan(local, (), folder="target")
    write(tmp_path, {"small": b"two"})
    with pytest.raises(InferopsError, match="small changed while it was being uploaded"):
        uploads.apply(share, plan, local)
    write(tmp_path, {"small": b"one", "large": b"l" * 5 * MIB + b"more"})
    with pytest.raises(InferopsError, match="large changed while it was being uploaded"):
        uploads.apply(share, plan, local)
    (tmp_path / "large").unlink()
    with pytest.raises(InferopsError, match="large changed while it was being uploaded"):
        uploads.apply(share, plan, local)
    entries = {entry.path: entry.sha256 for entry in shares.read_remote(share, "target")}
    assert entries["large"] == ""


@pytest.mark.parametrize(("path", "accepted"), [("/target/", 6), ("comp=range$", 0)])
def test_a_refusal_ends_the_upload(
    share: ShareClient, switch: Switch, tmp_path: Path, path: str, accepted: int
) -> None:
    files = {f"{number}": b"x" for number in range(200)} | {"large": os.urandom(20 * MIB)}
    local = read_local({"": write(tmp_path, files)})
    plan = shares.plan(local, (), folder="target")
    refusal = {"fault": "refused", "status": 403, "code": "AuthorizationFailure", "message": "no"}
    refusal |= {"path": path, "after": accepted}
    with switch.on(refusal), pytest.raises(CloudError, match="target/"):
        uploads.apply(share, plan, local)
    with switch.on():
        there = {entry.path: entry.sha256 for entry in shares.read_remote(share, "target")}
    # The large file takes seven requests: its creation, five ranges, and the mark that it is complete.
    assert there.get("large", "") == ""
    assert path == "comp=range$" or len(there) <= accepted


def test_after_a_refusal_no_thread_sends_another_request(share: ShareClient, switch: Switch, tmp_path: Path) -> None:
    local = read_local({"": write(tmp_path, {f"{number}": b"x" for number in range(200)})})
    plan = shares.plan(local, (), folder="target")
    refusal = {"fault": "refused", "status": 403, "code": "AuthorizationFailure", "message": "no", "path": "/target/"}
    with switch.on(refusal):
        with pytest.raises(CloudError, match="target/"):
            uploads.apply(share, plan, local)
        assert 1 <= switch.fired()[0] <= shares.PARALLEL_REQUESTS


def test_an_interruption_ends_also_what_waits_to_be_sent_again(
    share: ShareClient, switch: Switch, tmp_path: Path
) -> None:
    local = read_local({"": write(tmp_path, {f"{number}": b"x" for number in range(100)})})
    plan = shares.plan(local, (), folder="target")

    def interrupt(step: Progress) -> None:
        if step.files_done == 5:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    busy = {"fault": "unavailable", "path": "/target/", "after": 5, "retry_after_seconds": 3600}
    with switch.on(busy):
        with pytest.raises(KeyboardInterrupt):
            uploads.apply(share, plan, local, progress=interrupt)
        asked = switch.fired()
        # A thread that were left would ask now.
        assert not [thread for thread in threading.enumerate() if thread.name.startswith(("request", "file"))]
        assert switch.fired() == asked
        assert asked[0] <= shares.PARALLEL_REQUESTS


def test_nothing_of_a_plan_is_sent_once_its_time_has_ended(share: ShareClient, switch: Switch, tmp_path: Path) -> None:
    """As when a lease was lost, after any of nine requests: the deletion of a file and of a folder, two new folders, a
    copy and a look at it, a large file, its range, its mark."""
    medium = os.urandom(100_000)
    before = write(tmp_path / "before", {"gone/file": b"gone"})
    local = read_local({"": write(tmp_path / "after", {"new/medium": medium, "large": bytes(4 * MIB) + b"end"})})
    send(share, write(tmp_path / "elsewhere", {"medium": medium}), "elsewhere")
    elsewhere = {hashlib.sha256(medium).hexdigest(): "elsewhere/medium"}

    def met() -> int:
        count: int = switch.rules()[0]["met"]
        return count

    for allowed in range(10):
        folder = f"target{allowed}"
        send(share, before, folder)
        plan = shares.plan(local, shares.read_remote(share, folder), folder=folder, elsewhere=elsewhere)

        def seconds_left(allowed: int = allowed) -> float:
            if met() >= allowed:
                raise Locked("The lease was lost.", "Run the same command again.")
            return 60.0

        with switch.on({"fault": "latency", "seconds": 0, "path": f"/{share.share_name}[/?]"}):
            with pytest.raises(Locked) if allowed < 9 else contextlib.nullcontext():
                uploads.apply(share.within(seconds_left), plan, local)
            assert met() == allowed
    assert contents(share, folder) == {"new/medium": medium, "large": bytes(4 * MIB) + b"end"}


def test_a_busy_service_is_waited_for(share: ShareClient, switch: Switch, tmp_path: Path) -> None:
    files = {f"{number}": b"%d" % number for number in range(40)} | {"large": os.urandom(20 * MIB)}
    busy = {"fault": "unavailable", "path": f"/{share.share_name}/target", "after": 3, "count": 6}
    lost = {"fault": "dropped-connection", "when": "after", "path": "comp=range$", "count": 2}
    with switch.on(busy, lost):
        send(share, write(tmp_path, files), "target")
        assert switch.fired() == [6, 2]
    assert contents(share, "target") == files

"""Releases: their identity, what stands on the share, which one is current, and who may change that."""

from __future__ import annotations

import hashlib
import json
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from azure.storage.fileshare import AccountSasPermissions, ResourceTypes, ShareLeaseClient, generate_account_sas

from scripts import release as releases
from scripts import share as shares
from scripts.errors import BadInput, Forbidden, InferopsError, Locked
from scripts.file_credentials import AccessSignature, EntraToken, FileCredential
from scripts.files import ShareClient
from scripts.lock import Lock
from scripts.release import Current, Package
from tests.conftest import RunningStandIn
from tests.faults import Switch
from tests.share_on_stand_in import ACCOUNT, RESOURCE_GROUP, clients_of, new_share, sdk_share
from tests.waiting import until

BASE = "model-cache/someone/demo-base"
MOMENT = datetime(2026, 11, 21, 12, 0, tzinfo=timezone(timedelta(hours=2)))


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "repository"
    (root / "inference").mkdir(parents=True)
    (root / "requirements").mkdir()
    (root / "inference" / "serve.py").write_text("print('one')\n")
    (root / "inference" / "start.sh").write_text("exec python serve.py\n")
    (root / "requirements" / "inference.txt").write_text("torch==2.0\n")
    (root / "requirements" / "quantization.txt").write_text("bitsandbytes==0.50\n")
    (root / "requirements" / "uv.txt").write_text("uv==0.13\n")
    (root / "requirements" / "dev.txt").write_text("pytest==8.0\n")
    return root


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(b"w" * (5 * 1024 * 1024))
    return folder


@pytest.fixture
def share(stand_in: RunningStandIn) -> Iterator[ShareClient]:
    with new_share(stand_in, f"r{uuid.uuid4().hex[:12]}") as client:
        shares.make_folders(client, [BASE])
        shares.write_small_file(client, f"{BASE}/config.json", b"{}")
        yield client


def prepare(repository: Path, base: str | Path = BASE, **adapters: str | Path) -> Package:
    return releases.prepare(repository, base=base, adapters=adapters, commit="c0ffee", made_at=MOMENT)


def deploy(share: ShareClient, package: Package, *, previous: str | None = None) -> tuple[str, ...]:
    with Lock(share) as lock:
        made = releases.upload(share, package, lock)
        releases.set_current(share, package.release.id, lock, previous=previous)
        return made


# --- identity and manifest


def test_a_release_is_named_by_what_it_holds(repository: Path, adapter: Path) -> None:
    first = prepare(repository, default=adapter).release
    assert first.id == prepare(repository, default=adapter).release.id
    later = releases.prepare(repository, base=BASE, adapters={"default": adapter}, commit="other").release
    assert later.id == first.id, "commit and time are no part of it"
    others = [
        prepare(repository).release.id,
        prepare(repository, other=adapter).release.id,
        prepare(repository, base="model-cache/another", default=adapter).release.id,
    ]
    (adapter / "adapter_model.safetensors").write_bytes(b"v" * 10)
    others.append(prepare(repository, default=adapter).release.id)
    (repository / "inference" / "serve.py").write_text("print('two')\n")
    others.append(prepare(repository, default=adapter).release.id)
    (repository / "requirements" / "inference.txt").write_text("torch==2.1\n")
    others.append(prepare(repository, default=adapter).release.id)
    (repository / "requirements" / "dev.txt").write_text("pytest==9.0\n")
    assert len({first.id, *others}) == 7
    assert prepare(repository, default=adapter).release.id == others[-1], "other locks are no part of it"


def test_the_manifest_holds_what_the_replica_needs(repository: Path, adapter: Path) -> None:
    package = prepare(repository, default=adapter, tuned="models/tuned/checkpoint-5/")
    document = package.release.to_json()
    digest = hashlib.sha256(b"print('one')\n").hexdigest()
    assert document["files"]["inference/serve.py"] == {"sha256": digest, "bytes": 13}
    locks = ["requirements/inference.txt", "requirements/quantization.txt", "requirements/uv.txt"]
    assert sorted(document["files"]) == ["inference/serve.py", "inference/start.sh", *locks]
    assert (document["commit"], document["time"]) == ("c0ffee", "2026-11-21T10:00:00Z")
    assert document["base"] == BASE
    assert document["adapters"]["tuned"] == "models/tuned/checkpoint-5"
    uploaded = document["adapters"]["default"]
    assert uploaded.startswith("adapters/default/")
    assert [bundle.folder for bundle in package.bundles] == [uploaded]


def test_a_base_model_of_this_machine_goes_under_the_reserved_name(repository: Path, adapter: Path) -> None:
    (adapter / "config.json").write_text("{}")
    assert prepare(repository, base=adapter).release.base.startswith("adapters/base/")


def test_every_local_folder_that_is_no_model_is_named_at_once(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (repository / "inference" / "link").symlink_to("serve.py")
    with pytest.raises(BadInput) as caught:
        prepare(repository, base=tmp_path / "empty", default=tmp_path / "empty", other=tmp_path / "nowhere")
    assert [(Path(problem.file or "").name, problem.message) for problem in caught.value.problems] == [
        ("link", "is a symbolic link, which a release cannot carry"),
        ("empty", "the folder has no config.json"),
        ("empty", "the folder has no adapter_config.json"),
        ("nowhere", "there is no such file or folder"),
    ]


# --- on the share


def test_a_deployed_release_is_whole_and_current(share: ShareClient, repository: Path, adapter: Path) -> None:
    package = prepare(repository, default=adapter)
    assert releases.read_current(share) is None
    assert releases.read_current_id(share) is None
    made = deploy(share, package)
    release = package.release
    assert made == (release.adapters["default"], f"releases/{release.id}")
    assert releases.read_current(share) == Current(release.id, False, None)
    current = shares.read_small_file(share, "current")
    assert current is not None and current.content == f"releases/{release.id}\n".encode()
    assert releases.read_release(share, release.id) == release
    on_share = {entry.path: entry for entry in shares.read_remote(share, f"releases/{release.id}")}
    assert on_share.pop("release.json").sha256
    assert tuple(on_share.values()) == release.files
    assert {entry.path for entry in shares.read_remote(share, release.adapters["default"])} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    assert {name for name, _ in shares.list_folder(share, "")} == {"current", "releases", "adapters", "model-cache"}


def test_what_is_on_the_share_is_not_sent_again(share: ShareClient, repository: Path, adapter: Path) -> None:
    deploy(share, prepare(repository, default=adapter))
    assert deploy(share, prepare(repository, default=adapter)) == ()
    (repository / "inference" / "serve.py").write_text("print('two')\n")
    package = prepare(repository, default=adapter)
    assert deploy(share, package) == (f"releases/{package.release.id}",)


@pytest.mark.parametrize("damage", ["written into", "removed", "without a manifest"])
def test_a_release_that_somebody_damaged_is_made_whole_when_it_is_deployed_again(
    share: ShareClient, stand_in: RunningStandIn, repository: Path, damage: str
) -> None:
    first = prepare(repository)
    deploy(share, first)
    folder = stand_in.state / "shares" / ACCOUNT / share.share_name / "releases" / first.release.id
    if damage == "written into":
        (folder / "inference" / "serve.py").write_text("print('bad')\n")  # as long as it was
    else:
        (folder / {"removed": "inference/start.sh", "without a manifest": "release.json"}[damage]).unlink()
    with Lock(share) as lock:
        # In use it stays as it is: a replica that starts meanwhile must find it.
        assert releases.upload(share, first, lock, earlier=first.release.id) == ()
        assert releases.upload(share, first, lock) == (f"releases/{first.release.id}",)
        assert releases.upload(share, first, lock) == ()
    for file in first.code:
        assert (folder / file.entry.path).read_bytes() == file.source.read_bytes()
    assert releases.read_release(share, first.release.id) == first.release


def test_an_adapter_that_somebody_damaged_is_made_whole_unless_it_is_in_use(
    share: ShareClient, stand_in: RunningStandIn, repository: Path, adapter: Path
) -> None:
    package = prepare(repository, default=adapter)
    deploy(share, package)
    (bundle,) = package.bundles
    weights = stand_in.state / "shares" / ACCOUNT / share.share_name / bundle.folder / "adapter_model.safetensors"
    with weights.open("r+b") as stream:
        stream.write(b"damaged")
    with Lock(share) as lock:
        assert releases.upload(share, package, lock, earlier=package.release.id) == ()
        assert releases.upload(share, package, lock) == (bundle.folder,)
    assert weights.read_bytes() == (adapter / "adapter_model.safetensors").read_bytes()


def test_current_remembers_its_proof_and_what_was_before(share: ShareClient, repository: Path) -> None:
    first = prepare(repository).release.id
    deploy(share, prepare(repository))
    with Lock(share) as lock:
        releases.confirm_current(share, first, lock)
        assert releases.read_current(share) == Current(first, True, None)
        (repository / "inference" / "serve.py").write_text("print('two')\n")
        second = prepare(repository)
        releases.upload(share, second, lock)
        releases.set_current(share, second.release.id, lock, previous=first)
    current = releases.read_current(share)
    assert current == Current(second.release.id, False, first)
    assert current is not None and current.fallback == Current(first, True, None)
    assert Current(first, True, None).fallback == Current(first, True, None)
    assert Current(first, False, None).fallback == Current(first, False, None), "there is nothing else"


def test_the_first_release_can_be_taken_out_of_use(share: ShareClient, repository: Path) -> None:
    deploy(share, prepare(repository))
    with Lock(share) as lock:
        releases.remove_current(share, lock)
        releases.remove_current(share, lock)
    assert releases.read_current(share) is None


@pytest.mark.parametrize("content", [b"", b"releases/\n", b"releases/../models\n", b"\xff\xfe", b"releases/a\nb\n"])
def test_a_current_that_makes_no_sense_is_an_error(share: ShareClient, content: bytes) -> None:
    shares.write_small_file(share, "current", content)
    with pytest.raises(InferopsError, match="does not name a release") as caught:
        releases.read_current(share)
    assert "Delete the file 'current'" in caught.value.next_step


def test_a_current_written_by_hand_is_taken_as_it_is(share: ShareClient) -> None:
    content = b"releases/by-hand"
    share.create_file("current", len(content), content, metadata={})
    assert releases.read_current(share) == Current("by-hand", False, None)


def test_whole_releases_are_found_newest_first(share: ShareClient, repository: Path) -> None:
    assert releases.list_ids(share) == ()
    ids = []
    for number in range(3):
        (repository / "inference" / "serve.py").write_text(f"print({number})\n")
        moment = MOMENT + timedelta(hours=number)
        package = releases.prepare(repository, base=BASE, adapters={}, commit=f"c{number}", made_at=moment)
        deploy(share, package)
        ids.append(package.release.id)
    shares.make_folders(share, ["releases/.incomplete-0123"])
    assert releases.list_ids(share) == tuple(sorted(ids))
    found = releases.read_releases(share, [*ids, "nobody"])
    assert [release.id for release in found] == ids[::-1]
    assert [release.commit for release in found] == ["c2", "c1", "c0"]


def test_a_release_is_named_by_its_id_its_beginning_or_as_the_current_one(share: ShareClient, repository: Path) -> None:
    first = prepare(repository)
    deploy(share, first)
    (repository / "inference" / "serve.py").write_text("print('two')\n")
    second = prepare(repository)
    deploy(share, second)
    assert releases.find(share, first.release.id) == first.release
    assert releases.find(share, first.release.id[:7]) == first.release
    assert releases.find(share, "current") == second.release
    for wrong in ("nobody", "", "../models", first.release.id + "0"):
        with pytest.raises(BadInput) as caught:
            releases.find(share, wrong)
        (problem,) = caught.value.problems
        assert first.release.id in problem.next_step and second.release.id in problem.next_step


def test_where_there_is_no_release_the_next_step_is_a_deploy(share: ShareClient) -> None:
    with pytest.raises(BadInput, match="There is none yet: deploy first"):
        releases.find(share, "current")


def test_a_manifest_that_is_none_is_an_error(share: ShareClient) -> None:
    assert releases.read_release(share, "nobody") is None
    shares.make_folders(share, ["releases/broken"])
    for content in (b"", b"[]", b"{}", json.dumps({"id": "x", "files": []}).encode()):
        shares.write_small_file(share, "releases/broken/release.json", content)
        with pytest.raises(InferopsError, match=r"releases/broken/release\.json"):
            releases.read_release(share, "broken")


def test_missing_model_folders_are_named_with_those_that_would_do(share: ShareClient, repository: Path) -> None:
    shares.make_folders(share, ["models/phi/checkpoint-5", "models/phi/checkpoint-10", "releases/x/inference"])
    shares.write_small_file(share, "models/phi/checkpoint-10/adapter_config.json", b"{}")
    shares.write_small_file(share, "releases/x/inference/config.json", b"{}")
    good = prepare(repository, default="models/phi/checkpoint-10")
    releases.check_folders(share, good.release, described_in="environment.yaml")
    bad = prepare(repository, base="model-cache/typo", default="models/phi/checkpoint-5", other="models/none")
    with pytest.raises(BadInput) as caught:
        releases.check_folders(share, bad.release, described_in="environments/dev/environment.yaml")
    assert [str(problem) for problem in caught.value.problems] == [
        "environments/dev/environment.yaml: model.base: the share has no model-cache/typo/config.json "
        f"(found model-cache/typo). Folders on the share that have one: {BASE}. Name one of them, or a local folder.",
        "environments/dev/environment.yaml: model.adapters.default: the share has no models/phi/checkpoint-5/"
        "adapter_config.json (found models/phi/checkpoint-5). Folders on the share that have one: "
        "models/phi/checkpoint-10. Name one of them, or a local folder.",
        "environments/dev/environment.yaml: model.adapters.other: the share has no models/none/adapter_config.json "
        "(found models/none). Folders on the share that have one: models/phi/checkpoint-10. Name one of them, or a "
        "local folder.",
    ]


def test_a_share_without_any_model_says_what_to_do(stand_in: RunningStandIn, repository: Path) -> None:
    with (
        new_share(stand_in, f"r{uuid.uuid4().hex[:12]}") as empty,
        pytest.raises(BadInput, match="let fine-tuning write it there"),
    ):
        releases.check_folders(empty, prepare(repository).release, described_in="environment.yaml")


def test_folders_that_are_uploaded_need_not_be_there(share: ShareClient, repository: Path, adapter: Path) -> None:
    package = prepare(repository, default=adapter)
    releases.check_folders(share, package.release, package.uploaded_folders, described_in="environment.yaml")


# --- the lock


def test_a_second_deploy_is_told_who_has_to_end(share: ShareClient) -> None:
    with (
        Lock(share),
        pytest.raises(Locked, match=f"share '{share.share_name}' is held by another run") as caught,
        Lock(share),
    ):
        pass
    assert "within 60 seconds" in caught.value.next_step
    with Lock(share):
        pass  # the first one released it


def test_a_deploy_waits_for_another_one(share: ShareClient) -> None:
    said: list[str] = []
    other = share.acquire_lease(60)

    def say(line: str) -> None:
        said.append(line)
        share.release_lease(other)

    with Lock(share, wait_seconds=50, say=say):
        pass
    assert said == ["waiting up to 50 s: the share is held by another run"]


@pytest.mark.parametrize("how", ["token", "signature"])
def test_who_may_not_lease_the_share_is_told_what_is_missing(
    share: ShareClient, stand_in: RunningStandIn, how: str
) -> None:
    """The stand-in's reader may read what is on the share; the signature may write it, and is not for shares."""
    with clients_of(stand_in, RESOURCE_GROUP) as clients:
        address, key = clients.cloud.file_endpoint.format(account=ACCOUNT), clients.account_key(ACCOUNT)
    credential: FileCredential
    if how == "token":
        token = stand_in.token("https://storage.azure.com", reader=True)
        credential = EntraToken(lambda what: (token, time.time() + 3600))
    else:
        tomorrow = datetime.now(timezone.utc) + timedelta(days=1)
        allowed = AccountSasPermissions(read=True, write=True, delete=True, list=True, create=True)
        signature = generate_account_sas(ACCOUNT, key, ResourceTypes(object=True), allowed, tomorrow)
        credential = AccessSignature(signature)
    certificate = Path(stand_in.announcement["certificate"])
    with ShareClient(address, share.share_name, credential, certificate) as limited:
        assert shares.file_exists(limited, f"{BASE}/config.json")
        with pytest.raises(Forbidden, match="Nothing was changed") as caught, Lock(limited):
            pass
    assert "fileServices/shares/lease/action" in caught.value.next_step
    assert "srt=co" in caught.value.next_step


HELD = {"fault": "latency", "seconds": 300, "path": "comp=lease"}


@pytest.mark.parametrize("after", [0, 1], ids=["taking it", "renewing it"])
def test_one_answer_about_the_lease_that_never_comes_does_not_lose_it(
    share: ShareClient, stand_in: RunningStandIn, after: int
) -> None:
    switch = Switch(stand_in)
    with switch.on({**HELD, "after": after, "count": 1}), Lock(share, lease_seconds=15) as lock:
        until(lambda: switch.fired()[0], "the request that is not answered")
        # It raises once the lease is lost.
        until(lambda: lock.seconds_left() > 12, "a renewal")


def test_a_run_that_ends_waits_for_no_answer_about_the_lease(share: ShareClient, stand_in: RunningStandIn) -> None:
    switch, said = Switch(stand_in), list[str]()
    renewing = threading.Event()

    def hold() -> None:
        with Lock(share, lease_seconds=15, say=said.append):
            renewing.wait(60)

    holder = threading.Thread(target=hold, daemon=True)
    with switch.on({**HELD, "after": 1}):
        holder.start()
        until(lambda: switch.fired()[0], "the renewal that is not answered")
        renewing.set()
        until(lambda: not holder.is_alive(), "the end of the run", seconds=45)
    assert [line.partition(":")[0] for line in said] == ["the lease on the share was not released and ends by itself"]


def test_a_lock_that_was_taken_away_stops_the_deploy(
    share: ShareClient, stand_in: RunningStandIn, repository: Path
) -> None:
    deploy(share, prepare(repository))
    said: list[str] = []
    with Lock(share, lease_seconds=15, say=said.append) as lock:
        lock.check()
        ShareLeaseClient(sdk_share(stand_in, share.share_name)).break_lease(lease_break_period=0)
        holder = share.acquire_lease(60)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                lock.check()
            except Locked:
                break
            time.sleep(0.2)
        with pytest.raises(Locked, match="was lost"):
            releases.set_current(share, "another", lock, previous=None)
    share.release_lease(holder)
    assert releases.read_current_id(share) == prepare(repository).release.id
    assert any("could not be renewed" in line for line in said)

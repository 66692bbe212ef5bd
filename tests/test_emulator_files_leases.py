"""Leases on shares and files, through the real SDK; the passing of time by the pure rules."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator

import pytest
from azure.core.exceptions import HttpResponseError
from azure.storage.fileshare import ShareClient, ShareLeaseClient

from infra.emulator.files import StorageError, leases
from tests.files_service import RunningFiles, running_files
from tests.waiting import until

ONE, TWO = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFiles]:
    with running_files(tmp_path_factory.mktemp("files")) as running:
        yield running


@pytest.fixture
def share(files: RunningFiles) -> ShareClient:
    return files.share(f"share-{uuid.uuid4().hex[:12]}")


def _code(problem: pytest.ExceptionInfo[HttpResponseError]) -> tuple[int | None, str]:
    code = getattr(problem.value, "error_code", None)
    return problem.value.status_code, str(getattr(code, "value", code))


def test_two_holders_exclude_each_other(share: ShareClient) -> None:
    first = share.acquire_lease(lease_duration=15, lease_id=ONE)
    state = share.get_share_properties().lease
    assert (state.state, state.status, state.duration) == ("leased", "locked", "fixed")
    with pytest.raises(HttpResponseError) as taken:
        share.acquire_lease(lease_duration=15, lease_id=TWO)
    assert _code(taken) == (409, "LeaseAlreadyPresent")
    assert share.acquire_lease(lease_duration=60, lease_id=ONE).id == ONE, "who holds it may take it again"
    first.renew()
    first.change(TWO)
    with pytest.raises(HttpResponseError) as not_mine:
        ShareLeaseClient(share, ONE).renew()
    assert _code(not_mine) == (409, "LeaseIdMismatchWithLeaseOperation")
    with pytest.raises(HttpResponseError) as not_released:
        ShareLeaseClient(share, ONE).release()
    assert _code(not_released) == (409, "LeaseIdMismatchWithLeaseOperation")
    first.release()
    assert share.get_share_properties().lease.state == "available"
    share.acquire_lease(lease_id=ONE)
    assert share.get_share_properties().lease.duration == "infinite"


def test_leased_share_is_changed_only_by_its_holder(share: ShareClient) -> None:
    lease = share.acquire_lease()
    for change in (share.delete_share, lambda: share.set_share_quota(5), lambda: share.set_share_metadata({"a": "b"})):
        with pytest.raises(HttpResponseError) as refused:
            change()
        assert _code(refused) == (412, "LeaseIdMissing")
    with pytest.raises(HttpResponseError) as wrong:
        share.set_share_quota(5, lease=ONE)
    assert _code(wrong) == (412, "LeaseIdMismatchWithShareOperation")
    share.get_file_client("file").upload_file(b"files inside are free")
    share.set_share_quota(5, lease=lease)
    share.delete_share(lease=lease)


def test_breaking_runs_out(share: ShareClient) -> None:
    share.acquire_lease(lease_duration=60, lease_id=ONE)
    lease = ShareLeaseClient(share, ONE)
    assert lease.break_lease(lease_break_period=50) == 50
    assert share.get_share_properties().lease.state == "breaking"
    with pytest.raises(HttpResponseError) as breaking:
        share.acquire_lease(lease_id=TWO)
    assert _code(breaking) == (409, "LeaseIsBreakingAndCannotBeAcquired")
    with pytest.raises(HttpResponseError) as renewed:
        lease.renew()
    assert _code(renewed) == (409, "LeaseIsBrokenAndCannotBeRenewed")
    with pytest.raises(HttpResponseError) as changed:
        lease.change(TWO)
    assert _code(changed) == (409, "LeaseIsBreakingAndCannotBeChanged")
    assert lease.break_lease(lease_break_period=1) == 1
    until(lambda: share.get_share_properties().lease.state == "broken")
    share.acquire_lease(lease_id=TWO)


def test_infinite_lease_breaks_at_once(share: ShareClient) -> None:
    lease = share.acquire_lease()
    assert lease.break_lease() == 0
    assert share.get_share_properties().lease.state == "broken"
    share.delete_share()


@pytest.mark.parametrize("seconds", [0, 14, 61, -2])
def test_durations_that_azure_refuses(share: ShareClient, seconds: int) -> None:
    with pytest.raises(HttpResponseError) as refused:
        share.acquire_lease(lease_duration=seconds)
    assert _code(refused) == (400, "InvalidHeaderValue")


def test_lease_outlives_the_process(tmp_path_factory: pytest.TempPathFactory) -> None:
    state = tmp_path_factory.mktemp("restarted")
    with running_files(state) as files:
        files.share("leased").acquire_lease(lease_duration=60, lease_id=ONE)
    with running_files(state) as files:
        share = files.client().get_share_client("leased")
        with pytest.raises(HttpResponseError) as taken:
            share.acquire_lease(lease_duration=15, lease_id=TWO)
        assert _code(taken) == (409, "LeaseAlreadyPresent")
        ShareLeaseClient(share, ONE).renew()


def test_file_is_locked_for_writing_not_for_reading(share: ShareClient) -> None:
    client = share.get_file_client("file")
    client.upload_file(b"content")
    with pytest.raises(HttpResponseError) as none:
        client.download_file(lease=ONE)
    assert _code(none) == (412, "LeaseNotPresentWithFileOperation")
    lease = client.acquire_lease(ONE)
    assert client.download_file().readall() == b"content"
    assert client.download_file(lease=lease).readall() == b"content"
    with pytest.raises(HttpResponseError) as mismatch:
        client.download_file(lease=TWO)
    assert _code(mismatch) == (412, "LeaseIdMismatchWithFileOperation")
    for change in (
        client.delete_file,
        lambda: client.upload_range(b"x", 0, 1),
        lambda: client.create_file(1),
        lambda: client.set_file_metadata({"a": "b"}),
        lambda: client.resize_file(1),
        lambda: client.rename_file("other"),
    ):
        with pytest.raises(HttpResponseError) as refused:
            change()
        assert _code(refused) == (412, "LeaseIdMissing")
    client.upload_range(b"C", 0, 1, lease=lease)
    client.create_file(3, data=b"new", lease=lease)
    state = client.get_file_properties().lease
    assert (state.state, state.duration) == ("leased", "infinite"), "a file that is replaced keeps its lease"
    lease.change(TWO)
    renamed = client.rename_file("other", source_lease=lease)
    with pytest.raises(HttpResponseError) as still:
        renamed.delete_file()
    assert _code(still) == (412, "LeaseIdMissing")
    renamed.delete_file(lease=TWO)


def test_rename_needs_the_lease_of_what_it_replaces(share: ShareClient) -> None:
    for name in ("source", "target"):
        share.get_file_client(name).upload_file(name.encode())
    lease = share.get_file_client("target").acquire_lease()
    with pytest.raises(HttpResponseError) as refused:
        share.get_file_client("source").rename_file("target", overwrite=True)
    assert _code(refused) == (412, "LeaseIdMissing")
    renamed = share.get_file_client("source").rename_file("target", overwrite=True, destination_lease=lease)
    assert renamed.download_file().readall() == b"source"


def test_file_lease_is_broken_and_taken_by_another(share: ShareClient) -> None:
    client = share.get_file_client("file")
    client.create_file(0)
    lease = client.acquire_lease(ONE)
    assert lease.break_lease() == 0
    client.acquire_lease(TWO)
    with pytest.raises(HttpResponseError) as lost:
        lease.release()
    assert _code(lost) == (409, "LeaseIdMismatchWithLeaseOperation")


def test_expired_lease_holds_nobody_and_can_be_renewed_until_taken() -> None:
    past = time.time() - 1
    expired = leases.Lease(ONE, 15, "leased", past)
    assert expired.current() == "expired" and not expired.holds
    assert leases.headers(expired) == {"x-ms-lease-status": "unlocked", "x-ms-lease-state": "expired"}
    assert leases.renew(expired, ONE).current() == "leased"
    assert leases.acquire(expired, 30, TWO).id == TWO
    leases.check_write(expired, None, noun="Share")
    with pytest.raises(StorageError, match="LeaseLost"):
        leases.check_write(expired, ONE, noun="Share")
    with pytest.raises(StorageError, match="LeaseNotPresentWithLeaseOperation"):
        leases.change(expired, ONE, TWO)
    leases.release(expired, ONE)
    broken, seconds = leases.break_(expired, None)
    assert (broken.current(), seconds) == ("broken", 0)


def test_break_period_never_lengthens_a_lease() -> None:
    lease = leases.acquire(None, 15, ONE)
    breaking, seconds = leases.break_(lease, 60)
    assert breaking.current() == "breaking" and seconds == 15
    shorter, seconds = leases.break_(breaking, 3)
    assert seconds == 3
    assert leases.break_(shorter, 0)[0].current() == "broken"
    fixed, seconds = leases.break_(lease, None)
    assert fixed.current() == "breaking" and seconds == 15


def test_change_may_be_asked_again() -> None:
    lease = leases.change(leases.acquire(None, -1, ONE), ONE, TWO)
    assert leases.change(lease, ONE, TWO).id == TWO
    with pytest.raises(StorageError, match="LeaseIdMismatchWithLeaseOperation"):
        leases.change(lease, ONE, ONE)
    with pytest.raises(StorageError, match="LeaseNotPresentWithLeaseOperation"):
        leases.change(None, ONE, TWO)


@pytest.mark.parametrize("text", [ONE, ONE.upper(), ONE.replace("-", ""), f"{{{ONE}}}"])
def test_ids_in_any_way_a_guid_is_written(text: str) -> None:
    assert leases.parse_id(text) == ONE


def test_id_that_is_no_guid(share: ShareClient) -> None:
    with pytest.raises(HttpResponseError) as refused:
        share.acquire_lease(lease_id="mine")
    assert _code(refused) == (400, "InvalidHeaderValue")

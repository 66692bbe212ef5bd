"""Shares, directories and files of the stand-in through the real SDK, and the folders on disk that they are."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest
from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceNotFoundError
from azure.storage.fileshare import ContentSettings, NTFSAttributes, ShareClient, ShareServiceClient
from azure.storage.fileshare.aio import ShareServiceClient as AsyncShareServiceClient

from infra.emulator.files import StorageError
from tests.files_service import ACCOUNT, KEY, OTHER_ACCOUNT, RunningFiles, running_files


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


def test_share_lives_from_create_to_delete(files: RunningFiles) -> None:
    client = files.client().get_share_client("lives")
    created = client.create_share(metadata={"team": "blue"}, quota=7)
    assert created["etag"] and created["last_modified"]
    with pytest.raises(ResourceExistsError):
        client.create_share()
    properties = client.get_share_properties()
    assert (properties.quota, properties.metadata, properties.access_tier) == (
        7,
        {"team": "blue"},
        "TransactionOptimized",
    )
    client.set_share_quota(9)
    client.set_share_metadata({"team": "green"})
    properties = client.get_share_properties()
    assert (properties.quota, properties.metadata) == (9, {"team": "green"})
    assert properties.etag != created["etag"]
    client.get_file_client("file").upload_file(b"12345")
    assert client.get_share_stats() == 5
    client.delete_share()
    with pytest.raises(ResourceNotFoundError):
        client.get_share_properties()
    assert not files.folder("lives").exists()
    client.create_share()
    assert list(client.list_directories_and_files()) == []


def test_shares_are_listed_in_pages(files: RunningFiles) -> None:
    client = files.client(account=OTHER_ACCOUNT)
    for number in range(5):
        client.create_share(f"page-{number}", metadata={"number": str(number)})
    client.create_share("another")
    pages = client.list_shares(name_starts_with="page-", include_metadata=True, results_per_page=2).by_page()
    found = [[(item.name, item.metadata) for item in page] for page in pages]
    assert [len(page) for page in found] == [2, 2, 1]
    assert found[2] == [("page-4", {"number": "4"})]
    assert len(list(client.list_shares())) == 6


@pytest.mark.parametrize(
    ("name", "code"),
    [("ab", "OutOfRangeInput"), ("a" * 64, "OutOfRangeInput"), ("Upper", "InvalidResourceName")]
    + [(name, "InvalidResourceName") for name in ("two--hyphens", "-first", "last-", "under_score")],
)
def test_share_names_that_azure_refuses(files: RunningFiles, name: str, code: str) -> None:
    answer = files.call("PUT", f"/{name}?restype=share")
    assert (answer.status_code, answer.headers["x-ms-error-code"]) == (400, code)


def test_directories_and_what_stops_them(share: ShareClient) -> None:
    with pytest.raises(ResourceNotFoundError) as missing:
        share.create_directory("a/b")
    assert _code(missing) == (404, "ParentNotFound")
    share.create_directory("a", metadata={"is": "dir"})
    share.create_directory("a/b")
    with pytest.raises(ResourceExistsError) as exists:
        share.create_directory("A")
    assert _code(exists) == (409, "ResourceAlreadyExists")
    assert share.get_directory_client("a").get_directory_properties().metadata == {"is": "dir"}
    with pytest.raises(HttpResponseError) as full:
        share.delete_directory("a")
    assert _code(full) == (409, "DirectoryNotEmpty")
    directory = share.get_directory_client("a/b")
    directory.set_directory_metadata({"later": "yes"})
    assert directory.get_directory_properties().metadata == {"later": "yes"}
    written = datetime(2020, 2, 3, 4, 5, 6, tzinfo=timezone.utc)
    directory.set_http_headers(file_attributes="Directory", file_last_write_time=written)
    assert directory.get_directory_properties().last_write_time == written
    share.delete_directory("a/b")
    share.delete_directory("a")
    assert list(share.list_directories_and_files()) == []
    assert not share.get_directory_client("a").exists()


def test_file_is_created_with_data_and_properties_in_one_request(files: RunningFiles, share: ShareClient) -> None:
    client = share.get_file_client("weights.bin")
    settings = ContentSettings(
        content_type="application/x-weights", content_md5=bytearray(range(16)), cache_control="no-store"
    )
    written = datetime(2021, 5, 6, 7, 8, 9, 123456, tzinfo=timezone.utc)
    client.create_file(
        5, data=b"hello", content_settings=settings, metadata={"sha256": "abc"}, file_last_write_time=written
    )
    properties = client.get_file_properties()
    assert properties.size == 5
    assert properties.metadata == {"sha256": "abc"}
    assert properties.content_settings.content_type == "application/x-weights"
    assert properties.content_settings.content_md5 == bytearray(range(16))
    assert properties.content_settings.cache_control == "no-store"
    assert properties.last_write_time == written
    on_disk = files.folder(str(share.share_name)) / "weights.bin"
    assert on_disk.read_bytes() == b"hello"
    assert on_disk.stat().st_mtime_ns == int(written.timestamp()) * 10**9 + 123_456_000
    assert client.download_file().readall() == b"hello"


def test_created_file_replaces_the_old_one_whole(files: RunningFiles, share: ShareClient) -> None:
    client = share.get_file_client("current")
    client.create_file(20, data=b"releases/aaaaaaaaaaa", metadata={"old": "1"})
    path = files.folder(str(share.share_name)) / "current"
    with path.open("rb") as reader:
        client.create_file(10, data=b"releases/b")
        assert reader.read() == b"releases/aaaaaaaaaaa", "who had it open reads the old one to its end"
    assert path.read_bytes() == b"releases/b"
    assert client.get_file_properties().metadata == {}


def test_file_properties_are_changed_one_by_one(share: ShareClient) -> None:
    client = share.get_file_client("file")
    created = client.upload_file(b"0123456789")
    client.set_file_metadata({"a": "b"})
    changed = client.get_file_properties()
    assert changed.metadata == {"a": "b"} and changed.etag != created["etag"]
    client.set_http_headers(ContentSettings(content_language="en"), file_attributes=NTFSAttributes(hidden=True))
    changed = client.get_file_properties()
    assert changed.content_settings.content_language == "en"
    assert changed.content_settings.content_type is None
    assert "Hidden" in str(changed.file_attributes)
    client.resize_file(4)
    assert client.download_file().readall() == b"0123"
    client.resize_file(6)
    assert client.download_file().readall() == b"0123\0\0"


def test_read_only_file_is_not_changed(share: ShareClient) -> None:
    client = share.get_file_client("fixed")
    client.create_file(1, data=b"x", file_attributes="ReadOnly|Archive")
    assert client.get_file_properties().file_attributes == "ReadOnly | Archive"
    with pytest.raises(HttpResponseError) as refused:
        client.delete_file()
    assert _code(refused) == (409, "ReadOnlyAttribute")
    client.set_http_headers(ContentSettings(), file_attributes="None")
    client.delete_file()


def test_kinds_are_not_confused(share: ShareClient) -> None:
    share.create_directory("directory")
    share.get_file_client("file").upload_file(b"x")
    assert not share.get_file_client("directory").exists()
    assert not share.get_directory_client("file").exists()
    with pytest.raises(ResourceExistsError) as refused:
        share.get_file_client("directory").create_file(1)
    assert _code(refused) == (409, "ResourceTypeMismatch")
    with pytest.raises(ResourceNotFoundError) as missing:
        share.get_file_client("file/below").create_file(1)
    assert _code(missing) == (404, "ParentNotFound")
    with pytest.raises(ResourceNotFoundError):
        share.get_file_client("nothing").delete_file()


def test_listing_pages_prefixes_and_extensions(share: ShareClient) -> None:
    for name in ("b", "A", "c"):
        share.create_directory(f"dir-{name}")
    for name in ("z", "Y", "x", "ä ö&ü"):
        share.get_file_client(f"file-{name}").create_file(3, data=b"abc")
    names = [item.name for item in share.list_directories_and_files()]
    assert names == ["dir-A", "dir-b", "dir-c", "file-x", "file-Y", "file-z", "file-ä ö&ü"]
    pages = share.list_directories_and_files(results_per_page=3).by_page()
    assert [[item.name for item in page] for page in pages] == [names[:3], names[3:6], names[6:]]
    found = list(
        share.list_directories_and_files(
            name_starts_with="FILE-", include=["timestamps", "Etag", "Attributes", "PermissionKey"]
        )
    )
    assert [item.name for item in found] == names[3:]
    properties = share.get_file_client("file-x").get_file_properties()
    assert (found[0]["size"], found[0].etag, found[0].file_id) == (3, properties.etag, properties.file_id)
    assert found[0].last_modified == properties.last_modified
    assert found[0].file_attributes == "Archive" and found[0].permission_key == properties.permission_key


def test_empty_directory_lists_nothing(share: ShareClient) -> None:
    share.create_directory("empty")
    assert list(share.list_directories_and_files("empty")) == []
    with pytest.raises(ResourceNotFoundError):
        list(share.list_directories_and_files("missing"))


def test_names_are_found_in_any_case_and_keep_their_own(files: RunningFiles, share: ShareClient) -> None:
    share.create_directory("Models")
    share.get_file_client("models/Base.BIN").upload_file(b"first")
    share.get_file_client("MODELS/base.bin").upload_file(b"second", metadata={"new": "1"})
    assert [item.name for item in share.list_directories_and_files("mOdElS")] == ["Base.BIN"]
    assert share.get_file_client("Models/Base.BIN").download_file().readall() == b"second"
    assert share.get_file_client("models/base.bin").get_file_properties().metadata == {"new": "1"}
    local = files.folder(str(share.share_name)) / "Models" / "Local.txt"
    local.write_text("by the app")
    assert share.get_file_client("models/LOCAL.TXT").download_file().readall() == b"by the app"
    local.unlink()
    assert not share.get_file_client("models/LOCAL.TXT").exists()


@pytest.mark.parametrize(
    ("name", "code"),
    [
        (f"a{character}b", "InvalidResourceName")
        for character in ("%22", "%3A", "%7C", "%3C", "%3E", "%2A", "%3F", "%5C", "%01")
    ]
    + [(name, "InvalidResourceName") for name in ("%2E%2E", "a/%2E%2E/b", "CON", "lpt1")]
    + [
        ("%ED%A0%80", "InvalidUri"),
        ("x" * 256, "InvalidFileOrDirectoryPathName"),
        ("%C3%A4" * 200, "InvalidFileOrDirectoryPathName"),
    ]
    + [("/".join("d" * 251), "InvalidFileOrDirectoryPathName")],
)
def test_names_that_azure_refuses(files: RunningFiles, share: ShareClient, name: str, code: str) -> None:
    headers = {"x-ms-type": "file", "x-ms-content-length": "0"}
    answer = files.call("PUT", f"/{share.share_name}/{name}", headers)
    assert (answer.status_code, answer.headers["x-ms-error-code"]) in ((400, code), (404, "ParentNotFound"))
    assert list(share.list_directories_and_files()) == []


@pytest.mark.parametrize(
    "name", ["with space", "plus+and%percent", "ünïcödé 文件", "semi;colon,comma=equals", "#hash&and'", "~!@$()[]{}^"]
)
def test_names_with_any_other_character(share: ShareClient, name: str) -> None:
    share.create_directory(name)
    client = share.get_file_client(f"{name}/{name}")
    client.create_file(1, data=b"x", metadata={"k": "v"})
    assert client.download_file().readall() == b"x"
    assert [item.name for item in share.list_directories_and_files(name)] == [name]
    renamed = client.rename_file(f"{name}/new {name}")
    assert renamed.get_file_properties().metadata == {"k": "v"}


def test_trailing_dots_are_trimmed_unless_the_client_keeps_them(files: RunningFiles, share: ShareClient) -> None:
    share.get_file_client("dots...").create_file(1, data=b"a")
    assert [item.name for item in share.list_directories_and_files()] == ["dots"]
    keeping = files.client(allow_trailing_dot=True).get_share_client(str(share.share_name))
    keeping.get_file_client("dots...").create_file(1, data=b"b")
    assert keeping.get_file_client("dots...").download_file().readall() == b"b"
    assert share.get_file_client("dots...").download_file().readall() == b"a"


def test_what_a_local_process_writes_is_served(files: RunningFiles, share: ShareClient) -> None:
    folder = files.folder(str(share.share_name))
    (folder / "outputs" / "deep").mkdir(parents=True)
    (folder / "outputs" / "deep" / "log.txt").write_text("started")
    client = share.get_file_client("outputs/deep/log.txt")
    before = client.get_file_properties()
    assert before.size == 7
    with (folder / "outputs" / "deep" / "log.txt").open("a") as log:
        log.write(", ready")
    os.utime(folder / "outputs" / "deep" / "log.txt", (1_600_000_000, 1_600_000_000))
    after = client.get_file_properties()
    assert (after.size, after.file_id) == (14, before.file_id)
    assert after.etag != before.etag
    assert after.last_write_time == datetime.fromtimestamp(1_600_000_000, timezone.utc)
    assert client.download_file().readall() == b"started, ready"
    assert [item.name for item in share.list_directories_and_files("outputs")] == ["deep"]
    os.mkfifo(folder / "outputs" / "pipe")
    (folder / "outputs" / "nowhere").symlink_to("missing")
    (folder / "outputs" / "link").symlink_to("deep/log.txt")
    assert [item.name for item in share.list_directories_and_files("outputs")] == ["deep", "link"]
    assert share.get_file_client("outputs/link").download_file().readall() == b"started, ready"


def test_metadata_stays_when_a_process_writes_into_the_file_and_goes_with_the_file(
    files: RunningFiles, share: ShareClient
) -> None:
    path = files.folder(str(share.share_name)) / "state.json"
    client = share.get_file_client("state.json")
    client.create_file(2, data=b"{}", metadata={"owner": "deploy"})
    etag = client.get_file_properties().etag
    with path.open("r+b") as writer:
        writer.write(b'{"a": 1}')
    changed = client.get_file_properties()
    assert changed.metadata == {"owner": "deploy"} and changed.size == 8 and changed.etag != etag
    assert [(found.start, found.end) for found in client.list_ranges()] == [(0, 7)]
    replacement = path.with_name("new")
    replacement.write_bytes(b"another file")
    replacement.replace(path)
    assert client.get_file_properties().metadata == {}
    assert client.download_file().readall() == b"another file"


def test_rename_keeps_what_belongs_to_a_file(share: ShareClient) -> None:
    share.create_directory("to")
    client = share.get_file_client("from.txt")
    client.upload_file(b"content", metadata={"k": "v"})
    before = client.get_file_properties()
    renamed = client.rename_file("to/there.txt")
    after = renamed.get_file_properties()
    assert (after.file_id, after.creation_time, after.last_write_time) == (
        before.file_id,
        before.creation_time,
        before.last_write_time,
    )
    assert after.etag != before.etag and after.metadata == {"k": "v"}
    assert not client.exists()
    assert renamed.download_file().readall() == b"content"


def test_rename_replaces_only_when_told(share: ShareClient) -> None:
    for name in ("one", "two"):
        share.get_file_client(name).upload_file(name.encode())
    with pytest.raises(ResourceExistsError) as refused:
        share.get_file_client("one").rename_file("two")
    assert _code(refused) == (409, "ResourceAlreadyExists")
    renamed = share.get_file_client("one").rename_file("two", overwrite=True, metadata={"from": "one"})
    assert renamed.download_file().readall() == b"one"
    assert renamed.get_file_properties().metadata == {"from": "one"}
    with pytest.raises(ResourceNotFoundError) as missing:
        share.get_file_client("one").rename_file("three")
    assert _code(missing) == (404, "ResourceNotFound")
    with pytest.raises(ResourceNotFoundError) as no_parent:
        share.get_file_client("two").rename_file("no/parent")
    assert _code(no_parent) == (404, "ParentNotFound")


def test_directory_is_renamed_with_all_that_is_in_it(share: ShareClient) -> None:
    share.create_directory("releases")
    share.create_directory("releases/.incomplete-1")
    share.create_directory("releases/.incomplete-1/inference")
    share.get_file_client("releases/.incomplete-1/release.json").upload_file(b"{}", metadata={"id": "1"})
    share.get_file_client("releases/.incomplete-1/inference/serve.py").upload_file(b"run", metadata={"id": "2"})
    renamed = share.get_directory_client("releases/.incomplete-1").rename_directory("releases/1")
    assert renamed.exists()
    assert [item.name for item in share.list_directories_and_files("releases")] == ["1"]
    assert share.get_file_client("releases/1/release.json").get_file_properties().metadata == {"id": "1"}
    assert share.get_file_client("releases/1/inference/serve.py").get_file_properties().metadata == {"id": "2"}
    share.create_directory("releases/.incomplete-1")
    share.create_directory("releases/.incomplete-1/inference")
    assert share.get_directory_client("releases/.incomplete-1/inference").get_directory_properties().metadata == {}
    with pytest.raises(ResourceExistsError):
        share.get_directory_client("releases/.incomplete-1").rename_directory("releases/1")
    with pytest.raises(HttpResponseError):
        share.get_directory_client("releases").rename_directory("releases/1/inside")
    again = share.get_directory_client("releases/1").rename_directory("Releases/ONE")
    assert again.exists()
    assert share.get_file_client("releases/one/inference/serve.py").get_file_properties().metadata == {"id": "2"}


def test_only_the_case_of_a_name_is_changed(share: ShareClient) -> None:
    share.create_directory("folder")
    share.get_file_client("folder/a.txt").upload_file(b"x", metadata={"k": "v"})
    share.get_directory_client("folder").rename_directory("Folder")
    assert [item.name for item in share.list_directories_and_files()] == ["Folder"]
    share.get_file_client("Folder/a.txt").rename_file("Folder/A.TXT")
    assert [item.name for item in share.list_directories_and_files("folder")] == ["A.TXT"]
    assert share.get_file_client("folder/a.txt").get_file_properties().metadata == {"k": "v"}


def test_directory_takes_the_place_of_a_file(share: ShareClient) -> None:
    share.create_directory("directory")
    share.get_file_client("directory/inside").upload_file(b"x")
    share.get_file_client("name").upload_file(b"y")
    with pytest.raises(ResourceExistsError):
        share.get_directory_client("directory").rename_directory("name")
    share.get_directory_client("directory").rename_directory("name", overwrite=True)
    assert share.get_file_client("name/inside").download_file().readall() == b"x"


def test_copy_within_and_between_accounts(files: RunningFiles, share: ShareClient) -> None:
    source = share.get_file_client("source")
    source.upload_file(b"copied", metadata={"k": "v"}, content_settings=ContentSettings(content_type="text/x"))
    target = share.get_file_client("target")
    started = target.start_copy_from_url(source.url)
    assert started["copy_status"] == "success"
    properties = target.get_file_properties()
    assert target.download_file().readall() == b"copied"
    assert (properties.metadata, properties.content_settings.content_type) == ({"k": "v"}, "text/x")
    assert properties.copy.progress == "6/6" and properties.copy.source == source.url
    target.start_copy_from_url(source.url, metadata={"own": "1"})
    assert target.get_file_properties().metadata == {"own": "1"}
    with pytest.raises(HttpResponseError) as finished:
        target.abort_copy(str(started["copy_id"]))
    assert _code(finished) == (409, "NoPendingCopyOperation")
    other = files.client(account=OTHER_ACCOUNT).get_share_client("copies")
    other.create_share()
    with pytest.raises(ResourceNotFoundError) as unauthorized:
        other.get_file_client("x").start_copy_from_url(source.url)
    assert _code(unauthorized) == (404, "CannotVerifyCopySource")
    for source_path in ("../otherstore/copies/x", "%2E%2E/otherstore/copies/x", ".incomplete/0"):
        headers = {"x-ms-copy-source": f"{files.url}/{source_path}"}
        answer = files.call("PUT", f"/{share.share_name}/target", headers)
        assert answer.status_code == 400, "no path leads out of the account"
    with pytest.raises(HttpResponseError) as elsewhere:
        target.start_copy_from_url("https://example.org/file")
    assert elsewhere.value.status_code == 501


def test_handles_are_none(share: ShareClient) -> None:
    share.create_directory("d")
    share.get_file_client("d/f").upload_file(b"x")
    directory = share.get_directory_client("d")
    assert list(directory.list_handles(recursive=True)) == []
    assert directory.close_all_handles()["closed_handles_count"] == 0
    assert list(share.get_file_client("d/f").list_handles()) == []
    assert share.get_file_client("d/f").close_all_handles()["closed_handles_count"] == 0
    assert list(share.get_directory_client("").list_handles()) == []


def test_permissions_are_kept_by_key(share: ShareClient) -> None:
    descriptor = "O:S-1-5-21-1-2-3-500G:S-1-5-21-1-2-3-513D:(A;;FA;;;SY)"
    key = share.create_permission_for_share(descriptor)
    assert key is not None
    assert share.get_permission_for_share(key) == descriptor
    client = share.get_file_client("file")
    client.create_file(0, permission_key=key)
    assert client.get_file_properties().permission_key == key
    with pytest.raises(HttpResponseError) as unknown:
        client.create_file(0, permission_key="1*2")
    assert _code(unknown)[0] == 400


def test_service_properties_are_a_new_accounts(files: RunningFiles) -> None:
    properties = files.client().get_service_properties()
    assert properties["cors"] == [] and properties["protocol"].smb.multichannel.enabled is False


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "?restype=share&comp=snapshot"),
        ("GET", "?restype=share&sharesnapshot=2020-01-01T00:00:00.0000000Z"),
        ("PUT", "?restype=share&comp=undelete"),
        ("PUT", "/link?restype=symboliclink"),
    ],
)
def test_what_is_not_done_says_so(files: RunningFiles, share: ShareClient, method: str, path: str) -> None:
    answer = files.call(method, f"/{share.share_name}{path}")
    assert (answer.status_code, answer.headers["x-ms-error-code"]) == (501, "NotImplemented")
    assert "The local stand-in for Azure does not do this" in answer.text


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "?restype=share&comp=nonsense", 400, "InvalidQueryParameterValue"),
        ("DELETE", "?restype=share&comp=acl", 405, "UnsupportedHttpVerb"),
        ("GET", "", 400, "InvalidQueryParameterValue"),
        ("GET", "?restype=directory&comp=list&maxresults=0", 400, "OutOfRangeQueryParameterValue"),
        ("GET", "?restype=directory&comp=list&marker=nonsense", 400, "InvalidQueryParameterValue"),
        ("GET", "?restype=directory&comp=list&include=Colours", 400, "InvalidQueryParameterValue"),
        ("PUT", "/file", 400, "MissingRequiredHeader"),
    ],
)
def test_what_makes_no_sense_is_refused(
    files: RunningFiles, share: ShareClient, method: str, path: str, status: int, code: str
) -> None:
    answer = files.call(method, f"/{share.share_name}{path}")
    assert (answer.status_code, answer.headers["x-ms-error-code"]) == (status, code)
    assert f"<Code>{code}</Code>" in answer.text


def test_account_that_does_not_exist(files: RunningFiles) -> None:
    client = ShareServiceClient(
        f"https://127.0.0.1:{files.port}/nowhere", {"account_name": "nowhere", "account_key": KEY}, **files.options()
    )
    with pytest.raises(ResourceNotFoundError, match="There is no storage account 'nowhere'"):
        list(client.list_shares())


def test_asynchronous_client_and_many_at_once(files: RunningFiles) -> None:
    async def run() -> None:
        key = {"account_name": ACCOUNT, "account_key": KEY}
        async with AsyncShareServiceClient(files.url, key, **files.options()) as client:
            share = await client.create_share("asynchronous")
            await share.create_directory("many")

            async def one(number: int) -> None:
                file = share.get_file_client(f"many/file {number:03}")
                await file.create_file(6, data=f"{number:06}".encode(), metadata={"n": str(number)})
                assert await (await file.download_file()).readall() == f"{number:06}".encode()
                assert (await file.get_file_properties()).metadata == {"n": str(number)}

            await asyncio.gather(*(one(number) for number in range(64)))
            names = [item.name async for item in share.list_directories_and_files("many")]
            assert names == [f"file {number:03}" for number in range(64)]

    asyncio.run(run())


def test_what_other_rooms_ask(files: RunningFiles) -> None:
    files.inside(lambda service: service.create_share(ACCOUNT, "managed", 12, {"from": "manager"}))
    assert files.inside(lambda service: service.share_exists(ACCOUNT, "managed"))
    assert "managed" in files.inside(lambda service: service.list_shares(ACCOUNT))
    client = files.client().get_share_client("managed")
    assert (client.get_share_properties().quota, client.get_share_properties().metadata) == (12, {"from": "manager"})
    files.inside(lambda service: service.set_share(ACCOUNT, "managed", quota_gib=13))
    told = files.inside(lambda service: service.share_properties(ACCOUNT, "managed"))
    assert (told["quota_gib"], told["lease_state"], told["etag"]) == (
        13,
        "available",
        client.get_share_properties().etag,
    )
    folder: Path = files.inside(lambda service: service.share_folder(ACCOUNT, "managed"))
    (folder / "app.log").write_text("from the app")
    assert client.get_file_client("app.log").download_file().readall() == b"from the app"
    with pytest.raises(StorageError, match="ShareAlreadyExists"):
        files.inside(lambda service: service.create_share(ACCOUNT, "managed", 1))
    lease = client.acquire_lease()
    with pytest.raises(StorageError, match="LeaseIdMissing"):
        files.inside(lambda service: service.delete_share(ACCOUNT, "managed"))
    lease.release()
    files.inside(lambda service: service.delete_share(ACCOUNT, "managed"))
    with pytest.raises(StorageError, match="ShareNotFound"):
        files.inside(lambda service: service.share_folder(ACCOUNT, "managed"))


def test_account_is_deleted_with_its_shares(tmp_path: Path) -> None:
    with running_files(tmp_path) as files:
        files.share("first").get_file_client("f").upload_file(b"x")
        files.share("second").acquire_lease()
        files.inside(lambda service: service.delete_account(ACCOUNT))
        assert list(files.client().list_shares()) == []
        assert not (files.root / ACCOUNT).exists()
        assert files.share("first").get_share_stats() == 0

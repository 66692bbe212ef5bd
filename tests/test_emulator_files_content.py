"""The bytes of files: ranges, digests, streams, and what becomes of them when a connection or the process dies."""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import random
import socket
import ssl
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path

import httpx
import pytest
from azure.core.exceptions import AzureError, HttpResponseError, ResourceNotFoundError
from azure.storage.fileshare import ContentSettings, ShareClient, generate_account_sas

from infra.emulator.files.content import with_range, within, without_range
from infra.emulator.store import Store
from tests.files_service import ACCOUNT, KEY, Reachable, RunningFiles, files_process, running_files, shared_key
from tests.waiting import until

MIB = 1024 * 1024


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


def _ranges(client: object) -> list[tuple[int, int]]:
    return [(found.start, found.end) for found in client.list_ranges()]  # type: ignore[attr-defined]


def test_metadata_that_are_set_during_writes_leave_the_ranges_as_written(share: ShareClient) -> None:
    """What differs on disk while a range is written is no local process's doing, whoever looks at the file then."""
    client = share.get_file_client("sparse.bin")
    client.create_file(64 * MIB)
    data = random.Random(2).randbytes(4 * MIB)
    offsets = range(0, 64 * MIB, 8 * MIB)
    writers = [threading.Thread(target=client.upload_range, args=(data, at, len(data))) for at in offsets]
    for writer in writers:
        writer.start()
    for number in itertools.count():
        client.set_file_metadata({"sent": str(number)})
        if not any(writer.is_alive() for writer in writers):
            break
    assert _ranges(client) == [(at, at + len(data) - 1) for at in offsets]


@pytest.mark.parametrize("concurrency", [1, 6])
def test_large_file_goes_up_and_comes_down(share: ShareClient, concurrency: int) -> None:
    data = random.Random(1).randbytes(11 * MIB + 17)
    client = share.get_file_client("large.bin")
    digest = hashlib.md5(data).digest()
    client.upload_file(
        data, max_concurrency=concurrency, content_settings=ContentSettings(content_md5=bytearray(digest))
    )
    assert client.download_file(max_concurrency=concurrency).readall() == data
    properties = client.get_file_properties()
    assert properties.content_settings.content_md5 == bytearray(digest), "ranges leave the stored digest alone"
    assert _ranges(client) == [(0, len(data) - 1)]
    stream = io.BytesIO()
    client.download_file(offset=5 * MIB, length=3 * MIB).readinto(stream)
    assert stream.getvalue() == data[5 * MIB : 8 * MIB]
    etag = properties.etag
    client.upload_range(b"new", 1, 3)
    assert client.get_file_properties().etag != etag


def test_file_of_zeros_takes_no_disk(files: RunningFiles, share: ShareClient) -> None:
    client = share.get_file_client("zeros")
    client.create_file(64 * MIB)
    assert _ranges(client) == []
    assert (files.folder(str(share.share_name)) / "zeros").stat().st_blocks < 100
    copy = share.get_file_client("copy")
    copy.start_copy_from_url(client.url)
    assert (files.folder(str(share.share_name)) / "copy").stat().st_blocks < 100
    assert client.download_file(offset=63 * MIB).readall() == bytes(MIB)


def test_written_and_cleared_ranges_are_told(share: ShareClient) -> None:
    client = share.get_file_client("ranges")
    client.create_file(4096)
    for offset in (0, 1024, 512):
        client.upload_range(b"x" * 512, offset, 512)
    client.upload_range(b"y" * 512, 3072, 512)
    assert _ranges(client) == [(0, 1535), (3072, 3583)]
    client.clear_range(512, 512)
    assert _ranges(client) == [(0, 511), (1024, 1535), (3072, 3583)]
    assert client.download_file().readall()[512:1024] == bytes(512)
    assert [(r.start, r.end) for r in client.list_ranges(offset=256, length=1024)] == [(256, 511), (1024, 1279)]
    pages = [[(r.start, r.end) for r in page] for page in client.list_ranges(results_per_page=2).by_page()]
    assert pages == [[(0, 511), (1024, 1535)], [(3072, 3583)]]
    client.resize_file(1536)
    client.resize_file(2048)
    assert _ranges(client) == [(0, 511), (1024, 1535)]
    client.clear_range(0, 2048)
    assert _ranges(client) == [] and client.download_file().readall() == bytes(2048)


def test_ranges_as_a_set_of_bytes() -> None:
    """Any sequence of writes and clears tells the same bytes as a set of them does."""
    chance = random.Random(7)
    for _ in range(200):
        size = chance.randrange(1, 40)
        ranges: list[list[int]] | None = []
        truth: set[int] = set()
        for _ in range(12):
            first = chance.randrange(size)
            end = chance.randrange(first, size) + 1
            if chance.random() < 0.6:
                ranges = with_range(ranges, first, end)
                truth |= set(range(first, end))
            else:
                ranges = without_range(ranges, first, end, size)
                truth -= set(range(first, end))
            assert ranges is not None
            assert [number for begin, stop in ranges for number in range(begin, stop)] == sorted(truth)
            assert all(before[1] < after[0] for before, after in itertools.pairwise(ranges))
            cut = within(ranges, first, end, size)
            assert {number for begin, stop in cut for number in range(begin, stop)} == truth & set(range(first, end))


def test_digest_of_a_request_is_checked(files: RunningFiles, share: ShareClient) -> None:
    client = share.get_file_client("checked")
    client.create_file(4, data=b"good")
    wrong = base64.b64encode(hashlib.md5(b"other").digest()).decode()
    path = f"/{share.share_name}/checked"
    headers = {"x-ms-range": "bytes=0-3", "x-ms-write": "update", "Content-MD5": wrong}
    refused = files.call("PUT", path + "?comp=range", headers, b"evil")
    assert (refused.status_code, refused.headers["x-ms-error-code"]) == (400, "Md5Mismatch")
    headers = {"x-ms-type": "file", "x-ms-content-length": "4", "Content-MD5": wrong}
    refused = files.call("PUT", path, headers, b"evil")
    assert (refused.status_code, refused.headers["x-ms-error-code"]) == (400, "Md5Mismatch")
    refused = files.call("PUT", path, {**headers, "Content-MD5": "short"}, b"evil")
    assert (refused.status_code, refused.headers["x-ms-error-code"]) == (400, "InvalidMd5")
    assert client.download_file().readall() == b"good"
    right = base64.b64encode(hashlib.md5(b"best").digest()).decode()
    accepted = files.call("PUT", path, {**headers, "Content-MD5": right}, b"best")
    assert accepted.headers["content-md5"] == right


def test_digest_of_a_range_is_told_when_asked(files: RunningFiles, share: ShareClient) -> None:
    share.get_file_client("file").upload_file(b"0123456789")
    path = f"/{share.share_name}/file"
    headers = {"x-ms-range": "bytes=2-5", "x-ms-range-get-content-md5": "true"}
    answer = files.call("GET", path, headers)
    assert (answer.status_code, answer.content) == (206, b"2345")
    assert answer.headers["content-range"] == "bytes 2-5/10"
    assert answer.headers["content-md5"] == base64.b64encode(hashlib.md5(b"2345").digest()).decode()
    assert files.call("GET", path, {"Range": "bytes=8-"}).content == b"89"
    assert files.call("GET", path, {"Range": "bytes=8-100"}).headers["content-range"] == "bytes 8-9/10"
    past = files.call("GET", path, {"x-ms-range": "bytes=10-12"})
    assert (past.status_code, past.headers["content-range"]) == (416, "bytes */10")
    assert files.call("GET", path, {"x-ms-range": "bytes=-3"}).headers["x-ms-error-code"] == "InvalidHeaderValue"


@pytest.mark.parametrize(
    ("headers", "size", "status", "code"),
    [
        ({"x-ms-write": "update"}, 4, 400, "MissingRequiredHeader"),
        ({"x-ms-range": "bytes=0-3"}, 4, 400, "MissingRequiredHeader"),
        ({"x-ms-range": "bytes=0-3", "x-ms-write": "append"}, 4, 400, "InvalidHeaderValue"),
        ({"x-ms-range": "bytes=0-4", "x-ms-write": "update"}, 4, 400, "InvalidHeaderValue"),
        ({"x-ms-range": "bytes=0-", "x-ms-write": "update"}, 4, 400, "InvalidHeaderValue"),
        ({"x-ms-range": "bytes=8-11", "x-ms-write": "update"}, 4, 416, "InvalidRange"),
        ({"x-ms-range": "bytes=0-3", "x-ms-write": "clear"}, 4, 400, "InvalidHeaderValue"),
        ({"x-ms-range": f"bytes=0-{4 * MIB}", "x-ms-write": "update"}, 4 * MIB + 1, 413, "RequestBodyTooLarge"),
        (
            {"x-ms-range": "bytes=0-3", "x-ms-write": "update", "x-ms-structured-body": "XSM/1.0; properties=crc64"},
            4,
            501,
            "NotImplemented",
        ),
    ],
)
def test_ranges_that_are_refused(
    files: RunningFiles, share: ShareClient, headers: dict[str, str], size: int, status: int, code: str
) -> None:
    share.get_file_client("file").create_file(10)
    answer = files.call("PUT", f"/{share.share_name}/file?comp=range", headers, b"x" * size)
    assert (answer.status_code, answer.headers["x-ms-error-code"]) == (status, code)
    assert _ranges(share.get_file_client("file")) == []


@pytest.mark.parametrize(
    ("size", "length", "version", "status", "code"),
    [
        (3, 4, "2026-10-06", 416, "InvalidRange"),
        (5 * MIB, 4 * MIB + 1, "2026-10-06", 413, "RequestBodyTooLarge"),
        (4, 4, "2025-11-05", 400, "InvalidHeaderValue"),
    ],
)
def test_data_that_a_new_file_cannot_take(
    files: RunningFiles, share: ShareClient, size: int, length: int, version: str, status: int, code: str
) -> None:
    headers = {"x-ms-type": "file", "x-ms-content-length": str(size)}
    answer = files.call("PUT", f"/{share.share_name}/file", headers, b"x" * length, version=version)
    assert (answer.status_code, answer.headers["x-ms-error-code"]) == (status, code)
    assert not share.get_file_client("file").exists()


def test_new_file_may_be_larger_than_its_data(share: ShareClient) -> None:
    client = share.get_file_client("file")
    client.create_file(6, data=b"abc")
    assert client.download_file().readall() == b"abc\0\0\0"
    assert _ranges(client) == [(0, 2)]


def test_write_time_may_be_kept(share: ShareClient) -> None:
    client = share.get_file_client("file")
    client.create_file(4, file_last_write_time="2020-01-02T03:04:05.1234567Z")
    client.upload_range(b"abcd", 0, 4, file_last_write_mode="preserve")
    assert str(client.get_file_properties().last_write_time).startswith("2020-01-02 03:04:05.123456")
    client.upload_range(b"abcd", 0, 4)
    assert str(client.get_file_properties().last_write_time) > "2026"


def test_range_comes_from_another_file(files: RunningFiles, share: ShareClient) -> None:
    share.get_file_client("source").upload_file(b"0123456789")
    sas = generate_account_sas(ACCOUNT, KEY, "o", "r", "2999-01-01T00:00:00Z")
    target = share.get_file_client("target")
    target.create_file(8)
    target.upload_range_from_url(f"{share.get_file_client('source').url}?{sas}", offset=2, length=4, source_offset=5)
    assert target.download_file().readall() == b"\0\x005678\0\0"
    with pytest.raises(HttpResponseError) as past:
        target.upload_range_from_url(f"{share.get_file_client('source').url}?{sas}", 0, 4, source_offset=8)
    assert _code(past) == (416, "InvalidRange")


def test_half_a_request_changes_nothing(
    files: RunningFiles, share: ShareClient, caplog: pytest.LogCaptureFixture
) -> None:
    client = share.get_file_client("file")
    client.create_file(2 * MIB, data=b"a" * (2 * MIB))
    for suffix, headers in (
        ("", {"x-ms-type": "file", "x-ms-content-length": str(2 * MIB)}),
        ("?comp=range", {"x-ms-range": f"bytes=0-{2 * MIB - 1}", "x-ms-write": "update"}),
    ):
        _send_half(files, f"/{ACCOUNT}/{share.share_name}/file", suffix, headers, 2 * MIB)
    time.sleep(0.2)
    until(lambda: not list((files.root / ".incomplete").iterdir()))
    assert client.download_file().readall() == b"a" * (2 * MIB)
    assert not [record for record in caplog.records if record.levelname == "ERROR"], caplog.text


def test_reader_that_leaves_is_no_error(
    files: RunningFiles, share: ShareClient, caplog: pytest.LogCaptureFixture
) -> None:
    share.get_file_client("large").create_file(300 * MIB)
    path = f"/{ACCOUNT}/{share.share_name}/large"
    headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2026-10-06"}
    headers["Authorization"] = shared_key("GET", path, "", headers, 0)
    with (
        httpx.Client(verify=files.trust, timeout=60) as http,
        http.stream("GET", f"https://127.0.0.1:{files.port}{path}", headers=headers) as answer,
    ):
        assert len(next(answer.iter_raw())) > 0
    time.sleep(0.5)
    assert not [record for record in caplog.records if record.levelname == "ERROR"], caplog.text


def _send_half(files: Reachable, path: str, suffix: str, headers: dict[str, str], length: int) -> None:
    sent = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2026-10-06", **headers}
    sent["Authorization"] = shared_key("PUT", path, suffix.lstrip("?"), sent, length)
    lines = [f"PUT {path}{suffix} HTTP/1.1", f"Host: 127.0.0.1:{files.port}", f"Content-Length: {length}"]
    lines += [f"{name}: {value}" for name, value in sent.items()]
    with (
        socket.create_connection(("127.0.0.1", files.port)) as plain,
        files.trust.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        connection.sendall("\r\n".join([*lines, "", ""]).encode() + b"b" * (length // 2))
        time.sleep(0.1)


def test_reader_notices_a_file_that_was_cut_short(files: RunningFiles, share: ShareClient) -> None:
    """The length is promised before a local process truncates the file: the connection breaks, nothing is invented."""
    client = share.get_file_client("log")
    client.create_file(400 * MIB)
    url = f"/{ACCOUNT}/{share.share_name}/log"
    headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2026-10-06"}
    headers["Authorization"] = shared_key("GET", url, "", headers, 0)
    received = 0
    with (
        httpx.Client(verify=files.trust, timeout=60) as http,
        http.stream("GET", f"https://127.0.0.1:{files.port}{url}", headers=headers) as answer,
        pytest.raises(httpx.TransportError),
    ):
        for piece in answer.iter_raw():
            if not received:
                (files.folder(str(share.share_name)) / "log").write_bytes(b"short")
            received += len(piece)
    assert 0 < received < 400 * MIB


def test_memory_stays_small_while_much_is_moved(tmp_path: Path) -> None:
    size = 208 * MIB
    with files_process(tmp_path) as (files, process):
        client = files.share("large").get_file_client("model.safetensors")
        client.upload_file(_Zeros(size), length=size, max_concurrency=24)
        received = sum(len(piece) for piece in client.download_file(max_concurrency=4).chunks())
        assert received == size
        peak = next(line for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if "VmHWM" in line)
    assert int(peak.split()[1]) < 200 * 1024, f"the process needed {peak}"


class _Zeros(io.RawIOBase):
    """A stream of zeros that is never in memory."""

    def __init__(self, size: int) -> None:
        self._left = size

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        size = min(self._left, size if size >= 0 else self._left)
        self._left -= size
        return bytes(size)


class _Writer(threading.Thread):
    """Overwrites one file and renames one directory again and again, until the service is gone."""

    def __init__(self, files: Reachable, number: int, begin: int) -> None:
        super().__init__(daemon=True)
        self._share = files.client().get_share_client("killed")
        self.path = f"file-{number}"
        self.directory = f"directory-{number}"
        self.begun = self.acknowledged = begin
        self.renamed = self.renaming = begin

    def run(self) -> None:
        try:
            while True:
                self.begun += 1
                client = self._share.get_file_client(self.path)
                data = f"{self.begun}:".encode() * 2000
                client.create_file(len(data), data=data, metadata={"number": str(self.begun)})
                self.acknowledged = self.begun
                directory = self._share.get_directory_client(f"{self.directory}.{self.renamed}")
                self.renaming = self.begun
                directory.rename_directory(f"{self.directory}.{self.renaming}")
                self.renamed = self.renaming
        except (AzureError, ssl.SSLError, OSError):
            return


def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    writers: list[_Writer] = []
    for seconds in (0.7, 0.9, None):
        with files_process(tmp_path) as (files, process):
            if writers:
                begin = [_check(files, number, writer) for number, writer in enumerate(writers)]
            else:
                share = files.share("killed")
                begin = [_prepare(share, number) for number in range(4)]
            if seconds is None:
                return
            writers = [_Writer(files, number, begin[number]) for number in range(4)]
            for number, writer in enumerate(writers):
                writer.renamed = writer.renaming = _directory_number(files, number)
                writer.start()
            time.sleep(seconds)
            while any(writer.acknowledged == start for writer, start in zip(writers, begin, strict=True)):
                assert all(writer.is_alive() for writer in writers)
                time.sleep(0.01)
            process.kill()
            for writer in writers:
                writer.join(60)


def _prepare(share: ShareClient, number: int) -> int:
    directory = share.create_directory(f"directory-{number}.0")
    directory.upload_file("inside", b"x", metadata={"kept": "yes"})
    return 0


def _directory_number(files: Reachable, number: int) -> int:
    share = files.client().get_share_client("killed")
    (name,) = [item.name for item in share.list_directories_and_files(name_starts_with=f"directory-{number}.")]
    return int(name.partition(".")[2])


def _check(files: Reachable, number: int, writer: _Writer) -> int:
    """The state after a kill is one that the writer asked for, whole: bytes, metadata, and directory."""
    share = files.client().get_share_client("killed")
    client = share.get_file_client(writer.path)
    found = int(client.get_file_properties().metadata["number"])
    assert writer.acknowledged <= found <= writer.begun
    assert client.download_file().readall() == f"{found}:".encode() * 2000
    renamed = _directory_number(files, number)
    assert renamed in (writer.renamed, writer.renaming)
    inside = share.get_file_client(f"{writer.directory}.{renamed}/inside")
    assert inside.get_file_properties().metadata == {"kept": "yes"}
    with pytest.raises(ResourceNotFoundError):
        share.get_file_client(f"{writer.directory}.{renamed}/nothing").get_file_properties()
    return found


def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    with running_files(tmp_path) as files:
        files.share("kept").get_file_client("f").upload_file(b"x")
    (tmp_path / "shares" / ".incomplete" / "7").write_bytes(b"half a file")
    for name in ("deleted", "unknown"):
        (tmp_path / "shares" / ACCOUNT / name).mkdir()
        (tmp_path / "shares" / ACCOUNT / name / "f").write_bytes(b"content")
    store = Store(tmp_path / "state.db")
    store.put("files.deleting", f"{ACCOUNT}/deleted", True)
    store.close()
    with running_files(tmp_path) as files:
        assert [folder.name for folder in (tmp_path / "shares" / ACCOUNT).iterdir()] == ["kept"]
        (aside,) = (tmp_path / "shares" / ".unknown").iterdir()
        assert (aside / "f").read_bytes() == b"content", "what nobody asked to delete is kept"
        assert not list((tmp_path / "shares" / ".incomplete").iterdir())
        assert [share.name for share in files.client().list_shares()] == ["kept"]
        assert files.client().get_share_client("kept").get_file_client("f").download_file().readall() == b"x"


def test_state_folder_may_be_copied(tmp_path: Path) -> None:
    """A copy has other inodes, and is the same cloud."""
    with running_files(tmp_path / "one") as files:
        share = files.share("copied")
        share.get_file_client("f").upload_file(b"content", metadata={"k": "v"})
        before = share.get_file_client("f").get_file_properties()
    subprocess.run(["cp", "-a", tmp_path / "one", tmp_path / "two"], check=True)
    with running_files(tmp_path / "two") as files:
        after = files.client().get_share_client("copied").get_file_client("f").get_file_properties()
    assert (after.etag, after.metadata) == (before.etag, {"k": "v"})


GIB = 1024 * MIB


def test_share_takes_no_more_than_its_quota(files: RunningFiles, share: ShareClient) -> None:
    """Sizes count from the moment a file is created; what is removed or replaced makes room again."""
    share.set_share_quota(1)
    large, small, empty = (share.get_file_client(name) for name in ("large", "small", "empty"))
    large.create_file(GIB - 10)
    small.upload_file(b"x" * 10)
    refusals: tuple[Callable[[], object], ...] = (
        lambda: empty.create_file(1),
        lambda: empty.upload_file(b"x"),
        lambda: small.resize_file(11),
        lambda: empty.start_copy_from_url(small.url),
        lambda: large.create_file(GIB),
    )
    for refused in refusals:
        with pytest.raises(HttpResponseError) as caught:
            refused()
        assert _code(caught) == (403, "ShareSizeLimitReached")
    assert share.get_share_stats() == GIB
    assert [entry["name"] for entry in share.list_directories_and_files()] == ["large", "small"], "nothing half made"
    empty.create_file(0)
    large.create_file(GIB - 10)
    small.resize_file(5)
    empty.create_file(5)
    large.delete_file()
    (files.folder(str(share.share_name)) / "by-a-process").write_bytes(b"x" * 20)
    large.create_file(GIB - 30)
    with pytest.raises(HttpResponseError):
        share.get_file_client("another").create_file(1)
    share.set_share_quota(2)
    share.get_file_client("another").create_file(1)

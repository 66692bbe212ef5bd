"""The conversations recorded with Azure, asked again: statuses, header names, error codes and shapes of XML agree."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from xml.etree import ElementTree

import httpx
import pytest

from tests.files_service import ACCOUNT, RunningFiles, running_files
from tests.recordings_tally import RECORDINGS, TALLY, LeftOut

_RECORDINGS = RECORDINGS / "files"
# What hosts, proxies and connections add, and times of the recording.
_NOT_THE_SERVICE = {"date", "vary", "transfer-encoding", "content-length", "x-ms-request-server-encrypted"}
_RECORDED_SOURCES = {
    "https://clitest3t4vbzqt32h6yldo7.file.core.windows.net/sharebbwe2jphas5p74warny": "share000003",
    "https://storagename.file.core.windows.net/utshare8eaa0a84": "utshare8eaa0a84",
    "https://emilystageaccount.file.core.windows.net/utshare969c1215": "utshare969c1215",
}
Prepare = Callable[[RunningFiles], None]


@pytest.fixture
def files(tmp_path: Path) -> Iterator[RunningFiles]:
    with running_files(tmp_path) as running:
        yield running


def _done(response: httpx.Response) -> None:
    assert response.is_success, response.text


def _share(*names: str) -> Prepare:
    def prepare(files: RunningFiles) -> None:
        for name in names:
            _done(files.call("PUT", f"/{name}?restype=share"))

    return prepare


def _file(path: str, size: int) -> Prepare:
    """A file of letters, with its share and directories."""

    def prepare(files: RunningFiles) -> None:
        share, *names = path.split("/")
        files.call("PUT", f"/{share}?restype=share")
        for depth in range(1, len(names)):
            files.call("PUT", f"/{share}/{'/'.join(names[:depth])}?restype=directory")
        headers = {"x-ms-type": "file", "x-ms-content-length": str(size)}
        _done(files.call("PUT", f"/{path}", headers, b"a" * size))

    return prepare


def _lease(path: str, lease_id: str, seconds: int) -> Prepare:
    headers = {
        "x-ms-lease-action": "acquire",
        "x-ms-lease-duration": str(seconds),
        "x-ms-proposed-lease-id": lease_id,
    }
    return lambda files: _done(files.call("PUT", path, headers))


def _all(*steps: Prepare) -> Prepare:
    def prepare(files: RunningFiles) -> None:
        for step in steps:
            step(files)

    return prepare


def _two_ranges(files: RunningFiles) -> None:
    _share("utsharea5a50b39")(files)
    headers = {"x-ms-type": "file", "x-ms-content-length": "2048"}
    _done(files.call("PUT", "/utsharea5a50b39/filea5a50b39", headers))
    for text in ("bytes=0-511", "bytes=1024-1535"):
        headers = {"x-ms-range": text, "x-ms-write": "update"}
        _done(files.call("PUT", "/utsharea5a50b39/filea5a50b39?comp=range", headers, b"x" * 512))


def _main_scenario(files: RunningFiles) -> None:
    _file("share000003/sample_file.bin", 1234)(files)


def _shares_before(files: RunningFiles) -> None:
    metadata = {"x-ms-meta-cat": "hat", "x-ms-meta-foo": "bar"}
    _done(files.call("PUT", "/share000003?restype=share", metadata))


def _share_with_metadata(files: RunningFiles) -> None:
    metadata = {"x-ms-meta-hello": "world", "x-ms-meta-number": "42"}
    _done(files.call("PUT", "/sharef877141f?restype=share", metadata))


def _leased_shares(files: RunningFiles) -> None:
    """The shares of the recorded list, each in its lease state."""
    listing = _recordings("leases")[5]["interactions"][0]["response_body"]
    for share in ElementTree.fromstring(listing.removeprefix("\ufeff")).iter("Share"):
        name, state = share.findtext("Name"), share.findtext("Properties/LeaseState")
        assert name is not None
        _share(name)(files)
        if state != "available":
            lease_id = "7815c117-c899-40b8-962d-9e2aabff976f" if name == "test150ad1060" else str(uuid.uuid4())
            _lease(f"/{name}?comp=lease&restype=share", lease_id, -1)(files)
        if state == "broken":
            _done(files.call("PUT", f"/{name}?comp=lease&restype=share", {"x-ms-lease-action": "break"}))


_PAGED = [f"shareffa41cea/dir1/{name}" for name in ("filea1", "filea2", "filea3", "fileb1")]
# What was there before the recorded part begins.
_CASES: list[tuple[str, int, Prepare, int | None]] = [
    ("directories-and-files", 0, _all(_share("share000003", "share000004"), _file("share000004/dir2/x", 1)), None),
    ("directories-and-files", 1, _share("utshare38121575"), None),
    ("directories-and-files", 2, _share("utshared53f13af"), None),
    (
        "directories-and-files",
        3,
        _all(
            _share("utshare954e1740"),
            lambda files: _done(files.call("PUT", "/utshare954e1740/dir1?restype=directory")),
        ),
        None,
    ),
    ("directories-and-files", 4, _share("utshare9a2a0afc"), None),
    ("directories-and-files", 5, _two_ranges, None),
    ("directories-and-files", 6, _file("utshare2d0b0f81/utdir2d0b0f81/file2d0b0f81", 0), None),
    ("directories-and-files", 7, _file("utsharef3260e04/filef3260e04", 1024), None),
    ("directories-and-files", 8, _file("utsharea52e1263/filea52e1263", 10), None),
    ("directories-and-files", 9, _all(*(_file(path, 4) for path in _PAGED)), None),
    ("directories-and-files", 10, _main_scenario, 2),
    ("leases", 0, _share("utshare1d320f04"), None),
    (
        "leases",
        1,
        _all(
            _file("utshare969c1215/file969c1215", 10),
            _file("utshare969c1215/file1copy", 10),
            _lease("/utshare969c1215/file1copy?comp=lease", "6c2262e1-52a3-45f2-9470-821a469722b4", -1),
        ),
        None,
    ),
    ("leases", 2, _share("test602310dc"), 2),
    ("leases", 3, _share("teste5000d7c"), 3),
    (
        "leases",
        4,
        _all(
            _share("test801b1156"),
            _lease("/test801b1156?comp=lease&restype=share", "e74a3972-4935-415c-808b-7e08ce3117d2", -1),
        ),
        None,
    ),
    ("leases", 5, _leased_shares, None),
    ("rename", 0, _file("utshare8eaa0a84/file1", 1024), None),
    ("sas", 1, _file("utsharef350eaf/filef350eaf", 1024), None),
    ("shares", 0, _shares_before, None),
    ("shares", 1, lambda files: None, None),
    (
        "shares",
        2,
        _share(*(f"listshare{number}" for number in ("07d2b16cf", "17d2b16cf", "27d2b16cf", "37d2b16cf"))),
        None,
    ),
    ("shares", 3, _share_with_metadata, None),
    ("shares", 5, _share("share492a15b6"), None),
]


NOT_REPLAYED = (
    LeftOut("leases", "after 15 s the lease has expired: the tests of leases wait for one", 2, (2,)),
    LeftOut("leases", "after 15 s the renewed lease has expired: the tests of leases wait for one", 3, (3,)),
    LeftOut("sas", "the signature was scrubbed; the SDK's own signatures are in the tests of authorization", 0),
    LeftOut("shares", "snapshots of shares: 501, the product has none", 4),
)
"""What is not asked again, and why."""


def _recordings(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((_RECORDINGS / f"{name}.json").read_text())["recordings"]
    return found


@pytest.mark.parametrize(("name", "number", "prepare", "count"), _CASES)
def test_answers_as_recorded(files: RunningFiles, name: str, number: int, prepare: Prepare, count: int | None) -> None:
    prepare(files)
    for place, recorded in enumerate(_recordings(name)[number]["interactions"][:count]):
        _compare(recorded, _ask_again(files, recorded))
        TALLY.note(("files", name, number, place), agreed=True)


def test_lists_a_directory_as_recorded(files: RunningFiles) -> None:
    _share("share000003")(files)
    _done(files.call("PUT", "/share000003/dir000005?restype=directory"))
    recorded = _recordings("directories-and-files")[10]["interactions"][2]
    _compare(recorded, _ask_again(files, recorded))
    TALLY.note(("files", "directories-and-files", 10, 2), agreed=True)


def test_refuses_a_token_for_another_audience_as_recorded(files: RunningFiles) -> None:
    recorded = _recordings("errors")[0]["interactions"][0]
    headers = {"Authorization": "Bearer wrong-audience", "x-ms-version": "2023-08-03"}
    answer = httpx.get(f"{files.url}/share1?restype=share", headers=headers, verify=files.trust, timeout=60)
    recorded["response_body"] = "\ufeff" + recorded["response_body"]  # which the recorder lost
    del recorded["response_headers"]["server"]  # refused in front of the file service
    _compare(recorded, answer)
    assert "Audience validation failed. Audience did not match." in answer.text
    TALLY.note(("files", "errors", 0, 0), agreed=True)


def _ask_again(files: RunningFiles, recorded: dict[str, Any]) -> httpx.Response:
    parts = urlsplit(recorded["url"])
    headers = {
        name: _here(files, value)
        for name, value in recorded["request_headers"].items()
        if name.startswith("x-ms-") and name not in ("x-ms-date", "x-ms-version", "x-ms-meta")
    }
    sent = recorded["request_body"]
    body = bytes(sent["omitted_upload_length"]) if isinstance(sent, dict) else (sent or "").encode()
    query = parts.query.replace("%2Fstoragename%2F", f"%2F{ACCOUNT}%2F")
    path = parts.path + (f"?{query}" if query else "")
    return files.call(recorded["method"], path, headers, body, version=recorded["request_headers"]["x-ms-version"])


def _here(files: RunningFiles, value: str) -> str:
    for source, share in _RECORDED_SOURCES.items():
        value = value.replace(source, f"{files.url}/{share}")
    return value


def _compare(recorded: dict[str, Any], answer: httpx.Response) -> None:
    asked = f"{recorded['method']} {recorded['url']}"
    assert answer.status_code == recorded["status"], f"{asked}\n{answer.text}"
    expected = {name for name in recorded["response_headers"] if not name.startswith("x-ms-meta-")} - _NOT_THE_SERVICE
    assert expected <= set(answer.headers), f"{asked}: lacks {expected - set(answer.headers)}"
    for name, value in recorded["response_headers"].items():
        if name in ("x-ms-version", "server", "x-ms-error-code", "content-type", "content-md5", "accept-ranges"):
            if not (name == "content-md5" and isinstance(recorded["request_body"], dict)):
                assert answer.headers[name] == value, f"{asked}: {name}"
        elif name in ("content-range", "x-ms-type") or name.startswith(("x-ms-lease-s", "x-ms-meta-", "x-ms-copy-p")):
            assert answer.headers[name] == value, f"{asked}: {name}"
        elif name in expected:
            assert _form(answer.headers[name]) == _form(value), f"{asked}: {name}"
    body = recorded["response_body"]
    if isinstance(body, str) and "<?xml" in body:
        assert answer.content.startswith(b"\xef\xbb\xbf<?xml"), asked
        assert _is_part(_shape(body), _shape(answer.text)), f"{asked}\n{body}\n{answer.text}"
    elif recorded["method"] != "HEAD" and isinstance(body, str):
        assert len(answer.text) == len(body), asked


def _form(value: str) -> str:
    """What kind of value it is: digits are any digits, hexadecimal ones too."""
    if re.fullmatch(r'"0x[0-9A-F]{15}"', value):
        return "an entity tag"
    if re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{7}Z", value):
        return "a time"
    if re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", value):
        return "a date"
    if re.fullmatch(r"[0-9a-f-]{36}", value):
        return "a GUID"
    return re.sub(r"\d+", "9", value) if not value.startswith("https://") else "an address"


def _shape(document: str) -> list[str]:
    """The elements in their order, with the texts that are not of one day."""
    told = {
        "Name",
        "Code",
        "Prefix",
        "MaxResults",
        "Content-Length",
        "Quota",
        "AccessTier",
        "Start",
        "End",
        "Permission",
    }
    told |= {"LeaseStatus", "LeaseState", "LeaseDuration", "Attributes", "Id", "hello", "number"}
    root = ElementTree.fromstring(document.removeprefix("\ufeff"))
    return [f"{found.tag}={found.text}" if found.tag in told else found.tag for found in root.iter()]


def _is_part(recorded: list[str], answered: list[str]) -> bool:
    """Whether the recorded elements are answered in this order. More may be: later versions add some."""
    left = iter(answered)
    return all(element in left for element in recorded)

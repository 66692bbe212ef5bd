"""The client of Azure Files: who it says it is, what it makes of names and pages, when it asks again, what it never
tells. The stand-in answers, and the SDK is asked how it would have signed."""

from __future__ import annotations

import base64
import contextlib
import math
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from azure.core.pipeline import PipelineContext, PipelineRequest
from azure.core.pipeline.transport import HttpRequest, RequestsTransport
from azure.storage.fileshare._shared.authentication import SharedKeyCredentialPolicy
from hypothesis import given, settings
from hypothesis import strategies as st

from scripts import errors
from scripts import share as shares
from scripts.file_credentials import AccessSignature, AccountKey, EntraToken
from scripts.files import MORE_ATTEMPTS, ShareClient
from tests.conftest import RunningStandIn
from tests.faults import Switch
from tests.share_on_stand_in import new_share, sdk_share

KEY = base64.b64encode(b"a storage account's key").decode()

# --- signing

TRANSPORT = RequestsTransport()
HEADER_VALUES = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20)
HEADERS = st.dictionaries(
    st.from_regex(r"x-ms-(meta-)?[a-z][a-z0-9_-]{0,12}[a-z0-9]", fullmatch=True), HEADER_VALUES, max_size=6
)


@settings(max_examples=60, deadline=None)
@given(
    method=st.sampled_from(["GET", "HEAD", "PUT", "DELETE"]),
    path=st.lists(st.sampled_from(["a", "b%20c", "gr%C3%B6%C3%9Fe", ".x", "%26%3D"]), min_size=1, max_size=4),
    query=st.dictionaries(st.sampled_from(["comp", "restype", "marker", "a"]), HEADER_VALUES),
    headers=HEADERS,
    length=st.integers(0, 5),
)
def test_a_request_is_signed_as_the_sdk_signs_it(
    method: str, path: list[str], query: dict[str, str], headers: dict[str, str], length: int
) -> None:
    target = "/account/" + "/".join(path)
    ours = AccountKey("account", KEY).headers("asking", method, target, query, headers, length)
    address = f"https://account.example{target}" + (f"?{urlencode(query, quote_via=quote)}" if query else "")
    request = HttpRequest(method, address, headers={**headers, "Content-Length": str(length)})
    asked = PipelineRequest(request, PipelineContext(TRANSPORT))
    SharedKeyCredentialPolicy("account", KEY).on_request(asked)  # type: ignore[no-untyped-call]
    assert ours["Authorization"] == request.headers["Authorization"]


@pytest.mark.parametrize("key", ["not base64!", "?sv=2026-02-06&sig=secret", "ä"])
def test_a_key_that_is_none_is_said_without_it(key: str) -> None:
    with pytest.raises(errors.BadInput, match="AZURE_STORAGE_KEY") as caught:
        AccountKey("account", key)
    assert key not in str(caught.value)


@pytest.mark.parametrize("signature", ["secret", "sv=1&sig=sec ret", "sv=1&sig=secret\nHost: x", "sv=1&sig=secrät"])
def test_a_signature_that_no_address_can_carry_is_said_without_it(signature: str) -> None:
    with pytest.raises(errors.BadInput, match="AZURE_STORAGE_SAS_TOKEN") as caught:
        AccessSignature(signature)
    assert "sec" not in str(caught.value)


# --- on the stand-in


@pytest.fixture(scope="module")
def switch(stand_in: RunningStandIn) -> Switch:
    return Switch(stand_in)


@pytest.fixture(scope="module")
def share(stand_in: RunningStandIn) -> Iterator[ShareClient]:
    with new_share(stand_in, f"c{uuid.uuid4().hex[:12]}") as client:
        yield client


def test_every_name_that_the_share_can_hold_goes_there_and_back(share: ShareClient, stand_in: RunningStandIn) -> None:
    names = ["größe & co.txt", "a+b%20c", "~'(x)!@$,;=[1]{2}`^", "日本", "#1", "x" * 255, "\ufffe"]
    shares.make_folders(share, ["names/größe #1 +%"])
    for folder in ("names", "names/größe #1 +%"):
        for name in names:
            shares.write_small_file(share, f"{folder}/{name}", name.encode(), {"of": "me"})
            assert shares.read_small_file(share, f"{folder}/{name}") is not None
    listed = [(name, len(name.encode())) for name in names]
    assert sorted(share.list_directories_and_files("names/größe #1 +%")) == sorted(listed)
    share.copy_file("names/größe #1 +%/a+b%20c", "names/größe #1 +%/copied")
    share.rename_directory("names/größe #1 +%", "names/renamed +#%41")
    independent = sdk_share(stand_in, share.share_name).get_directory_client("names/renamed +#%41")
    for name in [*names, "copied"]:
        content = b"a+b%20c" if name == "copied" else name.encode()
        assert independent.get_file_client(name).download_file().readall() == content


def test_a_list_is_read_page_by_page(share: ShareClient, stand_in: RunningStandIn, switch: Switch) -> None:
    """Azure Files tells 5,000 entries at once; here they are made where the share lies on disk."""
    folder = stand_in.state / "shares" / "sharetests" / share.share_name / "many & more"
    folder.mkdir()
    for number in range(5003):
        (folder / f"{number:05} ö").touch()
    with switch.on({"fault": "latency", "seconds": 0, "path": "comp=list"}):
        found = share.list_directories_and_files("many & more")
        assert switch.rules()[0]["met"] == 2
    assert found == [(f"{number:05} ö", 0) for number in range(5003)]


@pytest.mark.parametrize("size", [0, 1, shares.RANGE_BYTES, shares.RANGE_BYTES + 1])
def test_a_file_of_any_size_is_read_in_ranges(share: ShareClient, size: int) -> None:
    share.create_file("sized", size, metadata={})
    if size:
        share.put_range("sized", size - 1, b"x", shares.base64_md5(b"x"))
    expected = bytes(size - 1) + b"x" if size else b""
    pieces = list(shares.read_in_ranges(share, "sized"))
    assert b"".join(pieces) == expected
    assert len(pieces) == math.ceil(size / shares.RANGE_BYTES)


def test_who_waits_to_ask_again_ends_when_there_is_no_more_to_ask_for(share: ShareClient, switch: Switch) -> None:
    """As when a person interrupts an upload of which other requests wait."""
    interrupted = threading.Event()

    def until_interrupted() -> float:
        if interrupted.is_set():
            raise KeyboardInterrupt
        interrupted.set()
        return math.inf

    with (
        switch.on({"service": "files", "fault": "unavailable", "retry_after_seconds": 3600}),
        pytest.raises(KeyboardInterrupt),
    ):
        share.within(until_interrupted).delete_file("sized")


# --- tokens, and what no stand-in says


class Told(ThreadingHTTPServer):
    """Answers with what it is told, in order, the last one for ever; remembers the headers that it was asked with."""

    daemon_threads = True

    def __init__(self, *answers: tuple[int, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Told)
        self.answers = list(answers)
        self.asked: list[dict[str, str]] = []


class _Told(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Told

    def do_GET(self) -> None:
        self.server.asked.append({"target": self.path, **{name.lower(): value for name, value in self.headers.items()}})
        status, content = self.server.answers[0]
        if len(self.server.answers) > 1:
            self.server.answers.pop(0)
        self.send_response(status)
        self.send_header("Retry-After", "0")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """A test's output is not the place for it."""


@contextlib.contextmanager
def telling(*answers: tuple[int, bytes]) -> Iterator[Told]:
    with Told(*answers) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def client_of(server: Told, credential: Any) -> ShareClient:
    return ShareClient(f"http://127.0.0.1:{server.server_port}/account", "share", credential)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_what_may_pass_is_asked_again_five_times(status: int) -> None:
    with telling((status, b"")) as server, client_of(server, AccountKey("account", KEY)) as share:
        with pytest.raises(errors.CloudError, match="Reading a on the share failed") as caught:
            share.get_file("a")
        assert caught.value.status == status
        assert len(server.asked) == 1 + MORE_ATTEMPTS
    answers = [(status, b"")] * MORE_ATTEMPTS
    with telling(*answers, (200, b"content")) as server, client_of(server, AccountKey("account", KEY)) as share:
        assert share.get_file("a")[0] == b"content"


@pytest.mark.parametrize("status", [302, 400, 403, 404, 409, 412, 501])
def test_what_will_not_pass_is_asked_once(status: int) -> None:
    with telling((status, b"")) as server, client_of(server, AccountKey("account", KEY)) as share:
        with pytest.raises(errors.CloudError, match="Reading a on the share failed") as caught:
            share.get_file("a")
        assert caught.value.status == status
        assert len(server.asked) == 1


def test_a_token_is_kept_and_fetched_anew_when_the_service_says_that_it_has_ended() -> None:
    fetched: list[str] = []

    def fetch(what: str) -> tuple[str, float]:
        fetched.append(what)
        return f"token{len(fetched)}", 4e9

    with telling((200, b""), (200, b""), (401, b""), (200, b"content")) as server:
        with client_of(server, EntraToken(fetch)) as share:
            share.get_file("a")
            share.get_file("b")
            assert share.get_file("c") == (b"content", {})
        assert fetched == ["reading a on the share", "reading c on the share"]
        assert [asked["authorization"] for asked in server.asked] == [f"Bearer token{n}" for n in (1, 1, 1, 2)]
        assert {asked["x-ms-file-request-intent"] for asked in server.asked} == {"backup"}


def test_a_token_that_is_refused_twice_is_an_error() -> None:
    with telling((401, b"")) as server:
        token = EntraToken(lambda what: ("secret", 4e9))
        with client_of(server, token) as share, pytest.raises(errors.NotSignedIn) as caught:
            share.get_file("a")
        assert len(server.asked) == 2
        assert caught.value.message == "Reading a on the share failed: HTTP status 401 Unauthorized"
        assert "secret" not in str(caught.value)


def test_a_token_near_its_end_is_fetched_before_every_request() -> None:
    fetched: list[str] = []

    def fetch(what: str) -> tuple[str, float]:
        fetched.append(what)
        return "token", 0.0

    with telling((200, b"")) as server, client_of(server, EntraToken(fetch)) as share:
        share.get_file("a")
        share.get_file("b")
    assert len(fetched) == 2


@pytest.mark.parametrize("content", [b"", b"<html>", b"<html><body>Sign in</body></html>"])
def test_an_answer_that_is_none_of_the_service_is_said(content: bytes) -> None:
    with (
        telling((200, content)) as server,
        client_of(server, AccountKey("account", KEY)) as share,
        pytest.raises(errors.CloudError, match="is not an Azure Files listing"),
    ):
        share.list_directories_and_files("folder")


def test_a_signature_is_in_every_address_and_in_no_error() -> None:
    signature = AccessSignature("?sv=2026-02-06&sig=c2VjcmV0%3D")
    with telling(
        (403, b"<Error><Code>AuthorizationFailure</Code><Message>No.\nRequestId:1</Message></Error>")
    ) as server:
        with client_of(server, signature) as share, pytest.raises(errors.Forbidden) as caught:
            share.list_directories_and_files("a b")
        assert server.asked[0]["target"] == (
            "/account/share/a%20b?comp=list&restype=directory&sv=2026-02-06&sig=c2VjcmV0%3D"
        )
    assert caught.value.message == "Listing the folder 'a b' of the share failed: AuthorizationFailure: No."
    assert "c2VjcmV0" not in str(caught.value)


def test_nobody_answers() -> None:
    with telling((200, b"")) as server:
        pass
    asked: list[float] = []

    def twice() -> float:
        asked.append(30.0)
        if len(asked) > 2:
            raise errors.Locked("The lease was lost.", "Run the same command again.")
        return asked[0]

    with client_of(server, AccountKey("account", KEY)) as share, pytest.raises(errors.Locked) as caught:
        share.within(twice).get_file("a")
    assert isinstance(caught.value.__context__, ConnectionRefusedError)

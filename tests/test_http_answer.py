"""One HTTP answer from a stream: as h11, an independent implementation, writes it, and what is no answer at all."""

from __future__ import annotations

import io
from typing import Any

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.http_answer import Answer, BrokenAnswer, read_answer

_METHODS = st.sampled_from(["GET", "PUT", "HEAD", "DELETE"])
_STATUSES = st.sampled_from([200, 201, 204, 206, 304, 404, 416, 503])
_PIECES = st.lists(st.binary(min_size=1, max_size=40), max_size=4)


def read(answer: bytes, method: str = "GET") -> Answer:
    return read_answer(io.BytesIO(answer), method)


@given(_METHODS, _STATUSES, _PIECES, st.sampled_from(["length", "chunked", "close"]))
def test_what_h11_writes_is_read_and_the_next_answer_begins_where_it_ends(
    method: str, status: int, pieces: list[bytes], framing: str
) -> None:
    has_content = method != "HEAD" and status not in (204, 304)
    pieces = pieces if has_content else []
    content = b"".join(pieces)
    headers = [("X-Ms-Meta-A", "1"), ("ETag", '"a:b"')]
    if framing == "length" and has_content:
        headers.append(("Content-Length", str(len(content))))
    if framing == "close":
        headers.append(("Connection", "close"))
    service = h11.Connection(h11.SERVER)
    service.receive_data(f"{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n".encode())
    while service.next_event() is not h11.NEED_DATA and service.their_state is not h11.DONE:
        pass
    events: list[Any] = [h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue")]
    events.append(h11.Response(status_code=status, headers=headers, reason=b"As it is"))
    events += [h11.Data(data=piece) for piece in pieces] + [h11.EndOfMessage()]
    written = b"".join(service.send(event) or b"" for event in events)
    stream = io.BytesIO(written + (b"" if framing == "close" else b"HTTP/1.1 202 Next\r\nContent-Length: 0\r\n\r\n"))
    answer = read_answer(stream, method)
    assert (answer.status, answer.reason, answer.content) == (status, "As it is", content)
    assert (answer.headers["x-ms-meta-a"], answer.headers["etag"]) == ("1", '"a:b"')
    assert answer.is_last == (framing == "close")
    if framing != "close":
        assert read_answer(stream, "GET").status == 202


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", (b"abc", False)),
        (b"HTTP/1.1 200\r\ncontent-length:0\r\n\r\n", (b"", False)),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\na", (b"a", True)),
        (b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 1\r\n\r\na", (b"a", False)),
        (b"HTTP/1.1 200 OK\r\nConnection: foo, Close\r\nContent-Length: 1\r\n\r\na", (b"a", True)),
        (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", (b"until the end", True)),
        (b"HTTP/1.1 200 OK\nContent-Length: 1\n\na", (b"a", False)),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n2;x=y\r\nab\r\n0\r\nA: b\r\n\r\n", (b"ab", False)),
    ],
)
def test_the_ways_in_which_an_answer_ends(answer: bytes, expected: tuple[bytes, bool]) -> None:
    found = read(answer)
    assert (found.content, found.is_last) == expected


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"", "before the answer was whole"),
        (b"HTTP/1.1 200 OK\r\nA: b", "before the answer was whole"),
        (b"SSH-2.0-OpenSSH\r\n", "not an HTTP answer: 'SSH-2.0-OpenSSH'"),
        (b"HTTP/2 200\r\n\r\n", "not an HTTP answer"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", "not an HTTP answer"),
        (b"HTTP/1.1 200 OK\r\nno header\r\n\r\n", "not a header: 'no header'"),
        (b"HTTP/1.1 200 OK\r\nA: b\r\n folded\r\n\r\n", "not a header"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "'-1' bytes"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabc", "after 3 of 4 bytes"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", "transfer coding gzip"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n+2\r\nab\r\n0\r\n\r\n", "a piece of"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n", "longer than it says"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\na", "after 1 of 2 bytes"),
        (b"HTTP/1.1 200 " + b"a" * 70_000, "a line of more than"),
        (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 300, "more than 256 headers"),
    ],
)
def test_what_is_no_whole_answer_is_an_error_that_says_why(answer: bytes, why: str) -> None:
    with pytest.raises(BrokenAnswer, match="(?s).*" + why.replace("+", r"\+")):
        read(answer)

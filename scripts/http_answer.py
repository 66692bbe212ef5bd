"""One HTTP/1.1 answer, read whole from a stream of bytes.

Source: RFC 9112, "HTTP/1.1". Only what a service's answers need, because importing Python's own `http.client` costs as
much as all the rest of a client (docs/benchmarks.md). Knows no connection and no service.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO

_HEXADECIMAL = frozenset("0123456789abcdefABCDEF")
_LONGEST_LINE = 64 * 1024
_MOST_HEADERS = 256
"""More than any service sends: whoever does is no such service, and gets no memory for it."""


class BrokenAnswer(OSError):
    """What came is no whole HTTP answer."""


@dataclass(frozen=True)
class Answer:
    """An answer that was read whole. The headers' names are in lower case; of one that comes twice, the last counts."""

    status: int
    reason: str
    headers: Mapping[str, str]
    content: bytes
    is_last: bool
    """Whether the far side ends the connection after it."""


def read_answer(stream: BinaryIO, method: str) -> Answer:
    """The next answer, to a request of this method. Raises OSError when there is no whole one."""
    while True:
        version, status, reason = _status(_line(stream))
        headers = _headers(stream)
        if status >= 200:
            break
        # What comes before the answer, such as 100 (Continue), says nothing.
    options = {option.strip().lower() for option in headers.get("connection", "").split(",")}
    is_last = "close" in options or (version == "1.0" and "keep-alive" not in options)
    length = headers.get("content-length")
    if method == "HEAD" or status in (204, 304) or (method == "CONNECT" and status < 300):
        content = b""
    elif "transfer-encoding" in headers:
        if headers["transfer-encoding"].strip().lower() != "chunked":
            raise BrokenAnswer(f"an answer in the transfer coding {headers['transfer-encoding']}")
        content = b"".join(iter(lambda: _chunk(stream), b""))
        _headers(stream)  # the trailers
    elif length is not None:
        if not (length.isascii() and length.isdigit()):
            raise BrokenAnswer(f"an answer of {length!r} bytes")
        content = _exactly(stream, int(length))
    else:
        content, is_last = stream.read(), True
    return Answer(status, reason, headers, content, is_last)


def _status(line: str) -> tuple[str, int, str]:
    """(version, status, reason) of an answer's first line."""
    protocol, _, rest = line.partition(" ")
    status, _, reason = rest.partition(" ")
    if not protocol.startswith("HTTP/1.") or len(status) != 3 or not (status.isascii() and status.isdigit()):
        raise BrokenAnswer(f"what came is not an HTTP answer: {line[:80]!r}")
    return protocol.removeprefix("HTTP/"), int(status), reason.strip()


def _headers(stream: BinaryIO) -> dict[str, str]:
    headers: dict[str, str] = {}
    for _ in range(_MOST_HEADERS):
        line = _line(stream)
        if not line:
            return headers
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise BrokenAnswer(f"a line that is not a header: {line[:80]!r}")
        headers[name.lower()] = value.strip()
    raise BrokenAnswer(f"an answer of more than {_MOST_HEADERS} headers")


def _chunk(stream: BinaryIO) -> bytes:
    """The next piece of a content that comes in pieces; nothing after the last."""
    size = _line(stream).partition(";")[0].strip()
    if not size or not set(size) <= _HEXADECIMAL:
        raise BrokenAnswer(f"a piece of {size[:80]!r} bytes")
    content = _exactly(stream, int(size, 16))
    if content and _line(stream):
        raise BrokenAnswer("a piece that is longer than it says")
    return content


def _line(stream: BinaryIO) -> str:
    """Without its end."""
    line = stream.readline(_LONGEST_LINE)
    if not line.endswith(b"\n"):
        if len(line) == _LONGEST_LINE:
            raise BrokenAnswer(f"a line of more than {_LONGEST_LINE} bytes")
        raise BrokenAnswer("the connection was closed before the answer was whole")
    return line.rstrip(b"\r\n").decode("latin-1")


def _exactly(stream: BinaryIO, length: int) -> bytes:
    content = stream.read(length)
    if len(content) < length:
        raise BrokenAnswer(f"the connection was closed after {len(content)} of {length} bytes")
    return content

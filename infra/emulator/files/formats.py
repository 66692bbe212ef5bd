"""How the file service writes times, entity tags, metadata and ranges, and how it reads them.

Times are .NET ticks: 100 ns since 0001-01-01 UTC, as an entity tag holds them.
"""

from __future__ import annotations

import base64
import binascii
import re
import time
from calendar import timegm
from collections.abc import Iterable, Mapping
from functools import lru_cache
from urllib.parse import quote
from xml.sax.saxutils import escape

from infra.emulator.files.exceptions import error, invalid_header

BYTE_ORDER_MARK = "\ufeff"
_UNIX_EPOCH = 621_355_968_000_000_000
_TICKS = 10_000_000
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_ISO = re.compile(r"(\d{4})-(\d\d)-(\d\d)(?:T(\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,7})\d*)?)?)?(?:Z|\+00:00)?", re.ASCII)
_RANGE = re.compile(r"bytes=(\d+)-(\d*)", re.ASCII)
_METADATA_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_METADATA_BYTES = 8 * 1024
# What XML 1.0 cannot hold: such a name is percent-encoded and marked.
_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")


def now() -> int:
    """The present, in ticks."""
    return time.time_ns() // 100 + _UNIX_EPOCH


def from_nanoseconds(nanoseconds: int) -> int:
    """Ticks of a Unix time."""
    return nanoseconds // 100 + _UNIX_EPOCH


def to_nanoseconds(ticks: int) -> int:
    """The Unix time of ticks."""
    return (ticks - _UNIX_EPOCH) * 100


@lru_cache(maxsize=256)
def _iso_second(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


def iso(ticks: int) -> str:
    """2022-11-18T07:05:16.7977375Z"""
    second, fraction = divmod(ticks - _UNIX_EPOCH, _TICKS)
    return f"{_iso_second(second)}.{fraction:07d}Z"


@lru_cache(maxsize=256)
def _http_second(second: int) -> str:
    # Not strftime: its day and month names follow the locale.
    at = time.gmtime(second)
    return (
        f"{_DAYS[at.tm_wday]}, {at.tm_mday:02d} {_MONTHS[at.tm_mon - 1]} {at.tm_year}"
        f" {at.tm_hour:02d}:{at.tm_min:02d}:{at.tm_sec:02d} GMT"
    )


def http_date(ticks: int) -> str:
    """Fri, 18 Nov 2022 07:05:16 GMT"""
    return _http_second((ticks - _UNIX_EPOCH) // _TICKS)


def etag(ticks: int) -> str:
    """The entity tag of what was last changed at `ticks`, with its quotation marks."""
    return f'"0x{ticks:X}"'


def parse_iso(text: str) -> int | None:
    """Ticks of an ISO 8601 time in UTC (also a bare date), or None."""
    match = _ISO.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute, second = (int(part or 0) for part in match.groups()[:6])
    fraction = int((match[7] or "").ljust(7, "0"))
    if not (1 <= month <= 12 and 1 <= day <= 31 and hour < 24 and minute < 60 and second < 60):
        return None
    return timegm((year, month, day, hour, minute, second)) * _TICKS + fraction + _UNIX_EPOCH


def parse_file_time(header: str, text: str | None, default: int, *, preserved: int | None = None) -> int:
    """Ticks that an x-ms-file-*-time header asks for: a time, now, or preserve (what it was)."""
    word = (text or "").lower()
    if not word:
        return default
    if word == "now":
        return now()
    if word == "preserve" and preserved is not None:
        return preserved
    ticks = parse_iso(text or "")
    if ticks is None or ticks < _UNIX_EPOCH:
        raise invalid_header(header, text or "")
    return ticks


def parse_range(header: str, text: str) -> tuple[int, int | None]:
    """First and last byte (None: to the end) of `bytes=first-last`."""
    match = _RANGE.fullmatch(text.strip())
    if match is None:
        raise invalid_header(header, text)
    first, last = int(match[1]), int(match[2]) if match[2] else None
    if last is not None and last < first:
        raise invalid_header(header, text)
    return first, last


def parse_count(header: str, text: str | None, lowest: int, highest: int) -> int | None:
    """An integer header within its limits, None when it is absent."""
    if text is None:
        return None
    if not re.fullmatch(r"-?\d{1,19}", text, re.ASCII) or not lowest <= int(text) <= highest:
        raise invalid_header(header, text)
    return int(text)


def parse_md5(text: str | None) -> bytes | None:
    """The digest of a Content-MD5 header."""
    if text is None:
        return None
    try:
        digest = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise error("InvalidMd5") from None
    if len(digest) != 16:
        raise error("InvalidMd5")
    return digest


def parse_metadata(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The x-ms-meta-* headers, names as the client wrote them."""
    found: dict[str, str] = {}
    for name, value in headers:
        if name[:10].lower() == "x-ms-meta-":
            if not _METADATA_NAME.fullmatch(name[10:]):
                raise error("InvalidMetadata", HeaderName=name)
            found[name[10:]] = value
    if found and sum(len(name) + len(value.encode()) for name, value in found.items()) > _METADATA_BYTES:
        raise error("MetadataTooLarge")
    return found


def metadata_headers(metadata: Mapping[str, str]) -> dict[str, str]:
    """The headers that tell metadata."""
    return {f"x-ms-meta-{name}": value for name, value in metadata.items()}


def metadata_xml(metadata: Mapping[str, str]) -> str:
    """The Metadata element of a list of shares."""
    inner = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in metadata.items())
    return f"<Metadata>{inner}</Metadata>" if inner else "<Metadata />"


def element(name: str, text: str) -> str:
    """An XML element; empty text gives `<Name />`, as the service writes it."""
    return f"<{name}>{escape(text)}</{name}>" if text else f"<{name} />"


def name_element(tag: str, name: str) -> str:
    """An element for a name from a share: percent-encoded and marked when XML cannot hold it."""
    if _NOT_XML.search(name):
        return f'<{tag} Encoded="true">{quote(name, safe="")}</{tag}>'
    return element(tag, name)


def xml(body: str) -> bytes:
    """A whole document as the service sends it, with its byte order mark."""
    return f'{BYTE_ORDER_MARK}<?xml version="1.0" encoding="utf-8"?>{body}'.encode()

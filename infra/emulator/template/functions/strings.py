"""Functions on strings. Positions count UTF-16 units; startsWith and endsWith ignore case, replace and split do not."""

from __future__ import annotations

import base64 as base64_codec
import binascii
import re
from collections.abc import Callable
from urllib.parse import quote, unquote, unquote_plus, unquote_to_bytes

from infra.emulator.template.context import Function
from infra.emulator.template.functions import arguments
from infra.emulator.template.functions.arguments import failed, wrong
from infra.emulator.template.functions.formatting import format_text
from infra.emulator.template.functions.objects import parse_json
from infra.emulator.template.values import Value, fold, from_units, is_integer, lower, text_of, units, upper

_URI = re.compile(r"^(?:([A-Za-z][A-Za-z0-9+.\-]*):)?(?://([^/?#]*))?([^?#]*)(?:\?([^#]*))?(?:#(.*))?$", re.DOTALL)
_DATA_URI = re.compile(r"^data:(?P<type>[^;,]*)(?P<options>(?:;[^;,]*)*),(?P<data>.*)$", re.DOTALL | re.IGNORECASE)


def _of_text(name: str, operation: Callable[[str], Value]) -> Function:
    return Function(name, 1, 1, pure=lambda given: operation(arguments.text(name, given[0])))


def _base64(text: str) -> str:
    return base64_codec.b64encode(text.encode("utf-8", "replace")).decode()


def _from_base64(function: str, text: str) -> str:
    try:
        return base64_codec.b64decode("".join(text.split()), validate=True).decode("utf-8", "replace")
    except (binascii.Error, ValueError):
        raise failed(function, "the string is not valid base64.") from None


def _data_uri_to_string(text: str) -> Value:
    match = _DATA_URI.match(text)
    if not match:
        raise failed("dataUriToString", "the string is not a data URI.")
    options = [option.strip().lower() for option in match["options"].split(";") if option]
    if "base64" not in options:
        return unquote(match["data"])
    charset = next((option[8:] for option in options if option.startswith("charset=")), "utf-8")
    try:
        data = base64_codec.b64decode(unquote_to_bytes(match["data"]), validate=True)
        return data.decode(charset, "replace")
    except (binascii.Error, LookupError):
        raise failed("dataUriToString", "its data cannot be decoded.") from None


def _prefix(given: list[Value]) -> Value:
    text, start = (arguments.text("startsWith", value) for value in given)
    return fold(text).startswith(fold(start))


def _suffix(given: list[Value]) -> Value:
    text, end = (arguments.text("endsWith", value) for value in given)
    return fold(text).endswith(fold(end))


def _pad_left(given: list[Value]) -> Value:
    value, width = given[0], arguments.integer("padLeft", given[1])
    filler = arguments.text("padLeft", given[2]) if len(given) == 3 else " "
    if not isinstance(value, str) and not is_integer(value):
        raise wrong("padLeft", "String, Integer", value)
    if len(units(filler)) != 1:
        raise failed("padLeft", "the padding must be one character.")
    if not 0 <= width <= 16_384:
        raise failed("padLeft", f"the total length must be from 0 to 16384, and is {width}.")
    letters = units(text_of(value))
    return from_units(filler * (width - len(letters)) + letters)


def _replace(given: list[Value]) -> Value:
    text, old, new = (arguments.text("replace", value) for value in given)
    if not old:
        raise failed("replace", "the string to be replaced is empty.")
    return text.replace(old, new)


def _split(given: list[Value]) -> Value:
    text, delimiters = arguments.text("split", given[0]), given[1]
    several = delimiters if isinstance(delimiters, list) else [delimiters]
    marks = [mark for mark in (arguments.text("split", delimiter) for delimiter in several) if mark]
    return re.split("|".join(re.escape(mark) for mark in marks), text) if marks else [text]


def _substring(given: list[Value]) -> Value:
    letters, start = units(arguments.text("substring", given[0])), arguments.integer("substring", given[1])
    length = arguments.integer("substring", given[2]) if len(given) == 3 else len(letters) - start
    if start < 0 or length < 0 or start + length > len(letters):
        raise failed(
            "substring",
            "the index and length parameters must refer to a location within the string. The index parameter: "
            f"'{start}', the length parameter: '{length}', the length of the string parameter: '{len(letters)}'.",
        )
    return from_units(letters[start : start + length])


def _uri(given: list[Value]) -> Value:
    base, relative = (arguments.text("uri", value) for value in given)
    scheme, authority, path, query, _ = _parts(base)
    if not scheme or authority is None:
        raise failed("uri", f"the base '{base}' is not an absolute URI.")
    other_scheme, other_authority, other_path, other_query, fragment = _parts(relative)
    if other_scheme and other_authority is not None:
        return relative
    if other_authority is not None:
        authority, path, query = other_authority, _without_dots(other_path), other_query
    elif not other_path:
        query = query if other_query is None else other_query
    else:
        folder = path[: path.rfind("/") + 1] or "/"
        path, query = _without_dots(other_path if other_path.startswith("/") else folder + other_path), other_query
    tail = ("" if query is None else f"?{query}") + ("" if fragment is None else f"#{fragment}")
    return f"{scheme}://{authority}{path or '/'}{tail}"


def _parts(uri: str) -> tuple[str | None, str | None, str, str | None, str | None]:
    """Scheme, authority, path, query and fragment of a URI reference (RFC 3986, appendix B)."""
    match = _URI.match(uri)
    assert match, "the pattern matches every text"
    scheme, authority, path, query, fragment = match.groups()
    return scheme, authority, path, query, fragment


def _without_dots(path: str) -> str:
    """A path without its `.` and `..` segments (RFC 3986, section 5.2.4)."""
    kept: list[str] = []
    segments = path.split("/")
    for segment in segments:
        if segment == ".." and len(kept) > 1:
            kept.pop()
        elif segment not in (".", ".."):
            kept.append(segment)
    if segments[-1] in (".", ".."):
        kept.append("")
    return "/".join(kept)


FUNCTIONS = (
    _of_text("toLower", lower),
    _of_text("toUpper", upper),
    _of_text("trim", str.strip),
    _of_text("base64", _base64),
    _of_text("base64ToString", lambda text: _from_base64("base64ToString", text)),
    _of_text("base64ToJson", lambda text: parse_json("base64ToJson", _from_base64("base64ToJson", text))),
    _of_text("dataUri", lambda text: f"data:text/plain;charset=utf-8;base64,{_base64(text)}"),
    _of_text("dataUriToString", _data_uri_to_string),
    _of_text("uriComponent", lambda text: quote(text, safe="", errors="replace")),
    _of_text("uriComponentToString", unquote_plus),
    Function("uri", 2, 2, pure=_uri),
    Function("string", 1, 1, pure=lambda given: text_of(given[0])),
    Function("format", 1, None, pure=lambda given: format_text(arguments.text("format", given[0]), given[1:])),
    Function("startsWith", 2, 2, pure=_prefix),
    Function("endsWith", 2, 2, pure=_suffix),
    Function("padLeft", 2, 3, pure=_pad_left),
    Function("replace", 3, 3, pure=_replace),
    Function("split", 2, 2, pure=_split),
    Function("substring", 2, 3, pure=_substring),
)

"""What template values are and how they compare, sort and turn into text, as in the resource manager's engine.

A value is a JSON value. Strings count in UTF-16 units and most comparisons of names ignore case, as in .NET. Knows no
expressions.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

Value: TypeAlias = Any
"""None, bool, int, float, str, or a list or dict of values (dict keys are strings)."""

_PUNCTUATION = "_-,;:!?.'\"()[]{}@*/\\&#%`^+<=>|~$"
"""ASCII punctuation in the order of the Unicode collation (CLDR root, which en-US uses); digits and letters follow."""


def type_name(value: Value) -> str:
    """The engine's name of a value's type, as its messages say it."""
    if value is None:
        return "Null"
    if isinstance(value, bool):
        return "Boolean"
    if isinstance(value, int):
        return "Integer"
    if isinstance(value, float):
        return "Float"
    if isinstance(value, str):
        return "String"
    if isinstance(value, list):
        return "Array"
    return "Object" if isinstance(value, dict) else "Expression"


def is_integer(value: Value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def find_key(mapping: Mapping[str, Value], key: str) -> str | None:
    """The mapping's own spelling of a key: the exact one, else the first that differs only in case."""
    if key in mapping:
        return key
    folded = fold(key)
    return next((candidate for candidate in mapping if fold(candidate) == folded), None)


def upper(text: str) -> str:
    """Upper case with one letter for each letter, as .NET does it (ß stays ß)."""
    return "".join(big if len(big := letter.upper()) == 1 else letter for letter in text)


def lower(text: str) -> str:
    """Lower case with one letter for each letter, as .NET does it (no final sigma)."""
    return "".join(small if len(small := letter.lower()) == 1 else letter for letter in text)


def fold(text: str) -> str:
    """The form of a string under which comparisons that ignore case are made."""
    return upper(text)


def units(text: str) -> str:
    """The same text with every character beyond the basic plane as two surrogates: one item for each UTF-16 unit."""
    if text.isascii() or max(text) <= "\uffff":
        return text
    return "".join(
        letter
        if letter <= "\uffff"
        else chr(0xD800 + ((ord(letter) - 0x10000) >> 10)) + chr(0xDC00 + ((ord(letter) - 0x10000) & 0x3FF))
        for letter in text
    )


def from_units(text: str) -> str:
    """The reverse of units(); a surrogate without its partner stays as it is."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


def same(left: Value, right: Value) -> bool:
    """Deep equality: types must match, strings and keys are compared by case, the order of keys does not count."""
    if type(left) is not type(right):
        return False
    if isinstance(left, list):
        return len(left) == len(right) and all(same(a, b) for a, b in zip(left, right, strict=True))
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(item, right[key]) for key, item in left.items())
    return bool(left == right)


def contained(item: Value, items: Iterable[Value]) -> bool:
    return any(same(item, other) for other in items)


def culture_key(text: str) -> tuple[tuple[int, ...], tuple[str, ...], tuple[bool, ...]]:
    """A sort key near to the order of strings in the culture en-US: letters first, then accents, small before big."""
    primary: list[int] = []
    accents: list[str] = []
    big: list[bool] = []
    for letter in unicodedata.normalize("NFD", text):
        if unicodedata.combining(letter):
            if accents:
                accents[-1] += letter
            continue
        small = lower(letter)
        primary.append(_rank(small))
        accents.append("")
        big.append(small != letter)
    return tuple(primary), tuple(accents), tuple(big)


def _rank(letter: str) -> int:
    if letter.isspace() or not letter.isprintable():
        return ord(letter) if letter < " " else 64 + min(ord(letter), 63)
    if letter in _PUNCTUATION:
        return 128 + _PUNCTUATION.index(letter)
    if letter.isdigit():
        return 256 + ord(letter)
    if letter.isalpha():
        return 0x20000 + ord(letter)
    return 0x10000 + min(ord(letter), 0xFFFF)


def number_text(value: int | float) -> str:
    """A number as .NET writes it: the shortest text that reads back as the same number; 1000.0 is 1000."""
    if isinstance(value, int):
        return str(value)
    text = repr(value)
    if "e" in text:
        mantissa, exponent = text.split("e")
        sign = "-" if exponent.startswith("-") else "+"
        return f"{mantissa.removesuffix('.0')}E{sign}{exponent.lstrip('+-').rjust(2, '0')}"
    return text.removesuffix(".0")


def text_of(value: Value) -> str:
    """The text of a value where text is wanted (concat, string, format): True, 12, compact JSON; null is empty."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "True" if value else "False"
    if isinstance(value, (int, float)):
        return number_text(value)
    return json_text(value)


def json_text(value: Value, quote: str = '"') -> str:
    """Compact JSON as the engine's serializer writes it: non-ASCII raw; `quote` is the quotation mark of strings."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        text = number_text(value)
        return text if any(mark in text for mark in ".EN") else f"{text}.0"
    if isinstance(value, str):
        return quote + "".join(_escaped(letter, quote) for letter in value) + quote
    if isinstance(value, list):
        return f"[{','.join(json_text(item, quote) for item in value)}]"
    members = (f"{json_text(key, quote)}:{json_text(item, quote)}" for key, item in value.items())
    return f"{{{','.join(members)}}}"


_ESCAPES = {"\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def _escaped(letter: str, quote: str) -> str:
    if letter == quote:
        return f"\\{letter}"
    if letter in _ESCAPES:
        return _ESCAPES[letter]
    if letter < " " or letter in "\u0085\u2028\u2029":
        return f"\\u{ord(letter):04x}"
    return letter

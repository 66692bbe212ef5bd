"""JSON text -> value and the place of every value in the text.

As lenient as the resource manager's reader: comments, single quotes, keys without quotes and a comma before a closing
bracket are read. Line and column are those that its errors report: counted from 1, the column where the token ends (of
an object or array: its opening bracket).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from infra.emulator.template.values import Value, from_units

Path = tuple[str | int, ...]
"""The way to a value: keys of objects and indexes of arrays."""

_DEEPEST = 100
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")
_WORD = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]*")
_WORDS: Mapping[str, Value] = {"true": True, "false": False, "null": None}
_BLANK = re.compile(r"(?:[ \t\r\n\ufeff]|/\*.*?\*/|//[^\r\n]*)+", re.DOTALL)
_PLAIN = {'"': re.compile(r'[^"\\]+'), "'": re.compile(r"[^'\\]+")}
_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "/": "/", "\\": "\\", '"': '"', "'": "'"}


class JsonError(ValueError):
    """A text that is not JSON; the message says what was met, the attributes where (counted from 1)."""

    def __init__(self, message: str, line: int, column: int) -> None:
        super().__init__(f"{message} Line {line}, position {column}.")
        self.line = line
        self.column = column


@dataclass(frozen=True)
class Positions:
    """Line and column of the values of one text, by path."""

    places: Mapping[Path, tuple[int, int]] = field(default_factory=dict)

    def find(self, path: Path) -> tuple[int, int]:
        """Line and column of a value, of its nearest enclosing one where it is not in the text; (0, 0) if unknown."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.places:
                return self.places[path[:length]]
        return 0, 0


def path_text(path: Path) -> str:
    """A path in the form of the resource manager's errors: `properties.template.resources[0].name`."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif re.fullmatch(r"[^.\[\]' ]+", step):
            text += f".{step}" if text else step
        else:
            text += f"['{step}']"
    return text


def read(text: str) -> tuple[Value, Positions]:
    """The value of a JSON text and the place of everything in it. Raises JsonError."""
    reader = _Reader(text)
    value = reader.value((), 0)
    reader.blank()
    if reader.at < len(text):
        raise reader.problem("Additional text encountered after finished reading JSON content.")
    return value, Positions(reader.places)


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.places: dict[Path, tuple[int, int]] = {}
        self._line = 1
        self._line_start = 0
        self._counted = 0

    def value(self, path: Path, depth: int) -> Value:
        if depth > _DEEPEST:
            raise self.problem(f"The reader's maximum depth of {_DEEPEST} has been exceeded.")
        self.blank()
        opening = self._peek()
        if opening in ("{", "["):
            self.at += 1
            self.places[path] = self._place()
            return self._object(path, depth) if opening == "{" else self._array(path, depth)
        value = self._scalar(opening)
        self.places[path] = self._place()
        return value

    def blank(self) -> None:
        match = _BLANK.match(self.text, self.at)
        if match:
            self.at = match.end()

    def problem(self, message: str) -> JsonError:
        return JsonError(message, *self._place())

    def _object(self, path: Path, depth: int) -> dict[str, Value]:
        members: dict[str, Value] = {}
        while not self._closed("}"):
            key = self._key()
            self.blank()
            if self._peek() != ":":
                raise self.problem(f"Expected ':' after a property name but got: {self._met()}.")
            self.at += 1
            members[key] = self.value((*path, key), depth + 1)
            self._separator("}")
        return members

    def _array(self, path: Path, depth: int) -> list[Value]:
        items: list[Value] = []
        while not self._closed("]"):
            items.append(self.value((*path, len(items)), depth + 1))
            self._separator("]")
        return items

    def _closed(self, bracket: str) -> bool:
        self.blank()
        if self._peek() == bracket:
            self.at += 1
            return True
        return False

    def _separator(self, bracket: str) -> None:
        self.blank()
        if self._peek() == ",":
            self.at += 1
        elif self._peek() != bracket:
            raise self.problem(f"After parsing a value an unexpected character was encountered: {self._met()}.")

    def _key(self) -> str:
        quote = self._peek()
        if quote in ('"', "'"):
            return self._string(quote)
        match = _WORD.match(self.text, self.at)
        if not match:
            raise self.problem(f"Invalid property identifier character: {self._met()}.")
        self.at = match.end()
        return match.group()

    def _scalar(self, opening: str) -> Value:
        if opening in ('"', "'"):
            return self._string(opening)
        number = _NUMBER.match(self.text, self.at)
        if number:
            self.at = number.end()
            fractional = number.group(1) or number.group(2)
            return float(number.group()) if fractional else int(number.group())
        word = _WORD.match(self.text, self.at)
        if word and word.group() in _WORDS:
            self.at = word.end()
            return _WORDS[word.group()]
        raise self.problem(f"Unexpected character encountered while parsing value: {self._met()}.")

    def _string(self, quote: str) -> str:
        self.at += 1
        parts: list[str] = []
        while True:
            plain = _PLAIN[quote].match(self.text, self.at)
            if plain:
                parts.append(plain.group())
                self.at = plain.end()
            if not self._peek():
                raise self.problem(f"Unterminated string. Expected delimiter: {quote}.")
            self.at += 1
            if self.text[self.at - 1] == quote:
                break
            parts.append(self._escape())
        # A character beyond the basic plane may be escaped as two surrogates.
        return from_units("".join(parts)) if len(parts) > 1 else "".join(parts)

    def _escape(self) -> str:
        letter = self._peek()
        self.at += 1
        if letter == "u":
            digits = self.text[self.at : self.at + 4]
            if not re.fullmatch(r"[0-9A-Fa-f]{4}", digits):
                raise self.problem("Could not parse the hexadecimal digits of an escape sequence.")
            self.at += 4
            return chr(int(digits, 16))
        if letter not in _ESCAPES:
            raise self.problem(f"Bad JSON escape sequence: \\{letter}.")
        return _ESCAPES[letter]

    def _peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def _met(self) -> str:
        return self._peek() or "the end of the text"

    def _place(self) -> tuple[int, int]:
        breaks = self.text.count("\n", self._counted, self.at)
        if breaks:
            self._line += breaks
            self._line_start = self.text.rindex("\n", self._counted, self.at) + 1
        self._counted = max(self._counted, self.at)
        return self._line, self.at - self._line_start

"""Text of a template expression <-> syntax tree. Knows no functions and no values of parameters.

The grammar is that of Azure Resource Manager: function calls (also `namespace.function`), strings in single quotes
(a quote is doubled), 32-bit integers, and access by `.name` or `[expression]`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

from infra.emulator.template.errors import ExpressionError
from infra.emulator.template.values import Value

LONGEST = 24_576
"""Characters that an expression may have (limits of Azure Resource Manager templates)."""

_DEEPEST = 100
_TOKEN = re.compile(
    r"(?P<blank>[ \t\r\n]+)|(?P<Identifier>[A-Za-z_$][A-Za-z0-9_$]*)|(?P<Integer>-?\d+)|(?P<Literal>'(?:[^']|'')*')"
    r"|(?P<LeftParenthesis>\()|(?P<RightParenthesis>\))|(?P<LeftSquareBracket>\[)|(?P<RightSquareBracket>\])"
    r"|(?P<Comma>,)|(?P<Dot>\.)"
)
_IDENTIFIER = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]*")


@dataclass(frozen=True)
class Literal:
    """A string or integer of the text, or any value that has taken the place of an evaluated part."""

    value: Value


@dataclass(frozen=True)
class Call:
    name: str
    arguments: tuple[Node, ...]
    namespace: str | None = None


@dataclass(frozen=True)
class Access:
    """`base.key` or `base[key]`."""

    base: Node
    key: Node


Node: TypeAlias = "Literal | Call | Access"


def is_expression(text: str) -> bool:
    """Whether a string of a template is an expression: `[...]` exactly, and not escaped as `[[...]`."""
    return text.startswith("[") and text.endswith("]") and not text.startswith("[[")


def unescape(text: str) -> str:
    """The text that a string which is no expression stands for: of `[[x]` one bracket is taken away."""
    return text[1:] if text.startswith("[[") and text.endswith("]") else text


@lru_cache(maxsize=4096)
def parse(text: str) -> Node:
    """The tree of an expression, given without its outer brackets. Raises ExpressionError."""
    if len(text) > LONGEST:
        raise ExpressionError(f"The language expression has {len(text)} characters; the limit is {LONGEST} characters.")
    parser = _Parser(text)
    node = parser.expression(0)
    parser.expect("EndOfData")
    return node


def to_text(node: Node) -> str:
    """An expression, without outer brackets, that has this tree; values other than strings and integers as calls."""
    if isinstance(node, Literal):
        return _literal_text(node.value)
    if isinstance(node, Call):
        name = f"{node.namespace}.{node.name}" if node.namespace else node.name
        return f"{name}({', '.join(to_text(argument) for argument in node.arguments)})"
    if isinstance(node.key, Literal) and isinstance(node.key.value, str) and _IDENTIFIER.fullmatch(node.key.value):
        return f"{to_text(node.base)}.{node.key.value}"
    return f"{to_text(node.base)}[{to_text(node.key)}]"


def calls(node: Node) -> Iterator[Call]:
    """Every call within a tree, outer ones first."""
    if isinstance(node, Call):
        yield node
        for argument in node.arguments:
            yield from calls(argument)
    elif isinstance(node, Access):
        yield from calls(node.base)
        yield from calls(node.key)


def _literal_text(value: Value) -> str:
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    if value is None:
        return "null()"
    if isinstance(value, bool):
        return "true()" if value else "false()"
    if isinstance(value, int):
        return str(value) if -(2**31) <= value < 2**31 else f"json('{value}')"
    if isinstance(value, float):
        return f"json('{value!r}')"
    if isinstance(value, list):
        return f"createArray({', '.join(_literal_text(item) for item in value)})"
    if isinstance(value, dict):
        members = (f"{_literal_text(key)}, {_literal_text(item)}" for key, item in value.items())
        return f"createObject({', '.join(members)})"
    # What is left is a part that is not evaluated, inside a value that is.
    return to_text(value.node)


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = list(self._lex())
        self._at = 0

    def expression(self, depth: int) -> Node:
        if depth > _DEEPEST:
            raise ExpressionError(f"The language expression is nested more than {_DEEPEST} levels deep.")
        node = self._primary(depth)
        while self._next.kind in ("Dot", "LeftSquareBracket"):
            if self._take().kind == "Dot":
                node = Access(node, Literal(self.expect("Identifier").text))
            else:
                node = Access(node, self.expression(depth + 1))
                self.expect("RightSquareBracket")
        return node

    def expect(self, kind: str) -> _Token:
        if self._next.kind != kind:
            raise ExpressionError(
                f"Unable to parse language expression '{self._text}': expected token '{kind}' "
                f"and actual '{self._next.kind}'."
            )
        return self._take()

    @property
    def _next(self) -> _Token:
        return self._tokens[self._at]

    def _take(self) -> _Token:
        token = self._tokens[self._at]
        self._at += 1
        return token

    def _primary(self, depth: int) -> Node:
        if self._next.kind == "Literal":
            return Literal(self._take().text[1:-1].replace("''", "'"))
        if self._next.kind == "Integer":
            value = int(self._take().text)
            if not -(2**31) <= value < 2**31:
                raise ExpressionError(f"The language expression literal '{value}' is not a 32-bit integer.")
            return Literal(value)
        name, namespace = self.expect("Identifier").text, None
        if self._next.kind == "Dot":
            self._take()
            name, namespace = self.expect("Identifier").text, name
        self.expect("LeftParenthesis")
        arguments: list[Node] = []
        if self._next.kind != "RightParenthesis":
            arguments.append(self.expression(depth + 1))
            while self._next.kind == "Comma":
                self._take()
                arguments.append(self.expression(depth + 1))
        self.expect("RightParenthesis")
        return Call(name, tuple(arguments), namespace)

    def _lex(self) -> Iterator[_Token]:
        at = 0
        while at < len(self._text):
            match = _TOKEN.match(self._text, at)
            if not match or not match.lastgroup:
                raise ExpressionError(
                    f"The language expression '{self._text}' is not valid: the string character "
                    f"'{self._text[at]}' at position '{at}' is not expected."
                )
            if match.lastgroup != "blank":
                yield _Token(match.lastgroup, match.group())
            at = match.end()
        yield _Token("EndOfData", "")

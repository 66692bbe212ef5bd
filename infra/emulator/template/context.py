"""What an expression is evaluated in, and how a function is declared. Evaluates nothing itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from infra.emulator.template.errors import ExpressionError
from infra.emulator.template.expressions import Call, Literal, Node
from infra.emulator.template.scope import Scope
from infra.emulator.template.values import Value


@dataclass(frozen=True)
class Unevaluated:
    """What takes the place of a value that is not known yet: the expression that will give it, as far as reduced."""

    node: Node


def unknown(value: Value) -> bool:
    """Whether a value is, or holds, something that is not evaluated yet."""
    if isinstance(value, list):
        return any(unknown(item) for item in value)
    if isinstance(value, dict):
        return any(unknown(item) for item in value.values())
    return isinstance(value, Unevaluated)


def as_node(value: Value) -> Node:
    return value.node if isinstance(value, Unevaluated) else Literal(value)


@dataclass(frozen=True)
class UserFunction:
    """A function that a template defines: names and types of its parameters, and the value it returns."""

    name: str
    parameters: tuple[tuple[str, str], ...]
    output: Value


class Names(Protocol):
    """What the names of a template stand for. Each raises ExpressionError for a name that is not there."""

    def parameter(self, name: str, context: Context) -> Value: ...

    def variable(self, name: str, context: Context) -> Value: ...

    def function(self, namespace: str, name: str) -> UserFunction: ...


class Runtime(Protocol):
    """The functions that need deployed resources; `identifier` is an id, a resource name or a symbolic name."""

    def reference(self, identifier: str, api_version: str | None, full: bool) -> Value: ...

    def references(self, symbol: str, full: bool) -> Value: ...

    def list_action(self, name: str, identifier: str, api_version: str, body: Value) -> Value: ...


class Depth:
    """How deep the evaluation is at the moment, about in Python's stack frames; shared by all contexts of one template.

    So a template ends in an error of its own, wherever in a program it is evaluated, and not with Python's stack.
    """

    LIMIT = 600

    def __init__(self) -> None:
        self.now = 0

    @contextmanager
    def within(self, frames: int) -> Iterator[None]:
        """A step that takes that many frames. Raises ExpressionError where it would lead too deep."""
        if self.now + frames > self.LIMIT:
            raise ExpressionError("The evaluation is nested too deeply.")
        self.now += frames
        try:
            yield
        finally:
            self.now -= frames


@dataclass(frozen=True)
class Context:
    """Everything that an expression may ask for."""

    scope: Scope
    names: Names
    runtime: Runtime | None = None
    """None where reference() and list*() are not allowed."""
    loops: Mapping[str, int] = field(default_factory=dict)
    """The index of each copy loop around the place, by its name in lower case; '' is the loop of the resource."""
    lambda_variables: Mapping[str, Value] = field(default_factory=dict)
    """By name in lower case."""
    partial: bool = False
    """Leave what needs deployed resources as Unevaluated, instead of refusing it."""
    masked: bool = False
    """Take parameters as a preview shows them: secure ones, and defaults that change by the minute, as Unevaluated."""
    in_default: bool = False
    """Whether the place is the default value of a parameter, where alone utcNow() and newGuid() are allowed."""
    depth: Depth = field(default_factory=Depth)


Evaluate: TypeAlias = Callable[[Node, Context], Value]


@dataclass(frozen=True)
class Function:
    """One row of the table of functions. Exactly one of `pure`, `scoped` and `lazy` computes its value."""

    name: str
    minimum: int
    maximum: int | None
    """The number of arguments; None for any."""
    pure: Callable[[list[Value]], Value] | None = None
    scoped: Callable[[Context, list[Value]], Value] | None = None
    lazy: Callable[[Call, Context, Evaluate], Value] | None = None
    sees_through: Callable[[list[Value]], bool] | None = None
    """Whether these arguments, some of which are or hold Unevaluated parts, still give a value."""


def check_count(name: str, minimum: int, maximum: int | None, given: Sequence[object]) -> None:
    """Raise ExpressionError unless the number of arguments is right."""
    if minimum <= len(given) and (maximum is None or len(given) <= maximum):
        return
    if maximum == minimum:
        wanted = f"'{minimum}' argument(s)"
    elif maximum is None:
        wanted = f"at least '{minimum}' argument(s)"
    else:
        wanted = f"between '{minimum}' and '{maximum}' arguments"
    raise ExpressionError(
        f"Unable to evaluate template language function '{name}': it requires {wanted} "
        f"while '{len(given)}' were provided."
    )

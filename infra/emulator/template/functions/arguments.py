"""Checks of the arguments of functions: each gives back the argument with its type, or raises ExpressionError."""

from __future__ import annotations

from infra.emulator.template.errors import ExpressionError
from infra.emulator.template.values import Value, is_integer, type_name

LARGEST = 2**63 - 1


def wrong(function: str, expected: str, value: Value) -> ExpressionError:
    return ExpressionError(
        f"The template language function '{function}' expects its parameter to be of type '{expected}'. "
        f"The provided value is of type '{type_name(value)}'."
    )


def failed(function: str, reason: str) -> ExpressionError:
    return ExpressionError(f"Unable to evaluate template language function '{function}': {reason}")


def text(function: str, value: Value) -> str:
    if not isinstance(value, str):
        raise wrong(function, "String", value)
    return value


def integer(function: str, value: Value) -> int:
    if not is_integer(value):
        raise wrong(function, "Integer", value)
    return int(value)


def truth(function: str, value: Value) -> bool:
    if not isinstance(value, bool):
        raise wrong(function, "Boolean", value)
    return value


def array(function: str, value: Value) -> list[Value]:
    if not isinstance(value, list):
        raise wrong(function, "Array", value)
    return value


def mapping(function: str, value: Value) -> dict[str, Value]:
    if not isinstance(value, dict):
        raise wrong(function, "Object", value)
    return value


def in_range(function: str, value: int) -> int:
    """A result of arithmetic, which has 64 bits."""
    if not -LARGEST - 1 <= value <= LARGEST:
        raise failed(function, "the result does not fit into 64 bits.")
    return value

"""Functions on integers and floats. Results have 64 bits; division truncates towards zero."""

from __future__ import annotations

import re
from collections.abc import Callable

from infra.emulator.template.context import Function
from infra.emulator.template.functions import arguments
from infra.emulator.template.functions.arguments import failed, wrong
from infra.emulator.template.values import Value, is_integer

_LONGEST_RANGE = 10_000


def _arithmetic(name: str, operation: Callable[[int, int], int]) -> Function:
    def apply(given: list[Value]) -> Value:
        left, right = (arguments.integer(name, value) for value in given)
        return arguments.in_range(name, operation(left, right))

    return Function(name, 2, 2, pure=apply)


def _quotient(name: str, left: int, right: int) -> int:
    if right == 0:
        raise failed(name, "the divisor is zero.")
    magnitude = abs(left) // abs(right)
    return magnitude if (left < 0) == (right < 0) else -magnitude


def _extreme(name: str, choose: Callable[[list[int]], int]) -> Function:
    def apply(given: list[Value]) -> Value:
        values = given[0] if len(given) == 1 and isinstance(given[0], list) else given
        if not values:
            raise failed(name, "it needs at least one integer.")
        return choose([arguments.integer(name, value) for value in values])

    return Function(name, 1, None, pure=apply)


def _int(given: list[Value]) -> Value:
    value = given[0]
    if isinstance(value, str):
        if not re.fullmatch(r"\s*[+-]?[0-9]+\s*", value):
            raise failed("int", f"the string '{value}' is not an integer.")
        return arguments.in_range("int", int(value))
    if not is_integer(value):
        raise wrong("int", "String, Integer", value)
    return value


def _float(given: list[Value]) -> Value:
    value = given[0]
    if isinstance(value, str):
        if not re.fullmatch(r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*", value):
            raise failed("float", f"the string '{value}' is not a number.")
        return float(value)
    if isinstance(value, float) or is_integer(value):
        return float(value)
    raise wrong("float", "String, Integer, Float", value)


def _range(given: list[Value]) -> Value:
    start, count = (arguments.integer("range", value) for value in given)
    if not 0 <= count <= _LONGEST_RANGE:
        raise failed("range", f"the count must be from 0 to {_LONGEST_RANGE}, and is {count}.")
    if start < -(2**31) or start + count > 2**31 - 1:
        raise failed("range", "its integers must fit into 32 bits.")
    return list(range(start, start + count))


FUNCTIONS = (
    _arithmetic("add", lambda left, right: left + right),
    _arithmetic("sub", lambda left, right: left - right),
    _arithmetic("mul", lambda left, right: left * right),
    _arithmetic("div", lambda left, right: _quotient("div", left, right)),
    _arithmetic("mod", lambda left, right: left - right * _quotient("mod", left, right)),
    _extreme("min", min),
    _extreme("max", max),
    Function("int", 1, 1, pure=_int),
    Function("float", 1, 1, pure=_float),
    Function("range", 2, 2, pure=_range),
)

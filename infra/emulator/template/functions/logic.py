"""Functions on truth values, comparisons, and those that evaluate only some of their arguments."""

from __future__ import annotations

from collections.abc import Callable

from infra.emulator.template.context import Context, Evaluate, Function, Unevaluated, as_node, check_count
from infra.emulator.template.errors import ExpressionError
from infra.emulator.template.expressions import Call, Literal, Node
from infra.emulator.template.functions import arguments
from infra.emulator.template.functions.arguments import failed, wrong
from infra.emulator.template.values import Value, culture_key, is_integer, same, type_name


def _comparison(name: str, holds: Callable[[int], bool]) -> Function:
    def apply(given: list[Value]) -> Value:
        left, right = given
        if isinstance(left, str) and isinstance(right, str):
            first, second = culture_key(left), culture_key(right)
            return holds((first > second) - (first < second))
        if (is_integer(left) and is_integer(right)) or (isinstance(left, float) and isinstance(right, float)):
            return holds((left > right) - (left < right))
        raise ExpressionError(
            f"Template language function '{name}' expects parameters of matching types, integers, floats or strings. "
            f"The function was invoked with values of type '{type_name(left)}' and '{type_name(right)}'."
        )

    return Function(name, 2, 2, pure=apply)


def _bool(given: list[Value]) -> Value:
    value = given[0]
    if isinstance(value, bool):
        return value
    if is_integer(value):
        return value != 0
    if not isinstance(value, str):
        raise wrong("bool", "String, Integer", value)
    word = value.strip().lower()
    if word not in ("true", "false"):
        raise failed("bool", f"the string '{value}' is neither 'true' nor 'false'.")
    return word == "true"


def _reduced(node: Node, context: Context, evaluate: Evaluate) -> Node:
    """A part that may never be evaluated, reduced where that is possible without an error."""
    try:
        return as_node(evaluate(node, context))
    except ExpressionError:
        return node


def _if(call: Call, context: Context, evaluate: Evaluate) -> Value:
    check_count("if", 3, 3, call.arguments)
    condition = evaluate(call.arguments[0], context)
    if isinstance(condition, Unevaluated):
        branches = (_reduced(branch, context, evaluate) for branch in call.arguments[1:])
        return Unevaluated(Call(call.name, (condition.node, *branches)))
    return evaluate(call.arguments[1 if arguments.truth("if", condition) else 2], context)


def _until(name: str, decisive: bool) -> Function:
    """`and` and `or`: evaluated from the left until one argument decides."""

    def apply(call: Call, context: Context, evaluate: Evaluate) -> Value:
        check_count(name, 2, None, call.arguments)
        for index, argument in enumerate(call.arguments):
            value = evaluate(argument, context)
            if isinstance(value, Unevaluated):
                rest = (_reduced(other, context, evaluate) for other in call.arguments[index + 1 :])
                return Unevaluated(Call(call.name, (*[Literal(not decisive)] * index, value.node, *rest)))
            if arguments.truth(name, value) is decisive:
                return decisive
        return not decisive

    return Function(name, 2, None, lazy=apply)


def _coalesce(call: Call, context: Context, evaluate: Evaluate) -> Value:
    check_count("coalesce", 1, None, call.arguments)
    for index, argument in enumerate(call.arguments):
        value = evaluate(argument, context)
        if isinstance(value, Unevaluated):
            rest = tuple(_reduced(other, context, evaluate) for other in call.arguments[index + 1 :])
            return Unevaluated(Call(call.name, (value.node, *rest))) if rest else value
        if value is not None:
            return value
    return None


def _fail(given: list[Value]) -> Value:
    raise ExpressionError(f"The template function 'fail' was called: {arguments.text('fail', given[0])}")


FUNCTIONS = (
    Function("fail", 1, 1, pure=_fail),
    Function("true", 0, 0, pure=lambda given: True),
    Function("false", 0, 0, pure=lambda given: False),
    Function("null", 0, 0, pure=lambda given: None),
    Function("bool", 1, 1, pure=_bool),
    Function("not", 1, 1, pure=lambda given: not arguments.truth("not", given[0])),
    Function("if", 3, 3, lazy=_if),
    _until("and", False),
    _until("or", True),
    Function("coalesce", 1, None, lazy=_coalesce),
    Function("equals", 2, 2, pure=lambda given: same(given[0], given[1])),
    _comparison("less", lambda order: order < 0),
    _comparison("lessOrEquals", lambda order: order <= 0),
    _comparison("greater", lambda order: order > 0),
    _comparison("greaterOrEquals", lambda order: order >= 0),
)

"""Expression, or JSON value with expressions in it -> value. Pure: asks the context, touches nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from infra.emulator.template import expressions, functions
from infra.emulator.template.context import Context, Names, Unevaluated, UserFunction, as_node, check_count, unknown
from infra.emulator.template.errors import ExpressionError
from infra.emulator.template.expressions import Access, Call, Literal, Node
from infra.emulator.template.functions.arguments import wrong
from infra.emulator.template.functions.objects import access
from infra.emulator.template.values import Value, find_key, is_integer

LARGEST_LOOP = 800
"""Iterations that a copy loop may have (limits of Azure Resource Manager templates)."""


def evaluate_value(value: Value, context: Context) -> Value:
    """A value of a template with everything in it evaluated: expressions, escapes, expressions as keys, property loops.

    With `context.partial`, parts that need deployed resources come back as Unevaluated. Raises ExpressionError.
    """
    if isinstance(value, str):
        return evaluate_text(value, context)
    if not isinstance(value, (list, dict)):
        return value
    with context.depth.within(3):
        if isinstance(value, list):
            return [evaluate_value(item, context) for item in value]
        return _evaluate_object(value, context)


def evaluate_text(text: str, context: Context) -> Value:
    """A string of a template: the value of its expression, or the text that it stands for."""
    if not expressions.is_expression(text):
        return expressions.unescape(text)
    return evaluate(expressions.parse(text[1:-1]), context)


def evaluate(node: Node, context: Context) -> Value:
    """The value of an expression. Raises ExpressionError."""
    if isinstance(node, Literal):
        return node.value
    with context.depth.within(2):
        if isinstance(node, Access):
            base, key = evaluate(node.base, context), evaluate(node.key, context)
            if isinstance(base, Unevaluated) or isinstance(key, Unevaluated):
                return Unevaluated(Access(as_node(base), as_node(key)))
            return access(base, key)
        return _user_call(node, context) if node.namespace is not None else _call(node, context)


def rendered(value: Value) -> Value:
    """A partly evaluated value as JSON: what is not evaluated stands there as the text of its expression."""
    if isinstance(value, Unevaluated):
        return f"[{expressions.to_text(value.node)}]"
    if isinstance(value, list):
        return [rendered(item) for item in value]
    if isinstance(value, dict):
        return {key: rendered(item) for key, item in value.items()}
    return value


def loop_count(value: Value, context: Context) -> int:
    """The evaluated count of a copy loop. Raises ExpressionError."""
    count = evaluate_value(value, context)
    if not is_integer(count) or not 0 <= count <= LARGEST_LOOP:
        raise ExpressionError(
            f"The copy count must be an integer from 0 to {LARGEST_LOOP}, and is '{rendered(count)}'."
        )
    return int(count)


def _call(node: Call, context: Context) -> Value:
    function = functions.find(node.name)
    if function is None:
        raise ExpressionError(f"The template function '{node.name}' is not valid.")
    if function.lazy is not None:
        with context.depth.within(4):
            return function.lazy(node, context, evaluate)
    check_count(function.name, function.minimum, function.maximum, node.arguments)
    given = [evaluate(argument, context) for argument in node.arguments]
    if context.partial and any(unknown(value) for value in given):
        see_through = function.sees_through
        if see_through is None or not see_through(given):
            return Unevaluated(Call(node.name, tuple(as_node(value) for value in given)))
    if function.pure is not None:
        return function.pure(given)
    assert function.scoped is not None, f"{function.name} has an implementation"
    return function.scoped(context, given)


_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "string": str,
    "securestring": str,
    "int": int,
    "bool": bool,
    "object": dict,
    "secureobject": dict,
    "array": list,
}


class _FunctionNames:
    """Inside a function of the template: its own parameters, and the template's functions."""

    def __init__(self, outer: Names, given: Mapping[str, Value]) -> None:
        self._outer = outer
        self._given = given

    def parameter(self, name: str, context: Context) -> Value:
        known = find_key(self._given, name)
        if known is None:
            raise ExpressionError(f"The template parameter '{name}' is not found.")
        return self._given[known]

    def variable(self, name: str, context: Context) -> Value:
        raise ExpressionError("The template function 'variables' is not expected in a user-defined function.")

    def function(self, namespace: str, name: str) -> UserFunction:
        return self._outer.function(namespace, name)


def _user_call(node: Call, context: Context) -> Value:
    full_name = f"{node.namespace}.{node.name}"
    function = context.names.function(node.namespace or "", node.name)
    check_count(full_name, len(function.parameters), len(function.parameters), node.arguments)
    given = [evaluate(argument, context) for argument in node.arguments]
    for (_, type_name), value in zip(function.parameters, given, strict=True):
        wanted = _TYPES.get(type_name.lower())
        wrong_type = wanted is not None and not isinstance(value, wanted)
        wrong_type = wrong_type or (wanted is int and isinstance(value, bool))
        if wrong_type and value is not None and not isinstance(value, Unevaluated):
            raise wrong(full_name, type_name, value)
    names = _FunctionNames(
        context.names, {name: value for (name, _), value in zip(function.parameters, given, strict=True)}
    )
    # A function of the template sees no loop, no lambda variable and no deployed resource of its caller.
    inner = replace(context, names=names, runtime=None, loops={}, lambda_variables={}, in_default=False)
    with context.depth.within(2):
        return evaluate_value(function.output, inner)


def _evaluate_object(value: Mapping[str, Value], context: Context) -> Value:
    result: dict[str, Value] = {}
    for key, item in value.items():
        if key == "copy" and isinstance(item, list):
            result.update(_evaluate_loops(item, context))
            continue
        name = evaluate_text(key, context) if expressions.is_expression(key) else expressions.unescape(key)
        if isinstance(name, Unevaluated):
            name = rendered(name)
        if not isinstance(name, str):
            raise ExpressionError(f"The name of a property, '{key}', must be a string.")
        result[name] = evaluate_value(item, context)
    return result


def _evaluate_loops(loops: list[Value], context: Context) -> dict[str, Value]:
    """The properties that the items of a `copy` array stand for: each an array with one element for each iteration."""
    result: dict[str, Value] = {}
    for loop in loops:
        if not isinstance(loop, dict) or not isinstance(loop.get("name"), str) or not {"count", "input"} <= loop.keys():
            raise ExpressionError("A copy loop of properties must have the members 'name', 'count' and 'input'.")
        name = loop["name"]
        result[name] = [
            evaluate_value(loop["input"], replace(context, loops={**context.loops, name.lower(): index}))
            for index in range(loop_count(loop["count"], context))
        ]
    return result

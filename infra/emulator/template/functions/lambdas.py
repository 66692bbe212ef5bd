"""Functions that take a lambda: map, filter, sort, reduce, toObject, groupBy, mapValues; and lambdaVariables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cmp_to_key

from infra.emulator.template.context import Context, Evaluate, Function, Unevaluated, as_node, check_count
from infra.emulator.template.errors import ExpressionError
from infra.emulator.template.expressions import Call, Literal, Node
from infra.emulator.template.functions import arguments
from infra.emulator.template.functions.arguments import failed
from infra.emulator.template.values import Value


class _NotYet(Exception):
    """A lambda whose result decides about the whole, and is not known yet."""


@dataclass(frozen=True)
class _Lambda:
    function: str
    variables: tuple[str, ...]
    body: Node
    context: Context
    evaluate: Evaluate

    def __call__(self, *values: Value) -> Value:
        """The body with the lambda's variables set to the values; values that it does not name are left out."""
        bound = {name.lower(): value for name, value in zip(self.variables, values, strict=False)}
        variables: Mapping[str, Value] = {**self.context.lambda_variables, **bound}
        return self.evaluate(self.body, replace(self.context, lambda_variables=variables))

    def known(self, *values: Value) -> Value:
        result = self(*values)
        if isinstance(result, Unevaluated):
            raise _NotYet
        return result

    def truth(self, *values: Value) -> bool:
        return arguments.truth(self.function, self.known(*values))

    def key(self, value: Value) -> str:
        return arguments.text(self.function, self.known(value))


def _lambda(function: str, node: Node, least: int, most: int, context: Context, evaluate: Evaluate) -> _Lambda:
    if not isinstance(node, Call) or node.namespace or node.name.lower() != "lambda":
        raise failed(function, "it expects a lambda function as an argument.")
    check_count("lambda", 1, None, node.arguments)
    names: list[str] = []
    for argument in node.arguments[:-1]:
        if not isinstance(argument, Literal) or not isinstance(argument.value, str):
            raise failed(function, "the variables of its lambda function must be literal strings.")
        names.append(argument.value)
    if not least <= len(names) <= most:
        wanted = f"'{least}'" if least == most else f"from '{least}' to '{most}'"
        raise failed(function, f"its lambda function must have {wanted} variables, and has '{len(names)}'.")
    return _Lambda(function, tuple(names), node.arguments[-1], context, evaluate)


def _higher(
    name: str,
    shape: tuple[tuple[int, int], ...],
    apply: Callable[[Value, list[_Lambda], list[Value]], Value],
    values: int = 0,
    least: int | None = None,
) -> Function:
    """A function of a container, then `values` plain arguments, then lambdas.

    `shape` has the least and the most variables of each lambda; `least` is the number of arguments that the function
    needs, where the last lambdas may be left out.
    """
    most = 1 + values + len(shape)

    def run(call: Call, context: Context, evaluate: Evaluate) -> Value:
        check_count(name, least or most, most, call.arguments)
        evaluated = [evaluate(argument, context) for argument in call.arguments[: 1 + values]]
        given = call.arguments[1 + values :]
        lambdas = [
            _lambda(name, node, least_count, most_count, context, evaluate)
            for node, (least_count, most_count) in zip(given, shape, strict=False)
        ]
        unevaluated = Unevaluated(Call(call.name, (*(as_node(value) for value in evaluated), *given)))
        if any(isinstance(value, Unevaluated) for value in evaluated):
            return unevaluated
        try:
            return apply(evaluated[0], lambdas, evaluated[1:])
        except _NotYet:
            return unevaluated

    return Function(name, least or most, most, lazy=run)


def _map(container: Value, lambdas: list[_Lambda], values: list[Value]) -> Value:
    return [lambdas[0](item, index) for index, item in enumerate(arguments.array("map", container))]


def _filter(container: Value, lambdas: list[_Lambda], values: list[Value]) -> Value:
    items = enumerate(arguments.array("filter", container))
    return [item for index, item in items if lambdas[0].truth(item, index)]


def _sort(container: Value, lambdas: list[_Lambda], values: list[Value]) -> Value:
    def order(left: Value, right: Value) -> int:
        return lambdas[0].truth(right, left) - lambdas[0].truth(left, right)

    return sorted(arguments.array("sort", container), key=cmp_to_key(order))


def _reduce(container: Value, lambdas: list[_Lambda], values: list[Value]) -> Value:
    current = values[0]
    for index, item in enumerate(arguments.array("reduce", container)):
        current = lambdas[0](current, item, index)
    return current


def _to_object(container: Value, lambdas: list[_Lambda], values: list[Value]) -> Value:
    key, *rest = lambdas
    return {key.key(item): rest[0](item) if rest else item for item in arguments.array("toObject", container)}


def _group_by(container: Value, lambdas: list[_Lambda], values: list[Value]) -> Value:
    key, *rest = lambdas
    groups: dict[str, Value] = {}
    for item in arguments.array("groupBy", container):
        groups.setdefault(key.key(item), []).append(rest[0](item) if rest else item)
    return groups


def _map_values(container: Value, lambdas: list[_Lambda], values: list[Value]) -> Value:
    return {key: lambdas[0](item) for key, item in arguments.mapping("mapValues", container).items()}


def _lambda_variables(context: Context, given: list[Value]) -> Value:
    name = arguments.text("lambdaVariables", given[0])
    if name.lower() not in context.lambda_variables:
        raise ExpressionError(f"The lambda variable '{name}' is not found.")
    return context.lambda_variables[name.lower()]


def _misplaced(call: Call, context: Context, evaluate: Evaluate) -> Value:
    raise ExpressionError(
        "The template function 'lambda' is not expected at this location. "
        "It can only be an argument of filter, groupBy, map, mapValues, reduce, sort or toObject."
    )


FUNCTIONS = (
    _higher("map", ((1, 2),), _map),
    _higher("filter", ((1, 2),), _filter),
    _higher("sort", ((2, 2),), _sort),
    _higher("reduce", ((2, 3),), _reduce, values=1),
    _higher("toObject", ((1, 1), (1, 1)), _to_object, least=2),
    _higher("groupBy", ((1, 1), (1, 1)), _group_by, least=2),
    _higher("mapValues", ((1, 1),), _map_values),
    Function("lambdaVariables", 1, 1, scoped=_lambda_variables),
    Function("lambda", 1, None, lazy=_misplaced),
)

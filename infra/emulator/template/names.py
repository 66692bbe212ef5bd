"""What names in a template stand for: its parameters, variables and functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from infra.emulator.template.context import Context, Unevaluated, UserFunction
from infra.emulator.template.errors import ExpressionError, TemplateError
from infra.emulator.template.evaluator import evaluate_value
from infra.emulator.template.expressions import Call, Literal
from infra.emulator.template.place import Place
from infra.emulator.template.schema import Types
from infra.emulator.template.values import Value, find_key, fold


@dataclass(frozen=True)
class Given:
    """The value that a parameter was given, and what a preview shows in its place."""

    value: Value = field(repr=False)
    preview: Value


class TemplateNames:
    """The names of one template. Values are computed when asked for, once, so that they may use one another."""

    def __init__(
        self,
        parameters: Mapping[str, Any],
        given: Mapping[str, Given],
        variables: Mapping[str, Any],
        functions: Mapping[str, UserFunction],
        types: Types,
    ) -> None:
        self._parameters = parameters
        self._given = {fold(name): value for name, value in given.items()}
        self._variables = {name: value for name, value in variables.items() if name != "copy"}
        self._loops = {loop["name"]: loop for loop in variables.get("copy", [])}
        self._functions = functions
        self._types = types
        self._known: dict[tuple[str, str, bool, bool], Value] = {}
        self._asked: list[tuple[str, str, bool, bool]] = []

    @property
    def variables(self) -> list[str]:
        return [*self._variables, *self._loops]

    def parameter(self, name: str, context: Context) -> Value:
        known = find_key(self._parameters, name)
        if known is None:
            raise ExpressionError(
                f"The template parameter '{name}' is not found. "
                "Please see https://aka.ms/arm-syntax-parameters for usage details."
            )
        given = self._given.get(fold(known))
        if given is not None:
            return given.preview if context.masked else given.value
        definition = self._parameters[known]
        if "defaultValue" not in definition:
            if self._types.resolved(definition).get("nullable"):
                return None
            raise ExpressionError(f"The value for the template parameter '{known}' is not provided.")
        if context.masked and definition["defaultValue"] and self._types.secure(definition):
            # An empty one hides nothing.
            return secret(known)
        inner = replace(
            context, names=_DefaultNames(self), runtime=None, loops={}, lambda_variables={}, in_default=True
        )
        return self._once("parameter", known, definition["defaultValue"], inner)

    def variable(self, name: str, context: Context) -> Value:
        inner = replace(context, names=self, runtime=None, loops={}, lambda_variables={}, in_default=False)
        known = find_key(self._variables, name)
        if known is not None:
            return self._once("variable", known, self._variables[known], inner)
        loop = find_key(self._loops, name)
        if loop is None:
            raise ExpressionError(
                f"The template variable '{name}' is not found. "
                "Please see https://aka.ms/arm-syntax-variables for usage details."
            )
        return self._once("variable", loop, {"copy": [self._loops[loop]]}, inner)[loop]

    def function(self, namespace: str, name: str) -> UserFunction:
        known = self._functions.get(fold(f"{namespace}.{name}"))
        if known is None:
            raise ExpressionError(f"The template function '{namespace}.{name}' is not valid.")
        return known

    def _once(self, kind: str, name: str, value: Value, context: Context) -> Value:
        key = (kind, name, context.masked, context.partial)
        if key in self._known:
            return self._known[key]
        if key in self._asked:
            chain = " -> ".join(other for _, other, _, _ in [*self._asked[self._asked.index(key) :], key])
            raise ExpressionError(f"The template {kind} '{name}' refers to itself: {chain}.")
        self._asked.append(key)
        try:
            with context.depth.within(5):
                self._known[key] = evaluate_value(value, context)
        finally:
            self._asked.pop()
        return self._known[key]


class _DefaultNames:
    """Inside the default value of a parameter: parameters and functions, no variables."""

    def __init__(self, names: TemplateNames) -> None:
        self._names = names

    def parameter(self, name: str, context: Context) -> Value:
        return self._names.parameter(name, context)

    def variable(self, name: str, context: Context) -> Value:
        raise ExpressionError("The template function 'variables' is not expected in the default value of a parameter.")

    def function(self, namespace: str, name: str) -> UserFunction:
        return self._names.function(namespace, name)


def secret(name: str) -> Unevaluated:
    """What a preview shows in place of a secure parameter's value: the expression that asks for it."""
    return Unevaluated(Call("parameters", (Literal(name),)))


def user_functions(section: Value) -> dict[str, UserFunction]:
    """The functions that a template defines, by `namespace.name` in one case of letters."""
    found: dict[str, UserFunction] = {}
    for part in section:
        for name, member in part["members"].items():
            full_name = f"{part['namespace']}.{name}"
            parameters = tuple(
                (parameter["name"], parameter.get("type", "")) for parameter in member.get("parameters", [])
            )
            found[fold(full_name)] = UserFunction(full_name, parameters, member["output"]["value"])
    return found


def variable_problems(names: TemplateNames, context: Context, place: Place) -> list[TemplateError]:
    """What is wrong with the variables of a template: each is evaluated."""
    problems: list[TemplateError] = []
    for name in names.variables:
        try:
            names.variable(name, context)
        except ExpressionError as error:
            problems.append(place.at(name).invalid(f"The template variable '{name}' is not valid: {error}"))
    return problems

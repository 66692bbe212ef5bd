"""The outputs of a template, evaluated after its resources are deployed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from infra.emulator.template import expressions
from infra.emulator.template.context import Context
from infra.emulator.template.errors import ExpressionError, TemplateError
from infra.emulator.template.evaluator import evaluate_value, loop_count
from infra.emulator.template.place import Place
from infra.emulator.template.schema import Types
from infra.emulator.template.values import Value, type_name

_CODE = "DeploymentOutputEvaluationFailed"


def output_problems(definitions: Mapping[str, Any], place: Place) -> list[TemplateError]:
    """What is wrong with the outputs before anything is deployed: the syntax of their expressions."""
    problems: list[TemplateError] = []
    for name, definition in definitions.items():
        own = place.at(name)
        try:
            for key in ("condition", "value", "copy"):
                _parse(definition.get(key))
        except ExpressionError as error:
            problems.append(own.invalid(f"The template output '{name}' {own.where} is not valid: {error}"))
    return problems


def evaluated(
    definitions: Mapping[str, Any], types: Types, context: Context, place: Place, with_secrets: bool
) -> dict[str, dict[str, Value]]:
    """Name -> type and value; an output whose condition does not hold is left out, a null one has no value.

    Values of secure types are left out unless `with_secrets`. Raises TemplateError that names every output that fails.
    """
    result: dict[str, dict[str, Value]] = {}
    failures: list[TemplateError] = []
    for name, definition in definitions.items():
        try:
            value = next(_value(definition, context), _ABSENT)
            if value is _ABSENT:
                continue
            _check(name, value, definition, types)
        except ExpressionError as error:
            message = place.redacted(f"The template output '{name}' is not valid: {error}.")
            failures.append(TemplateError(_CODE, message, target=name))
            continue
        result[name] = {"type": types.reported(definition)}
        if value is not None and (with_secrets or not types.secure(definition)):
            result[name]["value"] = value
    if failures:
        names = ", ".join(str(failure.target) for failure in failures)
        message = (
            f"Unable to evaluate template outputs: '{names}'. Please see error details and deployment operations. "
            "Please see https://aka.ms/arm-common-errors for usage details."
        )
        raise TemplateError(_CODE, message, details=failures)
    return result


_ABSENT = object()


def _value(definition: Mapping[str, Any], context: Context) -> Iterator[Value]:
    """The value, or nothing where the condition does not hold."""
    condition = evaluate_value(definition.get("condition", True), context)
    if not isinstance(condition, bool):
        raise ExpressionError(f"The condition must be a boolean, and is of type '{type_name(condition)}'")
    if not condition:
        return
    copy = definition.get("copy")
    if copy is None:
        yield evaluate_value(definition.get("value"), context)
        return
    yield [
        evaluate_value(copy["input"], replace(context, loops={**context.loops, "": index}))
        for index in range(loop_count(copy["count"], context))
    ]


def _check(name: str, value: Value, definition: Mapping[str, Any], types: Types) -> None:
    for path, reason in types.problems(value, definition, name):
        raise ExpressionError(reason if path == name else f"{path}: {reason}")


def _parse(value: Value) -> None:
    """Raise ExpressionError for an expression, anywhere within, that cannot be parsed."""
    if isinstance(value, str) and expressions.is_expression(value):
        expressions.parse(value[1:-1])
    elif isinstance(value, list):
        for item in value:
            _parse(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            _parse(key)
            _parse(item)

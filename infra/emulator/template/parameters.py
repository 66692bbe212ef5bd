"""The parameters of a template: what was given against what is declared."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from infra.emulator.template.context import Context, Unevaluated
from infra.emulator.template.errors import ExpressionError, NotSupported, TemplateError
from infra.emulator.template.names import Given, TemplateNames, secret
from infra.emulator.template.place import Place
from infra.emulator.template.schema import Types
from infra.emulator.template.values import find_key, fold

_USAGE = "Please see https://aka.ms/arm-create-parameter-file for usage details."


def given_values(
    parameters: Mapping[str, Any], definitions: Mapping[str, Any], types: Types
) -> tuple[dict[str, Given], list[TemplateError]]:
    """The values in the `parameters` of a deployment, and what is wrong with them; null counts as not given.

    Raises NotSupported for a reference to a key vault.
    """
    given: dict[str, Given] = {}
    problems: list[TemplateError] = []
    for name, parameter in parameters.items():
        if not isinstance(parameter, dict):
            message = f"The value of the parameter '{name}' must be an object with the member 'value'."
            problems.append(TemplateError("InvalidRequestContent", message, target=name))
        elif parameter.get("reference") is not None:
            message = f"The parameter '{name}' is a Key Vault reference; a reference to a key vault is not supported."
            raise NotSupported(message, target=name)
        elif parameter.get("value") is not None:
            value, known = parameter["value"], find_key(definitions, name)
            secure = known is not None and types.secure(definitions[known])
            given[name] = Given(value, secret(name) if secure else value)
    return given, problems


def parameter_problems(
    supplied: Collection[str],
    given: Mapping[str, Given],
    definitions: Mapping[str, Any],
    types: Types,
    names: TemplateNames,
    context: Context,
    place: Place,
) -> list[TemplateError]:
    """Everything that is wrong with the parameters: unknown, missing, of a wrong type, out of bounds, bad defaults.

    `supplied` are all names in the request, `given` those that came with a value.
    """
    problems: list[TemplateError] = []
    unknown = [name for name in supplied if find_key(definitions, name) is None]
    if unknown:
        problems.append(
            place.invalid(
                f"The template parameters '{', '.join(unknown)}' in the parameters file are not valid; they are not "
                "present in the original template and can therefore not be provided at deployment time. The only "
                f"supported parameters for this template are '{', '.join(definitions)}'. "
                "Please see https://aka.ms/arm-pass-parameter-values for usage details."
            )
        )
    known = {fold(name) for name in given}
    for name, definition in definitions.items():
        own = place.at(name)
        try:
            problems += _problems_of(name, definition, fold(name) in known, types, names, context, own)
        except ExpressionError as error:
            problems.append(own.invalid(f"The template parameter '{name}' {own.where} is not valid: {error}"))
    return problems


def _problems_of(
    name: str,
    definition: Mapping[str, Any],
    given: bool,
    types: Types,
    names: TemplateNames,
    context: Context,
    place: Place,
) -> list[TemplateError]:
    schema = types.resolved(definition)
    if not given and "defaultValue" not in definition and not schema.get("nullable"):
        reason = f"The value for the template parameter '{name}' {place.where} is not provided. {_USAGE}"
        return [place.invalid(reason)]
    value = names.parameter(name, context)
    return [
        place.invalid(f"The provided value for the template parameter '{path}' {place.where} is not valid. {reason}")
        for path, reason in types.problems(value, definition, name)
    ]


def reported(definitions: Mapping[str, Any], types: Types, context: Context) -> dict[str, Any]:
    """The parameters as the resource manager answers them: name -> type and value, secure ones without value."""
    result: dict[str, Any] = {}
    for name, definition in definitions.items():
        result[name] = {"type": types.reported(definition)}
        value = context.names.parameter(name, context)
        if not types.secure(definition) and not isinstance(value, Unevaluated):
            result[name]["value"] = value
    return result

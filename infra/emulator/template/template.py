"""A template and the values of its parameters -> its resources and outputs. No HTTP, no storage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from infra.emulator.template.context import Context
from infra.emulator.template.dependencies import Index, layers
from infra.emulator.template.entries import Entry, Family
from infra.emulator.template.errors import ExpressionError, NotSupported, TemplateError, bounded, combined
from infra.emulator.template.expansion import Expansion
from infra.emulator.template.json_text import Path, Positions, path_text
from infra.emulator.template.names import Given, TemplateNames, secret, user_functions, variable_problems
from infra.emulator.template.outputs import evaluated, output_problems
from infra.emulator.template.parameters import given_values, parameter_problems, reported
from infra.emulator.template.place import Place
from infra.emulator.template.runtime import TemplateRuntime
from infra.emulator.template.schema import Types
from infra.emulator.template.scope import Resolver, Scope
from infra.emulator.template.shape import shape_problems
from infra.emulator.template.values import Value, find_key, fold, type_name

_SECTIONS: Mapping[str, tuple[type, ...]] = {
    "$schema": (str,),
    "languageVersion": (str,),
    "contentVersion": (str,),
    "apiProfile": (str,),
    "metadata": (dict,),
    "definitions": (dict,),
    "functions": (list,),
    "parameters": (dict,),
    "variables": (dict,),
    "resources": (list, dict),
    "outputs": (dict,),
}
_NOT_SUPPORTED = ("extensions", "imports")
_LIMITS = {"parameters": 256, "variables": 512, "resources": 800, "outputs": 64}
"""Most members of a section (limits of Azure Resource Manager templates)."""


@dataclass(frozen=True)
class Template:
    """A template laid out for one scope and one set of parameter values."""

    scope: Scope
    parameters: Mapping[str, Mapping[str, Any]]
    """Name -> type and value as the resource manager reports them: defaults evaluated, secure ones without value."""
    resources: tuple[Entry, ...]
    """In the order of their declaration, loops expanded; also existing ones and those whose condition is false."""
    _definitions: Mapping[str, Any] = field(repr=False)
    _types: Types = field(repr=False)
    _context: Context = field(repr=False)
    _indexes: tuple[Index[Entry], ...] = field(repr=False)
    _place: Place = field(repr=False)

    def outputs(self, resolver: Resolver, *, with_secrets: bool = False) -> dict[str, dict[str, Value]]:
        """Name -> {"type", "value"} of the outputs, in their declared case; call it after the deployment.

        A null output has no value, nor has one of a secure type unless `with_secrets`. Raises TemplateError
        (DeploymentOutputEvaluationFailed) with one detail for each output that cannot be evaluated.
        """
        runtime = TemplateRuntime(self._indexes, self.scope, resolver)
        context = replace(self._context, runtime=runtime, partial=False)
        with bounded():
            return evaluated(self._definitions, self._types, context, self._place, with_secrets)


def order(template: Template) -> tuple[tuple[Entry, ...], ...]:
    """The resources in batches, each of which needs only resources of earlier ones; serial loops are obeyed.

    Raises TemplateError (InvalidTemplate) that names a cycle.
    """
    return layers(template.resources, {entry.key: entry.predecessors for entry in template.resources})


def parse(
    document: Value,
    parameters: Mapping[str, Any],
    scope: Scope,
    *,
    positions: Positions | None = None,
    path: Path = ("properties", "template"),
) -> Template:
    """Lay out a template. `parameters` are those of the request: name -> {"value": ...}.

    `positions` (of `json_text.read`) and `path`, the place of the template in that text, give errors their line and
    column. Raises TemplateError: the first problem, with all of them in its details where there are more.
    """
    place = Place(positions or Positions(), path)
    with bounded():
        sections = _sections(document, place)
        types = Types(sections.get("definitions", {}))
        given, problems = given_values(parameters, sections.get("parameters", {}), types)
        return _laid_out(sections, parameters, given, problems, scope, place)


def _laid_out(
    sections: Mapping[str, Any],
    supplied: Iterable[str],
    given: Mapping[str, Given],
    problems: list[TemplateError],
    scope: Scope,
    place: Place,
    partial: bool = False,
) -> Template:
    types = Types(sections.get("definitions", {}))
    definitions, variables = sections.get("parameters", {}), sections.get("variables", {})
    secure = {fold(name) for name, definition in definitions.items() if types.secure(definition)}
    place = place.hiding(own.value for name, own in given.items() if fold(name) in secure)
    functions = user_functions(sections.get("functions", []))
    names = TemplateNames(definitions, given, variables, functions, types)
    context = Context(scope, names, partial=partial)
    found = parameter_problems(list(supplied), given, definitions, types, names, context, place.at("parameters"))
    problems = [*problems, *found]
    if not problems:
        # Variables use parameters, so with bad parameters their problems would be told twice.
        problems = variable_problems(names, context, place.at("variables"))
    problems += output_problems(sections.get("outputs", {}), place.at("outputs"))
    _raise(problems)
    return _with_resources(sections, types, context, scope, place, ())


def _with_resources(
    sections: Mapping[str, Any],
    types: Types,
    context: Context,
    scope: Scope,
    place: Place,
    outer: tuple[Index[Entry], ...],
) -> Template:
    indexes = (Index[Entry](), *outer)
    family = Family(scope, indexes, _nested)
    expansion = Expansion(family, context)
    expansion.run(sections["resources"], place.at("resources"))
    _raise(expansion.problems)
    problems: list[TemplateError] = []
    for entry in expansion.entries:
        if entry.condition and not entry.existing:
            try:
                entry.check()
            except TemplateError as error:
                problems.append(error)
    _raise(problems)
    outputs = sections.get("outputs", {})
    declared = {} if outer else sections.get("parameters", {})
    template = Template(
        scope=scope,
        parameters=reported(declared, types, context),
        resources=tuple(expansion.entries),
        _definitions=outputs,
        _types=types,
        _context=context,
        _indexes=indexes,
        _place=place.at("outputs"),
    )
    order(template)
    return template


def _nested(
    document: Value, given: Mapping[str, Given], scope: Scope, place: Place, partial: bool, outer: Entry | None
) -> Template:
    sections = _sections(document, place)
    types = Types(sections.get("definitions", {}))
    if outer is None:
        definitions = sections.get("parameters", {})
        shown = {name: Given(own.value, _shown(name, own, definitions, types)) for name, own in given.items()}
        return _laid_out(sections, given, shown, [], scope, place, partial)
    # Expressions are those of the enclosing template: its names, its scope, its loop around the nested deployment.
    _raise(output_problems(sections.get("outputs", {}), place.at("outputs")))
    context = replace(outer.context, partial=partial)
    return _with_resources(sections, types, context, scope, place, outer.family.indexes)


def _shown(name: str, given: Given, definitions: Mapping[str, Any], types: Types) -> Value:
    """A value that is passed on in the open is masked when the nested template declares it as secure."""
    known = find_key(definitions, name)
    secure = known is not None and types.secure(definitions[known])
    return secret(name) if secure and given.preview == given.value else given.preview


def _raise(problems: list[TemplateError]) -> None:
    if problems:
        raise combined(problems)


def _sections(document: Value, place: Place) -> Mapping[str, Any]:
    """The template's sections, checked for their presence and JSON types."""
    if not isinstance(document, dict):
        raise _malformed(f"The template must be an object, and is of type '{type_name(document)}'.", place)
    problems: list[TemplateError] = []
    for name, value in document.items():
        if name in _NOT_SUPPORTED:
            raise NotSupported(f"The template section '{name}' is not supported.", target=name)
        if name not in _SECTIONS:
            message = f"Could not find member '{name}' on object of type 'Template'."
            problems.append(_malformed(message, place.at(name)))
        elif value is not None and not isinstance(value, _SECTIONS[name]):
            message = f"The section '{name}' has the wrong type '{type_name(value)}'."
            problems.append(_malformed(message, place.at(name)))
    for name in ("$schema", "contentVersion", "resources"):
        if document.get(name) is None:
            problems.append(_malformed(f"Required property '{name}' not found in JSON.", place))
    _raise(problems)
    sections = {name: value for name, value in document.items() if value is not None}
    if isinstance(sections["resources"], dict) and not str(sections.get("languageVersion", "1")).startswith("2"):
        raise place.at("resources").invalid(
            "The resources of a template can only be an object with symbolic names where its languageVersion is 2.0."
        )
    for name, limit in _LIMITS.items():
        count = len(sections.get(name, ()))
        if count > limit:
            problems.append(
                place.at(name).invalid(
                    f"The number of template {name} limit exceeded. Limit: '{limit}' and actual count: '{count}'. "
                    "Please see https://aka.ms/arm-template for usage details."
                )
            )
    _raise(problems or shape_problems(sections, place))
    _raise(_bad_types(sections, place))
    return sections


def _bad_types(sections: Mapping[str, Any], place: Place) -> list[TemplateError]:
    """Declarations whose type names nothing that there is; everything after this relies on types."""
    types = Types(sections.get("definitions", {}))
    problems: list[TemplateError] = []
    for section in ("definitions", "parameters", "outputs"):
        for name, definition in sections.get(section, {}).items():
            own = place.at(section, name)
            try:
                types.secure(definition)
            except ExpressionError as error:
                what = f"The template {section[:-1]} '{name}' {own.where} is not valid"
                problems.append(own.invalid(f"{what}: {error}"))
    return problems


def _malformed(reason: str, place: Place) -> TemplateError:
    return TemplateError(
        "InvalidRequestContent",
        f"The request content was invalid and could not be deserialized: '{reason} Path '{path_text(place.path)}', "
        f"line {place.line}, position {place.column}.'.",
        line=place.line,
        column=place.column,
        path=path_text(place.path),
    )

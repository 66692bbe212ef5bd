"""Types of parameters and outputs: what a template declares, and whether a value keeps to it.

Knows the classic types with their constraints and the type language of languageVersion 2.0: definitions, `$ref`,
nullable, properties, additionalProperties, items, prefixItems, discriminator.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from infra.emulator.template.context import Unevaluated
from infra.emulator.template.errors import ExpressionError
from infra.emulator.template.values import Value, contained, find_key, is_integer, json_text, text_of, type_name, units

Schema = Mapping[str, Any]

_KINDS: Mapping[str, tuple[str, str]] = {
    "string": ("String", "String, Uri"),
    "securestring": ("SecureString", "String, Uri"),
    "int": ("Int", "Integer"),
    "bool": ("Bool", "Boolean"),
    "array": ("Array", "Array"),
    "object": ("Object", "Object"),
    "secureobject": ("SecureObject", "Object"),
}
"""By type in lower case: its name in the resource manager's answers, and what its errors say was expected."""

_REFERENCE = "#/definitions/"


class Types:
    """The named types of one template."""

    def __init__(self, definitions: Mapping[str, Any]) -> None:
        self._definitions = definitions

    def resolved(self, schema: Schema) -> Schema:
        """The schema with its `$ref` replaced by what that names. Raises ExpressionError."""
        seen: list[str] = []
        while "$ref" in schema:
            reference = schema["$ref"]
            name = str(reference).removeprefix(_REFERENCE)
            known = find_key(self._definitions, name) if str(reference).startswith(_REFERENCE) else None
            if known is None:
                raise ExpressionError(f"The type reference '{reference}' does not name a definition of the template.")
            if known in seen:
                raise ExpressionError(f"The definition '{known}' refers to itself.")
            seen.append(known)
            target = self._definitions[known]
            own = {key: value for key, value in schema.items() if key != "$ref"}
            schema = {**target, **own, "nullable": bool(own.get("nullable") or target.get("nullable"))}
        declared = schema.get("type")
        if declared is not None and (not isinstance(declared, str) or declared.lower() not in _KINDS):
            names = ", ".join(_KINDS)
            raise ExpressionError(f"The type '{declared}' is not known; the types are {names} (in any case).")
        return schema

    def reported(self, schema: Schema) -> str:
        """The name of the type as the resource manager answers it: String, Int, SecureObject, ..."""
        declared = self.resolved(schema).get("type")
        return _KINDS[str(declared).lower()][0] if declared is not None else "Object"

    def secure(self, schema: Schema, seen: frozenset[str] = frozenset()) -> bool:
        """Whether a value of the type is secret, or has a secret within. Raises ExpressionError for a bad schema."""
        reference = str(schema.get("$ref", ""))
        if reference in seen:
            return False
        seen = seen | {reference} if reference else seen
        resolved = self.resolved(schema)
        if str(resolved.get("type", "")).lower().startswith("secure"):
            return True
        inner = [*resolved.get("properties", {}).values(), *resolved.get("prefixItems", [])]
        inner += [resolved[key] for key in ("items", "additionalProperties") if isinstance(resolved.get(key), dict)]
        inner += resolved.get("discriminator", {}).get("mapping", {}).values()
        return any(self.secure(part, seen) for part in inner)

    def problems(self, value: Value, schema: Schema, path: str) -> Iterator[tuple[str, str]]:
        """What is wrong with a value: the path of the part, and the reason. Raises ExpressionError for a bad schema."""
        if isinstance(value, Unevaluated):
            return
        schema = self.resolved(schema)
        if value is None and schema.get("nullable"):
            return
        declared = str(schema.get("type", "")).lower()
        if declared and not _fits(value, declared):
            yield (
                path,
                (
                    f"Expected a value of type '{_KINDS[declared][1]}', but received a value of type "
                    f"'{type_name(value)}'. Please see https://aka.ms/arm-create-parameter-file for usage details."
                ),
            )
            return
        for reason in _constraints(value, schema, declared.startswith("secure")):
            yield path, reason
        if isinstance(value, list):
            yield from self._items(value, schema, path)
        elif isinstance(value, dict):
            yield from self._members(value, schema, path)

    def _items(self, value: list[Value], schema: Schema, path: str) -> Iterator[tuple[str, str]]:
        first = schema.get("prefixItems", [])
        for index, item in enumerate(value):
            place = f"{path}[{index}]"
            if index < len(first):
                yield from self.problems(item, first[index], place)
            elif schema.get("items") is False:
                yield place, f"The array may have no more than '{len(first)}' items."
            elif isinstance(schema.get("items"), dict):
                yield from self.problems(item, schema["items"], place)
        if len(value) < len(first):
            yield path, f"The array must have at least '{len(first)}' items, and has '{len(value)}'."

    def _members(self, value: dict[str, Value], schema: Schema, path: str) -> Iterator[tuple[str, str]]:
        discriminator = schema.get("discriminator")
        if discriminator:
            key = find_key(value, discriminator["propertyName"])
            chosen = discriminator["mapping"].get(value[key]) if key and isinstance(value[key], str) else None
            if chosen is None:
                allowed = ",".join(discriminator["mapping"])
                place = f"{path}.{discriminator['propertyName']}"
                yield place, f"The property chooses the type of the object; it must be one of: '{allowed}'."
                return
            schema = {**schema, **self.resolved(chosen)}
        properties = schema.get("properties", {})
        for name, member in properties.items():
            key = find_key(value, name)
            if key is not None:
                yield from self.problems(value[key], member, f"{path}.{name}")
            elif not self.resolved(member).get("nullable"):
                yield f"{path}.{name}", "The property is required and was not provided."
        more = schema.get("additionalProperties")
        for name in value:
            if find_key(properties, name) is not None:
                continue
            if more is False:
                yield f"{path}.{name}", "The property is not one that the type has."
            elif isinstance(more, dict):
                yield from self.problems(value[name], more, f"{path}.{name}")


def _fits(value: Value, declared: str) -> bool:
    if declared == "int":
        return is_integer(value)
    python_type = {"bool": bool, "array": list, "object": dict, "secureobject": dict}.get(declared, str)
    return isinstance(value, python_type)


def _constraints(value: Value, schema: Schema, secret: bool) -> Iterator[str]:
    allowed = schema.get("allowedValues")
    if allowed is not None and not contained(value, allowed):
        # Of an array each element may be one of the allowed values.
        each = isinstance(value, list) and all(contained(item, allowed) for item in value)
        if not each:
            choices = ",".join(text_of(item) for item in allowed)
            shown = "" if secret else f" The value is {json_text(value, quote=chr(39))}."
            yield f"The parameter value is not part of the allowed value(s): '{choices}'.{shown}"
    if isinstance(value, (str, list)):
        length = len(units(value)) if isinstance(value, str) else len(value)
        yield from _bounds("Length of the value", length, schema.get("minLength"), schema.get("maxLength"))
    if is_integer(value):
        yield from _bounds("The value", value, schema.get("minValue"), schema.get("maxValue"))


def _bounds(what: str, number: int, least: Value, most: Value) -> Iterator[str]:
    usage = "Please see https://aka.ms/arm-syntax-parameters for usage details."
    if is_integer(least) and number < least:
        yield f"{what} should be greater than or equal to '{least}'. {usage}"
    if is_integer(most) and number > most:
        yield f"{what} should be less than or equal to '{most}'. {usage}"

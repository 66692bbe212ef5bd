"""The body of a request against the schema of its type: what is wrong with it, in the order of the schema's paths.

Lenient where services are: keys in any case, null as if absent, read-only properties as if absent, since clients send
back what they got. Knows no service's words and none of its own rules.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from infra.emulator.schemas.library import Schema

if TYPE_CHECKING:
    from jsonschema import ValidationError

# Clients add it to what they got and send it back: the Azure CLI does.
_FROM_CLIENTS = frozenset({"id", "name", "type", "apiversion", "resourcegroup", "systemdata", "etag"})
_NAMES = {"object": "an object", "array": "an array", "string": "a string", "boolean": "a boolean"}
_NAMES |= {"integer": "an integer", "number": "a number"}


@dataclass(frozen=True)
class Problem:
    """`kind` is unknown, missing, type or value; `path` names the property, `owner` the type of the object it is in."""

    kind: str
    path: str
    owner: str
    value: Any = None
    wanted: str = ""

    @property
    def name(self) -> str:
        """The property's own name."""
        return self.path.rpartition(".")[2]

    @property
    def parent(self) -> str:
        """The path of the object that it is in."""
        return self.path.rpartition(".")[0]


def problems(
    schema: Schema, body: dict[str, Any], *, partial: bool, preview: bool, texts_as_values: bool
) -> list[Problem]:
    """`partial`: a PATCH, in which nothing is required. `texts_as_values`: counts and switches may come as texts.

    `preview`: expressions ("[...]") are not evaluated yet and are taken for anything.
    """
    given = {key: value for key, value in body.items() if key.lower() not in _FROM_CLIENTS}
    fitted = _Fitting(schema, texts_as_values).value(given, schema.root)
    found = [
        problem
        for error in schema.validator.iter_errors(fitted)
        if not (preview and _is_expression(error.instance))
        for problem in _of(error, schema, partial=partial)
    ]
    return sorted(found, key=lambda problem: (problem.path, problem.kind))


class _Fitting:
    """Brings a body into the schema's spelling."""

    def __init__(self, schema: Schema, texts_as_values: bool) -> None:
        self._schema, self._texts_as_values = schema, texts_as_values

    def value(self, value: Any, schema: Any) -> Any:
        if not isinstance(schema, dict):
            return value
        schema = self._schema.resolved(schema)
        if isinstance(value, dict):
            return self._object(value, schema)
        if isinstance(value, list):
            return [self.value(item, schema.get("items")) for item in value]
        return self._scalar(value, schema)

    def _object(self, value: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
        members = schema.get("properties", {})
        spelling = {name.lower(): name for name in members}
        others = schema.get("additionalProperties")
        fitted = {}
        for key, item in value.items():
            name = spelling.get(key.lower())
            if item is None or (name is not None and members[name].get("readOnly")):
                continue
            fitted[name or key] = self.value(item, members[name] if name is not None else others)
        return fitted

    def _scalar(self, value: Any, schema: dict[str, Any]) -> Any:
        for choice in schema.get("enum", ()):
            if isinstance(value, str) and isinstance(choice, str) and choice.lower() == value.lower():
                return choice
        wanted = schema.get("type")
        if not self._texts_as_values or isinstance(value, bool):
            return value
        if wanted == "string" and isinstance(value, (int, float)):
            return str(value)
        if wanted == "boolean" and isinstance(value, str) and value.lower() in ("true", "false"):
            return value.lower() == "true"
        if wanted in ("integer", "number") and isinstance(value, str):
            try:
                number = float(value)
            except ValueError:
                return value
            return number if math.isfinite(number) else value
        return value


def _of(error: ValidationError, schema: Schema, *, partial: bool) -> Iterator[Problem]:
    given: Any = error.instance
    demanded: Any = error.validator_value
    path = functools.reduce(_joined, error.absolute_path, "")
    rule = str(error.validator)
    owner = str(error.schema.get("title", "")) if isinstance(error.schema, dict) else ""
    if rule == "additionalProperties" and isinstance(error.schema, dict):
        known = error.schema.get("properties", {})
        for key in given:
            if key not in known:
                yield Problem("unknown", _joined(path, key), owner, given[key])
    elif rule == "required":
        missing = [name for name in demanded if name not in given]
        # One error for each of them; the message begins with its name.
        names = [name for name in missing if error.message.startswith(repr(name))]
        if not partial:
            yield from (Problem("missing", _joined(path, name), owner) for name in names)
    elif rule in ("type", "anyOf"):
        wanted = schema.resolved(error.schema).get("type", "") if isinstance(error.schema, dict) else ""
        yield Problem("type", path, owner, given, _NAMES.get(str(wanted), str(wanted)))
    else:
        choices = ", ".join(map(str, demanded)) if rule == "enum" else f"{rule} {demanded}"
        yield Problem("value", path, owner, given, f"one of {choices}" if rule == "enum" else choices)


def _joined(path: str, part: str | int) -> str:
    if isinstance(part, int):
        return f"{path}[{part}]"
    return f"{path}.{part}" if path else part


def _is_expression(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("[") and not value.startswith("[[") and value.endswith("]")

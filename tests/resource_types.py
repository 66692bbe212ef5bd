"""The official schemas of resource types: what is wrong with a resource as a template or a request sends it.

The rules that the schemas themselves do not say are in infra/emulator/schemas/README.md.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any

from jsonschema import Draft202012Validator

from infra.emulator.schemas import FOLDER


def problems(resource: Mapping[str, Any]) -> list[str]:
    """What the type's schema has against a whole resource (type, apiVersion, name, ...), each with its place.

    Raises FileNotFoundError when there is no schema of that type and version.
    """
    validator = _validator(str(resource["type"]), str(resource["apiVersion"]))
    found = validator.iter_errors(_without_nulls(dict(resource)))
    return [f"{error.json_path}: {error.message}" for error in sorted(found, key=lambda error: error.json_path)]


@functools.cache
def _validator(type_name: str, api_version: str) -> Draft202012Validator:
    namespace, _, names = type_name.partition("/")
    schema = json.loads((FOLDER / namespace / f"{names.replace('/', '.')}@{api_version}.json").read_text())
    return Draft202012Validator(_as_sent(schema))


def _as_sent(schema: Any) -> Any:
    """The schema without what a sender must not send: read-only properties, words of the template language."""
    if isinstance(schema, list):
        return [_as_sent(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: {name: _property(value) for name, value in part.items()} if key == "properties" else _as_sent(part)
        for key, part in schema.items()
    }


def _property(schema: Any) -> Any:
    forbidden = schema.get("readOnly") or schema.get("x-template-envelope")
    return False if forbidden else _as_sent(schema)


def _without_nulls(value: Any) -> Any:
    """The compiler takes null for every property, as if it were not there."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value

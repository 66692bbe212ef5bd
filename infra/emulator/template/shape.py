"""The JSON structure of a template's declarations, so that everything behind it may rely on it.

Resources are not part of it: what is wrong with one of them is told with its name, where it is laid out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jsonschema import Draft202012Validator

from infra.emulator.template.errors import TemplateError
from infra.emulator.template.place import Place
from infra.emulator.template.values import Value

_TYPE = {"$ref": "#/$defs/type"}
_TYPES = {"type": "object", "additionalProperties": _TYPE}
_SHAPE: Mapping[str, Any] = {
    "properties": {
        "languageVersion": {"type": "string", "pattern": r"^[12]\."},
        "definitions": _TYPES,
        "parameters": _TYPES,
        "functions": {
            "items": {
                "type": "object",
                "required": ["namespace", "members"],
                "properties": {
                    "namespace": {"type": "string"},
                    "members": {"type": "object", "additionalProperties": {"$ref": "#/$defs/function"}},
                },
            }
        },
        "variables": {"properties": {"copy": {"type": "array", "items": {"$ref": "#/$defs/loop"}}}},
        "outputs": {
            "additionalProperties": {
                "allOf": [_TYPE],
                "anyOf": [{"required": ["value"]}, {"required": ["copy"]}],
                "properties": {"copy": {"type": "object", "required": ["count", "input"]}},
            }
        },
    },
    "$defs": {
        "loop": {
            "type": "object",
            "required": ["name", "count", "input"],
            "properties": {"name": {"type": "string", "minLength": 1}},
        },
        "function": {
            "type": "object",
            "required": ["output"],
            "properties": {
                "parameters": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["name"],
                        "properties": {"name": {"type": "string"}, "type": {"type": "string"}},
                    },
                },
                "output": {"type": "object", "required": ["value"]},
            },
        },
        "type": {
            "type": "object",
            "properties": {
                "type": {"type": "string"},
                "$ref": {"type": "string"},
                "nullable": {"type": "boolean"},
                "allowedValues": {"type": "array"},
                "minLength": {"type": "integer"},
                "maxLength": {"type": "integer"},
                "minValue": {"type": "integer"},
                "maxValue": {"type": "integer"},
                "properties": _TYPES,
                "prefixItems": {"type": "array", "items": _TYPE},
                "items": {"anyOf": [_TYPE, {"type": "boolean"}]},
                "additionalProperties": {"anyOf": [_TYPE, {"type": "boolean"}]},
                "discriminator": {
                    "type": "object",
                    "required": ["propertyName", "mapping"],
                    "properties": {"propertyName": {"type": "string"}, "mapping": _TYPES},
                },
            },
        },
    },
}
_VALIDATOR = Draft202012Validator(_SHAPE)


def shape_problems(template: Value, place: Place) -> list[TemplateError]:
    """What is wrong with the structure of a template's declarations, in the order of their places."""
    errors = sorted(_VALIDATOR.iter_errors(template), key=lambda error: [str(step) for step in error.absolute_path])
    problems: list[TemplateError] = []
    for error in errors:
        own = place.at(*error.absolute_path)
        what = ".".join(str(step) for step in error.absolute_path)
        problems.append(own.invalid(f"The declaration '{what}' {own.where} is not valid: {error.message}."))
    return problems

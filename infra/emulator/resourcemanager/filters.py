"""$filter of lists: comparisons by `eq`, joined by `and`. Everything else of OData is not done here."""

from __future__ import annotations

import re
from typing import Any

from infra.emulator import regions
from infra.emulator.exceptions import NotEmulated

_COMPARISON = re.compile(r"\s*(\w+)\s+eq\s+'((?:[^']|'')*)'\s*", re.IGNORECASE)
_AND = re.compile(r"and\b", re.IGNORECASE)


def matches(expression: str, document: dict[str, Any]) -> bool:
    """Whether a resource, group or deployment passes. Raises NotEmulated for what the grammar lacks."""
    compared = _comparisons(expression)
    tags = document.get("tags") or {}
    for name, value in compared.items():
        if name == "tagname":
            if value.lower() not in (tag.lower() for tag in tags):
                return False
        elif name == "tagvalue":
            wanted = compared.get("tagname")
            if value not in (text for tag, text in tags.items() if wanted is None or tag.lower() == wanted.lower()):
                return False
        elif name == "location":
            if regions.normalized(str(document.get("location", ""))) != regions.normalized(value):
                return False
        elif _property(name, document).lower() != value.lower():
            return False
    return True


def _property(name: str, document: dict[str, Any]) -> str:
    if name == "resourcetype":
        return str(document["type"])
    if name == "name":
        return str(document["name"])
    if name == "resourcegroup":
        parts = str(document["id"]).split("/")
        return parts[4] if len(parts) > 4 and parts[3].lower() == "resourcegroups" else ""
    if name == "provisioningstate":
        return str(document["properties"].get("provisioningState", ""))
    raise NotEmulated(f"$filter by {name}")


def _comparisons(expression: str) -> dict[str, str]:
    compared: dict[str, str] = {}
    at = 0
    while expression[at:].strip():
        if compared:
            joint = _AND.match(expression, at)
            if joint is None:
                raise NotEmulated(f"$filter={expression}")
            at = joint.end()
        found = _COMPARISON.match(expression, at)
        if found is None:
            raise NotEmulated(f"$filter={expression}")
        compared[found[1].lower()] = found[2].replace("''", "'")
        at = found.end()
    return compared

"""The parts of a deployment's document, as the service writes them. Pure."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from infra.emulator.resource_id import ResourceId

DEPLOYMENT_TYPE = "Microsoft.Resources/deployments"
GROUP_TYPE = "Microsoft.Resources/resourceGroups"


@dataclass(frozen=True)
class Node:
    """A resource of a template as the document names it: `location` is None for a type without one."""

    id: str
    type: str
    location: str | None
    depends_on: tuple[str, ...] = ()


def camel_case(name: str) -> str:
    """The name as the service's serializer writes it: AZURE_STORAGE_ID -> azurE_STORAGE_ID, NewNSG -> newNSG.

    Letters become small from the left, as long as they are capitals; the last capital of a longer name stays when
    something other than a capital follows it.
    """
    letters = list(name)
    for index, letter in enumerate(letters):
        if not letter.isupper():
            break
        if index > 0 and index + 1 < len(letters) and not letters[index + 1].isupper():
            break
        letters[index] = letter.lower()
    return "".join(letters)


def name_in_full(resource_id: str) -> str:
    """`parent/child` of the id of a resource; the name of a resource group."""
    try:
        return "/".join(ResourceId.parse(resource_id).names)
    except ValueError:
        return resource_id.rpartition("/")[2]


def providers(nodes: Iterable[Node]) -> list[dict[str, Any]]:
    """Namespaces, their types and the locations of these, each in the order of first mention."""
    found: dict[str, dict[str, list[str | None]]] = {}
    for node in nodes:
        namespace, _, own = node.type.partition("/")
        locations = found.setdefault(namespace, {}).setdefault(own, [])
        if node.location not in locations:
            locations.append(node.location)
    return [
        {
            "namespace": namespace,
            "resourceTypes": [{"resourceType": own, "locations": locations} for own, locations in types.items()],
        }
        for namespace, types in found.items()
    ]


def dependencies(nodes: Sequence[Node]) -> list[dict[str, Any]]:
    """What each resource with dependsOn waits for."""
    types = {node.id.lower(): node.type for node in nodes}
    result = []
    for node in nodes:
        before = [_reference(other, types[other.lower()]) for other in node.depends_on if other.lower() in types]
        if before:
            result.append({"dependsOn": before, **_reference(node.id, node.type)})
    return result


def _reference(resource_id: str, resource_type: str) -> dict[str, str]:
    return {"id": resource_id, "resourceType": resource_type, "resourceName": name_in_full(resource_id)}


def target(node: Node) -> dict[str, str]:
    """targetResource of a deployment operation."""
    return _reference(node.id, node.type)


def ids(resource_ids: Iterable[str]) -> list[dict[str, str]]:
    """outputResources and validatedResources: sorted, each once."""
    return [{"id": one} for one in sorted(set(resource_ids), key=str.lower)]


def minified(template: Any) -> str:
    """The template's JSON without white space."""
    return json.dumps(template, separators=(",", ":"), ensure_ascii=False)


def template_hash(template: Any) -> str:
    """Up to 20 digits that are the same for templates that differ in layout alone.

    What the Bicep compiler has written into the template is Azure's own hash of it; for others the function is not
    known, and another one takes its place.
    """
    generator = template.get("metadata", {}).get("_generator", {}) if isinstance(template, dict) else {}
    if isinstance(generator, dict) and isinstance(generator.get("templateHash"), str):
        return str(generator["templateHash"])
    text = json.dumps(template, sort_keys=True, separators=(",", ":"))
    return str(int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big"))


def duration(started: str, ended: str) -> str:
    """ISO 8601, for example PT1M16.5S, between two times of operations.timestamp()."""
    seconds = max((_time(ended) - _time(started)).total_seconds(), 0.0)
    hours, rest = divmod(seconds, 3600)
    minutes, rest = divmod(rest, 60)
    text = f"PT{int(hours)}H" if hours else "PT"
    if minutes:
        text += f"{int(minutes)}M"
    return text + re.sub(r"\.?0+$", "", f"{rest:.7f}") + "S"


def _time(text: str) -> datetime:
    return datetime.strptime(text.rstrip("Z")[:26], "%Y-%m-%dT%H:%M:%S.%f").replace(tzinfo=timezone.utc)

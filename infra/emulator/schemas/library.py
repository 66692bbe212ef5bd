"""The schemas as files: which there are, and which one an API version takes. Reads nothing before it is asked."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator

FOLDER = Path(__file__).parent
# What the compiler's definition of a root has and the body of a request has not, or has without meaning.
_NOT_OF_THE_TYPE = frozenset({"type", "apiVersion", "name", "id"})
# What the services show beyond their own definitions (recorded answers), and so must take back from clients: the
# objects of the schema by type, and their properties.
_BEYOND: dict[str, dict[str, tuple[str, ...]]] = {
    "Microsoft.App/containerApps": {"ContainerAppProperties": ("delegatedIdentities", "runningStatus")},
    "Microsoft.App/managedEnvironments": {
        "ManagedEnvironmentProperties": ("openTelemetryConfiguration", "appInsightsConfiguration"),
        "WorkloadProfile": ("enableFips",),
    },
    "Microsoft.Storage/storageAccounts": {
        "StorageAccountPropertiesCreateParametersOrStorageAccountProperties": ("allowCrossTenantDelegationSas",)
    },
}


class Schema:
    """The schema of what is sent: the words of the template language are left out."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.title = str(document["title"])
        for name, definition in document["$defs"].items():
            definition["title"] = name
        for name, more in _BEYOND.get(self.title.partition("@")[0], {}).items():
            for member in more:
                document["$defs"][name]["properties"].setdefault(member, {})
        self._definitions: dict[str, Any] = document["$defs"]
        document["properties"] = {
            name: member
            for name, member in document["properties"].items()
            if not member.get("x-template-envelope") and name not in _NOT_OF_THE_TYPE
        }
        document["required"] = [name for name in document.get("required", ()) if name not in _NOT_OF_THE_TYPE]
        word = self.title.partition("@")[0].rpartition("/")[2].removesuffix("s")
        document["title"] = word[0].upper() + word[1:]
        self.root = document

    @functools.cached_property
    def validator(self) -> Draft202012Validator:
        """Compiled once; the library is imported by the first request that needs it, not by the start."""
        from jsonschema import Draft202012Validator

        return Draft202012Validator(self.root)

    def resolved(self, schema: dict[str, Any]) -> dict[str, Any]:
        """What a `$ref` points to, and the only one of an `anyOf` that has one."""
        while True:
            if "$ref" in schema:
                schema = self._definitions[schema["$ref"].rpartition("/")[2]]
            elif len(schema.get("anyOf", ())) == 1:
                schema = schema["anyOf"][0]
            else:
                return schema


@functools.cache
def load(resource_type: str, api_version: str) -> Schema | None:
    """The schema of that version, else of the next newer one, else the newest. None for a type that has none here."""
    namespace, _, names = resource_type.partition("/")
    start = f"{names.replace('/', '.')}@".lower()
    found = {
        path.stem.rpartition("@")[2]: path
        for folder in FOLDER.iterdir()
        if folder.name.lower() == namespace.lower()
        for path in folder.glob("*.json")
        if path.name.lower().startswith(start)
    }
    if not found:
        return None
    newer = [version for version in found if version >= api_version.lower()]
    return Schema(json.loads(found[min(newer) if newer else max(found)].read_text()))

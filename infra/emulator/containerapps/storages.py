"""Storages of a managed environment: which file shares its apps may mount.

The account key is taken and not kept: a mount here is a local folder, which needs none.
"""

from __future__ import annotations

import re
from typing import Any

from infra.emulator.containerapps import answers
from infra.emulator.containerapps.shapes import FREE, IGNORED, TEXT, Shape, choice, take
from infra.emulator.exceptions import AzureError, NotEmulated
from infra.emulator.provider import Answer, Call, ResourceType
from infra.emulator.resource_id import ResourceId

_STORAGE = Shape(
    "ManagedEnvironmentStorage",
    {
        "id": IGNORED,
        "name": IGNORED,
        "type": IGNORED,
        "systemData": IGNORED,
        "resourceGroup": IGNORED,
        "properties": Shape(
            "ManagedEnvironmentStorageProperties",
            {
                "provisioningState": IGNORED,
                "azureFile": Shape(
                    "AzureFileProperties",
                    {
                        "accountName": TEXT,
                        "accountKey": TEXT,
                        "accountKeyVaultProperties": FREE,
                        "shareName": TEXT,
                        "accessMode": choice("ReadOnly", "ReadWrite"),
                    },
                ),
                "nfsAzureFile": FREE,
            },
        ),
    },
)
_NAME = re.compile(r"[a-z]([a-z0-9]|-(?!-))*(?<!-)")
_NAME_LENGTH = 32


class ManagedEnvironmentStorages(ResourceType):
    """Microsoft.App/managedEnvironments/storages: a name for an account's share, and how it is mounted."""

    type = "Microsoft.App/managedEnvironments/storages"
    api_versions = answers.API_VERSIONS

    async def put(self, call: Call, resource_id: ResourceId, body: dict[str, Any]) -> Answer:
        """200, at once."""
        self._environment(resource_id)
        properties = self._properties(resource_id, body)
        document = {
            "id": str(resource_id),
            "name": resource_id.name,
            "type": "Microsoft.App/managedenvironments/storages",
            "properties": properties,
        }
        self.save(resource_id, document)
        return answers.answer(200, document)

    async def get(self, call: Call, resource_id: ResourceId) -> Answer:
        """One storage, without its key."""
        return answers.answer(200, self.document(resource_id))

    async def list(self, call: Call, within: str) -> Answer:
        """All storages of an environment."""
        self._environment(ResourceId.parse(within).child("storages", "any"))
        return answers.answer(200, (await super().list(call, within)).body)

    async def delete(self, call: Call, resource_id: ResourceId) -> Answer:
        """200; 204 when there is none."""
        return answers.answer((await super().delete(call, resource_id)).status)

    def document(self, resource_id: ResourceId) -> dict[str, Any]:
        """The stored document. Raises the provider's own 404."""
        document: dict[str, Any] | None = self.cloud.store.get("resource", resource_id.key)
        if document is None:
            self._environment(resource_id)
            raise AzureError(
                404,
                "ManagedEnvironmentStorageNotFound",
                f"ManagedEnvironment Storage '{resource_id.name}' was not found.",
            )
        return document

    def preflight(self, resource_id: ResourceId, body: dict[str, Any]) -> None:
        """Name and shape."""
        self._properties(resource_id, body)

    def _properties(self, resource_id: ResourceId, body: dict[str, Any]) -> dict[str, Any]:
        name = resource_id.name
        if not _NAME.fullmatch(name) or len(name) > _NAME_LENGTH:
            raise AzureError(
                400,
                "ManagedEnvironmentStorageInvalidName",
                f"Invalid storage name '{name}'. A name must consist of lower case alphanumeric characters or '-',"
                " start with an alphabetic character, and end with an alphanumeric character and cannot have '--'. The"
                f" length must not be more than {_NAME_LENGTH} characters.",
            )
        properties = take(body, _STORAGE).get("properties") or {}
        if properties.get("nfsAzureFile"):
            raise NotEmulated(f"{self.type} with nfsAzureFile")
        file = properties.get("azureFile") or {}
        if file.get("accountKeyVaultProperties"):
            raise NotEmulated(f"{self.type} with accountKeyVaultProperties")
        missing = [key for key in ("accountName", "accountKey", "shareName", "accessMode") if not file.get(key)]
        if missing:
            raise AzureError(
                400,
                "ManagedEnvironmentStorageInvalidProperties",
                f"Storage '{name}' is missing {', '.join('azureFile.' + key for key in missing)}.",
            )
        return {"azureFile": {key: file[key] for key in ("accountName", "shareName", "accessMode")}}

    def _environment(self, resource_id: ResourceId) -> None:
        parent = resource_id.parent
        assert parent is not None
        if self.cloud.store.get("resource", parent.key) is None:
            raise AzureError(
                404,
                "ParentResourceNotFound",
                "Failed to perform 'write' on resource(s) of type 'managedEnvironments/storages', because the parent"
                f" resource '{parent}' could not be found.",
                from_gateway=True,
            )

"""A scope to lay templates out in, and resources that answer reference() and list*()."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from infra.emulator.template import AZURE_CLOUD, Scope, Template, parse

SUBSCRIPTION = "11111111-1111-1111-1111-111111111111"
TENANT = "22222222-2222-2222-2222-222222222222"
GROUP = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/exampleRG"
STORAGE = f"{GROUP}/providers/Microsoft.Storage/storageAccounts"

RESOURCE_GROUP: Mapping[str, Any] = {
    "id": GROUP,
    "name": "exampleRG",
    "type": "Microsoft.Resources/resourceGroups",
    "location": "westus",
    "properties": {"provisioningState": "Succeeded"},
}


def scope(kind: Any = "resourceGroup", deployment: Mapping[str, Any] | None = None) -> Scope:
    """A scope of that kind in the public cloud, on the morning of 2 May 2025."""
    return Scope(
        kind=kind,
        subscription={
            "id": f"/subscriptions/{SUBSCRIPTION}",
            "subscriptionId": SUBSCRIPTION,
            "tenantId": TENANT,
            "displayName": "example",
        },
        resource_group=RESOURCE_GROUP if kind == "resourceGroup" else None,
        tenant={"tenantId": TENANT},
        environment=AZURE_CLOUD,
        deployment=deployment or {"name": "main", "location": "westus", "properties": {"mode": "Incremental"}},
        utc_now=datetime(2025, 5, 2, 8, 30, 15, 123456, tzinfo=timezone.utc),
        management_group={
            "id": "/providers/Microsoft.Management/managementGroups/exampleMG",
            "name": "exampleMG",
            "type": "Microsoft.Management/managementGroups",
        },
    )


def document(**sections: Any) -> dict[str, Any]:
    """A template with these sections and everything else that one must have."""
    return {
        "$schema": "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#",
        "contentVersion": "1.0.0.0",
        "resources": [],
        **sections,
    }


def symbolic(resources: Mapping[str, Any], **sections: Any) -> dict[str, Any]:
    """A template with symbolic names."""
    return document(languageVersion="2.0", resources=resources, **sections)


def storage(name: str = "store", **members: Any) -> dict[str, Any]:
    """The declaration of a storage account."""
    return {"type": "Microsoft.Storage/storageAccounts", "apiVersion": "2025-01-01", "name": name, **members}


def lay_out(template: Any, **parameters: Any) -> Template:
    """The template in a resource group with these values of its parameters."""
    return parse(template, {name: {"value": value} for name, value in parameters.items()}, scope())


@dataclass
class Resources:
    """Deployed resources: their properties by id, and what was asked of them."""

    properties: Mapping[str, Any] = field(default_factory=dict)
    asked: list[tuple[Any, ...]] = field(default_factory=list)

    def reference(self, resource_id: str, api_version: str | None, full: bool) -> Any:
        self.asked.append(("reference", resource_id, api_version, full))
        properties = self.properties[resource_id]
        return {"id": resource_id, "location": "westus", "properties": properties} if full else properties

    def list_action(self, name: str, resource_id: str, api_version: str, body: Any) -> Any:
        self.asked.append((name, resource_id, api_version, body))
        return {"keys": [{"value": f"key of {resource_id.rsplit('/', 1)[-1]}"}]}

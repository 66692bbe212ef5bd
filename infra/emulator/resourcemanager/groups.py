"""Resource groups: create, change, list. What is in them is not known here."""

from __future__ import annotations

import re
from typing import Any

from infra.emulator import regions
from infra.emulator.exceptions import AzureError
from infra.emulator.provider import Answer, Cloud
from infra.emulator.resourcemanager.filters import matches

TYPE = "Microsoft.Resources/resourceGroups"
_NAME = re.compile(r"[\w\-.()]{1,90}(?<!\.)")


class ResourceGroups:
    """The groups of the subscription, in the store under kind "resource-group" and the id in lower case."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud

    def id(self, name: str) -> str:
        """The id of a group, whether it is there or not."""
        return f"/subscriptions/{self._cloud.subscription}/resourceGroups/{name}"

    def document(self, name: str) -> dict[str, Any]:
        """Raises AzureError ResourceGroupNotFound."""
        document = self._cloud.store.get("resource-group", self.id(name).lower())
        if document is None:
            message = f"Resource group '{name}' could not be found."
            raise AzureError(404, "ResourceGroupNotFound", message, from_gateway=True)
        assert isinstance(document, dict)
        return document

    def writable(self, name: str) -> dict[str, Any]:
        """The document of a group in which something is to be written. Raises AzureError while it is being deleted."""
        document = self.document(name)
        if document["properties"]["provisioningState"] == "Deleting":
            raise AzureError(
                409,
                "ResourceGroupBeingDeleted",
                f"The resource group '{document['name']}' is in deprovisioning state and cannot perform this"
                " operation.",
                from_gateway=True,
            )
        return document

    def exists(self, name: str) -> bool:
        """Whether the group is there."""
        return self._cloud.store.get("resource-group", self.id(name).lower()) is not None

    def list(self, query: str) -> Answer:
        """All groups, or those that $filter (`query`) names by tag."""
        documents = [document for _, document in self._cloud.store.items("resource-group")]
        return Answer(200, {"value": [document for document in documents if matches(query, document)]})

    def put(self, name: str, body: Any) -> Answer:
        """201 for a new group, 200 for a known one. The location of a group never changes."""
        if not _NAME.fullmatch(name):
            raise AzureError(
                400,
                "InvalidResourceGroup",
                f"The provided resource group name '{name}' has these invalid characters or is longer than 90"
                " characters. The name can only be a letter, digit, '-', '.', '(', ')' or '_', and cannot end in '.'.",
                from_gateway=True,
            )
        asked = body if isinstance(body, dict) else {}
        location = regions.check_for_group(asked.get("location"))
        known = self.exists(name)
        if known:
            document = self.writable(name)
            if regions.normalized(document["location"]) != regions.normalized(location):
                raise AzureError(
                    409,
                    "InvalidResourceGroupLocation",
                    f"Invalid resource group location '{location}'. The Resource group already exists in location"
                    f" '{document['location']}'.",
                    from_gateway=True,
                )
            name, location = document["name"], document["location"]
        document = {"id": self.id(name), "name": name, "type": TYPE, "location": location}
        document |= {key: asked[key] for key in ("managedBy", "tags") if asked.get(key) is not None}
        document["properties"] = {"provisioningState": "Succeeded"}
        self._save(document)
        return Answer(200 if known else 201, document)

    def patch(self, name: str, body: Any) -> Answer:
        """Replaces the tags, if `body` has some."""
        document = self.writable(name)
        if isinstance(body, dict) and body.get("tags") is not None:
            properties = document.pop("properties")
            document |= {"tags": body["tags"], "properties": properties}
            self._save(document)
        return Answer(200, document)

    def mark(self, name: str, state: str) -> None:
        """Sets the provisioning state: Deleting, Succeeded. Raises AzureError ResourceGroupNotFound."""
        document = self.document(name)
        document["properties"]["provisioningState"] = state
        self._save(document)

    def remove(self, name: str) -> None:
        """Forgets the group."""
        self._cloud.store.delete("resource-group", self.id(name).lower())

    def _save(self, document: dict[str, Any]) -> None:
        self._cloud.store.put("resource-group", document["id"].lower(), document)

"""Storage accounts: Microsoft.Storage/storageAccounts, their names (unique in all of Azure) and their two keys."""

from __future__ import annotations

import asyncio
import base64
import secrets
from typing import Any

from infra.emulator.exceptions import AzureError, NotEmulated
from infra.emulator.operations import timestamp
from infra.emulator.provider import Answer, Call, Cloud, ResourceType
from infra.emulator.resource_id import ResourceId
from infra.emulator.storage import rules

# Long taken by others, as a name of one common word always is.
_TAKEN = frozenset({"azure", "backup", "data", "files", "images", "logs", "microsoft", "models", "storage", "test"})
_ACCOUNT = "storage-account"
_CREATION_SECONDS = 0.1
KEY_NAMES = ("key1", "key2")
Keys = list[bytes]
_JSON = {"Content-Type": "application/json"}


class StorageAccounts(ResourceType):
    """Created in the background (202, polled), changed at once."""

    type = "Microsoft.Storage/storageAccounts"
    api_versions = (
        *("2026-09-01", "2026-04-01", "2025-08-01", "2025-06-01", "2025-01-01", "2024-01-01", "2023-05-01"),
        "2023-04-01",
        *("2023-01-01", "2022-09-01", "2022-05-01", "2021-09-01", "2021-08-01", "2021-06-01", "2021-04-01"),
        *("2021-02-01", "2021-01-01", "2020-08-01-preview", "2019-06-01", "2019-04-01", "2018-11-01", "2018-07-01"),
        *("2018-02-01", "2017-10-01", "2017-06-01", "2016-12-01", "2016-05-01", "2016-01-01", "2015-06-15"),
    )

    def __init__(self, cloud: Cloud) -> None:
        super().__init__(cloud)
        # As the store has them: every request to the file service asks.
        self._keys: dict[str, Keys] = {}

    async def put(self, call: Call, resource_id: ResourceId, body: dict[str, Any]) -> Answer:
        """202 and a Location for a new account, 200 with the account for a known one."""
        if self.exists(resource_id):
            return await self._change(call, resource_id, body, complete=True)
        self.preflight(resource_id, body)
        name, location = resource_id.name, str(body["location"]).replace(" ", "").lower()
        properties = rules.new_properties(body.get("properties") or {}, location, self._endpoints(name))
        document = self._document(resource_id, body, location, properties)
        with self.cloud.store.transaction():
            now = timestamp() + "Z"
            keys = {key: {"value": _new_key(), "creationTime": now} for key in KEY_NAMES}
            self._remember(resource_id, keys)
            self.save(resource_id, document)
        operation = self.cloud.operations.begin("asyncoperations", str(resource_id), self._finish(resource_id))
        answer = self.polled(call, location, operation.id)
        return Answer(answer.status, None, answer.headers, operation)

    async def get(self, call: Call, resource_id: ResourceId) -> Answer:
        """The account as the API version shows it."""
        return Answer(200, self._at(call, self.document(resource_id)), _JSON)

    async def list(self, call: Call, within: str) -> Answer:
        """All accounts of a group or of the subscription."""
        documents = (await super().list(call, within)).body["value"]
        return Answer(200, {"value": [self._at(call, document) for document in documents]}, _JSON)

    async def patch(self, call: Call, resource_id: ResourceId, body: dict[str, Any]) -> Answer:
        """200 with the account."""
        self.document(resource_id)
        return await self._change(call, resource_id, body, complete=False)

    async def delete(self, call: Call, resource_id: ResourceId) -> Answer:
        """200 once the account, its keys and its shares with all files are gone; 204 when there was none."""
        if not self.exists(resource_id):
            return Answer(204)
        self.cloud.files.delete_account(resource_id.name)
        self._forget(resource_id)
        return Answer(200, headers={"Content-Type": "text/plain; charset=utf-8"})

    async def action(self, call: Call, resource_id: ResourceId, action: str, body: Any) -> Answer:
        """listKeys and regenerateKey."""
        self.document(resource_id)
        if body is not None and action.lower() == "listkeys":
            return Answer(200, self._listed_keys(resource_id.name), _JSON)
        if body is not None and action.lower() == "regeneratekey":
            key = body.get("keyName") if isinstance(body, dict) else None
            if key not in KEY_NAMES:
                message = "Values for request parameters are invalid: keyName."
                raise AzureError(400, "InvalidValuesForRequestParameters", message)
            self._regenerate(resource_id, key)
            return Answer(200, self._listed_keys(resource_id.name), _JSON)
        raise NotEmulated(f"{self.type}/{action}")

    def preflight(self, resource_id: ResourceId, body: dict[str, Any]) -> None:
        """Name, sku, kind and properties."""
        rules.check_name(resource_id.name)
        rules.check_body(body, complete=True)
        owner = self.owner(resource_id.name)
        if owner is not None and owner.lower() != resource_id.key:
            raise AzureError(
                409,
                "StorageAccountInAnotherResourceGroup",
                f"The account {resource_id.name} is already in another resource group in this subscription.",
            )
        if owner is None and resource_id.name in _TAKEN:
            message = f"The storage account named {resource_id.name} is already taken."
            raise AzureError(409, "StorageAccountAlreadyTaken", message)

    def availability(self, body: Any) -> dict[str, Any]:
        """What checkNameAvailability answers."""
        name = str(body.get("name", "")) if isinstance(body, dict) else ""
        try:
            rules.check_name(name)
        except AzureError as problem:
            return {"nameAvailable": False, "reason": problem.code, "message": problem.message}
        if name in _TAKEN or self.owner(name) is not None:
            message = f"The storage account named {name} is already taken."
            return {"nameAvailable": False, "reason": "AlreadyExists", "message": message}
        return {"nameAvailable": True}

    def owner(self, name: str) -> str | None:
        """The id of the account with that name, in whatever group it is."""
        stored = self.cloud.store.get(_ACCOUNT, name)
        return None if stored is None else str(stored["id"])

    def keys(self, name: str) -> Keys | None:
        """The keys of the account, or None when there is no such account."""
        if name not in self._keys:
            stored = self.cloud.store.get(_ACCOUNT, name)
            if stored is None:
                return None
            self._keys[name] = [base64.b64decode(stored["keys"][key]["value"]) for key in KEY_NAMES]
        return self._keys[name]

    def allows_shared_key(self, name: str) -> bool:
        """Whether the account accepts its keys, and the signatures made with them."""
        owner = self.owner(name)
        if owner is None:
            return False
        properties = self.document(ResourceId.parse(owner))["properties"]
        return properties.get("allowSharedKeyAccess", True) is True

    def poll(self, call: Call, location: str, operation_id: str) -> Answer:
        """202 while the account is being created, then 200 with it."""
        operation = self.cloud.operations.get(operation_id)
        if operation is None:
            raise AzureError(404, "NotFound", f"The operation '{operation_id}' was not found.")
        resource_id = ResourceId.parse(operation.resource_id)
        document = self.cloud.store.get("resource", resource_id.key)
        if document is None:
            return Answer(204)
        if document["properties"]["provisioningState"] == "Creating":
            return self.polled(call, location, operation_id)
        return Answer(200, self._at(call, document), _JSON)

    def polled(self, call: Call, location: str, operation_id: str) -> Answer:
        """202 and where to ask again."""
        address = (
            f"{call.base_url}/subscriptions/{self.cloud.subscription}/providers/Microsoft.Storage/locations/{location}"
            f"/asyncoperations/{operation_id}?monitor=true&api-version={call.api_version}"
        )
        headers = {"Location": address, "Retry-After": "1", "Content-Type": "text/plain; charset=utf-8"}
        return Answer(202, headers=headers)

    def finish_all(self) -> None:
        """After a restart: accounts that were being created are there."""
        for key, document in self.cloud.store.items("resource"):
            if document["type"] == self.type and document["properties"]["provisioningState"] == "Creating":
                document["properties"]["provisioningState"] = "Succeeded"
                self.cloud.store.put("resource", key, document)

    def shown(self, document: dict[str, Any]) -> dict[str, Any]:
        """With the addresses at which the stand-in serves now."""
        properties = document["properties"] | {"primaryEndpoints": self._endpoints(document["name"])}
        return document | {"properties": properties}

    def _at(self, call: Call, document: dict[str, Any]) -> dict[str, Any]:
        shown = self.shown(document)
        if call.api_version < rules.DELEGATION_SINCE:
            properties = {key: value for key, value in shown["properties"].items() if key != rules.DELEGATION}
            shown = shown | {"properties": properties}
        return shown

    async def _change(self, call: Call, resource_id: ResourceId, body: dict[str, Any], *, complete: bool) -> Answer:
        rules.check_body(body, complete=complete)
        document = self.document(resource_id)
        if body.get("kind") not in (None, document["kind"]) and body["kind"] != "StorageV2":
            message = "The property 'kind' was specified in the input, but it cannot be updated."
            raise AzureError(409, "AccountPropertyCannotBeUpdated", message)
        properties = rules.merged_properties(document["properties"], body.get("properties") or {})
        # A null changes nothing, like a member that is absent.
        given = {name: value for name, value in body.items() if value is not None}
        changed = self._document(resource_id, document | given, document["location"], properties)
        self.save(resource_id, changed)
        return Answer(200, self._at(call, changed), _JSON)

    def _document(
        self, resource_id: ResourceId, body: dict[str, Any], location: str, properties: dict[str, Any]
    ) -> dict[str, Any]:
        document: dict[str, Any] = {}
        if isinstance(body.get("identity"), dict):
            document["identity"] = body["identity"]
        sku = body["sku"]["name"]
        document |= {"sku": {"name": sku, "tier": rules.tier(sku)}, "kind": body["kind"]}
        document |= {"id": str(resource_id), "name": resource_id.name, "type": self.type, "location": location}
        return document | {"tags": body.get("tags") or {}, "properties": properties}

    async def _finish(self, resource_id: ResourceId) -> None:
        await asyncio.sleep(_CREATION_SECONDS)
        try:
            await self.cloud.faults.hinder(str(resource_id))
        except AzureError:
            # An account whose creation failed is not there.
            self._forget(resource_id)
            raise
        if self.exists(resource_id):
            document = self.document(resource_id)
            document["properties"]["provisioningState"] = "Succeeded"
            self.save(resource_id, document)

    def _listed_keys(self, name: str) -> dict[str, Any]:
        stored = self._stored_keys(name)
        return {
            "keys": [
                {
                    "creationTime": stored[key]["creationTime"],
                    "keyName": key,
                    "value": stored[key]["value"],
                    "permissions": "FULL",
                }
                for key in KEY_NAMES
            ]
        }

    def _stored_keys(self, name: str) -> dict[str, dict[str, str]]:
        stored = self.cloud.store.get(_ACCOUNT, name)
        assert stored is not None, "an account and its keys are stored together"
        keys: dict[str, dict[str, str]] = stored["keys"]
        return keys

    def _regenerate(self, resource_id: ResourceId, key: str) -> None:
        now = timestamp() + "Z"
        keys = self._stored_keys(resource_id.name) | {key: {"value": _new_key(), "creationTime": now}}
        document = self.document(resource_id)
        document["properties"]["keyCreationTime"][key] = now
        with self.cloud.store.transaction():
            self._remember(resource_id, keys)
            self.save(resource_id, document)

    def _remember(self, resource_id: ResourceId, keys: dict[str, dict[str, str]]) -> None:
        self._keys.pop(resource_id.name, None)
        self.cloud.store.put(_ACCOUNT, resource_id.name, {"id": str(resource_id), "keys": keys})

    def _forget(self, resource_id: ResourceId) -> None:
        self._keys.pop(resource_id.name, None)
        with self.cloud.store.transaction():
            self.cloud.store.delete(_ACCOUNT, resource_id.name)
            self.remove(resource_id)

    def _endpoints(self, name: str) -> dict[str, str]:
        # Only files are served here, so no other endpoint is shown.
        return {"file": f"{self.cloud.base_url}/{name}/"}


def _new_key() -> str:
    return base64.b64encode(secrets.token_bytes(64)).decode()

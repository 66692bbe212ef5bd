"""The management side of file shares: fileServices/default and its shares. The shares are those of the file service."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from pathlib import Path
from typing import Any

from infra.emulator.exceptions import AzureError, NotEmulated
from infra.emulator.files import StorageError
from infra.emulator.operations import timestamp
from infra.emulator.provider import Answer, Call, ResourceType
from infra.emulator.resource_id import ResourceId
from infra.emulator.storage.accounts import StorageAccounts

# https://learn.microsoft.com/rest/api/storagerp/file-shares/create: the default of a standard account.
_QUOTA_GIB = 102_400
_LARGEST_QUOTA_GIB = 102_400
# Premium is the only tier of a FileStorage account, and of no other.
_TIERS, _PREMIUM = ("TransactionOptimized", "Hot", "Cool"), "Premium"


class FileServices(ResourceType):
    """The one file service of an account. It comes with the account and cannot be deleted."""

    type = "Microsoft.Storage/storageAccounts/fileServices"
    api_versions = StorageAccounts.api_versions

    async def put(self, call: Call, resource_id: ResourceId, body: dict[str, Any]) -> Answer:
        """200 with what was sent, as the service answers it."""
        _check_service(resource_id)
        asked = body.get("properties")
        if isinstance(asked, dict):
            self.save(resource_id, self._document(resource_id, self._settings(resource_id) | asked))
        answer = {"name": "default"} if asked is None else {"properties": asked, "name": "default"}
        return Answer(200, answer)

    async def get(self, call: Call, resource_id: ResourceId) -> Answer:
        """The service with its settings."""
        _check_service(resource_id)
        return Answer(200, self._document(resource_id, self._settings(resource_id)))

    async def list(self, call: Call, within: str) -> Answer:
        """The one of the account."""
        only = ResourceId.parse(within).child("fileServices", "default")
        return Answer(200, {"value": [(await self.get(call, only)).body]})

    async def delete(self, call: Call, resource_id: ResourceId) -> Answer:
        """Refused."""
        raise AzureError(405, "HttpMethodNotSupported", "The file service of an account cannot be deleted.")

    def _settings(self, resource_id: ResourceId) -> dict[str, Any]:
        stored = self.cloud.store.get("resource", resource_id.key)
        defaults = {
            "protocolSettings": {"smb": {}},
            "cors": {"corsRules": []},
            "shareDeleteRetentionPolicy": {"enabled": True, "days": 7},
        }
        return defaults if stored is None else dict(stored["properties"])

    def _document(self, resource_id: ResourceId, settings: dict[str, Any]) -> dict[str, Any]:
        account = resource_id.parent
        assert account is not None
        return {
            "sku": self.document(account)["sku"],
            "id": str(resource_id),
            "name": "default",
            "type": self.type,
            "properties": settings,
        }


class Shares(ResourceType):
    """Shares, made here or by a client of the file service."""

    type = "Microsoft.Storage/storageAccounts/fileServices/shares"
    api_versions = StorageAccounts.api_versions

    async def put(self, call: Call, resource_id: ResourceId, body: dict[str, Any]) -> Answer:
        """201 for a new share, 200 for a known one; the answer holds what was asked."""
        self.preflight(resource_id, body)
        asked = body.get("properties") or {}
        account, name = resource_id.names[0], resource_id.name
        known = self.cloud.files.share_exists(account, name)
        if not known:
            self._asked_of_files(lambda: self.cloud.files.create_share(account, name, _QUOTA_GIB))
        tier = asked.get("accessTier") or (None if known else self._tiers(resource_id)[0])
        self._change(account, name, asked | {"accessTier": tier})
        if asked.get("enabledProtocols") is not None:
            # The service shows it of shares that were made with it, and of no others.
            self.save(resource_id, {"type": self.type, "properties": {"enabledProtocols": asked["enabledProtocols"]}})
        return self._answer(201 if not known else 200, resource_id, asked)

    async def patch(self, call: Call, resource_id: ResourceId, body: dict[str, Any]) -> Answer:
        """200; the answer holds what was asked."""
        self._check_share(resource_id)
        self.preflight(resource_id, body)
        asked = body.get("properties") or {}
        self._change(resource_id.names[0], resource_id.name, asked)
        return self._answer(200, resource_id, asked)

    async def get(self, call: Call, resource_id: ResourceId) -> Answer:
        """The share as it is."""
        self._check_share(resource_id)
        shown = self._shown(resource_id, {"signedIdentifiers": []})
        if "stats" in call.query.get("$expand", "").lower():
            folder = self.cloud.files.share_folder(resource_id.names[0], resource_id.name)
            shown["properties"]["shareUsageBytes"] = await asyncio.to_thread(_bytes_in, folder)
        return Answer(200, shown, {"ETag": shown["etag"]})

    async def list(self, call: Call, within: str) -> Answer:
        """All shares of the account. Metadata are shown of one share alone."""
        service = ResourceId.parse(within)
        _check_service(service)
        names = self.cloud.files.list_shares(service.names[0])
        shown = [self._shown(service.child("shares", name)) for name in names]
        for share in shown:
            share["properties"].pop("metadata", None)
        return Answer(200, {"value": shown})

    async def delete(self, call: Call, resource_id: ResourceId) -> Answer:
        """200; 204 when there was none."""
        _check_service(resource_id.parent)
        account, name = resource_id.names[0], resource_id.name
        if not self.cloud.files.share_exists(account, name):
            return Answer(204)
        self._asked_of_files(lambda: self.cloud.files.delete_share(account, name))
        self.cloud.store.delete("resource", resource_id.key)
        return Answer(200, headers={"Content-Type": "text/plain; charset=utf-8"})

    def preflight(self, resource_id: ResourceId, body: dict[str, Any]) -> None:
        """The values that the service refuses. The name is the file service's matter."""
        _check_service(resource_id.parent)
        asked = body.get("properties") or {}
        quota = asked.get("shareQuota")
        wrong = []
        if quota is not None and (type(quota) is not int or not 1 <= quota <= _LARGEST_QUOTA_GIB):
            wrong.append("shareQuota")
        if asked.get("enabledProtocols", "SMB") not in ("SMB", "NFS", None):
            wrong.append("enabledProtocols")
        metadata = asked.get("metadata")
        if metadata is not None and not isinstance(metadata, dict):
            wrong.append("metadata")
        if asked.get("accessTier") not in (None, *self._tiers(resource_id)):
            wrong.append("accessTier")
        if wrong:
            message = f"Values for request parameters are invalid: {', '.join(wrong)}."
            raise AzureError(400, "InvalidValuesForRequestParameters", message)
        if asked.get("enabledProtocols") == "NFS":
            raise NotEmulated("NFS shares (enabledProtocols)")

    def exists(self, resource_id: ResourceId) -> bool:
        """Whether the share is there, whoever made it."""
        return self.cloud.files.share_exists(resource_id.names[0], resource_id.name)

    def _tiers(self, resource_id: ResourceId) -> tuple[str, ...]:
        """The tiers that shares of the account may have; all of them before the account is there."""
        service = resource_id.parent
        assert service is not None and service.parent is not None
        account = self.cloud.store.get("resource", service.parent.key)
        if account is None:
            return (*_TIERS, _PREMIUM)
        return (_PREMIUM,) if account["kind"] == "FileStorage" else _TIERS

    def _change(self, account: str, name: str, asked: dict[str, Any]) -> None:
        quota, metadata, tier = asked.get("shareQuota"), asked.get("metadata"), asked.get("accessTier")
        if quota is not None or metadata is not None or tier is not None:
            self._asked_of_files(
                lambda: self.cloud.files.set_share(account, name, quota_gib=quota, metadata=metadata, access_tier=tier)
            )

    def _answer(self, status: int, resource_id: ResourceId, asked: dict[str, Any]) -> Answer:
        properties = {key: value for key, value in asked.items() if value is not None}
        body = {"id": str(resource_id), "name": resource_id.name, "type": self.type, "properties": properties}
        etag = self.cloud.files.share_properties(resource_id.names[0], resource_id.name)["etag"]
        return Answer(status, body, {"ETag": etag})

    def _shown(self, resource_id: ResourceId, policies: dict[str, Any] | None = None) -> dict[str, Any]:
        share = self.cloud.files.share_properties(resource_id.names[0], resource_id.name)
        properties: dict[str, Any] = {"leaseStatus": share["lease_status"], "leaseState": share["lease_state"]}
        if share["metadata"]:
            properties["metadata"] = share["metadata"]
        made_with = self.cloud.store.get("resource", resource_id.key) or {"properties": {}}
        properties |= (policies or {}) | {
            "accessTier": share["access_tier"],
            "accessTierChangeTime": share["access_tier_changed"],
            "lastModifiedTime": share["last_modified"],
            "shareQuota": share["quota_gib"],
            **made_with["properties"],
        }
        document = {"id": str(resource_id), "name": resource_id.name, "type": self.type, "etag": share["etag"]}
        return document | {"properties": properties}

    def _check_share(self, resource_id: ResourceId) -> None:
        _check_service(resource_id.parent)
        account = resource_id.names[0]
        self.document(
            ResourceId(
                resource_id.subscription,
                resource_id.resource_group,
                resource_id.namespace,
                ("storageAccounts",),
                (account,),
            )
        )
        if not self.cloud.files.share_exists(account, resource_id.name):
            message = f"The specified share does not exist.\nRequestId:{uuid.uuid4()}\nTime:{timestamp()}Z"
            raise AzureError(404, "ShareNotFound", message)

    @staticmethod
    def _asked_of_files(work: Any) -> None:
        """Runs `work`; a refusal of the file service becomes one of this provider."""
        try:
            work()
        except StorageError as refusal:
            message = f"{refusal.message}\nRequestId:{uuid.uuid4()}\nTime:{timestamp()}Z"
            raise AzureError(refusal.status, refusal.code, message) from None


def _bytes_in(folder: Path) -> int:
    """The sizes of all files below `folder`. A file that goes away meanwhile counts nothing."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size if path.is_file() else 0
    return total


def _check_service(resource_id: ResourceId | None) -> None:
    if resource_id is None or resource_id.names[-1].lower() != "default":
        message = "Values for request parameters are invalid: FileServicesName."
        raise AzureError(400, "InvalidValuesForRequestParameters", message)

"""Log Analytics workspaces: their document and their keys. No log is kept here, and no query answered."""

from __future__ import annotations

import asyncio
import base64
import re
import secrets
import uuid
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

from infra.emulator.exceptions import AzureError, NotEmulated
from infra.emulator.operations import FAILED, IN_PROGRESS, SUCCEEDED, timestamp
from infra.emulator.provider import Answer, Call, Cloud, Provider, ResourceType
from infra.emulator.resource_id import ResourceId

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{2,61}[A-Za-z0-9]")
_SKUS = frozenset(
    {"Free", "Standard", "Premium", "PerNode", "PerGB2018", "Standalone", "CapacityReservation", "LACluster"}
)
_ACCESS = frozenset({"Enabled", "Disabled", "SecuredByPerimeter"})
_KEYS = "workspace-keys"
_WORK_SECONDS = 0.1
_READ_ONLY = frozenset({"customerId", "provisioningState", "createdDate", "modifiedDate", "privateLinkScopedResources"})


class Workspaces(ResourceType):
    """Created and changed in the background; GET shows Creating or Updating meanwhile."""

    type = "Microsoft.OperationalInsights/workspaces"
    api_versions = (
        *("2026-03-01", "2025-07-01", "2025-02-01", "2023-09-01", "2022-10-01", "2021-12-01-preview", "2021-06-01"),
        *("2020-10-01", "2020-08-01", "2020-03-01-preview", "2015-11-01-preview", "2015-03-20"),
    )

    async def put(self, call: Call, resource_id: ResourceId, body: dict[str, Any]) -> Answer:
        """201 for a new workspace, 200 for a known one; both with the addresses to poll."""
        before = self.cloud.store.get("resource", resource_id.key)
        return self._write(call, resource_id, body, before)

    async def patch(self, call: Call, resource_id: ResourceId, body: dict[str, Any]) -> Answer:
        """200 with the changed workspace."""
        before = self.document(resource_id)
        merged = {"location": before["location"], "tags": before.get("tags")} | body
        merged["properties"] = before["properties"] | (body.get("properties") or {})
        return self._write(call, resource_id, merged, before)

    async def delete(self, call: Call, resource_id: ResourceId) -> Answer:
        """200; 204 when there was none."""
        answer = await super().delete(call, resource_id)
        self.cloud.store.delete(_KEYS, resource_id.key)
        return Answer(answer.status, headers=_supported())

    async def get(self, call: Call, resource_id: ResourceId) -> Answer:
        """The workspace."""
        return Answer(200, self.document(resource_id), _supported())

    async def action(self, call: Call, resource_id: ResourceId, action: str, body: Any) -> Answer:
        """sharedKeys, which templates call listKeys; regenerateSharedKey."""
        self.document(resource_id)
        if body is not None and action.lower() in ("sharedkeys", "listkeys", "regeneratesharedkey"):
            if action.lower() == "regeneratesharedkey":
                self.cloud.store.put(_KEYS, resource_id.key, _new_keys())
            return Answer(200, self.cloud.store.get(_KEYS, resource_id.key), _supported())
        if body is None and action.lower().startswith("operationresults/"):
            # The second address of a change, beside Azure-AsyncOperation.
            document = self.document(resource_id)
            if document["properties"]["provisioningState"] in (SUCCEEDED, FAILED):
                return Answer(200, document, _supported())
            here = f"{call.base_url}{resource_id}/{action}?api-version={call.api_version}"
            return Answer(202, headers=_supported() | {"Location": here, "Retry-After": "1"})
        raise NotEmulated(f"{self.type}/{action}")

    def preflight(self, resource_id: ResourceId, body: dict[str, Any]) -> None:
        """Name, sku, retention and access."""
        if not _NAME.fullmatch(resource_id.name):
            raise AzureError(
                400,
                "InvalidParameter",
                f"The workspace name '{resource_id.name}' is invalid: it must have 4 to 63 letters, digits or '-', and"
                " '-' may not be its first or last character.",
            )
        properties = body.get("properties") or {}
        sku = (properties.get("sku") or {}).get("name", "PerGB2018")
        if str(sku).lower() not in (known.lower() for known in _SKUS):
            raise AzureError(400, "InvalidParameter", f"'SKU.Name' property value '{sku}' is invalid.")
        days = properties.get("retentionInDays", 30)
        if days is not None and (type(days) is not int or (days not in (-1, 7) and not 30 <= days <= 730)):
            message = f"'RetentionInDays' property doesn't match the SKU limits: {days} is not from 30 to 730."
            raise AzureError(400, "InvalidParameter", message)
        for key in ("publicNetworkAccessForIngestion", "publicNetworkAccessForQuery"):
            if properties.get(key, "Enabled") not in _ACCESS:
                raise AzureError(400, "InvalidParameter", f"'{key}' property value '{properties[key]}' is invalid.")

    def poll(self, operation_id: str) -> Answer:
        """The state of a creation or change, as its Azure-AsyncOperation address answers."""
        operation = self.cloud.operations.get(operation_id)
        if operation is None:
            raise AzureError(404, "NotFound", f"The operation '{operation_id}' was not found.")
        document = self.cloud.store.get("resource", ResourceId.parse(operation.resource_id).key)
        body: dict[str, Any] = {"id": self._operation_path(document, operation_id), "name": operation_id}
        state = SUCCEEDED if document is None else document["properties"]["provisioningState"]
        status = state if state in (SUCCEEDED, FAILED) else IN_PROGRESS
        body |= {"status": status, "startTime": operation.started + "Z"}
        if status != IN_PROGRESS:
            body |= {"endTime": (operation.ended or timestamp()) + "Z", "properties": {}}
        if status == FAILED and operation.error is not None:
            body["error"] = operation.error
        return Answer(200, body)

    def finish_all(self) -> None:
        """After a restart: what was being created or changed is done."""
        for _, document in self.cloud.store.items("resource"):
            if document["type"] == self.type and document["properties"]["provisioningState"] not in (SUCCEEDED, FAILED):
                self._end(ResourceId.parse(document["id"]), SUCCEEDED)

    def _write(
        self, call: Call, resource_id: ResourceId, body: dict[str, Any], before: dict[str, Any] | None
    ) -> Answer:
        self.preflight(resource_id, body)
        document = self._document(resource_id, body, before)
        with self.cloud.store.transaction():
            if before is None:
                self.cloud.store.put(_KEYS, resource_id.key, _new_keys())
            self.save(resource_id, document)
        operation = self.cloud.operations.begin("operationstatuses", str(resource_id), self._finish(resource_id))
        address = call.base_url + self._operation_path(document, operation.id)
        location = f"{call.base_url}{resource_id}"
        if before is not None:
            location += f"/operationresults/{operation.id}"
        headers = {
            "Azure-AsyncOperation": f"{address}?api-version=2015-11-01-preview",
            "Location": f"{location}?api-version={call.api_version}",
            "Retry-After": "1",
        }
        return Answer(201 if before is None else 200, document, _supported() | headers, operation)

    def _document(self, resource_id: ResourceId, body: dict[str, Any], before: dict[str, Any] | None) -> dict[str, Any]:
        asked = {key: value for key, value in (body.get("properties") or {}).items() if key not in _READ_ONLY}
        known = before["properties"] if before is not None else {}
        now = timestamp() + "Z"
        sku = (asked.get("sku") or {}).get("name", known.get("sku", {}).get("name", "PerGB2018"))
        # Standalone is sold no more; the service turns it into the present plan.
        sku = "PerGB2018" if sku.lower() in ("standalone", "pergb2018") else sku
        capping = {"dailyQuotaGb": -1.0} | (asked.get("workspaceCapping") or {})
        properties = {
            "customerId": known.get("customerId", str(uuid.uuid4())),
            "provisioningState": "Creating" if before is None else "Updating",
            "sku": {"name": sku, "lastSkuUpdate": known.get("sku", {}).get("lastSkuUpdate", now)},
            "retentionInDays": asked.get("retentionInDays") or known.get("retentionInDays", 30),
            "features": {"legacy": 0, "searchVersion": 1, "enableLogAccessUsingOnlyResourcePermissions": True}
            | known.get("features", {})
            | (asked.get("features") or {}),
            "workspaceCapping": {
                "dailyQuotaGb": capping["dailyQuotaGb"],
                "quotaNextResetTime": _next_reset(),
                "dataIngestionStatus": "RespectQuota",
            },
            "publicNetworkAccessForIngestion": asked.get("publicNetworkAccessForIngestion", "Enabled"),
            "publicNetworkAccessForQuery": asked.get("publicNetworkAccessForQuery", "Enabled"),
            "createdDate": known.get("createdDate", now),
            "modifiedDate": now,
        }
        document: dict[str, Any] = {"properties": properties, "location": str(body["location"])}
        if body.get("tags") is not None:
            document["tags"] = body["tags"]
        return document | {
            "id": str(resource_id),
            "name": resource_id.name,
            "type": self.type,
            "etag": f'"{secrets.token_hex(4)}-0000-0100-0000-{secrets.token_hex(4)}0000"',
        }

    async def _finish(self, resource_id: ResourceId) -> None:
        await asyncio.sleep(_WORK_SECONDS)
        try:
            await self.cloud.faults.hinder(str(resource_id))
        except AzureError:
            self._end(resource_id, FAILED)
            raise
        self._end(resource_id, SUCCEEDED)

    def _end(self, resource_id: ResourceId, state: str) -> None:
        if self.exists(resource_id):
            document = self.document(resource_id)
            document["properties"] |= {"provisioningState": state, "modifiedDate": timestamp() + "Z"}
            self.save(resource_id, document)

    def _operation_path(self, document: dict[str, Any] | None, operation_id: str) -> str:
        location = "global" if document is None else document["location"].replace(" ", "").lower()
        return (
            f"/subscriptions/{self.cloud.subscription}/providers/Microsoft.OperationalInsights/locations/{location}"
            f"/operationstatuses/{operation_id}"
        )


class OperationalInsightsProvider(Provider):
    """The provider Microsoft.OperationalInsights."""

    namespace = "Microsoft.OperationalInsights"

    def __init__(self, cloud: Cloud) -> None:
        self._workspaces = Workspaces(cloud)
        self.types: Mapping[str, ResourceType] = {self._workspaces.type.lower(): self._workspaces}

    async def start(self) -> None:
        """What was going on when the stand-in ended is done."""
        self._workspaces.finish_all()

    async def subscription_call(self, call: Call, method: str, rest: tuple[str, ...], body: Any) -> Answer:
        """The addresses under which the work on a workspace is polled."""
        match method, [segment.lower() for segment in rest]:
            case "GET", ["locations", _, "operationstatuses", operation_id]:
                return self._workspaces.poll(operation_id)
        raise NotEmulated(f"{method} {self.namespace}/{'/'.join(rest)}")


def _supported() -> dict[str, str]:
    return {"api-supported-versions": ", ".join(sorted(Workspaces.api_versions))}


def _new_keys() -> dict[str, str]:
    def key() -> str:
        return base64.b64encode(secrets.token_bytes(64)).decode()

    return {"primarySharedKey": key(), "secondarySharedKey": key()}


def _next_reset() -> str:
    tomorrow = datetime.now(timezone.utc) + timedelta(days=1)
    return tomorrow.strftime("%Y-%m-%dT04:00:00Z")

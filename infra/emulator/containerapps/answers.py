"""How Microsoft.App answers work that goes on: addresses to poll, headers, and what a poll sees.

The forms are those of the Azure CLI's test recordings: PUT 201 with Azure-AsyncOperation, PATCH and DELETE 202 with
Location, ...OperationStatuses always 200, ...OperationResults 202 until there is a result.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from infra.emulator.containerapps.locations import region_name
from infra.emulator.exceptions import AzureError
from infra.emulator.operations import FAILED, IN_PROGRESS, SUCCEEDED, Operation
from infra.emulator.provider import Answer, Call, Cloud
from infra.emulator.resource_id import ResourceId

APP_STATUSES, APP_RESULTS = "containerappOperationStatuses", "containerappOperationResults"
ENVIRONMENT_STATUSES, ENVIRONMENT_RESULTS = "managedEnvironmentOperationStatuses", "managedEnvironmentOperationResults"
API_VERSIONS = (
    "2024-03-01",
    "2024-08-02-preview",
    "2024-10-02-preview",
    "2025-01-01",
    "2025-02-02-preview",
    "2025-07-01",
    "2025-10-02-preview",
    "2026-01-01",
    "2026-07-01",
)
_OPERATION_TIMEOUT = "PT15M"
_SUPPORTED = MappingProxyType({"api-supported-versions": ", ".join(API_VERSIONS)})
# The recordings hold none; without it clients poll every half minute, and 0 counts as absent.
_RETRY = MappingProxyType({"Retry-After": "1"})
# 0001-01-01 to 1970-01-01 in ticks of 100 ns: the service's `t` counts from there.
_EPOCH_TICKS = 621_355_968_000_000_000


def answer(
    status: int, body: Any = None, headers: Mapping[str, str] | None = None, operation: Operation | None = None
) -> Answer:
    """An answer of this provider."""
    return Answer(status, body, {**_SUPPORTED, **(headers or {})}, operation)


def created(cloud: Cloud, call: Call, operation: Operation, location: str, body: Any) -> Answer:
    """The 201 of a PUT."""
    headers = {
        "Azure-AsyncOperation": _status_address(cloud, call, operation, location),
        "x-ms-async-operation-timeout": _OPERATION_TIMEOUT,
        **_RETRY,
    }
    return answer(201, body, headers, operation)


def patched(cloud: Cloud, call: Call, operation: Operation, location: str) -> Answer:
    """The 202 of a PATCH, start or stop."""
    headers = {
        "Azure-AsyncOperation": _status_address(cloud, call, operation, location),
        "Location": _result_address(cloud, call, operation, location),
        **_RETRY,
    }
    return answer(202, None, headers, operation)


def deleted(cloud: Cloud, call: Call, operation: Operation, location: str) -> Answer:
    """The 202 of a DELETE, and of an environment's PATCH, which has no Azure-AsyncOperation either."""
    return answer(202, None, {"Location": _result_address(cloud, call, operation, location), **_RETRY}, operation)


def poll(
    cloud: Cloud, call: Call, kind: str, location: str, operation: Operation, resource: Callable[[], Any | None]
) -> Answer:
    """What a poll of `operation` sees. `resource` gives the resource as shown, None when it is gone."""
    status = _status(cloud, operation)
    if kind.lower().endswith("operationstatuses"):
        body: dict[str, Any] = {
            "id": f"/subscriptions/{cloud.subscription}/providers/Microsoft.App/locations/{location}/{operation.kind}"
            f"/{operation.id}",
            "name": operation.id,
            "status": status,
            "startTime": operation.started,
        }
        if operation.error is not None:
            body["error"] = operation.error
        return answer(200, body, _RETRY if status == IN_PROGRESS else None)
    if status == IN_PROGRESS:
        return answer(202, None, {"Location": _result_address(cloud, call, operation, location), **_RETRY})
    if status == FAILED and operation.error is not None:
        raise AzureError(400, operation.error["code"], operation.error["message"])
    shown = resource()
    return answer(204) if shown is None else answer(200, shown)


def is_deletion(operation: Operation) -> bool:
    """Whether the resource is to be gone once the operation has ended."""
    return operation.kind.endswith("Results")


def _status(cloud: Cloud, operation: Operation) -> str:
    """An operation that ran when the stand-in died is never ended: the resource tells what became of its work."""
    if operation.status != IN_PROGRESS:
        return operation.status
    document = cloud.store.get("resource", ResourceId.parse(operation.resource_id).key)
    if document is None:
        return SUCCEEDED if is_deletion(operation) else IN_PROGRESS
    state = str(document["properties"]["provisioningState"])
    return state if state in (SUCCEEDED, FAILED) and not is_deletion(operation) else IN_PROGRESS


def _status_address(cloud: Cloud, call: Call, operation: Operation, location: str) -> str:
    kind = operation.kind.replace("Results", "Statuses")
    return _address(cloud, call, operation, location, kind, "&azureAsyncOperation=true")


def _result_address(cloud: Cloud, call: Call, operation: Operation, location: str) -> str:
    return _address(cloud, call, operation, location, operation.kind.replace("Statuses", "Results"), "")


def _address(cloud: Cloud, call: Call, operation: Operation, location: str, kind: str, query: str) -> str:
    ticks = _EPOCH_TICKS + time.time_ns() // 100
    return (
        f"{call.base_url}/subscriptions/{cloud.subscription}/providers/Microsoft.App/locations/{region_name(location)}"
        f"/{kind}/{operation.id}?api-version={call.api_version}{query}&t={ticks}"
    )

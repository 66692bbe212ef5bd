"""What is stored of a deployment: its document, its operations, the state under each polling address. No rules."""

from __future__ import annotations

import secrets
import time
import uuid
from typing import Any

from infra.emulator.operations import timestamp
from infra.emulator.resourcemanager import documents
from infra.emulator.resourcemanager.documents import Node
from infra.emulator.store import Store

ACCEPTED, RUNNING, SUCCEEDED, FAILED, CANCELED = "Accepted", "Running", "Succeeded", "Failed", "Canceled"
ACTIVE = (ACCEPTED, RUNNING)

# Ticks of 100 ns since year 1 at the start of Unix time; the service counts an operation's id down from 2^63 - 1.
_EPOCH_TICKS = 621_355_968_000_000_000

Record = dict[str, Any]
"""document, status_id, request (what a restart needs), operation (id of the work), outputs (with their own names)."""


class Records:
    """All deployments, by their id in lower case."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def get(self, deployment_id: str) -> Record | None:
        """The record, or None."""
        record: Record | None = self._store.get("deployment", deployment_id.lower())
        return record

    def below(self, scope_id: str) -> list[Record]:
        """The deployments of a scope itself, the latest first."""
        prefix = f"{scope_id}/providers/{documents.DEPLOYMENT_TYPE}/".lower()
        found = [record for _, record in self._store.items("deployment", prefix)]
        return sorted(found, key=lambda record: str(record["document"]["properties"]["timestamp"]), reverse=True)

    def all(self) -> list[Record]:
        """Every deployment."""
        return [record for _, record in self._store.items("deployment")]

    def save(self, record: Record) -> None:
        """Stores the record, and what a poll of its operation is to answer."""
        deployment_id = record["document"]["id"]
        properties = record["document"]["properties"]
        state = properties["provisioningState"]
        if state not in ACTIVE and "request" in record:
            # Only a restart needs the rest, and it holds the values of secure parameters.
            template = record["request"]["body"]["properties"]["template"]
            record["request"] = {"body": {"properties": {"template": template}}}
        status: dict[str, Any] = {"status": state}
        if "error" in properties:
            error = dict(properties["error"])
            code = error.pop("code")
            status["error"] = {"code": code, "target": deployment_id, **error}
        with self._store.transaction():
            self._store.put("deployment", deployment_id.lower(), record)
            self._store.put("deployment-status", f"{deployment_id}/{record['status_id']}".lower(), status)

    def remove(self, deployment_id: str) -> None:
        """Forgets the deployment and all that is stored with it."""
        with self._store.transaction():
            self._store.delete("deployment", deployment_id.lower())
            for kind in ("deployment-status", "deployment-operation"):
                for key, _ in self._store.items(kind, deployment_id.lower() + "/"):
                    self._store.delete(kind, key)

    def status(self, deployment_id: str, status_id: str) -> dict[str, Any] | None:
        """What a poll answers; of an earlier run under the same name too."""
        status: dict[str, Any] | None = self._store.get("deployment-status", f"{deployment_id}/{status_id}".lower())
        return status

    def operations(self, deployment_id: str) -> list[dict[str, Any]]:
        """The operations as they are shown, the latest first."""
        found = [entry for _, entry in self._store.items("deployment-operation", deployment_id.lower() + "/")]
        found.sort(key=lambda entry: str(entry["shown"]["properties"]["timestamp"]), reverse=True)
        return [entry["shown"] for entry in found]

    def clear_operations(self, deployment_id: str) -> None:
        """Forgets the operations of an earlier run."""
        for key, _ in self._store.items("deployment-operation", deployment_id.lower() + "/"):
            self._store.delete("deployment-operation", key)

    def succeeded(self, deployment_id: str) -> set[str]:
        """The ids, in lower case, of the resources that a run which was cut off had done."""
        return {
            entry["shown"]["properties"]["targetResource"]["id"].lower()
            for _, entry in self._store.items("deployment-operation", deployment_id.lower() + "/")
            if entry["shown"]["properties"]["provisioningState"] == SUCCEEDED
            and "targetResource" in entry["shown"]["properties"]
        }

    def operation(self, deployment_id: str, verb: str, node: Node | None, operation_id: str = "") -> OperationLog:
        """Begins to record the operation `verb` (Create, Delete, EvaluateDeploymentOutput) on a resource."""
        return OperationLog(self._store, deployment_id, verb, node, operation_id or secrets.token_hex(8).upper())


class OperationLog:
    """One operation of a deployment. A restart begins it anew under another id."""

    def __init__(self, store: Store, deployment_id: str, verb: str, node: Node | None, operation_id: str) -> None:
        self._store, self._key = store, f"{deployment_id}/{operation_id}".lower()
        self._started = timestamp()
        self._properties: dict[str, Any] = {"provisioningOperation": verb}
        self._node, self._tracking = node, str(uuid.uuid4())
        self._shown = {"id": f"{deployment_id}/operations/{operation_id}", "operationId": operation_id}
        self.end(RUNNING)

    def end(self, state: str, status: str = "", message: Any = None) -> None:
        """Records a state; `status` is the name of an HTTP status, `message` the answer's body of a failure."""
        now = timestamp()
        properties = self._properties | {
            "provisioningState": state,
            "timestamp": now + "Z",
            "duration": documents.duration(self._started, now),
            "trackingId": self._tracking,
        }
        if self._node is not None:
            properties["serviceRequestId"] = self._tracking
        if status:
            properties["statusCode"] = status
        if message is not None:
            properties["statusMessage"] = message
        if self._node is not None:
            properties["targetResource"] = documents.target(self._node)
        self._store.put("deployment-operation", self._key, {"shown": self._shown | {"properties": properties}})

    def forget(self) -> None:
        """Removes it: it never came to an end."""
        self._store.delete("deployment-operation", self._key)


def new_status_id() -> str:
    """20 digits that get smaller with time."""
    ticks = time.time_ns() // 100 + _EPOCH_TICKS
    return f"{2**63 - 1 - ticks:020d}"

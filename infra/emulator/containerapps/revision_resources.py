"""The read-only resource types revisions and replicas: how what runs is shown, and restart, activate, deactivate.

States and their words: test recordings of the Azure CLI (2024, 2025); ScaledToZero and RunningAtMaxScale:
learn.microsoft.com/azure/container-apps/troubleshooting.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from infra.emulator.containerapps import answers
from infra.emulator.containerapps.replica import Replica
from infra.emulator.containerapps.revisions import Revision
from infra.emulator.containerapps.workload import LiveRevision, Workload
from infra.emulator.exceptions import AzureError, NotEmulated
from infra.emulator.provider import Answer, Call, Cloud, ResourceType
from infra.emulator.resource_id import ResourceId

FindWorkload = Callable[[ResourceId], Workload]
"""The running side of an app. Raises the 404 of the resource manager when there is no such app."""


class _ReadOnly(ResourceType):
    api_versions = answers.API_VERSIONS

    def __init__(self, cloud: Cloud, workload: FindWorkload) -> None:
        super().__init__(cloud)
        self._workload = workload

    async def put(self, call: Call, resource_id: ResourceId, body: dict[str, Any]) -> Answer:
        """Refused: the service makes them itself."""
        raise _not_allowed("PUT", resource_id)

    async def delete(self, call: Call, resource_id: ResourceId) -> Answer:
        """Refused: the service ends them itself."""
        raise _not_allowed("DELETE", resource_id)


class ContainerAppRevisions(_ReadOnly):
    """Microsoft.App/containerApps/revisions."""

    type = "Microsoft.App/containerApps/revisions"

    async def get(self, call: Call, resource_id: ResourceId) -> Answer:
        """One revision."""
        workload, revision = self._find(resource_id)
        return answers.answer(200, self._show(workload, revision, call.api_version))

    async def list(self, call: Call, within: str) -> Answer:
        """All revisions of an app, inactive ones too, oldest first."""
        app_id = ResourceId.parse(within)
        workload = self._workload(app_id)
        shown = [self._show(workload, revision, call.api_version) for revision in workload.revisions.all()]
        wanted = call.query.get("$filter", "").replace(" ", "").lower()
        if wanted in ("properties/activeeqtrue", "properties/activeeqfalse"):
            shown = [each for each in shown if each["properties"]["active"] == wanted.endswith("true")]
        return answers.answer(200, {"value": shown})

    async def action(self, call: Call, resource_id: ResourceId, action: str, body: Any) -> Answer:
        """restart, activate, deactivate: 200 with a text."""
        workload, revision = self._find(resource_id)
        verb = action.lower()
        if verb == "restart":
            workload.restart(revision.name)
            return answers.answer(200, "Restart succeeded")
        if verb == "activate":
            workload.activate(revision)
            return answers.answer(200, "Activate succeeded")
        if verb == "deactivate":
            workload.deactivate(revision)
            return answers.answer(200, "Deactivate succeeded")
        raise NotEmulated(f"{self.type}/{action}")

    def _find(self, resource_id: ResourceId) -> tuple[Workload, Revision]:
        parent = resource_id.parent
        assert parent is not None
        workload = self._workload(parent)
        return workload, workload.revisions.get(resource_id.name)

    def _show(self, workload: Workload, revision: Revision, api_version: str) -> dict[str, Any]:
        template = revision.shown
        if api_version < "2025-07-01":
            scale = {
                name: value
                for name, value in template["scale"].items()
                if name in ("minReplicas", "maxReplicas", "rules")
            }
            template = {**template, "scale": scale}
        live = workload.live(revision.name)
        properties: dict[str, Any] = {"createdTime": revision.created}
        if revision.last_active and not revision.active:
            properties["lastActiveTime"] = revision.last_active
        address = workload.revision_address(revision.name)
        if address:
            properties["fqdn"] = address
        properties |= {
            "template": template,
            "active": revision.active,
            "replicas": len(live.replicas) if live else 0,
            "trafficWeight": workload.traffic_weight(revision),
        }
        return {
            "id": f"{workload.app_id}/revisions/{revision.name}",
            "name": revision.name,
            "type": "Microsoft.App/containerapps/revisions",
            "properties": properties | state(revision, live),
        }


class ContainerAppReplicas(_ReadOnly):
    """Microsoft.App/containerApps/revisions/replicas: those that run, and the last ones that have ended."""

    type = "Microsoft.App/containerApps/revisions/replicas"

    async def get(self, call: Call, resource_id: ResourceId) -> Answer:
        """One replica."""
        revision_id = resource_id.parent
        assert revision_id is not None
        for replica in self._replicas(revision_id):
            if replica.name.lower() == resource_id.name.lower():
                return answers.answer(200, self._show(revision_id, replica))
        raise AzureError(404, "ReplicaNotFound", f"Replica '{resource_id.name}' was not found.")

    async def list(self, call: Call, within: str) -> Answer:
        """All replicas of a revision, oldest first."""
        revision_id = ResourceId.parse(within)
        return answers.answer(
            200, {"value": [self._show(revision_id, replica) for replica in self._replicas(revision_id)]}
        )

    def _replicas(self, revision_id: ResourceId) -> Sequence[Replica]:
        app_id = revision_id.parent
        assert app_id is not None
        workload = self._workload(app_id)
        workload.revisions.get(revision_id.name)
        live = workload.live(revision_id.name)
        return [] if live is None else [*live.ended, *live.replicas]

    def _show(self, revision_id: ResourceId, replica: Replica) -> dict[str, Any]:
        app_id = revision_id.parent
        assert app_id is not None
        name = replica.orders.container
        stream = (
            f"{self.cloud.base_url}/subscriptions/{app_id.subscription}/resourceGroups/{app_id.resource_group}"
            f"/containerApps/{app_id.name}/revisions/{revision_id.name}/replicas/{replica.name}/containers/{name}"
        )
        container: dict[str, Any] = {"name": name}
        if replica.container_id:
            container["containerId"] = replica.container_id
        container |= {
            "ready": replica.ready,
            "started": replica.started,
            "restartCount": replica.restarts,
            "runningState": replica.container_state,
            "runningStateDetails": replica.container_details,
            "logStreamEndpoint": f"{stream}/logstream",
            "execEndpoint": f"{stream.replace('https://', 'wss://', 1)}/exec",
        }
        running = replica.container_state == "Running" and not replica.ended
        details = ""
        if replica.ended:
            details = f"Container {name} was terminated with reason: Terminated, exit code: {replica.exit_code}."
        elif replica.problem:
            details = f"Container {name}: {replica.problem}."
        return {
            "id": f"{revision_id}/replicas/{replica.name}",
            "name": replica.name,
            "type": "Microsoft.App/containerapps/revisions/replicas",
            "properties": {
                "createdTime": replica.created.strftime("%Y-%m-%dT%H:%M:%SZ"),
                "runningState": "Running" if running else "NotRunning",
                "runningStateDetails": details,
                "containers": [container],
                "initContainers": [],
            },
        }


def state(revision: Revision, live: LiveRevision | None) -> dict[str, Any]:
    """healthState, provisioningState and runningState of a revision, with the reasons where it fails."""
    health = "Healthy" if revision.ready_once else "None"
    if not revision.active:
        running = "Deprovisioning" if live is not None and live.replicas else "Stopped"
        return _states(health, "Provisioned", running)
    if live is None:
        return _states("None", "Provisioning", "Processing")
    if live.crashing:
        return _failed(live)
    if live.ready:
        at_most = len(live.ready) >= live.scale.maximum
        partly = any(replica.crashing for replica in live.current)
        return _states(
            "Healthy", "Provisioned", "Degraded" if partly else "RunningAtMaxScale" if at_most else "Running"
        )
    if not live.live and live.replicas:
        return _states(health, "Provisioned", "Deprovisioning")
    if not live.live:
        return _states(health, "Provisioned", "ScaledToZero" if revision.ready_once else "Processing")
    restarting = not any(replica.been_ready or replica.restarts for replica in live.current)
    if live.activating or restarting or not revision.ready_once:
        running = "Activating" if any(replica.container_id for replica in live.live) else "Processing"
        return _states("None", "Provisioned", running)
    return _states("Unhealthy", "Provisioned", "Degraded")


def _failed(live: LiveRevision) -> dict[str, Any]:
    name = live.current[0].orders.container
    problem = next((replica.problem for replica in live.current if replica.problem), "")
    crashing = f"Container crashing: {name}"
    details = f"{len(live.current)}/{len(live.current)} {crashing}"
    if live.ready:
        # What a restart was to replace serves still.
        return _states("Healthy", "Provisioned", "Degraded") | {"runningStateDetails": f"{details}: {problem}"}
    without_room = any(replica.without_room for replica in live.current)
    return (
        {"provisioningError": problem if without_room else crashing}
        | _states("Unhealthy", "Failed", "Failed")
        | {"runningStateDetails": f"{problem[:1].upper()}{problem[1:]}. {details}" if problem else details}
    )


def _states(health: str, provisioning: str, running: str) -> dict[str, Any]:
    return {"healthState": health, "provisioningState": provisioning, "runningState": running}


def _not_allowed(method: str, resource_id: ResourceId) -> AzureError:
    return AzureError(
        405,
        "MethodNotAllowed",
        f"The method {method} is not supported for the resource type '{resource_id.type}'.",
    )

"""Runs a template: resources in the order of their dependencies, those that need nothing of each other at once.

Knows resources by what Resources and ResourceGroups answer, and records as it goes on, so that a restart of the
stand-in can go on where it stood.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any

from infra.emulator import faults
from infra.emulator.exceptions import AzureError, NotEmulated
from infra.emulator.operations import timestamp
from infra.emulator.provider import Answer, Call, Cloud
from infra.emulator.resource_id import ResourceId
from infra.emulator.resourcemanager import documents, lookups
from infra.emulator.resourcemanager.documents import DEPLOYMENT_TYPE, GROUP_TYPE, Node
from infra.emulator.resourcemanager.groups import ResourceGroups
from infra.emulator.resourcemanager.namespaces import Namespaces
from infra.emulator.resourcemanager.records import (
    CANCELED,
    FAILED,
    RUNNING,
    SUCCEEDED,
    Record,
    Records,
    new_status_id,
)
from infra.emulator.resourcemanager.resources import Resources, settle
from infra.emulator.template import Entry, NotSupported, Scope, Template, TemplateError

log = logging.getLogger(__name__)

_TERMINAL = (SUCCEEDED, FAILED, CANCELED)
# Of a resource group, and of a subscription.
_MOST_DEPLOYMENTS = 800
_SETTLING_SECONDS, _LONGEST_WORK_SECONDS = 0.1, 300.0
_FAILED_MESSAGE = (
    "At least one resource deployment operation failed. Please list deployment operations for details. Please see"
    " https://aka.ms/arm-deployment-operations for usage details."
)
_TERMINAL_MESSAGE = (
    "The resource write operation failed to complete successfully, because it reached terminal provisioning state"
    " 'Failed'."
)


def refusal(problem: TemplateError) -> AzureError:
    """The resource manager's answer to a template that it cannot process."""
    if isinstance(problem, NotSupported):
        return NotEmulated(problem.message)
    body = problem.body()
    return AzureError(
        400,
        problem.code,
        problem.message,
        target=problem.target,
        details=[refusal(detail) for detail in problem.details],
        additional_info=body.get("additionalInfo", ()),
        from_gateway=True,
    )


@dataclass(frozen=True)
class Surroundings:
    """What every run works with."""

    cloud: Cloud
    records: Records
    namespaces: Namespaces
    groups: ResourceGroups
    resources: Resources


class Run:
    """One deployment under way. `record` is stored whenever it changes."""

    def __init__(self, around: Surroundings, call: Call, record: Record, template: Template, *, taken_up: bool) -> None:
        """`taken_up`: an earlier process had begun it, and what it recorded as done is not done again."""
        self._around, self._call, self._record, self._template = around, call, record, template
        self._id: str = record["document"]["id"]
        self._taken_up = taken_up
        self._done_before = around.records.succeeded(self._id) if taken_up else set()
        self._made: set[str] = set()
        self._failures: list[AzureError] = []

    async def run(self) -> None:
        """Ends with the record Succeeded, or raises AzureError DeploymentFailed with the record Failed."""
        self._set_state(RUNNING)
        try:
            await self._around.cloud.faults.hinder(self._id)
            await self._deploy_all()
            if not self._failures:
                await self._evaluate_outputs()
            if not self._failures and self._record["document"]["properties"]["mode"].lower() == "complete":
                await self._delete_others()
        except asyncio.CancelledError:
            raise
        except AzureError as failure:
            self._failures.append(failure)
        except Exception as defect:
            log.exception("deployment %s", self._id)
            self._failures.append(AzureError(500, "InternalServerError", f"The stand-in failed: {defect!r}"))
        if not self._failures:
            self._record["document"]["properties"]["outputResources"] = documents.ids(self._made)
            self._set_state(SUCCEEDED)
            return
        error = AzureError(409, "DeploymentFailed", _FAILED_MESSAGE, target=self._id, details=self._failures)
        self._record["document"]["properties"]["error"] = {
            key: value for key, value in error.as_dict().items() if key != "target"
        }
        self._set_state(FAILED)
        raise error

    def _set_state(self, state: str) -> None:
        properties = self._record["document"]["properties"]
        now = timestamp()
        properties["provisioningState"] = state
        if state != RUNNING:
            properties |= {"timestamp": now + "Z", "duration": documents.duration(self._record["started"], now)}
            # A null is shown as long as the deployment goes on, and then no more.
            for parameter in properties.get("parameters", {}).values():
                if parameter.get("value", ...) is None:
                    del parameter["value"]
        self._around.records.save(self._record)

    async def _deploy_all(self) -> None:
        waiting = {entry.key: (entry, set(entry.predecessors)) for entry in self._template.resources}
        running: dict[asyncio.Task[bool], str] = {}
        try:
            while True:
                for key in [key for key, (_, before) in waiting.items() if not before]:
                    entry, _ = waiting.pop(key)
                    running[asyncio.create_task(self._deploy(entry))] = key
                if not running:
                    return
                finished, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in finished:
                    key = running.pop(task)
                    if task.result():
                        for _, before in waiting.values():
                            before.discard(key)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _deploy(self, entry: Entry) -> bool:
        """Whether what depends on the resource may go on."""
        if entry.existing or not entry.condition:
            return True
        if entry.id.lower() in self._done_before:
            self._made |= await self._made_before(entry)
            return True
        node = node_of(entry)
        operation = self._around.records.operation(self._id, "Create", node)
        try:
            answer = await self._create(entry)
        except asyncio.CancelledError:
            operation.forget()
            raise
        except AzureError as problem:
            self._failures.append(_about(entry.id, problem))
            operation.end(FAILED, _status_name(problem.status), {"error": problem.as_dict()})
            return False
        operation.end(SUCCEEDED, _status_name(answer.status))
        return True

    async def _create(self, entry: Entry) -> Answer:
        try:
            body = await self._evaluated(entry.body)
        except TemplateError as problem:
            raise refusal(problem) from None
        if entry.is_deployment:
            return await self._nested(entry, body)
        if entry.type.lower() == GROUP_TYPE.lower():
            answer = self._around.groups.put(entry.name, body)
            self._made.add(self._around.groups.id(entry.name))
            return answer
        resource_id = resource_id_of(entry)
        self._around.namespaces.register_now(resource_id.namespace)
        call = Call(self._call.principal, entry.api_version, self._call.base_url)
        if self._taken_up:
            await self._until_settled(call, resource_id)
        answer = await self._around.resources.put(call, resource_id, body)
        try:
            await settle(self._around.cloud, answer)
        except AzureError as problem:
            raise AzureError(409, "ResourceDeploymentFailure", _TERMINAL_MESSAGE, details=[problem]) from None
        self._made.add(str(self._around.resources.canonical(resource_id)))
        return answer

    async def _until_settled(self, call: Call, resource_id: ResourceId) -> None:
        """Waits for what the earlier process had begun on the resource: until then its provider refuses a change."""
        for _ in range(round(_LONGEST_WORK_SECONDS / _SETTLING_SECONDS)):
            try:
                shown = (await self._around.resources.get(call, resource_id)).body
            except AzureError:
                # It is not there: nothing had been begun.
                return
            if shown.get("properties", {}).get("provisioningState", SUCCEEDED) in _TERMINAL:
                return
            await asyncio.sleep(_SETTLING_SECONDS)

    async def _nested(self, entry: Entry, body: dict[str, Any]) -> Answer:
        """A nested deployment: a deployment of its own, under its own name, whose resources count as made by this."""
        scope = scope_of_nested(self._around.groups, entry)
        try:
            template = await self._evaluated(lambda resolver: entry.nested(resolver, scope))
        except TemplateError as problem:
            raise refusal(problem) from None
        known = self._around.records.get(entry.id) is not None
        if not known:
            within = entry.id.rpartition(f"/providers/{DEPLOYMENT_TYPE}/")[0]
            check_history(self._around.cloud, self._around.records, within, entry.name)
        record = new_record(entry.id, body, template, self._record["document"]["properties"]["correlationId"])
        record["root"] = self._record.get("root", self._id)
        self._around.records.clear_operations(entry.id)
        self._around.records.save(record)
        run = Run(self._around, self._call, record, template, taken_up=self._taken_up)
        try:
            await run.run()
        except AzureError as problem:
            raise AzureError(409, "ResourceDeploymentFailure", _TERMINAL_MESSAGE, details=[problem]) from None
        except asyncio.CancelledError:
            run.cancelled()
            raise
        self._made |= run._made
        return Answer(200 if known else 201)

    def cancelled(self) -> None:
        """Records the state of a nested deployment when a client has cancelled the one that it is part of."""
        root = self._around.records.get(str(self._record.get("root")))
        if root is not None and root["document"]["properties"]["provisioningState"] == CANCELED:
            self._set_state(CANCELED)

    async def _made_before(self, entry: Entry) -> set[str]:
        """What a resource that an earlier process had deployed adds to outputResources."""
        if not entry.is_deployment:
            return {entry.id}
        record = self._around.records.get(entry.id)
        made = record["document"]["properties"].get("outputResources", []) if record is not None else []
        return {one["id"] for one in made}

    async def _evaluate_outputs(self) -> None:
        operation = self._around.records.operation(
            self._id, "EvaluateDeploymentOutput", None, operation_id=self._record["status_id"]
        )
        try:
            outputs = await self._evaluated(lambda resolver: self._template.outputs(resolver, with_secrets=True))
            shown = await self._evaluated(self._template.outputs)
        except (TemplateError, AzureError) as problem:
            failure = refusal(problem) if isinstance(problem, TemplateError) else problem
            self._failures.append(failure)
            operation.end(FAILED, _status_name(failure.status), {"error": failure.as_dict()})
            return
        operation.end(SUCCEEDED, "OK")
        self._record["outputs"] = outputs
        if shown:
            self._record["document"]["properties"]["outputs"] = {
                documents.camel_case(name): one for name, one in shown.items()
            }

    async def _delete_others(self) -> None:
        """Complete mode: what is in the resource group and was not deployed goes."""
        group = self._template.scope.resource_group
        if group is None:
            return
        made = {resource_id.lower() for resource_id in self._made}
        for entry in self._around.resources.listed(str(group["id"])):
            if entry["id"].lower() in made:
                continue
            resource_id = ResourceId.parse(entry["id"])
            node = Node(entry["id"], entry["type"], entry.get("location"))
            operation = self._around.records.operation(self._id, "Delete", node)
            known = self._around.namespaces.known(entry["type"])
            assert known is not None, "only types that are known are listed"
            try:
                call = Call(self._call.principal, max(known.api_versions), self._call.base_url)
                answer = await self._around.resources.delete(call, resource_id)
                await settle(self._around.cloud, answer)
            except AzureError as problem:
                self._failures.append(problem)
                operation.end(FAILED, _status_name(problem.status), {"error": problem.as_dict()})
            else:
                operation.end(SUCCEEDED, "OK")

    async def _evaluated(self, evaluate: Any) -> Any:
        return await lookups.evaluated(evaluate, self._reference, self._list_action)

    async def _reference(self, resource_id: str, api_version: str, full: bool) -> Any:
        kind = _kind_of(resource_id)
        if kind == DEPLOYMENT_TYPE:
            record = self._around.records.get(resource_id)
            if record is None:
                raise _no_deployment(resource_id)
            body = dict(record["document"])
            body["properties"] = body["properties"] | ({"outputs": record["outputs"]} if "outputs" in record else {})
        elif kind == GROUP_TYPE:
            body = self._around.groups.document(resource_id.rpartition("/")[2])
        else:
            parsed = ResourceId.parse(resource_id)
            call = Call(self._call.principal, api_version, self._call.base_url)
            body = (await self._around.resources.get(call, parsed)).body
        if not full:
            return body.get("properties", {})
        parts = resource_id.strip("/").split("/")
        own = {key: value for key, value in body.items() if key not in ("id", "name", "type")}
        whole = {"apiVersion": api_version, **own, "subscriptionId": parts[1]}
        if len(parts) > 3 and parts[2].lower() == "resourcegroups":
            whole["resourceGroupName"] = parts[3]
        return whole | {"resourceId": resource_id, "referenceApiVersion": api_version}

    async def _list_action(self, name: str, resource_id: str, api_version: str, body: Any) -> Any:
        call = Call(self._call.principal, api_version, self._call.base_url)
        asked = {} if body is None else body
        return (await self._around.resources.action(call, ResourceId.parse(resource_id), name, asked)).body


def new_record(deployment_id: str, body: dict[str, Any], template: Template, correlation: str) -> Record:
    """The record of a deployment that has been accepted. `body` has properties, and location and tags if any."""
    now = timestamp()
    nodes = [node_of(entry) for entry in template.resources if not entry.existing and entry.condition]
    document: dict[str, Any] = {
        "id": deployment_id,
        "name": deployment_id.rpartition("/")[2],
        "type": DEPLOYMENT_TYPE,
    }
    document |= {key: body[key] for key in ("location", "tags") if body.get(key) is not None}
    properties: dict[str, Any] = {"templateHash": documents.template_hash(body["properties"]["template"])}
    if template.parameters:
        properties["parameters"] = {
            documents.camel_case(name): dict(parameter) for name, parameter in template.parameters.items()
        }
    properties |= {
        "mode": str(body["properties"].get("mode", "Incremental")).capitalize(),
        "provisioningState": "Accepted",
        "timestamp": now + "Z",
        "duration": documents.duration(now, timestamp()),
        "correlationId": correlation,
        "providers": documents.providers(nodes),
        "dependencies": documents.dependencies(nodes),
    }
    document["properties"] = properties
    return {"document": document, "status_id": new_status_id(), "started": now}


def check_history(cloud: Cloud, records: Records, scope: str, name: str) -> None:
    """Whether the history of a scope (its id) has room for one deployment more. Raises AzureError.

    Azure deletes old entries by itself shortly before, unless a lock is on the group or it was told not to; here it
    never does.
    """
    there = len(records.below(scope))
    limit = cloud.faults.is_missing(faults.DEPLOYMENTS, scope, there + 1)
    if limit is None and there >= _MOST_DEPLOYMENTS:
        limit = _MOST_DEPLOYMENTS
    if limit is not None:
        raise AzureError(
            409,
            "DeploymentQuotaExceeded",
            f"Creating the deployment '{name}' would exceed the quota of '{limit}'. The current deployment count is"
            f" '{there}', please delete some deployments before creating a new one. Please see"
            " https://aka.ms/arm-deploy for usage details.",
            from_gateway=True,
        )


def node_of(entry: Entry) -> Node:
    """The resource as the deployment's document names it."""
    location = entry.preview().get("location")
    return Node(entry.id, entry.type, location if isinstance(location, str) else None, entry.depends_on)


def scope_of_nested(groups: ResourceGroups, entry: Entry) -> Scope:
    """The scope of a nested deployment, with what is known of its group. Raises AzureError when the group is absent."""
    scope = entry.nested_scope()
    if scope.resource_group is None:
        return scope
    return replace(scope, resource_group=groups.document(str(scope.resource_group["name"])))


def resource_id_of(entry: Entry) -> ResourceId:
    """Raises NotEmulated for a resource that extends another one, or stands above subscriptions."""
    try:
        resource_id = ResourceId.parse(entry.id)
    except ValueError:
        raise NotEmulated(f"a resource above subscriptions ({entry.id})") from None
    if "providers" in (name.lower() for name in resource_id.types):
        raise NotEmulated(f"a resource that extends another one ({entry.id})")
    return resource_id


def _about(resource_id: str, problem: AzureError) -> AzureError:
    """The same refusal, saying of which resource."""
    return AzureError(
        problem.status,
        problem.code,
        problem.message,
        target=problem.target or resource_id,
        details=problem.details,
        additional_info=problem.additional_info,
    )


def _kind_of(resource_id: str) -> str:
    parts = resource_id.strip("/").lower().split("/")
    if len(parts) == 4 and parts[2] == "resourcegroups":
        return GROUP_TYPE
    return DEPLOYMENT_TYPE if parts[-3:-1] == ["microsoft.resources", "deployments"] else ""


def _no_deployment(resource_id: str) -> AzureError:
    name = resource_id.rpartition("/")[2]
    return AzureError(404, "DeploymentNotFound", f"Deployment '{name}' could not be found.", from_gateway=True)


def _status_name(status: int) -> str:
    """OK, Created, BadRequest: as .NET names the status."""
    return "OK" if status == 200 else HTTPStatus(status).phrase.replace(" ", "").replace("-", "")

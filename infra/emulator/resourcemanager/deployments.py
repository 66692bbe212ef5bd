"""Deployments in groups and subscriptions: validate, what-if, create, poll, list, cancel, delete, export."""

from __future__ import annotations

import uuid
from typing import Any

from infra.emulator.exceptions import AzureError, NotEmulated
from infra.emulator.operations import timestamp
from infra.emulator.provider import Answer, Call, Cloud
from infra.emulator.resourcemanager import authorization, documents, requests
from infra.emulator.resourcemanager.documents import DEPLOYMENT_TYPE
from infra.emulator.resourcemanager.engine import Run, Surroundings, check_history, new_record
from infra.emulator.resourcemanager.filters import matches
from infra.emulator.resourcemanager.groups import ResourceGroups
from infra.emulator.resourcemanager.jobs import RETRY_AFTER, Jobs, as_document, from_document
from infra.emulator.resourcemanager.namespaces import Namespaces
from infra.emulator.resourcemanager.records import ACTIVE, CANCELED, FAILED, SUCCEEDED, Record, Records
from infra.emulator.resourcemanager.requests import DeploymentRequest, Plan, lay_out
from infra.emulator.resourcemanager.resources import Resources
from infra.emulator.resourcemanager.subscriptions import Subscriptions
from infra.emulator.resourcemanager.what_if import WhatIf
from infra.emulator.template import Positions, Template

_WHAT_IF, _DELETION = "deployment-what-if", "deployment-deletion"
_ENGINE_VERSION = {"x-ms-deployment-engine-version": "1.628.3"}
_NEVER = "0001-01-01T00:00:00Z"


class Deployments:
    """Requests on deployments. `group` None means subscription scope."""

    def __init__(
        self,
        cloud: Cloud,
        jobs: Jobs,
        subscriptions: Subscriptions,
        namespaces: Namespaces,
        groups: ResourceGroups,
        resources: Resources,
    ) -> None:
        self._cloud, self._jobs, self._subscriptions, self._groups = cloud, jobs, subscriptions, groups
        self._records = Records(cloud.store)
        self._positions: dict[str, Positions] = {}
        self._around = Surroundings(cloud, self._records, namespaces, groups, resources)
        jobs.add(_WHAT_IF, self._what_if_now)
        jobs.add(_DELETION, self._delete_now)

    def resume(self) -> None:
        """Goes on with the deployments that were under way when the stand-in ended."""
        for record in self._records.all():
            if "root" in record or record["document"]["properties"]["provisioningState"] not in ACTIVE:
                continue
            asked, call = record["request"], from_document(record["request"]["call"])
            # Defaults like newGuid() keep the values that they had.
            parameters = dict(asked["body"]["properties"].get("parameters", {}))
            for name, value in asked["values"].items():
                parameters.setdefault(name, {"value": value})
            body = asked["body"] | {"properties": asked["body"]["properties"] | {"parameters": parameters}}
            try:
                request = requests.read(asked["name"], asked["group"], body, Positions())
                template = self._laid_out(request, call, record["started"])
            except AzureError as problem:
                record["document"]["properties"] |= {"provisioningState": FAILED, "error": problem.as_dict()}
                self._records.save(record)
                continue
            self._begin(call, record, template, taken_up=True)

    async def suspend(self) -> None:
        """Stops what goes on without recording it as cancelled: the next start takes it up again."""
        for record in self._records.all():
            if "operation" in record and record["document"]["properties"]["provisioningState"] in ACTIVE:
                await self._cloud.operations.cancel(record["operation"])

    async def handle(
        self,
        call: Call,
        method: str,
        group: str | None,
        rest: list[str],
        body: Any,
        positions: Positions,
        correlation: str,
    ) -> Answer:
        """Answers a request. `rest` is what follows .../deployments/. Raises AzureError."""
        scope = self._scope_id(group)
        words = [word.lower() for word in rest[1:]]
        if words[:1] == ["operations"] or words[:1] == ["operationstatuses"] or method in ("GET", "HEAD"):
            return self._read(call, method, scope, rest, words)
        name = rest[0] if rest else ""
        deployment_id = f"{scope}/providers/{DEPLOYMENT_TYPE}/{name}"
        action = {"whatif": "whatIf", "exporttemplate": "exportTemplate"}.get(words[0], words[0]) if words else ""
        authorization.check(call.principal, authorization.action_of(method, DEPLOYMENT_TYPE, action), deployment_id)
        match method, words:
            case "PUT", [] if name:
                if group is not None:
                    self._groups.writable(group)
                return self._put(call, requests.read(name, group, body, positions), correlation)
            case "DELETE", [] if name:
                return self._delete(call, deployment_id)
            case "POST", ["validate"]:
                return self._validate(call, requests.read(name, group, body, positions), correlation)
            case "POST", ["whatif"]:
                request = requests.read(name, group, body, positions, mode="Incremental")
                return self._what_if(call, request, correlation)
            case "POST", ["cancel"]:
                return await self._cancel(deployment_id)
            case "POST", ["exporttemplate"]:
                record = self._found(deployment_id)
                if "request" not in record:
                    raise NotEmulated("the template of a nested deployment")
                return Answer(200, {"template": record["request"]["body"]["properties"]["template"]})
        raise AzureError(405, "HttpMethodNotSupported", f"{method} is not supported here.", from_gateway=True)

    def template_hash(self, template: Any) -> Answer:
        """What calculateTemplateHash answers."""
        text = documents.minified(template)
        return Answer(200, {"minifiedTemplate": text, "templateHash": documents.template_hash(template)})

    def _read(self, call: Call, method: str, scope: str, rest: list[str], words: list[str]) -> Answer:
        if not rest:
            return self._list(call, scope)
        deployment_id = f"{scope}/providers/{DEPLOYMENT_TYPE}/{rest[0]}"
        match method, words:
            case "GET", []:
                return Answer(200, self._found(deployment_id)["document"])
            case "HEAD", []:
                self._found(deployment_id)
                return Answer(204)
            case "GET", ["operationstatuses", status_id]:
                return self._status(deployment_id, status_id)
            case "GET", ["operations"]:
                deployment_id = self._found(deployment_id)["document"]["id"]
                found = self._records.operations(deployment_id)
                return Answer(200, {"value": found})
            case "GET", ["operations", operation_id]:
                return self._operation(self._found(deployment_id)["document"]["id"], operation_id)
        raise AzureError(405, "HttpMethodNotSupported", f"{method} is not supported here.", from_gateway=True)

    def _list(self, call: Call, scope: str) -> Answer:
        query = call.query.get("$filter", "")
        found = [record["document"] for record in self._records.below(scope)]
        found = [document for document in found if matches(query, document)]
        return Answer(200, {"value": found})

    def _status(self, deployment_id: str, status_id: str) -> Answer:
        status = self._records.status(deployment_id, status_id)
        if status is None:
            message = f"The deployment operation '{status_id}' could not be found."
            raise AzureError(404, "DeploymentOperationNotFound", message, from_gateway=True)
        return Answer(200, status, RETRY_AFTER if status["status"] in ACTIVE else {})

    def _operation(self, deployment_id: str, operation_id: str) -> Answer:
        for shown in self._records.operations(deployment_id):
            if shown["operationId"].lower() == operation_id.lower():
                return Answer(200, shown)
        message = f"The deployment operation '{operation_id}' could not be found."
        raise AzureError(404, "DeploymentOperationNotFound", message, from_gateway=True)

    def _put(self, call: Call, request: DeploymentRequest, correlation: str) -> Answer:
        started = timestamp()
        deployment_id = f"{self._scope_id(request.group)}/providers/{DEPLOYMENT_TYPE}/{request.name}"
        before = self._records.get(deployment_id)
        self._check_replaceable(request, before)
        template = self._laid_out(request, call, started)
        plan = Plan(self._around, template)
        plan.check(request, call)
        record = new_record(deployment_id, request.body, template, correlation)
        record["started"] = started
        record["request"] = {
            "name": request.name,
            "group": request.group,
            "body": request.body,
            "call": as_document(call),
            "values": {
                name: parameter["value"]
                for name, parameter in template.parameters.items()
                if parameter.get("value") is not None
            },
        }
        self._records.clear_operations(deployment_id)
        self._records.save(record)
        shown = self._records.get(deployment_id)
        assert shown is not None
        self._begin(call, record, template, taken_up=False)
        # The address keeps the spelling of the request, as the service's does.
        address = (
            f"{call.base_url}{deployment_id}/operationStatuses/{record['status_id']}?api-version={call.api_version}"
        )
        headers = {"Azure-AsyncOperation": address, **RETRY_AFTER, **_ENGINE_VERSION}
        return Answer(201 if before is None else 200, shown["document"], headers)

    def _begin(self, call: Call, record: Record, template: Template, *, taken_up: bool) -> None:
        run = Run(self._around, call, record, template, taken_up=taken_up)
        operation = self._cloud.operations.begin("deployment", record["document"]["id"], run.run())
        record["operation"] = operation.id
        self._records.save(record)

    def _check_replaceable(self, request: DeploymentRequest, before: Record | None) -> None:
        if before is None:
            scope = self._scope_id(request.group)
            check_history(self._cloud, self._records, scope, request.name)
            return
        document = before["document"]
        if document["properties"]["provisioningState"] in ACTIVE:
            raise AzureError(
                409,
                "DeploymentActive",
                f"Unable to edit or replace deployment '{request.name}': previous deployment from"
                f" '{before['started'][:19].replace('T', ' ')}' is still active. Please see"
                " https://aka.ms/arm-deploy for usage details.",
                from_gateway=True,
            )
        if request.group is None and document["location"].lower() != str(request.body["location"]).lower():
            raise AzureError(
                409,
                "InvalidDeploymentLocation",
                f"Invalid deployment location '{request.body['location']}'. The deployment '{request.name}' already"
                f" exists in location '{document['location']}'.",
                from_gateway=True,
            )

    def _validate(self, call: Call, request: DeploymentRequest, correlation: str) -> Answer:
        template = self._laid_out(request, call, timestamp())
        plan = Plan(self._around, template)
        plan.check(request, call)
        deployment_id = f"{self._scope_id(request.group)}/providers/{DEPLOYMENT_TYPE}/{request.name}"
        document = new_record(deployment_id, request.body, template, correlation)["document"]
        document["properties"] |= {"provisioningState": SUCCEEDED, "timestamp": _NEVER, "duration": "PT0S"}
        document["properties"]["validatedResources"] = documents.ids(plan.ids())
        return Answer(200, document)

    def _what_if(self, call: Call, request: DeploymentRequest, correlation: str) -> Answer:
        self._laid_out(request, call, timestamp())
        key = str(uuid.uuid4())
        self._positions[key] = request.positions
        stored = {
            "name": request.name,
            "group": request.group,
            "body": request.body,
            "positions": key,
            "call": as_document(call),
            "correlation": correlation,
        }
        return self._jobs.begin(_WHAT_IF, call, f"/subscriptions/{self._cloud.subscription}", stored)

    async def _what_if_now(self, stored: dict[str, Any]) -> Answer:
        call = from_document(stored["call"])
        # After a restart it is not known any more where in the text something stood.
        positions = self._positions.pop(stored["positions"], Positions())
        request = requests.read(stored["name"], stored["group"], stored["body"], positions)
        try:
            template = self._laid_out(request, call, timestamp())
            plan = Plan(self._around, template)
            plan.check(request, call)
            found = await WhatIf(self._around, call, request, template, plan).result()
        except AzureError as problem:
            # A failed preview is polled as a success that says Failed, as issue threads show it.
            return Answer(200, {"status": "Failed", "error": problem.as_dict()})
        properties = {"correlationId": stored["correlation"], **found}
        return Answer(200, {"status": SUCCEEDED, "properties": properties})

    def _delete(self, call: Call, deployment_id: str) -> Answer:
        record = self._records.get(deployment_id)
        if record is None:
            return Answer(204)
        if record["document"]["properties"]["provisioningState"] in ACTIVE:
            message = f"Unable to delete deployment '{record['document']['name']}': it is still active."
            raise AzureError(409, "DeploymentActive", message, from_gateway=True)
        scope = f"/subscriptions/{self._cloud.subscription}"
        return self._jobs.begin(_DELETION, call, scope, {"deployment": record["document"]["id"]})

    async def _delete_now(self, stored: dict[str, Any]) -> Answer:
        self._records.remove(stored["deployment"])
        return Answer(204)

    async def cancel_all(self, group: str) -> None:
        """Cancels what goes on in a group, or was begun there and goes on elsewhere."""
        for record in self._records.below(self._groups.id(group)):
            if record["document"]["properties"]["provisioningState"] in ACTIVE and "root" not in record:
                await self._cancel(record["document"]["id"])

    def forget_all(self, group: str) -> None:
        """Forgets the history of a group."""
        for record in self._records.below(self._groups.id(group)):
            self._records.remove(record["document"]["id"])

    async def _cancel(self, deployment_id: str) -> Answer:
        record = self._found(deployment_id)
        properties = record["document"]["properties"]
        if properties["provisioningState"] not in ACTIVE:
            raise AzureError(
                409,
                "DeploymentCannotBeCancelled",
                f"The deployment '{record['document']['name']}' cannot be cancelled, because its provisioning state is"
                f" '{properties['provisioningState']}'.",
                from_gateway=True,
            )
        now = timestamp()
        properties |= {
            "provisioningState": CANCELED,
            "timestamp": now + "Z",
            "duration": documents.duration(record["started"], now),
        }
        self._records.save(record)
        # What a provider has begun goes on; nothing further is started.
        await self._cloud.operations.cancel(record["operation"])
        return Answer(204)

    def _laid_out(self, request: DeploymentRequest, call: Call, started: str) -> Template:
        group = None if request.group is None else self._groups.document(request.group)
        return lay_out(request, self._subscriptions, group, call, started)

    def _scope_id(self, group: str | None) -> str:
        if group is None:
            return f"/subscriptions/{self._cloud.subscription}"
        return str(self._groups.document(group)["id"])

    def _found(self, deployment_id: str) -> Record:
        record = self._records.get(deployment_id)
        if record is None:
            name = deployment_id.rpartition("/")[2]
            message = f"Deployment '{name}' could not be found."
            raise AzureError(404, "DeploymentNotFound", message, from_gateway=True)
        return record

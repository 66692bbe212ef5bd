"""One request -> what_if() or create() -> Outputs: the same body goes into the preview and into the deployment.

Knows the resource manager's deployments and nothing of what they deploy, how a plan is shown, or what a release is.

Each run is a deployment with a name of its own, by its time: the last one that succeeded keeps its outputs when a later
one fails, so an app that still serves stays within reach of every verb. Azure itself deletes the oldest entries before
a resource group's history reaches its limit of 800 (learn.microsoft.com, "Deployment history deletions").
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from types import MappingProxyType
from typing import Any

from scripts import service_errors
from scripts.cloud import Clients, translated
from scripts.environment import Environment
from scripts.errors import BadInput, Busy, CloudError, DeploymentFailed, NotFound, Problem
from scripts.parameters import value_message
from scripts.template import Template

GROUP_SCHEMA = "https://schema.management.azure.com/schemas/2018-05-01/subscriptionDeploymentTemplate.json#"
RESOURCES_API_VERSION = "2025-04-01"

RUNNING_STATES = frozenset({"NotSpecified", "Accepted", "Running", "Creating", "Updating", "Deleting"})

FAILED = service_errors.Meaning(
    DeploymentFailed, "Correct what the messages name; running the same command again takes up where this one ended."
)


@dataclass(frozen=True)
class Request:
    """What is asked of the resource manager; parameters may hold secrets and never show in a repr."""

    environment: str
    resource_group: str
    location: str
    template: Mapping[str, Any] = field(repr=False)
    parameters: Mapping[str, Mapping[str, Any]] = field(repr=False)
    parameter_types: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True)
class Operation:
    """One step of a running deployment that has ended."""

    resource_type: str
    resource_name: str
    state: str
    causes: tuple[service_errors.Cause, ...] = ()


@dataclass(frozen=True)
class Outputs:
    """Where the environment's resources are: the six values of inference.config.json."""

    subscription_id: str
    resource_group_name: str
    storage_account_name: str
    file_share_name: str
    aca_app_name: str
    aca_app_endpoint: str


def request(environment: Environment, template: Template, secrets: Mapping[str, str]) -> Request:
    """The request for an environment; secrets are values for the template's secure parameters, by parameter name.

    Raises BadInput for a secure parameter that is required and not given, or whose value the template does not take.
    """
    # The template's defaults apply to what is left out, and null means the default.
    given = {
        name: dict(entry)
        for name, entry in environment.parameters.items()
        if "reference" in entry or entry["value"] is not None
    }
    problems = []
    for parameter in template.parameters.values():
        if not parameter.secure or parameter.name in given:
            continue
        value = secrets.get(parameter.name)
        if value is None and not parameter.required:
            continue
        wrong = "it has no value" if value is None else value_message(value, parameter)
        if wrong is None:
            given[parameter.name] = {"value": value}
        else:
            where = f"the secure parameter {parameter.name}"
            problems.append(Problem(None, where, None, wrong, parameter.description or "Give it a value"))
    if problems:
        raise BadInput(problems)
    types = {
        name: f"secure{template.parameters[name].type}" if template.parameters[name].secure else parameter.type
        for name, parameter in template.parameters.items()
        if name in given
    }
    return Request(
        environment.name,
        environment.resource_group,
        environment.location,
        template.document,
        MappingProxyType(given),
        MappingProxyType(types),
    )


def what_if(clients: Clients, asked: Request) -> Mapping[str, Any]:
    """Azure's preview of the request, as its REST API words it: {"changes": [...], "diagnostics": [...]}.

    Changes nothing. A reading identity suffices: the resource providers are asked to check everything but permissions
    to write. When the resource group does not exist, it is part of the preview. Raises CloudError.
    """
    name = _new_name(asked.environment)
    options = {"validationLevel": "ProviderNoRbac", "whatIfSettings": {"resultFormat": "FullResourcePayloads"}}
    body: Any
    with translated(f"previewing the changes to {asked.environment}"):
        if _group_exists(clients, asked.resource_group):
            body = {"properties": {**_properties(asked), **options}}
            poller = clients.deployments.deployments.begin_what_if(asked.resource_group, name, body)
        else:
            body = {"location": asked.location, "properties": {**_properties_with_group(asked, name), **options}}
            poller = clients.deployments.deployments.begin_what_if_at_subscription_scope(name, body)
        result = poller.result().as_dict()
    return preview_of(result, asked.environment)


def preview_of(result: Mapping[str, Any], environment: str) -> Mapping[str, Any]:
    """The properties of a what-if operation's result. Raises CloudError when the preview failed.

    That ends with HTTP status 200 too, which the SDK takes for success.
    """
    if result.get("status") != "Succeeded" or result.get("error"):
        raise service_errors.from_body(
            f"previewing the changes to {environment}",
            {"error": result.get("error")},
            None,
            fallback=f"it ended as {result.get('status')}",
            otherwise=FAILED,
        )
    properties: Mapping[str, Any] = result.get("properties") or {}
    return properties


def create(clients: Clients, asked: Request, progress: Callable[[Operation], None]) -> Outputs:
    """Bring the resources to what the request says; returns when the resource manager has ended.

    That is not yet when the app serves. The resource group is made when it is missing. A deployment of this environment
    that still runs (an earlier command was killed) is waited for first. progress hears each resource once it is done.
    Raises CloudError; the deployment goes on in Azure when the caller is interrupted.
    """
    name = _new_name(asked.environment)
    group = asked.resource_group
    what = f"provisioning {asked.environment} (deployment {name})"
    with translated(f"creating the resource group {group}"):
        if not _group_exists(clients, group):
            created: Any = {"location": asked.location}
            clients.resources.resource_groups.create_or_update(group, created)
            progress(Operation("Microsoft.Resources/resourceGroups", group, "Succeeded"))
    _wait_for_others(clients, asked, progress)
    body: Any = {"properties": _properties(asked)}
    try:
        with translated(what):
            clients.deployments.deployments.begin_create_or_update(group, name, body, polling=False)
    except Busy as error:
        # The name is this run's own: the first answer was lost, and the repeated request met the deployment itself.
        if error.code != "DeploymentActive":
            raise
    finished = _follow(clients, group, name, progress)
    if finished["properties"]["provisioningState"] != "Succeeded":
        raise _failure(clients, group, name, what, finished)
    return _outputs(finished)


def last_outputs(clients: Clients, environment: Environment) -> Outputs:
    """The outputs of the environment's last deployment that succeeded. Raises NotFound when there is none."""
    found = [
        item
        for item in _deployments(clients, environment.resource_group, environment.name)
        if item["properties"].get("provisioningState") == "Succeeded"
    ]
    if not found:
        raise NotFound(
            f"The environment {environment.name} has not been provisioned: the resource group "
            f"{environment.resource_group} holds no finished deployment of it.",
            f"Run: inferops provision {environment.name}",
            code="DeploymentNotFound",
            status=404,
        )
    return _outputs(max(found, key=lambda item: str(item["properties"].get("timestamp", ""))))


def _new_name(environment: str) -> str:
    # At most 64 characters: learn.microsoft.com, "Naming rules and restrictions for Azure resources".
    return f"{_name_prefix(environment)}{datetime.now(timezone.utc):%Y%m%dT%H%M%S%fZ}"


def _name_prefix(environment: str) -> str:
    return f"inferops-{re.sub(r'[^A-Za-z0-9._-]', '-', environment)[:30]}-"


def _properties(asked: Request) -> dict[str, Any]:
    return {"mode": "Incremental", "template": dict(asked.template), "parameters": dict(asked.parameters)}


def _properties_with_group(asked: Request, name: str) -> dict[str, Any]:
    """The same request one scope up: a template that makes the resource group, with the request's nested in it."""
    group_id = f"[subscriptionResourceId('Microsoft.Resources/resourceGroups', '{asked.resource_group}')]"
    wrapper = {
        "$schema": GROUP_SCHEMA,
        "contentVersion": "1.0.0.0",
        "parameters": {parameter: {"type": kind} for parameter, kind in asked.parameter_types.items()},
        "resources": [
            {
                "type": "Microsoft.Resources/resourceGroups",
                "apiVersion": RESOURCES_API_VERSION,
                "name": asked.resource_group,
                "location": asked.location,
            },
            {
                "type": "Microsoft.Resources/deployments",
                "apiVersion": RESOURCES_API_VERSION,
                "name": name,
                "resourceGroup": asked.resource_group,
                "dependsOn": [group_id],
                "properties": {
                    "mode": "Incremental",
                    "expressionEvaluationOptions": {"scope": "inner"},
                    "parameters": {
                        parameter: {"value": f"[parameters('{parameter}')]"} for parameter in asked.parameters
                    },
                    "template": dict(asked.template),
                },
            },
        ],
    }
    return {"mode": "Incremental", "template": wrapper, "parameters": dict(asked.parameters)}


def _group_exists(clients: Clients, group: str) -> bool:
    return bool(clients.resources.resource_groups.check_existence(group))


def _deployments(clients: Clients, group: str, environment: str) -> list[dict[str, Any]]:
    """This environment's deployments in the resource group's history; none when there is no such group."""
    try:
        with translated(f"listing the deployments of the resource group {group}"):
            every = [item.as_dict() for item in clients.deployments.deployments.list_by_resource_group(group)]
    except NotFound:
        return []
    name = re.compile(re.escape(_name_prefix(environment)) + r"\d{8}T\d+Z")
    return [item for item in every if name.fullmatch(item["name"])]


def _wait_for_others(clients: Clients, asked: Request, progress: Callable[[Operation], None]) -> None:
    for item in _deployments(clients, asked.resource_group, asked.environment):
        if item["properties"].get("provisioningState") in RUNNING_STATES:
            progress(Operation("Microsoft.Resources/deployments", item["name"], "Running"))
            ended = _follow(clients, asked.resource_group, item["name"], progress)
            state = str(ended["properties"]["provisioningState"])
            progress(Operation("Microsoft.Resources/deployments", item["name"], state))


def _follow(clients: Clients, group: str, name: str, progress: Callable[[Operation], None]) -> dict[str, Any]:
    """Wait until the deployment has ended, telling of each operation that has; returns the deployment."""
    told: set[str] = set()
    while True:
        with translated(f"asking how far the deployment {name} is"):
            now = clients.deployments.deployments.get(group, name).as_dict()
        for identifier, operation in _operations(clients, group, name):
            if operation.state not in RUNNING_STATES and identifier not in told:
                told.add(identifier)
                progress(operation)
        if now["properties"]["provisioningState"] not in RUNNING_STATES:
            return dict(now)
        time.sleep(clients.cloud.polling_interval_seconds)


def _operations(clients: Clients, group: str, name: str) -> list[tuple[str, Operation]]:
    """The deployment's operations on resources with their ids, in the order in which they last moved."""
    with translated(f"listing the operations of the deployment {name}"):
        raw = [item.as_dict() for item in clients.deployments.deployment_operations.list(group, name)]
    operations = []
    for item in sorted(raw, key=lambda item: str(item["properties"].get("timestamp", ""))):
        properties = item["properties"]
        target = properties.get("targetResource")
        if target is None:
            continue
        causes = tuple(service_errors.causes(properties.get("statusMessage")))
        operations.append(
            (
                str(item["operationId"]),
                Operation(
                    str(target.get("resourceType", "")),
                    str(target.get("resourceName", "")),
                    str(properties["provisioningState"]),
                    causes,
                ),
            )
        )
    return operations


def _failure(clients: Clients, group: str, name: str, what: str, ended: Mapping[str, Any]) -> CloudError:
    """The error of a deployment that ended badly: the cause at each resource, or else the deployment's own."""
    found = [
        service_errors.Cause(
            cause.code, cause.message, cause.target or f"{operation.resource_type} {operation.resource_name}"
        )
        for _, operation in _operations(clients, group, name)
        if operation.state == "Failed"
        for cause in operation.causes
    ]
    state = ended["properties"]["provisioningState"]
    found = found or service_errors.causes({"error": ended["properties"].get("error")})
    found = found or [service_errors.Cause("", f"it ended as {state}", None)]
    return service_errors.from_causes(what, found, None, otherwise=FAILED)


def _outputs(deployment: Mapping[str, Any]) -> Outputs:
    """The six outputs, whose names the service may have changed in case on the way back."""
    given = {
        name.lower(): entry.get("value") for name, entry in (deployment["properties"].get("outputs") or {}).items()
    }
    names = list(Outputs.__dataclass_fields__)
    missing = [name.upper() for name in names if not isinstance(given.get(name), str)]
    if missing:
        raise CloudError(
            f"The deployment {deployment['name']} has no output {', '.join(missing)}.",
            "Add the outputs to infra/provision/inference.bicep and provision again.",
        )
    return Outputs(**{name: str(given[name]) for name in names})

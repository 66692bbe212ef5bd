"""A request for a deployment, and what is checked of it before anything is deployed."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

from infra.emulator import regions, schemas
from infra.emulator.exceptions import AzureError, NotEmulated
from infra.emulator.provider import Call
from infra.emulator.resourcemanager import authorization, documents
from infra.emulator.resourcemanager.documents import GROUP_TYPE
from infra.emulator.resourcemanager.engine import Surroundings, refusal, resource_id_of
from infra.emulator.resourcemanager.subscriptions import Subscriptions
from infra.emulator.template import (
    AZURE_CLOUD,
    Entry,
    Positions,
    Scope,
    ShortCircuited,
    Template,
    TemplateError,
    parse,
)

_NAME = re.compile(r"[-\w.()]{1,64}")
_MODES = ("incremental", "complete")
# validationLevel: what of Template < ProviderNoRbac < Provider is checked.
_LEVELS = ("provider", "providernorbac", "template")


@dataclass(frozen=True)
class DeploymentRequest:
    """What a client asks for. `group` None is subscription scope."""

    name: str
    group: str | None
    body: dict[str, Any]
    positions: Positions

    @property
    def properties(self) -> dict[str, Any]:
        """The body's properties."""
        properties: dict[str, Any] = self.body["properties"]
        return properties

    @property
    def mode(self) -> str:
        """incremental or complete."""
        return str(self.properties["mode"]).lower()

    @property
    def validation_level(self) -> str:
        """provider, providernorbac or template."""
        return str(self.properties.get("validationLevel") or "Provider").lower()


def read(
    name: str, group: str | None, body: Any, positions: Positions, *, mode: str | None = None
) -> DeploymentRequest:
    """Checks the form of a request. `mode` stands in for an absent one. Raises AzureError."""
    if not _NAME.fullmatch(name):
        raise AzureError(
            400,
            "InvalidDeploymentName",
            f"The deployment name '{name}' is not valid. It has at most 64 letters, digits, '-', '_', '.', '(', ')'.",
            from_gateway=True,
        )
    properties = body.get("properties") if isinstance(body, dict) else None
    if not isinstance(properties, dict):
        raise _missing("properties", "")
    properties = {key: value for key, value in properties.items() if value is not None}
    if "mode" not in properties:
        if mode is None:
            raise _missing("mode", "properties")
        properties["mode"] = mode
    for key, choices in (("mode", _MODES), ("validationLevel", _LEVELS)):
        if key in properties and str(properties[key]).lower() not in choices:
            message = f"Error converting value \"{properties[key]}\" to type '{key}'. Path 'properties.{key}'."
            raise _invalid_content(message)
    for key in ("templateLink", "parametersLink"):
        if key in properties:
            raise NotEmulated(f"deployments whose template or parameters are linked ({key})")
    if "onErrorDeployment" in properties:
        raise NotEmulated("deployments that roll back by another deployment (onErrorDeployment)")
    if "template" not in properties:
        message = "The request content was invalid: the deployment has neither 'template' nor 'templateLink'."
        raise AzureError(400, "InvalidRequestContent", message, from_gateway=True)
    if not isinstance(properties.get("parameters", {}), dict):
        raise _invalid_content("The parameters must be an object. Path 'properties.parameters'.")
    _check_location(name, group, body)
    if group is None and str(properties["mode"]).lower() == "complete":
        message = f"The 'Complete' mode is not allowed for deployment '{name}' at subscription scope."
        raise AzureError(400, "InvalidDeployment", message, from_gateway=True)
    return DeploymentRequest(name, group, body | {"properties": properties}, positions)


def lay_out(
    request: DeploymentRequest, subscriptions: Subscriptions, group: dict[str, Any] | None, call: Call, started: str
) -> Template:
    """The template with its parameters. `started` (of operations.timestamp()) is utcNow(). Raises AzureError."""
    properties = request.properties
    deployment: dict[str, Any] = {
        "name": request.name,
        "properties": {
            "template": properties["template"],
            "templateHash": documents.template_hash(properties["template"]),
            "parameters": properties.get("parameters", {}),
            "mode": request.mode.capitalize(),
            "provisioningState": "Accepted",
        },
    }
    if group is None:
        deployment = {"name": request.name, "location": request.body["location"], **deployment}
    context = subscriptions.template_context()
    scope = Scope(
        kind="subscription" if group is None else "resourceGroup",
        subscription=context,
        resource_group=group,
        tenant=subscriptions.tenant_context(),
        environment=AZURE_CLOUD,
        deployment=deployment,
        utc_now=datetime.strptime(started[:26], "%Y-%m-%dT%H:%M:%S.%f").replace(tzinfo=timezone.utc),
        deployer={"objectId": call.principal.object_id, "tenantId": context["tenantId"], "userPrincipalName": ""},
    )
    try:
        return parse(properties["template"], properties.get("parameters", {}), scope, positions=request.positions)
    except TemplateError as problem:
        raise refusal(problem) from None


@dataclass(frozen=True)
class Planned:
    """A resource that a deployment will write, wherever in nested templates it stands."""

    entry: Entry
    preview: dict[str, Any]


class Plan:
    """All resources of a template, those of nested templates in their own scope."""

    def __init__(self, around: Surroundings, template: Template) -> None:
        """Raises AzureError when a nested deployment goes into a group that is not there and will not be."""
        self._around = around
        self.cut_short: list[Entry] = []
        """Nested deployments that cannot be laid out before their predecessors are deployed."""
        self.resources: list[Planned] = []
        self._new_groups: dict[str, dict[str, Any]] = {}
        self._add(template)

    def _add(self, template: Template) -> None:
        entries = [entry for entry in template.resources if entry.condition and not entry.existing]
        planned = [Planned(entry, entry.preview()) for entry in entries]
        self.resources += planned
        for one in planned:
            if one.entry.type.lower() == GROUP_TYPE.lower():
                properties = {"provisioningState": "Succeeded"}
                document = {"id": one.entry.id, "name": one.entry.name, "type": GROUP_TYPE, "properties": properties}
                self._new_groups[one.entry.id.lower()] = document | one.preview
        for entry in entries:
            if entry.is_deployment:
                self._add_nested(entry)

    def _add_nested(self, entry: Entry) -> None:
        scope = entry.nested_scope()
        if scope.resource_group is not None:
            new = self._new_groups.get(str(scope.resource_group["id"]).lower())
            group = new if new is not None else self._around.groups.document(str(scope.resource_group["name"]))
            scope = replace(scope, resource_group=group)
        try:
            nested = entry.nested(None, scope)
        except ShortCircuited:
            self.cut_short.append(entry)
            return
        except TemplateError as problem:
            raise refusal(problem) from None
        self._add(nested)

    def ids(self) -> Iterator[str]:
        """The ids of all resources."""
        for one in self.resources:
            yield one.entry.id

    def check(self, request: DeploymentRequest, call: Call) -> None:
        """What Azure checks before it accepts a deployment, as far as the request's validationLevel says.

        Raises AzureError: refused by role, or InvalidTemplateDeployment with what the providers refuse.
        """
        if request.validation_level == "provider":
            authorization.check_template(
                call.principal, [(one.entry.type, one.entry.name, one.entry.id) for one in self.resources]
            )
        for one in self.resources:
            if one.entry.type.lower() == GROUP_TYPE.lower():
                regions.check_for_group(one.preview.get("location"))
            elif not one.entry.is_deployment:
                self._around.namespaces.type(one.entry.type, one.entry.api_version, _text(one.preview.get("location")))
        if request.validation_level != "template":
            refused = list(self._refused())
            if refused:
                raise _invalid_deployment(request.name, refused)

    def _refused(self) -> Iterator[tuple[Entry, AzureError]]:
        for one in self.resources:
            entry = one.entry
            if entry.is_deployment or entry.type.lower() == GROUP_TYPE.lower():
                continue
            problem = _misfit(entry, one.preview)
            if problem is not None:
                # Providers look only at what fits their schema.
                yield entry, problem
                continue
            problem = self._preflight(entry, one.preview)
            known = known_part(one.preview)
            if problem is not None and known != one.preview:
                # What is not known yet stood there as text, which may be of a wrong type: only what is wrong without
                # it too is refused.
                problem = self._preflight(entry, known) and problem
            if problem is not None:
                yield entry, problem

    def _preflight(self, entry: Entry, body: dict[str, Any]) -> AzureError | None:
        """What the provider refuses. Raises what the resource manager itself refuses."""
        try:
            self._around.resources.preflight(entry.type, entry.api_version, resource_id_of(entry), body)
        except NotEmulated:
            raise
        except AzureError as problem:
            if problem.from_gateway:
                raise
            return problem
        return None


def _misfit(entry: Entry, body: dict[str, Any]) -> AzureError | None:
    """What the type's official schema has against a resource."""
    try:
        schemas.check(entry.type, entry.api_version, body, preview=True)
    except AzureError as problem:
        return problem
    return None


def known_part(value: Any) -> Any:
    """A preview without what is not known yet: members whose value is an expression are left out."""
    if isinstance(value, dict):
        return {key: known_part(item) for key, item in value.items() if not _unknown(item)}
    if isinstance(value, list):
        return [known_part(item) for item in value if not _unknown(item)]
    return value


def _unknown(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("[") and value.endswith("]")


def _invalid_deployment(name: str, refused: list[tuple[Entry, AzureError]]) -> AzureError:
    """How a failed preflight is nested: Microsoft.App's under a code of its own, as issue threads show it."""
    of_apps = [problem for entry, problem in refused if entry.type.lower().startswith("microsoft.app/")]
    of_others = [
        AzureError(problem.status, problem.code, problem.message, target=entry.name, details=problem.details)
        for entry, problem in refused
        if not entry.type.lower().startswith("microsoft.app/")
    ]
    details = []
    if of_others:
        message = "Preflight validation failed. Please refer to the details for the specific errors."
        details.append(AzureError(400, "PreflightValidationCheckFailed", message, details=of_others))
    if of_apps:
        message = "Validation failed for a resource. Check 'Error.Details[0]' for more information."
        details.append(AzureError(400, "ValidationForResourceFailed", message, details=of_apps))
    return AzureError(
        400,
        "InvalidTemplateDeployment",
        f"The template deployment '{name}' is not valid according to the validation procedure. The tracking id is"
        f" '{uuid.uuid4()}'. See inner errors for details.",
        details=details,
        from_gateway=True,
    )


def _check_location(name: str, group: str | None, body: dict[str, Any]) -> None:
    location = body.get("location")
    if group is None and not location:
        message = (
            f"The 'location' property must be specified for '{name}'. Please see"
            " https://aka.ms/arm-deployment-subscription for usage details."
        )
    elif group is not None and location:
        message = (
            f"The 'location' property is not allowed for '{name}' at resource group scope. Please see"
            " https://aka.ms/arm-deployment-subscription for usage details."
        )
    elif location and not regions.exists(str(location)):
        available = ",".join(region for region, _, _ in regions.REGIONS)
        raise AzureError(
            400,
            "LocationNotAvailableForDeployment",
            f"The provided location '{location}' is not available for deployment. List of available regions is"
            f" '{available}'.",
            from_gateway=True,
        )
    else:
        return
    raise AzureError(400, "InvalidDeployment", message, from_gateway=True)


def _missing(key: str, path: str) -> AzureError:
    return _invalid_content(f"Required property '{key}' not found in JSON. Path '{path}', line 1, position 1.")


def _invalid_content(problem: str) -> AzureError:
    message = f"The request content was invalid and could not be deserialized: '{problem}'."
    return AzureError(400, "InvalidRequestContent", message, from_gateway=True)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and not _unknown(value) else None

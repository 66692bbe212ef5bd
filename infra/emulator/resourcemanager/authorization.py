"""Who may do what: the one identity may do all, the other may read and may ask what a deployment would change."""

from __future__ import annotations

from typing import Any

from infra.emulator.exceptions import AzureError
from infra.emulator.provider import Principal

# Azure's Reader role has no action but */read. Whoever previews deployments with a read-only identity grants these two
# in a role of their own: https://learn.microsoft.com/azure/azure-resource-manager/templates/deploy-what-if
_READER_ACTIONS = frozenset(
    {"microsoft.resources/deployments/whatif/action", "microsoft.resources/deployments/validate/action"}
)


# Properties that name another resource, and what one must be allowed to do there to write them.
_JOIN = "Microsoft.App/managedEnvironments/join/action"
_LINKS = {"microsoft.app/containerapps": {"environmentId": _JOIN, "managedEnvironmentId": _JOIN}}


def allows(principal: Principal, action: str) -> bool:
    """Whether `principal` may do `action`, for example Microsoft.App/containerApps/write."""
    return principal.may_write or action.lower().endswith("/read") or action.lower() in _READER_ACTIONS


def check(principal: Principal, action: str, scope: str) -> None:
    """Raises AzureError AuthorizationFailed unless the action is allowed."""
    if not allows(principal, action):
        raise AzureError(
            403,
            "AuthorizationFailed",
            f"The client '{principal.client_id}' with object id '{principal.object_id}' does not have authorization to"
            f" perform action '{action}' over scope '{scope}' or the scope is invalid. If access was recently granted,"
            " please refresh your credentials.",
            from_gateway=True,
        )


def check_links(principal: Principal, resource_type: str, scope: str, subscription: str, body: dict[str, Any]) -> None:
    """Raises AzureError LinkedAuthorizationFailed for a property that names a resource of another subscription."""
    properties = body.get("properties")
    for name, action in _LINKS.get(resource_type.lower(), {}).items():
        linked = properties.get(name) if isinstance(properties, dict) else None
        if not isinstance(linked, str) or not linked.lower().startswith("/subscriptions/"):
            continue
        if linked.split("/")[2].lower() != subscription.lower():
            raise AzureError(
                403,
                "LinkedAuthorizationFailed",
                f"The client '{principal.client_id}' with object id '{principal.object_id}' has permission to perform"
                f" action '{action_of('PUT', resource_type)}' on scope '{scope}'; however, it does not have permission"
                f" to perform action(s) '{action}' on the linked scope(s) '{linked}' (respectively) or the linked"
                " scope(s) are invalid.",
                from_gateway=True,
            )


def action_of(method: str, resource_type: str, action: str = "") -> str:
    """The name of what a request does: PUT of Microsoft.App/containerApps is Microsoft.App/containerApps/write."""
    if method in ("GET", "HEAD"):
        return f"{resource_type}/{action}/read" if action else f"{resource_type}/read"
    if method == "POST":
        return f"{resource_type}/{action}/action"
    return f"{resource_type}/{'delete' if method == 'DELETE' else 'write'}"


def check_template(principal: Principal, resources: list[tuple[str, str, str]]) -> None:
    """Raises InvalidTemplateDeployment when one of (type, name, id) may not be written, as preflight words it."""
    refused = [
        f"Authorization failed for template resource '{name}' of type '{resource_type}'. The client"
        f" '{principal.client_id}' with object id '{principal.object_id}' does not have permission to perform action"
        f" '{_write_of(resource_type)}' at scope '{resource_id}'."
        for resource_type, name, resource_id in resources
        if not allows(principal, _write_of(resource_type))
    ]
    if len(refused) == 1:
        message = f"The template deployment failed with error: '{refused[0]}'."
    else:
        message = f"Deployment failed with multiple errors: '{':'.join(refused)}'"
    if refused:
        raise AzureError(403, "InvalidTemplateDeployment", message, from_gateway=True)


def _write_of(resource_type: str) -> str:
    """Writing a resource group is an action of the subscription."""
    if resource_type.lower() == "microsoft.resources/resourcegroups":
        resource_type = "Microsoft.Resources/subscriptions/resourceGroups"
    return action_of("PUT", resource_type)

"""Where a template is deployed, what may be asked of the outside, and the ids of resources in a scope.

Nothing here looks anything up: a caller fills in a Scope and passes a Resolver.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, Protocol

from infra.emulator.template.errors import ExpressionError
from infra.emulator.template.values import Value, fold

ScopeKind = Literal["resourceGroup", "subscription", "managementGroup", "tenant"]


@dataclass(frozen=True)
class Scope:
    """The scope of a deployment: what resourceGroup(), subscription(), deployment() and their kin return."""

    kind: ScopeKind
    subscription: Mapping[str, Any]
    """id, subscriptionId, tenantId, displayName."""
    resource_group: Mapping[str, Any] | None
    """id, name, type, location, tags, properties; None above resource groups."""
    tenant: Mapping[str, Any]
    """id, tenantId, countryCode, displayName; what of it is known."""
    environment: Mapping[str, Any]
    """What environment() returns; AZURE_CLOUD for the public cloud."""
    deployment: Mapping[str, Any]
    """What deployment() returns: name, location above resource groups, properties."""
    utc_now: datetime
    """The time that utcNow() returns in the default value of a parameter."""
    management_group: Mapping[str, Any] | None = None
    """id, name, type, properties; None below management groups."""
    deployer: Mapping[str, Any] = field(default_factory=dict)
    """objectId, tenantId, userPrincipalName of whoever deploys."""

    @property
    def id(self) -> str:
        """The scope's id; '' for the tenant."""
        if self.kind == "resourceGroup":
            return str((self.resource_group or {})["id"])
        if self.kind == "subscription":
            return str(self.subscription["id"])
        if self.kind == "managementGroup":
            return str((self.management_group or {})["id"])
        return ""


class Resolver(Protocol):
    """What the functions reference() and list*() ask of the outside. Exceptions pass through to the caller."""

    def reference(self, resource_id: str, api_version: str | None, full: bool) -> Value:
        """A resource's properties, or with `full` the whole resource."""

    def list_action(self, name: str, resource_id: str, api_version: str, body: Value) -> Value:
        """The answer to the action `name` (listKeys, ...) of a resource."""


def group_id(subscription_id: str, name: str) -> str:
    return f"/subscriptions/{subscription_id}/resourceGroups/{name}"


def resource_id(scope_id: str, type_name: str, names: list[str]) -> str:
    """The id of a resource. Raises ExpressionError if the type and the names do not fit together.

    >>> resource_id("/subscriptions/S", "Microsoft.Sql/servers/databases", ["a", "b"])
    '/subscriptions/S/providers/Microsoft.Sql/servers/a/databases/b'
    """
    namespace, *types = type_name.strip("/").split("/")
    if not types:
        raise ExpressionError(
            f"The resource type '{type_name}' is not valid: it needs a namespace and a type, as in Microsoft.App/jobs."
        )
    if len(types) != len(names):
        raise ExpressionError(f"The type '{type_name}' requires '{len(types)}' resource name argument(s).")
    pairs = "".join(f"/{one_type}/{name}" for one_type, name in zip(types, names, strict=True))
    if fold(type_name) == fold("Microsoft.Resources/resourceGroups") and scope_id.count("/") == 2:
        return f"{scope_id}/resourceGroups/{names[0]}"
    return f"{scope_id}/providers/{namespace}{pairs}"


def within_group(scope: Scope, subscription_id: str, group: str, deployment: Mapping[str, Any]) -> Scope:
    """The scope of a nested deployment into a resource group; of another group only id and name are known."""
    own = scope.resource_group
    wanted = group_id(subscription_id, group)
    subscription = _subscription(scope, subscription_id)
    if own is None or fold(str(own["id"])) != fold(wanted):
        own = {"id": wanted, "name": group, "type": "Microsoft.Resources/resourceGroups"}
    return _moved(scope, "resourceGroup", subscription, own, deployment)


def within_subscription(scope: Scope, subscription_id: str, deployment: Mapping[str, Any]) -> Scope:
    """The scope of a nested deployment into a subscription; of another one only the ids are known."""
    return _moved(scope, "subscription", _subscription(scope, subscription_id), None, deployment)


def _subscription(scope: Scope, subscription_id: str) -> Mapping[str, Any]:
    if fold(str(scope.subscription.get("subscriptionId", ""))) == fold(subscription_id):
        return scope.subscription
    return {"id": f"/subscriptions/{subscription_id}", "subscriptionId": subscription_id}


def _moved(
    scope: Scope,
    kind: ScopeKind,
    subscription: Mapping[str, Any],
    resource_group: Mapping[str, Any] | None,
    deployment: Mapping[str, Any],
) -> Scope:
    return Scope(
        kind,
        subscription,
        resource_group,
        scope.tenant,
        scope.environment,
        copy.deepcopy(dict(deployment)),
        scope.utc_now,
        scope.management_group,
        scope.deployer,
    )


AZURE_CLOUD: Mapping[str, Any] = {
    "name": "AzureCloud",
    "gallery": "https://gallery.azure.com/",
    "graph": "https://graph.windows.net/",
    "portal": "https://portal.azure.com",
    "graphAudience": "https://graph.windows.net/",
    "activeDirectoryDataLake": "https://datalake.azure.net/",
    "batch": "https://batch.core.windows.net/",
    "media": "https://rest.media.azure.net",
    "sqlManagement": "https://management.core.windows.net:8443/",
    "vmImageAliasDoc": "https://raw.githubusercontent.com/Azure/azure-rest-api-specs/master/arm-compute/"
    "quickstart-templates/aliases.json",
    "resourceManager": "https://management.azure.com/",
    "authentication": {
        "loginEndpoint": "https://login.microsoftonline.com/",
        "audiences": ["https://management.core.windows.net/", "https://management.azure.com/"],
        "tenant": "common",
        "identityProvider": "AAD",
    },
    "suffixes": {
        "acrLoginServer": ".azurecr.io",
        "azureDatalakeAnalyticsCatalogAndJob": "azuredatalakeanalytics.net",
        "azureDatalakeStoreFileSystem": "azuredatalakestore.net",
        "azureFrontDoorEndpointSuffix": "azurefd.net",
        "keyvaultDns": ".vault.azure.net",
        "sqlServerHostname": ".database.windows.net",
        "storage": "core.windows.net",
    },
}
"""environment() in the public cloud, as Microsoft's page on deployment functions prints it."""

"""What what-if knows of a resource type: what of it is hidden or secret, and what it takes over from what is there.

Azure reads it off each provider's API description, and knows little: everything else that a service fills in and a
template leaves out shows as a Delete. The rows are what recordings and issue threads show:
Microsoft.Storage hides its read-only values and keeps its defaults; Microsoft.App hides nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Knowledge:
    """Paths are dotted, `[]` stands for every element of an array."""

    hidden: frozenset[str] = frozenset()
    """Read-only properties that a preview leaves out of `before`."""
    in_vain: frozenset[str] = frozenset()
    """Read-only properties: a template that sets them changes nothing."""
    keeps_defaults: bool = False
    """Whether what the template leaves out is shown as unchanged."""
    secret: frozenset[str] = frozenset()
    """What the types declare to be secure: a value that a template writes out is shown as asterisks."""


_NOTHING = Knowledge()
_ACCOUNT = frozenset(
    {
        "sku.tier",
        "properties.allowCrossTenantDelegationSas",
        "properties.creationTime",
        "properties.encryption.services",
        "properties.keyCreationTime",
        "properties.primaryEndpoints",
        "properties.primaryLocation",
        "properties.privateEndpointConnections",
        "properties.provisioningState",
        "properties.secondaryLocation",
        "properties.statusOfPrimary",
        "properties.statusOfSecondary",
    }
)
_SHARE = frozenset(
    {
        "etag",
        "properties.accessTierChangeTime",
        "properties.lastModifiedTime",
        "properties.leaseDuration",
        "properties.leaseState",
        "properties.leaseStatus",
        "properties.shareUsageBytes",
    }
)
_WORKSPACE = frozenset(
    {
        "etag",
        "properties.createdDate",
        "properties.customerId",
        "properties.modifiedDate",
        "properties.provisioningState",
        "properties.sku.lastSkuUpdate",
        "properties.workspaceCapping.dataIngestionStatus",
        "properties.workspaceCapping.quotaNextResetTime",
    }
)
_APP = frozenset(
    {
        "properties.configuration.ingress.fqdn",
        "properties.customDomainVerificationId",
        "properties.eventStreamEndpoint",
        "properties.latestReadyRevisionName",
        "properties.latestRevisionFqdn",
        "properties.latestRevisionName",
        "properties.outboundIpAddresses",
        "properties.provisioningState",
        "properties.runningStatus",
        "properties.template.containers[].resources.ephemeralStorage",
        "properties.template.initContainers[].resources.ephemeralStorage",
    }
)
_ENVIRONMENT = frozenset(
    {
        "properties.daprConfiguration.version",
        "properties.defaultDomain",
        "properties.eventStreamEndpoint",
        "properties.kedaConfiguration.version",
        "properties.provisioningState",
        "properties.staticIp",
    }
)
_ENVIRONMENT_SECRETS = frozenset(
    {
        "properties.appLogsConfiguration.logAnalyticsConfiguration.sharedKey",
        "properties.daprAIConnectionString",
        "properties.daprAIInstrumentationKey",
    }
)
_BY_TYPE: Mapping[str, Knowledge] = {
    "microsoft.resources/resourcegroups": Knowledge(frozenset({"properties"}), frozenset(), keeps_defaults=True),
    "microsoft.storage/storageaccounts": Knowledge(_ACCOUNT, _ACCOUNT - {"properties.encryption.services"}, True),
    "microsoft.storage/storageaccounts/fileservices": Knowledge(frozenset({"sku"})),
    "microsoft.storage/storageaccounts/fileservices/shares": Knowledge(_SHARE, _SHARE),
    "microsoft.operationalinsights/workspaces": Knowledge(_WORKSPACE, _WORKSPACE),
    "microsoft.app/managedenvironments": Knowledge(in_vain=_ENVIRONMENT, secret=_ENVIRONMENT_SECRETS),
    "microsoft.app/managedenvironments/storages": Knowledge(secret=frozenset({"properties.azureFile.accountKey"})),
    "microsoft.app/containerapps": Knowledge(
        in_vain=_APP, secret=frozenset({"properties.configuration.secrets[].value"})
    ),
}
_HIDDEN_VALUE = "*******"
_INDEX = re.compile(r"\[\d+\]")


def of(resource_type: str) -> Knowledge:
    """What is known of a type; nothing of one that is not listed."""
    return _BY_TYPE.get(resource_type.lower(), _NOTHING)


def hide(document: dict[str, Any], paths: frozenset[str]) -> dict[str, Any]:
    """`document` without the properties at `paths`."""
    result: dict[str, Any] = _without(document, "", paths)
    return result


def conceal(value: Any, paths: frozenset[str], at: str = "") -> Any:
    """`value` with asterisks for the texts at `paths`. An expression that is not evaluated says no secret."""
    if isinstance(value, dict):
        return {key: conceal(item, paths, f"{at}.{key}" if at else key) for key, item in value.items()}
    if isinstance(value, list):
        return [conceal(item, paths, f"{at}[]") for item in value]
    is_expression = isinstance(value, str) and value.startswith("[") and value.endswith("]")
    return _HIDDEN_VALUE if at in paths and value is not None and not is_expression else value


def found(document: Any, paths: frozenset[str], at: str = "") -> dict[str, Any]:
    """The properties of `document` at `paths`: path with indexes, as a delta has it, and value."""
    if isinstance(document, dict):
        members = [(f"{at}.{key}" if at else key, item) for key, item in document.items()]
    elif isinstance(document, list):
        members = [(f"{at}[{index}]", item) for index, item in enumerate(document)]
    else:
        return {}
    result: dict[str, Any] = {}
    for own, item in members:
        result |= {own: item} if _INDEX.sub("[]", own) in paths else found(item, paths, own)
    return result


def keep(before: Any, after: Any) -> Any:
    """`after`, and in its objects what `before` has beyond it."""
    if not isinstance(before, dict) or not isinstance(after, dict):
        return after
    known = {key.lower() for key in after}
    names = {key.lower(): key for key in before}
    kept = {key: value for key, value in before.items() if key.lower() not in known}
    return {key: keep(before.get(names.get(key.lower(), key)), value) for key, value in after.items()} | kept


def _without(value: Any, path: str, paths: frozenset[str]) -> Any:
    if isinstance(value, dict):
        return {
            key: _without(item, own, paths)
            for key, item in value.items()
            if (own := f"{path}.{key}" if path else key) not in paths
        }
    if isinstance(value, list):
        return [_without(item, f"{path}[]", paths) for item in value]
    return value

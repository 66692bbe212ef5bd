"""What Microsoft.Storage refuses and fills in. Knows no store and no HTTP."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from infra.emulator.exceptions import AzureError
from infra.emulator.operations import timestamp

_NAME = re.compile(r"[a-z0-9]{3,24}")
_SKUS = frozenset(
    {
        *("Standard_LRS", "Standard_GRS", "Standard_RAGRS", "Standard_ZRS", "Standard_GZRS", "Standard_RAGZRS"),
        *("Premium_LRS", "Premium_ZRS", "StandardV2_LRS", "StandardV2_GRS", "StandardV2_ZRS", "StandardV2_GZRS"),
        *("PremiumV2_LRS", "PremiumV2_ZRS"),
    }
)
_KINDS = frozenset({"Storage", "StorageV2", "BlobStorage", "FileStorage", "BlockBlobStorage"})
_CHOICES = {
    "accessTier": frozenset({"Hot", "Cool", "Premium", "Cold"}),
    "minimumTlsVersion": frozenset({"TLS1_0", "TLS1_1", "TLS1_2", "TLS1_3"}),
    "largeFileSharesState": frozenset({"Disabled", "Enabled"}),
    "publicNetworkAccess": frozenset({"Enabled", "Disabled", "SecuredByPerimeter"}),
}
_SWITCHES = (
    "allowBlobPublicAccess",
    "allowCrossTenantReplication",
    "allowSharedKeyAccess",
    "defaultToOAuthAuthentication",
    "supportsHttpsTrafficOnly",
)
# Shown from this API version on.
DELEGATION, DELEGATION_SINCE = "allowCrossTenantDelegationSas", "2025-06-01"
# In Azure's order. What a client sets beyond these stands in front of them.
_ORDER = (
    *(DELEGATION, "keyCreationTime", "allowCrossTenantReplication", "privateEndpointConnections", "minimumTlsVersion"),
    *("allowBlobPublicAccess", "allowSharedKeyAccess", "largeFileSharesState", "networkAcls"),
    *("supportsHttpsTrafficOnly", "encryption", "accessTier", "provisioningState", "creationTime", "primaryEndpoints"),
    *("primaryLocation", "statusOfPrimary"),
)
_READ_ONLY = frozenset(
    {
        *("keyCreationTime", "privateEndpointConnections", "provisioningState", "creationTime", "primaryEndpoints"),
        *("primaryLocation", "statusOfPrimary", "secondaryEndpoints", "secondaryLocation", "statusOfSecondary"),
        *("blobRestoreStatus", "failoverInProgress", "geoReplicationStats", "lastGeoFailoverTime"),
        *("storageAccountSkuConversionStatus", "isSkuConversionBlocked", "accountMigrationInProgress"),
    }
)


def check_name(name: str) -> None:
    """Raises AzureError AccountNameInvalid."""
    if not _NAME.fullmatch(name):
        raise AzureError(400, "AccountNameInvalid", invalid_name(name))


def invalid_name(name: str) -> str:
    """How the service says that the name breaks the rule."""
    return (
        f"{name} is not a valid storage account name. Storage account name must be between 3 and 24 characters in"
        " length and use numbers and lower-case letters only."
    )


def check_body(body: dict[str, Any], *, complete: bool) -> None:
    """`complete`: a PUT, which needs sku and kind. Raises AzureError that names every wrong value."""
    wrong = []
    sku = body.get("sku")
    name = sku.get("name") if isinstance(sku, dict) else None
    if not _is_one_of(name, _SKUS) and (complete or sku is not None):
        wrong.append("sku.name" if isinstance(sku, dict) else "sku")
    kind = body.get("kind")
    if not _is_one_of(kind, _KINDS) and (complete or kind is not None):
        wrong.append("kind")
    properties = body.get("properties")
    if properties is not None and not isinstance(properties, dict):
        wrong.append("properties")
        properties = None
    for key, value in (properties or {}).items():
        if value is None:
            continue
        if (key in _CHOICES and not _is_one_of(value, _CHOICES[key])) or (
            key in _SWITCHES and not isinstance(value, bool)
        ):
            wrong.append(key)
    policy = (properties or {}).get("keyPolicy")
    days = policy.get("keyExpirationPeriodInDays") if isinstance(policy, dict) else None
    if days is not None and (type(days) is not int or days < 0):
        wrong.append("keyPolicy.keyExpirationPeriodInDays")
    if wrong:
        message = f"Values for request parameters are invalid: {', '.join(wrong)}."
        raise AzureError(400, "InvalidValuesForRequestParameters", message)
    if kind == "FileStorage" and not str(name).startswith("Premium") and not str(name).endswith(("V2_LRS", "V2_ZRS")):
        message = f"The sku '{name}' is not supported for the account kind '{kind}'."
        raise AzureError(400, "SkuNotSupported", message)


def _is_one_of(value: Any, choices: Collection[str]) -> bool:
    return isinstance(value, str) and value in choices


def tier(sku: str) -> str:
    """The read-only sku.tier."""
    return "Premium" if sku.startswith("Premium") else "Standard"


def new_properties(asked: dict[str, Any], location: str, endpoints: dict[str, str]) -> dict[str, Any]:
    """The properties of a new account: what was asked, and the service's defaults."""
    now = timestamp() + "Z"
    return merged_properties(
        {
            DELEGATION: False,
            "keyCreationTime": {"key1": now, "key2": now},
            "allowCrossTenantReplication": False,
            "privateEndpointConnections": [],
            "minimumTlsVersion": "TLS1_2",
            "allowBlobPublicAccess": False,
            "networkAcls": {
                "ipv6Rules": [],
                "bypass": "AzureServices",
                "virtualNetworkRules": [],
                "ipRules": [],
                "defaultAction": "Allow",
            },
            "supportsHttpsTrafficOnly": True,
            "encryption": {
                "services": {
                    "file": {"keyType": "Account", "enabled": True, "lastEnabledTime": now},
                    "blob": {"keyType": "Account", "enabled": True, "lastEnabledTime": now},
                },
                "keySource": "Microsoft.Storage",
            },
            "accessTier": "Hot",
            "provisioningState": "Creating",
            "creationTime": now,
            "primaryEndpoints": endpoints,
            "primaryLocation": location,
            "statusOfPrimary": "available",
        },
        asked,
    )


def merged_properties(before: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    """`before` with what was asked. Absent, null and read-only members change nothing, as PUT and PATCH do it here."""
    result = dict(before)
    for key, value in asked.items():
        if value is None or key in _READ_ONLY:
            continue
        known = result.get(key)
        # The services of an account are always encrypted, so that part of a request has no effect.
        if key == "encryption" and isinstance(value, dict):
            value = {name: part for name, part in value.items() if name != "services"}
        result[key] = {**known, **value} if isinstance(known, dict) and isinstance(value, dict) else value
    first = {key: value for key, value in result.items() if key not in _ORDER}
    return first | {key: result[key] for key in _ORDER if key in result}

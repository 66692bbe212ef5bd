"""A what-if result -> Plan: what would change, without what only looks like a change.

Pure: knows the form of a what-if result (its REST API's words) and what the services fill in by themselves; no network,
no printing. Noise is counted and kept with its reason, so that a person can look at it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

HIDDEN = "(secret)"

# The last segment of a path whose value is never kept; a container app's secrets are values in a list.
SECRET_PATH = re.compile(
    r"(^|\.)secrets\[\d+\]\.value$|(password|accountkey|sharedkey|primarykey|secondarykey|connectionstring)$", re.I
)

# What the services report and nobody can set (the resource types' schemas say read-only).
READ_ONLY = frozenset(
    {
        "createdAt",
        "createdDate",
        "creationTime",
        "customDomainVerificationId",
        "defaultDomain",
        "eTag",
        "etag",
        "eventStreamEndpoint",
        "fqdn",
        "keyCreationTime",
        "lastModifiedTime",
        "latestReadyRevisionName",
        "latestRevisionFqdn",
        "latestRevisionName",
        "modifiedDate",
        "outboundIpAddresses",
        "patchingMode",
        "primaryEndpoints",
        "primaryLocation",
        "privateEndpointConnections",
        "provisioningState",
        "runningState",
        "runningStatus",
        "staticIp",
        "statusOfPrimary",
        "systemData",
    }
)

# Words that Microsoft.App takes in any case and gives back in its own.
ANY_CASE = frozenset({"accessMode", "activeRevisionsMode", "destination", "scheme", "storageType", "transport", "type"})

# What the services fill in when a template leaves it out: resource type -> path -> values that mean the default, with
# None for any value (a version of the platform, or derived from other values). Seen in answers of the services to the
# Azure CLI (API versions 2024-03-01 to 2025-07-01).
DEFAULTS: dict[str, dict[str, tuple[Any, ...] | None]] = {
    "microsoft.app/containerapps": {
        r"identity": ({"type": "None"},),
        r"properties\.(managedEnvironmentId|environmentId)": None,
        r"properties\.workloadProfileName": ("Consumption",),
        r"properties\.configuration\.maxInactiveRevisions": (100,),
        r"properties\.configuration\.ingress\.exposedPort": (0,),
        r"properties\.configuration\.ingress\.traffic": ([{"weight": 100, "latestRevision": True}],),
        r"properties\.template\.containers\[\d+\]\.resources\.ephemeralStorage": None,
        r"properties\.template\.scale\.cooldownPeriod": (300,),
        r"properties\.template\.scale\.pollingInterval": (30,),
        r"properties\.template\.scale\.(min|max)Replicas": (0, 10),
    },
    "microsoft.app/managedenvironments": {
        r"properties\.(kedaConfiguration|daprConfiguration)": None,
        r"properties\.peerAuthentication": ({"mtls": {"enabled": False}},),
        r"properties\.peerTrafficConfiguration": ({"encryption": {"enabled": False}},),
        r"properties\.publicNetworkAccess": ("Enabled",),
        r"properties\.workloadProfiles\[\d+\]\.enableFips": (False,),
        r"properties\.zoneRedundant": (False,),
    },
    "microsoft.storage/storageaccounts": {
        r"sku\.tier": ("Standard",),
        r"properties\.accessTier": ("Hot",),
        r"properties\.encryption": None,
        r"properties\.networkAcls": (
            {"bypass": "AzureServices", "defaultAction": "Allow", "ipRules": [], "virtualNetworkRules": []},
            {
                "bypass": "AzureServices",
                "defaultAction": "Allow",
                "ipRules": [],
                "virtualNetworkRules": [],
                "ipv6Rules": [],
            },
        ),
        r"properties\.publicNetworkAccess": ("Enabled",),
        r"properties\.allowCrossTenantReplication": (False,),
    },
    "microsoft.storage/storageaccounts/fileservices": {
        r"sku": None,
        r"properties\.protocolSettings": None,
        r"properties\.cors": ({"corsRules": []},),
    },
    "microsoft.storage/storageaccounts/fileservices/shares": {
        r"properties\.accessTier": ("TransactionOptimized",),
        r"properties\.enabledProtocols": ("SMB",),
        r"properties\.(leaseState|leaseStatus|accessTierChangeTime|accessTierStatus)": None,
    },
    "microsoft.operationalinsights/workspaces": {
        r"properties\.customerId": None,
        r"properties\.features": None,
        r"properties\.workspaceCapping": None,
        r"properties\.publicNetworkAccessFor(Ingestion|Query)": ("Enabled",),
        r"properties\.sku\.lastSkuUpdate": None,
    },
}


class Kind(str, Enum):
    CREATE = "create"
    MODIFY = "modify"
    DELETE = "delete"
    DEPLOY = "deploy"
    UNSUPPORTED = "unsupported"
    NO_CHANGE = "no_change"
    IGNORE = "ignore"


@dataclass(frozen=True)
class Delta:
    """One property that would change; kind is create, modify or delete. Secret values are hidden."""

    path: str
    kind: Kind
    before: Any
    after: Any


@dataclass(frozen=True)
class Noise:
    """A difference that is none, and why."""

    resource: str
    path: str
    reason: str


@dataclass(frozen=True)
class Change:
    kind: Kind
    resource_type: str
    name: str
    resource_id: str
    deltas: tuple[Delta, ...]
    reason: str
    """Why Azure cannot say what would happen; empty unless the kind is unsupported."""


@dataclass(frozen=True)
class Plan:
    """What would change, in Azure's order. `unchanged` counts resources of the template, `untouched` others there."""

    changes: tuple[Change, ...]
    unchanged: int
    untouched: int
    noise: tuple[Noise, ...]
    diagnostics: tuple[str, ...]

    @property
    def is_empty(self) -> bool:
        return not self.changes


_KINDS = {
    "Create": Kind.CREATE,
    "Modify": Kind.MODIFY,
    "Delete": Kind.DELETE,
    "Deploy": Kind.DEPLOY,
    "Unsupported": Kind.UNSUPPORTED,
    "NoChange": Kind.NO_CHANGE,
    "Ignore": Kind.IGNORE,
}


def from_what_if(result: Mapping[str, Any]) -> Plan:
    """The plan of a what-if result's properties. A kind of change that is not known counts as unsupported."""
    changes: list[Change] = []
    noise: list[Noise] = []
    unchanged = untouched = 0
    for raw in result.get("changes") or []:
        change, left_out = _change(raw)
        noise += left_out
        if change.kind is Kind.IGNORE:
            untouched += 1
        elif change.kind is Kind.NO_CHANGE or (change.kind is Kind.MODIFY and not change.deltas):
            unchanged += 1
        else:
            changes.append(change)
    diagnostics = tuple(
        f"{item.get('level', 'Warning')} {item.get('code', '')}: {' '.join(str(item.get('message', '')).split())}"
        for item in result.get("diagnostics") or []
    )
    return Plan(tuple(changes), unchanged, untouched, tuple(noise), diagnostics)


def _change(raw: Mapping[str, Any]) -> tuple[Change, list[Noise]]:
    identifier = str(raw.get("resourceId", ""))
    resource_type, name = split_id(identifier)
    kept: list[Delta] = []
    noise: list[Noise] = []
    for path, word, before, after in _leaves(raw.get("delta") or [], ""):
        reason = _noise_reason(resource_type.lower(), path, word, before, after)
        if reason is not None:
            noise.append(Noise(identifier, path, reason))
            continue
        kept.append(Delta(path, _KINDS.get(word, Kind.MODIFY), _hidden(path, before), _hidden(path, after)))
    kind = _KINDS.get(str(raw.get("changeType")), Kind.UNSUPPORTED)
    reason = str(raw.get("unsupportedReason") or raw.get("changeType")) if kind is Kind.UNSUPPORTED else ""
    return Change(kind, resource_type, name, identifier, tuple(kept), reason), noise


def split_id(identifier: str) -> tuple[str, str]:
    """A resource id -> (type, name), both with all their parts: ("Microsoft.A/b/c", "bname/cname")."""
    _, found, tail = identifier.rpartition("/providers/")
    if found:
        namespace, *parts = tail.split("/")
        return "/".join([namespace, *parts[::2]]), "/".join(parts[1::2])
    match = re.search(r"/resourceGroups/([^/]+)/?$", identifier, re.I)
    return ("Microsoft.Resources/resourceGroups", match[1]) if match else ("", identifier)


def _leaves(deltas: list[Mapping[str, Any]], parent: str) -> Iterator[tuple[str, str, Any, Any]]:
    """(path, propertyChangeType, before, after) of every property that differs, arrays' items by index."""
    for delta in deltas:
        segment = str(delta.get("path", ""))
        path = f"{parent}[{segment}]" if segment.isdecimal() else f"{parent}.{segment}" if parent else segment
        children = delta.get("children") or []
        if children:
            yield from _leaves(children, path)
        else:
            yield path, str(delta.get("propertyChangeType")), delta.get("before"), delta.get("after")


def _hidden(path: str, value: Any) -> Any:
    """The value with a mark in place of each secret in it."""
    if isinstance(value, Mapping):
        return {key: _hidden(f"{path}.{key}", item) for key, item in value.items()}
    if isinstance(value, list):
        return [_hidden(f"{path}[{index}]", item) for index, item in enumerate(value)]
    return HIDDEN if value is not None and SECRET_PATH.search(path) else value


def _noise_reason(resource_type: str, path: str, word: str, before: Any, after: Any) -> str | None:
    """Why a difference is none, or None when it is one."""
    last = re.sub(r"\[\d+\]$", "", path).rpartition(".")[2]
    if word == "NoEffect":
        return "setting it has no effect"
    if last in READ_ONLY:
        return "only the service can set it"
    masked = isinstance(after, str) and re.fullmatch(r"\*+", after) is not None
    if masked or (SECRET_PATH.search(path) and (before is None or after is None or _is_unknown(after))):
        return "a secret, which the service does not give back to compare"
    if word == "Delete":
        if before in (None, "", [], {}):
            return "it is empty"
        if isinstance(before, Mapping) and all(key in READ_ONLY or before[key] is None for key in before):
            return "only the service can set it"
        if _is_default(resource_type, path, before):
            return "the service's own default"
    if _is_unknown(after):
        return "known only during the deployment"
    if word == "Modify" and _same(last, before, after):
        return "only written differently"
    return None


def _is_unknown(value: Any) -> bool:
    """A template expression that the preview could not evaluate; a literal like one has a second bracket in front."""
    return isinstance(value, str) and value.startswith("[") and value.endswith("]") and not value.startswith("[[")


def _is_default(resource_type: str, path: str, value: Any) -> bool:
    for pattern, values in DEFAULTS.get(resource_type, {}).items():
        if re.fullmatch(pattern, path) and (values is None or value in values):
            return True
    return False


def _same(name: str, before: Any, after: Any) -> bool:
    """Equal but for what the services rewrite: a location's display name, the case of an id, a number as text."""
    if isinstance(before, str) and isinstance(after, str):
        if name == "location":
            return before.replace(" ", "").lower() == after.replace(" ", "").lower()
        return (name in ANY_CASE or before.startswith("/subscriptions/")) and before.lower() == after.lower()
    numbers = (int, float)
    if isinstance(before, numbers) != isinstance(after, numbers) and isinstance(before, str) != isinstance(after, str):
        return str(before) == str(after)
    return False

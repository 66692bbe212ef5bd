"""A managed environment as the service writes it: the shape of a request, defaults, what each API version shows.

Order of members, nulls and defaults are those of the Azure CLI's test recordings (2024-03-01 and 2025-07-01). Pure.
"""

from __future__ import annotations

import copy
import hashlib
import random
import re
from collections.abc import Mapping
from typing import Any

from infra.emulator.containerapps.locations import display_name, region_name
from infra.emulator.containerapps.profiles import check_environment
from infra.emulator.containerapps.shapes import BOOLEAN, FREE, IGNORED, INTEGER, TEXT, ListOf, Shape, choice
from infra.emulator.exceptions import AzureError, NotEmulated
from infra.emulator.operations import SUCCEEDED
from infra.emulator.resource_id import ResourceId

_SWITCH = Shape("Enabled", {"enabled": BOOLEAN})
ENVIRONMENT = Shape(
    "ManagedEnvironment",
    {
        "id": IGNORED,
        "name": IGNORED,
        "type": IGNORED,
        "systemData": IGNORED,
        "resourceGroup": IGNORED,
        "location": TEXT,
        "tags": FREE,
        "kind": TEXT,
        "identity": FREE,
        "properties": Shape(
            "ManagedEnvironmentProperties",
            {
                "provisioningState": IGNORED,
                "daprAIInstrumentationKey": TEXT,
                "daprAIConnectionString": TEXT,
                "vnetConfiguration": FREE,
                "deploymentErrors": IGNORED,
                "defaultDomain": IGNORED,
                "staticIp": IGNORED,
                "appLogsConfiguration": Shape(
                    "AppLogsConfiguration",
                    {
                        "destination": TEXT,
                        "logAnalyticsConfiguration": Shape(
                            "LogAnalyticsConfiguration", {"customerId": TEXT, "sharedKey": TEXT}
                        ),
                    },
                ),
                "openTelemetryConfiguration": FREE,
                "zoneRedundant": BOOLEAN,
                "kedaConfiguration": IGNORED,
                "daprConfiguration": IGNORED,
                "ingressConfiguration": FREE,
                "eventStreamEndpoint": IGNORED,
                "customDomainConfiguration": Shape(
                    "CustomDomainConfiguration",
                    {
                        "customDomainVerificationId": IGNORED,
                        "dnsSuffix": TEXT,
                        "certificateKeyVaultProperties": FREE,
                        "certificateValue": TEXT,
                        "certificatePassword": TEXT,
                        "thumbprint": IGNORED,
                        "subjectName": IGNORED,
                        "expirationDate": IGNORED,
                    },
                ),
                "workloadProfiles": ListOf(
                    Shape(
                        "WorkloadProfile",
                        {
                            "workloadProfileType": TEXT,
                            "name": TEXT,
                            "minimumCount": INTEGER,
                            "maximumCount": INTEGER,
                            "enableFips": BOOLEAN,
                        },
                    )
                ),
                "appInsightsConfiguration": FREE,
                "infrastructureResourceGroup": TEXT,
                "peerAuthentication": Shape("PeerAuthentication", {"mtls": _SWITCH}),
                "peerTrafficConfiguration": Shape("PeerTrafficConfiguration", {"encryption": _SWITCH}),
                "publicNetworkAccess": choice("Enabled", "Disabled"),
                "privateEndpointConnections": IGNORED,
                "privateLinkDefaultDomain": IGNORED,
            },
        ),
    },
)
_TYPE = "Microsoft.App/managedEnvironments"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9]*(-[A-Za-z0-9]+)*")
_NAME_LENGTH = 60
_ADJECTIVES = ("ambitious", "bold", "brave", "bright", "calm", "gentle", "happy", "kind", "lively", "proud", "white")
_NOUNS = ("beach", "bush", "coast", "field", "flower", "forest", "hill", "meadow", "ocean", "river", "sky", "tree")
_NOT_DONE = ("vnetConfiguration", "openTelemetryConfiguration", "ingressConfiguration", "appInsightsConfiguration")
_SINCE_2025_01 = ("openTelemetryConfiguration", "appInsightsConfiguration")
_SINCE_2025_07 = ("ingressConfiguration", "publicNetworkAccess")


def check(resource_id: ResourceId, taken: Mapping[str, Any], before: Mapping[str, Any] | None) -> None:
    """What Azure refuses, and what the stand-in does not do. `before` is the environment that is there."""
    if not _NAME.fullmatch(resource_id.name) or not 2 <= len(resource_id.name) <= _NAME_LENGTH:
        raise AzureError(
            400,
            "ManagedEnvironmentInvalidName",
            f"Invalid environment name '{resource_id.name}'. A name must consist of alphanumeric characters or '-',"
            " start with an alphabetic character, and end with an alphanumeric character and cannot have '--'. The"
            f" length must be between 2 and {_NAME_LENGTH} characters inclusive.",
        )
    asked = taken.get("properties") or {}
    location = taken.get("location") or (before or {}).get("location") or ""
    if before and region_name(location) != region_name(before["location"]):
        raise AzureError(
            409,
            "InvalidResourceLocation",
            f"The resource '{resource_id.name}' already exists in location '{before['location']}' in resource group"
            f" '{resource_id.resource_group}'. A resource with the same name cannot be created in location"
            f" '{location}'. Please select a new resource name.",
            from_gateway=True,
        )
    for name in _NOT_DONE:
        if asked.get(name):
            raise NotEmulated(f"{_TYPE} with {name}")
    if (asked.get("customDomainConfiguration") or {}).get("dnsSuffix"):
        raise NotEmulated(f"{_TYPE} with a custom domain")
    if ((taken.get("identity") or {}).get("type") or "None") != "None":
        raise NotEmulated(f"{_TYPE} with an identity")
    if before and before["properties"]["workloadProfiles"] and not asked.get("workloadProfiles"):
        raise AzureError(400, "WorkloadProfileCannotRemoveAll", "At least 1 workload profile must be specified.")
    check_environment(asked.get("workloadProfiles") or [], location)


def document(
    resource_id: ResourceId, taken: Mapping[str, Any], before: Mapping[str, Any] | None, base_url: str
) -> dict[str, Any]:
    """The environment that a request asks for, without systemData. Raises what check_environment() raises."""
    location = taken.get("location") or (before or {}).get("location") or ""
    made: dict[str, Any] = {
        "id": before["id"] if before else str(resource_id),
        "name": before["name"] if before else resource_id.name,
        "type": _TYPE,
        "location": display_name(location),
    }
    if taken.get("tags"):
        made["tags"] = taken["tags"]
    made["systemData"] = None
    domain = before["properties"]["defaultDomain"] if before else _domain(str(resource_id), location)
    made["properties"] = _properties(resource_id, taken.get("properties") or {}, location, domain, base_url)
    return made


def _properties(
    resource_id: ResourceId, asked: Mapping[str, Any], location: str, domain: str, base_url: str
) -> dict[str, Any]:
    logs = asked.get("appLogsConfiguration") or {}
    workspace = logs.get("logAnalyticsConfiguration")
    profiles = asked.get("workloadProfiles")
    return {
        "provisioningState": SUCCEEDED,
        "daprAIInstrumentationKey": None,
        "daprAIConnectionString": None,
        "vnetConfiguration": None,
        "defaultDomain": domain,
        "staticIp": "127.0.0.1",
        "appLogsConfiguration": {
            "destination": logs.get("destination"),
            "logAnalyticsConfiguration": workspace and {"customerId": workspace.get("customerId"), "sharedKey": None},
        },
        "openTelemetryConfiguration": None,
        "zoneRedundant": bool(asked.get("zoneRedundant")),
        "kedaConfiguration": {"version": "2.17.2"},
        "daprConfiguration": {"version": "1.13.6-msft.6"},
        "ingressConfiguration": None,
        "eventStreamEndpoint": f"{base_url}/subscriptions/{resource_id.subscription}/resourceGroups"
        f"/{resource_id.resource_group}/managedEnvironments/{resource_id.name}/eventstream",
        "customDomainConfiguration": {
            "customDomainVerificationId": verification_id(resource_id.subscription),
            "dnsSuffix": None,
            "certificateKeyVaultProperties": None,
            "certificateValue": None,
            "certificatePassword": None,
            "thumbprint": None,
            "subjectName": None,
            "expirationDate": None,
        },
        "workloadProfiles": _with_consumption(check_environment(profiles, location)) if profiles else None,
        "appInsightsConfiguration": None,
        "infrastructureResourceGroup": asked.get("infrastructureResourceGroup"),
        "peerAuthentication": {"mtls": {"enabled": _enabled(asked.get("peerAuthentication"), "mtls")}},
        "peerTrafficConfiguration": {
            "encryption": {"enabled": _enabled(asked.get("peerTrafficConfiguration"), "encryption")}
        },
        "publicNetworkAccess": asked.get("publicNetworkAccess") or "Enabled",
    }


def _with_consumption(profiles: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The profiles, and the one of the name Consumption, which every environment with profiles is given."""
    if any(profile["workloadProfileType"] == "Consumption" for profile in profiles):
        return profiles
    return [*profiles, {"workloadProfileType": "Consumption", "name": "Consumption", "enableFips": False}]


def at_version(environment: dict[str, Any], api_version: str) -> dict[str, Any]:
    """The document as an API version shows it: what came with 2025-01-01 or 2025-07-01 is absent before."""
    if api_version >= "2025-07-01":
        return environment
    older = copy.deepcopy(environment)
    properties = older["properties"]
    for name in _SINCE_2025_07:
        properties.pop(name, None)
    if api_version >= "2025-01-01":
        return older
    for name in _SINCE_2025_01:
        properties.pop(name, None)
    properties["customDomainConfiguration"].pop("certificateKeyVaultProperties", None)
    for profile in properties["workloadProfiles"] or []:
        profile.pop("enableFips", None)
    return older


def asked_for(environment: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a request can change: two documents with the same ask for the same."""
    properties = {name: value for name, value in environment["properties"].items() if name != "provisioningState"}
    return environment.get("tags"), environment["location"], properties


def verification_id(subscription: str) -> str:
    """customDomainVerificationId: the same for everything in a subscription."""
    return hashlib.sha256(subscription.lower().encode()).hexdigest().upper()


def _domain(environment_id: str, location: str) -> str:
    """The domain of the environment's apps. It ends in .localhost: here every app is a port of this machine."""
    choose = random.Random(environment_id.lower())  # noqa: S311 (a name, not a secret)
    words = choose.choice(_ADJECTIVES) + choose.choice(_NOUNS)
    return f"{words}-{choose.getrandbits(32):08x}.{region_name(location)}.azurecontainerapps.localhost"


def _enabled(switches: Mapping[str, Any] | None, name: str) -> bool:
    return bool(((switches or {}).get(name) or {}).get("enabled"))

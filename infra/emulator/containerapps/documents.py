"""A container app as the service writes it: the shape of a request, the defaults, and what each API version shows.

Order of members, nulls and defaults are those of the Azure CLI's test recordings (2024-03-01 and 2025-07-01). Pure:
knows no store, no environment and no process.
"""

from __future__ import annotations

import copy
import uuid
from collections.abc import Mapping
from typing import Any

from infra.emulator.containerapps.shapes import (
    BOOLEAN,
    FREE,
    IGNORED,
    INTEGER,
    NUMBER,
    TEXT,
    ListOf,
    Member,
    Shape,
    choice,
)

_SECRET = Shape("Secret", {"name": TEXT, "value": TEXT, "keyVaultUrl": TEXT, "identity": TEXT})
_TRAFFIC = Shape(
    "TrafficWeight", {"revisionName": TEXT, "weight": INTEGER, "latestRevision": BOOLEAN, "label": TEXT}, nulls=False
)
_INGRESS = Shape(
    "Ingress",
    {
        "fqdn": IGNORED,
        "external": BOOLEAN,
        "targetPort": INTEGER,
        "exposedPort": INTEGER,
        "transport": choice("Auto", "Http", "Http2", "Tcp"),
        "traffic": ListOf(_TRAFFIC),
        "customDomains": ListOf(FREE),
        "allowInsecure": BOOLEAN,
        "ipSecurityRestrictions": ListOf(
            Shape(
                "IpSecurityRestrictionRule",
                {"name": TEXT, "description": TEXT, "ipAddressRange": TEXT, "action": choice("Allow", "Deny")},
            )
        ),
        "corsPolicy": FREE,
        "clientCertificateMode": choice("Ignore", "Accept", "Require"),
        "stickySessions": Shape("IngressStickySessions", {"affinity": choice("sticky", "none")}),
        "additionalPortMappings": ListOf(
            Shape("IngressPortMapping", {"external": BOOLEAN, "targetPort": INTEGER, "exposedPort": INTEGER}, True)
        ),
    },
    nulls=True,
)
_CONFIGURATION = Shape(
    "Configuration",
    {
        "secrets": ListOf(_SECRET),
        "activeRevisionsMode": choice("Single", "Multiple", "Labels"),
        "ingress": _INGRESS,
        "registries": ListOf(
            Shape(
                "RegistryCredentials", {"server": TEXT, "username": TEXT, "passwordSecretRef": TEXT, "identity": TEXT}
            )
        ),
        "dapr": FREE,
        "runtime": FREE,
        "maxInactiveRevisions": INTEGER,
        "service": FREE,
        "identitySettings": ListOf(FREE),
    },
    nulls=True,
)
_ENV = Shape("EnvironmentVar", {"name": TEXT, "value": TEXT, "secretRef": TEXT})
_MOUNT = Shape("VolumeMount", {"volumeName": TEXT, "mountPath": TEXT, "subPath": TEXT})
_RESOURCES = Shape("ContainerResources", {"cpu": NUMBER, "memory": TEXT, "ephemeralStorage": IGNORED, "gpu": NUMBER})
_PROBE = Shape(
    "ContainerAppProbe",
    {
        "type": choice("Liveness", "Readiness", "Startup"),
        "failureThreshold": INTEGER,
        "httpGet": Shape(
            "ContainerAppProbeHttpGet",
            {
                "host": TEXT,
                "httpHeaders": ListOf(Shape("HttpHeader", {"name": TEXT, "value": TEXT})),
                "path": TEXT,
                "port": INTEGER,
                "scheme": choice("HTTP", "HTTPS"),
            },
        ),
        "initialDelaySeconds": INTEGER,
        "periodSeconds": INTEGER,
        "successThreshold": INTEGER,
        "tcpSocket": Shape("ContainerAppProbeTcpSocket", {"host": TEXT, "port": INTEGER}),
        "terminationGracePeriodSeconds": INTEGER,
        "timeoutSeconds": INTEGER,
    },
)
_CONTAINER: dict[str, Member] = {
    "image": TEXT,
    "name": TEXT,
    "command": ListOf(TEXT),
    "args": ListOf(TEXT),
    "env": ListOf(_ENV),
    "resources": _RESOURCES,
    "probes": ListOf(_PROBE),
    "volumeMounts": ListOf(_MOUNT),
}
_RULE_AUTH = ListOf(Shape("ScaleRuleAuth", {"secretRef": TEXT, "triggerParameter": TEXT}))
_RULE_DETAIL: dict[str, Member] = {"metadata": FREE, "auth": _RULE_AUTH, "identity": TEXT}
_TEMPLATE = Shape(
    "Template",
    {
        "revisionSuffix": TEXT,
        "terminationGracePeriodSeconds": INTEGER,
        "containers": ListOf(Shape("Container", _CONTAINER)),
        "initContainers": ListOf(Shape("InitContainer", _CONTAINER)),
        "scale": Shape(
            "Scale",
            {
                "minReplicas": INTEGER,
                "maxReplicas": INTEGER,
                "cooldownPeriod": INTEGER,
                "pollingInterval": INTEGER,
                "rules": ListOf(
                    Shape(
                        "ScaleRule",
                        {
                            "name": TEXT,
                            "azureQueue": FREE,
                            "custom": Shape("CustomScaleRule", {"type": TEXT, **_RULE_DETAIL}),
                            "http": Shape("HttpScaleRule", _RULE_DETAIL),
                            "tcp": Shape("TcpScaleRule", _RULE_DETAIL),
                        },
                    )
                ),
            },
            nulls=True,
        ),
        "volumes": ListOf(
            Shape(
                "Volume",
                {
                    "name": TEXT,
                    "storageType": choice("AzureFile", "EmptyDir", "Secret", "NfsAzureFile"),
                    "storageName": TEXT,
                    "secrets": ListOf(Shape("SecretVolumeItem", {"secretRef": TEXT, "path": TEXT})),
                    "mountOptions": TEXT,
                },
            )
        ),
        "serviceBinds": ListOf(FREE),
    },
    nulls=True,
)
APP = Shape(
    "ContainerApp",
    {
        "id": IGNORED,
        "name": IGNORED,
        "type": IGNORED,
        "systemData": IGNORED,
        "resourceGroup": IGNORED,
        "location": TEXT,
        "tags": FREE,
        "kind": TEXT,
        "extendedLocation": FREE,
        "managedBy": TEXT,
        "identity": Shape(
            "ManagedServiceIdentity",
            {
                "principalId": IGNORED,
                "tenantId": IGNORED,
                "type": choice("None", "SystemAssigned", "UserAssigned", "SystemAssigned,UserAssigned"),
                "userAssignedIdentities": FREE,
            },
        ),
        "properties": Shape(
            "ContainerAppProperties",
            {
                "provisioningState": IGNORED,
                "runningStatus": IGNORED,
                "deploymentErrors": IGNORED,
                "managedEnvironmentId": TEXT,
                "environmentId": TEXT,
                "workloadProfileName": TEXT,
                "outboundIpAddresses": IGNORED,
                "latestRevisionName": IGNORED,
                "latestReadyRevisionName": IGNORED,
                "latestRevisionFqdn": IGNORED,
                "customDomainVerificationId": IGNORED,
                "configuration": _CONFIGURATION,
                "template": _TEMPLATE,
                "eventStreamEndpoint": IGNORED,
                "delegatedIdentities": IGNORED,
            },
        ),
    },
)
"""What a PUT or PATCH may hold."""

_SINCE_2025_07 = {"configuration": ("runtime", "identitySettings"), "scale": ("cooldownPeriod", "pollingInterval")}


def accepted(taken: dict[str, Any]) -> dict[str, Any]:
    """Configuration and template as the 201 of a PUT shows them: the request, with what the service puts in at once."""
    properties = taken.get("properties") or {}
    empty = dict.fromkeys(_CONFIGURATION.members)
    configuration = copy.deepcopy(properties.get("configuration")) or empty
    configuration["activeRevisionsMode"] = configuration["activeRevisionsMode"] or "Single"
    configuration["identitySettings"] = configuration["identitySettings"] or []
    if configuration["secrets"] is not None:
        configuration["secrets"] = [
            {name: value for name, value in secret.items() if name == "name" or (name != "value" and value)}
            for secret in configuration["secrets"]
        ]
    ingress = configuration["ingress"]
    if ingress is not None:
        configuration["ingress"] = {
            "fqdn": None,
            **ingress,
            "external": bool(ingress["external"]),
            "transport": ingress["transport"] or "Auto",
            "allowInsecure": bool(ingress["allowInsecure"]),
        }
    template = copy.deepcopy(properties.get("template")) or dict.fromkeys(_TEMPLATE.members)
    for container in template["containers"] or []:
        if container.get("resources"):
            container["resources"] = _resources(container["resources"])
    return {"configuration": configuration, "template": template}


def settled(accepted_properties: Mapping[str, Any]) -> dict[str, Any]:
    """The same after the operation: defaults filled in, empty lists null."""
    properties: dict[str, Any] = copy.deepcopy(dict(accepted_properties))
    configuration, template = properties["configuration"], properties["template"]
    configuration["secrets"] = configuration["secrets"] or None
    for registry in configuration["registries"] or []:
        registry.setdefault("identity", "")
    ingress = configuration["ingress"]
    if ingress is not None:
        ingress["exposedPort"] = ingress["exposedPort"] or 0
        ingress["traffic"] = [
            {name: value for name, value in traffic.items() if not (name == "latestRevision" and value is False)}
            for traffic in ingress["traffic"] or [{"weight": 100, "latestRevision": True}]
        ]
        ingress["additionalPortMappings"] = ingress["additionalPortMappings"] or None
    template["revisionSuffix"] = template["revisionSuffix"] or ""
    for container in template["containers"] or []:
        asked = container.pop("resources", None) or {}
        resources = {"cpu": asked.get("cpu", 0.5), "memory": _memory(asked.get("memory", "1Gi"))}
        _insert(container, "resources", _resources(resources | ({"gpu": asked["gpu"]} if "gpu" in asked else {})))
        for name in ("command", "args", "env", "volumeMounts"):
            if not container.get(name, True):
                del container[name]
    scale = template["scale"] or dict.fromkeys(("minReplicas", "maxReplicas", "cooldownPeriod", "pollingInterval"))
    template["scale"] = {
        "minReplicas": scale["minReplicas"],
        "maxReplicas": scale["maxReplicas"] or 10,
        "cooldownPeriod": scale["cooldownPeriod"] or 300,
        "pollingInterval": scale["pollingInterval"] or 30,
        "rules": scale.get("rules") or None,
    }
    for name in ("initContainers", "volumes", "serviceBinds"):
        template[name] = template[name] or None
    return properties


def revision_template(template: Mapping[str, Any], scale_asked: Mapping[str, Any] | None) -> dict[str, Any]:
    """A settled template as its revision shows it. `scale_asked` is the scale of the request."""
    shown: dict[str, Any] = copy.deepcopy(dict(template))
    shown["revisionSuffix"] = None
    for container in shown["containers"] or []:
        container["resources"].pop("ephemeralStorage", None)
        container.setdefault("probes", [])
        ordered = {name: container[name] for name in _CONTAINER if name in container}
        container.clear()
        container.update(ordered)
    for name in ("cooldownPeriod", "pollingInterval"):
        shown["scale"][name] = (scale_asked or {}).get(name)
    return shown


def identity(taken: Mapping[str, Any] | None, app_id: str, tenant: str) -> dict[str, Any]:
    """The identity as shown: the ids of its principals are made from the app's id, so that they stay the same."""
    kind = (taken or {}).get("type") or "None"
    shown: dict[str, Any] = {"type": kind}
    if "SystemAssigned" in kind:
        shown |= {"principalId": _made(f"{app_id}/identity"), "tenantId": tenant}
    if "UserAssigned" in kind:
        shown["userAssignedIdentities"] = {
            name: {"principalId": _made(f"{name}/principal"), "clientId": _made(f"{name}/client")}
            for name in (taken or {}).get("userAssignedIdentities") or {}
        }
    return shown


def at_version(document: dict[str, Any], api_version: str) -> dict[str, Any]:
    """The document as an API version shows it: what came with 2025-07-01 is absent before."""
    if api_version >= "2025-07-01":
        return document
    older = copy.deepcopy(document)
    properties = older["properties"]
    for name in _SINCE_2025_07["configuration"]:
        properties.get("configuration", {}).pop(name, None)
    for name in _SINCE_2025_07["scale"]:
        ((properties.get("template") or {}).get("scale") or {}).pop(name, None)
    return older


def merge(document: Any, patch: Any) -> Any:
    """JSON merge patch (RFC 7396), but a null stays as null: the service tells `null` from `absent` nowhere else."""
    if not isinstance(patch, dict) or not isinstance(document, dict):
        return copy.deepcopy(patch)
    merged = dict(document)
    spelling = {name.lower(): name for name in document}
    for key, value in patch.items():
        name = spelling.get(key.lower(), key)
        merged[name] = merge(document.get(name), value)
    return merged


def _resources(resources: Mapping[str, Any]) -> dict[str, Any]:
    """With the ephemeral storage that the service gives by cpu, whatever was asked (container-apps recordings)."""
    cpu = float(resources.get("cpu") or 0.5)
    storage = next((size for limit, size in ((0.25, "1Gi"), (0.5, "2Gi"), (1.0, "4Gi")) if cpu <= limit), "8Gi")
    return {**resources, "ephemeralStorage": storage}


def _memory(memory: str) -> str:
    """`1.0Gi` -> `1Gi`."""
    try:
        return f"{float(memory.removesuffix('Gi')):g}Gi" if memory.endswith("Gi") else memory
    except ValueError:
        return memory


def _insert(container: dict[str, Any], name: str, value: Any) -> None:
    """Puts `name` where the service writes it."""
    container[name] = value
    ordered = {member: container[member] for member in _CONTAINER if member in container}
    container.clear()
    container.update(ordered)


def _made(text: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, text.lower()))

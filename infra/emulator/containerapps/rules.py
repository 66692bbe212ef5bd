"""What Azure refuses in the request for a container app. Pure: an environment is given as its document.

Codes and words come from recorded answers and from users' reports of the real ones; where only the rule is known and
not how the service words it, the line says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from infra.emulator.containerapps import profiles
from infra.emulator.exceptions import AzureError, NotEmulated

_NAME = re.compile(r"[a-z](?!.*--)[a-z0-9-]*[a-z0-9]")
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_DOTTED = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
_MOST_REPLICAS = 1000
# Seconds and counts: REST reference of ContainerAppProbe; thresholds by kind: what the service accepts since 2026.
_PROBE_RANGES = {
    "initialDelaySeconds": (0, 60),
    "periodSeconds": (1, 240),
    "timeoutSeconds": (1, 240),
    "successThreshold": (1, 10),
}
_FAILURE_THRESHOLDS = {"Liveness": 30, "Readiness": 48, "Startup": 240}


def check_app(name: str, taken: Mapping[str, Any], secrets: Sequence[Mapping[str, Any]]) -> None:
    """Everything that can be told without the environment. `taken` is the request in the service's shape, `secrets`
    those that the app will have. Raises AzureError for the first thing that is wrong, as the service does."""
    if not _NAME.fullmatch(name) or not 2 <= len(name) <= 32:
        raise AzureError(
            400,
            "ContainerAppInvalidName",
            f"Invalid ContainerApp name '{name}'. A name must consist of lower case alphanumeric characters or '-',"
            " start with an alphabetic character, and end with an alphanumeric character and cannot have '--'. The"
            " length must be between 2 and 32 characters inclusive.",
        )
    properties = taken.get("properties") or {}
    if not (properties.get("environmentId") or properties.get("managedEnvironmentId")):
        raise AzureError(400, "InvalidManagedEnvironmentId", "Invalid ManagedEnvironmentId value ''.")
    configuration, template = properties.get("configuration") or {}, properties.get("template") or {}
    if not template.get("containers"):
        raise AzureError(
            400,
            "ContainerAppCreateMustContainContainer",
            f"Container App '{name}' must have at least one container.",
        )
    _check_not_done(configuration, template)
    _check_secrets(secrets)
    _check_configuration(configuration, {secret["name"] for secret in secrets})
    _check_template(name, template, {secret["name"] for secret in secrets})


def check_in_environment(
    taken: Mapping[str, Any], environment: Mapping[str, Any], storages: Iterable[str]
) -> str | None:
    """What depends on the environment; the name of the app's workload profile. `storages` are the names there."""
    template = taken["properties"]["template"]
    known = {storage.lower() for storage in storages}
    for volume in template.get("volumes") or []:
        name = volume.get("storageName") or ""
        if volume.get("storageType") == "AzureFile" and name.lower() not in known:
            raise AzureError(
                400, "ManagedEnvironmentStorageNotFound", f"Storage {name} not found under managed environment"
            )
    return profiles.check_app(
        environment["properties"], taken["properties"].get("workloadProfileName"), template["containers"]
    )


def check_before_deployment(taken: Mapping[str, Any], environment: Mapping[str, Any] | None) -> None:
    """What a deployment's preflight adds to check_app(): sizes, where the profile's type is known already.

    `environment` is as it is now, before the deployment makes or changes it.
    """
    wanted = taken["properties"].get("workloadProfileName") or "Consumption"
    there = (environment or {}).get("properties", {}).get("workloadProfiles") or []
    types = {"consumption": "Consumption"} | {each["name"].lower(): each["workloadProfileType"] for each in there}
    kind = types.get(wanted.lower())
    if kind is not None:
        profiles.check_total(profiles.PROFILE_TYPES[kind], taken["properties"]["template"]["containers"])


def _check_not_done(configuration: Mapping[str, Any], template: Mapping[str, Any]) -> None:
    """What Azure does and the stand-in does not."""
    if len(template["containers"]) > 1 or template.get("initContainers"):
        raise NotEmulated("container apps with more than one container")
    if template.get("serviceBinds") or configuration.get("service"):
        raise NotEmulated("service binds")
    if (configuration.get("dapr") or {}).get("enabled"):
        raise NotEmulated("Dapr")
    ingress = configuration.get("ingress") or {}
    if ingress.get("transport") in ("Tcp", "Http2"):
        raise NotEmulated(f"ingress with transport {ingress['transport']}")
    for feature in ("customDomains", "ipSecurityRestrictions", "corsPolicy", "additionalPortMappings"):
        if ingress.get(feature):
            raise NotEmulated(f"ingress with {feature}")
    if ingress.get("clientCertificateMode") not in (None, "Ignore"):
        raise NotEmulated("ingress with client certificates")
    if (ingress.get("stickySessions") or {}).get("affinity") == "sticky":
        raise NotEmulated("ingress with sticky sessions")
    for rule in (template.get("scale") or {}).get("rules") or []:
        kinds = [kind for kind in ("azureQueue", "custom", "tcp") if rule.get(kind)]
        if kinds:
            raise NotEmulated(f"scale rules of kind {kinds[0]}")
    for volume in template.get("volumes") or []:
        if volume.get("storageType") == "NfsAzureFile":
            raise NotEmulated("volumes of type NfsAzureFile")
    if configuration.get("activeRevisionsMode") == "Labels":
        raise NotEmulated("revision mode Labels")


def _check_secrets(secrets: Sequence[Mapping[str, Any]]) -> None:
    for secret in secrets:
        name = secret.get("name") or ""
        if not _DOTTED.fullmatch(name):
            # The code is not recorded.
            raise AzureError(
                400,
                "ContainerAppSecretInvalidName",
                f"Invalid Request: Container app secret name '{name}' is invalid. A value must consist of lower case"
                " alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character.",
            )
    if any(secret.get("keyVaultUrl") for secret in secrets):
        raise NotEmulated("secrets by reference to a key vault")
    empty = [secret["name"] for secret in secrets if not secret.get("value")]
    if empty:
        raise AzureError(
            400,
            "ContainerAppSecretInvalid",
            f"Invalid Request: Container app secret(s) with name(s) '{', '.join(empty)}' are invalid: value or"
            " keyVaultUrl and identity should be provided.",
        )


def _check_configuration(configuration: Mapping[str, Any], secrets: set[str]) -> None:
    for registry in configuration.get("registries") or []:
        reference = registry.get("passwordSecretRef")
        if reference and reference not in secrets:
            raise AzureError(
                400,
                "ContainerAppRegistriesPasswordSecretRefNotFound",
                f"PasswordSecretRef '{reference}' defined for registry server '{registry.get('server')}' not found.",
            )
    ingress = configuration.get("ingress")
    if ingress:
        port = ingress.get("targetPort")
        if port is not None and not 1 <= port <= 65535:
            # The code is not recorded.
            raise AzureError(
                400,
                "ContainerAppInvalidIngressTargetPort",
                f"Ingress target port '{port}' must be in the range of ['1', '65535'].",
            )
        if port is None:
            # Azure finds the port that a container listens on; a process here is told its port by the target port.
            raise NotEmulated("ingress without a target port")
        weight = sum(rule.get("weight") or 0 for rule in ingress.get("traffic") or [])
        if ingress.get("traffic") and weight != 100:
            # The code is not recorded.
            raise AzureError(
                400, "ContainerAppInvalidTrafficWeight", f"Traffic weights must add up to 100; they add up to {weight}."
            )


def _check_template(app: str, template: Mapping[str, Any], secrets: set[str]) -> None:
    suffix = template.get("revisionSuffix") or ""
    if suffix and not re.fullmatch(r"[a-z](?!.*--)[a-z0-9-]*(?<!-)", suffix):
        raise AzureError(
            400,
            "ContainerAppInvalidRevisionSuffix",
            f"Invalid Container App revision name '{app}--{suffix}'. A revision name must consist of lower case"
            " alphanumeric characters or '-', start with a letter, end with an alphanumeric character and cannot have"
            " '--'.",
        )
    if len(f"{app}--{suffix}") > 54:
        raise AzureError(
            400,
            "ContainerAppInvalidRevisionSuffix",
            f"Invalid Container App revision name '{app}--{suffix}'. It must not have more than 54 characters.",
        )
    volumes = {volume.get("name"): volume for volume in template.get("volumes") or []}
    for volume in volumes.values():
        for item in volume.get("secrets") or []:
            _check_reference(item.get("secretRef"), secrets, f"volume '{volume.get('name')}'")
    for container in template["containers"]:
        _check_container(app, container, volumes, secrets)
    _check_scale(app, template.get("scale") or {}, secrets)


def _check_container(
    app: str, container: Mapping[str, Any], volumes: Mapping[str, Mapping[str, Any]], secrets: set[str]
) -> None:
    name = container.get("name") or ""
    if not _LABEL.fullmatch(name) or not container.get("image"):
        field = "image" if _LABEL.fullmatch(name) else "name"
        raise AzureError(
            400,
            "InvalidParameterValueInContainerTemplate",
            "The following field(s) are either invalid or missing. Field"
            f" 'template.containers.{name}.{field}' is invalid with details: 'Invalid value:"
            f' "{container.get(field) or ""}"\';.',
        )
    registry = container["image"].partition("/")[0].partition(":")[0]
    if registry.endswith(".invalid"):
        # No image is pulled here; a registry that by RFC 2606 cannot be has none.
        raise AzureError(
            400,
            "InvalidParameterValueInContainerTemplate",
            "The following field(s) are either invalid or missing. Field"
            f" 'template.containers.{name}.image' is invalid with details: 'Invalid value: \"{container['image']}\":"
            f" GET https://{registry}/v2/: dial tcp: lookup {registry}: no such host';.",
        )
    memory = (container.get("resources") or {}).get("memory", "1Gi")
    try:
        profiles.memory_gib(memory)
    except ValueError:
        # The words are reported by users, the code is not.
        raise AzureError(
            400,
            "ContainerAppInvalidMemoryResource",
            f"Container with name '{name}' has an invalid memory resource request: '{memory}'. The 'memory' field for"
            " each container, if provided, must contain a decimal value to no more than 2 decimal places followed by"
            " 'Gi' to denote the unit (Gibibytes). Example: '1.25Gi' or '2Gi'.",
        ) from None
    for variable in container.get("env") or []:
        if not variable.get("name"):
            raise AzureError(
                400,
                "InvalidParameterValueInContainerTemplate",
                "The following field(s) are either invalid or missing. Field"
                f" 'template.containers.{name}.env' is invalid with details: 'A variable has no name';.",
            )
        if variable.get("secretRef"):
            _check_reference(variable["secretRef"], secrets, f"container '{name}'")
    for mount in container.get("volumeMounts") or []:
        if mount.get("volumeName") not in volumes:
            raise AzureError(
                400,
                "ContainerAppInvalidVolumeMount",
                f"Invalid Request: Volume '{mount.get('volumeName')}' to mount doesn't defined in the Container App"
                f" '{app}'.",
            )
        path = mount.get("mountPath") or ""
        if not path.strip("/") or ":" in path:
            raise AzureError(
                400,
                "ContainerAppInvalidMountPath",
                "Invalid Request: Invalid mount path was given. mountPath is required when mounting volume"
                f" '{mount['volumeName']}'. mountPath must not contain ':'.",
            )
    _check_probes(name, container.get("probes") or [])


def _check_probes(container: str, probes: Sequence[Mapping[str, Any]]) -> None:
    seen: set[str] = set()
    for probe in probes:
        kind = probe.get("type")
        http, tcp = probe.get("httpGet"), probe.get("tcpSocket")
        port = (http or tcp or {}).get("port")
        if kind is None or kind in seen or bool(http) == bool(tcp) or port is None:
            # The code is not recorded.
            raise AzureError(
                400,
                "ContainerAppInvalidProbe",
                f"Container '{container}' probes must each have a type that no other one has, and either httpGet or"
                " tcpSocket with a port.",
            )
        seen.add(kind)
        ranges = {**_PROBE_RANGES, "failureThreshold": (1, _FAILURE_THRESHOLDS[kind])}
        if kind != "Readiness":
            ranges["successThreshold"] = (1, 1)
        for field, (least, most) in ranges.items():
            value = probe.get(field)
            if value is not None and not least <= value <= most:
                title = field[0].upper() + field[1:]
                raise AzureError(
                    400,
                    f"ContainerAppProbe{title}OutOfRange",
                    f"Container '{container}' '{kind}' probe's {title} must be in the range of ['{least}', '{most}'].",
                )


def _check_scale(app: str, scale: Mapping[str, Any], secrets: set[str]) -> None:
    least, most = scale.get("minReplicas") or 0, scale.get("maxReplicas")
    if (
        least < 0
        or (most is not None and (most < 1 or least > most or most > _MOST_REPLICAS))
        or least > _MOST_REPLICAS
    ):
        # The words are reported by users, the code is not.
        raise AzureError(
            400,
            "ContainerAppInvalidScaleOptions",
            f"The scale options provided for Container App '{app}' is incorrect. The values must be positive,"
            " maxReplicas must not be less than minReplicas. The maxReplicas must not be bigger than"
            f" {_MOST_REPLICAS}.",
        )
    for rule in scale.get("rules") or []:
        name = rule.get("name") or ""
        if not _DOTTED.fullmatch(name):
            raise AzureError(
                400,
                "ContainerAppInvalidPropertyValue",
                f"Property 'rules.name' has an invalid value '{name}'. A value must consist of lower case alphanumeric"
                " characters, '-' or '.', and must start and end with an alphanumeric character.",
            )
        asked = ((rule.get("http") or {}).get("metadata") or {}).get("concurrentRequests", "10")
        if not str(asked).isdecimal() or int(asked) < 1:
            raise AzureError(
                400,
                "ContainerAppInvalidPropertyValue",
                f"Property 'rules.http.metadata.concurrentRequests' has an invalid value '{asked}'. A value must be a"
                " whole number greater than 0.",
            )


def _check_reference(reference: str | None, secrets: set[str], where: str) -> None:
    if reference not in secrets:
        raise AzureError(
            400, "ContainerAppSecretRefNotFound", f"SecretRef '{reference}' defined for {where} not found."
        )

"""What Azure refuses in requests for environments, storages and apps: codes, and the words where they are known."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from infra.emulator.exceptions import AzureError, NotEmulated
from infra.emulator.resource_id import ResourceId
from tests.container_apps import ENVIRONMENT, GROUP, World, app_body, call, world

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def here(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """A provider with an environment, one for all: what is refused leaves nothing behind."""
    async with world(tmp_path_factory.mktemp("refused")) as made:
        await made.environment()
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def own(tmp_path: Path) -> AsyncIterator[World]:
    """A provider with an environment that belongs to one test."""
    async with world(tmp_path) as made:
        await made.environment()
        yield made


Change = Callable[[dict[str, Any]], None]


def template(**members: Any) -> Change:
    """Members of the template."""
    return lambda body: body["properties"]["template"].update(members)


def container(**members: Any) -> Change:
    """Members of the container."""
    return lambda body: body["properties"]["template"]["containers"][0].update(members)


def configuration(**members: Any) -> Change:
    """Members of the configuration."""
    return lambda body: body["properties"]["configuration"].update(members)


def app(**members: Any) -> Change:
    """Members of the app's properties."""
    return lambda body: body["properties"].update(members)


def probe(**members: Any) -> Change:
    """One probe."""
    given = {"type": "Liveness", "httpGet": {"path": "/", "port": 8000}, **members}
    return container(probes=[given])


def resources(cpu: float, memory: str, profile: str | None = None) -> Change:
    """What the container asks for, on a profile."""

    def change(body: dict[str, Any]) -> None:
        container(resources={"cpu": cpu, "memory": memory})(body)
        app(workloadProfileName=profile)(body)

    return change


REFUSED: list[tuple[Change, str, str]] = [
    (app(environmentId=None), "InvalidManagedEnvironmentId", "Invalid ManagedEnvironmentId value ''."),
    (app(environmentId="env"), "InvalidManagedEnvironmentId", "Invalid ManagedEnvironmentId value 'env'."),
    (app(environmentId=f"{ENVIRONMENT}2"), "ManagedEnvironmentNotFound", "Environment env2 was not found."),
    (app(workloadProfileName="A100"), "WorkloadProfileNotFound", "Workload profile 'A100' was not found"),
    (template(containers=[]), "ContainerAppCreateMustContainContainer", "at least one container"),
    (
        resources(1, "1.0Gi"),
        "ContainerAppInvalidResourceTotal",
        "(CPU: 1, memory: 1.0) is invalid. Total CPU and memory for all containers defined in a Container App must add"
        " up to one of the following CPU - Memory combinations: [cpu: 0.25, memory: 0.5Gi]; [cpu: 0.5, memory: 1.0Gi];",
    ),
    (resources(0.3, "0.6Gi"), "ContainerAppInvalidResourceTotal", "[cpu: 4.0, memory: 8.0Gi]"),
    (resources(4.25, "8.5Gi"), "ContainerAppInvalidResourceTotal", "[cpu: 4.0, memory: 8.0Gi]"),
    (resources(16, "56Gi", "T4"), "ContainerAppInvalidResourceTotal", "[cpu: 8, memory: 56Gi]"),
    (resources(1, "750Mb"), "ContainerAppInvalidMemoryResource", "invalid memory resource request: '750Mb'"),
    (
        container(volumeMounts=[{"volumeName": "data", "mountPath": "/data"}]),
        "ContainerAppInvalidVolumeMount",
        "Invalid Request: Volume 'data' to mount doesn't defined in the Container App 'app'.",
    ),
    (
        container(volumeMounts=[{"volumeName": "share", "mountPath": "/"}]),
        "ContainerAppInvalidMountPath",
        "mountPath is required when mounting volume 'share'. mountPath must not contain ':'.",
    ),
    (
        template(volumes=[{"name": "share", "storageType": "AzureFile", "storageName": "other"}]),
        "ManagedEnvironmentStorageNotFound",
        "Storage other not found under managed environment",
    ),
    (
        container(env=[{"name": "KEY", "secretRef": "other"}]),
        "ContainerAppSecretRefNotFound",
        "SecretRef 'other' defined for container 'main' not found.",
    ),
    (configuration(secrets=[{"name": "api-key"}]), "ContainerAppSecretInvalid", "'api-key' are invalid: value or"),
    (configuration(secrets=[{"name": "Key", "value": "v"}]), "ContainerAppSecretInvalidName", "'Key'"),
    (
        configuration(registries=[{"server": "r.example", "passwordSecretRef": "p"}]),
        "ContainerAppRegistriesPasswordSecretRefNotFound",
        "PasswordSecretRef 'p' defined for registry server 'r.example' not found.",
    ),
    (
        probe(failureThreshold=31),
        "ContainerAppProbeFailureThresholdOutOfRange",
        "Container 'main' 'Liveness' probe's FailureThreshold must be in the range of ['1', '30'].",
    ),
    (probe(type="Readiness", failureThreshold=49), "ContainerAppProbeFailureThresholdOutOfRange", "['1', '48']"),
    (probe(type="Startup", failureThreshold=241), "ContainerAppProbeFailureThresholdOutOfRange", "['1', '240']"),
    (probe(initialDelaySeconds=61), "ContainerAppProbeInitialDelaySecondsOutOfRange", "['0', '60']"),
    (probe(periodSeconds=241), "ContainerAppProbePeriodSecondsOutOfRange", "['1', '240']"),
    (probe(timeoutSeconds=0), "ContainerAppProbeTimeoutSecondsOutOfRange", "['1', '240']"),
    (probe(successThreshold=2), "ContainerAppProbeSuccessThresholdOutOfRange", "['1', '1']"),
    (probe(tcpSocket={"port": 1}), "ContainerAppInvalidProbe", "either httpGet or tcpSocket"),
    (
        template(scale={"minReplicas": 3, "maxReplicas": 2}),
        "ContainerAppInvalidScaleOptions",
        "maxReplicas must not be less than minReplicas",
    ),
    (template(scale={"minReplicas": 0, "maxReplicas": 1001}), "ContainerAppInvalidScaleOptions", "than 1000"),
    (
        template(scale={"maxReplicas": 1, "rules": [{"name": "By Requests", "http": {}}]}),
        "ContainerAppInvalidPropertyValue",
        "Property 'rules.name' has an invalid value 'By Requests'.",
    ),
    (template(revisionSuffix="1a"), "ContainerAppInvalidRevisionSuffix", "start with a letter"),
    (template(revisionSuffix="a" * 60), "ContainerAppInvalidRevisionSuffix", "54 characters"),
    (container(name="Main"), "InvalidParameterValueInContainerTemplate", "template.containers.Main.name"),
    (container(image=""), "InvalidParameterValueInContainerTemplate", "template.containers.main.image"),
    (
        configuration(ingress={"external": True, "targetPort": 70000}),
        "ContainerAppInvalidIngressTargetPort",
        "'70000'",
    ),
    (
        configuration(ingress={"targetPort": 80, "traffic": [{"latestRevision": True, "weight": 90}]}),
        "ContainerAppInvalidTrafficWeight",
        "90",
    ),
    (app(colour="red"), "InvalidRequestContent", "Could not find member 'colour' on object of type"),
    (container(comand=["x"]), "InvalidRequestContent", "Path 'properties.template.containers[0].comand'"),
    (container(command="sleep"), "InvalidRequestContent", "Path 'properties.template.containers[0].command'"),
    (template(scale={"minReplicas": "many"}), "InvalidRequestContent", "Error converting value 'many' to an integer"),
    (configuration(activeRevisionsMode="both"), "InvalidRequestContent", "one of Single, Multiple"),
]


@pytest.mark.parametrize(
    ("change", "code", "words"), REFUSED, ids=[f"{code}-{words[:20]}" for _, code, words in REFUSED]
)
async def test_an_app_is_refused(here: World, change: Change, code: str, words: str) -> None:
    """400 with the code and the words, and nothing is there afterwards."""
    body = app_body()
    change(body)
    with pytest.raises(AzureError) as refused:
        await here.put("containerApps", here.app_id(), body)
    assert (refused.value.status, refused.value.code) == (400, code)
    assert words in refused.value.message
    assert not here.type("containerApps").exists(here.app_id())


@pytest.mark.parametrize("name", ["App", "2app", "a", "app-", "my--app", "a" * 33, "my_app"])
async def test_a_name_is_refused(here: World, name: str) -> None:
    """Before anything else, also in a deployment's preflight."""
    with pytest.raises(AzureError, match="ContainerAppInvalidName: Invalid ContainerApp name"):
        await here.put("containerApps", here.app_id(name), app_body())
    with pytest.raises(AzureError, match="ContainerAppInvalidName"):
        here.type("containerApps").preflight(here.app_id(name), app_body())


async def test_preflight_refuses_sizes_before_anything_is_made(here: World) -> None:
    """Also where the environment is still to be made; a profile that is not known yet is left to the PUT."""
    apps, elsewhere = here.type("containerApps"), f"{ENVIRONMENT}-to-come"
    for environment, cpu, memory, profile in (
        (ENVIRONMENT, 1, "1Gi", None),
        (elsewhere, 1, "1Gi", None),
        (ENVIRONMENT, 9, "56Gi", "T4"),
    ):
        body = app_body()
        resources(cpu, memory, profile)(body)
        app(environmentId=environment)(body)
        with pytest.raises(AzureError, match="ContainerAppInvalidResourceTotal"):
            apps.preflight(here.app_id(), body)
    body = app_body()
    resources(9, "56Gi", "A100")(body)
    apps.preflight(here.app_id(), body)
    template(containers=[])(body)
    with pytest.raises(AzureError, match="ContainerAppCreateMustContainContainer"):
        apps.preflight(here.app_id(), body)


NOT_DONE: list[tuple[Change, str]] = [
    (template(initContainers=[{"name": "first", "image": "i"}]), "more than one container"),
    (configuration(dapr={"enabled": True}), "Dapr"),
    (configuration(ingress={"targetPort": 80, "transport": "tcp"}), "transport Tcp"),
    (configuration(ingress={"external": True}), "without a target port"),
    (configuration(secrets=[{"name": "k", "keyVaultUrl": "https://v/s", "identity": "System"}]), "key vault"),
    (template(scale={"rules": [{"name": "q", "custom": {"type": "cron"}}]}), "scale rules of kind custom"),
]


@pytest.mark.parametrize(("change", "what"), NOT_DONE, ids=[what for _, what in NOT_DONE])
async def test_what_is_not_done_is_said(here: World, change: Change, what: str) -> None:
    """501 and the name of the thing, never an invented success."""
    body = app_body()
    change(body)
    with pytest.raises(NotEmulated, match=what) as refused:
        await here.put("containerApps", here.app_id(), body)
    assert refused.value.status == 501


@pytest.mark.parametrize(
    ("cpu", "memory", "profile"),
    [(4, "8Gi", None), (0.75, "1.5Gi", "Consumption"), (8, "56Gi", "T4"), (2, "10Gi", "T4")],
)
async def test_resources_that_are_taken(own: World, cpu: float, memory: str, profile: str | None) -> None:
    """Pairs on Consumption, anything that fits on a GPU profile."""
    body = app_body()
    resources(cpu, memory, profile)(body)
    answer = await own.type("containerApps").put(call(), own.app_id(), body)
    assert answer.body["properties"]["workloadProfileName"] == (profile or "Consumption")
    await own.ended(answer)


@pytest.mark.parametrize(
    ("profiles", "location", "code", "words"),
    [
        ([{"name": "g", "workloadProfileType": "NC9"}], "eastus", "WorkloadProfileInvalidType", "'NC9'"),
        (
            [{"name": "g", "workloadProfileType": "Consumption-GPU-NC24-A100"}],
            "westeurope",
            "WorkloadProfileInvalidType",
            "'Consumption-GPU-NC24-A100' is not supported in location 'westeurope'",
        ),
        (
            [{"name": "g", "workloadProfileType": "Consumption-GPU-NC8as-T4", "minimumCount": 0}],
            "eastus",
            "WorkloadProfilePropertyNotSupported",
            "Workload Profile property 'MinimumCount' is not supported for Consumption_GPU_NC8as_T4",
        ),
        (
            [{"name": "a-very-long-profile-name", "workloadProfileType": "D4"}],
            "eastus",
            "WorkloadProfileInvalidNameTooLong",
            "a-very-long-profile-name",
        ),
        (
            [{"name": "d", "workloadProfileType": "D4"}, {"name": "D", "workloadProfileType": "D8"}],
            "eastus",
            "WorkloadProfileDuplicateName",
            "'D'",
        ),
    ],
)
async def test_workload_profiles_are_refused(
    here: World, profiles: list[dict[str, Any]], location: str, code: str, words: str
) -> None:
    """Types, regions, counts, names."""
    body = {"location": location, "properties": {"workloadProfiles": profiles}}
    other = ResourceId.parse(f"{GROUP}/providers/Microsoft.App/managedEnvironments/other")
    with pytest.raises(AzureError) as refused:
        await here.put("managedEnvironments", other, body)
    assert (refused.value.status, refused.value.code) == (400, code)
    assert words in refused.value.message


async def test_an_environment_that_is_in_use(own: World) -> None:
    """Not deleted while it holds an app; its profiles cannot all go; no change while another one runs."""
    await own.put("containerApps", own.app_id(), app_body())
    environments, env = own.type("managedEnvironments"), ResourceId.parse(ENVIRONMENT)
    with pytest.raises(AzureError, match="cannot be deleted because it still contains 1 ContainerApps"):
        await environments.delete(call(), env)
    with pytest.raises(AzureError, match="WorkloadProfileCannotRemoveAll"):
        await environments.put(call(), env, {"location": "swedencentral", "properties": {}})
    with pytest.raises(AzureError, match="InvalidResourceLocation"):
        await environments.put(call(), env, {"location": "eastus", "properties": {}})
    changing = await environments.patch(call(), env, {"tags": {"a": "b"}})
    with pytest.raises(AzureError, match="ManagedEnvironmentOperationInProgress"):
        await environments.patch(call(), env, {"tags": {"a": "c"}})
    with pytest.raises(AzureError, match="ManagedEnvironmentNotProvisioned"):
        await own.put("containerApps", own.app_id("second"), app_body())
    await own.ended(changing)


@pytest.mark.parametrize(
    ("name", "file", "code"),
    [
        ("Bad", {}, "ManagedEnvironmentStorageInvalidName"),
        ("good", {"accountKey": None}, "ManagedEnvironmentStorageInvalidProperties"),
        ("good", {"accessMode": "Write"}, "InvalidRequestContent"),
    ],
)
async def test_storages_are_refused(here: World, name: str, file: dict[str, Any], code: str) -> None:
    """Name, missing members, mode."""
    given = {"accountName": "a", "accountKey": "k", "shareName": "s", "accessMode": "ReadOnly", **file}
    with pytest.raises(AzureError, match=code):
        await here.put(
            "managedEnvironments/storages",
            ResourceId.parse(f"{ENVIRONMENT}/storages/{name}"),
            {"properties": {"azureFile": given}},
        )


async def test_a_storage_needs_its_environment(here: World) -> None:
    """The resource manager's 404 about the parent."""
    file = {"accountName": "a", "accountKey": "k", "shareName": "s", "accessMode": "ReadOnly"}
    with pytest.raises(AzureError, match="ParentResourceNotFound"):
        await here.put(
            "managedEnvironments/storages",
            ResourceId.parse(f"{ENVIRONMENT}x/storages/good"),
            {"properties": {"azureFile": file}},
        )

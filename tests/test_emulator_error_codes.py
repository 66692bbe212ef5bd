"""The error codes that Azure really returns in this flow, each provoked: by a real cause, or by the fault switch.

By a cause: what the client asked for, or what is there, is what Azure refuses for the same reason. By the switch: what
brings it about in Azure is not here (policies, role assignments, the service's own inner locks and failures).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.conftest import RunningStandIn, running_stand_in
from tests.faults import Switch
from tests.resource_manager_client import (
    STORAGE,
    WORKSPACES,
    Arm,
    account,
    arm,
    deployment,
    template,
    unique,
    workspace,
)
from tests.waiting import until

APPS = "2025-07-01"
AUTHORIZATION = "2022-04-01"
OTHER = "99999999-9999-4999-8999-999999999999"


@dataclass
class Place:
    """A resource group with an environment, and who writes there."""

    writer: Arm
    reader: Arm
    switch: Switch
    group: str

    @property
    def environment(self) -> str:
        """The id of the environment that is there."""
        return f"{self.group}/providers/Microsoft.App/managedEnvironments/env"

    def new(self, type_name: str) -> str:
        """The id of a resource of Microsoft.App that is not there yet."""
        return f"{self.group}/providers/Microsoft.App/{type_name}/x{unique()}"

    def app(self, **members: Any) -> dict[str, Any]:
        """A request for an app; `container` and `template` go into these, the rest into its properties."""
        container = {"name": "main", "image": "python", "command": ["sleep", "60"], **members.pop("container", {})}
        of_template = {"containers": [container], "scale": {"minReplicas": 0}, **members.pop("template", {})}
        return {
            "location": "eastus",
            "properties": {"environmentId": self.environment, "template": of_template, **members},
        }

    def refused(self, method: str, path: str, body: Any, api_version: str = APPS) -> tuple[int, Any]:
        """Status and error of a request by the writer."""
        return self.writer.error(method, path, body, api_version=api_version)

    def operation(self, path: str, body: Any) -> tuple[int, Any]:
        """Status of a PUT that is accepted, and the error with which its work ends."""
        answer = self.writer.request("PUT", path, body, api_version=APPS)
        assert answer.status_code == 201, answer.text
        end = time.monotonic() + 60
        while (polled := self.writer.get(answer.headers["azure-asyncoperation"]))["status"] == "InProgress":
            assert time.monotonic() < end, "it never ended"
            time.sleep(0.05)
        assert polled["status"] == "Failed", polled
        return answer.status_code, polled["error"]


@pytest.fixture(scope="module")
def stand_in_here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStandIn]:
    """Its own: quotas are used up, and providers unregistered."""
    with running_stand_in(tmp_path_factory.mktemp("codes") / "state") as running:
        yield running


@pytest.fixture(scope="module")
def place(stand_in_here: RunningStandIn) -> Place:
    writer = arm(stand_in_here)
    made = Place(writer, arm(stand_in_here, reader=True), Switch(stand_in_here), writer.group())
    profiles = [{"name": "Consumption", "workloadProfileType": "Consumption"}]
    body = {"location": "eastus", "properties": {"workloadProfiles": profiles}}
    assert writer.request("PUT", made.environment, body, api_version=APPS).status_code == 201
    until(lambda: writer.get(made.environment, APPS)["properties"]["provisioningState"] == "Succeeded")
    return made


Provoked = tuple[int, Any]


def environment_with(place: Place, location: str = "eastus", **profile: Any) -> Provoked:
    """A new environment with one profile."""
    properties = {"workloadProfiles": [{"name": "profile", **profile}]} if profile else {}
    return place.refused("PUT", place.new("managedEnvironments"), {"location": location, "properties": properties})


def too_many_environments(place: Place) -> Provoked:
    """As many as a region may have, and one more."""
    body = {"location": "norwayeast", "properties": {}}
    for number in range(40):
        answer = place.writer.request("PUT", f"{place.environment}-{number}", body, api_version=APPS)
        assert answer.status_code == 201, answer.text
    return environment_with(place, location="norwayeast")


def environment_is_being_made(place: Place) -> Provoked:
    path = place.new("managedEnvironments")
    body: dict[str, Any] = {"location": "eastus", "properties": {}}
    with place.switch.on({"fault": "slow-operation", "seconds": 1}):
        assert place.writer.request("PUT", path, body, api_version=APPS).status_code == 201
        return place.refused("PUT", path, body | {"tags": {"a": "b"}})


def app_is_being_made(place: Place) -> Provoked:
    path = place.new("containerApps")
    with place.switch.on({"fault": "slow-operation", "seconds": 1}):
        assert place.writer.request("PUT", path, place.app(), api_version=APPS).status_code == 201
        return place.refused("PATCH", path, {"tags": {"a": "b"}})


def app_with(**members: Any) -> Callable[[Place], Provoked]:
    """A new app that is refused at once."""
    return lambda place: place.refused("PUT", place.new("containerApps"), place.app(**members))


def a_provider_is_not_registered(place: Place) -> Provoked:
    provider = "/providers/Microsoft.OperationalInsights"
    assert place.writer.request("POST", f"{provider}/unregister").status_code == 200
    try:
        return place.refused("PUT", f"{place.group}{provider}/workspaces/logs", workspace("logs"), WORKSPACES)
    finally:
        assert place.writer.request("POST", f"{provider}/register").status_code == 200


def a_reader_writes(place: Place) -> Provoked:
    return place.reader.error("PUT", place.new("containerApps"), place.app(), api_version=APPS)


def environment_of_another_subscription(place: Place) -> Provoked:
    elsewhere = place.environment.replace(place.writer.subscription, OTHER)
    return place.refused("PUT", place.new("containerApps"), place.app(environmentId=elsewhere))


def a_name_that_others_have(place: Place) -> Provoked:
    path = f"{place.group}/providers/Microsoft.Storage/storageAccounts/storage"
    return place.refused("PUT", path, account("storage"), STORAGE)


def a_deployment_goes_on(place: Place) -> Provoked:
    path = f"{place.group}/providers/Microsoft.Resources/deployments/goes-on"
    body = deployment(template([]))
    with place.switch.on({"fault": "slow-operation", "seconds": 1}):
        assert place.writer.request("PUT", path, body).status_code == 201
        return place.writer.error("PUT", path, body)


def a_full_history(place: Place) -> Provoked:
    """With the quota lowered to two: 800 deployments take a while."""
    group = place.writer.group()
    with place.switch.on({"fault": "missing-quota", "quota": "Deployments", "limit": 2}):
        for name in ("one", "two", "two"):
            place.writer.deploy(group, deployment(template([])), name)
        nested = {"type": "Microsoft.Resources/deployments", "apiVersion": "2025-04-01", "name": "inside"}
        whole = place.writer.deploy(group, deployment(template([nested | deployment(template([]))])), "two")
        (problem,) = whole["properties"]["error"]["details"]
        assert problem["code"] == "DeploymentQuotaExceeded"
        return place.writer.error(
            "PUT", f"{group}/providers/Microsoft.Resources/deployments/three", deployment(template([]))
        )


def a_template_that_asks_for_what_is_not_there(place: Place) -> Provoked:
    path = f"{place.group}/providers/Microsoft.Resources/deployments/wrong"
    return place.writer.error("PUT", path, deployment(template([account("[parameters('name')]")])))


def switched(status: int, code: str, message: str, type_name: str = "Microsoft.App/containerApps") -> Any:
    """What the switch refuses, in Azure's words."""

    def provoke(place: Place) -> Provoked:
        path = f"{place.group}/providers/{type_name}/x{unique()}"
        rule = {"fault": "refused", "status": status, "code": code, "message": message, "path": f"/{type_name}/"}
        with place.switch.on(rule):
            return place.refused("PUT", path, place.app(), AUTHORIZATION if "role" in type_name else APPS)

    return provoke


def failed(type_name: str, code: str, message: str) -> Callable[[Place], Provoked]:
    """What is accepted, and whose work the switch lets fail."""

    def provoke(place: Place) -> Provoked:
        body = place.app() if type_name == "containerApps" else {"location": "eastus", "properties": {}}
        with place.switch.on({"fault": "failed-operation", "code": code, "message": message}):
            return place.operation(place.new(type_name), body)

    return provoke


CAUSE, SWITCH = "by a cause", "by the switch"
T4, A100 = "Consumption-GPU-NC8as-T4", "NC24-A100"
MOUNT = {"volumeMounts": [{"volumeName": "data", "mountPath": "/data"}]}
NO_STORAGE = {"volumes": [{"name": "data", "storageType": "AzureFile", "storageName": "nowhere"}]}
ROLES = "Microsoft.Authorization/roleAssignments"
CODES: list[tuple[int, str, str, int, str, Callable[[Place], Provoked]]] = [
    (
        1,
        "MaxNumberOfGlobalEnvironmentsInSubExceeded",
        SWITCH,
        400,
        "more than 0",
        switched(
            400,
            "MaxNumberOfGlobalEnvironmentsInSubExceeded",
            "The subscription cannot have more than 0 Container App Environments.",
            "Microsoft.App/managedEnvironments",
        ),
    ),
    (2, "MaxNumberOfRegionalEnvironmentsInSubExceeded", CAUSE, 400, "more than 40", too_many_environments),
    (
        3,
        "ManagedEnvironmentNoAvailableCapacityInRegion",
        SWITCH,
        201,
        "No capacity",
        failed("managedEnvironments", "ManagedEnvironmentNoAvailableCapacityInRegion", "No capacity in East US."),
    ),
    (
        4,
        "WorkloadProfilePropertyNotSupported",
        CAUSE,
        400,
        "'MinimumCount' is not supported",
        lambda place: environment_with(place, workloadProfileType=T4, minimumCount=0),
    ),
    (
        5,
        "WorkloadProfileInvalidType",
        CAUSE,
        400,
        "'NC8as-T4'",
        lambda place: environment_with(place, workloadProfileType="NC8as-T4"),
    ),
    (
        6,
        "WorkloadProfileInvalidNameTooLong",
        CAUSE,
        400,
        "15",
        lambda place: environment_with(place, workloadProfileType=A100, name="far-too-long-a-name"),
    ),
    (7, "ManagedEnvironmentOperationInProgress", CAUSE, 409, "Cannot modify", environment_is_being_made),
    (8, "ContainerAppOperationInProgress", CAUSE, 409, "active provisioning operation", app_is_being_made),
    (
        9,
        "ContainerAppLockConflict",
        SWITCH,
        409,
        "another modification is in progress",
        switched(
            409,
            "ContainerAppLockConflict",
            "Cannot modify container App 'x' because another modification is in progress. Please retry the operation.",
        ),
    ),
    (
        10,
        "ContainerAppOperationError",
        SWITCH,
        201,
        "Operation expired",
        failed(
            "containerApps",
            "ContainerAppOperationError",
            "Failed to provision revision for container app 'x'. Error details: Operation expired.",
        ),
    ),
    (
        11,
        "InvalidParameterValueInContainerTemplate",
        CAUSE,
        400,
        "Field 'template.containers.main.image' is invalid",
        app_with(container={"image": "registry.invalid/python:3.12"}),
    ),
    (12, "ContainerAppInvalidVolumeMount", CAUSE, 400, "Volume 'data' to mount", app_with(container=MOUNT)),
    (
        13,
        "ManagedEnvironmentStorageNotFound",
        CAUSE,
        400,
        "Storage nowhere not found",
        app_with(container=MOUNT, template=NO_STORAGE),
    ),
    (14, "WorkloadProfileNotFound", CAUSE, 400, "'GPU' was not found", app_with(workloadProfileName="GPU")),
    (15, "MissingSubscriptionRegistration", CAUSE, 409, "not registered to use names", a_provider_is_not_registered),
    (16, "AuthorizationFailed", CAUSE, 403, "does not have authorization to perform action", a_reader_writes),
    (16, "LinkedAuthorizationFailed", CAUSE, 403, "on the linked scope", environment_of_another_subscription),
    (17, "StorageAccountAlreadyTaken", CAUSE, 409, "is already taken", a_name_that_others_have),
    (
        18,
        "RoleAssignmentExists",
        SWITCH,
        409,
        "already exists",
        switched(409, "RoleAssignmentExists", "The role assignment already exists.", ROLES),
    ),
    (
        19,
        "PrincipalNotFound",
        SWITCH,
        400,
        "does not exist in the directory",
        switched(400, "PrincipalNotFound", "Principal x does not exist in the directory y.", ROLES),
    ),
    (20, "DeploymentActive", CAUSE, 409, "is still active", a_deployment_goes_on),
    (21, "DeploymentQuotaExceeded", CAUSE, 409, "exceed the quota of '2'", a_full_history),
    (
        22,
        "SubscriptionRequestsThrottled",
        SWITCH,
        429,
        "exceeded",
        lambda place: throttled(place)[0:2],
    ),
    (
        23,
        "RequestDisallowedByPolicy",
        SWITCH,
        403,
        "disallowed by policy",
        switched(403, "RequestDisallowedByPolicy", "Resource 'x' was disallowed by policy."),
    ),
    (24, "InvalidTemplate", CAUSE, 400, "'name' is not found", a_template_that_asks_for_what_is_not_there),
    (25, "InternalServerError", SWITCH, 500, "internal server error", lambda place: broken(place)),
]


def throttled(place: Place) -> tuple[int, Any, httpx.Headers]:
    """A read, with what it says about trying again."""
    with place.switch.on({"fault": "throttled", "retry_after_seconds": 7}):
        answer = place.writer.request("GET", place.environment, api_version=APPS)
    return answer.status_code, answer.json()["error"], answer.headers


def broken(place: Place) -> Provoked:
    """Any request."""
    with place.switch.on({"fault": "internal-error"}):
        return place.refused("GET", place.environment, None)


@pytest.mark.parametrize(
    ("code", "status", "words", "provoke"),
    [(code, status, words, provoke) for _, code, _, status, words, provoke in CODES],
    ids=[f"{number}-{code}-{how.replace(' ', '-')}" for number, code, how, *_ in CODES],
)
def test_provoked(place: Place, code: str, status: int, words: str, provoke: Callable[[Place], Provoked]) -> None:
    answered, error = provoke(place)
    assert (answered, error["code"]) == (status, code), error
    assert words in error["message"]


def test_the_list_is_whole() -> None:
    assert sorted({number for number, *_ in CODES}) == list(range(1, 26))
    assert len({code for _, code, *_ in CODES}) == 26
    assert [number for number, _, how, *_ in CODES if how == SWITCH] == [1, 3, 9, 10, 18, 19, 22, 23, 25]


def test_who_is_throttled_is_told_when_to_come_back(place: Place) -> None:
    status, _, headers = throttled(place)
    assert (status, headers["retry-after"]) == (429, "7")


def test_a_deployment_nests_what_a_provider_refused(place: Place) -> None:
    """In preflight where the provider can tell before, in the deployment's own error where not."""
    app = {
        "type": "Microsoft.App/containerApps",
        "apiVersion": APPS,
        "name": f"app{unique()}",
        **place.app(workloadProfileName="GPU"),
    }
    shown = place.writer.deploy(place.group, deployment(template([app])))
    error = shown["properties"]["error"]
    assert (error["code"], [one["code"] for one in error["details"]]) == (
        "DeploymentFailed",
        ["WorkloadProfileNotFound"],
    )
    app["properties"]["template"]["containers"][0]["image"] = "registry.invalid/python"
    path = f"{place.group}/providers/Microsoft.Resources/deployments/preflight"
    status, error = place.writer.error("PUT", path, deployment(template([app])))
    assert (status, error["code"]) == (400, "InvalidTemplateDeployment")
    (resource,) = error["details"]
    assert resource["code"] == "ValidationForResourceFailed"
    assert [one["code"] for one in resource["details"]] == ["InvalidParameterValueInContainerTemplate"]

"""What-if of an environment and an app that are there: noise, arrays, secrets, levels of validation, Complete mode."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.conftest import RunningStandIn
from tests.resource_manager_client import Arm, account, arm, deployment, template, unique, workspace

SECRET, WRITTEN_OUT = "given by a secure parameter", "written into the template"
PARAMETERS = {"key": {"type": "securestring"}}
ENVIRONMENT: dict[str, Any] = {
    "type": "Microsoft.App/managedEnvironments",
    "apiVersion": "2025-07-01",
    "name": "env",
    "location": "eastus",
    "properties": {"workloadProfiles": [{"name": "Consumption", "workloadProfileType": "Consumption"}]},
}


def _app(variables: list[dict[str, str]]) -> dict[str, Any]:
    container = {
        "name": "main",
        "image": "python:3.12",
        "command": ["sleep", "60"],
        "resources": {"cpu": 0.25, "memory": "0.5Gi"},
        "env": variables,
    }
    secrets = [{"name": "api-key", "value": "[parameters('key')]"}, {"name": "other", "value": WRITTEN_OUT}]
    return {
        "type": "Microsoft.App/containerApps",
        "apiVersion": "2025-07-01",
        "name": "app",
        "location": "eastus",
        "dependsOn": ["env"],
        "properties": {
            "environmentId": "[resourceId('Microsoft.App/managedEnvironments', 'env')]",
            "configuration": {"secrets": secrets},
            "template": {"containers": [container]},
        },
    }


_VARIABLES = [{"name": "A", "value": "1"}, {"name": "KEY", "secretRef": "api-key"}]


def _request(environment: dict[str, Any], variables: list[dict[str, str]]) -> dict[str, Any]:
    value = template([environment, _app(variables)], parameters=PARAMETERS)
    return deployment(value, parameters={"key": {"value": SECRET}})


@pytest.fixture(scope="module")
def writer(stand_in: RunningStandIn) -> Arm:
    return arm(stand_in)


@pytest.fixture(scope="module")
def group(writer: Arm) -> str:
    """A group with the environment and the app."""
    group = writer.group()
    request = _request(ENVIRONMENT, _VARIABLES)
    first = writer.what_if(group, request)
    assert {change["changeType"] for change in first["properties"]["changes"]} == {"Create"}
    assert SECRET not in json.dumps(first)
    assert WRITTEN_OUT not in json.dumps(first)
    done = writer.deploy(group, request)
    assert done["properties"]["provisioningState"] == "Succeeded", done["properties"].get("error")
    return group


def _deltas(writer: Arm, group: str, request: dict[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """Resource -> path -> change of a property."""
    result = writer.what_if(group, request)
    assert result["status"] == "Succeeded", result
    return {
        change["resourceId"].rpartition("/")[2]: {entry["path"]: entry for entry in change["delta"]}
        for change in result["properties"]["changes"]
    }


def test_the_noise_of_an_app(writer: Arm, group: str) -> None:
    deltas = _deltas(writer, group, _request(ENVIRONMENT, _VARIABLES))["app"]
    read_only = ("customDomainVerificationId", "eventStreamEndpoint", "latestRevisionName", "outboundIpAddresses")
    defaults = ("configuration.activeRevisionsMode", "template.scale", "workloadProfileName")
    for name in (*read_only, *defaults, "provisioningState", "runningStatus", "latestReadyRevisionName"):
        assert deltas[f"properties.{name}"]["propertyChangeType"] == "Delete", name
    assert deltas["systemData"]["propertyChangeType"] == "Delete"
    assert (deltas["location"]["before"], deltas["location"]["after"]) == ("East US", "eastus")
    # What the template has as it is there makes no noise.
    assert not any(path.startswith("properties.environmentId") for path in deltas)
    (container,) = deltas["properties.template.containers"]["children"]
    assert [child["path"] for child in container["children"]] == ["resources.ephemeralStorage"]


def test_a_secret_is_a_change_and_is_never_shown(writer: Arm, group: str) -> None:
    result = writer.what_if(group, _request(ENVIRONMENT, _VARIABLES))
    assert SECRET not in json.dumps(result)
    assert WRITTEN_OUT not in json.dumps(result)
    secrets = _deltas(writer, group, _request(ENVIRONMENT, _VARIABLES))["app"]["properties.configuration.secrets"]
    assert secrets["propertyChangeType"] == "Array"
    # The service never tells its values, so that each is a Create on every run.
    assert [child["children"] for child in secrets["children"]] == [
        [{"path": "value", "propertyChangeType": "Create", "after": "[parameters('key')]"}],
        [{"path": "value", "propertyChangeType": "Create", "after": "*******"}],
    ]


def test_no_answer_about_a_deployment_tells_a_secret(writer: Arm, group: str) -> None:
    path = f"{group}/providers/Microsoft.Resources/deployments"
    (shown,) = writer.get(path)["value"]
    answers = [shown, writer.get(f"{path}/{shown['name']}/operations"), writer.get(f"{group}/resources")]
    checked = writer.request("POST", f"{path}/check/validate", _request(ENVIRONMENT, _VARIABLES))
    assert checked.status_code == 200
    answers += [checked.json(), writer.get(f"{group}/providers/Microsoft.App/containerApps/app", "2025-07-01")]
    for answer in answers:
        assert SECRET not in json.dumps(answer)
    assert shown["properties"]["parameters"] == {"key": {"type": "SecureString"}}


def test_elements_of_arrays(writer: Arm, group: str) -> None:
    changed = [{"name": "A", "value": "2"}, *_VARIABLES[1:], {"name": "NEW", "value": "3"}]
    profiles = [{"name": "big", "workloadProfileType": "D4", "minimumCount": 0, "maximumCount": 1}]
    environment = ENVIRONMENT | {
        "properties": {"workloadProfiles": ENVIRONMENT["properties"]["workloadProfiles"] + profiles}
    }
    deltas = _deltas(writer, group, _request(environment, changed))
    (container,) = deltas["app"]["properties.template.containers"]["children"]
    (variables,) = [child for child in container["children"] if child["path"] == "env"]
    assert variables == {
        "path": "env",
        "propertyChangeType": "Array",
        "children": [
            {
                "path": "0",
                "propertyChangeType": "Modify",
                "children": [{"path": "value", "propertyChangeType": "Modify", "before": "1", "after": "2"}],
            },
            {"path": "2", "propertyChangeType": "Create", "after": {"name": "NEW", "value": "3"}},
        ],
    }
    children = deltas["env"]["properties.workloadProfiles"]["children"]
    assert [(child["path"], child["propertyChangeType"]) for child in children] == [("0", "Modify"), ("1", "Create")]
    assert children[1]["after"] == profiles[0]


def test_an_element_less(writer: Arm, group: str) -> None:
    deltas = _deltas(writer, group, _request(ENVIRONMENT, _VARIABLES[1:]))
    (container,) = deltas["app"]["properties.template.containers"]["children"]
    (variables,) = [child for child in container["children"] if child["path"] == "env"]
    assert variables["children"] == [{"path": "0", "propertyChangeType": "Delete", "before": _VARIABLES[0]}]


@pytest.mark.parametrize(
    ("level", "status"),
    [("Template", "Succeeded"), ("ProviderNoRbac", "Failed"), ("Provider", "Failed"), (None, "Failed")],
)
def test_what_a_level_of_validation_asks_the_providers(writer: Arm, level: str | None, status: str) -> None:
    members = {} if level is None else {"validationLevel": level}
    result = writer.what_if(writer.group(), deployment(template([account("arm_vscode")]), **members))
    assert result["status"] == status, result
    if status == "Failed":
        assert result["error"]["details"][0]["details"][0]["code"] == "AccountNameInvalid"
    else:
        assert [change["changeType"] for change in result["properties"]["changes"]] == ["Create"]


@pytest.mark.parametrize(("level", "allowed"), [("Template", True), ("ProviderNoRbac", True), ("Provider", False)])
def test_what_a_level_of_validation_asks_of_the_reader(
    writer: Arm, stand_in: RunningStandIn, level: str, allowed: bool
) -> None:
    reader = arm(stand_in, reader=True)
    result = reader.what_if(writer.group(), deployment(template([workspace("logs")]), validationLevel=level))
    assert (result["status"] == "Succeeded") == allowed, result
    if not allowed:
        assert "Authorization failed for template resource 'logs'" in result["error"]["message"]


def test_complete_mode_deletes_what_a_condition_leaves_out(writer: Arm) -> None:
    group = writer.group()
    writer.deploy(group, deployment(template([workspace("stays"), workspace("goes")])))
    request = deployment(template([workspace("stays"), workspace("goes", condition=False)]), "Complete")
    changes = writer.what_if(group, request)["properties"]["changes"]
    kinds = {change["resourceId"].rpartition("/")[2]: change["changeType"] for change in changes}
    assert (kinds["goes"], "Delete" in kinds["stays"]) == ("Delete", False)
    assert writer.deploy(group, request)["properties"]["provisioningState"] == "Succeeded"
    assert [one["name"] for one in writer.get(f"{group}/resources")["value"]] == ["stays"]


def test_nothing_to_do(writer: Arm) -> None:
    group, name = writer.group(), f"acct{unique()}"
    request = deployment(template([account(name)]))
    writer.deploy(group, request)
    (change,) = writer.what_if(group, request)["properties"]["changes"]
    assert (change["changeType"], change["delta"]) == ("NoChange", [])
    assert change["before"] == change["after"]

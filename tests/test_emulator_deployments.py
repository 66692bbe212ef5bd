"""Deployments of templates: requests and answers, order, nesting, modes, failure, cancelling, and a killed stand-in."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.mgmt.resource.deployments.models import Deployment

from tests.conftest import RunningStandIn, running_stand_in
from tests.faults import Switch
from tests.resource_manager_client import (
    STORAGE,
    SUBSCRIPTION_SCHEMA,
    Arm,
    account,
    arm,
    deployment,
    deployments_client,
    template,
    unique,
    workspace,
)

SHARE = {
    "type": "Microsoft.Storage/storageAccounts/fileServices/shares",
    "apiVersion": STORAGE,
    "name": "[format('{0}/default/{1}', parameters('account'), 'data')]",
    "properties": {"shareQuota": 3},
    "dependsOn": ["[resourceId('Microsoft.Storage/storageAccounts', parameters('account'))]"],
}


@pytest.fixture(scope="module")
def writer(stand_in: RunningStandIn) -> Arm:
    return arm(stand_in)


def _with_share() -> dict[str, Any]:
    return template(
        [SHARE, account("[parameters('account')]")],
        parameters={"account": {"type": "string"}, "Secret": {"type": "securestring", "defaultValue": "hidden"}},
        outputs={
            "ACCOUNT_NAME": {"type": "string", "value": "[parameters('account')]"},
            "FileEndpoint": {"type": "string", "value": "[reference(parameters('account')).primaryEndpoints.file]"},
            "key": {"type": "securestring", "value": "[listKeys(parameters('account'), '2026-04-01').keys[0].value]"},
            "none": {"type": "object", "nullable": True, "value": "[null()]"},
        },
    )


def _slow(count: int, prefix: str) -> dict[str, Any]:
    """Accounts made one after the other, a tenth of a second each."""
    loop = {"name": "accounts", "count": count, "mode": "serial", "batchSize": 1}
    return template([account(f"[format('{prefix}{{0}}', copyIndex())]", copy=loop)])


def test_a_deployment_by_the_sdk(writer: Arm, stand_in: RunningStandIn) -> None:
    client, group, name = deployments_client(stand_in), writer.group().rpartition("/")[2], f"acct{unique()}"
    request = Deployment(deployment(_with_share(), parameters={"account": {"value": name}}))
    assert client.deployments.check_existence(group, "first") is False
    done = client.deployments.begin_create_or_update(group, "first", request).result()
    assert done.properties is not None
    assert done.properties.provisioning_state == "Succeeded"
    assert done.properties.outputs == {
        "accounT_NAME": {"type": "String", "value": name},
        "fileEndpoint": {"type": "String", "value": f"{stand_in.announcement['resource_manager']}/{name}/"},
        "key": {"type": "SecureString"},
        "none": {"type": "Object"},
    }
    assert client.deployments.check_existence(group, "first") is True
    assert [one.name for one in client.deployments.list_by_resource_group(group)] == ["first"]
    operations = [one.properties for one in client.deployment_operations.list(group, "first")]
    made = {one.target_resource.resource_name for one in operations if one is not None and one.target_resource}
    assert made == {name, f"{name}/default/data"}
    assert client.deployments.export_template(group, "first").template == _with_share()
    client.deployments.begin_delete(group, "first").result()
    with pytest.raises(ResourceNotFoundError) as absent:
        client.deployments.get(group, "first")
    assert absent.value.error is not None
    assert absent.value.error.code == "DeploymentNotFound"
    assert writer.get(f"/resourceGroups/{group}/resources")["value"] != []


def test_answers_of_a_deployment(writer: Arm) -> None:
    group, name = writer.group(), f"acct{unique()}"
    path = f"{group}/providers/Microsoft.Resources/deployments/one"
    body = deployment(_with_share(), parameters={"account": {"value": name}})
    begun = writer.request("PUT", path, body)
    assert begun.status_code == 201
    assert begun.json()["properties"]["provisioningState"] == "Accepted"
    assert begun.json()["properties"]["parameters"]["secret"] == {"type": "SecureString"}
    address = begun.headers["azure-asyncoperation"]
    assert address.startswith(f"{writer.stand_in.announcement['resource_manager']}{path}/operationStatuses/0858")
    assert "location" not in begun.headers
    assert writer.get(address) in ({"status": "Accepted"}, {"status": "Running"})
    done = writer.wait(begun)
    assert writer.get(address) == {"status": "Succeeded"}
    assert list(done) == ["id", "name", "type", "properties"]
    assert list(done["properties"]) == [
        "templateHash",
        "parameters",
        "mode",
        "provisioningState",
        "timestamp",
        "duration",
        "correlationId",
        "providers",
        "dependencies",
        "outputs",
        "outputResources",
    ]
    properties = done["properties"]
    account_id = f"{group}/providers/Microsoft.Storage/storageAccounts/{name}"
    share_id = f"{account_id}/fileServices/default/shares/data"
    assert properties["outputResources"] == [{"id": account_id}, {"id": share_id}]
    assert properties["dependencies"] == [
        {
            "dependsOn": [
                {"id": account_id, "resourceType": "Microsoft.Storage/storageAccounts", "resourceName": name}
            ],
            "id": share_id,
            "resourceType": "Microsoft.Storage/storageAccounts/fileServices/shares",
            "resourceName": f"{name}/default/data",
        }
    ]
    assert properties["providers"] == [
        {
            "namespace": "Microsoft.Storage",
            "resourceTypes": [
                {"resourceType": "storageAccounts/fileServices/shares", "locations": [None]},
                {"resourceType": "storageAccounts", "locations": ["eastus"]},
            ],
        }
    ]
    again = writer.request("PUT", path, body)
    assert again.status_code == 200
    assert writer.wait(again)["properties"]["provisioningState"] == "Succeeded"
    assert writer.request("HEAD", path).status_code == 204
    operations = writer.get(f"{group}/deployments/one/operations")["value"]
    assert {one["properties"]["provisioningOperation"] for one in operations} == {"Create", "EvaluateDeploymentOutput"}
    one = next(one for one in operations if one["properties"].get("targetResource", {}).get("id") == account_id)
    assert (one["properties"]["provisioningState"], one["properties"]["statusCode"]) == ("Succeeded", "OK")
    assert writer.get(f"{path}/operations/{one['operationId']}") == one


def test_validate(writer: Arm) -> None:
    group, name = writer.group(), f"acct{unique()}"
    path = f"{group}/providers/Microsoft.Resources/deployments/check"
    response = writer.request(
        "POST", f"{path}/validate", deployment(_with_share(), parameters={"account": {"value": name}})
    )
    properties = response.json()["properties"]
    assert (response.status_code, properties["provisioningState"], properties["duration"]) == (200, "Succeeded", "PT0S")
    assert [one["id"].rpartition("/")[2] for one in properties["validatedResources"]] == [name, "data"]
    assert writer.error("GET", path)[1]["code"] == "DeploymentNotFound"


def test_an_invalid_template_says_where(writer: Arm) -> None:
    path = f"{writer.group()}/providers/Microsoft.Resources/deployments/check/validate"
    # The way the Azure CLI puts the text of a file into its request.
    text = (
        '{"properties": {"parameters": {}, "mode": "Incremental", template:{\n'
        '  "$schema": "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#",\n'
        '  "contentVersion": "1.0.0.0", // a comment\n'
        '  "parameters": {\n'
        '    "extra": {"type": "string"}\n'
        "  },\n"
        '  "resources": []\n'
        "}}}"
    )
    response = writer.http.post(path, params={"api-version": "2025-04-01"}, content=text)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (400, "InvalidTemplate")
    assert response.headers["x-ms-failure-cause"] == "gateway"
    assert error["message"].startswith(
        "Deployment template validation failed: 'The value for the template parameter 'extra' at line '5' and column"
    )
    assert error["additionalInfo"][0]["type"] == "TemplateViolation"
    assert error["additionalInfo"][0]["info"]["path"] == "properties.template.parameters.extra"


def test_a_cycle_is_refused(writer: Arm) -> None:
    value = template([workspace("logs-1", dependsOn=["logs-2"]), workspace("logs-2", dependsOn=["logs-1"])])
    path = f"{writer.group()}/providers/Microsoft.Resources/deployments/cycle"
    status, error = writer.error("PUT", path, deployment(value))
    assert (status, error["code"]) == (400, "InvalidTemplate")
    assert "Circular dependency detected" in error["message"]


def test_preflight(writer: Arm) -> None:
    path = f"{writer.group()}/providers/Microsoft.Resources/deployments/bad"
    value = template([account("arm_vscode"), workspace("logs-1")])
    for method, below in (("POST", "/validate"), ("PUT", "")):
        status, error = writer.error(method, path + below, deployment(value))
        assert (status, error["code"]) == (400, "InvalidTemplateDeployment")
        assert error["message"].startswith(
            "The template deployment 'bad' is not valid according to the validation procedure. The tracking id is '"
        )
        (check,) = error["details"]
        assert check["code"] == "PreflightValidationCheckFailed"
        assert (check["details"][0]["code"], check["details"][0]["target"]) == ("AccountNameInvalid", "arm_vscode")
    assert writer.error("GET", path)[1]["code"] == "DeploymentNotFound"


def test_preflight_of_an_app(writer: Arm) -> None:
    environment = {
        "type": "Microsoft.App/managedEnvironments",
        "apiVersion": "2026-01-01",
        "name": "env",
        "location": "eastus",
        "properties": {"workloadProfiles": [{"name": "a", "workloadProfileType": "NoSuchProfile"}]},
    }
    path = f"{writer.group()}/providers/Microsoft.Resources/deployments/bad"
    status, error = writer.error("PUT", path, deployment(template([environment])))
    assert (status, error["code"]) == (400, "InvalidTemplateDeployment")
    assert error["details"][0]["code"] == "ValidationForResourceFailed"
    assert error["details"][0]["details"][0]["code"] == "WorkloadProfileInvalidType"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"mode": None}, "InvalidRequestContent"),
        ({"mode": "Sideways"}, "InvalidRequestContent"),
        ({"template": None}, "InvalidRequestContent"),
        ({"parameters": {"account": {"value": 1}}}, "InvalidTemplate"),
        ({"parameters": {"account": {"value": "a"}, "other": {"value": "b"}}}, "InvalidTemplate"),
        ({"location": "eastus"}, "InvalidDeployment"),
    ],
)
def test_refused_requests(writer: Arm, change: dict[str, Any], code: str) -> None:
    body = deployment(_with_share(), parameters={"account": {"value": "acct"}})
    body |= {key: value for key, value in change.items() if key == "location"}
    body["properties"] |= {key: value for key, value in change.items() if key != "location"}
    status, error = writer.error("PUT", f"{writer.group()}/providers/Microsoft.Resources/deployments/d", body)
    assert (status, error["code"]) == (400, code)


def test_what_is_not_emulated(writer: Arm) -> None:
    group = writer.group()
    disk = {"type": "Microsoft.Compute/disks", "apiVersion": "2024-03-02", "name": "disk", "location": "eastus"}
    path = f"{group}/providers/Microsoft.Resources/deployments/d"
    status, error = writer.error("PUT", path, deployment(template([disk])))
    assert (status, error["code"]) == (501, "NotImplemented")
    assert "Microsoft.Compute" in error["message"]
    linked = {"properties": {"mode": "Incremental", "templateLink": {"uri": "https://example.org/t.json"}}}
    assert writer.error("PUT", path, linked)[0] == 501


def test_a_failure_stops_what_depends_on_it_and_nothing_else(writer: Arm, stand_in: RunningStandIn) -> None:
    group, name = writer.group(), f"acct{unique()}"
    # Preflight does not see it: the name of the share is the file service's matter.
    bad = SHARE | {"name": "[format('{0}/default/A_B', parameters('account'))]"}
    share_type = "Microsoft.Storage/storageAccounts/fileServices/shares"
    after = workspace("after", dependsOn=[f"[resourceId('{share_type}', parameters('account'), 'default', 'A_B')]"])
    value = template(
        [bad, account("[parameters('account')]"), after, workspace("beside")],
        parameters={"account": {"type": "string"}},
    )
    request, group_name = (
        Deployment(deployment(value, parameters={"account": {"value": name}})),
        group.rpartition("/")[2],
    )
    with pytest.raises(HttpResponseError) as failed:
        deployments_client(stand_in).deployments.begin_create_or_update(group_name, "bad", request).result()
    assert failed.value.error is not None
    assert failed.value.error.code == "DeploymentFailed"
    shown = writer.get(f"{group}/providers/Microsoft.Resources/deployments/bad")
    assert shown["properties"]["provisioningState"] == "Failed"
    error = shown["properties"]["error"]
    assert error["message"].startswith("At least one resource deployment operation failed. Please list deployment")
    share_id = f"{group}/providers/Microsoft.Storage/storageAccounts/{name}/fileServices/default/shares/A_B"
    assert [(one["code"], one["target"]) for one in error["details"]] == [("InvalidResourceName", share_id)]
    assert {one["name"] for one in writer.get(f"{group}/resources")["value"]} == {name, "beside"}
    operations = writer.get(f"{group}/providers/Microsoft.Resources/deployments/bad/operations")["value"]
    (one,) = (one["properties"] for one in operations if one["properties"]["provisioningState"] == "Failed")
    assert (one["statusCode"], one["statusMessage"]["error"]["code"]) == ("BadRequest", "InvalidResourceName")


def test_outputs_that_cannot_be_evaluated(writer: Arm) -> None:
    value = template([workspace("logs-1")], outputs={"bad": {"type": "string", "value": "[reference('logs-1').none]"}})
    shown = writer.deploy(writer.group(), deployment(value))
    assert shown["properties"]["provisioningState"] == "Failed"
    assert shown["properties"]["error"]["details"][0]["code"] == "DeploymentOutputEvaluationFailed"


def test_symbolic_names_conditions_and_existing_resources(writer: Arm) -> None:
    group = writer.group()
    writer.deploy(group, deployment(template([workspace("there")])))
    reading = workspace("there", existing=True)
    for member in ("location", "properties"):
        del reading[member]
    resources = {
        "there": reading,
        "many": workspace("[format('logs-{0}', copyIndex())]", copy={"name": "many", "count": 2}),
        "never": workspace("never", condition=False),
    }
    outputs = {
        "id": {"type": "string", "value": "[reference('there').customerId]"},
        "place": {"type": "string", "value": "[reference('there', '2026-03-01', 'full').location]"},
        "both": {
            "type": "array",
            "copy": {"count": 2, "input": "[reference(format('many[{0}]', copyIndex())).sku.name]"},
        },
    }
    shown = writer.deploy(group, deployment(template(resources, outputs=outputs)))
    assert shown["properties"]["provisioningState"] == "Succeeded", shown["properties"].get("error")
    found = {name: one["value"] for name, one in shown["properties"]["outputs"].items()}
    assert (found["place"], found["both"]) == ("eastus", ["PerGB2018", "PerGB2018"])
    assert len(found["id"]) == 36
    assert [one["id"].rpartition("/")[2] for one in shown["properties"]["outputResources"]] == ["logs-0", "logs-1"]
    assert {one["name"] for one in writer.get(f"{group}/resources")["value"]} == {"there", "logs-0", "logs-1"}


def _nested(name: str, value: dict[str, Any], scope: str = "inner", **members: Any) -> dict[str, Any]:
    properties = {"mode": "Incremental", "template": value, "expressionEvaluationOptions": {"scope": scope}}
    properties |= members.pop("properties", {})
    kind = {"type": "Microsoft.Resources/deployments", "apiVersion": "2025-04-01", "name": name}
    return kind | {"properties": properties} | members


def test_nested_deployments(writer: Arm) -> None:
    group, other = writer.group(), writer.group()
    inner = template(
        [workspace("[parameters('name')]")],
        parameters={"name": {"type": "string"}},
        outputs={"Id": {"type": "string", "value": "[reference(parameters('name')).customerId]"}},
    )
    outer = template([workspace("[parameters('name')]")])
    value = template(
        [
            _nested("in", inner, properties={"parameters": {"name": {"value": "inside"}}}),
            _nested("out", outer, "outer", resourceGroup=other.rpartition("/")[2], dependsOn=["in"]),
        ],
        parameters={"name": {"type": "string", "defaultValue": "outside"}},
        outputs={"id": {"type": "string", "value": "[reference('in').outputs.id.value]"}},
    )
    shown = writer.deploy(group, deployment(value), "top")
    assert shown["properties"]["provisioningState"] == "Succeeded", shown["properties"].get("error")
    assert [one["name"] for one in writer.get(f"{group}/resources")["value"]] == ["inside"]
    assert [one["name"] for one in writer.get(f"{other}/resources")["value"]] == ["outside"]
    # What nested deployments made counts, they themselves do not.
    assert [one["id"].rpartition("/")[2] for one in shown["properties"]["outputResources"]] == ["inside", "outside"]
    assert {one["name"] for one in writer.get(f"{group}/providers/Microsoft.Resources/deployments")["value"]} == {
        "top",
        "in",
    }
    nested = writer.get(f"{group}/providers/Microsoft.Resources/deployments/in")
    assert nested["properties"]["outputs"]["id"]["value"] == shown["properties"]["outputs"]["id"]["value"]


def test_a_nested_failure_tells_why(writer: Arm) -> None:
    group = writer.group()
    inner = template([account(f"acct{unique()}"), SHARE], parameters={"account": {"type": "string"}})
    inner["resources"][1] = SHARE | {"name": "[concat(parameters('account'), '/default/A_B')]", "dependsOn": []}
    inner["resources"][1]["dependsOn"] = [inner["resources"][0]["name"]]
    given = {"account": {"value": inner["resources"][0]["name"]}}
    shown = writer.deploy(group, deployment(template([_nested("in", inner, properties={"parameters": given})])))
    (detail,) = shown["properties"]["error"]["details"]
    assert detail["code"] == "ResourceDeploymentFailure"
    assert detail["target"].endswith("/deployments/in")
    assert detail["details"][0]["code"] == "DeploymentFailed"
    assert detail["details"][0]["details"][0]["code"] == "InvalidResourceName"


def test_a_group_that_a_nested_deployment_lacks(writer: Arm) -> None:
    value = template([_nested("in", template([]), resourceGroup="SomeRandomRG")])
    path = f"{writer.group()}/providers/Microsoft.Resources/deployments/d/validate"
    status, error = writer.error("POST", path, deployment(value))
    assert (status, error) == (
        404,
        {"code": "ResourceGroupNotFound", "message": "Resource group 'SomeRandomRG' could not be found."},
    )


def test_a_subscription_deployment_makes_a_group(writer: Arm) -> None:
    name = f"rg-{unique()}"
    value = template(
        [
            {
                "type": "Microsoft.Resources/resourceGroups",
                "apiVersion": "2025-04-01",
                "name": name,
                "location": "[deployment().location]",
                "tags": {"made": "by template"},
            },
            _nested("in", template([workspace("logs-1", location="[resourceGroup().location]")]), resourceGroup=name)
            | {"dependsOn": [name]},
        ],
        SUBSCRIPTION_SCHEMA,
    )
    scope = f"/subscriptions/{writer.subscription}"
    body = deployment(value, location="swedencentral")
    deployment_name = f"sub-{unique()}"
    path = f"{scope}/providers/Microsoft.Resources/deployments/{deployment_name}"
    checked = writer.request("POST", f"{path}/validate", body)
    assert checked.status_code == 200, checked.text
    assert writer.error("GET", f"/resourceGroups/{name}")[0] == 404
    shown = writer.deploy(scope, body, deployment_name)
    assert shown["properties"]["provisioningState"] == "Succeeded", shown["properties"].get("error")
    assert list(shown)[:4] == ["id", "name", "type", "location"]
    assert writer.get(f"/resourceGroups/{name}")["tags"] == {"made": "by template"}
    logs = writer.get(f"/resourceGroups/{name}/resources")["value"]
    assert [(one["name"], one["location"]) for one in logs] == [("logs-1", "swedencentral")]
    assert [one["id"].rpartition("/")[2] for one in shown["properties"]["outputResources"]] == [name, "logs-1"]
    status, error = writer.error("PUT", path, deployment(value, location="westus"))
    assert (status, error["code"]) == (409, "InvalidDeploymentLocation")
    assert writer.error("PUT", path, deployment(value))[1]["code"] == "InvalidDeployment"


def test_complete_mode_removes_what_the_template_does_not_name(writer: Arm) -> None:
    group = writer.group()
    writer.deploy(group, deployment(template([workspace("keep"), workspace("drop")])))
    shown = writer.deploy(group, deployment(template([workspace("keep")]), "Complete"), "complete")
    assert (shown["properties"]["mode"], shown["properties"]["provisioningState"]) == ("Complete", "Succeeded")
    assert [one["name"] for one in writer.get(f"{group}/resources")["value"]] == ["keep"]
    operations = writer.get(f"{group}/providers/Microsoft.Resources/deployments/complete/operations")["value"]
    verbs = [one["properties"]["provisioningOperation"] for one in operations]
    assert sorted(verbs) == ["Create", "Delete", "EvaluateDeploymentOutput"]


def test_independent_resources_at_once_and_serial_loops_in_turn(writer: Arm, stand_in: RunningStandIn) -> None:
    prefix = f"acct{unique()}x"
    started = time.monotonic()
    shown = writer.deploy(writer.group(), deployment(_slow(4, prefix)))
    assert shown["properties"]["provisioningState"] == "Succeeded"
    assert time.monotonic() - started >= 0.4
    operations = writer.get(f"{shown['id']}/operations")["value"]
    ends = {
        one["properties"]["targetResource"]["resourceName"]: one["properties"]["timestamp"]
        for one in operations
        if "targetResource" in one["properties"]
    }
    assert sorted(ends, key=lambda name: ends[name]) == [f"{prefix}{index}" for index in range(4)]
    at_once = _slow(8, f"acct{unique()}y")
    at_once["resources"][0]["copy"] = {"name": "accounts", "count": 8}
    with Switch(stand_in).on({"fault": "slow-operation", "path": "/storageAccounts/", "seconds": 2}):
        shown = writer.deploy(writer.group(), deployment(at_once))
    assert 2 < float(shown["properties"]["duration"][2:-1]) < 14, "one after the other would take 16 s"


def test_an_active_deployment_is_not_replaced_and_may_be_cancelled(writer: Arm) -> None:
    group, prefix = writer.group(), f"acct{unique()}z"
    path = f"{group}/providers/Microsoft.Resources/deployments/slow"
    begun = writer.request("PUT", path, deployment(_slow(300, prefix)))
    status, error = writer.error("PUT", path, deployment(_slow(1, prefix)))
    assert (status, error["code"]) == (409, "DeploymentActive")
    assert error["message"].startswith("Unable to edit or replace deployment 'slow': previous deployment from '")
    assert writer.error("DELETE", path)[1]["code"] == "DeploymentActive"
    cancelled = writer.request("POST", f"{path}/cancel")
    assert (cancelled.status_code, cancelled.content) == (204, b"")
    assert writer.get(path)["properties"]["provisioningState"] == "Canceled"
    assert writer.get(begun.headers["azure-asyncoperation"]) == {"status": "Canceled"}
    before = len(writer.get(f"{group}/resources")["value"])
    time.sleep(0.5)
    assert len(writer.get(f"{group}/resources")["value"]) == before < 300
    assert writer.error("POST", f"{path}/cancel")[0] == 409
    assert writer.request("PUT", path, deployment(template([]))).status_code == 200


def test_a_group_is_deleted_under_its_deployment(writer: Arm) -> None:
    group = writer.group()
    path = f"{group}/providers/Microsoft.Resources/deployments/slow"
    assert writer.request("PUT", path, deployment(_slow(300, f"acct{unique()}w"))).status_code == 201
    assert writer.poll(writer.request("DELETE", group)).status_code == 200
    time.sleep(0.3)
    assert writer.error("GET", group)[1]["code"] == "ResourceGroupNotFound"
    assert writer.request("PUT", group, {"location": "eastus"}).status_code == 201
    assert writer.get(f"{group}/resources")["value"] == []
    assert writer.get(f"{group}/providers/Microsoft.Resources/deployments")["value"] == []


def test_the_reader_may_not_deploy(writer: Arm, stand_in: RunningStandIn) -> None:
    path = f"{writer.group()}/providers/Microsoft.Resources/deployments/d"
    status, error = arm(stand_in, reader=True).error("PUT", path, deployment(template([])))
    assert (status, error["code"]) == (403, "AuthorizationFailed")
    assert "'Microsoft.Resources/deployments/write'" in error["message"]


def test_a_killed_stand_in_takes_the_deployment_up_again(own_stand_in: RunningStandIn) -> None:
    writer = arm(own_stand_in)
    group, prefix = writer.group(), f"acct{unique()}k"
    value = _slow(12, prefix)
    value["parameters"] = {"guid": {"type": "string", "defaultValue": "[newGuid()]"}}
    value["outputs"] = {"guid": {"type": "string", "value": "[parameters('guid')]"}}
    value["resources"].append(_nested("in", template([workspace("logs-1")]), dependsOn=["accounts"]))
    begun = writer.request("PUT", f"{group}/providers/Microsoft.Resources/deployments/slow", deployment(value))
    while len(writer.get(f"{group}/resources")["value"]) < 3:
        time.sleep(0.02)
    own_stand_in.kill()
    with running_stand_in(own_stand_in.state) as restarted:
        again = arm(restarted)
        # The same port, so an address that a client polls goes on working.
        shown = again.wait(begun)
        assert shown["properties"]["provisioningState"] == "Succeeded", json.dumps(shown["properties"])
        assert (
            shown["properties"]["outputs"]["guid"]["value"] == begun.json()["properties"]["parameters"]["guid"]["value"]
        )
        names = {one["name"] for one in again.get(f"{group}/resources")["value"]}
        assert names == {f"{prefix}{index}" for index in range(12)} | {"logs-1"}
        made = {one["id"].rpartition("/")[2] for one in shown["properties"]["outputResources"]}
        assert made == names


def test_a_stopped_stand_in_takes_the_deployment_up_again(tmp_path: Path) -> None:
    with running_stand_in(tmp_path / "state") as running:
        writer = arm(running)
        path = f"{writer.group()}/providers/Microsoft.Resources/deployments/slow"
        begun = writer.request("PUT", path, deployment(_slow(6, f"acct{unique()}t")))
        assert begun.status_code == 201
    with running_stand_in(tmp_path / "state") as restarted:
        shown = arm(restarted).wait(begun)
        assert shown["properties"]["provisioningState"] == "Succeeded", json.dumps(shown["properties"])
        assert len(shown["properties"]["outputResources"]) == 6


def test_what_a_killed_stand_in_had_begun_is_waited_for(own_stand_in: RunningStandIn) -> None:
    writer = arm(own_stand_in)
    group = writer.group()
    environment = {
        "type": "Microsoft.App/managedEnvironments",
        "apiVersion": "2026-01-01",
        "name": "env",
        "location": "eastus",
        "properties": {},
    }
    path = f"{group}/providers/Microsoft.Resources/deployments/slow"
    begun = writer.request("PUT", path, deployment(template([environment])))
    while not writer.get(f"{group}/resources")["value"]:
        time.sleep(0.005)
    own_stand_in.kill()
    with running_stand_in(own_stand_in.state) as restarted:
        again = arm(restarted)
        # To change the environment now would be refused: ManagedEnvironmentOperationInProgress.
        shown = again.wait(begun)
        assert shown["properties"]["provisioningState"] == "Succeeded", json.dumps(shown["properties"])
        status = again.get(f"{group}/providers/Microsoft.App/managedEnvironments/env", "2026-01-01")
        assert status["properties"]["provisioningState"] == "Succeeded"


def test_a_killed_stand_in_goes_on_deleting(own_stand_in: RunningStandIn) -> None:
    writer = arm(own_stand_in)
    group = writer.group()
    writer.deploy(group, deployment(template([account(f"acct{unique()}"), workspace("logs-1")])))
    begun = writer.request("DELETE", group)
    own_stand_in.kill()
    with running_stand_in(own_stand_in.state) as restarted:
        again = arm(restarted)
        assert again.poll(begun).status_code == 200
        assert again.error("GET", group)[1]["code"] == "ResourceGroupNotFound"

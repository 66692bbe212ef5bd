"""What-if: the comparison by itself, and previews of real resources as Azure shows them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from azure.mgmt.resource.deployments.models import DeploymentWhatIf

from infra.emulator.resourcemanager import delta, noise
from tests.conftest import RunningStandIn
from tests.recordings_tally import RECORDINGS
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


@pytest.fixture(scope="module")
def writer(stand_in: RunningStandIn) -> Arm:
    return arm(stand_in)


def _changes(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """By the resource's name."""
    assert result["status"] == "Succeeded", result
    return {change["resourceId"].rpartition("/")[2]: change for change in result["properties"]["changes"]}


def _kinds(result: dict[str, Any]) -> dict[str, str]:
    return {name: change["changeType"] for name, change in _changes(result).items()}


def test_scalars_and_objects() -> None:
    before = {"sku": {"name": "Standard_LRS"}, "identity": {"type": "SystemAssigned"}, "same": [1, 2]}
    after = {"sku": {"Name": "Standard_GRS", "size": 128}, "same": [2, 1], "count": 1.0}
    assert delta.compare(before, after) == [
        {"path": "count", "propertyChangeType": "Create", "after": 1.0},
        {"path": "identity", "propertyChangeType": "Delete", "before": {"type": "SystemAssigned"}},
        {"path": "sku.Name", "propertyChangeType": "Modify", "before": "Standard_LRS", "after": "Standard_GRS"},
        {"path": "sku.size", "propertyChangeType": "Create", "after": 128},
    ]
    assert delta.compare({"cpu": 4}, {"cpu": 4.0}) == []
    assert delta.compare({"on": True}, {"on": 1}) != []


def test_arrays() -> None:
    # A replaced element is a Delete and a Create at one index, as recorded of assignableScopes.
    assert delta.compare({"scopes": ["a"]}, {"scopes": ["b"]}) == [
        {
            "path": "scopes",
            "propertyChangeType": "Array",
            "children": [
                {"path": "0", "propertyChangeType": "Delete", "before": "a"},
                {"path": "0", "propertyChangeType": "Create", "after": "b"},
            ],
        }
    ]
    # A changed one is a Modify with children; elements are told apart by their name.
    before = [{"name": "one", "value": 1, "extra": True}, {"name": "two", "value": 2}]
    after = [{"name": "two", "value": 2}, {"name": "one", "value": 3}]
    assert delta.compare({"list": before}, {"list": after}) == [
        {
            "path": "list",
            "propertyChangeType": "Array",
            "children": [
                {
                    "path": "1",
                    "propertyChangeType": "Modify",
                    "children": [
                        {"path": "extra", "propertyChangeType": "Delete", "before": True},
                        {"path": "value", "propertyChangeType": "Modify", "before": 1, "after": 3},
                    ],
                }
            ],
        }
    ]
    (change,) = delta.compare({"list": [[1], {"a": 1}]}, {"list": [[1], {"a": 2}, "new"]})
    assert [child["propertyChangeType"] for child in change["children"]] == ["Modify", "Create"]


def _recorded_changes() -> list[dict[str, Any]]:
    """The changes in recorded results that have a delta, without the nulls that a client adds."""
    recordings = json.loads((RECORDINGS / "resource-manager" / "what-if.json").read_text())["recordings"]
    results = [
        recording.get("what_if") or recording["interactions"][-1]["response_body"]["properties"]
        for recording in recordings
    ]
    changes = [delta.without_null(change) for result in results for change in result["changes"]]
    return [change for change in changes if "delta" in change]


def _form(changes: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """Path, kind and children of each change. NoEffect is a matter of what is known of a type."""
    return [
        (change["path"], change["propertyChangeType"], _form(change.get("children", [])))
        for change in changes
        if change["propertyChangeType"] != "NoEffect"
    ]


@pytest.mark.parametrize("change", _recorded_changes(), ids=lambda change: change["resourceId"].rpartition("/")[2])
def test_recorded_deltas(change: dict[str, Any]) -> None:
    # Computed again from the recorded `before` and `after`; long lists among these were shortened.
    assert sorted(_form(delta.compare(change["before"], change["after"]))) == sorted(_form(change["delta"]))


def test_order_and_emptiness() -> None:
    assert list(delta.ordered({"b": 1, "A": {"d": 1, "C": 2}})) == ["A", "b"]
    assert delta.without_empty({"a": None, "b": {"c": []}, "d": [{}, 1], "e": ""}) == {"d": [{}, 1], "e": ""}


def test_what_is_known_of_a_type() -> None:
    known = noise.of("microsoft.app/CONTAINERAPPS")
    document = {
        "properties": {"runningStatus": "x", "template": {"containers": [{"resources": {"ephemeralStorage": 1}}]}}
    }
    assert noise.found(document, known.in_vain) == {
        "properties.runningStatus": "x",
        "properties.template.containers[0].resources.ephemeralStorage": 1,
    }
    assert noise.hide(document, known.in_vain) == {"properties": {"template": {"containers": [{"resources": {}}]}}}
    assert noise.keep({"a": 1, "b": {"c": 2}}, {"B": {"d": 3}}) == {"B": {"d": 3, "c": 2}, "a": 1}


def test_everything_new(writer: Arm) -> None:
    group, name = writer.group(), f"acct{unique()}"
    value = template(
        [account(name, tags={"when": "[parameters('when')]", "b": "[parameters('secret')]", "A": "x"})],
        parameters={
            "when": {"type": "string", "defaultValue": "[utcNow('o')]"},
            "secret": {"type": "securestring"},
        },
    )
    result = writer.what_if(group, deployment(value, parameters={"secret": {"value": "hidden"}}))
    assert list(result) == ["status", "properties"]
    assert list(result["properties"]) == ["correlationId", "changes"]
    (change,) = result["properties"]["changes"]
    assert list(change) == ["resourceId", "changeType", "after"]
    assert change["changeType"] == "Create"
    assert change["after"] == {
        "apiVersion": STORAGE,
        "id": f"{group}/providers/Microsoft.Storage/storageAccounts/{name}",
        "kind": "StorageV2",
        "location": "eastus",
        "name": name,
        "properties": {},
        "sku": {"name": "Standard_LRS"},
        "tags": {"A": "x", "b": "[parameters('secret')]", "when": "[utcNow('o')]"},
        "type": "Microsoft.Storage/storageAccounts",
    }
    assert list(change["after"]) == sorted(change["after"])
    assert list(change["after"]["tags"]) == ["A", "b", "when"]
    # A preview changes nothing.
    assert writer.get(f"{group}/resources")["value"] == []
    assert writer.get(f"{group}/providers/Microsoft.Resources/deployments")["value"] == []


def test_an_account_is_modified_as_recorded(writer: Arm) -> None:
    group, name = writer.group(), f"acct{unique()}"
    writer.deploy(group, deployment(template([account(name), workspace("other")])))
    assert _kinds(writer.what_if(group, deployment(template([account(name)])))) == {name: "NoChange", "other": "Ignore"}
    changed = _changes(writer.what_if(group, deployment(template([account(name, sku={"name": "Standard_GRS"})]))))
    change = changed[name]
    assert list(change) == ["resourceId", "changeType", "before", "after", "delta"]
    assert change["delta"] == [
        {"path": "sku.name", "propertyChangeType": "Modify", "before": "Standard_LRS", "after": "Standard_GRS"}
    ]
    # Read-only values are hidden, and the service's defaults stand on both sides.
    assert change["before"]["properties"] == change["after"]["properties"]
    assert change["before"]["properties"]["encryption"] == {"keySource": "Microsoft.Storage"}
    assert change["before"]["properties"]["networkAcls"] == {"bypass": "AzureServices", "defaultAction": "Allow"}
    assert "primaryEndpoints" not in change["before"]["properties"]
    ignored = changed["other"]
    assert ignored["before"] == ignored["after"]
    assert "apiVersion" not in ignored["before"]


def test_noise_of_a_workspace_and_of_an_environment(writer: Arm) -> None:
    group = writer.group()
    environment = {
        "type": "Microsoft.App/managedEnvironments",
        "apiVersion": "2025-07-01",
        "name": "env",
        "location": "eastus",
        "properties": {"workloadProfiles": [{"name": "Consumption", "workloadProfileType": "Consumption"}]},
    }
    value = template([workspace("logs-1"), environment])
    done = writer.deploy(group, deployment(value))
    assert done["properties"]["provisioningState"] == "Succeeded", done
    changes = _changes(writer.what_if(group, deployment(value)))
    logs = {entry["path"]: entry["propertyChangeType"] for entry in changes["logs-1"]["delta"]}
    assert logs["properties.features"] == "Delete"
    assert "properties.customerId" not in logs
    noisy = {entry["path"]: entry for entry in changes["env"]["delta"]}
    assert noisy["location"] == {
        "path": "location",
        "propertyChangeType": "Modify",
        "before": "East US",
        "after": "eastus",
    }
    for path in ("properties.provisioningState", "properties.defaultDomain", "properties.zoneRedundant", "systemData"):
        assert noisy[path]["propertyChangeType"] == "Delete"
    assert set(changes["env"]) == {"resourceId", "changeType", "before", "after", "delta"}


def test_what_a_template_sets_in_vain(writer: Arm) -> None:
    group = writer.group()
    writer.deploy(group, deployment(template([workspace("logs-1")])))
    value = workspace("logs-1", properties={"retentionInDays": 30, "customerId": "mine"})
    (change,) = writer.what_if(group, deployment(template([value])))["properties"]["changes"]
    assert change["delta"][-1] == {"path": "properties.customerId", "propertyChangeType": "NoEffect", "after": "mine"}


def test_complete_mode_and_ids_only(writer: Arm) -> None:
    group = writer.group()
    writer.deploy(group, deployment(template([workspace("keep"), workspace("drop")])))
    value = template([workspace("keep"), workspace("fresh"), workspace("never", condition=False)])
    complete = _changes(writer.what_if(group, deployment(value, "Complete")))
    assert {name: change["changeType"] for name, change in complete.items()} == {
        "keep": "Modify",
        "fresh": "Create",
        "drop": "Delete",
    }
    assert set(complete["drop"]) == {"resourceId", "changeType", "before"}
    settings = {"resultFormat": "ResourceIdOnly"}
    short = _changes(writer.what_if(group, deployment(value, whatIfSettings=settings)))
    assert {name: change["changeType"] for name, change in short.items()} == {
        "keep": "Deploy",
        "fresh": "Create",
        "drop": "Ignore",
    }
    assert all(set(change) == {"resourceId", "changeType"} for change in short.values())


def test_nested_deployments_are_seen_through(writer: Arm) -> None:
    group, other = writer.group(), writer.group()
    known = template([workspace("[parameters('name')]")], parameters={"name": {"type": "string"}})
    unknown = template([workspace("[parameters('id')]")], parameters={"id": {"type": "string"}})

    def nested(name: str, value: dict[str, Any], parameter: str, text: str, **members: Any) -> dict[str, Any]:
        properties = {
            "mode": "Incremental",
            "template": value,
            "parameters": {parameter: {"value": text}},
            "expressionEvaluationOptions": {"scope": "inner"},
        }
        kind = {"type": "Microsoft.Resources/deployments", "apiVersion": "2025-04-01", "name": name}
        return kind | {"properties": properties} | members

    value = template(
        [
            nested("in", known, "name", "inside", resourceGroup=other.rpartition("/")[2]),
            workspace("logs-1"),
            nested("late", unknown, "id", "[reference('logs-1').customerId]"),
        ]
    )
    result = writer.what_if(group, deployment(value))
    changes = result["properties"]["changes"]
    assert [change["changeType"] for change in changes] == ["Create", "Create", "Unsupported"]
    assert {change["resourceId"].rpartition("/")[2] for change in changes[:2]} == {"inside", "logs-1"}
    unsupported = changes[2]
    assert unsupported["resourceId"].startswith("[format('")
    assert unsupported["unsupportedReason"].startswith(
        "Changes to the resource declared at"
        " 'properties.template.resources[2].properties.template.resources[0]' on line 1 and column "
    )
    assert "column 0 " not in unsupported["unsupportedReason"]
    (diagnostic,) = result["properties"]["diagnostics"]
    assert (diagnostic["code"], diagnostic["level"]) == ("NestedDeploymentShortCircuited", "Warning")
    assert diagnostic["target"] == f"{group}/providers/Microsoft.Resources/deployments/late"


def test_subscription_scope(writer: Arm) -> None:
    known, new = writer.group(), f"rg-{unique()}"

    def group(name: str) -> dict[str, Any]:
        kind = {"type": "Microsoft.Resources/resourceGroups", "apiVersion": "2025-04-01"}
        return kind | {"name": name, "location": "eastus"}

    value = template([group(known.rpartition("/")[2]), group(new)], SUBSCRIPTION_SCHEMA)
    result = writer.what_if(f"/subscriptions/{writer.subscription}", deployment(value, location="eastus"))
    assert _kinds(result) == {known.rpartition("/")[2]: "NoChange", new: "Create"}


def test_refused_previews(writer: Arm) -> None:
    path = "/providers/Microsoft.Resources/deployments/w/whatIf"
    absent = f"/subscriptions/{writer.subscription}/resourceGroups/none{path}"
    assert writer.error("POST", absent, deployment(template([])))[1]["code"] == "ResourceGroupNotFound"
    group = writer.group()
    bad = template([], parameters={"needed": {"type": "string"}})
    assert writer.error("POST", group + path, deployment(bad))[1]["code"] == "InvalidTemplate"
    # What the providers refuse is told by the poll, which is a success that says Failed.
    failed = writer.what_if(group, deployment(template([account("arm_vscode")])))
    assert (failed["status"], failed["error"]["code"]) == ("Failed", "InvalidTemplateDeployment")


def test_the_reader_may_preview_without_the_rights_to_deploy(writer: Arm, stand_in: RunningStandIn) -> None:
    group, reader = writer.group(), arm(stand_in, reader=True)
    value = template([workspace("logs-1")])
    refused = reader.what_if(group, deployment(value))
    assert (refused["status"], refused["error"]["code"]) == ("Failed", "InvalidTemplateDeployment")
    assert refused["error"]["message"].startswith(
        "The template deployment failed with error: 'Authorization failed for template resource 'logs-1' of type"
    )
    allowed = reader.what_if(group, deployment(value, validationLevel="ProviderNoRbac"))
    assert _kinds(allowed) == {"logs-1": "Create"}


def test_by_the_sdk(writer: Arm, stand_in: RunningStandIn) -> None:
    group = writer.group()
    request = DeploymentWhatIf(deployment(template([workspace("logs-1")])))
    result = deployments_client(stand_in).deployments.begin_what_if(group.rpartition("/")[2], "w", request).result()
    assert result.status == "Succeeded"
    assert [(change.change_type, change.resource_id) for change in result.changes or []] == [
        ("Create", f"{group}/providers/Microsoft.OperationalInsights/workspaces/logs-1")
    ]

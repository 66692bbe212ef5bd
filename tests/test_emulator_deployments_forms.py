"""Both forms of compiled templates deployed side by side, and wrong templates refused with Azure's codes."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conftest import RunningStandIn
from tests.resource_manager_client import (
    SUBSCRIPTION_SCHEMA,
    WORKSPACES,
    Arm,
    account,
    arm,
    deployment,
    template,
    unique,
    workspace,
)

_DEPLOYMENTS = "/providers/Microsoft.Resources/deployments"


@pytest.fixture(scope="module")
def writer(stand_in: RunningStandIn) -> Arm:
    return arm(stand_in)


def _nested(name: str, value: dict[str, Any], scope: str, **members: Any) -> dict[str, Any]:
    properties = {
        "mode": "Incremental",
        "template": value,
        "expressionEvaluationOptions": {"scope": scope},
        **members.pop("properties", {}),
    }
    kind = {"type": "Microsoft.Resources/deployments", "apiVersion": "2025-04-01", "name": name}
    return kind | {"properties": properties} | members


def _existing(name: str) -> dict[str, Any]:
    return {
        "existing": True,
        "type": "Microsoft.OperationalInsights/workspaces",
        "apiVersion": WORKSPACES,
        "name": name,
    }


def _parts(reference: str, known: str, after: dict[str, list[str]]) -> dict[str, dict[str, Any]]:
    """The resources of both forms: a serial loop, a condition, nested deployments of both scopes, by their names.

    `reference` and `known` are expressions for the first of the loop and for what was there; `after` are dependencies.
    """
    loop = {"name": "logs", "count": "[length(parameters('names'))]", "mode": "Serial", "batchSize": 1}
    inner = template(
        [workspace("[parameters('name')]")],
        parameters={"name": {"type": "string"}},
        outputs={"id": {"type": "string", "value": f"[resourceId('{_existing('')['type']}', parameters('name'))]"}},
    )
    outer = template([workspace("[concat(parameters('names')[0], '-outer')]")])
    return {
        "logs": workspace("[parameters('names')[copyIndex()]]", copy=loop, tags={"index": "[string(copyIndex())]"}),
        "never": workspace("never", condition="[greater(length(parameters('names')), 5)]"),
        "inside": _nested(
            "inside",
            inner,
            "inner",
            properties={"parameters": {"name": {"value": "[concat(parameters('names')[1], '-inner')]"}}},
            dependsOn=after["inside"],
        ),
        "outside": _nested("outside", outer, "outer", dependsOn=after["outside"]),
        "last": workspace("last", tags={"first": reference, "known": known}, dependsOn=after["last"]),
    }


def _classic() -> dict[str, Any]:
    kind = _existing("")["type"]
    parts = _parts(
        f"[reference(resourceId('{kind}', parameters('names')[0])).provisioningState]",
        f"[reference(resourceId('{kind}', 'known'), '{WORKSPACES}').provisioningState]",
        {"inside": ["logs"], "outside": ["inside"], "last": [f"[resourceId('{kind}', 'first')]", "outside"]},
    )
    return template(
        list(parts.values()),
        parameters={"names": {"type": "array", "minLength": 2}, "note": {"type": "string", "defaultValue": ""}},
        outputs={
            "inner": {"type": "string", "value": "[reference('inside').outputs.id.value]"},
            "indexes": {"type": "array", "copy": {"count": 2, "input": "[parameters('names')[copyIndex()]]"}},
            "note": {
                "type": "string",
                "condition": "[not(empty(parameters('note')))]",
                "value": "[parameters('note')]",
            },
        },
    )


def _symbolic() -> dict[str, Any]:
    parts = _parts(
        "[reference('logs[0]').provisioningState]",
        "[reference('known').provisioningState]",
        {"inside": ["logs"], "outside": ["inside"], "last": ["logs", "outside"]},
    )
    return template(
        {**parts, "known": _existing("known")},
        definitions={"name": {"type": "string", "minLength": 1, "maxLength": 20}},
        parameters={
            "names": {"type": "array", "items": {"$ref": "#/definitions/name"}, "minLength": 2},
            "note": {"type": "string", "nullable": True},
        },
        outputs={
            "inner": {"type": "string", "value": "[reference('inside').outputs.id.value]"},
            "indexes": {"type": "array", "copy": {"count": 2, "input": "[parameters('names')[copyIndex()]]"}},
            "note": {"type": "string", "nullable": True, "value": "[parameters('note')]"},
        },
    )


@pytest.mark.parametrize("form", [_classic, _symbolic])
def test_both_forms_do_the_same(writer: Arm, form: Any) -> None:
    group = writer.group()
    writer.deploy(group, deployment(template([workspace("known")])))
    shown = writer.deploy(group, deployment(form(), parameters={"names": {"value": ["first", "second"]}}), "main")
    properties = shown["properties"]
    assert properties["provisioningState"] == "Succeeded", properties.get("error")
    found = {one["name"]: one for one in writer.get(f"{group}/resources")["value"]}
    assert sorted(found) == ["first", "first-outer", "known", "last", "second", "second-inner"]
    assert found["second"]["tags"] == {"index": "1"}
    assert found["last"]["tags"] == {"first": "Succeeded", "known": "Succeeded"}
    assert properties["outputs"]["indexes"] == {"type": "Array", "value": ["first", "second"]}
    assert properties["outputs"]["inner"]["value"].endswith("/workspaces/second-inner")
    assert properties["outputs"].get("note", {}).get("value") is None
    operations = writer.get(f"{shown['id']}/operations")["value"]
    ended = {
        one["properties"]["targetResource"]["resourceName"]: one["properties"]["timestamp"]
        for one in operations
        if "targetResource" in one["properties"]
    }
    assert "never" not in ended
    assert sorted(ended, key=lambda name: ended[name])[-4:] == ["second", "inside", "outside", "last"]


def _with(**sections: Any) -> dict[str, Any]:
    return template(sections.pop("resources", []), **sections)


_TWICE = [workspace("logs-1"), workspace("logs-1")]
_CYCLE = {
    "a": workspace("logs-1", dependsOn=["b"]),
    "b": workspace("logs-2", tags={"x": "[reference('a').customerId]"}),
}
_REFUSED: list[tuple[str, dict[str, Any], str, str, str | None]] = [
    ("two of a name", _with(resources=_TWICE), "InvalidTemplate", "logs-1", None),
    ("a cycle by reference", _with(resources=_CYCLE), "InvalidTemplate", "Circular dependency detected", None),
    (
        "an unknown dependency",
        _with(resources=[workspace("logs-1", dependsOn=["nobody"])]),
        "InvalidTemplate",
        "nobody",
        "properties.template.resources[0]",
    ),
    (
        "an unknown function",
        _with(outputs={"a": {"type": "string", "value": "[reference(]"}}),
        "InvalidTemplate",
        "Unable to parse language expression",
        "properties.template.outputs.a",
    ),
    (
        "a parameter that is not allowed",
        _with(parameters={"size": {"type": "string", "allowedValues": ["S"], "defaultValue": "L"}}),
        "InvalidTemplate",
        "size",
        "properties.template.parameters.size",
    ),
    (
        "no value",
        _with(parameters={"size": {"type": "int"}}),
        "InvalidTemplate",
        "The value for the template parameter 'size'",
        "properties.template.parameters.size",
    ),
    (
        "a variable of nothing",
        _with(variables={"v": "[parameters('none')]"}, resources=[workspace("[variables('v')]")]),
        "InvalidTemplate",
        "The template parameter 'none' is not found",
        "properties.template.variables.v",
    ),
    (
        "a resource without a version",
        _with(resources=[{"type": "Microsoft.OperationalInsights/workspaces", "name": "a"}]),
        "InvalidTemplate",
        "apiVersion",
        "properties.template.resources[0]",
    ),
    (
        "a wrong number of name segments",
        _with(resources=[workspace("a/b")]),
        "InvalidTemplate",
        "segment",
        "properties.template.resources[0]",
    ),
    (
        "too many outputs",
        _with(outputs={f"o{number}": {"type": "int", "value": number} for number in range(65)}),
        "InvalidTemplate",
        "64",
        None,
    ),
    (
        "a version that is not there",
        _with(resources=[workspace("a", apiVersion="1999-01-01")]),
        "NoRegisteredProviderFound",
        "No registered resource provider found for location 'eastus' and API version '1999-01-01'",
        None,
    ),
    (
        "a place that is not there",
        _with(resources=[workspace("a", location="nowhere")]),
        "LocationNotAvailableForResourceType",
        "The provided location 'nowhere' is not available for resource type",
        None,
    ),
    (
        "what the provider refuses",
        _with(resources=[account("arm_vscode")]),
        "InvalidTemplateDeployment",
        "See inner errors for details",
        None,
    ),
    (
        "a nested template that is wrong",
        _with(resources=[_nested("in", _with(parameters={"size": {"type": "int"}}), "inner")]),
        "InvalidTemplate",
        "size",
        "properties.template.resources[0].properties.template.parameters.size",
    ),
]


@pytest.mark.parametrize(
    ("value", "code", "part", "path"), [case[1:] for case in _REFUSED], ids=[c[0] for c in _REFUSED]
)
def test_wrong_templates(writer: Arm, value: dict[str, Any], code: str, part: str, path: str | None) -> None:
    group = writer.group()
    for method, below in (("POST", "/validate"), ("PUT", "")):
        status, error = writer.error(method, f"{group}{_DEPLOYMENTS}/wrong{below}", deployment(value))
        assert (status, error["code"]) == (400, code), error
        assert part in error["message"], error
        if path is not None:
            assert error["additionalInfo"][0]["type"] == "TemplateViolation"
            info = error["additionalInfo"][0]["info"]
            assert info["path"].startswith(path), info
            assert (info["lineNumber"], info["linePosition"] > 0) == (1, True), info
    assert writer.error("GET", f"{group}{_DEPLOYMENTS}/wrong")[1]["code"] == "DeploymentNotFound"
    result = writer.request("POST", f"{group}{_DEPLOYMENTS}/wrong/whatIf", deployment(value))
    told = result.json() if result.status_code == 400 else writer.poll(result).json()
    assert told["error"]["code"] == code


def test_details_of_a_refused_preflight(writer: Arm) -> None:
    value = template([account("arm_vscode"), account("UPPER")])
    status, error = writer.error("PUT", f"{writer.group()}{_DEPLOYMENTS}/wrong", deployment(value))
    assert (status, error["code"], error["details"][0]["code"]) == (
        400,
        "InvalidTemplateDeployment",
        "PreflightValidationCheckFailed",
    )
    inner = error["details"][0]["details"]
    assert [(one["code"], one["target"]) for one in inner] == [
        ("AccountNameInvalid", "arm_vscode"),
        ("AccountNameInvalid", "UPPER"),
    ]


def test_a_loop_of_groups_from_a_subscription(writer: Arm) -> None:
    prefix = f"rg-{unique()}-"
    group = {
        "type": "Microsoft.Resources/resourceGroups",
        "apiVersion": "2025-04-01",
        "name": f"[concat('{prefix}', copyIndex())]",
        "location": "[deployment().location]",
        "copy": {"name": "groups", "count": 2},
    }
    inside = _nested("in", template([workspace("logs")]), "inner", resourceGroup=f"{prefix}1", dependsOn=["groups"])
    value = template([group, inside], SUBSCRIPTION_SCHEMA)
    scope = f"/subscriptions/{writer.subscription}"
    shown = writer.deploy(scope, deployment(value, location="westus"), f"d-{unique()}")
    assert shown["properties"]["provisioningState"] == "Succeeded", shown["properties"].get("error")
    assert [writer.get(f"{scope}/resourceGroups/{prefix}{number}")["location"] for number in (0, 1)] == ["westus"] * 2
    assert [one["name"] for one in writer.get(f"{scope}/resourceGroups/{prefix}1/resources")["value"]] == ["logs"]
    # A deployment to a subscription has no mode in which it deletes.
    path = f"{scope}{_DEPLOYMENTS}/d-{unique()}"
    assert writer.error("PUT", path, deployment(value, "Complete", location="westus"))[1]["code"] == "InvalidDeployment"

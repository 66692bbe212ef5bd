"""Nested deployments, and what a preview of a template shows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from infra.emulator.template import (
    Entry,
    NotSupported,
    ShortCircuited,
    Template,
    TemplateError,
    parse,
)
from tests.template_scope import (
    GROUP,
    RESOURCE_GROUP,
    STORAGE,
    SUBSCRIPTION,
    Resources,
    document,
    lay_out,
    scope,
    storage,
    symbolic,
)

OTHER_GROUP = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/other"


def nested(template: Any, inner: bool = True, **members: Any) -> dict[str, Any]:
    """The declaration of a nested deployment; `parameters` are its parameters, others its own members."""
    parameters = members.pop("parameters", {})
    evaluation = {"expressionEvaluationOptions": {"scope": "Inner"}} if inner else {}
    return {
        "type": "Microsoft.Resources/deployments",
        "apiVersion": "2025-04-01",
        "name": "inside",
        "properties": {"mode": "Incremental", **evaluation, "parameters": parameters, "template": template},
        **members,
    }


def deployment(template: Template) -> Entry:
    (found,) = (entry for entry in template.resources if entry.is_deployment)
    return found


INNER = document(
    parameters={"name": {"type": "string"}, "place": {"type": "string", "defaultValue": "[resourceGroup().location]"}},
    variables={"kind": "StorageV2"},
    resources=[
        storage("[parameters('name')]", location="[parameters('place')]", kind="[variables('kind')]"),
    ],
    outputs={
        "id": {"type": "string", "value": "[resourceId('Microsoft.Storage/storageAccounts', parameters('name'))]"},
        "deployment": {"type": "string", "value": "[deployment().name]"},
    },
)


def test_an_inner_template_has_its_own_parameters_variables_and_scope() -> None:
    outer = document(
        variables={"kind": "of the outer template", "name": "store"},
        resources=[nested(INNER, parameters={"name": {"value": "[concat(variables('name'), '1')]"}})],
    )
    template = deployment(lay_out(outer)).nested(Resources())
    (entry,) = template.resources
    assert entry.id == f"{STORAGE}/store1"
    assert entry.body(Resources()) == {"location": "westus", "kind": "StorageV2"}
    assert template.parameters == {
        "name": {"type": "String", "value": "store1"},
        "place": {"type": "String", "value": "westus"},
    }
    assert template.outputs(Resources()) == {
        "id": {"type": "String", "value": f"{STORAGE}/store1"},
        "deployment": {"type": "String", "value": "inside"},
    }


def test_an_outer_template_has_the_names_and_the_scope_of_the_enclosing_one() -> None:
    inside = document(
        parameters={"name": {"type": "string"}},
        variables={"kind": "of the nested template"},
        resources=[
            storage("[parameters('name')]", kind="[variables('kind')]", tags={"in": "[resourceGroup().name]"}),
            storage("[concat('more', copyIndex())]", copy={"name": "more", "count": 2}),
        ],
        outputs={"x": {"type": "string", "value": "[concat(variables('kind'), reference('store').x)]"}},
    )
    outer = document(
        parameters={"name": {"type": "string"}},
        variables={"kind": "StorageV2"},
        resources=[nested(inside, inner=False, resourceGroup="other")],
    )
    entry = deployment(lay_out(outer, name="store"))
    assert entry.id == f"{OTHER_GROUP}/providers/Microsoft.Resources/deployments/inside"
    template = entry.nested(Resources())
    names = [
        f"{OTHER_GROUP}/providers/Microsoft.Storage/storageAccounts/{name}" for name in ("store", "more0", "more1")
    ]
    assert [resource.id for resource in template.resources] == names
    assert template.resources[0].body(Resources()) == {"kind": "StorageV2", "tags": {"in": "exampleRG"}}
    assert template.outputs(Resources({names[0]: {"x": "!"}}))["x"]["value"] == "StorageV2!"


def test_an_outer_template_may_ask_for_resources_of_the_enclosing_one() -> None:
    inside = document(resources=[storage("inside", tags={"x": "[reference('outside').x]"})])
    outer = document(resources=[storage("outside"), nested(inside, inner=False)])
    entry = deployment(lay_out(outer))
    assert entry.depends_on == (f"{STORAGE}/outside",)
    (resource,) = entry.nested(Resources()).resources
    assert resource.body(Resources({f"{STORAGE}/outside": {"x": "y"}})) == {"tags": {"x": "y"}}


def test_names_of_an_inner_template_are_no_dependencies_of_the_enclosing_one() -> None:
    inside = symbolic({"same": storage("inside"), "app": storage("b", tags={"x": "[reference('same').x]"})})
    outer = symbolic({"same": storage("outside", dependsOn=["module"]), "module": nested(inside)})
    assert deployment(lay_out(outer)).depends_on == ()


def test_the_scope_of_a_nested_deployment() -> None:
    def target(**members: Any) -> Any:
        return deployment(lay_out(document(resources=[nested(INNER, **members)]))).nested_scope()

    assert target().resource_group == RESOURCE_GROUP
    assert target(resourceGroup="EXAMPLErg").resource_group == RESOURCE_GROUP
    assert target(resourceGroup="other").resource_group["id"] == OTHER_GROUP
    assert "location" not in target(resourceGroup="other").resource_group
    abroad = target(subscriptionId="S", resourceGroup="other")
    assert abroad.id == "/subscriptions/S/resourceGroups/other"
    assert target(subscriptionId="S").id == "/subscriptions/S"
    assert target(subscriptionId="S").kind == "subscription"


def test_a_caller_may_know_more_of_another_group() -> None:
    entry = deployment(
        lay_out(document(resources=[nested(INNER, resourceGroup="other", parameters={"name": {"value": "a"}})]))
    )
    with pytest.raises(TemplateError, match="'location' doesn't exist"):
        entry.nested(Resources())
    known = replace(entry.nested_scope(), resource_group={"id": OTHER_GROUP, "name": "other", "location": "eastus"})
    assert entry.nested(Resources(), known).parameters["place"]["value"] == "eastus"


def test_a_deployment_into_a_group_from_subscription_scope() -> None:
    outer = document(resources=[nested(INNER, resourceGroup="other", parameters={"name": {"value": "a"}})])
    entry = deployment(parse(outer, {}, scope("subscription")))
    assert entry.id == f"{OTHER_GROUP}/providers/Microsoft.Resources/deployments/inside"
    assert entry.nested_scope().kind == "resourceGroup"
    alone = deployment(parse(document(resources=[nested(document(), location="westus")]), {}, scope("subscription")))
    assert alone.id == f"/subscriptions/{SUBSCRIPTION}/providers/Microsoft.Resources/deployments/inside"
    assert alone.nested_scope().kind == "subscription"


def test_problems_of_a_nested_template_have_their_path() -> None:
    entry = deployment(lay_out(document(resources=[nested(INNER)])))
    with pytest.raises(TemplateError, match="'name' at line '0' and column '0' is not provided") as caught:
        entry.nested(Resources())
    assert caught.value.path == ("properties.template.resources[0].properties.template.parameters.name")


def test_what_a_nested_deployment_cannot_do() -> None:
    linked = nested({})
    linked["properties"]["templateLink"] = {"uri": "https://example.org/template.json"}
    del linked["properties"]["template"]
    with pytest.raises(NotSupported, match="linked templates and template specs are not supported"):
        deployment(lay_out(document(resources=[linked]))).nested(Resources())
    vault = {"name": {"reference": {"keyVault": {"id": "x"}, "secretName": "y"}}}
    with pytest.raises(NotSupported, match="Key Vault reference"):
        deployment(lay_out(document(resources=[nested(INNER, parameters=vault)]))).nested(Resources())
    (account,) = lay_out(document(resources=[storage()])).resources
    with pytest.raises(TemplateError, match="it is not a nested deployment"):
        account.nested(Resources())


def test_the_body_of_a_nested_deployment_keeps_its_template_as_it_is() -> None:
    entry = deployment(lay_out(document(resources=[nested(INNER, parameters={"name": {"value": "[toLower('A')]"}})])))
    body = entry.body(Resources())
    assert body["properties"]["template"] == INNER
    assert body["properties"]["parameters"] == {"name": {"value": "a"}}
    assert body["properties"]["mode"] == "Incremental"


SECRETS = {
    "given": {"type": "securestring"},
    "fixed": {"type": "securestring", "defaultValue": ""},
    "builtIn": {"type": "securestring", "defaultValue": "known to the template alone"},
    "new": {"type": "string", "defaultValue": "[newGuid()]"},
    "later": {"type": "string", "defaultValue": "[dateTimeAdd(utcNow('o'), 'PT1H')]"},
    "plain": {"type": "string", "defaultValue": "[toUpper('x')]"},
}
SECRET = "correct horse battery staple"


def preview(properties: Any, **sections: Any) -> Any:
    entries = lay_out(
        document(parameters=SECRETS, resources=[storage(properties=properties)], **sections), given=SECRET
    )
    return entries.resources[-1].preview()["properties"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("[parameters('given')]", "[parameters('given')]"),
        ("[parameters('GIVEN')]", "[parameters('given')]"),
        ("[variables('mixed').a]", "[parameters('given')]"),
        ("[variables('mixed').b]", "X"),
        ("[parameters('fixed')]", ""),
        ("[parameters('builtin')]", "[parameters('builtIn')]"),
        ("[parameters('plain')]", "X"),
        ("[parameters('later')]", "[dateTimeAdd(utcNow('o'), 'PT1H')]"),
        ("[parameters('new')]", "[newGuid()]"),
        ("[base64(parameters('given'))]", "[base64(parameters('given'))]"),
        (
            "[format('{0}/{1}', toLower('A'), parameters('given'))]",
            "[format('{0}/{1}', 'a', parameters('given'))]",
        ),
        (
            "[reference(resourceId('Microsoft.Storage/storageAccounts', toLower('A')), '2025-01-01').keys[add(0, 1)]]",
            f"[reference('{STORAGE}/a', '2025-01-01').keys[1]]",
        ),
        ("[listKeys('x', '2025-01-01').a['b c']]", "[listKeys('x', '2025-01-01').a['b c']]"),
        ("[if(equals(1, 1), 'yes', reference('x').y)]", "yes"),
        (
            "[if(reference('x', '1').on, toLower('A'), div(1, 0))]",
            "[if(reference('x', '1').on, 'a', div(1, 0))]",
        ),
        ("[coalesce(null(), reference('x', '1').a, toLower('B'))]", "[coalesce(reference('x', '1').a, 'b')]"),
        ("[and(true(), reference('x', '1').a)]", "[and(true(), reference('x', '1').a)]"),
        ("[and(false(), reference('x', '1').a)]", False),
        ("[createObject('k', reference('x', '1').a)]", {"k": "[reference('x', '1').a]"}),
        ("[createArray(1, parameters('given'))]", [1, "[parameters('given')]"]),
        ("[length(createArray(1, parameters('given')))]", 2),
        ("[first(createArray(parameters('given'), 1))]", "[parameters('given')]"),
        ("[concat(createArray(1), createArray(parameters('given')))]", [1, "[parameters('given')]"]),
        ("[union(variables('mixed'), createObject('c', 1))]", {"a": "[parameters('given')]", "b": "X", "c": 1}),
        ("[tryGet(variables('mixed'), 'a')]", "[parameters('given')]"),
        (
            "[tryGet(createObject('a', reference('x', '1')), 'a', 'x')]",
            "[tryGet(createObject('a', reference('x', '1')), 'a', 'x')]",
        ),
        (
            "[string(variables('mixed'))]",
            "[string(createObject('a', parameters('given'), 'b', 'X'))]",
        ),
        (
            "[map(createArray('a', parameters('given')), lambda('x', concat(lambdaVariables('x'), '!')))]",
            ["a!", "[concat(parameters('given'), '!')]"],
        ),
        (
            "[filter(createArray(parameters('given')), lambda('x', equals(lambdaVariables('x'), 'a')))]",
            "[filter(createArray(parameters('given')), lambda('x', equals(lambdaVariables('x'), 'a')))]",
        ),
        (
            "[toObject(reference('x', '1').list, lambda('x', lambdaVariables('x')))]",
            "[toObject(reference('x', '1').list, lambda('x', lambdaVariables('x')))]",
        ),
    ],
)
def test_a_preview_shows_what_is_known_and_the_expression_of_what_is_not(value: str, shown: Any) -> None:
    variables = {"mixed": {"a": "[parameters('given')]", "b": "[parameters('plain')]"}}
    assert preview({"value": value}, variables=variables) == {"value": shown}


def test_a_name_of_a_property_that_is_not_known_stays_an_expression() -> None:
    assert preview({"[reference('x', '1').id]": {}}) == {"[reference('x', '1').id]": {}}


def test_the_real_value_of_a_secret_is_in_the_body_alone() -> None:
    template = document(parameters=SECRETS, resources=[storage(properties={"key": "[parameters('given')]"})])
    laid_out = lay_out(template, given=SECRET)
    assert laid_out.resources[0].body(Resources()) == {"properties": {"key": SECRET}}
    assert SECRET not in str(laid_out.resources[0].preview())
    assert SECRET not in repr(laid_out)


def test_secrets_stay_hidden_on_their_way_into_nested_deployments() -> None:
    inside = document(
        parameters={"open": {"type": "string"}, "closed": {"type": "securestring"}},
        resources=[storage("inside", properties={"a": "[parameters('open')]", "b": "[parameters('closed')]"})],
    )
    parameters = {"open": {"value": "[parameters('given')]"}, "closed": {"value": "[parameters('plain')]"}}
    outer = document(parameters=SECRETS, resources=[nested(inside, parameters=parameters)])
    entry = deployment(lay_out(outer, given=SECRET))
    for resolver in (None, Resources()):
        (resource,) = entry.nested(resolver).resources
        assert resource.preview()["properties"] == {"a": "[parameters('given')]", "b": "[parameters('closed')]"}
        assert resource.body(Resources())["properties"] == {"a": SECRET, "b": "X"}


def test_a_preview_of_a_nested_deployment_goes_as_far_as_names_are_known() -> None:
    inside = document(
        parameters={"key": {"type": "string"}, "name": {"type": "string"}},
        resources=[storage("[parameters('name')]", tags={"key": "[parameters('key')]"})],
    )
    unknown = "[reference('x', '1').key]"
    parameters = {"name": {"value": "[toLower('A')]"}, "key": {"value": unknown}}
    entry = deployment(lay_out(document(resources=[nested(inside, parameters=parameters)])))
    template = entry.nested(None)
    assert [resource.id for resource in template.resources] == [f"{STORAGE}/a"]
    assert template.resources[0].preview() == {"tags": {"key": unknown}}
    assert "value" not in template.parameters["key"]
    swapped = {"name": {"value": unknown}, "key": {"value": "k"}}
    with pytest.raises(ShortCircuited, match="cannot be evaluated before") as caught:
        deployment(lay_out(document(resources=[nested(inside, parameters=swapped)]))).nested(None)
    assert caught.value.code == "NestedDeploymentShortCircuited"


def test_deployments_in_deployments() -> None:
    middle = document(
        parameters={"name": {"type": "string"}},
        resources=[nested(INNER, parameters={"name": {"value": "[concat(parameters('name'), 'b')]"}})],
    )
    outer = document(resources=[nested(middle, parameters={"name": {"value": "a"}})])
    innermost = deployment(deployment(lay_out(outer)).nested(None)).nested(None)
    assert [entry.id for entry in innermost.resources] == [f"{GROUP}/providers/Microsoft.Storage/storageAccounts/ab"]

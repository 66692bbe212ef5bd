"""Resources of templates: identity, loops, conditions, scopes, dependencies and their order, bodies, outputs."""

from __future__ import annotations

from typing import Any

import pytest

from infra.emulator.template import Entry, Template, TemplateError, order, parse
from tests.template_scope import GROUP, STORAGE, SUBSCRIPTION, Resources, document, lay_out, scope, storage, symbolic

APPS = f"{GROUP}/providers/Microsoft.App/containerApps"


def app(name: str = "app", **members: Any) -> dict[str, Any]:
    return {"type": "Microsoft.App/containerApps", "apiVersion": "2025-07-01", "name": name, **members}


def refused(template: Any, **parameters: Any) -> TemplateError:
    with pytest.raises(TemplateError) as caught:
        lay_out(template, **parameters)
    return caught.value


def by_name(template: Template) -> dict[str, Entry]:
    return {entry.name: entry for entry in template.resources}


def batches(template: Template) -> list[list[str]]:
    return [[entry.name for entry in batch] for batch in order(template)]


def test_a_resource_in_both_forms_is_the_same_but_for_its_symbol() -> None:
    declaration = storage("[concat('st', uniqueString(resourceGroup().id))]", location="[resourceGroup().location]")
    (classic,) = lay_out(document(resources=[declaration])).resources
    (named,) = lay_out(symbolic({"account": declaration})).resources
    for entry in (classic, named):
        assert (entry.id, entry.type) == (f"{STORAGE}/stsr5ke2x74s24e", "Microsoft.Storage/storageAccounts")
        assert (entry.name, entry.api_version) == ("stsr5ke2x74s24e", "2025-01-01")
        assert entry.body(Resources()) == {"location": "westus"}
        assert entry.condition
        assert not entry.existing
        assert entry.copy is None
    assert (classic.symbol, named.symbol) == (None, "account")


def test_body_has_everything_but_the_words_of_the_template_language() -> None:
    declaration = storage(
        comments="about",
        metadata={"description": "[not an expression"},
        condition=True,
        dependsOn=[],
        location="westus",
        tags={"[concat('a', 'b')]": "[[literal]", "[[c]": 1},
        sku={"name": "Standard_LRS"},
        kind="StorageV2",
        identity={"type": "None"},
        zones=["1"],
        properties={"on": True, "none": None, "list": [1, "[add(1, 1)]"]},
    )
    (entry,) = lay_out(document(resources=[declaration])).resources
    assert entry.body(Resources()) == {
        "location": "westus",
        "tags": {"ab": "[literal]", "[c]": 1},
        "sku": {"name": "Standard_LRS"},
        "kind": "StorageV2",
        "identity": {"type": "None"},
        "zones": ["1"],
        "properties": {"on": True, "none": None, "list": [1, 2]},
    }


def test_nested_children_get_the_type_and_name_of_their_parents() -> None:
    child = {"type": "fileServices", "apiVersion": "2025-01-01", "name": "default"}
    grandchild = {"type": "shares", "apiVersion": "2025-01-01", "name": "models", "properties": {"shareQuota": 5}}
    parent = storage(resources=[{**child, "dependsOn": ["store"], "resources": [grandchild]}])
    entries = by_name(lay_out(document(resources=[parent])))
    assert list(entries) == ["store", "store/default", "store/default/models"]
    share = entries["store/default/models"]
    assert share.type == "Microsoft.Storage/storageAccounts/fileServices/shares"
    assert share.id == f"{STORAGE}/store/fileServices/default/shares/models"
    assert share.body(Resources()) == {"properties": {"shareQuota": 5}}
    assert entries["store/default"].depends_on == (f"{STORAGE}/store",)
    assert share.depends_on == (), "a child does not depend on its parent unless it says so"


def test_children_in_the_symbolic_form_have_symbols() -> None:
    child = {"type": "fileServices", "apiVersion": "2025-01-01", "name": "default"}
    template = lay_out(symbolic({"account": storage(resources={"files": child}), "app": app(dependsOn=["files"])}))
    assert [entry.symbol for entry in template.resources] == ["account", "files", "app"]
    assert template.resources[2].depends_on == (f"{STORAGE}/store/fileServices/default",)


def test_loops() -> None:
    loop = {"name": "stores", "count": "[length(parameters('names'))]"}
    declaration = storage(
        "[concat(parameters('names')[copyIndex()], copyIndex('stores', 10))]",
        copy=loop,
        properties={
            "index": "[copyIndex()]",
            "copy": [
                {"name": "pairs", "count": 2, "input": "[format('{0}{1}', copyIndex(), copyIndex('pairs', 1))]"},
                {"name": "none", "count": 0, "input": "[copyIndex('none')]"},
            ],
        },
    )
    template = document(parameters={"names": {"type": "array"}}, resources=[declaration])
    entries = lay_out(template, names=["a", "b"]).resources
    assert [entry.name for entry in entries] == ["a10", "b11"]
    assert entries[1].body(Resources())["properties"] == {"index": 1, "pairs": ["11", "12"], "none": []}
    assert entries[1].copy is not None
    assert (entries[1].copy.name, entries[1].copy.index, entries[1].copy.count) == ("stores", 1, 2)
    assert entries[1].copy.mode == "parallel"
    assert lay_out(template, names=[]).resources == ()


def test_a_loop_of_properties_within_another() -> None:
    inner = {"name": "cells", "count": 2, "input": "[add(mul(10, copyIndex('rows')), copyIndex('cells'))]"}
    properties = {"copy": [{"name": "rows", "count": 2, "input": {"copy": [inner]}}]}
    (entry,) = lay_out(document(resources=[storage(properties=properties)])).resources
    assert entry.body(Resources())["properties"] == {"rows": [{"cells": [0, 1]}, {"cells": [10, 11]}]}


@pytest.mark.parametrize("dependency", ["apps", "[resourceId('Microsoft.App/containerApps', 'app2')]"])
def test_dependencies_on_a_loop_and_on_one_of_its_resources(dependency: str) -> None:
    loop = app("[format('app{0}', copyIndex())]", copy={"name": "apps", "count": 3})
    entries = by_name(lay_out(document(resources=[loop, storage(dependsOn=[dependency])])))
    instances = ["app0", "app1", "app2"] if dependency == "apps" else ["app2"]
    assert entries["store"].depends_on == tuple(f"{APPS}/{name}" for name in instances)


def test_symbols_of_loops() -> None:
    loop = app("[format('app{0}', copyIndex())]", copy={"name": "apps", "count": 3})
    resources = {
        "many": loop,
        "none": app(copy={"name": "none", "count": 0}),
        "all": storage("all", dependsOn=["many", "none"]),
        "one": storage("one", dependsOn=["[format('many[{0}]', 1)]"]),
    }
    entries = by_name(lay_out(symbolic(resources)))
    assert [entries[name].symbol for name in ("app0", "app2")] == ["many[0]", "many[2]"]
    assert entries["all"].depends_on == tuple(f"{APPS}/app{index}" for index in range(3))
    assert entries["one"].depends_on == (f"{APPS}/app1",)


def test_a_serial_loop_goes_in_batches() -> None:
    copy = {"name": "apps", "count": 5, "mode": "Serial", "batchSize": 2}
    template = lay_out(document(resources=[app("[format('app{0}', copyIndex())]", copy=copy), storage()]))
    assert batches(template) == [["app0", "app1", "store"], ["app2", "app3"], ["app4"]]
    assert [entry.copy.batch for entry in template.resources if entry.copy] == [0, 0, 1, 1, 2]
    assert all(entry.depends_on == () for entry in template.resources)


def test_conditions() -> None:
    resources = {
        "on": storage("on", condition="[equals(parameters('size'), 1)]"),
        "off": storage("off", condition="[not(equals(parameters('size'), 1))]", properties={"x": "[nope()]"}),
        "app": app(dependsOn=["on", "off"]),
    }
    template = lay_out(symbolic(resources, parameters={"size": {"type": "int"}}), size=1)
    assert {entry.name: entry.condition for entry in template.resources} == {"on": True, "off": False, "app": True}
    assert template.resources[2].depends_on == (f"{STORAGE}/on",)


def test_what_is_not_deployed_need_not_have_a_name() -> None:
    resources = {
        "vault": storage(
            "[last(split(parameters('id'), '/'))]", existing=True, condition="[not(empty(parameters('id')))]"
        ),
        "app": app(dependsOn=["vault"]),
    }
    parameters = {"id": {"type": "string", "nullable": True}}
    template = lay_out(symbolic(resources, parameters=parameters))
    assert [entry.name for entry in template.resources] == ["app"]
    assert [entry.name for entry in lay_out(symbolic(resources, parameters=parameters), id="a/b").resources] == [
        "b",
        "app",
    ]


def test_two_declarations_of_one_resource_are_fine_when_one_is_not_deployed() -> None:
    condition = "[parameters('new')]"
    resources = [storage(condition=condition, kind="A"), storage(condition=f"[not({condition[1:-1]})]", kind="B")]
    template = document(parameters={"new": {"type": "bool"}}, resources=[*resources, app(dependsOn=["store"])])
    for new in (True, False):
        first, second, last = lay_out(template, new=new).resources
        assert (first.condition, second.condition) == (new, not new)
        assert last.depends_on == (f"{STORAGE}/store",)
    assert "is defined multiple times in a template" in refused(document(resources=[storage(), storage()])).message


def test_existing_resources_are_named_and_not_deployed() -> None:
    resources = {
        "old": {**storage("old"), "existing": True, "dependsOn": ["app"]},
        "there": {**storage("there"), "existing": True, "subscriptionId": "S", "resourceGroup": "G"},
        "app": app(),
        "new": storage("new", dependsOn=["old"], properties={"key": "[listKeys('old', '2025-01-01').keys[0].value]"}),
    }
    template = lay_out(symbolic(resources))
    entries = by_name(template)
    assert entries["there"].id == (
        "/subscriptions/S/resourceGroups/G/providers/Microsoft.Storage/storageAccounts/there"
    )
    assert entries["old"].existing
    assert entries["new"].depends_on == ()
    assert batches(template) == [["there", "app"], ["old"], ["new"]]
    assert entries["new"].body(Resources()) == {"properties": {"key": "key of old"}}


@pytest.mark.parametrize(
    ("extended", "expected"),
    [
        ("[resourceId('Microsoft.Storage/storageAccounts', 'store')]", f"{STORAGE}/store"),
        ("[format('Microsoft.Storage/storageAccounts/{0}', 'store')]", f"{STORAGE}/store"),
        ("[subscription().id]", f"/subscriptions/{SUBSCRIPTION}"),
        ("/", ""),
        ("Microsoft.Management/managementGroups/mg", "/providers/Microsoft.Management/managementGroups/mg"),
    ],
)
def test_extension_resources(extended: str, expected: str) -> None:
    lock = {"type": "Microsoft.Authorization/locks", "apiVersion": "2020-05-01", "name": "l", "scope": extended}
    (entry,) = lay_out(document(resources=[lock])).resources
    assert entry.id == f"{expected}/providers/Microsoft.Authorization/locks/l"


def test_at_subscription_scope_a_resource_group_is_a_resource() -> None:
    group = {
        "type": "Microsoft.Resources/resourceGroups",
        "apiVersion": "2021-04-01",
        "name": "new",
        "location": "[deployment().location]",
    }
    role = {
        "type": "Microsoft.Authorization/roleDefinitions",
        "apiVersion": "2022-04-01",
        "name": "r",
        "dependsOn": ["new"],
    }
    first, second = parse(document(resources=[group, role]), {}, scope("subscription")).resources
    assert first.id == f"/subscriptions/{SUBSCRIPTION}/resourceGroups/new"
    assert first.body(Resources()) == {"location": "westus"}
    assert second.id == f"/subscriptions/{SUBSCRIPTION}/providers/Microsoft.Authorization/roleDefinitions/r"
    assert second.depends_on == (first.id,)


@pytest.mark.parametrize(
    "dependency",
    [
        "store",
        "STORE",
        "Microsoft.Storage/storageAccounts/store",
        "[concat('Microsoft.Storage/storageAccounts/', 'store')]",
        "[resourceId('Microsoft.Storage/storageAccounts', 'store')]",
    ],
)
def test_ways_to_name_a_dependency(dependency: str) -> None:
    entries = by_name(lay_out(document(resources=[app(dependsOn=[dependency, dependency]), storage()])))
    assert entries["app"].depends_on == (f"{STORAGE}/store",)
    assert batches(lay_out(document(resources=[app(dependsOn=[dependency]), storage()]))) == [["store"], ["app"]]


def test_references_by_name_are_dependencies_too() -> None:
    resources = [
        app("by-reference", properties={"a": "[if(true(), reference('store').x, 1)]"}),
        app("by-list", properties={"[concat('k', listKeys('store', '2025-01-01').keys[0].value)]": 1}),
        app("by-id", properties={"a": "[reference(resourceId('Microsoft.Storage/storageAccounts', 'store')).x]"}),
        storage(),
    ]
    entries = by_name(lay_out(document(resources=resources)))
    assert entries["by-reference"].depends_on == entries["by-list"].depends_on == (f"{STORAGE}/store",)
    assert entries["by-id"].depends_on == ()


def test_reference_asks_for_the_resource_that_is_meant() -> None:
    answers = {f"{STORAGE}/store": {"x": 1}, f"{STORAGE}/other": {"x": 2}}
    properties = {
        "symbol": "[reference('account').x]",
        "name": "[reference('store').x]",
        "id": "[reference(resourceId('Microsoft.Storage/storageAccounts', 'store')).x]",
        "full": "[reference('account', '2020-01-01', 'Full').properties.x]",
        "fullOnly": "[reference('account', 'full').location]",
        "outside": "[reference('Microsoft.Storage/storageAccounts/other', '2021-01-01').x]",
        "list": "[listAnything('account', '2022-01-01', createObject('days', 1)).keys[0].value]",
        "all": "[map(references('many'), lambda('one', lambdaVariables('one').x))]",
    }
    resources = {
        "account": storage(),
        "many": storage("[createArray('store2', 'store3')[copyIndex()]]", copy={"name": "m", "count": 2}),
        "app": app(properties=properties),
    }
    resolver = Resources({**answers, f"{STORAGE}/store2": {"x": 3}, f"{STORAGE}/store3": {"x": 4}})
    body = by_name(lay_out(symbolic(resources)))["app"].body(resolver)
    assert body["properties"] == {
        "symbol": 1,
        "name": 1,
        "id": 1,
        "full": 1,
        "fullOnly": "westus",
        "outside": 2,
        "list": "key of store",
        "all": [3, 4],
    }
    assert resolver.asked == [
        ("reference", f"{STORAGE}/store", "2025-01-01", False),
        ("reference", f"{STORAGE}/store", "2025-01-01", False),
        ("reference", f"{STORAGE}/store", "2025-01-01", False),
        ("reference", f"{STORAGE}/store", "2020-01-01", True),
        ("reference", f"{STORAGE}/store", "2025-01-01", True),
        ("reference", f"{STORAGE}/other", "2021-01-01", False),
        ("listAnything", f"{STORAGE}/store", "2022-01-01", {"days": 1}),
        ("reference", f"{STORAGE}/store2", "2025-01-01", False),
        ("reference", f"{STORAGE}/store3", "2025-01-01", False),
    ]


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("[reference('missing')]", "could not find template resource or resource copy with this name"),
        ("[reference('/subscriptions/s/resourceGroups/g/providers/A.B/c/d')]", "requires an API version"),
        ("[reference('store', '2025-01-01', 'half')]", "the only allowed value is 'Full'"),
        ("[reference('store').nope]", "The language expression property 'nope' doesn't exist"),
        ("[reference('many')]", "on the loop 'many' as a whole"),
    ],
)
def test_a_body_that_cannot_be_evaluated_says_which_resource_and_why(expression: str, message: str) -> None:
    many = storage("[format('many{0}', copyIndex())]", copy={"name": "many", "count": 2})
    template = document(resources=[storage(), many, app(properties={"x": expression})])
    entry = by_name(lay_out(template))["app"]
    with pytest.raises(TemplateError) as caught:
        entry.body(Resources({f"{STORAGE}/store": {}}))
    assert caught.value.message.startswith(
        f"Unable to process template language expressions for resource '{APPS}/app' at line '0' and column '0'. '"
    )
    assert message in caught.value.message
    assert caught.value.path == "properties.template.resources[2]"


def test_errors_of_the_resolver_reach_the_caller() -> None:
    (entry,) = lay_out(document(resources=[storage(properties={"x": "[reference('/a', '1').x]"})])).resources
    with pytest.raises(KeyError, match="/a"):
        entry.body(Resources())


def test_a_cycle_is_named() -> None:
    resources = {
        "a": storage("a", dependsOn=["c"]),
        "b": storage("b", properties={"x": "[reference('a').x]"}),
        "c": app("c", dependsOn=["b"]),
        "d": app("d", dependsOn=["a"]),
    }
    error = refused(symbolic(resources))
    assert error.code == "InvalidTemplate"
    assert error.message == (
        f"Deployment template validation failed: 'Circular dependency detected on resource: '{STORAGE}/a'. The cycle "
        "is Microsoft.Storage/storageAccounts/a -> Microsoft.App/containerApps/c -> "
        "Microsoft.Storage/storageAccounts/b -> Microsoft.Storage/storageAccounts/a. "
        "Please see https://aka.ms/arm-syntax-resources for usage details.'."
    )


def test_two_problems_in_one_template_are_both_told() -> None:
    resources = [
        storage(dependsOn=["missing"]),
        storage("a/b"),
        {"type": "Microsoft.App/jobs", "name": "no version"},
        storage("third", properties={"x": "[parameters('nope')]"}),
    ]
    error = refused(document(resources=resources))
    assert [detail.message.split("'")[1] for detail in error.details] == [
        "The template resource ",
        "The template resource ",
        "The resource ",
    ]
    assert "incorrect segment lengths" in error.details[0].message
    assert "the property 'apiVersion' is required" in error.details[1].message
    assert "The resource 'missing' is not defined in the template." in error.details[2].message
    assert [detail.path for detail in error.details] == [
        "properties.template.resources[1]",
        "properties.template.resources[2]",
        "properties.template.resources[0].dependsOn",
    ]
    bodies = refused(document(resources=[storage("a", tags={"x": "[nope()]"}), storage("b", tags={"x": "[a.b()]"})]))
    assert len(bodies.details) == 2, "what is wrong in bodies is known before anything is deployed"


@pytest.mark.parametrize(
    ("resource", "message"),
    [
        (5, "a resource must be an object"),
        (storage(type="[concat('a', 'b')]"), "The type property cannot be an expression"),
        (storage("[reference('x').name]"), "'reference' is not expected at this location"),
        (storage("[null()]"), "The property 'name' must be a string that is not empty"),
        (storage(condition="yes"), "The condition must be a boolean, and is of type 'String'"),
        (storage(condition="[reference('x').y]"), "'reference' is not expected at this location"),
        (storage(copy={"name": "l", "count": "[reference('x').n]"}), "'reference' is not expected at this location"),
        (storage(copy={"name": "l", "count": -1}), "must be an integer from 0 to 800"),
        (storage(copy={"name": "l", "count": 801}), "must be an integer from 0 to 800"),
        (storage(copy={"name": "l", "count": 1, "mode": "fast"}), "The copy mode 'fast' is not valid"),
        (storage(copy={"name": "l", "count": 1, "mode": "serial", "batchSize": 0}), "batch size must be an integer"),
        (storage(copy={"count": 1}), "members 'name' and 'count'"),
        (storage(resources=[storage("c", copy={"name": "l", "count": 1})]), "cannot have a copy loop"),
        (storage(resources=3), "'resources' must be an array or an object"),
        (storage(dependsOn="store"), "'dependsOn' must be an array"),
        (storage(dependsOn=[1]), "The items of 'dependsOn' must be strings"),
        (storage(properties={"x": "[copyIndex()]"}), "'copyIndex' is not expected at this location"),
        (storage(properties={"copy": [{"name": "x"}]}), "must have the members 'name', 'count' and 'input'"),
        (storage(properties={"[createArray()]": 1}), "The name of a property"),
        (storage(type="Storage"), "incorrect segment lengths"),
    ],
)
def test_resources_that_are_refused(resource: Any, message: str) -> None:
    assert message in refused(document(resources=[resource])).message


def test_a_name_that_several_types_have_is_no_dependency() -> None:
    error = refused(document(resources=[storage("same"), app("same"), app("third", dependsOn=["same"])]))
    assert "The name 'same' is that of several resources of the template" in error.message


def test_outputs() -> None:
    outputs = {
        "text": {"type": "string", "value": "[concat('a', 'b')]"},
        "live": {"type": "string", "value": "[reference('store').primaryEndpoints.file]"},
        "absent": {"type": "string", "nullable": True, "value": "[null()]"},
        "left_out": {"type": "string", "condition": "[false()]", "value": "[reference('missing').x]"},
        "many": {"type": "array", "copy": {"count": 2, "input": {"index": "[copyIndex()]"}}},
        "secret": {"type": "securestring", "value": "[listKeys('store', '2025-01-01').keys[0].value]"},
    }
    template = lay_out(document(resources=[storage()], outputs=outputs))
    resolver = Resources({f"{STORAGE}/store": {"primaryEndpoints": {"FILE": "https://store.example/"}}})
    public = {
        "text": {"type": "String", "value": "ab"},
        "live": {"type": "String", "value": "https://store.example/"},
        "absent": {"type": "String"},
        "many": {"type": "Array", "value": [{"index": 0}, {"index": 1}]},
        "secret": {"type": "SecureString"},
    }
    assert template.outputs(resolver) == public
    assert template.outputs(resolver, with_secrets=True)["secret"]["value"] == "key of store"


def test_every_output_that_fails_is_named() -> None:
    outputs = {
        "missing": {"type": "string", "value": "[reference('store').nope]"},
        "wrong": {"type": "int", "value": "seven"},
        "null": {"type": "string", "value": "[null()]"},
        "fine": {"type": "string", "value": "x"},
    }
    template = lay_out(document(resources=[storage()], outputs=outputs))
    with pytest.raises(TemplateError) as caught:
        template.outputs(Resources({f"{STORAGE}/store": {"id": "x"}}))
    body = caught.value.body()
    assert body["code"] == "DeploymentOutputEvaluationFailed"
    assert body["message"].startswith("Unable to evaluate template outputs: 'missing, wrong, null'.")
    assert [detail["target"] for detail in body["details"]] == ["missing", "wrong", "null"]
    assert body["details"][0]["message"] == (
        "The template output 'missing' is not valid: The language expression property 'nope' doesn't exist, available "
        "properties are 'id'.."
    )
    assert "Expected a value of type 'Integer'" in body["details"][1]["message"]


def test_functions_of_the_template() -> None:
    functions = [
        {
            "namespace": "contoso",
            "members": {
                "name": {
                    "parameters": [{"name": "prefix", "type": "string"}, {"name": "number", "type": "int"}],
                    "output": {
                        "type": "string",
                        "value": "[toLower(concat(parameters('prefix'), parameters('number')))]",
                    },
                }
            },
        }
    ]
    template = document(functions=functions, resources=[storage("[contoso.name('ST', 1)]")])
    assert [entry.name for entry in lay_out(template).resources] == ["st1"]
    for call, message in (
        ("contoso.name('a')", "requires '2' argument(s)"),
        ("contoso.name(1, 1)", "of type 'string'"),
        ("contoso.name('a', true())", "of type 'int'"),
        ("contoso.other('a')", "'contoso.other' is not valid"),
    ):
        assert message in refused(document(functions=functions, variables={"v": f"[{call}]"})).message

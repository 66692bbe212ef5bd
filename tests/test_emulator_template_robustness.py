"""Whatever stands in a template, the answer is a template or an error that can be told, never a crash."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.emulator.template import TemplateError, parse
from tests.template_scope import document, scope, storage

RECORDED: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "template-recordings.json").read_text())
OWN = document(
    languageVersion="2.0",
    definitions={"t": {"type": "object", "properties": {"a": {"type": "int"}}, "additionalProperties": False}},
    functions=[
        {
            "namespace": "n",
            "members": {
                "up": {
                    "parameters": [{"name": "x", "type": "string"}],
                    "output": {"type": "string", "value": "[toUpper(parameters('x'))]"},
                }
            },
        }
    ],
    parameters={
        "p": {"$ref": "#/definitions/t", "defaultValue": {"a": 1}},
        "s": {"type": "securestring", "defaultValue": "[newGuid()]"},
        "l": {"type": "array", "items": {"type": "string"}, "defaultValue": ["a", "b"], "minLength": 1},
    },
    variables={
        "v": "[map(parameters('l'), lambda('i', n.up(lambdaVariables('i'))))]",
        "copy": [{"name": "w", "count": "[length(parameters('l'))]", "input": "[parameters('l')[copyIndex('w')]]"}],
    },
    resources={
        "a": storage(
            "[format('n{0}', copyIndex())]",
            copy={"name": "a", "count": 2, "mode": "serial", "batchSize": 1},
            condition="[not(empty(variables('v')))]",
            dependsOn=["b"],
            properties={"copy": [{"name": "z", "count": 2, "input": "[copyIndex('z')]"}], "k": "[parameters('s')]"},
            resources=[{"type": "c", "apiVersion": "1", "name": "d"}],
        ),
        "b": storage("b", tags={"[parameters('l')[0]]": 1}),
        "e": storage("x", existing=True, scope="[subscription().id]"),
        "n": {
            "type": "Microsoft.Resources/deployments",
            "apiVersion": "2025-04-01",
            "name": "n",
            "resourceGroup": "g",
            "properties": {
                "mode": "Incremental",
                "expressionEvaluationOptions": {"scope": "inner"},
                "parameters": {"q": {"value": "[reference('b').x]"}},
                "template": document(
                    parameters={"q": {"type": "string"}},
                    resources=[storage("i", tags={"q": "[parameters('q')]"})],
                    outputs={"o": {"type": "string", "value": "[parameters('q')]"}},
                ),
            },
        },
    },
    outputs={
        "o": {"type": "array", "copy": {"count": 2, "input": "[copyIndex()]"}},
        "q": {"condition": "[true()]", "type": "string", "value": "[reference('b').x]"},
    },
)
STRANGE: list[Any] = [
    None,
    True,
    0,
    -1,
    10**30,
    1.5,
    "",
    "x",
    "[",
    "[]",
    "[[x]",
    "[1]",
    "[null()]",
    "[createArray(1)]",
    "[createObject('a', 1)]",
    "[parameters('s')]",
    "[parameters(1)]",
    "[reference('b')]",
    "[reference('b').x]",
    "[utcNow()]",
    "[copyIndex()]",
    "[a.b()]",
    "[format('{0', 1)]",
    [],
    {},
    [None],
    ["x"],
    [{}],
    {"a": 1},
    {"copy": []},
    {"copy": [{"name": "x"}]},
    {"copy": [{"name": "x", "count": 2, "input": "[copyIndex('x')]"}]},
    {"$ref": "#/definitions/t"},
    {"$ref": 5},
    {"value": None},
]


class Anything:
    """Every resource exists and has the same properties."""

    def reference(self, resource_id: str, api_version: str | None, full: bool) -> Any:
        return {"x": "y", "outputs": {}}

    def list_action(self, name: str, resource_id: str, api_version: str, body: Any) -> Any:
        return {"keys": [{"value": "k"}]}


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    if isinstance(value, (dict, list)):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from paths(item, (*path, key))


def whole(template: Any, parameters: Any) -> None:
    """Everything that a deployment does with a template. Raises TemplateError."""
    kind = "subscription" if "subscriptionDeploymentTemplate" in str(template.get("$schema")) else "resourceGroup"
    laid_out = parse(template, parameters, scope(kind))
    json.dumps(dict(laid_out.parameters))
    for entry in laid_out.resources:
        if not entry.condition or entry.existing:
            continue
        json.dumps([entry.preview(), entry.body(Anything())])
        if entry.is_deployment:
            for resolver in (None, Anything()):
                inside = entry.nested(resolver)
                json.dumps([resource.preview() for resource in inside.resources])
            json.dumps(inside.outputs(Anything()))
    json.dumps(laid_out.outputs(Anything()))


def test_the_templates_to_be_changed_are_good_as_they_are() -> None:
    whole(OWN, {})
    with pytest.raises(TemplateError, match="outputs: 'AZURE_STORAGE_ACCOUNT_ID, AZURE_STORAGE_ACCOUNT_NAME'"):
        # They ask for outputs of the nested deployment, which the resources of this test do not have.
        whole(RECORDED["template"], RECORDED["parameters"])


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_template_with_something_strange_in_it_is_laid_out_or_refused(data: st.DataObject) -> None:
    template, parameters = data.draw(st.sampled_from([(OWN, {}), (RECORDED["template"], RECORDED["parameters"])]))
    template = copy.deepcopy(template)
    for _ in range(data.draw(st.integers(1, 2))):
        *way, last = data.draw(st.sampled_from(list(paths(template))))
        place = template
        for step in way:
            place = place[step]
        place[last] = copy.deepcopy(data.draw(st.sampled_from(STRANGE)))
    try:
        whole(template, parameters)
    except TemplateError as error:
        assert error.code
        assert json.dumps(error.body())


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from(["p", "S", "l", "other"]), st.sampled_from(STRANGE), max_size=4))
def test_strange_parameters_are_taken_or_refused(parameters: dict[str, Any]) -> None:
    try:
        whole(OWN, parameters)
        whole(OWN, {name: {"value": value} for name, value in parameters.items()})
    except TemplateError as error:
        assert json.dumps(error.body())

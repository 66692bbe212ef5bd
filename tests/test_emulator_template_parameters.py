"""Parameters of templates: what is declared against what is given, in the resource manager's words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from infra.emulator.template import NotSupported, TemplateError, parse, read
from tests.template_scope import document, lay_out, scope, storage

TYPES = {
    "text": {"type": "string", "defaultValue": "[concat('a', parameters('number'))]"},
    "number": {"type": "Int", "defaultValue": 7},
    "flag": {"type": "bool", "defaultValue": "[equals(parameters('number'), 7)]"},
    "list": {"type": "array", "defaultValue": ["[parameters('text')]", {"k": "[[literal]"}]},
    "object": {"type": "object", "defaultValue": {}},
    "secret": {"type": "securestring", "defaultValue": "[newGuid()]"},
    "secrets": {"type": "secureObject", "defaultValue": {"a": 1}},
    "absent": {"type": "string", "nullable": True},
}


def refused(template: Any, **parameters: Any) -> TemplateError:
    with pytest.raises(TemplateError) as caught:
        lay_out(template, **parameters)
    return caught.value


def declared(**definition: Any) -> dict[str, Any]:
    return document(parameters={"p": definition})


def test_parameters_are_reported_with_their_types_and_defaults_but_without_secrets() -> None:
    template = lay_out(document(parameters=TYPES))
    assert template.parameters == {
        "text": {"type": "String", "value": "a7"},
        "number": {"type": "Int", "value": 7},
        "flag": {"type": "Bool", "value": True},
        "list": {"type": "Array", "value": ["a7", {"k": "[literal]"}]},
        "object": {"type": "Object", "value": {}},
        "secret": {"type": "SecureString"},
        "secrets": {"type": "SecureObject"},
        "absent": {"type": "String", "value": None},
    }


def test_names_ignore_case_and_are_reported_as_declared() -> None:
    template = lay_out(document(parameters=TYPES), NUMBER=8, Text="[not an expression]")
    assert template.parameters["number"]["value"] == 8
    assert template.parameters["text"]["value"] == "[not an expression]"


def test_null_means_the_default() -> None:
    parameters = {"text": {"value": None, "reference": None}, "number": {}}
    assert parse(document(parameters=TYPES), parameters, scope()).parameters["text"]["value"] == "a7"


def test_every_problem_is_told_at_once_and_the_first_one_leads() -> None:
    definitions = {
        "needed": {"type": "string"},
        "short": {"type": "string", "minLength": 3},
        "size": {"type": "int", "maxValue": 10},
    }
    error = refused(document(parameters=definitions), short="ab", size="11", unknown=1, other=None)
    assert error.code == "InvalidTemplate"
    assert [detail.message for detail in error.details] == [
        "Deployment template validation failed: 'The template parameters 'unknown, other' in the parameters file are "
        "not valid; they are not present in the original template and can therefore not be provided at deployment "
        "time. The only supported parameters for this template are 'needed, short, size'. Please see "
        "https://aka.ms/arm-pass-parameter-values for usage details.'.",
        "Deployment template validation failed: 'The value for the template parameter 'needed' at line '0' and column "
        "'0' is not provided. Please see https://aka.ms/arm-create-parameter-file for usage details.'.",
        "Deployment template validation failed: 'The provided value for the template parameter 'short' at line '0' and "
        "column '0' is not valid. Length of the value should be greater than or equal to '3'. Please see "
        "https://aka.ms/arm-syntax-parameters for usage details.'.",
        "Deployment template validation failed: 'The provided value for the template parameter 'size' at line '0' and "
        "column '0' is not valid. Expected a value of type 'Integer', but received a value of type 'String'. Please "
        "see https://aka.ms/arm-create-parameter-file for usage details.'.",
    ]
    assert error.message == error.details[0].message
    assert [detail.path for detail in error.details][1:] == [
        f"properties.template.parameters.{name}" for name in ("needed", "short", "size")
    ]


def test_an_error_says_line_and_column_of_the_text_that_was_sent() -> None:
    text = json.dumps({"properties": {"template": declared(type="string"), "parameters": {}}}, indent=2)
    body, positions = read(text)
    with pytest.raises(TemplateError) as caught:
        parse(body["properties"]["template"], {}, scope(), positions=positions)
    line = next(number for number, line in enumerate(text.splitlines(), 1) if '"p": {' in line)
    column = len('        "p": {')
    assert caught.value.body() == {
        "code": "InvalidTemplate",
        "message": "Deployment template validation failed: 'The value for the template parameter 'p' at line "
        f"'{line}' and column '{column}' is not provided. Please see https://aka.ms/arm-create-parameter-file for "
        "usage details.'.",
        "additionalInfo": [
            {
                "type": "TemplateViolation",
                "info": {"lineNumber": line, "linePosition": column, "path": "properties.template.parameters.p"},
            }
        ],
    }


@pytest.mark.parametrize(
    ("definition", "value", "message"),
    [
        ({"type": "int"}, True, "Expected a value of type 'Integer', but received a value of type 'Boolean'"),
        ({"type": "int"}, 1.5, "received a value of type 'Float'"),
        ({"type": "bool"}, "true", "Expected a value of type 'Boolean', but received a value of type 'String'"),
        ({"type": "object"}, [], "Expected a value of type 'Object', but received a value of type 'Array'"),
        ({"type": "string"}, 1, "Expected a value of type 'String, Uri', but received a value of type 'Integer'"),
        ({"type": "string", "maxLength": 2}, "😀😀", "less than or equal to '2'"),
        ({"type": "array", "minLength": 1}, [], "greater than or equal to '1'"),
        ({"type": "int", "minValue": 2}, 1, "The value should be greater than or equal to '2'"),
        ({"type": "string", "allowedValues": ["a", "b"]}, "A", "allowed value(s): 'a,b'. The value is 'A'"),
        ({"type": "array", "allowedValues": ["a", "b"]}, ["a", "c"], "allowed value(s): 'a,b'"),
        ({"type": "array", "items": {"type": "int"}}, [1, "2"], "parameter 'p[1]'"),
        ({"type": "array", "prefixItems": [{"type": "int"}], "items": False}, [1, 2], "no more than '1' items"),
        ({"type": "array", "prefixItems": [{"type": "int"}]}, [], "at least '1' items"),
        ({"type": "object", "properties": {"a": {"type": "int"}}}, {}, "parameter 'p.a'"),
        ({"type": "object", "properties": {"a": {"type": "int"}}}, {"A": "x"}, "Expected a value of type 'Integer'"),
        ({"type": "object", "additionalProperties": False}, {"a": 1}, "not one that the type has"),
        ({"type": "object", "additionalProperties": {"type": "int"}}, {"a": "x"}, "parameter 'p.a'"),
    ],
)
def test_values_that_do_not_fit(definition: dict[str, Any], value: Any, message: str) -> None:
    assert message in refused(declared(**definition), p=value).message


@pytest.mark.parametrize(
    ("definition", "value"),
    [
        ({"type": "array", "allowedValues": ["a", "b"]}, ["b", "a"]),
        ({"type": "array", "allowedValues": [["a"], ["b"]]}, ["b"]),
        ({"type": "string", "minLength": 2, "maxLength": 2}, "😀"),
        ({"type": "int", "minValue": 1, "maxValue": 1}, 1),
        ({"type": "object", "properties": {"a": {"type": "int", "nullable": True}}}, {"a": None}),
        ({"type": "array", "prefixItems": [{"type": "int"}], "items": {"type": "string"}}, [1, "x"]),
    ],
)
def test_values_that_fit(definition: dict[str, Any], value: Any) -> None:
    assert lay_out(declared(**definition), p=value).parameters["p"]["value"] == value


def test_named_types() -> None:
    definitions = {
        "tree": {
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "left": {"$ref": "#/definitions/tree", "nullable": True},
                "right": {"$ref": "#/definitions/tree", "nullable": True},
            },
        },
        "shape": {
            "type": "object",
            "discriminator": {
                "propertyName": "kind",
                "mapping": {"circle": {"$ref": "#/definitions/circle"}, "point": {"type": "object", "properties": {}}},
            },
        },
        "circle": {"type": "object", "properties": {"radius": {"type": "int"}}},
    }
    template = document(
        languageVersion="2.0",
        resources={},
        definitions=definitions,
        parameters={"t": {"$ref": "#/definitions/tree"}, "s": {"$ref": "#/definitions/shape", "nullable": True}},
    )
    good = lay_out(template, t={"name": "root", "left": {"name": "leaf"}}, s={"kind": "circle", "radius": 2})
    assert good.parameters["s"]["type"] == "Object"
    assert lay_out(template, t={"name": "root"}).parameters["s"]["value"] is None
    assert "'t.left.name'" in refused(template, t={"name": "root", "left": {}}).message
    assert "'s.radius'" in refused(template, t={"name": "root"}, s={"kind": "circle"}).message
    assert "one of: 'circle,point'" in refused(template, t={"name": "root"}, s={"kind": "square"}).message


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"parameters": {"p": {"type": "text"}}}, "The type 'text' is not known"),
        ({"parameters": {"p": {"$ref": "#/definitions/none"}}}, "does not name a definition"),
        ({"parameters": {"p": []}}, "[] is not of type 'object'"),
        ({"definitions": {"a": {"$ref": "#/definitions/a"}}}, "The definition 'a' refers to itself"),
        ({"outputs": {"o": {"type": "string"}}}, "is not valid under any of the given schemas"),
        ({"outputs": {"o": {"type": "text", "value": 1}}}, "The type 'text' is not known"),
        ({"outputs": {"o": {"type": "string", "value": "[concat(]"}}}, "The template output 'o'"),
        ({"functions": [{"namespace": "n"}]}, "'members' is a required property"),
        ({"variables": {"copy": [{"name": "x"}]}}, "'count' is a required property"),
        ({"variables": {"v": "[variables('w')]"}}, "The template variable 'v' is not valid: The template variable 'w'"),
        ({"variables": {"v": "[reference('x')]"}}, "'reference' is not expected at this location"),
        ({"variables": {"a": "[variables('b')]", "b": "[variables('a')]"}}, "refers to itself: a -> b -> a"),
        ({"parameters": {"p": {"type": "string", "defaultValue": "[variables('v')]"}}}, "'variables' is not expected"),
        ({"parameters": {"p": {"type": "string", "defaultValue": "[parameters('p')]"}}}, "refers to itself: p -> p"),
        ({"parameters": {"p": {"type": "int", "defaultValue": "x"}}}, "Expected a value of type 'Integer'"),
        ({"languageVersion": "3.0"}, "does not match"),
        ({"resources": {}}, "only be an object with symbolic names where its languageVersion is 2.0"),
        ({"parameters": {f"p{n}": {"type": "int", "defaultValue": n} for n in range(257)}}, "actual count: '257'"),
    ],
)
def test_bad_declarations(sections: dict[str, Any], message: str) -> None:
    error = refused(document(**sections))
    assert message in error.message
    assert error.code == "InvalidTemplate"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ([], "The template must be an object, and is of type 'Array'."),
        ({"$schema": "x", "contentVersion": "1.0.0.0"}, "Required property 'resources' not found in JSON."),
        (document(parameter={}), "Could not find member 'parameter' on object of type 'Template'."),
        (document(parameters=[]), "The section 'parameters' has the wrong type 'Array'."),
    ],
)
def test_what_is_no_template_at_all(template: Any, message: str) -> None:
    error = refused(template)
    assert error.code == "InvalidRequestContent"
    assert message in error.message


def test_key_vault_references_are_not_supported_and_say_so() -> None:
    reference = {"keyVault": {"id": "/subscriptions/s/..."}, "secretName": "key"}
    with pytest.raises(NotSupported, match="'p' is a Key Vault reference"):
        parse(declared(type="securestring"), {"p": {"reference": reference}}, scope())


def test_extensions_are_not_supported_and_say_so() -> None:
    with pytest.raises(NotSupported, match="'extensions'"):
        lay_out(document(extensions={}))


def test_no_message_shows_a_secret() -> None:
    secret = "correct horse battery staple"
    parameters = {"p": {"type": "securestring"}}
    shown = []
    for sections in (
        {"variables": {"v": "[int(parameters('p'))]"}},
        {"resources": [storage("[concat('x/', parameters('p'))]")]},
        {"resources": [storage(properties={"m": "[int(parameters('p'))]"})]},
        {"resources": [storage(dependsOn=["[parameters('p')]"])]},
    ):
        error = refused(document(parameters=parameters, **sections), p=secret)
        assert secret not in str(error.body())
        shown.append("*******" in error.message)
    assert shown == [True] * 4

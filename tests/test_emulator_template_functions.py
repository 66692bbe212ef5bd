"""Template functions against their official values, and what those do not cover."""

from __future__ import annotations

import json
from collections import defaultdict
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from infra.emulator.template.context import Context
from infra.emulator.template.errors import ExpressionError, NotSupported
from infra.emulator.template.evaluator import evaluate_value
from infra.emulator.template.functions.hashing import guid, unique_string
from infra.emulator.template.names import Given, TemplateNames, user_functions
from infra.emulator.template.schema import Types
from tests.template_scope import STORAGE, document, lay_out, scope

VECTORS: list[dict[str, Any]] = json.loads((Path(__file__).parent / "data" / "template-functions.json").read_text())


def evaluate(expression: str, **sections: Any) -> Any:
    """The value of an expression in a template with these sections; `parameters` are values by name."""
    given = sections.get("parameters", {})
    names = TemplateNames(
        {name: {} for name in given},
        {name: Given(value, value) for name, value in given.items()},
        sections.get("variables", {}),
        user_functions(sections.get("functions", [])),
        Types({}),
    )
    context = sections.get("context", {})
    where = scope(context.get("scope", "resourceGroup"), context.get("deployment"))
    return evaluate_value(expression, Context(where, names))


def agree(got: Any, expected: Any) -> bool:
    """Equal as JSON: 1000 is 1000.0, true is not 1, the order of keys does not count."""
    if isinstance(got, bool) or isinstance(expected, bool):
        return got is expected
    if isinstance(got, (int, float)) and isinstance(expected, (int, float)):
        return got == expected
    if isinstance(got, list) and isinstance(expected, list):
        return len(got) == len(expected) and all(map(agree, got, expected))
    if isinstance(got, dict) and isinstance(expected, dict):
        return got.keys() == expected.keys() and all(agree(got[key], expected[key]) for key in got)
    return type(got) is type(expected) and bool(got == expected)


def fails(vector: dict[str, Any]) -> str | None:
    """What is wrong with our answer to a vector, None if it holds."""
    try:
        got = evaluate(vector["expression"], **{key: value for key, value in vector.items() if key != "expression"})
    except ExpressionError as error:
        return None if vector.get("error") else f"{vector['expression']} is refused: {error}"
    if vector.get("error"):
        return f"{vector['expression']} gives {got!r}, and should be refused"
    if not agree(got, vector["expected"]):
        return f"{vector['expression']} gives {got!r}, and should give {vector['expected']!r}"
    return None


by_function: dict[str, list[dict[str, Any]]] = defaultdict(list)
for one in VECTORS:
    by_function[one["function"]].append(one)


@pytest.mark.parametrize("function", sorted(by_function))
def test_official_values_of(function: str) -> None:
    problems = [problem for vector in by_function[function] if (problem := fails(vector))]
    assert not problems, "\n".join(problems)


def test_every_official_value_holds(record_property: Any) -> None:
    held = sum(fails(vector) is None for vector in VECTORS)
    record_property("official_function_values", f"{held} of {len(VECTORS)}")
    print(f"{held} of {len(VECTORS)} official function values hold")
    assert (held, len(VECTORS)) == (862, 862)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("[dateTimeAdd('2025-05-02T08:30:15.1234567Z', 'PT0.5S', 'o')]", "2025-05-02T08:30:15.6234567Z"),
        ("[dateTimeAdd('2025-05-02T08:30:15+02:00', 'P0D', 'R')]", "Fri, 02 May 2025 06:30:15 GMT"),
        ("[dateTimeAdd('2025-05-02T20:05:09Z', 'P0D', 'h:mm tt, d MMMM yy')]", "8:05 PM, 2 May 25"),
        ("[dateTimeAdd('05/02/2025 08:05:09 PM', 'P0D')]", "2025-05-02T20:05:09Z"),
        ("[dateTimeToEpoch('2025-05-02T08:30:15+02:00')]", 1746167415),
        ("[format('{0:#,##0.00}|{0:000.0}|{1:0%}', 1234, json('0.256'))]", "1,234.00|1234.0|26%"),
        ("[format('{0:+#;-#;nothing}|{1:+#;-#;nothing}|{2:+#;-#;nothing}', 5, -5, 0)]", "+5|-5|nothing"),
        ("[format('{0:C}|{0:P0}|{0:E2}|{0:G2}', 1234)]", "$1,234.00|123,400%|1.23E+003|1.2E+03"),
        ("[format('{0}', json('1e20'))]", "1E+20"),
        ("[base64ToString(base64('line'))]", "line"),
        ("[dataUriToString(dataUri('Grüße'))]", "Grüße"),
        ("[uri('https://a.example/b/c', '../d/./e?f#g')]", "https://a.example/d/e?f#g"),
        ("[uri('https://a.example/b?c', '?d')]", "https://a.example/b?d"),
        ("[length('a😀')]", 3),
        ("[take('😀b', 2)]", "😀"),
        ("[indexOf('a😀b', 'B')]", 3),
        ("[less('résumé', 'resumes')]", True),
        ("[greater('A', 'a')]", True),
        ("[less('_x', '-x')]", True),
        ("[intersection(createObject('a', 1, 'b', 2), createObject('b', 2, 'a', 3))]", {"b": 2}),
        (
            "[union(createObject('a', createObject('x', 1)), createObject('a', createObject('y', 2)))]",
            {"a": {"x": 1, "y": 2}},
        ),
        ("[parseCidr('10.0.0.7/32').firstUsable]", "10.0.0.7"),
        ("[tryGet(createObject('a', createObject('b', 1)), 'a', 'b')]", 1),
        ("[tryGet(null(), 'a', 'b')]", None),
        ("[tryIndexFromEnd(createArray(1), 2)]", None),
        ("[and(false(), parameters('not there'))]", False),
        ("[or(true(), parameters('not there'))]", True),
        ("[json('{a: 1, /* two */ ''b'': [2,],}')]", {"a": 1, "b": [2]}),
    ],
)
def test_values_beyond_the_official_ones(expression: str, expected: Any) -> None:
    assert agree(evaluate(expression), expected)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("[add(json('9223372036854775807'), 1)]", "does not fit into 64 bits"),
        ("[cidrSubnet('10.0.0.0/24', 25, 2)]", "has no subnet '2'"),
        ("[cidrHost('10.0.0.0/30', 2)]", "has no host '2'"),
        ("[indexFromEnd(createArray(1), 2)]", "out of bounds"),
        ("[tryGet(createObject('a', createObject()), 'a', 'b')]", "property 'b' doesn't exist"),
        ("[format('{0', 1)]", "brace without its partner"),
        ("[dateTimeAdd('9999-12-31T00:00:00Z', 'P1Y')]", "between the years 1 and 9999"),
        ("[range(0, 10001)]", "from 0 to 10000"),
        ("[lambda('x', 1)]", "not expected at this location"),
        ("[map(createArray(1), 'x')]", "expects a lambda function"),
        ("[map(createArray(1), lambda('x', 'y', 'z', 1))]", "must have from '1' to '2' variables"),
        ("[reference('x')]", "'reference' is not expected at this location"),
        ("[listKeys('x', '2025-01-01')]", "'listKeys' is not expected at this location"),
        ("[copyIndex('x')]", "there is no loop named 'x' here"),
        ("[fail('the reason')]", "the reason"),
        ("[nope()]", "The template function 'nope' is not valid"),
    ],
)
def test_refusals_say_what_is_wrong(expression: str, message: str) -> None:
    with pytest.raises(ExpressionError, match=message):
        evaluate(expression)


def test_resource_id_of_an_extension_in_the_old_form() -> None:
    locks = "Microsoft.Storage/storageAccounts/providers/locks"
    extension = evaluate(f"[resourceId('{locks}', 'store', 'Microsoft.Authorization', 'one')]")
    assert extension == f"{STORAGE}/store/providers/Microsoft.Authorization/locks/one"


def test_functions_that_need_data_about_regions_are_not_pretended() -> None:
    with pytest.raises(NotSupported, match="'pickZones' is not supported"):
        evaluate("[pickZones('Microsoft.Compute', 'virtualMachines', 'westus')]")


def test_utc_now_and_new_guid_in_default_values() -> None:
    parameters = {
        "compact": {"type": "string", "defaultValue": "[utcNow()]"},
        "full": {"type": "string", "defaultValue": "[utcNow('o')]"},
        "later": {"type": "string", "defaultValue": "[dateTimeAdd(utcNow('u'), 'PT1H')]"},
        "new": {"type": "string", "defaultValue": "[newGuid()]"},
    }
    first, second = lay_out(document(parameters=parameters)), lay_out(document(parameters=parameters))
    values = {name: parameter["value"] for name, parameter in first.parameters.items()}
    assert values["compact"] == "20250502T083015Z"
    assert values["full"] == "2025-05-02T08:30:15.1234560Z"
    assert datetime.fromisoformat(values["later"].replace("Z", "+00:00")).hour == 9
    assert values["new"] != second.parameters["new"]["value"]
    assert len(values["new"]) == 36


def test_hashes_of_the_documented_inputs() -> None:
    assert unique_string("test") == "rbgf3xv4ufgzg"
    assert unique_string("hello", "world") == "a7wkljktk6wne"
    assert unique_string("") == "aaaaaaaaaaaaa"
    assert guid("asdf") == "228d27cc-6fdb-5934-b7ac-1efccebade04"

"""Every official value of a template function through the outputs of real deployments, by HTTP.

Many vectors share one template: each is an output of its own, an object with the member `value`, so that null and
numbers with a fraction come back too. A vector with sections of its own (parameters, variables, functions) is a nested
deployment with inner scope. The subscription and the tenant are the stand-in's, which is the only difference allowed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import pytest

from infra.emulator.template.functions.hashing import guid, unique_string
from tests.conftest import RunningStandIn
from tests.resource_manager_client import SUBSCRIPTION_SCHEMA, Arm, arm, deployment, template, unique
from tests.template_scope import SUBSCRIPTION, TENANT
from tests.test_emulator_template_functions import VECTORS, agree

Vector = dict[str, Any]
_DEPLOYMENTS = "/providers/Microsoft.Resources/deployments"
# The service's limit of outputs in one template.
_OUTPUTS = 64
_SECTIONS = ("parameters", "variables", "functions")
_OF_THE_SCOPE = re.compile(r"\b(resourceGroup|subscription|tenant|\w*resourceId)\(", re.IGNORECASE)
# Hashes of ids that have the subscription in them: the text around, how many letters are kept, the hashed texts.
_HASHED: dict[str, tuple[str, int | None, Any, tuple[str, ...]]] = {
    "[guid(subscription().subscriptionId)]": ("{}", None, guid, ("{subscription}",)),
    "[guid(subscription().id, 'contributor')]": ("{}", None, guid, ("/subscriptions/{subscription}", "contributor")),
    "[guid(resourceGroup().id, deployment().name)]": ("{}", None, guid, ("{group}", "exampleDeployment")),
    "[uniqueString(resourceGroup().id)]": ("{}", None, unique_string, ("{group}",)),
    "[uniqueString(subscription().subscriptionId)]": ("{}", None, unique_string, ("{subscription}",)),
    "[uniqueString(resourceGroup().id, deployment().name)]": (
        "{}",
        None,
        unique_string,
        ("{group}", "exampleDeployment"),
    ),
    "[concat('st', uniqueString(resourceGroup().id))]": ("st{}", None, unique_string, ("{group}",)),
    "[format('ca-{0}-{1}', 'dev', uniqueString(resourceGroup().id))]": ("ca-dev-{}", None, unique_string, ("{group}",)),
    "[take(uniqueString(resourceGroup().id, 'x'), 6)]": ("{}", 6, unique_string, ("{group}", "x")),
}
_TYPES = {bool: "bool", int: "int", str: "string", list: "array", dict: "object"}
NOT_LIVE = {
    "managementGroup": "the stand-in has one subscription and no management groups: nothing is deployed at that scope",
    "tenant": "the stand-in takes deployments into groups and into its subscription, none at tenant scope",
}
"""Scopes of vectors that no deployment to the stand-in has, and why; the evaluator alone is held against these."""


def _scope(vector: Vector) -> str:
    return str(vector.get("context", {}).get("scope", "resourceGroup"))


def _plain(kind: str, *, error: bool) -> list[tuple[int, Vector]]:
    """Vectors of a scope that need no sections, with their places in the file."""
    return [
        (place, vector)
        for place, vector in enumerate(VECTORS)
        if _scope(vector) == kind and not any(key in vector for key in _SECTIONS) and bool(vector.get("error")) == error
    ]


def _batches(vectors: list[tuple[int, Vector]]) -> Iterator[list[tuple[int, Vector]]]:
    left = iter(vectors)
    while batch := list(islice(left, _OUTPUTS)):
        yield batch


def _outputs(vectors: Iterable[tuple[int, Vector]]) -> dict[str, Any]:
    return {f"o{place}": {"type": "object", "value": {"value": vector["expression"]}} for place, vector in vectors}


class Live:
    """Deployments into a group named as in the vectors, and what they show."""

    def __init__(self, writer: Arm) -> None:
        self.arm = writer
        self.group = f"/subscriptions/{writer.subscription}/resourceGroups/exampleRG"
        made = writer.request("PUT", self.group, {"location": "westus"})
        assert made.status_code in (200, 201), made.text

    def body(self, kind: str, **sections: Any) -> tuple[str, dict[str, Any]]:
        """Where to deploy to, and the request."""
        if kind == "subscription":
            value = template([], SUBSCRIPTION_SCHEMA, **sections)
            return f"/subscriptions/{self.arm.subscription}", deployment(value, location="westus")
        return self.group, deployment(template(sections.pop("resources", []), **sections))

    def deploy(self, kind: str, name: str, **sections: Any) -> dict[str, Any]:
        """The properties of the deployment when it has ended."""
        scope, body = self.body(kind, **sections)
        properties: dict[str, Any] = self.arm.deploy(scope, body, name)["properties"]
        return properties

    def expected(self, vector: Vector) -> Any:
        """The vector's value, with this subscription and tenant where it comes from the scope."""
        if vector["expression"] in _HASHED:
            around, letters, function, texts = _HASHED[vector["expression"]]
            known = {"group": self.group, "subscription": self.arm.subscription}
            return around.format(function(*(text.format(**known) for text in texts))[:letters])
        text = json.dumps(vector["expected"])
        if _OF_THE_SCOPE.search(vector["expression"]):
            tenant = self.arm.stand_in.announcement["tenant"]
            text = text.replace(SUBSCRIPTION, self.arm.subscription).replace(TENANT, tenant)
        return json.loads(text)

    def problem(self, vector: Vector, outputs: dict[str, Any], name: str) -> str | None:
        """What is wrong with the output of that name."""
        got = outputs[name]["value"].get("value")
        expected = self.expected(vector)
        return None if agree(got, expected) else f"{vector['expression']} gives {got!r}, and should give {expected!r}"


@pytest.fixture(scope="module")
def live(stand_in: RunningStandIn) -> Live:
    return Live(arm(stand_in))


def values_of(live: Live, kind: str) -> list[str | None]:
    """For each vector with a value what is wrong with it, None where it holds."""
    found: list[str | None] = []
    for batch in _batches(_plain(kind, error=False)):
        properties = live.deploy(kind, "exampleDeployment", outputs=_outputs(batch))
        assert properties["provisioningState"] == "Succeeded", properties.get("error")
        found += [live.problem(vector, properties["outputs"], f"o{place}") for place, vector in batch]
    return found


def errors_of(live: Live, kind: str) -> list[str | None]:
    """For each vector with an error what is wrong: None where an error names its output."""
    found: list[str | None] = []
    for batch in _batches(_plain(kind, error=True)):
        left, refused = batch, set()
        # What cannot be parsed is refused before anything is deployed, the rest when the outputs are evaluated.
        scope, body = live.body(kind, outputs=_outputs(batch))
        answer = live.arm.request("POST", f"{scope}{_DEPLOYMENTS}/errors/validate", body)
        if answer.status_code == 400:
            assert answer.json()["error"]["code"] == "InvalidTemplate"
            refused = set(re.findall(r"The template output '(o\d+)'", answer.text))
            left = [(place, vector) for place, vector in batch if f"o{place}" not in refused]
        if left:
            properties = live.deploy(kind, f"errors-{unique()}", outputs=_outputs(left))
            assert properties["provisioningState"] == "Failed"
            refused |= {one["target"] for detail in properties["error"]["details"] for one in detail["details"]}
        found += [None if f"o{place}" in refused else f"{one['expression']} is taken" for place, one in batch]
    return found


def _nested(place: int, vector: Vector) -> dict[str, Any]:
    """A nested deployment with the sections of a vector, in the inner scope."""
    given = vector.get("parameters", {})
    sections: dict[str, Any] = {key: vector[key] for key in ("variables", "functions") if key in vector}
    sections["parameters"] = {name: {"type": _TYPES[type(value)]} for name, value in given.items()}
    return {
        "type": "Microsoft.Resources/deployments",
        "apiVersion": "2025-04-01",
        "name": f"vector-{place}",
        "properties": {
            "mode": "Incremental",
            "expressionEvaluationOptions": {"scope": "inner"},
            # A value that looks like an expression is the enclosing template's: it is given as text.
            "parameters": {name: {"value": _escaped(value)} for name, value in given.items()},
            "template": template([], outputs=_outputs([(place, vector)]), **sections),
        },
    }


def _escaped(value: Any) -> Any:
    if isinstance(value, str) and value.startswith("[") and value.endswith("]"):
        return f"[{value}"
    if isinstance(value, list):
        return [_escaped(item) for item in value]
    if isinstance(value, dict):
        return {key: _escaped(item) for key, item in value.items()}
    return value


def nested_of(live: Live) -> list[str | None]:
    """For each vector with sections what is wrong: each has a nested deployment, all are in one."""
    vectors = [(place, vector) for place, vector in enumerate(VECTORS) if any(key in vector for key in _SECTIONS)]
    refused: set[int] = set()
    # Variables are computed before anything is deployed: an error names the nested deployment that it is in.
    scope, body = live.body("resourceGroup", resources=[_nested(*one) for one in vectors])
    answer = live.arm.request("POST", f"{scope}{_DEPLOYMENTS}/nested/validate", body)
    if answer.status_code == 400:
        assert answer.json()["error"]["code"] == "InvalidTemplate"
        refused = {vectors[int(found)][0] for found in re.findall(r"template\.resources\[(\d+)\]", answer.text)}
    resources = [_nested(*one) for one in vectors if one[0] not in refused]
    assert live.deploy("resourceGroup", f"nested-{unique()}", resources=resources)["provisioningState"] == "Failed"
    return [_told_of(live, place, vector, place in refused) for place, vector in vectors]


def _told_of(live: Live, place: int, vector: Vector, refused: bool) -> str | None:
    """What is wrong with a nested deployment."""
    shown = None if refused else live.arm.get(f"{live.group}{_DEPLOYMENTS}/vector-{place}")["properties"]
    if vector.get("error"):
        told = shown is None or f"'o{place}'" in json.dumps(shown.get("error"))
        return None if told else f"{vector['expression']} is taken"
    if shown is None or shown["provisioningState"] != "Succeeded":
        return f"{vector['expression']} is refused: {shown and shown['error']}"
    return live.problem(vector, shown["outputs"], f"o{place}")


@pytest.mark.parametrize("kind", ["resourceGroup", "subscription"])
def test_official_values(live: Live, kind: str) -> None:
    assert [problem for problem in values_of(live, kind) if problem] == []


@pytest.mark.parametrize("kind", ["resourceGroup", "subscription"])
def test_official_errors(live: Live, kind: str) -> None:
    assert [problem for problem in errors_of(live, kind) if problem] == []


def test_official_values_in_nested_deployments(live: Live) -> None:
    assert [problem for problem in nested_of(live) if problem] == []


def test_every_vector_is_deployed_but_those_of_scopes_that_are_not_there(record_property: Any) -> None:
    sections = [vector for vector in VECTORS if any(key in vector for key in _SECTIONS)]
    assert {_scope(vector) for vector in sections} == {"resourceGroup"}
    kinds = ("resourceGroup", "subscription")
    plain = sum(len(_plain(kind, error=error)) for kind in kinds for error in (False, True))
    left_out = [vector["expression"] for vector in VECTORS if _scope(vector) in NOT_LIVE]
    deployed = plain + len(sections)
    record_property("official_function_values_deployed", f"{deployed} of {len(VECTORS)}")
    print(f"{deployed} of {len(VECTORS)} official function values through deployments; not live: {left_out}")
    assert (deployed, len(left_out), len(VECTORS)) == (856, 6, 862)

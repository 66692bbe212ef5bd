"""Parameters files: their form, and their values against what the template takes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from scripts import parameters
from scripts.errors import Problem
from scripts.template import Parameter, Template

VAULT = {
    "keyVault": {"id": "/subscriptions/s/resourceGroups/g/providers/Microsoft.KeyVault/vaults/v"},
    "secretName": "k",
}


def parameter(name: str, type_: str, **more: Any) -> Parameter:
    known: dict[str, Any] = {
        "secure": False,
        "required": False,
        "allowed": (),
        "minimum": None,
        "maximum": None,
        "description": "",
    }
    return Parameter(name=name, type=type_, **{**known, **more})


DECLARED = (
    parameter("apiKey", "string", secure=True, required=True),
    parameter("count", "int", minimum=1, maximum=9, description="How many replicas.\nMore lines."),
    parameter("flag", "bool"),
    parameter("name", "string", minimum=3, maximum=5, required=True),
    parameter("list", "array", allowed=("a", "b")),
    parameter("profile", "string", allowed=("Consumption", "GPU")),
    parameter("settings", "object"),
    parameter("anything", ""),
    parameter("requestsPerMinutePerKey", "int", minimum=0, maximum=100, description="In a minute."),
    parameter("concurrentRequestsPerKey", "int", minimum=0, maximum=100),
    parameter("keyLimits", "object", description="By name."),
)
TEMPLATE = Template(MappingProxyType({}), MappingProxyType({item.name: item for item in DECLARED}))


def check(
    tmp_path: Path, own: str, base: str = '{"parameters": {"name": {"value": "abc"}}}'
) -> tuple[Mapping[str, Mapping[str, Any]], list[Problem]]:
    (tmp_path / "base.json").write_text(base)
    (tmp_path / "own.json").write_text(own)
    problems: list[Problem] = []
    merged = parameters.merged(tmp_path / "base.json", tmp_path / "own.json", tmp_path, TEMPLATE, problems)
    return merged, problems


def with_value(name: str, value: Any) -> str:
    return json.dumps({"$schema": "x", "contentVersion": "1.0.0.0", "parameters": {name: {"value": value}}})


def test_own_values_stand_over_the_base(tmp_path: Path) -> None:
    merged, problems = check(
        tmp_path, with_value("name", "own"), '{"parameters": {"name": {"value": "abc"}, "flag": {"value": null}}}'
    )
    assert problems == []
    assert merged == {"name": {"value": "own"}, "flag": {"value": None}}


@pytest.mark.parametrize(
    ("name", "value"),
    [("count", 9), ("flag", False), ("name", "abcde"), ("list", ["a"]), ("list", []), ("profile", "GPU"),
     ("settings", {"x": 1}), ("anything", 1.5), ("count", None), ("apiKey", None)],
)  # fmt: skip
def test_values_that_the_template_takes(tmp_path: Path, name: str, value: Any) -> None:
    assert check(tmp_path, with_value(name, value))[1] == []


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("count", "3", "must be of type int"),
        ("count", True, "must be of type int"),
        ("count", 0, "must be at least 1"),
        ("flag", 1, "must be of type bool"),
        ("name", "ab", "must be at least 3 characters"),
        ("name", "abcdef", "must be at most 5 characters"),
        ("name", ["abc"], "must be of type string"),
        ("list", ["a", "c"], 'must be one of ["a", "b"]'),
        ("profile", "gpu", 'must be one of ["Consumption", "GPU"]; did you mean GPU?'),
        ("settings", [], "must be of type object"),
    ],
)
def test_values_that_the_template_does_not_take(tmp_path: Path, name: str, value: Any, message: str) -> None:
    _, (problem,) = check(tmp_path, with_value(name, value))
    assert (problem.file, problem.where, problem.message) == ("own.json", f"parameters.{name}.value", message)
    assert problem.value == json.dumps(value)


def test_limits_of_keys_by_name(tmp_path: Path) -> None:
    limits = {"ci": {"requestsPerMinute": 100, "concurrentRequests": 0}, "a.B-2_c": {"concurrentRequests": 1}}
    assert check(tmp_path, with_value("keyLimits", limits))[1] == []
    assert check(tmp_path, with_value("keyLimits", {}))[1] == []


def test_every_limit_of_keys_that_cannot_be_is_told_at_once(tmp_path: Path) -> None:
    limits = {
        "ci": {"requestsPerMinute": 101, "concurrentRequests": "4"},
        "batch": {"requestPerMinute": 4, "concurrentRequests": True},
        "two words": {"requestsPerMinute": -1},
        "plain": 60,
        "empty": {},
    }
    _, problems = check(tmp_path, with_value("keyLimits", limits))
    assert [str(problem).removeprefix("own.json: parameters.keyLimits.value") for problem in problems] == [
        ".ci.requestsPerMinute: must be at most 100 (found 101). In a minute.",
        '.ci.concurrentRequests: must be of type int (found "4"). Correct it.',
        ".batch.requestPerMinute: there is no such limit; did you mean requestsPerMinute?"
        " The limits are: requestsPerMinute, concurrentRequests.",
        ".batch.concurrentRequests: must be of type int (found true). Correct it.",
        ': no key can have this name (found "two words").'
        " Write a key's name: up to 64 letters, digits, dots, hyphens and underscores.",
        ".two words.requestsPerMinute: must be at least 0 (found -1). In a minute.",
        ".plain: must be an object with requestsPerMinute or concurrentRequests or both (found 60). By name.",
        ".empty: must be an object with requestsPerMinute or concurrentRequests or both (found {}). By name.",
    ]


def test_the_next_step_is_what_the_template_says_of_the_parameter(tmp_path: Path) -> None:
    _, (problem,) = check(tmp_path, with_value("count", 10))
    assert problem.next_step == "How many replicas."


def test_a_secret_in_a_file_is_refused_and_not_repeated(tmp_path: Path) -> None:
    _, (problem,) = check(tmp_path, with_value("apiKey", "very-secret-value-1"))
    assert problem.where == "parameters.apiKey"
    assert "very-secret" not in str(problem)


def test_a_key_vault_reference_gives_a_secret(tmp_path: Path) -> None:
    merged, problems = check(tmp_path, json.dumps({"parameters": {"apiKey": {"reference": VAULT}}}))
    assert problems == []
    assert merged["apiKey"] == {"reference": VAULT}


@pytest.mark.parametrize("reference", [None, {}, {"keyVault": "v"}, {**VAULT, "secret": "x"}, {"secretName": "k"}])
def test_references_of_another_form(tmp_path: Path, reference: Any) -> None:
    _, (problem,) = check(tmp_path, json.dumps({"parameters": {"apiKey": {"reference": reference}}}))
    assert (problem.where, problem.message) == ("parameters.apiKey.reference", "it is not a Key Vault reference")


@pytest.mark.parametrize(
    ("own", "where", "message"),
    [
        ('{"parameters": {"name": }}', "line 1, column 25", "it is not JSON: Expecting value"),
        ('{"parameters": {"name": {"value": "abc"}, "name": {"value": "abd"}}}', "name", "the key stands here twice"),
        ('{"parameters": {"name": {"value": NaN}}}', "", "it is not JSON: NaN is not a JSON value"),
        ("[" * 100_000, "", "it is not JSON: maximum recursion"),
        ("[]", "parameters", "the object `parameters` is missing"),
        ('{"parameters": []}', "parameters", "the object `parameters` is missing"),
        ('{"parameter": {}, "parameters": {}}', "parameter", "unknown key; did you mean parameters?"),
        ('{"parameters": {"name": "abc"}}', "parameters.name", "must be an object with exactly one key"),
        ('{"parameters": {"name": {"value": "abc", "x": 1}}}', "parameters.name", "must be an object with exactly one"),
        ('{"parameters": {"nam": {"value": "abc"}}}', "parameters.nam", "the template has no such parameter; did you"),
        ('{"parameters": {"name": {"value": null}}}', "parameters.name", "the template has no default for this"),
    ],
)
def test_one_problem_of_the_file(tmp_path: Path, own: str, where: str, message: str) -> None:
    _, (problem,) = check(tmp_path, own)
    assert (problem.file, problem.where) == ("own.json", where)
    assert problem.message.startswith(message)

"""Templates laid out here against what the resource manager answered to the same templates."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from infra.emulator.template import Entry, Scope, Template, TemplateError, parse, read
from tests.template_scope import Resources, scope

RECORDED: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "template-recordings.json").read_text())
IDENTITY = {"id", "name", "type", "apiVersion"}


def recorded_scope() -> Scope:
    subscription = RECORDED["subscription"]
    own = {"id": f"/subscriptions/{subscription}", "subscriptionId": subscription, "displayName": "recorded"}
    return replace(scope("subscription"), subscription=own)


def laid_out() -> Template:
    return parse(RECORDED["template"], RECORDED["parameters"], recorded_scope())


def deployed(template: Template) -> list[Entry]:
    """The resources of a template and of those nested in it."""
    found: list[Entry] = []
    for entry in template.resources:
        found += deployed(entry.nested(None)) if entry.is_deployment else [entry]
    return found


def test_what_if_shows_the_same_resources_with_the_same_values() -> None:
    ours = {
        entry.id: {
            "id": entry.id,
            "name": entry.name,
            "type": entry.type,
            "apiVersion": entry.api_version,
            **entry.preview(),
        }
        for entry in deployed(laid_out())
    }
    theirs = {change["resourceId"]: change["after"] for change in RECORDED["changes"]}
    assert ours == theirs
    assert len(ours) == 2


def test_parameters_are_reported_in_the_same_way() -> None:
    ours, theirs = dict(laid_out().parameters), dict(RECORDED["validated"]["parameters"])
    # One default is the time of the deployment.
    assert ours.pop("deleteAfterTime")["value"] == "2025-05-02T09:30:15Z"
    assert theirs.pop("deleteAfterTime")["value"].endswith("Z")
    assert ours == theirs
    assert list(laid_out().parameters) == list(RECORDED["validated"]["parameters"])


def test_dependencies_are_the_same() -> None:
    ours = {entry.id: set(entry.depends_on) for entry in laid_out().resources if entry.depends_on}
    theirs = {one["id"]: {on["id"] for on in one["dependsOn"]} for one in RECORDED["validated"]["dependencies"]}
    assert ours == theirs


def test_outputs_are_the_same_but_for_the_case_that_the_service_gives_their_names() -> None:
    (nested,) = (entry for entry in laid_out().resources if entry.is_deployment)
    answers = Resources({nested.id: {"outputs": nested.nested(Resources()).outputs(Resources())}})
    ours = {name.lower(): output for name, output in laid_out().outputs(answers).items()}
    assert ours == {name.lower(): output for name, output in RECORDED["outputs"].items()}


def test_a_missing_parameter_is_refused_in_the_same_words_at_the_same_place() -> None:
    recorded = RECORDED["missing_parameter"]
    body, positions = read(recorded["request"])
    properties = body["properties"]
    with pytest.raises(TemplateError) as caught:
        parse(properties["template"], properties["parameters"], scope(), positions=positions)
    assert caught.value.body() == recorded["error"]

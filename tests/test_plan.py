"""What-if results, in the words of the REST API, become plans: what changes, and what only looks like it."""

from __future__ import annotations

from typing import Any

import pytest

from scripts import plan
from scripts.plan import Delta, Kind

GROUP = "/subscriptions/10c0a1de-0000-4000-8000-00000000000b/resourceGroups/rg"
APP = f"{GROUP}/providers/Microsoft.App/containerApps/app"
STORAGE = f"{GROUP}/providers/Microsoft.Storage/storageAccounts/s"
ENVIRONMENT = f"{GROUP}/providers/Microsoft.App/managedEnvironments/e"
SECRETS = "properties.configuration.secrets"
LOGS = "properties.appLogsConfiguration.logAnalyticsConfiguration"
DISK = "properties.template.containers[0].resources.ephemeralStorage"
DEFAULT = "the service's own default"
REWRITTEN = "only written differently"


def change(kind: str, identifier: str = APP, delta: list[dict[str, Any]] | None = None, **more: Any) -> dict[str, Any]:
    return {"resourceId": identifier, "changeType": kind, **({} if delta is None else {"delta": delta}), **more}


def delta(path: str, kind: str, before: Any = None, after: Any = None, children: Any = None) -> dict[str, Any]:
    entries = {"path": path, "propertyChangeType": kind, "before": before, "after": after, "children": children}
    return {key: value for key, value in entries.items() if value is not None}


def one_delta(entry: dict[str, Any], identifier: str = APP) -> plan.Plan:
    return plan.from_what_if({"changes": [change("Modify", identifier, [entry])]})


def test_each_kind_of_change_is_kept_or_counted() -> None:
    kinds = ["Create", "Modify", "Delete", "Deploy", "NoChange", "Ignore", "Ignore"]
    raw = [change(kind, delta=[delta("tags.a", "Create", after="x")] if kind == "Modify" else None) for kind in kinds]
    result = plan.from_what_if({"changes": raw})
    assert [item.kind for item in result.changes] == [Kind.CREATE, Kind.MODIFY, Kind.DELETE, Kind.DEPLOY]
    assert (result.unchanged, result.untouched) == (1, 2)
    assert not result.is_empty


def test_nothing_is_an_empty_plan() -> None:
    answers: list[dict[str, Any]] = [{}, {"changes": []}, {"changes": None, "diagnostics": None}]
    for nothing in answers:
        assert plan.from_what_if(nothing).is_empty


@pytest.mark.parametrize(
    ("identifier", "expected"),
    [
        (APP, ("Microsoft.App/containerApps", "app")),
        (f"{ENVIRONMENT}/storages/s", ("Microsoft.App/managedEnvironments/storages", "e/s")),
        (f"{APP}/providers/Microsoft.Authorization/locks/l", ("Microsoft.Authorization/locks", "l")),
        (GROUP, ("Microsoft.Resources/resourceGroups", "rg")),
        ("[resourceId('x')]", ("", "[resourceId('x')]")),
    ],
)  # fmt: skip
def test_ids_are_split_into_type_and_name(identifier: str, expected: tuple[str, str]) -> None:
    assert plan.split_id(identifier) == expected


def test_nested_deltas_get_whole_paths() -> None:
    entry = delta(
        "properties.template",
        "Modify",
        children=[
            delta("containers", "Array", children=[
                delta("0", "Modify", children=[delta("image", "Modify", "old", "new")]),
                delta("1", "Create", after={"image": "side"}),
            ]),
            delta("scale.maxReplicas", "Modify", 1, 2),
        ],
    )  # fmt: skip
    (modified,) = one_delta(entry).changes
    assert modified.deltas == (
        Delta("properties.template.containers[0].image", Kind.MODIFY, "old", "new"),
        Delta("properties.template.containers[1]", Kind.CREATE, None, {"image": "side"}),
        Delta("properties.template.scale.maxReplicas", Kind.MODIFY, 1, 2),
    )


@pytest.mark.parametrize(
    ("entry", "identifier", "reason"),
    [
        (delta("properties.x", "NoEffect", after=1), APP, "setting it has no effect"),
        (delta("properties.latestRevisionName", "Delete", "app--1"), APP, "only the service can set it"),
        (delta("properties.outboundIpAddresses", "Delete", ["1.2.3.4"]), APP, "only the service can set it"),
        (delta("properties.configuration.dapr", "Delete", {}), APP, "it is empty"),
        (
            delta("properties.customDomainConfiguration", "Delete", {"customDomainVerificationId": "A", "x": None}),
            ENVIRONMENT,
            "only the service can set it",
        ),
        (delta("properties.configuration.ingress.transport", "Modify", "Auto", "auto"), APP, REWRITTEN),
        (delta("properties.configuration.maxInactiveRevisions", "Delete", 100), APP, DEFAULT),
        (delta(DISK, "Delete", "8Gi"), APP, DEFAULT),
        (delta("properties.encryption", "Delete", {"keySource": "Microsoft.Storage"}), STORAGE, DEFAULT),
        (delta("properties.x", "Modify", "a", "[reference('y').z]"), APP, "known only during the deployment"),
        (delta("location", "Modify", "Sweden Central", "swedencentral"), ENVIRONMENT, REWRITTEN),
        (delta("properties.environmentId", "Modify", ENVIRONMENT.lower(), ENVIRONMENT), APP, REWRITTEN),
        (delta("properties.x", "Modify", "4", 4), APP, REWRITTEN),
        (delta(f"{SECRETS}[0].value", "Create", after="key"), APP, "a secret, which the service"),
        (delta("properties.osProfile.adminUsername", "Modify", "admin", "*******"), APP, "a secret, which the service"),
    ],
)  # fmt: skip
def test_noise_is_left_out_and_counted_with_its_reason(entry: dict[str, Any], identifier: str, reason: str) -> None:
    result = one_delta(entry, identifier)
    assert result.is_empty
    assert result.unchanged == 1
    (noise,) = result.noise
    assert (noise.resource, noise.path) == (identifier, entry["path"])
    assert noise.reason.startswith(reason)


@pytest.mark.parametrize(
    ("entry", "identifier"),
    [
        (delta("properties.configuration.maxInactiveRevisions", "Delete", 7), APP),
        (delta("properties.configuration.maxInactiveRevisions", "Modify", 100, 7), APP),
        (delta("properties.encryption", "Delete", {"keySource": "x"}), APP),
        (delta("properties.x", "Modify", "a", "[[literal]"), APP),
        (delta("properties.x", "Modify", "App", "app"), APP),
        (delta("location", "Modify", "Sweden Central", "westeurope"), APP),
        (delta("properties.x", "Modify", 1, True), APP),
        (delta("properties.customDomainConfiguration", "Delete", {"dnsSuffix": "example.org"}), ENVIRONMENT),
        (delta("properties.configuration.ingress.transport", "Modify", "Auto", "http2"), APP),
        (delta("properties.template.containers[0].env[1]", "Delete", {"name": "A", "value": "b"}), APP),
        (delta(f"{SECRETS}[1]", "Delete", {"name": "old"}), APP),
        (delta(f"{LOGS}.customerId", "Modify", "a", "b"), ENVIRONMENT),
    ],
)  # fmt: skip
def test_real_changes_stay(entry: dict[str, Any], identifier: str) -> None:
    result = one_delta(entry, identifier)
    assert [item.path for item in result.changes[0].deltas] == [entry["path"]]
    assert result.noise == ()


def test_a_secret_never_gets_into_a_plan() -> None:
    entries = [
        delta(f"{SECRETS}[0].value", "Modify", "old-secret", "new-secret"),
        delta(f"{LOGS}.sharedKey", "Modify", "old-secret", "new-secret"),
        delta(f"{SECRETS}[1]", "Create", after={"name": "other", "value": "new-secret"}),
        delta("properties.configuration.registries", "Create", after=[{"server": "s", "password": "new-secret"}]),
    ]  # fmt: skip
    result = plan.from_what_if({"changes": [change("Modify", delta=entries)]})
    assert len(result.changes[0].deltas) == 4
    assert "secret" not in repr(result.changes).replace("secrets", "").replace(plan.HIDDEN, "")


def test_what_azure_cannot_preview_says_why() -> None:
    raw = [
        change("Unsupported", "[resourceId('x')]", unsupportedReason="it depends on reference()"),
        change("SomethingNew"),
    ]
    first, second = plan.from_what_if({"changes": raw}).changes
    assert (first.kind, first.reason) == (Kind.UNSUPPORTED, "it depends on reference()")
    assert (second.kind, second.reason) == (Kind.UNSUPPORTED, "SomethingNew")


def test_diagnostics_are_kept() -> None:
    raw = {
        "diagnostics": [{"code": "NestedDeploymentShortCircuited", "level": "Warning", "message": "Not looked into."}]
    }
    assert plan.from_what_if(raw).diagnostics == ("Warning NestedDeploymentShortCircuited: Not looked into.",)

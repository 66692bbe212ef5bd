"""Requests and answers against the official schemas of resource types: what is refused, what is shown."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from azure.mgmt.appcontainers import ContainerAppsAPIClient
from jsonschema import Draft202012Validator

from infra.emulator import schemas
from infra.emulator.containerapps.answers import API_VERSIONS
from tests.conftest import RunningStandIn
from tests.resource_manager_client import (
    STORAGE,
    WORKSPACES,
    Arm,
    account,
    arm,
    client_settings,
    deployment,
    storage_client,
    template,
    unique,
    workspace,
)

APPS = "2025-07-01"
ACCOUNTS = "Microsoft.Storage/storageAccounts"
STABLE_APPS = [version for version in API_VERSIONS if "preview" not in version]


@dataclass
class World:
    """One resource of each type, as clients make them."""

    writer: Arm
    group: str
    ids: dict[str, str]

    def body(self, resource_type: str) -> dict[str, Any]:
        """A request that is accepted."""
        bodies: dict[str, Any] = {
            ACCOUNTS: {key: account("x")[key] for key in ("location", "sku", "kind", "properties")},
            f"{ACCOUNTS}/fileServices": {"properties": {"shareDeleteRetentionPolicy": {"enabled": True, "days": 7}}},
            f"{ACCOUNTS}/fileServices/shares": {"properties": {"shareQuota": 5, "metadata": {"a": "b"}}},
            "Microsoft.OperationalInsights/workspaces": {"location": "eastus", "properties": {"retentionInDays": 30}},
            "Microsoft.App/managedEnvironments": {
                "location": "eastus",
                "properties": {"workloadProfiles": [{"name": "Consumption", "workloadProfileType": "Consumption"}]},
            },
            "Microsoft.App/managedEnvironments/storages": {
                "properties": {
                    "azureFile": {
                        "accountName": self.ids[ACCOUNTS].rpartition("/")[2],
                        "accountKey": "key",
                        "shareName": "share",
                        "accessMode": "ReadWrite",
                    }
                }
            },
            "Microsoft.App/containerApps": {
                "location": "eastus",
                "identity": {"type": "SystemAssigned"},
                "properties": {
                    "environmentId": self.ids["Microsoft.App/managedEnvironments"],
                    "configuration": {"ingress": {"external": True, "targetPort": 8000}},
                    "template": {
                        "containers": [{"name": "main", "image": "python", "command": ["sleep", "60"]}],
                        "scale": {"minReplicas": 0, "maxReplicas": 1},
                    },
                },
            },
        }
        body: dict[str, Any] = bodies[resource_type]
        return body

    def version(self, resource_type: str) -> str:
        """An API version of the type that has a schema of its own."""
        namespace = resource_type.partition("/")[0]
        return {"Microsoft.Storage": STORAGE, "Microsoft.OperationalInsights": WORKSPACES}.get(namespace, APPS)

    def put(self, resource_type: str, body: Any, method: str = "PUT") -> Any:
        """The answer to a request on the resource of that type."""
        return self.writer.request(method, self.ids[resource_type], body, api_version=self.version(resource_type))

    def settled(self, resource_type: str) -> dict[str, Any]:
        """The resource once nothing goes on with it."""
        end = time.monotonic() + 60
        while True:
            shown: dict[str, Any] = self.writer.get(self.ids[resource_type], self.version(resource_type))
            if shown["properties"].get("provisioningState", "Succeeded") == "Succeeded":
                return shown
            assert time.monotonic() < end, shown
            time.sleep(0.1)


@pytest.fixture(scope="module")
def world(stand_in: RunningStandIn) -> Iterator[World]:
    writer = arm(stand_in)
    group, name = writer.group(), f"acct{unique()}"
    apps = f"{group}/providers/Microsoft.App"
    ids = {
        ACCOUNTS: f"{group}/providers/{ACCOUNTS}/{name}",
        "Microsoft.OperationalInsights/workspaces": f"{group}/providers/Microsoft.OperationalInsights/workspaces/logs",
        "Microsoft.App/managedEnvironments": f"{apps}/managedEnvironments/env",
        "Microsoft.App/managedEnvironments/storages": f"{apps}/managedEnvironments/env/storages/storage",
        "Microsoft.App/containerApps": f"{apps}/containerApps/app",
    }
    ids[f"{ACCOUNTS}/fileServices"] = f"{ids[ACCOUNTS]}/fileServices/default"
    ids[f"{ACCOUNTS}/fileServices/shares"] = f"{ids[ACCOUNTS]}/fileServices/default/shares/share"
    made = World(writer, group, ids)
    for resource_type in sorted(ids):
        if resource_type.endswith("containerApps"):
            continue
        answer = made.put(resource_type, made.body(resource_type))
        assert answer.status_code in (200, 201, 202), answer.text
        made.settled(resource_type)
    answer = made.put("Microsoft.App/containerApps", made.body("Microsoft.App/containerApps"))
    assert answer.status_code == 201, answer.text
    made.settled("Microsoft.App/containerApps")
    yield made
    writer.request("DELETE", group)
    writer.http.close()


# Read-only properties that Azure shows in some state only (geo-redundancy, deletion, a lease, a failed deployment,
# private endpoints, statistics on request), that recorded answers of the same request lack too, or, last, the addresses
# of services that are not here.
NOT_SHOWN = {
    ACCOUNTS: {
        *(f"properties.primaryEndpoints.{service}" for service in ("blob", "dfs", "queue", "table", "web")),
        *("properties.accountMigrationInProgress", "properties.blobRestoreStatus", "properties.failoverInProgress"),
        *("properties.geoReplicationStats", "properties.isSkuConversionBlocked", "properties.lastGeoFailoverTime"),
        *("properties.secondaryEndpoints", "properties.secondaryLocation", "properties.statusOfSecondary"),
        *("properties.storageAccountSkuConversionStatus", "systemData"),
    },
    f"{ACCOUNTS}/fileServices": {"systemData"},
    f"{ACCOUNTS}/fileServices/shares": {
        *("properties.accessTierStatus", "properties.deleted", "properties.deletedTime", "properties.leaseDuration"),
        *("properties.includedBurstIops", "properties.maxBurstCreditsForIops", "properties.remainingRetentionDays"),
        *("properties.nextAllowedProvisionedBandwidthDowngradeTime", "properties.nextAllowedQuotaDowngradeTime"),
        *("properties.nextAllowedProvisionedIopsDowngradeTime", "properties.shareUsageBytes"),
        *("properties.snapshotTime", "properties.version", "systemData"),
    },
    "Microsoft.OperationalInsights/workspaces": {
        *("properties.features.associations", "properties.features.unifiedSentinelBillingOnly"),
        *("properties.privateLinkScopedResources", "systemData"),
    },
    "Microsoft.App/managedEnvironments": {"properties.deploymentErrors", "properties.privateEndpointConnections"},
    "Microsoft.App/managedEnvironments/storages": {"systemData"},
    "Microsoft.App/containerApps": {"properties.deploymentErrors"},
}


def differences(schema: schemas.Schema, value: Any, own: dict[str, Any], path: str = "") -> tuple[set[str], set[str]]:
    """The paths of properties that the schema does not know, and of read-only ones that are not shown."""
    own = schema.resolved(own)
    unknown: set[str] = set()
    absent: set[str] = set()
    parts: list[tuple[Any, Any, str]] = []
    if isinstance(value, list):
        parts = [(item, own.get("items", {}), path) for item in value]
    elif isinstance(value, dict) and "properties" in own:
        members, place = own["properties"], f"{path}." if path else ""
        closed = own.get("additionalProperties") is False
        unknown = {place + name for name in value if closed and name not in members}
        absent = {place + name for name, member in members.items() if member.get("readOnly") and name not in value}
        parts = [(item, members[name], place + name) for name, item in value.items() if name in members]
    for part in parts:
        more_unknown, more_absent = differences(schema, *part)
        unknown |= more_unknown
        absent |= more_absent
    return unknown, absent


def test_every_schema_is_a_schema_and_belongs_to_a_type_that_is_here(stand_in: RunningStandIn) -> None:
    writer = arm(stand_in)
    files = sorted(schemas.FOLDER.glob("*/*.json"))
    assert len(files) == 16
    for path in files:
        name, _, version = path.stem.partition("@")
        resource_type = f"{path.parent.name}/{name.replace('.', '/')}"
        schema = schemas.load(resource_type, version)
        assert schema is not None
        assert schema.title == f"{resource_type}@{version}"
        Draft202012Validator.check_schema(schema.root)
        provider = writer.get(f"/providers/{path.parent.name}")
        (here,) = [each for each in provider["resourceTypes"] if each["resourceType"] == name.replace(".", "/")]
        assert version in here["apiVersions"]


@pytest.mark.parametrize(
    ("version", "taken"),
    [
        ("2024-03-01", "2024-03-01"),
        ("2024-10-02-preview", "2025-01-01"),
        ("2025-07-01", "2025-07-01"),
        ("2026-07-01", "2026-01-01"),
    ],
)
def test_an_api_version_without_a_schema_takes_the_next_newer_one(version: str, taken: str) -> None:
    schema = schemas.load("microsoft.app/containerapps", version)
    assert schema is not None
    assert schema.title == f"Microsoft.App/containerApps@{taken}"
    assert schemas.load("Microsoft.App/jobs", version) is None


@pytest.mark.parametrize("resource_type", list(NOT_SHOWN))
def test_an_answer_has_what_the_schema_has(world: World, resource_type: str) -> None:
    of_apps = resource_type.startswith("Microsoft.App/")
    for version in STABLE_APPS if of_apps else [world.version(resource_type)]:
        schema = schemas.load(resource_type, version)
        assert schema is not None
        shown = world.writer.get(world.ids[resource_type], version)
        assert {"id", "name", "type", "properties"} <= set(shown)
        unknown, absent = differences(schema, shown, schema.root)
        assert unknown == {"id", "name", "type"}, version
        assert absent <= NOT_SHOWN[resource_type], version
        errors = schema.validator.iter_errors({key: value for key, value in shown.items() if value is not None})
        assert [error.json_path for error in errors if error.validator in ("type", "enum") and error.instance] == []


@pytest.mark.parametrize("resource_type", list(NOT_SHOWN))
def test_what_was_shown_may_be_sent_back(world: World, resource_type: str) -> None:
    before = world.settled(resource_type)
    body = before
    if resource_type.endswith("/storages"):
        # The key alone is never shown.
        body = before | {"properties": {"azureFile": before["properties"]["azureFile"] | {"accountKey": "key"}}}
    # The Azure CLI adds the group.
    answer = world.put(resource_type, {**body, "resourceGroup": "rg", "systemData": {"createdBy": "somebody"}})
    assert answer.status_code in (200, 201), answer.text
    after = world.settled(resource_type)
    written = ("systemData", "etag")
    assert {key: value for key, value in after.items() if key not in (*written, "properties")} == {
        key: value for key, value in before.items() if key not in (*written, "properties")
    }
    times = ("modifiedDate", "lastModifiedTime", "sku")
    assert {key: value for key, value in after["properties"].items() if key not in times} == {
        key: value for key, value in before["properties"].items() if key not in times
    }


def changed(body: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """The body with another value at the path; `...` takes it away."""
    *way, last = path.split(".")
    at: Any = body
    for step in way:
        at = at[int(step)] if step.isdigit() else at.setdefault(step, {})
    if value is ...:
        del at[last]
    else:
        at[last] = value
    return body


CONTAINER = "properties.template.containers.0"
INVALID, CONTENT = "InvalidValuesForRequestParameters", "InvalidRequestContent"
REFUSED: list[tuple[str, str, Any, str, str]] = [
    (ACCOUNTS, "sku", ..., INVALID, "invalid: sku."),
    (ACCOUNTS, "kind", ..., INVALID, "invalid: kind."),
    (ACCOUNTS, "kind", 5, INVALID, "invalid: kind."),
    (ACCOUNTS, "sku", {"tier": "Standard"}, INVALID, "invalid: sku.name."),
    (ACCOUNTS, "properties.minimumTlsVersion", "TLS9", INVALID, "invalid: minimumTlsVersion."),
    (ACCOUNTS, "properties.allowSharedKeyAccess", "yes", INVALID, "invalid: allowSharedKeyAccess."),
    (ACCOUNTS, "properties.allowSharedKeys", True, INVALID, "invalid: allowSharedKeys."),
    (ACCOUNTS, "properties.networkAcls", {"bypass": "None"}, INVALID, "invalid: networkAcls.defaultAction."),
    (ACCOUNTS, "properties.networkAcls", [], INVALID, "invalid: networkAcls."),
    (f"{ACCOUNTS}/fileServices", "properties.shareDeleteRetentionPolicy.days", "7", INVALID, "Policy.days."),
    (f"{ACCOUNTS}/fileServices", "properties.shareDeleteRetentionPolicy.days", 366, INVALID, "Policy.days."),
    (f"{ACCOUNTS}/fileServices", "properties.softDelete", True, INVALID, "invalid: softDelete."),
    (f"{ACCOUNTS}/fileServices/shares", "properties.shareQuota", "5", INVALID, "invalid: shareQuota."),
    (f"{ACCOUNTS}/fileServices/shares", "properties.accessTier", "Warm", INVALID, "invalid: accessTier."),
    (f"{ACCOUNTS}/fileServices/shares", "properties.quota", 5, INVALID, "invalid: quota."),
    (
        "Microsoft.OperationalInsights/workspaces",
        "properties.retentionInDays",
        "30",
        CONTENT,
        "'Error converting value '30' to an integer. Path 'properties.retentionInDays'.'",
    ),
    ("Microsoft.OperationalInsights/workspaces", "properties.retentionInDays", "[add(1, 2)]", CONTENT, "to an integer"),
    ("Microsoft.OperationalInsights/workspaces", "properties.sku", {}, CONTENT, "Required property 'name' not found"),
    ("Microsoft.OperationalInsights/workspaces", "properties.retention", 30, CONTENT, "member 'retention' on object"),
    (
        "Microsoft.App/managedEnvironments",
        "properties.workloadProfiles.0.name",
        ...,
        CONTENT,
        "Required property 'name' not found in JSON. Path 'properties.workloadProfiles[0]'.",
    ),
    ("Microsoft.App/managedEnvironments", "properties.zoneRedundant", "x", CONTENT, "'x' to a boolean"),
    ("Microsoft.App/managedEnvironments", "properties.workloadProfiles", {}, CONTENT, "{} to an array"),
    ("Microsoft.App/managedEnvironments", "properties.publicNetworkAccess", "Perhaps", CONTENT, "'Perhaps' to one of"),
    ("Microsoft.App/managedEnvironments", "properties.sku", "x", CONTENT, "member 'sku' on object of type 'Managed"),
    (
        "Microsoft.App/managedEnvironments/storages",
        "properties.azureFile.accessMode",
        "Write",
        CONTENT,
        "'Write' to one of ",
    ),
    ("Microsoft.App/managedEnvironments/storages", "properties.azureFiles", {}, CONTENT, "member 'azureFiles'"),
    ("Microsoft.App/containerApps", f"{CONTAINER}.image", ["x"], CONTENT, "['x'] to a string. Path 'properties.temp"),
    ("Microsoft.App/containerApps", f"{CONTAINER}.resources", {"cpu": "much"}, CONTENT, "'much' to a number"),
    ("Microsoft.App/containerApps", f"{CONTAINER}.iamge", "x", CONTENT, "'iamge' on object of type 'Container'"),
    (
        "Microsoft.App/containerApps",
        f"{CONTAINER}.probes",
        [{"type": "Liveness", "httpGet": {"path": "/"}}],
        CONTENT,
        "Required property 'port' not found in JSON. Path 'properties.template.containers[0].probes[0].httpGet'.",
    ),
    (
        "Microsoft.App/containerApps",
        "properties.configuration.ingress.corsPolicy",
        {"maxAge": 5},
        CONTENT,
        "Required property 'allowedOrigins' not found in JSON. Path 'properties.configuration.ingress.corsPolicy'.",
    ),
    ("Microsoft.App/containerApps", "identity", {}, CONTENT, "Required property 'type' not found in JSON"),
    ("Microsoft.App/containerApps", "properties.configuration.dapr", {"port": 1}, CONTENT, "'port' on object of"),
    ("Microsoft.App/containerApps", "tags", {"a": ["b"]}, CONTENT, "['b'] to a string. Path 'tags.a'."),
]


@pytest.mark.parametrize(("resource_type", "path", "value", "code", "words"), REFUSED)
def test_refused(world: World, resource_type: str, path: str, value: Any, code: str, words: str) -> None:
    answer = world.put(resource_type, changed(world.body(resource_type), path, value))
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["code"], words in error["message"]) == (code, True), error


def test_a_patch_needs_nothing_and_is_checked_all_the_same(world: World) -> None:
    assert world.put(ACCOUNTS, {"tags": {"a": "b"}, "sku": None, "kind": None}, "PATCH").status_code == 200
    answer = world.put(ACCOUNTS, {"properties": {"minimumTlsVersion": 1, "minimumTls": "x"}}, "PATCH")
    assert (answer.status_code, answer.json()["error"]["message"]) == (
        400,
        "Values for request parameters are invalid: minimumTls, minimumTlsVersion.",
    )
    answer = world.put("Microsoft.App/containerApps", {"properties": {"workload": "x"}}, "PATCH")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, CONTENT)


def test_counts_as_texts_and_keys_in_any_case_are_accepted_of_apps(world: World) -> None:
    body = changed(world.body("Microsoft.App/containerApps"), "properties.template.scale", {"MAXREPLICAS": "1"})
    assert world.put("Microsoft.App/containerApps", body).status_code == 201
    assert world.settled("Microsoft.App/containerApps")["properties"]["template"]["scale"]["maxReplicas"] == 1


def test_a_deployment_is_checked_before_it_starts(world: World) -> None:
    wrong = account(f"acct{unique()}", properties={"allowSharedKey": True})
    path = f"{world.group}/providers/Microsoft.Resources/deployments/wrong"
    status, error = world.writer.error("PUT", path, deployment(template([wrong])))
    assert (status, error["code"]) == (400, "InvalidTemplateDeployment")
    (preflight,) = error["details"]
    assert preflight["details"][0] == {
        "code": INVALID,
        "message": "Values for request parameters are invalid: allowSharedKey.",
        "target": wrong["name"],
    }


def test_what_is_not_known_before_the_deployment_is_taken_for_anything(world: World) -> None:
    parent = world.ids["Microsoft.OperationalInsights/workspaces"]
    later = f"[reference('{parent}', '{WORKSPACES}').retentionInDays]"
    value = template([workspace("later", properties={"retentionInDays": later})])
    shown = world.writer.deploy(world.group, deployment(value))
    assert shown["properties"]["provisioningState"] == "Succeeded", shown


def of_model(model: Any, path: str = "") -> tuple[set[str], set[str]]:
    """The members of an answer that the SDK's model has no field for, and its read-only fields that got nothing."""
    fields = getattr(model, "_attr_to_rest_field", None)
    if isinstance(model, list):
        found = [of_model(item, path) for item in model]
        return set().union(*(one for one, _ in found)), set().union(*(other for _, other in found))
    if fields is None:
        return set(), set()
    place = f"{path}." if path else ""
    names = {field._rest_name: field for field in fields.values()}
    unknown = {place + key for key in model if key not in names}
    absent = {place + name for name, field in names.items() if field._visibility == ["read"] and name not in model}
    for attribute, field in fields.items():
        more_unknown, more_absent = of_model(getattr(model, attribute), place + field._rest_name)
        unknown |= more_unknown
        absent |= more_absent
    return unknown, absent


def test_the_models_of_the_sdks_hold_what_is_shown(world: World, stand_in: RunningStandIn) -> None:
    """At the SDKs' own API versions, which are newer than the schemas."""
    group, name = world.group.rpartition("/")[2], world.ids[ACCOUNTS].rpartition("/")[2]
    storage = storage_client(stand_in)
    with ContainerAppsAPIClient(**client_settings(stand_in.announcement)) as apps:
        shown = {
            "Microsoft.App/containerApps": apps.container_apps.get(group, "app"),
            "Microsoft.App/managedEnvironments": apps.managed_environments.get(group, "env"),
            "Microsoft.App/managedEnvironments/storages": apps.managed_environments_storages.get(
                group, "env", "storage"
            ),
            ACCOUNTS: storage.storage_accounts.get_properties(group, name),
            f"{ACCOUNTS}/fileServices": storage.file_services.get_service_properties(group, name),
            f"{ACCOUNTS}/fileServices/shares": storage.file_shares.get(group, name, "share"),
        }
        found = {resource_type: of_model(model) for resource_type, model in shown.items()}
    # The service itself shows these two, as recorded.
    assert {resource_type: unknown for resource_type, (unknown, _) in found.items() if unknown} == {
        "Microsoft.App/containerApps": {"properties.delegatedIdentities"},
        "Microsoft.App/managedEnvironments": {"properties.workloadProfiles.enableFips"},
    }
    # Read-only in the SDK's eyes, and shown only where they were set.
    policies = {f"properties.{policy}" for policy in ("keyPolicy", "sasPolicy", "customDomain")}
    for resource_type, (_, absent) in found.items():
        assert absent - policies <= NOT_SHOWN[resource_type]

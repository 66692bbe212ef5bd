"""Faults on demand: the switch and its rules, and each fault in the shape of the service that is asked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import httpx
import pytest
from azure.core.exceptions import HttpResponseError
from azure.mgmt.appcontainers import ContainerAppsAPIClient
from azure.storage.fileshare import ShareClient

from infra.emulator.faults import BadRule, Faults, of_text
from tests.conftest import ROOT, RunningStandIn, running_stand_in
from tests.faults import Switch
from tests.resource_manager_client import (
    Arm,
    account,
    arm,
    client_settings,
    deployment,
    deployments_client,
    template,
    workspace,
)
from tests.share_on_stand_in import new_share, sdk_share
from tests.waiting import until

APPS = "2025-07-01"


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStandIn]:
    """A stand-in of this module's own: its faults meet no other test."""
    with running_stand_in(tmp_path_factory.mktemp("faulty") / "state") as running:
        yield running


@pytest.fixture(scope="module")
def switch(faulty: RunningStandIn) -> Switch:
    return Switch(faulty)


@pytest.fixture(scope="module")
def manager(faulty: RunningStandIn) -> Arm:
    return arm(faulty)


@pytest.fixture(scope="module")
def share(faulty: RunningStandIn) -> Iterator[ShareClient]:
    with new_share(faulty, "faults"), sdk_share(faulty, "faults") as made:
        yield made


# --- the rules


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({}, "fault is missing; it is one of latency,"),
        ({"fault": "flood"}, '"flood" is not known'),
        ({"fault": "latency"}, "seconds is missing"),
        ({"fault": "latency", "seconds": -1}, "seconds must be a number of seconds from 0 to 3600, not -1"),
        ({"fault": "latency", "seconds": True}, "seconds must be"),
        ({"fault": "throttled", "retry_after_seconds": 0.5}, "retry_after_seconds must be a whole number"),
        ({"fault": "throttled", "retry_after": 1}, "retry_after is not known here; the keys are path,"),
        ({"fault": "internal-error", "path": "("}, 'path must be a regular expression, not "("'),
        ({"fault": "internal-error", "count": 0}, "count must be a whole number, 1 or more"),
        ({"fault": "internal-error", "after": -1}, "after must be"),
        ({"fault": "internal-error", "probability": 1.5}, "probability must be a number over 0 and up to 1"),
        ({"fault": "internal-error", "seed": 1}, "seed says nothing without probability"),
        ({"fault": "internal-error", "method": "PUT"}, "method must be a list of some of GET"),
        (
            {"fault": "dropped-connection", "when": "after", "service": "ingress"},
            "when after is not possible for the service ingress",
        ),
        ({"fault": "expired-token", "service": "ingress"}, "expired-token is not possible for the service ingress"),
        (
            {"fault": "internal-error", "service": "queues"},
            "service must be one of resource-manager, files, identity, ingress",
        ),
        ({"fault": "dropped-connection"}, "when is missing; it must be before or after"),
        ({"fault": "refused", "status": 200, "code": "X", "message": "x"}, "status must be an HTTP status"),
        ({"fault": "failed-operation", "code": " "}, "code must be a text that is not empty"),
        ({"fault": "missing-quota", "quota": "GPUs"}, "quota must be one of ManagedEnvironmentCount"),
        ("latency", "a rule is a JSON object"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused_with_its_key_and_value(rule: Any, words: str) -> None:
    with pytest.raises(BadRule) as caught:
        Faults().add(rule)
    assert words in str(caught.value)


def test_all_problems_are_told_at_once_and_nothing_is_added(switch: Switch) -> None:
    rules = [{"fault": "internal-error"}, {"fault": "latency"}, {"fault": "refused", "status": 1}]
    with switch.on():
        answer = switch.request("POST", body=rules)
        assert answer.status_code == 400
        problems = answer.json()["problems"]
        assert [problem.partition(":")[0] for problem in problems] == [
            "rule 2 (latency)",
            *["rule 3 (refused)"] * 3,
        ]
        assert switch.rules() == []


def test_rules_are_shown_and_removed_one_by_one(switch: Switch) -> None:
    with switch.on({"fault": "throttled", "path": "nowhere"}, {"fault": "latency", "seconds": 0, "path": "nowhere"}):
        first, second = switch.rules()
        assert first == {
            "id": first["id"],
            "retry_after_seconds": 1,
            "fault": "throttled",
            "path": "nowhere",
            "met": 0,
            "fired": 0,
        }
        assert switch.request("DELETE", f"/{first['id']}").status_code == 200
        assert [rule["id"] for rule in switch.rules()] == [second["id"]]
        assert switch.request("DELETE", f"/{first['id']}").status_code == 404
        assert switch.request("PUT").status_code == 405
        assert switch.request("POST", body="text").status_code == 400
    assert switch.rules() == []


def test_only_who_may_write_may_switch(faulty: RunningStandIn) -> None:
    address = faulty.announcement["authority"] + "/stand-in/faults"
    reader = {"Authorization": f"Bearer {faulty.token(reader=True)}"}
    assert httpx.get(address, verify=faulty.trust, timeout=60).status_code == 401
    assert httpx.delete(address, verify=faulty.trust, timeout=60, headers=reader).status_code == 403


def test_rules_from_the_environment_hold_from_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = [{"fault": "unavailable", "service": "identity", "count": 2, "retry_after_seconds": 7}]
    monkeypatch.setenv("STAND_IN_FAULTS", json.dumps(rules))
    with running_stand_in(tmp_path / "state") as running:
        address = f"{running.announcement['authority']}/{running.announcement['tenant']}/oauth2/v2.0/token"
        answers = [httpx.post(address, verify=running.trust, timeout=60) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [503, 503, 400]
    assert answers[0].headers["retry-after"] == "7"


def test_bad_rules_in_the_environment_end_the_start_with_words(tmp_path: Path) -> None:
    for text, words in (("[{", "this is not JSON"), ('[{"fault": "latency"}]', "seconds is missing")):
        result = subprocess.run(
            [sys.executable, "-m", "infra.emulator", "--state", str(tmp_path / "state")],
            cwd=ROOT,
            env=os.environ | {"STAND_IN_FAULTS": text},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert result.returncode == 2
        assert result.stderr.startswith("STAND_IN_FAULTS: ")
        assert words in result.stderr
        assert "Traceback" not in result.stderr
    assert of_text(" ") == []


def test_count_after_method_path_and_service(switch: Switch, manager: Arm) -> None:
    group = manager.group()
    rule = {"fault": "internal-error", "service": "resource-manager", "method": ["GET", "PUT"], "path": group[-12:]}
    with switch.on({**rule, "after": 1, "count": 2}):
        assert [manager.request("GET", group).status_code for _ in range(4)] == [200, 500, 500, 200]
        assert manager.request("HEAD", group).status_code == 204
        assert manager.request("GET", "/locations").status_code == 200
        (shown,) = switch.rules()
        assert (shown["met"], shown["fired"]) == (4, 2)


def test_a_seed_brings_the_same_sequence_back(switch: Switch, manager: Arm) -> None:
    def sequence(seed: int) -> list[int]:
        with switch.on({"fault": "unavailable", "path": "/locations", "probability": 0.5, "seed": seed}):
            return [manager.request("GET", "/locations").status_code for _ in range(24)]

    first = sequence(7)
    assert 5 <= first.count(503) <= 19
    assert sequence(7) == first
    assert sequence(8) != first


# --- the shapes


def test_the_resource_manager_says_it_in_its_words(switch: Switch, manager: Arm) -> None:
    expected: dict[str, tuple[int, str]] = {
        "throttled": (429, "SubscriptionRequestsThrottled"),
        "unavailable": (503, "ServiceUnavailable"),
        "internal-error": (500, "InternalServerError"),
        "expired-token": (401, "ExpiredAuthenticationToken"),
    }
    for kind, (status, code) in expected.items():
        with switch.on({"fault": kind, "count": 1}):
            answer = manager.request("GET", "/locations")
        assert answer.status_code == status
        assert answer.json()["error"]["code"] == code
        assert answer.headers["x-ms-failure-cause"] == "gateway"
        assert answer.headers["x-ms-request-id"]
        assert ("retry-after" in answer.headers) == (status in (429, 503))
    policy = {"status": 403, "code": "RequestDisallowedByPolicy", "message": "Not here."}
    with switch.on({"fault": "refused", **policy}):
        assert manager.error("GET", "/locations") == (403, {"code": policy["code"], "message": policy["message"]})


def test_the_file_service_says_it_in_its_words(switch: Switch, faulty: RunningStandIn) -> None:
    address = f"{faulty.announcement['resource_manager']}/anyaccount/share?restype=share"
    expected = {
        "throttled": (429, "TooManyRequests"),
        "unavailable": (503, "ServerBusy"),
        "internal-error": (500, "InternalError"),
        "expired-token": (401, "InvalidAuthenticationInfo"),
    }
    headers = {"x-ms-version": "2026-02-06", "Authorization": "Bearer anything"}
    for kind, (status, code) in expected.items():
        with switch.on({"fault": kind, "service": "files"}):
            answer = httpx.get(address, headers=headers, verify=faulty.trust, timeout=60)
        assert answer.status_code == status
        assert answer.headers["x-ms-error-code"] == code
        assert answer.headers["x-ms-version"] == "2026-02-06"
        assert ElementTree.fromstring(answer.content.decode("utf-8-sig")).findtext("Code") == code
        assert ("retry-after" in answer.headers) == (status in (429, 503))


def test_the_token_endpoint_says_it_in_its_words(switch: Switch, faulty: RunningStandIn) -> None:
    address = f"{faulty.announcement['authority']}/{faulty.announcement['tenant']}/oauth2/v2.0/token"
    expected = {"throttled": (429, 90055), "unavailable": (503, 90033), "internal-error": (500, 50000)}
    for kind, (status, number) in expected.items():
        with switch.on({"fault": kind, "service": "identity"}):
            answer = httpx.post(address, verify=faulty.trust, timeout=60)
        assert answer.status_code == status
        assert answer.json()["error_codes"] == [number]
    refused = {"fault": "refused", "status": 400, "code": "AADSTS700082", "message": "Expired."}
    with switch.on({**refused, "service": "identity"}):
        assert httpx.post(address, verify=faulty.trust, timeout=60).json()["error_codes"] == [700082]


def test_latency_adds_up_and_a_second_fault_comes_late(switch: Switch, manager: Arm) -> None:
    late = {"fault": "latency", "seconds": 0.3, "path": "/locations"}
    with switch.on(late, late, {"fault": "internal-error", "path": "/locations"}):
        begun = time.monotonic()
        assert manager.request("GET", "/locations").status_code == 500
        assert time.monotonic() - begun >= 0.6


@pytest.mark.parametrize(("when", "status"), [("before", 404), ("after", 200)])
def test_a_connection_is_dropped_before_or_after_the_effect(
    switch: Switch, manager: Arm, when: str, status: int
) -> None:
    group = f"/resourceGroups/rg-{uuid.uuid4().hex[:8]}"
    with switch.on({"fault": "dropped-connection", "when": when, "method": ["PUT"]}):
        with pytest.raises(httpx.TransportError):
            manager.request("PUT", group, {"location": "eastus"})
        assert manager.request("GET", group).status_code == status


def test_a_full_share_refuses_what_makes_it_fuller_and_nothing_else(switch: Switch, share: ShareClient) -> None:
    file = share.get_file_client("full.bin")
    file.upload_file(b"before")
    with switch.on({"fault": "full-share", "path": f"/{share.share_name}/"}):
        with pytest.raises(HttpResponseError) as caught:
            file.upload_range(b"more", offset=0, length=4)
        assert getattr(caught.value, "error_code", None) == "ShareSizeLimitReached"
        with pytest.raises(HttpResponseError):
            share.get_file_client("new.bin").create_file(1)
        assert file.download_file().readall() == b"before"
        file.rename_file("renamed.bin")
        share.get_file_client("renamed.bin").delete_file()
        assert switch.fired() == [2]


def test_tokens_that_are_good_for_a_second(switch: Switch, faulty: RunningStandIn, manager: Arm) -> None:
    address = f"{faulty.announcement['resource_manager']}/subscriptions?api-version=2022-12-01"

    def answer(token: str) -> httpx.Response:
        return httpx.get(address, headers={"Authorization": f"Bearer {token}"}, verify=faulty.trust, timeout=60)

    with switch.on({"fault": "short-token", "seconds": 3000, "count": 1}, {"fault": "short-token", "seconds": 1}):
        good, short = faulty.token(), faulty.token()
    until(lambda: answer(short).status_code == 401)
    assert answer(short).json()["error"]["code"] == "ExpiredAuthenticationToken"
    assert answer(good).status_code == 200


# --- operations and quotas


@pytest.fixture
def apps(faulty: RunningStandIn) -> Iterator[ContainerAppsAPIClient]:
    settings = client_settings(faulty.announcement)
    with ContainerAppsAPIClient(**settings) as client:
        yield client


def test_an_operation_of_a_deployment_fails_or_takes_its_time(
    switch: Switch, faulty: RunningStandIn, manager: Arm
) -> None:
    group = manager.group()
    body: Any = deployment(template([workspace("slow-workspace")]))
    failing = {"fault": "failed-operation", "path": "/workspaces/slow", "code": "NoRoom", "message": "No room."}
    with switch.on({"fault": "slow-operation", "path": "/workspaces/", "seconds": 1}, {**failing, "count": 1}):
        begun = time.monotonic()
        with pytest.raises(HttpResponseError) as caught:
            deployments_client(faulty).deployments.begin_create_or_update(group.rpartition("/")[2], "d", body).result()
        assert time.monotonic() - begun >= 1
        assert "NoRoom" in str(caught.value)
    shown = manager.get(f"{group}/providers/Microsoft.Resources/deployments/d")["properties"]
    assert shown["provisioningState"] == "Failed"
    assert shown["error"]["details"][0]["details"][0]["code"] == "NoRoom"
    assert manager.deploy(group, body)["properties"]["provisioningState"] == "Succeeded"


def test_a_deployment_itself_fails_before_its_resources(switch: Switch, manager: Arm) -> None:
    group = manager.group()
    with switch.on({"fault": "failed-operation", "path": "/deployments/", "code": "DeploymentQuotaExceeded"}):
        shown = manager.deploy(group, deployment(template([account("neverthere01")])))["properties"]
    assert shown["error"]["details"][0]["code"] == "DeploymentQuotaExceeded"
    assert manager.get(f"{group}/resources")["value"] == []


def test_an_account_whose_creation_failed_is_not_there(switch: Switch, manager: Arm) -> None:
    group = manager.group()
    name = f"acc{uuid.uuid4().hex[:12]}"
    with switch.on({"fault": "failed-operation", "path": f"/storageAccounts/{name}", "count": 1}):
        shown = manager.deploy(group, deployment(template([account(name)])))["properties"]
    assert shown["provisioningState"] == "Failed"
    assert manager.get(f"{group}/resources")["value"] == []
    again = manager.deploy(group, deployment(template([account(name)])))["properties"]
    assert again["provisioningState"] == "Succeeded"


def test_a_preview_fails_as_previews_do(switch: Switch, manager: Arm) -> None:
    with switch.on({"fault": "failed-operation", "path": "what-if", "code": "Broken", "message": "Not now."}):
        group = manager.group()
        path = f"{group}/providers/Microsoft.Resources/deployments/w/whatIf"
        answer = manager.poll(manager.request("POST", path, deployment(template([]))))
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "Broken")


def _made(make: Callable[..., Any], *arguments: Any) -> Any:
    return make(*arguments).result()


def test_environments_and_apps_fail_and_are_mended_by_the_next_request(
    switch: Switch, manager: Arm, apps: ContainerAppsAPIClient
) -> None:
    group = manager.group().rpartition("/")[2]
    body: Any = {"location": "eastus", "properties": {}}
    failing = {"fault": "failed-operation", "path": "/managedEnvironments/", "count": 1}
    capacity = {"code": "ManagedEnvironmentNoAvailableCapacityInRegion", "message": "No capacity in eastus."}
    with switch.on({**failing, **capacity}):
        with pytest.raises(HttpResponseError) as caught:
            _made(apps.managed_environments.begin_create_or_update, group, "env", body)
        assert capacity["message"] in str(caught.value)
        assert apps.managed_environments.get(group, "env").as_dict()["properties"]["provisioningState"] == "Failed"
        environment = _made(apps.managed_environments.begin_create_or_update, group, "env", body)
    container = {"name": "app", "image": "docker.io/library/python:3.12", "command": ["sleep", "60"]}
    app: Any = {
        "location": "eastus",
        "properties": {"environmentId": environment.id, "template": {"containers": [container]}},
    }
    expired = {"code": "ContainerAppOperationError", "message": "Operation expired."}
    with switch.on({"fault": "failed-operation", "path": "/containerapps/", "count": 1, **expired}):
        with pytest.raises(HttpResponseError) as caught:
            _made(apps.container_apps.begin_create_or_update, group, "app", app)
        assert expired["message"] in str(caught.value)
        assert apps.container_apps.get(group, "app").as_dict()["properties"]["provisioningState"] == "Failed"
        _made(apps.container_apps.begin_create_or_update, group, "app", app)
    with switch.on({"fault": "failed-operation", "path": "/containerapps/", "count": 1, **expired}):
        with pytest.raises(HttpResponseError):
            apps.container_apps.begin_delete(group, "app").result()
        assert apps.container_apps.get(group, "app").name == "app"
    apps.container_apps.begin_delete(group, "app").result()


def test_a_quota_of_environments_that_is_used_up(switch: Switch, manager: Arm, apps: ContainerAppsAPIClient) -> None:
    group = manager.group().rpartition("/")[2]
    body: Any = {"location": "northeurope", "properties": {}}
    with switch.on({"fault": "missing-quota", "quota": "ManagedEnvironmentCount", "limit": 0}):
        with pytest.raises(HttpResponseError) as caught:
            _made(apps.managed_environments.begin_create_or_update, group, "env", body)
        assert "MaxNumberOfRegionalEnvironmentsInSubExceeded" in str(caught.value)
        assert "cannot have more than 0 environments" in str(caught.value)
        limits = {usage.name.value: usage.limit for usage in apps.usages.list("northeurope")}
        assert limits["ManagedEnvironmentCount"] == 0


def test_a_quota_of_cores_that_is_used_up_keeps_replicas_from_starting(
    switch: Switch, faulty: RunningStandIn, manager: Arm, apps: ContainerAppsAPIClient
) -> None:
    group = manager.group().rpartition("/")[2]
    body: Any = {"location": "eastus", "properties": {}}
    environment = _made(apps.managed_environments.begin_create_or_update, group, "env", body)
    container = {"name": "app", "image": "docker.io/library/python:3.12", "command": ["sleep", "60"]}
    scale = {"minReplicas": 1}
    app: Any = {
        "location": "eastus",
        "properties": {"environmentId": environment.id, "template": {"containers": [container], "scale": scale}},
    }
    quota = "ManagedEnvironmentConsumptionCores"
    with switch.on({"fault": "missing-quota", "quota": quota, "limit": 0}):
        _made(apps.container_apps.begin_create_or_update, group, "app", app)
        usages = {usage.name.value: usage.limit for usage in apps.managed_environment_usages.list(group, "env")}
        assert usages[quota] == 0
        events = faulty.state / "apps" / f"{group}-app" / "events.log"
        until(lambda: events.exists() and "Maximum Allowed Cores exceeded" in events.read_text())
        assert switch.fired()[0] >= 1
    revision = f"/subscriptions/{manager.subscription}/resourceGroups/{group}/providers/Microsoft.App"
    revision += "/containerApps/app/revisions"

    def is_running() -> bool:
        (shown,) = manager.get(revision, APPS)["value"]
        return shown["properties"]["runningState"] in ("Running", "RunningAtMaxScale")

    until(is_running)
    apps.container_apps.begin_delete(group, "app").result()

"""Recorded conversations with the real resource manager, held with the stand-in and compared by rules.

Compared: status, the media type, which of the headers of asynchronous work and of errors are there, members and their
order, error codes and messages. Not compared: ids, names, times, keys and addresses, which differ in each run; how
often a poll is repeated; of primaryEndpoints all but `file`, since only files are served.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import httpx
import pytest

from tests.conftest import RunningStandIn
from tests.recordings_tally import RECORDINGS, TALLY, LeftOut
from tests.resource_manager_client import (
    STORAGE,
    SUBSCRIPTION_SCHEMA,
    Arm,
    account,
    arm,
    deployment,
    template,
    unique,
    workspace,
)
from tests.waiting import until

_POLLED = re.compile(r"/(\w*operationstatuses|\w*operationresults|asyncoperations)/", re.IGNORECASE)
_COMPARED_HEADERS = ("location", "azure-asyncoperation", "x-ms-failure-cause")
_GOING_ON = {"InProgress", "Running", "Accepted"}
# Members whose value is different in each run.
_FREE = {
    *("id", "name", "resourceId", "resourceName", "timestamp", "duration", "correlationId", "templateHash", "etag"),
    *("creationTime", "key1", "key2", "lastEnabledTime", "file", "lastModifiedTime", "accessTierChangeTime", "value"),
    *("customerId", "lastSkuUpdate", "quotaNextResetTime", "createdDate", "modifiedDate", "startTime", "endTime"),
    *("primarySharedKey", "secondarySharedKey", "deleteAfterTime", "DeleteAfter", "CreatedAt", "trackingId"),
    *("operationId", "serviceRequestId", "defaultDomain", "staticIp", "version", "eventStreamEndpoint"),
    *("customDomainVerificationId", "createdAt", "lastModifiedAt", "createdByType", "lastModifiedByType"),
}
# What the service shows of an account today and did not yet in 2023.
_NEWER = {"allowCrossTenantReplication", "ipv6Rules"}


_NETWORK = "resources of Microsoft.Network, which are 501: the product has none"
NOT_REPLAYED = (
    LeftOut("deployments", _NETWORK, 2, (1, 2, 3, 4, 5, 6)),
    LeftOut("deployments", _NETWORK, 4),
    LeftOut("deployments", "storage accounts by an API version of 2015 with other members", 3, (1, 3, 4)),
    LeftOut("deployments", "the operations of a deployment whose template is not recorded", 5, (0, 1, 2)),
    LeftOut("errors", "policies, role assignments and their principals: 501, the product has none", 0),
    LeftOut("errors", "Microsoft.ContainerService: 501, the product has none", 5),
    LeftOut("errors", "an app with more than one container: 501, the product has one", 4),
    LeftOut("errors", "authConfigs of apps: 501, the product has none", 6, (1,)),
    LeftOut("errors", "policies fail a nested deployment of a template spec: 501, the product has none", 8),
    LeftOut("errors", "deployment stacks: 501, the product has none", 10),
    LeftOut("other-resources", "user-assigned identities: 501, the product has none", 2),
    LeftOut("other-resources", "role assignments: 501, the product has none", 3),
    LeftOut("providers", "Microsoft.ClassicInfrastructureMigrate: 501, and nothing is unregistered by the product"),
    LeftOut("resource-groups", "the group's own template is not exported (501)", 0, (10,)),
    LeftOut(
        "resource-groups",
        "a look at a group while it is deleted, which here has nothing in it and is gone at once",
        1,
        (0,),
    ),
    LeftOut("resource-groups", "locks: 501, the product has none", 4),
    LeftOut("what-if", "a template spec (templateLink), which is 501; for its delta see test_recorded_deltas", 1),
    LeftOut("what-if", "tenant scope: nothing is deployed there; for its delta see test_recorded_deltas", 2),
    LeftOut("what-if", "types that are not here; for the deltas see test_recorded_deltas", 3),
)
"""What is not asked again, and why. Polls that an operation had not ended by are not either: see on_the_way()."""


class Conversation(list[dict[str, Any]]):
    """The interactions of one recording, and where it stands: room, file, number."""

    def __init__(self, room: str, file: str, number: int, interactions: list[dict[str, Any]]) -> None:
        super().__init__(interactions)
        self.at = (room, file, number)


def conversation(file: str, number: int) -> Conversation:
    """One recording in a file."""
    recordings = json.loads((RECORDINGS / "resource-manager" / f"{file}.json").read_text())["recordings"]
    return Conversation("resource-manager", file, number, recordings[number]["interactions"])


def of_apps(file: str) -> Conversation:
    """A conversation about what stands around container apps."""
    document = json.loads((RECORDINGS / "container-apps" / f"{file}.json").read_text())
    return Conversation("container-apps", file, 0, document["interactions"])


def on_the_way(asked: dict[str, Any]) -> bool:
    """Whether it is a poll that the operation had not ended by: what it said depends on the time alone."""
    body = asked.get("response_body")
    going_on = asked["status"] == 202 or (isinstance(body, dict) and body.get("status") in _GOING_ON)
    return bool(_POLLED.search(asked.get("url", ""))) and going_on


def _pattern(text: Any) -> Any:
    """A message without the parts that are of one request or of one day."""
    if not isinstance(text, str):
        return text
    text = re.sub(r"RequestId:[0-9a-f-]{36}\nTime:\S+", "RequestId:?\nTime:?", text)
    return re.sub(
        r"(available regions is|supported api-versions are|supported locations are) '[^']*'?", r"\1 '?'", text
    )


def differences(ours: Any, recorded: Any, path: str = "") -> Iterator[str]:
    """Where members, their order or values differ."""
    if isinstance(recorded, dict) and isinstance(ours, dict):
        wanted = ["file"] if path.endswith(".primaryEndpoints") else list(recorded)
        members = [name for name in ours if name in recorded or name not in _NEWER]
        if members != wanted:
            yield f"{path}: members {members}, recorded {wanted}"
        for name in wanted:
            if name in ours and not (name in _FREE and isinstance(recorded[name], str)):
                yield from differences(ours[name], recorded[name], f"{path}.{name}")
    elif isinstance(recorded, list) and isinstance(ours, list):
        if len(recorded) != len(ours):
            yield f"{path}: {len(ours)} elements, recorded {len(recorded)}"
        for index, (one, other) in enumerate(zip(ours, recorded, strict=False)):
            yield from differences(one, other, f"{path}[{index}]")
    elif _pattern(ours) != _pattern(recorded) and "<scrubbed>" not in str(recorded):
        yield f"{path}: {ours!r}, recorded {recorded!r}"


class Replay:
    """Asks the stand-in what a recording asked the service. `names` maps recorded texts to ours."""

    def __init__(self, writer: Arm, names: dict[str, str]) -> None:
        self._arm, self._names = writer, names
        self._address = ""
        self.compared = 0

    def hold(
        self,
        interactions: Conversation,
        *,
        places: Iterable[int] | None = None,
        passed_over: tuple[int, ...] = (),
        but: Mapping[int, tuple[str, ...]] | None = None,
    ) -> None:
        """Asks one after the other (`places`: these only) and compares each answer.

        `passed_over` are numbers of interactions; `but` has the differences that are allowed, and must be there, by
        the number: their paths.
        """
        for number, asked in enumerate(interactions):
            if number in passed_over or on_the_way(asked) or (places is not None and number not in places):
                continue
            answer = self._ask(asked)
            where = f"{number} {asked['method']} {asked['url'][:150]}"
            assert answer.status_code == asked["status"], f"{where}: {answer.text}"
            allowed = (but or {}).get(number, ())
            self._compare(answer, asked, where, allowed)
            TALLY.note((*interactions.at, number), agreed=not allowed)
            self.compared += 1

    def _ask(self, asked: dict[str, Any]) -> httpx.Response:
        if _POLLED.search(asked["url"]):
            end = time.monotonic() + 60
            while True:
                answer = self._arm.request("GET", self._address)
                going_on = answer.status_code == 202 or (
                    answer.content and answer.json().get("status", "") in _GOING_ON
                )
                if not going_on or time.monotonic() > end:
                    return answer
                time.sleep(0.05)
        body = asked["request_body"]
        text = None if body is None else body if isinstance(body, str) else json.dumps(body)
        url = self._ours(asked["url"].removeprefix("https://management.azure.com"))
        headers = {"Content-Type": "application/json"} if text is not None else {}
        content = None if text is None else self._ours(text).encode()
        answer = self._arm.http.request(asked["method"], url, content=content, headers=headers)
        address = answer.headers.get("azure-asyncoperation") or answer.headers.get("location")
        self._address = address or self._address
        return answer

    def _compare(self, answer: httpx.Response, asked: dict[str, Any], where: str, but: tuple[str, ...]) -> None:
        recorded = asked["response_headers"]
        for name in _COMPARED_HEADERS:
            assert (name in answer.headers) == (name in recorded) or f"header {name}" in but, f"{where}: header {name}"
        if "content-type" in recorded:
            assert answer.headers["content-type"].split(";")[0] == recorded["content-type"].split(";")[0], where
        if not asked["response_body"]:
            assert answer.content == b"", where
            return
        wanted = json.loads(self._ours(json.dumps(asked["response_body"])))
        found = list(differences(answer.json(), wanted))
        unexpected = [difference for difference in found if difference.partition(": ")[0] not in but]
        assert not unexpected, f"{where}:\n" + "\n".join(unexpected)
        paths = {difference.partition(": ")[0] for difference in found}
        assert paths == {path for path in but if not path.startswith("header ")}, f"{where}: {paths}"

    def _ours(self, text: str) -> str:
        for recorded, ours in self._names.items():
            text = text.replace(recorded, ours)
        return text


@pytest.fixture(scope="module")
def writer(stand_in: RunningStandIn) -> Arm:
    return arm(stand_in)


NO_SUBSCRIPTION = "00000000-0000-0000-0000-000000000000"


def _replay(writer: Arm, **names: str) -> Replay:
    return Replay(writer, {NO_SUBSCRIPTION: writer.subscription, **names})


def test_a_subscription_deployment_from_preview_to_outputs(writer: Arm) -> None:
    suffix = unique()
    names = {"5ca082f3-38f2-4bb0-b0a4-c401184ae3a8": writer.subscription, "azdtest-d8523ca": f"azd{suffix}"}
    # What the recorded account's name was made of is not the same here.
    replay = Replay(writer, names)
    replay.hold(conversation("what-if", 0))
    replay.hold(conversation("deployments", 0))
    replay.hold(conversation("deployments", 1))
    replay.hold(conversation("resource-groups", 3))
    assert replay.compared == 10


def test_an_empty_template(writer: Arm) -> None:
    group = writer.group().rpartition("/")[2]
    replay = _replay(writer, **{"cli_test_deployment_lite000001": group, "mock-deployment": "empty"})
    interactions = conversation("deployments", 6)
    # Validation says the year 1 here, and the time of the request in a newer recording.
    replay.hold(interactions)
    assert replay.compared == 4


def test_refused_templates(writer: Arm) -> None:
    group = writer.group().rpartition("/")[2]
    names = {"cli_test_resource_group_deployment000001": group, "cli_test_cross_rg_deploy000002": group}
    # Of the resources in these templates Microsoft.Network is not emulated, so only the refusals are compared.
    replay = _replay(writer, **names)
    replay.hold(conversation("deployments", 2), places=(0,))
    replay.hold(conversation("deployments", 3), places=(0,))
    assert replay.compared == 2


def test_deleting_a_deployment(writer: Arm) -> None:
    name = f"sub-{unique()}"
    empty = deployment(template([], SUBSCRIPTION_SCHEMA), location="westus")
    writer.deploy(f"/subscriptions/{writer.subscription}", empty, name)
    replay = _replay(writer, **{"mock-deployment": name})
    replay.hold(conversation("deployments", 5), places=(3, 4))
    assert replay.compared == 2


def test_groups(own_stand_in: RunningStandIn) -> None:
    # A list by tag must hold one group alone.
    writer, suffix = arm(own_stand_in), unique()
    replay = _replay(writer, cli_test_rg_scenario000001=f"cli{suffix}", **{"asotest-rg-xrwsgc": f"aso{suffix}"})
    writer.request("PUT", f"/resourcegroups/cli{suffix}", {"location": "westus"})
    # The group's own template is not exported.
    replay.hold(conversation("resource-groups", 0), passed_over=(10,))
    replay.hold(conversation("resource-groups", 2))
    assert replay.compared == 13


def test_accounts(writer: Arm) -> None:
    group, name = writer.group().rpartition("/")[2], f"acct{unique()}"
    replay = _replay(writer, **{"asotest-rg-wrseyn": group, "asoteststorkydhfc": name})
    replay.hold(conversation("storage-accounts", 0))
    assert replay.compared == 10
    replay = _replay(writer, **{"clitest.rg000001": group})
    replay.hold(conversation("storage-accounts", 2))
    assert replay.compared == 2


def test_accounts_of_an_earlier_version(writer: Arm) -> None:
    group, name = writer.group(), f"acct{unique()}"
    properties = {"minimumTlsVersion": "TLS1_0", "allowBlobPublicAccess": True}
    body = account(name, location="westus", properties=properties)
    writer.poll(
        writer.request("PUT", f"{group}/providers/Microsoft.Storage/storageAccounts/{name}", body, api_version=STORAGE)
    )
    replay = _replay(writer, **{"clitest.rg000001": group.rpartition("/")[2], "cli000002": name})
    replay.hold(conversation("storage-accounts", 1))
    assert replay.compared == 6


def test_a_workspace(writer: Arm) -> None:
    group = writer.group().rpartition("/")[2]
    replay = _replay(writer, **{"asotest-rg-kzwekh": group})
    replay.hold(conversation("other-resources", 1))
    assert replay.compared == 7


def test_errors(writer: Arm) -> None:
    group = writer.group().rpartition("/")[2]
    recorded_groups = {1: "asotest-rg-rhtvup", 2: "asotest-rg-altqtx", 3: "asotest-rg-lmzedh"}
    for number, recorded_group in recorded_groups.items():
        replay = _replay(writer, **{recorded_group: group if number != 1 else f"rg-{unique()}"})
        replay.hold(conversation("errors", number))
        assert replay.compared > 0
    _replay(writer).hold(conversation("errors", 6), places=(0,))
    _replay(writer).hold(conversation("errors", 7))


def test_an_environment(writer: Arm) -> None:
    group = writer.group().rpartition("/")[2]
    replay = _replay(writer, **{"asotest-rg-uwhmtm": group})
    replay.hold(conversation("other-resources", 0))
    assert replay.compared == 6


def test_shares_by_the_resource_manager(writer: Arm) -> None:
    group, name = writer.group(), f"acct{unique()}"
    path = f"{group}/providers/Microsoft.Storage/storageAccounts/{name}"
    writer.poll(writer.request("PUT", path, account(name), api_version=STORAGE))
    for share in ("share000003", "share000004"):
        body = {"properties": {"shareQuota": 10, "enabledProtocols": "SMB"}}
        made = writer.request("PUT", f"{path}/fileServices/default/shares/{share}", body, api_version=STORAGE)
        assert made.status_code == 201, made.text
    replay = _replay(writer, cli000001=group.rpartition("/")[2], sharerm000002=name)
    # The list of 2022 did not say when the tier was changed.
    replay.hold(conversation("storage-accounts", 3), but={2: (".value[0].properties", ".value[1].properties")})


def test_a_group_that_is_gone(writer: Arm) -> None:
    replay = _replay(writer, cli_rg_nowait_test000001=f"rg-{unique()}")
    replay.hold(conversation("resource-groups", 1), places=(1,))


def test_subscriptions_and_tenants(writer: Arm) -> None:
    # Which subscription and tenant it is, and by what offer it is paid, differs by nature.
    own = ("subscriptionId", "tenantId", "displayName", "managedByTenants")
    policies = ("subscriptionPolicies.locationPlacementId", "subscriptionPolicies.quotaId")
    differing = tuple(f".value[0].{name}" for name in (*own, *policies))
    _replay(writer).hold(conversation("subscriptions-and-tenants", 0), but={0: differing})
    tenant = ("tenantId", "displayName", "domains", "domains[0]")
    # One tenant and not two, without a logo.
    differing = (".value", ".value[0]", *(f".value[0].{name}" for name in tenant))
    _replay(writer).hold(conversation("subscriptions-and-tenants", 1), but={0: differing})


def test_a_provider_as_recorded(writer: Arm) -> None:
    (asked,) = of_apps("provider-registration")
    ours, recorded = writer.get("/providers/Microsoft.App", "2022-09-01"), asked["response_body"]
    # The service's own applications and their roles are not here, nor are types that the product does not use.
    assert list(ours) == [name for name in recorded if name != "authorizations"]
    theirs = {kind["resourceType"].lower(): kind for kind in recorded["resourceTypes"]}
    for kind in ours["resourceTypes"]:
        shown = theirs.get(kind["resourceType"].lower())
        if shown is None:
            # The service has these without listing them.
            assert kind["resourceType"].partition("/")[2], kind["resourceType"]
            continue
        assert list(kind) == list(shown), kind["resourceType"]
        # Nothing is moved here, and nothing has an identity.
        assert set(kind["capabilities"].split(", ")) <= set(shown["capabilities"].split(", ")), kind["resourceType"]
        # Those of the recording's stage regions and of versions since withdrawn are not here.
        assert set(kind["locations"]) & set(shown["locations"])
        assert "2024-03-01" in set(kind["apiVersions"]) & set(shown["apiVersions"])
    TALLY.note(("container-apps", "provider-registration", 0, 0), agreed=False)


def test_what_stands_around_apps(writer: Arm) -> None:
    group = writer.group().rpartition("/")[2]
    names = {"app-rg000005": f"rg-{unique()}", "cli_test_containerapp_preview000001": group}
    _replay(writer, **names).hold(of_apps("resource-group"))
    replay = _replay(writer, **{"clitest.rg000001": group, "storage000005": f"acct{unique()}"})
    replay.hold(of_apps("storage-account-and-share"))
    replay = _replay(writer, **{"clitest.rg000001": group})
    # The workspaces of 2023-09-01 answered 201 without an address to poll.
    replay.hold(of_apps("log-analytics-workspace"), places=(0,), but={0: ("header azure-asyncoperation",)})
    path = f"/resourceGroups/{group}/providers/Microsoft.OperationalInsights/workspaces/containerapp-env000005"
    until(lambda: writer.get(path, "2023-09-01")["properties"]["provisioningState"] == "Succeeded")
    replay.hold(of_apps("log-analytics-workspace"), places=(1, 2))


def _answered(file: str, number: int) -> dict[str, Any]:
    """An error whose frame is lost."""
    recording = json.loads((RECORDINGS / "resource-manager" / f"{file}.json").read_text())["recordings"][number]
    answered: dict[str, Any] = recording["item" if "item" in recording else "response_body"]
    return answered


def _shape(error: dict[str, Any]) -> dict[str, Any]:
    """Code, members and details of an error. The service's errors of 2021 had no `target` in details yet."""
    details = error.get("details")
    return {
        "code": error["code"],
        "members": sorted(set(error) - {"target"}),
        "details": None if details is None else [_shape(detail) for detail in details],
    }


def test_a_refused_preflight_is_nested_as_recorded(writer: Arm) -> None:
    recorded = _answered("errors", 11)["error"]
    path = f"{writer.group()}/providers/Microsoft.Resources/deployments/azuredeploy/validate"
    status, error = writer.error("POST", path, deployment(template([account("arm_vscode")])))
    assert status == 400
    assert _shape(error) == _shape(recorded)
    tracking = re.compile(r"'[0-9a-f-]{36}'")
    assert tracking.sub("'?'", error["message"]) == tracking.sub("'?'", recorded["message"])
    inner, wanted = error["details"][0]["details"][0], recorded["details"][0]["details"][0]
    assert {name: inner[name] for name in wanted} == wanted
    TALLY.note(("resource-manager", "errors", 11, 0), agreed=True)


def test_an_unregistered_namespace_is_refused_as_recorded(own_stand_in: RunningStandIn) -> None:
    recorded, writer = _answered("errors", 12)["error"], arm(own_stand_in)
    path = f"{writer.group()}/providers/Microsoft.App/managedEnvironments/env"
    assert writer.request("POST", "/providers/Microsoft.App/unregister").status_code == 200
    status, error = writer.error("PUT", path, {"location": "eastus"}, api_version="2025-07-01")
    assert status == 409
    assert _shape(error) == _shape(recorded)
    assert error == json.loads(json.dumps(recorded).replace("microsoft.insights", "Microsoft.App"))
    TALLY.note(("resource-manager", "errors", 12, 0), agreed=True)


def test_an_unknown_version_is_refused_as_recorded(writer: Arm) -> None:
    recordings = json.loads((RECORDINGS / "resource-manager" / "errors.json").read_text())["recordings"]
    head = recordings[13]["response_body_text"].partition("The supported api-versions")[0]
    ours = head.replace("automationAccounts/jobs", "workspaces").replace("swedencentral", "eastus")
    path = f"{writer.group()}/providers/Microsoft.OperationalInsights/workspaces/logs"
    answer = writer.request("PUT", path, workspace("logs"), api_version="2021-06-22")
    assert answer.status_code == 400
    assert answer.text.startswith(ours), answer.text
    TALLY.note(("resource-manager", "errors", 13, 0), agreed=True)


def test_a_place_that_a_type_is_not_in_is_refused_as_recorded(writer: Arm) -> None:
    recorded = _answered("errors", 14)["error"]
    path = f"{writer.group()}/providers/Microsoft.App/managedEnvironments/env"
    status, error = writer.error("PUT", path, {"location": "nowhere"}, api_version="2025-07-01")
    assert (status, _shape(error)) == (400, _shape(recorded))
    form = re.compile(r"'[^']*'")
    assert form.sub("'?'", error["message"]) == form.sub("'?'", recorded["message"])
    TALLY.note(("resource-manager", "errors", 14, 0), agreed=True)


def test_a_failed_deployment_is_shown_as_recorded(writer: Arm) -> None:
    recorded = _answered("errors", 9)["properties"]
    missing = {"name": "[reference(resourceId('Microsoft.Storage/storageAccounts', 'none'), '2025-01-01').x]"}
    value = template([workspace("logs", tags=missing)])
    shown = writer.deploy(writer.group(), deployment(value))["properties"]
    assert shown["provisioningState"] == "Failed", shown
    assert _shape(shown["error"]) == _shape(recorded["error"])
    # The address for help is another one since.
    said, wanted = (one["error"]["message"].partition("Please see")[0] for one in (shown, recorded))
    assert said == wanted
    pattern = re.compile(r"'Microsoft\.[^']*' under resource group '[^']*'")
    inner, wanted = shown["error"]["details"][0]["message"], recorded["error"]["details"][0]["message"]
    assert pattern.sub("?", inner) == pattern.sub("?", wanted)
    TALLY.note(("resource-manager", "errors", 9, 0), agreed=True)

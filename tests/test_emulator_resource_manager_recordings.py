"""Recorded conversations with the real resource manager, held with the stand-in and compared by rules.

Compared: status, the media type, which of the headers of asynchronous work and of errors are there, members and their
order, error codes and messages. Not compared: ids, names, times, keys and addresses, which differ in each run; how
often a poll is repeated; of primaryEndpoints all but `file`, since only files are served.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import RunningStandIn
from tests.resource_manager_client import STORAGE, SUBSCRIPTION_SCHEMA, Arm, account, arm, deployment, template, unique

RECORDINGS = Path(__file__).parent / "data" / "recordings" / "resource-manager"
_POLLED = re.compile(r"/(operationstatuses|operationresults|asyncoperations)/", re.IGNORECASE)
_COMPARED_HEADERS = ("location", "azure-asyncoperation", "x-ms-failure-cause")
_GOING_ON = {"InProgress", "Running", "Accepted"}
# Members whose value is different in each run.
_FREE = {
    *("id", "name", "resourceId", "resourceName", "timestamp", "duration", "correlationId", "templateHash", "etag"),
    *("creationTime", "key1", "key2", "lastEnabledTime", "file", "lastModifiedTime", "accessTierChangeTime", "value"),
    *("customerId", "lastSkuUpdate", "quotaNextResetTime", "createdDate", "modifiedDate", "startTime", "endTime"),
    *("primarySharedKey", "secondarySharedKey", "deleteAfterTime", "DeleteAfter", "CreatedAt", "trackingId"),
    *("operationId", "serviceRequestId"),
}
# What the service shows of an account today and did not yet in 2023.
_NEWER = {"allowCrossTenantReplication", "ipv6Rules"}


def conversation(file: str, number: int) -> list[dict[str, Any]]:
    """The interactions of one recording in a file."""
    recordings = json.loads((RECORDINGS / f"{file}.json").read_text())["recordings"]
    interactions: list[dict[str, Any]] = recordings[number]["interactions"]
    return interactions


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
    elif ours != recorded and "<scrubbed>" not in str(recorded):
        yield f"{path}: {ours!r}, recorded {recorded!r}"


class Replay:
    """Asks the stand-in what a recording asked the service. `names` maps recorded texts to ours."""

    def __init__(self, writer: Arm, names: dict[str, str]) -> None:
        self._arm, self._names = writer, names
        self._address = ""
        self.compared = 0

    def hold(self, interactions: list[dict[str, Any]], *, passed_over: tuple[int, ...] = ()) -> None:
        """Asks one after the other and compares each answer. `passed_over` are numbers of interactions."""
        for number, asked in enumerate(interactions):
            # What the poll said in between depends on the time alone.
            if number in passed_over or (_POLLED.search(asked["url"]) and self._goes_on(asked)):
                continue
            answer = self._ask(asked)
            where = f"{number} {asked['method']} {asked['url'][:150]}"
            assert answer.status_code == asked["status"], f"{where}: {answer.text}"
            self._compare(answer, asked, where)
            self.compared += 1

    def _goes_on(self, asked: dict[str, Any]) -> bool:
        body = asked["response_body"]
        return asked["status"] == 202 or (isinstance(body, dict) and body.get("status") in _GOING_ON)

    def _ask(self, asked: dict[str, Any]) -> httpx.Response:
        if _POLLED.search(asked["url"]):
            end = time.monotonic() + 20
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

    def _compare(self, answer: httpx.Response, asked: dict[str, Any], where: str) -> None:
        recorded = asked["response_headers"]
        for name in _COMPARED_HEADERS:
            assert (name in answer.headers) == (name in recorded), f"{where}: header {name}"
        if "content-type" in recorded:
            assert answer.headers["content-type"].split(";")[0] == recorded["content-type"].split(";")[0], where
        if not asked["response_body"]:
            assert answer.content == b"", where
            return
        wanted = json.loads(self._ours(json.dumps(asked["response_body"])))
        found = list(differences(answer.json(), wanted))
        assert not found, f"{where}:\n" + "\n".join(found)

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
    replay.hold(conversation("deployments", 2)[:1])
    replay.hold(conversation("deployments", 3)[:1])
    assert replay.compared == 2


def test_deleting_a_deployment(writer: Arm) -> None:
    name = f"sub-{unique()}"
    empty = deployment(template([], SUBSCRIPTION_SCHEMA), location="westus")
    writer.deploy(f"/subscriptions/{writer.subscription}", empty, name)
    replay = _replay(writer, **{"mock-deployment": name})
    replay.hold(conversation("deployments", 5)[3:])
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
    for number, recorded_group in ((2, "asotest-rg-altqtx"), (3, "asotest-rg-lmzedh")):
        replay = _replay(writer, **{recorded_group: group})
        replay.hold(conversation("errors", number))
        assert replay.compared > 0
    for number in (6, 7):
        _replay(writer).hold(conversation("errors", number))

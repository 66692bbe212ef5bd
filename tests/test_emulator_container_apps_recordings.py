"""The provider against what the real service answered: status, headers, members and their order, nulls, codes.

Names, addresses, times and versions differ by nature. So do, on purpose: `imageType` and `patchingMode` (previews), and
the state of a revision whose container gives no command, since the stand-in runs commands and not images.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.emulator.exceptions import AzureError
from infra.emulator.operations import Operation
from infra.emulator.provider import Answer, Call
from infra.emulator.resource_id import ResourceId
from tests.container_apps import CALLER, World, world
from tests.recordings_tally import TALLY, LeftOut

RECORDINGS = Path(__file__).parent / "data" / "recordings" / "container-apps"
_POLL = re.compile(r"locations/[^/]+/[A-Za-z]+Operation(Statuses|Results)/")
_HEADERS = {"api-supported-versions", "azure-asyncoperation", "location", "x-ms-async-operation-timeout"}
_PREVIEW_MEMBERS = frozenset({"imageType", "patchingMode"})
# What 2024-02-02-preview had, and 2024-03-01 not.
_PREVIEW_OF_2024 = _PREVIEW_MEMBERS | {
    *("openTelemetryConfiguration", "certificateKeyVaultProperties", "runtime", "appInsightsConfiguration"),
}
_NO_IMAGES = "an image is run there, commands are here: the state, the replicas and the name of a revision differ"
NOT_REPLAYED = (
    LeftOut(
        "api-2025-07-01",
        "the app of this part of the conversation was made in a part that is not recorded",
        places=(3,),
    ),
    LeftOut("api-2025-07-01", _NO_IMAGES, places=(4, 5, 6)),
    LeftOut("app-scale-rules", "scale rules of other kinds than http are 501: the product has none", places=(5, 7, 8)),
    LeftOut("app-with-azure-file", _NO_IMAGES, places=(6, 13)),
    LeftOut("app-yaml-multiple-revisions", "ipSecurityRestrictions, more ports and user-assigned identities are 501"),
    LeftOut("environment-update-failed", "the polls of a request that is not recorded", places=(1,)),
    LeftOut("environment-update-failed", "an environment in a virtual network, and why its update fails, is not here"),
    LeftOut(
        "errors",
        "authConfigs, certificates, Dapr components and role assignments are not here",
        places=(2, 7, 8, 9, 10),
    ),
    LeftOut("errors", "messages of API versions before 2024, which say it in other words", places=(4, 5, 6)),
    LeftOut("failed-revision-nfs", "NFS shares, in a preview version of the API; the product's share is SMB"),
    LeftOut("ingress", "internal ingress with HTTP/2 is 501", places=(9, 11, 12)),
    LeftOut(
        "log-analytics-workspace", "a preview version of the API, in a region of the service's own staff", places=(3, 4)
    ),
    LeftOut(
        "revisions-and-replicas",
        "scale rules of other kinds than http are 501, and these are what the app has from here on",
        places=(4, 6, 7, 14, 16, 18, 19, 22),
    ),
    LeftOut("revisions-and-replicas", "a second look at what has been compared", places=(13, 21)),
    LeftOut("revisions-and-replicas", _NO_IMAGES, places=(8, 15, 23)),
    LeftOut(
        "revisions-and-replicas",
        "a log of an image; the form of log lines is tested in the tests of logs",
        places=(25,),
    ),
    LeftOut("traffic-and-labels", _NO_IMAGES, places=(1, 2, 7)),
)
"""What is not asked again, and why."""
# Members whose value is the service's own choice of text.
_FREE = {
    "id", "name", "location", "createdAt", "lastModifiedAt", "createdBy", "lastModifiedBy", "createdByType",
    "lastModifiedByType", "defaultDomain", "staticIp", "version", "eventStreamEndpoint", "customDomainVerificationId",
    "outboundIpAddresses", "latestRevisionName", "latestReadyRevisionName", "latestRevisionFqdn", "fqdn",
    "managedEnvironmentId", "environmentId", "principalId", "clientId", "tenantId", "token", "expires", "createdTime",
    "customerId", "startTime",
}  # fmt: skip


def interactions(file: str) -> list[dict[str, Any]]:
    """The conversation in a file."""
    recorded: list[dict[str, Any]] = json.loads((RECORDINGS / f"{file}.json").read_text())["interactions"]
    return recorded


def differences(
    ours: Any, recorded: Any, path: str = "", *, beyond: frozenset[str] = _PREVIEW_MEMBERS
) -> Iterator[str]:
    """Where members, their order, nulls or values differ. `beyond` are members that are passed over."""
    if isinstance(recorded, dict) and isinstance(ours, dict):
        wanted = [name for name in recorded if name not in beyond]
        if list(ours) != wanted:
            yield f"{path}: members {list(ours)}, recorded {wanted}"
        for name in wanted:
            if name in ours:
                if name in _FREE:
                    if (ours[name] is None) != (recorded[name] is None):
                        yield f"{path}.{name}: {ours[name]!r}, recorded {recorded[name]!r}"
                else:
                    yield from differences(ours[name], recorded[name], f"{path}.{name}", beyond=beyond)
    elif isinstance(recorded, list) and isinstance(ours, list):
        if len(recorded) != len(ours):
            yield f"{path}: {len(ours)} elements, recorded {len(recorded)}"
        for index, (one, other) in enumerate(zip(ours, recorded, strict=False)):
            yield from differences(one, other, f"{path}[{index}]", beyond=beyond)
    elif ours != recorded and "<scrubbed>" not in str(recorded):
        yield f"{path}: {ours!r}, recorded {recorded!r}"


class Replay:
    """Asks a provider what a recording asked the service."""

    def __init__(self, here: World) -> None:
        self.here = here
        self._address: dict[str, str] = {}
        self._operation: Operation | None = None

    async def ask(self, asked: dict[str, Any]) -> Answer:
        """The answer to a recorded request; a refusal is an answer too."""
        path, _, query = asked["url"].removeprefix("https://management.azure.com").partition("?")
        version = next(part.split("=")[1] for part in query.split("&") if part.startswith("api-version="))
        call = Call(CALLER, version, "https://management.azure.com")
        try:
            return await self._route(call, asked["method"], path, asked["request_body"])
        except AzureError as refusal:
            return Answer(refusal.status, {"error": refusal.as_dict()}, refusal.headers)

    async def _route(self, call: Call, method: str, path: str, body: Any) -> Answer:
        parts = path.strip("/").split("/")
        if parts[2].lower() == "providers":
            return await self.here.provider.subscription_call(call, method, tuple(parts[4:]), body)
        rest = parts[6:]
        if len(rest) % 2:
            type_name, within = "/".join(rest[0::2]), "/" + "/".join(parts[:-1])
            if method == "GET" and f"microsoft.app/{type_name}".lower() in self.here.provider.types:
                return await self.here.type(type_name).list(call, within)
            resource_id = ResourceId.parse("/" + "/".join(parts[:-1]))
            return await self.here.type("/".join(resource_id.types)).action(call, resource_id, parts[-1], body)
        resource_id = ResourceId.parse("/" + "/".join(parts))
        resource = self.here.type("/".join(resource_id.types))
        if method == "GET":
            return await resource.get(call, resource_id)
        if method == "DELETE":
            return await resource.delete(call, resource_id)
        return await (resource.put if method == "PUT" else resource.patch)(call, resource_id, body)

    async def play(self, file: str, *, skip: tuple[int, ...] = ()) -> list[str]:
        """Replays the conversation in `file`; what differs. `skip` names interactions by their place."""
        found = []
        for place, asked in enumerate(interactions(file)):
            if place in skip:
                continue
            poll = _POLL.search(asked["url"])
            if self._operation is not None and not on_the_way(asked):
                await self.here.cloud.operations.wait(self._operation)
            answer = await self.ask({**asked, "url": self._address[poll[1]]} if poll else asked)
            if on_the_way(asked) and not on_the_way({**asked, "status": answer.status, "response_body": answer.body}):
                # It has ended in the meantime: what is asked next tells how.
                continue
            if answer.operation is not None:
                self._operation = answer.operation
                self._address = {
                    "Statuses": answer.headers.get("Azure-AsyncOperation", ""),
                    "Results": answer.headers.get("Location", ""),
                }
            where = f"{file}[{place}] {asked['method']} {asked['url'].partition('?')[0][-60:]} "
            differing = [f"{where}{each}" for each in _differing(answer, asked)]
            TALLY.note(("container-apps", file, 0, place), agreed=not differing)
            found += differing
        return found


def _differing(answer: Answer, asked: dict[str, Any]) -> Iterator[str]:
    """Where an answer is another than the recorded one."""
    if answer.status != asked["status"]:
        yield f": {answer.status}, recorded {asked['status']}: {answer.body}"
        return
    # Retry-After is what the recorder dropped; the others are the resource manager's.
    headers = {name.lower() for name in answer.headers} - {"retry-after"}
    wanted = set(asked["response_headers"]) & _HEADERS
    if "error" in (answer.body or {}):
        wanted -= {"api-supported-versions"}
    if headers != wanted:
        yield f": headers {sorted(headers)}, recorded {sorted(wanted)}"
    beyond = _PREVIEW_OF_2024 if "2024-02-02-preview" in asked["url"] else _PREVIEW_MEMBERS
    yield from differences(answer.body, asked["response_body"], beyond=beyond)


def on_the_way(asked: dict[str, Any]) -> bool:
    """Whether it is a poll that the operation had not ended by."""
    body = asked["response_body"]
    going_on = asked["status"] == 202 or (isinstance(body, dict) and body.get("status") == "InProgress")
    return bool(_POLL.search(asked["url"])) and going_on


@pytest.fixture
async def replay(tmp_path: Path) -> Any:
    """A provider with nothing in it."""
    async with world(tmp_path) as here:
        yield Replay(here)


ZERO = "00000000-0000-0000-0000-000000000000"
IN_GROUP = f"/subscriptions/{ZERO}/resourceGroups/clitest.rg000001/providers/Microsoft.App"
SHARED = f"/subscriptions/{ZERO}/resourceGroups/client.env_rg_eastus/providers/Microsoft.App"
LOGS = {"destination": "log-analytics", "logAnalyticsConfiguration": {"customerId": "id", "sharedKey": "key"}}
SHARED_ENVIRONMENT = f"{SHARED}/managedEnvironments/env-eastus"


async def environment(replay: Replay, path: str, **properties: Any) -> None:
    """An environment that a recording takes for granted, as the Azure CLI makes one."""
    given = {"workloadProfiles": [{"name": "Consumption", "workloadProfileType": "Consumption"}], **properties}
    await replay.here.put("managedEnvironments", ResourceId.parse(path), {"location": "eastus", "properties": given})


async def test_an_environment_is_created_and_deleted(replay: Replay) -> None:
    """201 Waiting, then Succeeded; 202 and gone (the deleted one is another, which has to be there first)."""
    await environment(replay, f"{IN_GROUP}/managedEnvironments/env000002")
    assert await replay.play("environment-create-delete") == []


async def test_an_environment_put_again_unchanged_is_200(replay: Replay) -> None:
    """No operation where nothing changes."""
    await environment(replay, f"{IN_GROUP}/managedEnvironments/env000002")
    await environment(replay, f"{IN_GROUP}/managedEnvironments/containerapp-env000003")
    assert await replay.play("environment-put-update") == []


async def test_storages(replay: Replay) -> None:
    """404 of the provider, PUT, GET, list, DELETE; the key never comes back."""
    await environment(replay, f"{IN_GROUP}/managedEnvironments/containerapp-env000003")
    assert await replay.play("environment-storages") == []


async def test_workload_profiles_are_added_and_changed(replay: Replay) -> None:
    """PATCH of an environment, states of its profiles, an app on each.

    Here the number of nodes follows the minimum at once; the list of types has the serverless GPUs of a later year.
    """
    await environment(replay, f"{IN_GROUP}/managedEnvironments/env000002")
    found = await replay.play("environment-workload-profiles")
    assert [difference.partition(": ")[2] for difference in found] == ["14 elements, recorded 9", "1, recorded 2"]


async def test_the_types_of_workload_profiles_of_a_region(replay: Replay) -> None:
    """A region without serverless GPUs, element by element."""
    assert await replay.play("workload-profile-types") == []


async def test_usages(replay: Replay) -> None:
    """The shape and the recorded quotas; the GPU quotas are of a later year."""
    for number in range(4):
        await environment(replay, f"{IN_GROUP}/managedEnvironments/env{number}")
    await environment(replay, f"{IN_GROUP}/managedEnvironments/containerapp-e2e-env000002")
    found = await replay.play("usages")
    assert [difference.rpartition(".")[2] for difference in found] == [
        "value: 2 elements, recorded 1",
        "value: 5 elements, recorded 3",
    ]


async def test_an_app_with_a_mount_is_created_and_patched(replay: Replay) -> None:
    """PUT, defaults, PATCH. Its revisions run images, which is not done here: their lists are left out."""
    await environment(replay, f"{IN_GROUP}/managedEnvironments/env000003", appLogsConfiguration=LOGS)
    storage = ResourceId.parse(f"{IN_GROUP}/managedEnvironments/env000003/storages/share000006")
    file = {"accountName": "a", "accountKey": "k", "shareName": "s", "accessMode": "ReadWrite"}
    await replay.here.put("managedEnvironments/storages", storage, {"properties": {"azureFile": file}})
    assert await replay.play("app-with-azure-file", skip=(6, 13)) == []


async def test_an_app_is_put_again(replay: Replay) -> None:
    """A PUT that leaves out what the first one had."""
    await environment(replay, SHARED_ENVIRONMENT)
    container = {"image": "mcr.microsoft.com/k8se/quickstart:latest", "name": "containerapp-e2e000002"}
    body = {
        "location": "eastus",
        "properties": {"environmentId": SHARED_ENVIRONMENT, "template": {"containers": [container]}},
    }
    await replay.here.put("containerApps", ResourceId.parse(f"{IN_GROUP}/containerApps/containerapp-e2e000002"), body)
    assert await replay.play("app-list-and-put-update") == []


@pytest.mark.parametrize("file", ["app-identity", "registry-secrets"])
async def test_identity_and_registry(replay: Replay, file: str) -> None:
    """A client sends back what it got, read-only members and all."""
    await environment(replay, SHARED_ENVIRONMENT)
    assert await replay.play(file) == []


async def test_the_version_of_2025(replay: Replay) -> None:
    """What 2025-07-01 added to an environment and to an app (the rest of the conversation is not in the recording)."""
    await environment(replay, SHARED_ENVIRONMENT)
    assert await replay.play("api-2025-07-01", skip=(3, 4, 5, 6)) == []


async def test_recorded_errors(replay: Replay) -> None:
    """Codes and messages, as far as the errors are of resource types that are here."""
    await environment(replay, SHARED_ENVIRONMENT)
    await environment(replay, f"{IN_GROUP}/managedEnvironments/env000002")
    # authConfigs, certificates, Dapr and roles are other types; two messages are of an API version before this one's.
    assert await replay.play("errors", skip=(2, 4, 5, 6, 7, 8, 9, 10)) == []


_TWO_PROFILES = [
    {"name": "Consumption", "workloadProfileType": "Consumption"},
    {"name": "wpname", "workloadProfileType": "D8", "minimumCount": 1, "maximumCount": 8},
]
_OLDER = {
    # In April 2024 the first answer to PUT had the defaults and a revision already, and 202 of PATCH one address.
    "secrets-mount": ["[0].properties", "[0].properties.template.revisionSuffix",
                      "[0].properties.template.containers[0]", "[0].properties.template.scale", "[4]"],
    # The versions of KEDA and Dapr were not known while the environment was waiting, and it had no address.
    "environment-dedicated-gpu": ["[1].properties", "[1].properties.kedaConfiguration.version",
                                  "[1].properties.daprConfiguration.version", "[5].properties",
                                  "[5].properties.template.scale.maxReplicas", "[5].properties.template.scale.rules"],
}  # fmt: skip


def places(found: list[str]) -> list[str]:
    """Number of the interaction and path of each difference."""
    return [re.sub(r"^[^\[]*(\[\d+\]) \S+ \S*? ([^:]*): .*", r"\1\2", each, flags=re.DOTALL) for each in found]


@pytest.mark.parametrize(
    ("file", "own_environment", "skip"),
    [("secrets-mount", "env000003", ()), ("environment-dedicated-gpu", "", ()), ("ingress", "", (9, 11, 12))],
)
async def test_apps_of_the_same_and_of_an_older_service(
    replay: Replay, file: str, own_environment: str, skip: tuple[int, ...]
) -> None:
    """Secrets as files, a dedicated GPU profile, ingress: what differs is what the service did in April 2024."""
    await environment(replay, SHARED_ENVIRONMENT)
    if own_environment:
        await environment(replay, f"{IN_GROUP}/managedEnvironments/{own_environment}")
    assert places(await replay.play(file, skip=skip)) == _OLDER.get(file, [])


async def test_scale_by_requests(replay: Replay) -> None:
    """An HTTP rule, as the Azure CLI makes it."""
    await environment(replay, SHARED_ENVIRONMENT, workloadProfiles=_TWO_PROFILES)
    assert await replay.play("app-scale-rules", skip=(5, 7, 8)) == []


async def test_an_environment_is_patched_by_a_client_that_polls_results(replay: Replay) -> None:
    """202 of the PATCH; what it leads to is left out."""
    await environment(replay, f"{IN_GROUP}/managedEnvironments/env000002")
    assert await replay.play("environment-update-failed", skip=(0, 1, 2, 3, 6, 7, 8, 9)) == []


async def test_traffic_and_labels(replay: Replay) -> None:
    """Weights and labels of revisions in an app that has been put twice, as its missing maxInactiveRevisions tells."""
    await environment(replay, SHARED_ENVIRONMENT)
    was = interactions("traffic-and-labels")[0]["response_body"]
    for _ in range(2):
        body = {"location": was["location"], "properties": was["properties"]}
        await replay.here.put("containerApps", ResourceId.parse(was["id"]), body)
    assert await replay.play("traffic-and-labels", skip=(1, 2, 7)) == []


async def test_an_app_through_its_revisions(replay: Replay) -> None:
    """PUT, PATCH, token, DELETE of the conversation about revisions (for these see the next test)."""
    await environment(replay, SHARED_ENVIRONMENT)
    skip = (*range(4, 24), 25)
    assert await replay.play("revisions-and-replicas", skip=skip) == []


async def test_revisions_and_replicas_have_the_recorded_members(replay: Replay) -> None:
    """A revision, a replica and a token, member by member, with a container that really runs."""
    recorded = interactions("revisions-and-replicas")
    await environment(replay, SHARED_ENVIRONMENT)
    asked = next(each for each in recorded if each["method"] == "PUT")
    container = asked["request_body"]["properties"]["template"]["containers"][0]
    container["command"] = ["sleep", "60"]
    answer = await replay.ask(asked)
    assert answer.operation is not None
    await replay.here.cloud.operations.wait(answer.operation)
    app = f"{IN_GROUP}/containerApps/aca000002"
    revisions = replay.here.type("containerApps/revisions")
    version = Call(CALLER, "2024-03-01", "https://management.azure.com")
    (revision,) = (await revisions.list(version, app)).body["value"]
    shown = next(each["response_body"] for each in recorded if each["url"].split("?")[0].endswith("j7o2aoa"))
    assert list(revision) == list(shown)
    assert list(revision["properties"]) == list(shown["properties"])
    assert list(revision["properties"]["template"]["scale"]) == list(shown["properties"]["template"]["scale"])
    shown = next(each["response_body"] for each in recorded if each["url"].split("?")[0].endswith("/replicas"))
    replicas = replay.here.type("containerApps/revisions/replicas")

    async def running() -> bool:
        (replica,) = (await replicas.list(version, revision["id"])).body["value"]
        return bool(replica["properties"]["runningState"] == "Running")

    await replay.here.until(running)
    (replica,) = (await replicas.list(version, revision["id"])).body["value"]
    assert list(replica) == list(shown["value"][1])
    assert list(replica["properties"]) == list(shown["value"][1]["properties"])
    assert list(replica["properties"]["containers"][0]) == list(shown["value"][1]["properties"]["containers"][0])
    token = await replay.ask(next(each for each in recorded if each["url"].split("?")[0].endswith("getAuthToken")))
    shown = next(each["response_body"] for each in recorded if each["url"].split("?")[0].endswith("getAuthToken"))
    assert list(differences(token.body, shown)) == []
    for verb in ("restart", "deactivate", "activate"):
        shown = next(each["response_body"] for each in recorded if each["url"].split("?")[0].endswith(f"/{verb}"))
        done = await revisions.action(version, ResourceId.parse(revision["id"]), verb, None)
        assert (done.status, done.body) == (200, shown)
    for place in (9, 10, 11, 12, 20):
        TALLY.note(("container-apps", "revisions-and-replicas", 0, place), agreed=True)


async def test_polling(replay: Replay) -> None:
    """OperationStatuses is 200: InProgress, then Succeeded; OperationResults 202 until 200 or, after DELETE, 204."""
    await environment(replay, SHARED_ENVIRONMENT)
    container = {"image": "image", "name": "main"}
    body = {
        "location": "eastus",
        "properties": {"environmentId": SHARED_ENVIRONMENT, "template": {"containers": [container]}},
    }
    apps, app = replay.here.type("containerApps"), ResourceId.parse(f"{IN_GROUP}/containerApps/app")
    version = Call(CALLER, "2024-03-01", "https://management.azure.com")
    recorded = [each for each in interactions("app-with-azure-file") if _POLL.search(each["url"])]

    async def poll(address: str) -> Answer:
        return await replay.ask({"method": "GET", "url": address, "request_body": None})

    put = await apps.put(version, app, body)
    assert put.operation is not None
    first = await poll(put.headers["Azure-AsyncOperation"])
    assert (first.status, first.body["status"]) == (200, "InProgress")
    assert list(first.body) == list(recorded[0]["response_body"])
    await replay.here.cloud.operations.wait(put.operation)
    assert (await poll(put.headers["Azure-AsyncOperation"])).body["status"] == "Succeeded"
    patch = await apps.patch(version, app, {"tags": {"a": "b"}})
    assert patch.operation is not None
    assert (patch.status, patch.body, (await poll(patch.headers["Location"])).status) == (202, None, 202)
    await replay.here.cloud.operations.wait(patch.operation)
    after = await poll(patch.headers["Location"])
    assert (after.status, after.body["tags"]) == (200, {"a": "b"})
    delete = await apps.delete(version, app)
    assert delete.operation is not None
    assert "Azure-AsyncOperation" not in delete.headers
    assert "Location" in (await poll(delete.headers["Location"])).headers
    await replay.here.cloud.operations.wait(delete.operation)
    assert (await poll(delete.headers["Location"])).status == 204
    assert (await apps.delete(version, app)).status == 204

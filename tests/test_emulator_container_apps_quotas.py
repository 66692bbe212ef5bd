"""Quotas of environments, cores and GPUs: counted, shown under usages, and what happens when one is used up."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from infra.emulator.exceptions import AzureError
from infra.emulator.resource_id import ResourceId
from tests.container_apps import ENVIRONMENT, GROUP, READY_WHEN, World, app_body, call, world


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[World]:
    """A provider with an environment and a share."""
    async with world(tmp_path) as made:
        await made.environment()
        yield made


def on_gpu(**template: Any) -> dict[str, Any]:
    """An app with a whole T4 for each replica."""
    body = app_body(**template)
    body["properties"]["workloadProfileName"] = "T4"
    body["properties"]["template"]["containers"][0]["resources"] = {"cpu": 8, "memory": "56Gi"}
    return body


async def used(here: World) -> dict[str, tuple[float, int]]:
    """Name -> current value and limit, of the environment."""
    answer = await here.type("managedEnvironments").action(call(), ResourceId.parse(ENVIRONMENT), "usages", None)
    return {one["name"]["value"]: (one["currentValue"], one["limit"]) for one in answer.body["value"]}


async def regional(here: World, location: str) -> dict[str, tuple[float, int]]:
    """Name -> current value and limit, of a region."""
    answer = await here.provider.subscription_call(call(), "GET", ("locations", location, "usages"), None)
    return {one["name"]["value"]: (one["currentValue"], one["limit"]) for one in answer.body["value"]}


def refused(here: World) -> list[str]:
    """What the app's events say about replicas that got no room."""
    workload = here.provider.workload(here.app_id())
    found = map(json.loads, workload.events.tail(1000))
    return [event["Msg"] for event in found if event["Reason"] == "AssigningReplicaFailed"]


async def test_a_second_replica_waits_for_a_second_gpu(here: World) -> None:
    """No request is refused: the replica is stuck, and the events say why."""
    await here.put("containerApps", here.app_id(), on_gpu(scale={"minReplicas": 2, "maxReplicas": 2}))

    async def stuck() -> bool:
        return bool(refused(here)) and any(
            replica["properties"]["containers"][0]["ready"] for replica in await here.replicas()
        )

    await here.until(stuck)
    assert refused(here)[0] == (
        "Maximum Allowed GPUs exceeded for the Managed Environment: ManagedEnvironmentConsumptionT4Gpus is limited to 1"
    )
    replicas = [each["properties"] for each in await here.replicas()]
    assert sorted(each["runningState"] for each in replicas) == ["NotRunning", "Running"]
    assert [each["containers"][0]["restartCount"] for each in replicas] == [0, 0], "what never ran did not crash"
    usages = await used(here)
    assert usages["ManagedEnvironmentConsumptionT4Gpus"] == (1, 1)
    assert usages["ManagedEnvironmentConsumptionCores"] == (8, 100)
    assert (await here.app())["provisioningState"] == "Succeeded"
    assert (await here.ask())["path"] == "/"


async def test_a_new_revision_waits_for_the_gpu_of_the_old_one(here: World) -> None:
    """The old one goes on serving."""
    await here.put("containerApps", here.app_id(), on_gpu())
    await here.running()
    old = (await here.ask())["pid"]
    await here.put("containerApps", here.app_id(), on_gpu(container={"env": [{"name": "A", "value": "b"}]}))

    async def stuck() -> bool:
        return bool(refused(here))

    await here.until(stuck)
    first, second = await here.revisions()
    assert (first["properties"]["active"], first["properties"]["runningState"]) == (True, "Running")
    assert second["properties"]["runningState"] != "Running"
    assert second["properties"]["provisioningError"].startswith("Maximum Allowed GPUs exceeded")
    assert (await here.ask())["pid"] == old


async def test_a_restart_takes_the_gpu_of_what_it_replaces(here: World) -> None:
    """With a quota of one, too; and once it has the room, the revision is not called failed while it starts."""
    await here.put("containerApps", here.app_id(), on_gpu(container={"env": READY_WHEN}))
    ready = here.share / "ready"
    ready.touch()
    await here.running()
    old = (await here.ask())["pid"]
    (revision,) = await here.revisions()
    resource_id = here.app_id().child("revisions", revision["name"])
    before = {each["name"] for each in await here.replicas()}
    ready.unlink()
    await here.type("containerApps/revisions").action(call(), resource_id, "restart", None)

    async def starting() -> bool:
        new = [each for each in await here.replicas() if each["name"] not in before]
        return any(each["properties"]["containers"][0]["started"] for each in new)

    await here.until(starting)
    assert refused(here)
    assert (await here.revision())["healthState"] != "Unhealthy"
    ready.touch()

    async def restarted() -> bool:
        async with here.http() as client, client.get(await here.endpoint()) as response:
            return response.status == 200 and (await response.json())["pid"] != old

    await here.until(restarted)
    assert (await used(here))["ManagedEnvironmentConsumptionT4Gpus"] == (1, 1)


async def test_environments_of_a_region_are_counted(here: World) -> None:
    """As many as the limit says, and not one more; another region has its own."""
    assert await regional(here, "swedencentral") == {
        "ManagedEnvironmentCount": (1, 40),
        "SubscriptionNCA100Gpus": (0, 8),
    }
    environments = here.type("managedEnvironments")
    body = {"location": "norwayeast", "properties": {}}

    def environment(number: int) -> ResourceId:
        return ResourceId.parse(f"{GROUP}/providers/Microsoft.App/managedEnvironments/env-{number}")

    for number in range(40):
        await environments.put(call(), environment(number), body)
    assert (await regional(here, "Norway East"))["ManagedEnvironmentCount"] == (40, 40)
    with pytest.raises(AzureError, match="cannot have more than 40 environments in Norway East") as problem:
        await environments.put(call(), environment(40), body)
    assert problem.value.code == "MaxNumberOfRegionalEnvironmentsInSubExceeded"
    await environments.put(call(), environment(40), body | {"location": "norwaywest"})


async def test_dedicated_gpus_are_counted_by_region(here: World) -> None:
    """They are the subscription's, not the environment's."""
    profiles = [{"name": "a100", "workloadProfileType": "NC24-A100", "minimumCount": 0, "maximumCount": 1}]
    other = ResourceId.parse(f"{ENVIRONMENT}-dedicated")
    body = {"location": "swedencentral", "properties": {"workloadProfiles": profiles}}
    await here.put("managedEnvironments", other, body)
    file = {"accountName": "account", "accountKey": "key", "shareName": "share", "accessMode": "ReadWrite"}
    await here.put(
        "managedEnvironments/storages", other.child("storages", "storage"), {"properties": {"azureFile": file}}
    )
    app = app_body()
    app["properties"] |= {"environmentId": str(other), "workloadProfileName": "a100"}
    app["properties"]["template"]["containers"][0]["resources"] = {"cpu": 24, "memory": "220Gi"}
    await here.put("containerApps", here.app_id(), app)
    await here.running()
    assert (await regional(here, "swedencentral"))["SubscriptionNCA100Gpus"] == (1, 8)

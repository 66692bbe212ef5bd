"""The life of an app: revisions, restarts, probes, crash loops, scale, and the stand-in's own restart."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from infra.emulator.containerapps.pace import Pace
from infra.emulator.exceptions import AzureError
from tests.container_apps import PATIENCE, READY_WHEN, World, app_body, call, world


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[World]:
    """A provider with an environment and a share."""
    async with world(tmp_path) as made:
        await made.environment()
        yield made


def alive(process_id: int) -> bool:
    """Whether there is such a process."""
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    return True


async def events(here: World, reason: str) -> list[str]:
    """The messages of the app's events of that kind."""
    workload = here.provider.workload(here.app_id())
    return [event["Msg"] for event in map(json.loads, workload.events.tail(1000)) if event["Reason"] == reason]


async def test_succeeded_does_not_mean_ready(here: World) -> None:
    """The operation ends while the container is starting; readiness follows the probe."""
    await here.put("containerApps", here.app_id(), app_body(container={"env": READY_WHEN}))
    app, revision = await here.app(), await here.revision()
    assert (app["provisioningState"], app["runningStatus"]) == ("Succeeded", "Running")
    assert (revision["healthState"], revision["runningState"]) in (("None", "Processing"), ("None", "Activating"))
    async with here.http() as client, client.get(await here.endpoint()) as response:
        assert (response.status, await response.text()) == (503, "no healthy upstream")
    (here.share / "ready").touch()
    assert (await here.running())["healthState"] == "Healthy"
    assert (await here.ask("/x"))["path"] == "/x"


async def test_the_process_gets_the_platform_s_variables_and_the_app_s(here: World) -> None:
    """Secrets are resolved for the process alone; the mount path is the share's folder; the base is clean."""
    os.environ["LEAKED"] = "from the test's own environment"
    env = [
        {"name": "KEY", "secretRef": "api-key"},
        {"name": "SHARE", "value": "/mount"},
        {"name": "CACHE", "value": "dir:/mount/cache;/mount-2/x"},
        {"name": "PORT", "value": "8000"},
        {"name": "GRADIO_SERVER_PORT", "value": "8000"},
        {"name": "GRADIO_SERVER_NAME", "value": "0.0.0.0"},
    ]
    body = app_body(container={"env": env, "args": ["/mount/models", "--host=0.0.0.0"]})
    await here.put("containerApps", here.app_id(), body)
    await here.running()
    told = await here.ask()
    del os.environ["LEAKED"]
    given, share = told["env"], str(here.share)
    assert "LEAKED" not in given
    assert (given["KEY"], given["SHARE"]) == ("secret value", share)
    assert given["CACHE"] == f"dir:{share}/cache;/mount-2/x"
    assert given["PORT"] == given["GRADIO_SERVER_PORT"] != "8000"
    assert given["HOST"] == given["GRADIO_SERVER_NAME"] == "127.0.0.1"
    assert told["args"] == [f"{share}/models", "--host=127.0.0.1"]
    (revision,) = await here.revisions()
    assert (given["CONTAINER_APP_NAME"], given["CONTAINER_APP_REVISION"]) == ("app", revision["name"])
    assert given["CONTAINER_APP_REPLICA_NAME"].startswith(revision["name"] + "-")
    assert Path(given["HOME"]).is_dir()
    shown = str((await here.app(), await here.revisions()))
    assert "secret value" not in shown
    assert share not in shown
    listed = await here.type("containerApps").action(call(), here.app_id(), "listSecrets", None)
    assert listed.body == {"value": [{"name": "api-key", "value": "secret value"}]}


async def test_a_new_revision_replaces_the_old_one_when_it_is_ready(here: World) -> None:
    """Beside the old one until then; the old one goes on serving, and is deactivated afterwards."""
    await here.put("containerApps", here.app_id(), app_body())
    await here.running()
    old = (await here.ask())["pid"]
    body = app_body(container={"env": READY_WHEN})
    await here.put("containerApps", here.app_id(), body)
    first, second = await here.revisions()
    assert (await here.ask())["pid"] == old
    app = await here.app()
    assert (app["latestRevisionName"], app["latestReadyRevisionName"]) == (second["name"], first["name"])
    assert [each["properties"]["active"] for each in (first, second)] == [True, True]
    assert [each["properties"]["trafficWeight"] for each in (first, second)] == [0, 100]
    (here.share / "ready").touch()
    await here.running()
    assert (await here.ask())["pid"] != old
    assert (await here.app())["latestReadyRevisionName"] == second["name"]

    async def deactivated() -> bool:
        return bool((await here.revisions())[0]["properties"]["runningState"] == "Stopped")

    await here.until(deactivated)
    first = (await here.revisions())[0]["properties"]
    assert (first["active"], first["replicas"], "lastActiveTime" in first) == (False, 0, True)
    assert not alive(old)


async def test_the_same_template_makes_no_revision(here: World) -> None:
    """Ingress, secrets and tags are the app's own."""
    await here.put("containerApps", here.app_id(), app_body())
    changed = app_body() | {"tags": {"a": "b"}}
    changed["properties"]["configuration"]["secrets"][0]["value"] = "another"
    await here.put("containerApps", here.app_id(), changed)
    assert len(await here.revisions()) == 1


async def test_a_failing_revision_leaves_the_old_one_serving_and_says_why(here: World) -> None:
    """Crash loop with back-off; the app itself stays Succeeded and Running."""
    await here.put("containerApps", here.app_id(), app_body())
    await here.running()
    old = (await here.ask())["pid"]
    container = {"command": ["sh", "-c", "echo no model in /mount/models >&2; exit 3"]}
    await here.put("containerApps", here.app_id(), app_body(container=container))

    async def failed() -> bool:
        return bool((await here.revision())["runningState"] == "Failed")

    await here.until(failed)
    revision = await here.revision()
    assert (revision["healthState"], revision["provisioningState"]) == ("Unhealthy", "Failed")
    assert revision["provisioningError"] == "Container crashing: main"
    assert revision["runningStateDetails"] == ("The process ended with exit code 3. 1/1 Container crashing: main")
    assert (await here.app())["provisioningState"] == "Succeeded"
    assert (await here.ask())["pid"] == old
    assert (await here.revisions())[0]["properties"]["active"]
    (replica,) = await here.replicas()

    async def waiting() -> bool:
        ((shown,),) = [each["properties"]["containers"] for each in await here.replicas()]
        crashes = "Container is waiting with reason: CrashLoopBackOff."
        return bool(shown["restartCount"] >= 1 and shown.get("runningStateDetails") == crashes)

    await here.until(waiting)
    assert "Container 'main' was terminated with exit code '3' and reason 'ProcessExited'" in await events(
        here, "ContainerTerminated"
    )
    log = here.provider.workload(here.app_id()).journal(replica["name"]).tail(1)
    assert log[0].endswith(f"stderr F no model in {here.share}/models")


async def test_restart_replaces_the_replica_without_a_gap(here: World) -> None:
    """The old replica serves until the new one is ready, then ends by SIGTERM; both are listed."""
    await here.put("containerApps", here.app_id(), app_body())
    await here.running()
    pids: list[int] = []
    done = asyncio.Event()

    async def keep_asking() -> None:
        while not done.is_set():
            pids.append((await here.ask())["pid"])

    asking = asyncio.create_task(keep_asking())
    (revision,) = await here.revisions()
    resource_id = here.app_id().child("revisions", revision["name"])
    answer = await here.type("containerApps/revisions").action(call(), resource_id, "restart", None)
    assert answer.body == "Restart succeeded"

    async def replaced() -> bool:
        return [each["properties"]["runningState"] for each in await here.replicas()] == ["NotRunning", "Running"]

    await here.until(replaced)

    async def both() -> bool:
        return len(set(pids)) == 2

    await here.until(both)
    done.set()
    await asking
    assert len(set(pids)) == 2
    assert not alive(pids[0])
    old, _ = await here.replicas()
    assert old["properties"]["runningStateDetails"] == (
        "Container main was terminated with reason: Terminated, exit code: 0."
    )
    journal = here.provider.workload(here.app_id()).journal(old["name"])
    assert journal.tail(1)[0].endswith("SIGTERM")


async def test_a_secret_reaches_the_process_with_the_next_restart(here: World) -> None:
    """A changed secret makes no revision; the running replica keeps the old value."""
    body = app_body(container={"env": [{"name": "KEY", "secretRef": "api-key"}]})
    await here.put("containerApps", here.app_id(), body)
    await here.running()
    body["properties"]["configuration"]["secrets"][0]["value"] = "new"
    await here.put("containerApps", here.app_id(), body)
    assert (await here.ask())["env"]["KEY"] == "secret value"
    (revision,) = await here.revisions()
    resource_id = here.app_id().child("revisions", revision["name"])
    await here.type("containerApps/revisions").action(call(), resource_id, "restart", None)

    async def has_it() -> bool:
        return bool((await here.ask())["env"]["KEY"] == "new")

    await here.until(has_it)


async def test_a_container_that_fails_its_liveness_probe_is_restarted(here: World) -> None:
    """The process is ended and begun anew in the same replica."""
    await here.put("containerApps", here.app_id(), app_body())
    await here.running()
    before = (await here.ask())["pid"]
    async with here.http() as client, client.get(f"{await here.endpoint()}/break"):
        pass

    async def restarted() -> bool:
        (replica,) = await here.replicas()
        (container,) = replica["properties"]["containers"]
        return bool(container["restartCount"] == 1 and container["ready"])

    await here.until(restarted)
    assert (await here.ask())["pid"] != before
    (message,) = await events(here, "ContainerTerminating")
    assert message.startswith("Container main failed liveness probe: HTTP probe failed with statuscode: 500")


async def test_a_container_that_never_starts_fails_its_startup_probe(here: World) -> None:
    """Nothing listens: the revision fails and names the port."""
    probes = [{"type": "Startup", "tcpSocket": {"port": 8000}, "failureThreshold": 1, **PATIENCE}]
    container = {"command": ["sleep", "60"], "probes": probes}
    await here.put("containerApps", here.app_id(), app_body(container=container))

    async def failed() -> bool:
        return bool((await here.revision())["runningState"] == "Failed")

    await here.until(failed)
    details = (await here.revision())["runningStateDetails"]
    assert details == "Failed startup probe: connection refused at port 8000. 1/1 Container crashing: main"


async def test_a_command_that_is_not_there(here: World) -> None:
    """Exit code 127 and the reason in the log."""
    await here.put("containerApps", here.app_id(), app_body(container={"command": ["no-such-program"]}))

    async def failed() -> bool:
        return bool((await here.revision())["runningState"] == "Failed")

    await here.until(failed)
    (replica,) = await here.replicas()
    line = here.provider.workload(here.app_id()).journal(replica["name"]).tail(1)[0]
    assert line.endswith('stderr F exec: "no-such-program": No such file or directory')


async def test_an_image_without_a_command_is_not_pretended(here: World) -> None:
    """The request is taken, as Azure would; the revision fails and says what the stand-in does not do."""
    await here.put("containerApps", here.app_id(), app_body(container={"command": None, "args": None}))

    async def failed() -> bool:
        return bool((await here.revision())["runningState"] == "Failed")

    await here.until(failed)
    assert "runs commands, not images" in (await here.revision())["runningStateDetails"]


async def test_a_share_that_is_gone_fails_the_mount(here: World) -> None:
    """A mount error, told in the events and by the revision; it heals when the share is there."""
    here.cloud.files.delete_share("account", "share")
    await here.put("containerApps", here.app_id(), app_body())

    async def failed() -> bool:
        return bool((await here.revision())["runningState"] == "Failed")

    await here.until(failed)
    assert "mount error(2)" in (await here.revision())["runningStateDetails"]
    here.cloud.files.create_share("account", "share", 100)
    here.share.joinpath("server.py").write_text(
        "import http.server, os\n"
        "class H(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self): self.send_response(200); self.end_headers()\n"
        "http.server.HTTPServer((os.environ['HOST'], int(os.environ['PORT'])), H).serve_forever()\n"
    )
    assert (await here.running())["healthState"] == "Healthy"


async def test_scale_to_zero_and_start_on_request(tmp_path: Path) -> None:
    """After the whole cooldown nothing runs; a request is held until a replica is ready, and the events tell of it."""
    async with world(tmp_path, Pace(factor=300)) as here:
        await here.environment()
        scale = {"minReplicas": 0, "maxReplicas": 1, "cooldownPeriod": 2}
        await here.put("containerApps", here.app_id(), app_body(scale=scale))
        assert (await here.running())["runningState"] == "RunningAtMaxScale"
        last_request = time.monotonic()
        first = (await here.ask())["pid"]
        await here.until(here.at_zero)
        assert time.monotonic() - last_request >= 2, "asleep early is a start for which somebody waits"
        assert (await here.replicas())[-1]["properties"]["runningState"] == "NotRunning"
        assert not alive(first)
        answers = await asyncio.gather(*(here.ask() for _ in range(5)))
        assert {answer["pid"] for answer in answers} == {answers[0]["pid"]} != {first}
        assert (await events(here, "KEDAScaleTargetActivated"))[-1].endswith("from 0 to 1")
        assert await events(here, "KEDAScaleTargetDeactivated")


async def test_replicas_follow_concurrent_requests(tmp_path: Path) -> None:
    """One replica for two requests at once, up to the most; back to the least after the cooldown."""
    async with world(tmp_path, Pace(factor=300)) as here:
        await here.environment()
        rule = {"name": "http", "http": {"metadata": {"concurrentRequests": "2"}}}
        scale = {"minReplicas": 1, "maxReplicas": 3, "cooldownPeriod": 1, "rules": [rule]}
        await here.put("containerApps", here.app_id(), app_body(scale=scale))
        await here.running()
        endpoint = await here.endpoint()
        async with here.http() as client:

            async def wait() -> int:
                async with client.get(f"{endpoint}/wait?three") as response:
                    return response.status

            waiting = [asyncio.create_task(wait()) for _ in range(8)]

            async def three() -> bool:
                shown = [each["properties"] for each in await here.replicas()]
                return bool(sum(each["containers"][0]["ready"] for each in shown) == 3)

            await here.until(three)
            assert (await here.revision())["runningState"] == "RunningAtMaxScale"
            others = {(await here.ask())["pid"] for _ in range(4)}
            assert others
            (here.share / "three").touch()
            assert await asyncio.gather(*waiting) == [200] * 8

        async def one() -> bool:
            return bool((await here.revision())["replicas"] == 1)

        await here.until(one)


async def test_multiple_mode_divides_traffic_and_reaches_each_revision_by_name(here: World) -> None:
    """Weights, a revision's own address, activate and deactivate."""
    body = app_body(revisionSuffix="one")
    body["properties"]["configuration"]["activeRevisionsMode"] = "multiple"
    await here.put("containerApps", here.app_id(), body)
    await here.running()
    body = app_body(revisionSuffix="two", container={"env": [{"name": "WHICH", "value": "two"}]})
    body["properties"]["configuration"]["activeRevisionsMode"] = "multiple"
    rules = [{"revisionName": "app--one", "weight": 100}, {"latestRevision": True, "weight": 0}]
    body["properties"]["configuration"]["ingress"]["traffic"] = rules
    await here.put("containerApps", here.app_id(), body)
    await here.running()
    assert [each["properties"]["trafficWeight"] for each in await here.revisions()] == [100, 0]
    assert not ["WHICH" for _ in range(5) if "WHICH" in (await here.ask())["env"]]
    endpoint = await here.endpoint()
    host = (await here.revision())["fqdn"]
    assert host == f"app--two.app.localhost:{endpoint.rpartition(':')[2]}"
    async with here.http() as client, client.get(endpoint, headers={"Host": host}) as response:
        assert (await response.json())["env"]["WHICH"] == "two"
    revisions = here.type("containerApps/revisions")
    first = here.app_id().child("revisions", "app--one")
    await revisions.action(call(), first, "deactivate", None)

    async def stopped() -> bool:
        return bool((await here.revisions())[0]["properties"]["runningState"] == "Stopped")

    await here.until(stopped)
    await revisions.action(call(), first, "activate", None)
    assert "WHICH" not in (await here.ask())["env"]


async def test_a_suffix_that_is_taken_fails_the_operation(here: World) -> None:
    """And the app says so; the next request may heal it."""
    await here.put("containerApps", here.app_id(), app_body(revisionSuffix="one"))
    changed = app_body(revisionSuffix="one", container={"env": [{"name": "A", "value": "b"}]})
    with pytest.raises(AzureError, match="revision with suffix one already exists"):
        await here.put("containerApps", here.app_id(), changed)
    app = await here.app()
    assert app["provisioningState"] == "Failed"
    assert app["deploymentErrors"].startswith("ErrorCode: ContainerAppOperationError, Message: Failed to provision")
    await here.put("containerApps", here.app_id(), app_body(revisionSuffix="two"))
    assert (await here.app())["provisioningState"] == "Succeeded"


async def test_stop_and_start(here: World) -> None:
    """A stopped app answers 404 and runs nothing, and comes back."""
    await here.put("containerApps", here.app_id(), app_body())
    await here.running()
    process = (await here.ask())["pid"]
    apps = here.type("containerApps")
    await here.ended(await apps.action(call(), here.app_id(), "stop", None))
    assert (await here.app())["runningStatus"] == "Stopped"
    async with here.http() as client, client.get(await here.endpoint()) as response:
        assert response.status == 404
        assert "stopped or does not exist" in await response.text()

    async def ended() -> bool:
        return not alive(process)

    await here.until(ended)
    await here.ended(await apps.action(call(), here.app_id(), "start", None))
    assert (await here.ask())["pid"] != process


async def test_two_changes_at_once_are_refused(here: World) -> None:
    """409 while an operation runs, for every kind of change."""
    first = await here.type("containerApps").put(call(), here.app_id(), app_body())
    for change in ("put", "patch"):
        with pytest.raises(AzureError) as refused:
            await getattr(here.type("containerApps"), change)(call(), here.app_id(), app_body())
        assert (refused.value.status, refused.value.code) == (409, "ContainerAppOperationInProgress")
    await here.ended(first)


async def test_delete_ends_everything(here: World) -> None:
    """Process, port, revisions, secrets."""
    await here.put("containerApps", here.app_id(), app_body())
    await here.running()
    process, endpoint = (await here.ask())["pid"], await here.endpoint()
    await here.ended(await here.type("containerApps").delete(call(), here.app_id()))
    assert not alive(process)
    with pytest.raises(AzureError, match="ResourceNotFound"):
        await here.app()
    async with here.http() as client:
        with pytest.raises(OSError, match="Cannot connect"):
            await client.get(endpoint)
    assert here.provider.pages() == []
    await here.put("containerApps", here.app_id(), app_body())
    assert len(await here.revisions()) == 1


async def test_a_change_that_goes_on_does_not_bring_a_deleted_app_back(here: World) -> None:
    """The process takes a second to end, the change less; the next app of that name is a new one."""
    body = app_body(container={"env": [{"name": "STUBBORN", "value": "1"}]}, terminationGracePeriodSeconds=1)
    await here.put("containerApps", here.app_id(), body)
    await here.running()
    for change in ("patch", "stop"):
        apps = here.type("containerApps")
        if change == "patch":
            going_on = await apps.patch(call(), here.app_id(), {"tags": {"a": "b"}})
        else:
            going_on = await apps.action(call(), here.app_id(), "stop", {})
        deletion = await apps.delete(call(), here.app_id())
        with pytest.raises(AzureError, match="ResourceNotFound"):
            await here.ended(going_on)
        await here.ended(deletion)
        with pytest.raises(AzureError, match="ResourceNotFound"):
            await here.app()
        await here.put("containerApps", here.app_id(), body)
        await here.running()
        assert (await here.ask())["path"] == "/"


async def test_the_apps_come_back_after_a_restart_of_the_stand_in(tmp_path: Path) -> None:
    """At the same addresses; an unfinished operation is finished; a scaled-down app starts at the next request."""
    async with world(tmp_path) as here:
        await here.environment()
        await here.put("containerApps", here.app_id(), app_body())
        await here.put("containerApps", here.app_id("lazy"), app_body(scale={"minReplicas": 0, "maxReplicas": 1}))
        await here.running("app")
        await here.running("lazy")
        before = here.provider.pages()
        processes = [(await here.ask(name=name))["pid"] for name in ("app", "lazy")]
        pending = await here.type("containerApps").put(call(), here.app_id("late"), app_body())
    assert not any(alive(process) for process in processes)
    async with world(tmp_path) as here:
        assert [page for page in here.provider.pages() if page["name"] != "late"] == before
        await here.running("app")
        assert (await here.revision("lazy"))["runningState"] == "ScaledToZero"
        assert (await here.ask(name="lazy"))["pid"] not in processes
        await here.running("late")
        answer = await poll(here, pending.headers["Azure-AsyncOperation"])
        assert answer["status"] == "Succeeded"


async def poll(here: World, address: str) -> Any:
    """What the address of an operation's status answers."""
    rest = tuple(address.partition("/providers/Microsoft.App/")[2].partition("?")[0].split("/"))
    return (await here.provider.subscription_call(call(), "GET", rest, None)).body


async def test_a_request_is_not_held_for_ever(tmp_path: Path) -> None:
    """From zero: 504 after the limit, and 503 at once when the container crashes instead."""
    async with world(tmp_path, Pace(factor=300, hold_seconds=1)) as here:
        await here.environment()
        (here.share / "ready").touch()
        scale = {"minReplicas": 0, "maxReplicas": 1, "cooldownPeriod": 1}
        await here.put("containerApps", here.app_id(), app_body(scale=scale, container={"env": READY_WHEN}))
        await here.running()
        await here.until(here.at_zero)
        (here.share / "ready").unlink()
        async with here.http() as client, client.get(await here.endpoint()) as response:
            assert (response.status, await response.text()) == (504, "stream timeout")
        await here.until(here.at_zero)
    async with world(tmp_path, Pace(factor=300)) as here:
        await here.until(here.at_zero)
        (here.share / "server.py").write_text("import sys; sys.exit(4)")
        async with here.http() as client, client.get(await here.endpoint()) as response:
            assert (response.status, await response.text()) == (503, "no healthy upstream")
        assert "exit code 4" in (await here.revision())["runningStateDetails"]


async def test_sigterm_then_sigkill_after_the_grace_period(here: World) -> None:
    """A container that ignores SIGTERM is ended by force; its exit code says so."""
    body = app_body(container={"env": [{"name": "STUBBORN", "value": "1"}]}, terminationGracePeriodSeconds=5)
    await here.put("containerApps", here.app_id(), body)
    await here.running()
    process = (await here.ask())["pid"]
    (revision,) = await here.revisions()
    resource_id = here.app_id().child("revisions", revision["name"])
    await here.type("containerApps/revisions").action(call(), resource_id, "restart", None)

    async def ended() -> bool:
        return bool((await here.replicas())[0]["properties"]["runningState"] == "NotRunning")

    await here.until(ended)
    assert not alive(process)
    replica = (await here.replicas())[0]
    assert replica["properties"]["runningStateDetails"].endswith("exit code: 137.")
    assert here.provider.workload(here.app_id()).journal(replica["name"]).tail(1)[0].endswith("SIGTERM")


async def test_the_end_of_the_stand_in_does_not_wait_for_a_long_grace_period(here: World) -> None:
    """Also of a replica that was told to end before, with all the time in the world."""
    body = app_body(container={"env": [{"name": "STUBBORN", "value": "1"}]}, terminationGracePeriodSeconds=600)
    await here.put("containerApps", here.app_id(), body)
    await here.running()
    process = (await here.ask())["pid"]
    (replica,) = await here.replicas()
    (revision,) = await here.revisions()
    resource_id = here.app_id().child("revisions", revision["name"])
    await here.type("containerApps/revisions").action(call(), resource_id, "restart", None)
    journal = here.provider.workload(here.app_id()).journal(replica["name"])

    async def told() -> bool:
        return journal.tail(1)[0].endswith("SIGTERM")

    await here.until(told)
    assert alive(process)
    await asyncio.wait_for(here.provider.stop(), 60)
    assert not alive(process)

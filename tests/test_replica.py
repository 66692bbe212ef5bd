"""Restarting and waiting: the real SDK and client against a tiny real resource manager and a tiny real app."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from azure.core.credentials import AccessToken
from azure.mgmt.appcontainers import ContainerAppsAPIClient

from scripts import replica as replicas
from scripts.endpoint import Endpoint, Readiness
from scripts.errors import CloudError, NotFound, NotReady, NotSignedIn, Untrusted
from scripts.replica import App, Pace, Restart
from tests.tiny_app import KEY, TinyApp, make_certificate, running_tiny_app
from tests.tiny_resource_manager import (
    APP,
    GROUP,
    SUBSCRIPTION,
    TinyResourceManager,
    replica,
    running_resource_manager,
)

QUICK = Pace(poll_seconds=0.05, state_every_seconds=0.1, grace_seconds=1.5, grace_after_failure_seconds=5.0)


class StaticToken:
    """A credential whose token is good for the tiny resource manager, which takes any."""

    def get_token(self, *scopes: str, **options: object) -> AccessToken:
        return AccessToken("token", int(time.time()) + 3600)


@dataclass(frozen=True)
class World:
    manager: TinyResourceManager
    app_server: TinyApp
    app: App
    endpoint: Endpoint
    certificate: Path

    def wait(
        self, restart: Restart, *then: Callable[[], None], release: str = "r2", deadline_seconds: float = 60
    ) -> tuple[Readiness, list[str]]:
        """What came of the waiting, and what it said; as it says one thing after the other, those in `then` happen."""
        said: list[str] = []

        def progress(line: str) -> None:
            said.append(line)
            if len(said) <= len(then):
                then[len(said) - 1]()

        readiness = replicas.wait_until_ready(
            self.app,
            self.endpoint,
            release,
            restart,
            deadline_seconds=deadline_seconds,
            progress=progress,
            pace=QUICK,
        )
        return readiness, said

    def replace(self) -> None:
        """The new replica stands in the old one's place."""
        self.manager.state.replicas = [replica("theapp--1-new", created="2026-11-21T11:00:00Z")]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("certificate") / "both.pem")


@pytest.fixture
def world(certificate: Path) -> Iterator[World]:
    with ExitStack() as stack:
        manager = stack.enter_context(running_resource_manager(certificate))
        app_server = stack.enter_context(running_tiny_app(certificate))
        endpoint = stack.enter_context(Endpoint(app_server.url, key=KEY, certificate=certificate, answer_seconds=30))
        client = ContainerAppsAPIClient(
            StaticToken(),
            SUBSCRIPTION,
            base_url=manager.url,
            credential_scopes=["any"],
            connection_verify=str(certificate),
        )
        stack.callback(client.close)
        app = App(client, resource_group=GROUP, name=APP, certificate=certificate)
        yield World(manager, app_server, app, endpoint, certificate)


def test_the_state_of_the_active_revision(world: World) -> None:
    state = world.app.state()
    assert (state.name, state.running_state, state.health_state) == ("theapp--1", "Running", "Healthy")
    assert [(one.name, one.running_state, one.container) for one in state.replicas] == [
        ("theapp--1-old", "Running", "inference")
    ]
    assert not state.has_failed
    world.manager.state.replicas = []
    assert world.app.state().replicas == ()


def test_an_app_without_an_active_revision_says_so(world: World) -> None:
    world.manager.state.running = "Stopped"
    with pytest.raises(NotFound, match="has no active revision"):
        world.app.restart()


def test_a_restart_remembers_what_was_there(world: World) -> None:
    assert world.app.restart() == Restart("theapp--1", frozenset({"theapp--1-old"}), False)
    assert any(line.endswith("/revisions/theapp--1/restart") for line in world.manager.state.seen)


def test_waiting_ends_when_the_new_release_answers(world: World) -> None:
    def come() -> None:
        world.replace()
        world.app_server.behaviour.release = "r2"

    readiness, said = world.wait(world.app.restart(), come)
    assert (readiness.status, readiness.release) == ("ready", "r2")
    assert said == ["release r1 still answers"]


def test_the_old_replica_is_not_taken_for_the_new_one(world: World) -> None:
    _, said = world.wait(world.app.restart(), world.replace, release="r1")
    assert said == ["an old replica still runs"]


def test_of_several_replicas_the_last_old_one_is_waited_out(world: World) -> None:
    """Longer than the grace, too: a request might still reach it."""
    old, new = world.manager.state.replicas[0], replica("theapp--1-new")
    world.app_server.behaviour.release = "r2"
    world.manager.state.on_restart = lambda: setattr(world.manager.state, "replicas", [old, new])
    gone = threading.Timer(QUICK.grace_seconds + 0.5, lambda: setattr(world.manager.state, "replicas", [new]))
    _, said = world.wait(world.app.restart(), gone.start)
    assert world.manager.state.replicas == [new]
    assert said == ["an old replica still runs"]


def test_replicas_that_keep_their_names_are_new_after_the_grace(world: World) -> None:
    world.app_server.behaviour.release = "r2"
    readiness, _ = world.wait(world.app.restart())
    assert readiness.release == "r2"


def test_the_old_replicas_failure_is_not_taken_for_the_new_ones(world: World) -> None:
    behaviour = world.app_server.behaviour
    behaviour.status, behaviour.error = "failed", "the folder was missing"
    readiness, said = world.wait(
        world.app.restart(), lambda: setattr(behaviour, "status", "ready"), world.replace, release="r1"
    )
    assert readiness.status == "ready"
    assert said == ["failed", "an old replica still runs"]


def test_an_app_that_sleeps_is_woken_by_the_asking(world: World) -> None:
    world.manager.state.replicas = []
    world.app_server.behaviour.gateway_failures = 3
    world.app_server.behaviour.release = "r2"
    readiness, said = world.wait(world.app.restart())
    assert readiness.release == "r2"
    assert len(said) == 1 and "HTTP 503" in said[0]
    assert world.app_server.behaviour.seen == ["GET /ready"] * 4


def test_progress_tells_each_phase_once(world: World) -> None:
    behaviour = world.app_server.behaviour
    behaviour.status, behaviour.phase, behaviour.release = "loading", "reading weights", "r2"
    _, said = world.wait(
        Restart("theapp--1", frozenset(), False),
        lambda: setattr(behaviour, "phase", "warming up"),
        lambda: setattr(behaviour, "status", "ready"),
    )
    assert said == ["loading: reading weights", "loading: warming up"]


def test_while_a_request_is_held_the_log_of_the_new_replica_tells_how_far_it_is(world: World) -> None:
    behaviour, state = world.app_server.behaviour, world.manager.state
    behaviour.release, state.replicas = "r2", [replica("theapp--1-new")]
    state.log = ["2026-11-21T10:00:02.5+00:00 2026-11-21T10:00:02Z INFO serve: start: importing torch", "other text"]
    behaviour.open.clear()
    _, said = world.wait(Restart("theapp--1", frozenset({"theapp--1-old"}), False), behaviour.open.set)
    assert said == ["the replica: start: importing torch"]


def test_the_log_of_a_replica_that_has_ended_tells_nothing_of_the_one_that_is_awaited(world: World) -> None:
    """An app that is scaled to zero, whose last replica could not serve an older release."""
    behaviour, state = world.app_server.behaviour, world.manager.state
    state.running, state.replicas = "ScaledToZero", [replica("theapp--1-ended", "NotRunning")]
    state.log = [f"2026-11-21T10:00:02Z ERROR engine: {replicas.CANNOT_SERVE} no folder models/x"]
    behaviour.release = "r2"
    asleep = world.app.state().as_it_is()
    assert asleep.was_asleep
    behaviour.gateway_failures = 10  # enough for the state to be looked at between them
    readiness, said = world.wait(asleep)
    assert readiness.release == "r2"
    assert len(said) == 1 and "HTTP 503" in said[0]


def test_what_an_ended_process_could_not_do_tells_nothing_of_the_one_started_in_its_place(world: World) -> None:
    """A replica keeps its log when its container is restarted, as after a model that computed nothing any more."""
    behaviour, state = world.app_server.behaviour, world.manager.state
    behaviour.release, state.replicas = "r2", [replica("theapp--1-new", restarts=1)]
    state.log = [
        f"2026-11-21T10:00:01Z ERROR engine: {replicas.CANNOT_SERVE} it computes nothing any more",
        "2026-11-21T10:00:02Z ERROR serve: ended with exit code 3: a new process is needed",
    ]
    behaviour.gateway_failures = 10  # enough for the log to be looked at between them
    readiness, _ = world.wait(world.app.state().as_it_is())
    assert readiness.release == "r2"
    state.log.append(f"2026-11-21T10:00:09Z ERROR engine: {replicas.CANNOT_SERVE} no folder models/x")
    behaviour.gateway_failures = 10
    with pytest.raises(NotReady, match="cannot serve release r2: no folder models/x"):
        world.wait(world.app.state().as_it_is())


def test_a_model_that_cannot_be_loaded_is_told_at_once_with_the_log(world: World) -> None:
    behaviour = world.app_server.behaviour
    behaviour.status, behaviour.error, behaviour.release = "failed", "no folder models/x", "r2"
    world.manager.state.replicas = [replica("theapp--1-new")]
    with pytest.raises(NotReady, match="cannot serve release r2: no folder models/x") as caught:
        world.wait(Restart("theapp--1", frozenset({"theapp--1-old"}), False))
    assert behaviour.seen == ["GET /ready"]
    assert caught.value.details == (
        "theapp--1: Provisioned, Running, health Healthy",
        "log: starting",
        "log: Traceback: no such model",
    )


def test_a_container_that_crashes_again_and_again_is_noticed(world: World) -> None:
    world.app_server.behaviour.gateway_failures = 1000
    world.manager.state.replicas = [replica("theapp--1-new", restarts=3)]
    with pytest.raises(NotReady, match=r"crashed 3 times \(Container crashing: inference\)"):
        world.wait(Restart("theapp--1", frozenset({"theapp--1-old"}), False))


def test_a_replica_that_still_loads_has_not_failed(world: World) -> None:
    """Whatever the revision is called meanwhile, and for longer than the grace."""
    state, behaviour = world.manager.state, world.app_server.behaviour
    state.health, state.running, state.replicas = "Unhealthy", "Degraded", [replica("theapp--1-new")]
    behaviour.status, behaviour.phase, behaviour.release = "loading", "reading weights", "r2"
    loaded = threading.Timer(QUICK.grace_seconds + 1, lambda: setattr(behaviour, "status", "ready"))
    readiness, _ = world.wait(Restart("theapp--1", frozenset({"theapp--1-old"}), False), loaded.start)
    assert readiness.status == "ready"


def test_a_revision_that_fails_is_noticed_after_the_grace(world: World) -> None:
    world.app_server.behaviour.gateway_failures = 1000
    state = world.manager.state
    state.running, state.health, state.provisioning = "Failed", "Unhealthy", "Failed"
    state.details = "The TargetPort 8080 does not match the listening port 80."
    state.replicas, state.log_status = [replica("theapp--1-new", "NotRunning")], 500
    started = time.monotonic()
    with pytest.raises(NotReady, match=r"does not start under release r2: .*TargetPort 8080 does not match") as caught:
        world.wait(Restart("theapp--1", frozenset(), False))
    assert time.monotonic() - started >= QUICK.grace_seconds
    assert caught.value.details[1].startswith("no log: The log stream of the app theapp was refused: HTTP 500")


def test_a_failure_of_before_the_restart_is_not_taken_for_a_new_one(world: World) -> None:
    state = world.manager.state
    state.running, state.health = "Degraded", "Unhealthy"
    world.app_server.behaviour.gateway_failures = 1000

    def recover() -> None:
        state.running, state.health = "Running", "Healthy"
        world.replace()
        world.app_server.behaviour.release = "r2"
        world.app_server.behaviour.gateway_failures = 0

    restart = world.app.restart()
    assert restart.had_failed
    readiness, _ = world.wait(restart, recover)
    assert readiness.release == "r2"


def test_the_deadline_ends_the_waiting_with_what_was_last_seen(world: World) -> None:
    with pytest.raises(NotReady, match="within 5 s; last: release r1 still answers"):
        world.wait(Restart("theapp--1", frozenset(), False), lambda: time.sleep(5), deadline_seconds=5)


def test_a_key_that_the_app_does_not_take_is_named(world: World) -> None:
    with world.endpoint.with_key("wrong") as stranger, pytest.raises(NotSignedIn, match="does not accept this key"):
        replicas.wait_until_ready(
            world.app, stranger, "r1", Restart("theapp--1", frozenset(), False), deadline_seconds=60, pace=QUICK
        )


def test_an_untrusted_certificate_ends_the_waiting_at_once(world: World) -> None:
    with Endpoint(world.app_server.url, key=KEY) as client, pytest.raises(Untrusted):
        replicas.wait_until_ready(
            world.app, client, "r1", Restart("theapp--1", frozenset(), False), deadline_seconds=60, pace=QUICK
        )


def test_the_log_of_the_newest_replica(world: World) -> None:
    world.manager.state.replicas = [
        replica("theapp--1-old", created="2026-11-21T10:00:00Z"),
        replica("theapp--1-new", created="2026-11-21T11:00:00Z"),
    ]
    assert list(world.app.log_lines(tail=1)) == ["Traceback: no such model"]
    assert list(world.app.log_lines(follow=True)) == ["starting", "Traceback: no such model"]
    assert world.manager.state.seen[-1] == (
        f"GET /subscriptions/{SUBSCRIPTION}/resourceGroups/rg/containerApps/theapp/revisions/theapp--1"
        "/replicas/theapp--1-new/containers/inference/logstream"
    )
    world.manager.state.log = []
    assert world.app.last_log_lines() == ("the replica's log is empty",)


def test_the_log_of_the_new_one_of_two_that_were_made_in_the_same_second(world: World) -> None:
    world.manager.state.replicas = [replica("theapp--1-old"), replica("theapp--1-new")]
    list(world.app.log_lines(other_than=frozenset({"theapp--1-old"})))
    assert "/replicas/theapp--1-new/" in world.manager.state.seen[-1]


def test_a_log_without_a_replica_says_how_to_get_one(world: World) -> None:
    world.manager.state.replicas = []
    with pytest.raises(NotFound, match="has no replica now") as caught:
        list(world.app.log_lines())
    assert "inferops chat" in caught.value.next_step


def test_the_managers_own_errors_are_told_in_its_words(world: World) -> None:
    world.manager.state.failures = 1
    with pytest.raises(CloudError, match="cannot say") as caught:
        world.app.state()
    assert caught.value.code == "SomethingWrong"

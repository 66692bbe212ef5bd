"""Restarting and waiting on the stand-in: a real container app whose replicas are real processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
from azure.mgmt.appcontainers.models import ContainerApp, ManagedEnvironment

from scripts import replica as replicas
from scripts import share as shares
from scripts.endpoint import Endpoint
from scripts.errors import NotReady
from scripts.files import ShareClient
from scripts.replica import App, Pace
from tests.conftest import RunningStandIn
from tests.share_on_stand_in import ACCOUNT, RESOURCE_GROUP, clients_of, new_share
from tests.tiny_app import KEY

SHARE = "replica-tests"
APP = "tiny"
QUICK = Pace(poll_seconds=0.2, state_every_seconds=0.5, grace_seconds=4, grace_after_failure_seconds=10)

SERVER = b"""
import http.server, json, os
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "release.txt")) as file:
    release = file.read()
print(f"serving {release}", flush=True)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        told = {"status": "ready"}
        if self.headers["Authorization"] == "Bearer the-key":
            told["release"] = release
        body = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""

CRASHING = b"""
import sys
print("about to fail", flush=True)
sys.exit("no such model: models/x")
"""


@dataclass(frozen=True)
class World:
    share: ShareClient
    app: App
    endpoint: Endpoint


@pytest.fixture(scope="module")
def world(stand_in: RunningStandIn) -> Iterator[World]:
    with ExitStack() as stack:
        share = stack.enter_context(new_share(stand_in, SHARE))
        shares.write_small_file(share, "server.py", SERVER)
        shares.write_small_file(share, "release.txt", b"r1")
        clients = stack.enter_context(clients_of(stand_in, RESOURCE_GROUP))
        api = clients.container_apps
        environment = api.managed_environments.begin_create_or_update(
            RESOURCE_GROUP, "env", ManagedEnvironment({"location": "swedencentral", "properties": {}})
        ).result()
        api.managed_environments_storages.create_or_update(
            RESOURCE_GROUP,
            "env",
            "mount",
            {
                "properties": {
                    "azureFile": {
                        "accountName": ACCOUNT,
                        "accountKey": clients.account_key(ACCOUNT),
                        "shareName": SHARE,
                        "accessMode": "ReadOnly",
                    }
                }
            },
        )
        container = {
            "name": "inference",
            "image": "python:3.12",
            "command": ["python", "/mount/server.py"],
            "resources": {"cpu": 0.25, "memory": "0.5Gi"},
            "volumeMounts": [{"volumeName": "share", "mountPath": "/mount"}],
        }
        app = api.container_apps.begin_create_or_update(
            RESOURCE_GROUP,
            APP,
            ContainerApp(
                {
                    "location": "swedencentral",
                    "properties": {
                        "managedEnvironmentId": environment.id,
                        "configuration": {"ingress": {"external": True, "targetPort": 8000}},
                        "template": {
                            "containers": [container],
                            "scale": {"minReplicas": 1, "maxReplicas": 1},
                            "volumes": [{"name": "share", "storageType": "AzureFile", "storageName": "mount"}],
                        },
                    },
                }
            ),
        ).result()
        ingress = app.properties.configuration.ingress if app.properties and app.properties.configuration else None
        assert ingress is not None
        certificate = clients.cloud.certificate
        endpoint = stack.enter_context(
            Endpoint(f"https://{ingress.fqdn}", key=KEY, certificate=certificate, answer_seconds=20)
        )
        yield World(share, App(api, resource_group=RESOURCE_GROUP, name=APP, certificate=certificate), endpoint)


def deploy(world: World, release: str, server: bytes) -> tuple[replicas.Restart, list[str]]:
    """Put a server into use and wait for it; what was said on the way."""
    shares.write_small_file(world.share, "release.txt", release.encode())
    shares.write_small_file(world.share, "server.py", server)
    said: list[str] = []
    restart = world.app.restart()
    replicas.wait_until_ready(
        world.app, world.endpoint, release, restart, deadline_seconds=60, progress=said.append, pace=QUICK
    )
    return restart, said


def test_a_release_that_starts_a_release_that_crashes_and_the_way_back(world: World) -> None:
    restart, _ = deploy(world, "r1", SERVER)
    assert restart.replicas_before.isdisjoint(_running(world)), "a restart brings another replica"
    assert "serving r1" in list(world.app.log_lines(tail=10))[-1]

    again, _ = deploy(world, "r1", SERVER)
    assert again.replicas_before.isdisjoint(_running(world)), "the old replica was not taken for the new one"

    with pytest.raises(NotReady) as caught:
        deploy(world, "r2", CRASHING)
    assert any("no such model: models/x" in line for line in caught.value.details), str(caught.value)

    back, said = deploy(world, "r1", SERVER)
    assert back.had_failed or back.replicas_before
    assert "serving r1" in list(world.app.log_lines(tail=10))[-1]
    assert said


def _running(world: World) -> set[str]:
    return {replica.name for replica in world.app.state().replicas if replica.running_state == "Running"}

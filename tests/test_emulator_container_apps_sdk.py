"""Container apps through the real SDK against a running stand-in: create, answer, log, restart, die, come back."""

from __future__ import annotations

import json
import os
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.identity import ClientSecretCredential
from azure.mgmt.appcontainers import ContainerAppsAPIClient
from azure.mgmt.resource.resources import ResourceManagementClient
from azure.mgmt.storage import StorageManagementClient
from azure.storage.fileshare import ShareClient

from tests.conftest import RunningStandIn, running_stand_in
from tests.container_apps import SERVER, app_body
from tests.waiting import until

POLL: Any = {"polling_interval": 0.1}


@dataclass
class Subscription:
    """The clients of one caller, and one resource group."""

    stand_in: RunningStandIn
    group: str

    def _of(self, client: type[Any]) -> Any:
        told = self.stand_in.announcement
        credential = ClientSecretCredential(
            told["tenant"],
            told["client_id"],
            told["client_secret"],
            authority=told["authority"],
            disable_instance_discovery=True,
            connection_verify=told["certificate"],
        )
        return client(
            credential,
            told["subscription"],
            base_url=told["resource_manager"],
            credential_scopes=[f"{told['resource_manager']}/.default"],
            connection_verify=told["certificate"],
        )

    @property
    def apps(self) -> ContainerAppsAPIClient:
        """Microsoft.App."""
        made: ContainerAppsAPIClient = self._of(ContainerAppsAPIClient)
        return made

    def provision(self, account: str) -> None:
        """A group, an account with a share that holds SERVER, an environment with that share as storage."""
        self._of(ResourceManagementClient).resource_groups.create_or_update(self.group, {"location": "swedencentral"})
        storage = self._of(StorageManagementClient)
        parameters = {"location": "swedencentral", "sku": {"name": "Standard_LRS"}, "kind": "StorageV2"}
        storage.storage_accounts.begin_create(self.group, account, parameters, **POLL).result()
        storage.file_shares.create(self.group, account, "share", {})
        key = storage.storage_accounts.list_keys(self.group, account).as_dict()["keys"][0]["value"]
        share = ShareClient(
            f"{self.stand_in.announcement['resource_manager']}/{account}",
            "share",
            credential={"account_name": account, "account_key": key},
            connection_verify=self.stand_in.announcement["certificate"],
        )
        share.get_file_client("server.py").upload_file(SERVER.encode())
        environments = self.apps.managed_environments
        profiles = [{"name": "Consumption", "workloadProfileType": "Consumption"}]
        environment: Any = {"location": "swedencentral", "properties": {"workloadProfiles": profiles}}
        environments.begin_create_or_update(self.group, "env", environment, **POLL).result()
        file = {"accountName": account, "accountKey": key, "shareName": "share", "accessMode": "ReadWrite"}
        body: Any = {"properties": {"azureFile": file}}
        self.apps.managed_environments_storages.create_or_update(self.group, "env", "storage", body)

    def body(self, **template: Any) -> Any:
        """A request for an app on the group's environment."""
        body = app_body(**template)
        environment = self.apps.managed_environments.get(self.group, "env")
        body["properties"]["environmentId"] = environment.id
        return body

    def create(self, name: str, **template: Any) -> Any:
        """An app, once its operation has ended."""
        return self.apps.container_apps.begin_create_or_update(self.group, name, self.body(**template), **POLL).result()

    def running(self, name: str) -> Any:
        """The newest revision once it runs."""

        def newest() -> Any:
            revision = list(self.apps.container_apps_revisions.list_revisions(self.group, name))[-1]
            return revision if revision.running_state in ("Running", "RunningAtMaxScale") else None

        return until(newest)

    def ask(self, name: str, path: str = "/") -> Any:
        """GET of an app through its ingress."""
        app = self.apps.container_apps.get(self.group, name)
        with self.open(f"https://{app.configuration.ingress.fqdn}{path}") as response:
            return json.load(response)

    def open(self, url: str, token: str | None = None) -> Any:
        """GET with trust in the stand-in's authority alone."""
        context = ssl.create_default_context(cafile=self.stand_in.announcement["certificate"])
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
        return urllib.request.urlopen(request, context=context, timeout=60)


@pytest.fixture(scope="module")
def subscription(stand_in: RunningStandIn) -> Subscription:
    """A group with an environment."""
    made = Subscription(stand_in, "container-apps")
    made.provision("containerappsdata")
    return made


def test_an_app_from_nothing_to_an_answer(subscription: Subscription) -> None:
    """The models hold what the service computes."""
    app = subscription.create("first")
    assert app.provisioning_state == "Succeeded"
    assert app.configuration.secrets[0].name == "api-key"
    assert app.configuration.secrets[0].value is None
    revision = subscription.running("first")
    app = subscription.apps.container_apps.get(subscription.group, "first")
    assert app.latest_revision_name == app.latest_ready_revision_name == revision.name
    assert app.configuration.ingress.fqdn.startswith("127.0.0.1:")
    assert subscription.ask("first", "/hello")["path"] == "/hello"
    listed = subscription.apps.container_apps.list_secrets(subscription.group, "first")
    assert [(secret.name, secret.value) for secret in listed.value] == [("api-key", "secret value")]
    apps = {each.name for each in subscription.apps.container_apps.list_by_resource_group(subscription.group)}
    assert "first" in apps
    with subscription.open(f"{subscription.stand_in.announcement['resource_manager']}/stand-in/apps") as response:
        pages = {page["name"]: page for page in json.load(response)}
    assert pages["first"]["endpoint"] == f"https://{app.configuration.ingress.fqdn}"


def test_update_restart_and_delete(subscription: Subscription) -> None:
    """PATCH makes a revision; restart is no operation; after DELETE nothing answers."""
    subscription.create("second")
    subscription.running("second")
    before = subscription.ask("second")["pid"]
    apps, revisions = subscription.apps.container_apps, subscription.apps.container_apps_revisions
    patch: Any = subscription.body(container={"env": [{"name": "A", "value": "b"}]})
    changes: Any = {"properties": {"template": patch["properties"]["template"]}}
    patched = apps.begin_update(subscription.group, "second", changes, **POLL).result()
    assert patched.template.containers[0].env[0].name == "A"
    revision = until(lambda: subscription.ask("second")["env"].get("A") == "b" and subscription.running("second"))
    after = subscription.ask("second")["pid"]
    assert after != before
    revisions.restart_revision(subscription.group, "second", revision.name)
    assert until(lambda: subscription.ask("second")["pid"] != after)
    replicas = subscription.apps.container_apps_revision_replicas.list_replicas(
        subscription.group, "second", revision.name
    )
    assert [replica.containers[0].name for replica in replicas.value][-1] == "main"
    apps.begin_delete(subscription.group, "second", **POLL).result()
    with pytest.raises(ResourceNotFoundError):
        apps.get(subscription.group, "second")


def test_stop_and_start(subscription: Subscription) -> None:
    """Two operations that no recording has."""
    subscription.create("third")
    subscription.running("third")
    apps = subscription.apps.container_apps
    assert apps.begin_stop(subscription.group, "third", **POLL).result().running_status == "Stopped"
    assert apps.begin_start(subscription.group, "third", **POLL).result().running_status == "Running"
    assert until(lambda: subscription.ask("third"))


def test_refusals_reach_the_client_with_code_and_words(subscription: Subscription) -> None:
    """As the SDK's errors."""
    body = subscription.body()
    body["properties"]["template"]["containers"][0]["resources"] = {"cpu": 1, "memory": "1Gi"}
    with pytest.raises(HttpResponseError) as refused:
        subscription.apps.container_apps.begin_create_or_update(subscription.group, "bad", body, **POLL).result()
    assert refused.value.error is not None
    assert refused.value.error.code == "ContainerAppInvalidResourceTotal"


def test_the_log_stream_follows_what_the_container_prints(subscription: Subscription) -> None:
    """As `az containerapp logs show`: a token, the replica's address, its last lines and then what comes."""
    subscription.create(
        "talker",
        container={"command": ["sh", "-c", "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.2; done"], "probes": []},
        scale={"minReplicas": 1, "maxReplicas": 1},
    )
    token = subscription.apps.container_apps.get_auth_token(subscription.group, "talker").token
    assert token
    app = subscription.apps.container_apps.get(subscription.group, "talker")

    def container() -> Any:
        replicas = subscription.apps.container_apps_revision_replicas.list_replicas(
            subscription.group, "talker", app.latest_revision_name
        )
        return replicas.value[0].containers[0] if replicas.value else None

    address = until(container).log_stream_endpoint
    with subscription.open(f"{address}?follow=true&output=json&tailLines=5", token) as stream:
        lines = [json.loads(stream.readline()) for _ in range(12)]
    assert lines[0]["Log"] == "Connecting to the container 'main'..."
    assert lines[1]["Log"].startswith("Successfully Connected to container: 'main' [Revision: 'talker--")
    numbers = [int(line["Log"].removeprefix("line ")) for line in lines[2:]]
    assert numbers == list(range(numbers[0], numbers[0] + 10))
    assert lines[2]["TimeStamp"].endswith("+00:00")
    with subscription.open(f"{address}?output=text&tailLines=1", token) as stream:
        assert stream.read().decode().splitlines()[-1].partition(" ")[2].startswith("line ")
    with subscription.open(f"{app.event_stream_endpoint}?tailLines=50", token) as stream:
        events = [json.loads(line) for line in stream]
    assert "ContainerStarted" in {event["Reason"] for event in events}
    for wrong in (None, "wrong"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            subscription.open(address, wrong)
        assert refused.value.code == 401


def test_a_killed_stand_in_takes_its_apps_along_and_brings_them_back(tmp_path: Path) -> None:
    """SIGKILL: the app's process dies at once; the same folder serves the same app at the same address again."""
    with running_stand_in(tmp_path / "state") as running:
        first = Subscription(running, "killed")
        first.provision("killedaccount")
        first.create("app")
        first.running("app")
        process = first.ask("app")["pid"]
        fqdn = first.apps.container_apps.get("killed", "app").configuration.ingress.fqdn
        running.kill()
        until(lambda: not Path(f"/proc/{process}").exists() if Path("/proc").exists() else not alive(process))
        with running_stand_in(tmp_path / "state") as again:
            second = Subscription(again, "killed")
            second.running("app")
            assert second.apps.container_apps.get("killed", "app").configuration.ingress.fqdn == fqdn
            assert second.ask("app")["pid"] != process


def alive(process_id: int) -> bool:
    """Whether there is such a process."""
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    return True

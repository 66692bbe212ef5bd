"""One request for preview and deployment: what goes into it, and what comes of it on the stand-in."""

from __future__ import annotations

import dataclasses
import json
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from scripts import cloud, deployment, environment, errors, plan, template
from scripts.environment import Environment
from scripts.plan import Kind
from scripts.template import Parameter, Template
from tests.conftest import RunningStandIn

ROOT = Path(__file__).parent.parent
KEY = "a-key-for-tests-0123456789"

STORAGE = {
    "type": "Microsoft.Storage/storageAccounts",
    "apiVersion": "2026-04-01",
    "name": "[parameters('account')]",
    "location": "[resourceGroup().location]",
    "sku": {"name": "Standard_LRS"},
    "kind": "StorageV2",
    "properties": {},
}
NAMES = [
    "SUBSCRIPTION_ID",
    "RESOURCE_GROUP_NAME",
    "STORAGE_ACCOUNT_NAME",
    "FILE_SHARE_NAME",
    "ACA_APP_NAME",
    "ACA_APP_ENDPOINT",
]


def small_template(*resources: Mapping[str, Any]) -> Template:
    """A template whose resources are quick to make, with the six outputs."""
    document = {
        "$schema": "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#",
        "contentVersion": "1.0.0.0",
        "parameters": {"account": {"type": "string"}},
        "resources": list(resources),
        "outputs": {
            name: {"type": "string", "value": f"[concat('{name.lower()}-', parameters('account'))]"} for name in NAMES
        },
    }
    declared = Parameter("account", "string", False, True, (), None, None, "")
    return Template(MappingProxyType(document), MappingProxyType({"account": declared}))


def with_parameters(base: Environment, **values: Any) -> Environment:
    return dataclasses.replace(base, parameters={name: {"value": value} for name, value in values.items()})


@pytest.fixture
def local() -> Environment:
    """The environment `local`, in a resource group that no other test uses."""
    return dataclasses.replace(environment.load("local", ROOT), resource_group=f"rg-{uuid.uuid4().hex[:12]}")


@pytest.fixture
def clients(local: Environment, stand_in: RunningStandIn) -> Iterator[cloud.Clients]:
    with cloud.connect(local, variables={cloud.STAND_IN_VARIABLE: str(stand_in.announcement_file)}) as connected:
        yield connected


@pytest.fixture
def reader(local: Environment, stand_in: RunningStandIn) -> Iterator[cloud.Clients]:
    announced = {cloud.STAND_IN_VARIABLE: str(stand_in.announcement_file)}
    with cloud.connect(local, "what_if", variables=announced) as connected:
        yield connected


def own_account() -> str:
    return f"acc{uuid.uuid4().hex[:12]}"


class Heard:
    """A progress callback that remembers."""

    def __init__(self) -> None:
        self.operations: list[deployment.Operation] = []

    def __call__(self, operation: deployment.Operation) -> None:
        self.operations.append(operation)

    @property
    def types(self) -> list[str]:
        return [operation.resource_type for operation in self.operations]


def test_null_means_the_templates_default_and_secrets_are_added(local: Environment) -> None:
    loaded = template.load(ROOT)
    asked = deployment.request(with_parameters(local, image=None, targetPort=8080), loaded, {"apiKey": KEY})
    assert asked.parameters == {"targetPort": {"value": 8080}, "apiKey": {"value": KEY}}
    assert asked.parameter_types == {"targetPort": "int", "apiKey": "securestring"}
    assert KEY not in repr(asked)


def test_a_key_vault_reference_stands_for_the_secret(local: Environment) -> None:
    reference = {"reference": {"keyVault": {"id": "/subscriptions/x"}, "secretName": "k"}}
    own = dataclasses.replace(local, parameters={"apiKey": reference})
    assert deployment.request(own, template.load(ROOT), {}).parameters == {"apiKey": reference}


@pytest.mark.parametrize(
    ("secrets", "message"), [({}, "it has no value"), ({"apiKey": "short"}, "must be at least 16")]
)
def test_a_missing_or_unfit_secret_is_bad_input_and_not_repeated(
    local: Environment, secrets: dict[str, str], message: str
) -> None:
    with pytest.raises(errors.BadInput) as caught:
        deployment.request(local, template.load(ROOT), secrets)
    (problem,) = caught.value.problems
    assert (problem.where, problem.value) == ("the secure parameter apiKey", None)
    assert problem.message.startswith(message)
    assert "short" not in str(caught.value)


def test_a_preview_without_the_resource_group_shows_it_and_makes_nothing(
    local: Environment, reader: cloud.Clients
) -> None:
    account = own_account()
    asked = deployment.request(with_parameters(local, account=account), small_template(STORAGE), {})
    planned = plan.from_what_if(deployment.what_if(reader, asked))
    assert [(change.kind, change.resource_type, change.name) for change in planned.changes] == [
        (Kind.CREATE, "Microsoft.Resources/resourceGroups", local.resource_group),
        (Kind.CREATE, "Microsoft.Storage/storageAccounts", account),
    ]
    assert not reader.resources.resource_groups.check_existence(local.resource_group)


def test_a_preview_that_failed_is_an_error_although_its_status_is_200() -> None:
    error = {
        "code": "DeploymentWhatIfResourceError",
        "message": "The request to predict template deployment changes to scope 'rg' has failed.",
        "details": [{"code": "AccountNameInvalid", "message": "A! is not a valid storage account name."}],
    }
    with pytest.raises(errors.DeploymentFailed, match="A! is not a valid") as caught:
        deployment.preview_of({"status": "Failed", "error": error}, "dev")
    assert caught.value.code == "AccountNameInvalid"
    with pytest.raises(errors.DeploymentFailed, match="it ended as Canceled"):
        deployment.preview_of({"status": "Canceled"}, "dev")
    assert deployment.preview_of({"status": "Succeeded", "properties": {"changes": []}}, "dev") == {"changes": []}


def test_create_makes_the_group_and_tells_of_each_resource(local: Environment, clients: cloud.Clients) -> None:
    account = own_account()
    asked = deployment.request(with_parameters(local, account=account), small_template(STORAGE), {})
    heard = Heard()
    outputs = deployment.create(clients, asked, heard)
    assert heard.types == ["Microsoft.Resources/resourceGroups", "Microsoft.Storage/storageAccounts"]
    assert {operation.state for operation in heard.operations} == {"Succeeded"}
    assert outputs.storage_account_name == f"storage_account_name-{account}"
    assert deployment.last_outputs(clients, local) == outputs
    again = plan.from_what_if(deployment.what_if(clients, asked))
    assert again.is_empty
    assert again.unchanged == 1


def test_the_last_success_keeps_its_outputs_when_a_later_one_fails(local: Environment, clients: cloud.Clients) -> None:
    taken = own_account()
    neighbour = dataclasses.replace(local, resource_group=f"{local.resource_group}-2")
    deployment.create(
        clients, deployment.request(with_parameters(neighbour, account=taken), small_template(STORAGE), {}), Heard()
    )
    good = deployment.request(with_parameters(local, account=own_account()), small_template(STORAGE), {})
    outputs = deployment.create(clients, good, Heard())
    bad = deployment.request(with_parameters(local, account=taken), small_template(STORAGE), {})
    with pytest.raises(errors.NameTaken, match=taken) as caught:
        deployment.create(clients, bad, Heard())
    assert caught.value.code in ("StorageAccountAlreadyTaken", "StorageAccountInAnotherResourceGroup")
    assert deployment.last_outputs(clients, local) == outputs


def test_a_resource_that_fails_is_named_with_its_cause(local: Environment, clients: cloud.Clients) -> None:
    container = {"name": "app", "image": "docker.io/library/python:3.12", "resources": {"cpu": 0.5, "memory": "1Gi"}}
    volume = {"name": "share", "storageType": "AzureFile", "storageName": "none"}
    broken = small_template(
        {
            "type": "Microsoft.App/managedEnvironments",
            "apiVersion": "2025-07-01",
            "name": "env",
            "location": "[resourceGroup().location]",
            "properties": {},
        },
        {
            "type": "Microsoft.App/containerApps",
            "apiVersion": "2025-07-01",
            "name": "app",
            "location": "[resourceGroup().location]",
            "dependsOn": ["[resourceId('Microsoft.App/managedEnvironments', 'env')]"],
            "properties": {
                "environmentId": "[resourceId('Microsoft.App/managedEnvironments', 'env')]",
                "template": {"containers": [container], "volumes": [volume]},
            },
        },
    )
    heard = Heard()
    with pytest.raises(errors.DeploymentFailed, match="none") as caught:
        deployment.create(clients, deployment.request(with_parameters(local, account=own_account()), broken, {}), heard)
    assert caught.value.code == "ManagedEnvironmentStorageNotFound"
    assert "[Microsoft.App/containerApps app]" in caught.value.message
    assert [(item.resource_type, item.state) for item in heard.operations[1:]] == [
        ("Microsoft.App/managedEnvironments", "Succeeded"),
        ("Microsoft.App/containerApps", "Failed"),
    ]


def test_a_template_that_the_resource_manager_refuses(local: Environment, clients: cloud.Clients) -> None:
    broken = small_template({**STORAGE, "name": "[noSuchFunction()]"})
    asked = deployment.request(with_parameters(local, account=own_account()), broken, {})
    with pytest.raises(errors.Invalid, match="noSuchFunction") as caught:
        deployment.create(clients, asked, Heard())
    assert caught.value.code == "InvalidTemplate"
    with pytest.raises(errors.CloudError, match="noSuchFunction"):
        deployment.what_if(clients, asked)


def test_what_was_never_provisioned_has_no_outputs(local: Environment, clients: cloud.Clients) -> None:
    with pytest.raises(errors.NotFound, match=local.resource_group) as caught:
        deployment.last_outputs(clients, local)
    assert "inferops provision local" in caught.value.next_step


def test_outputs_that_the_template_lacks_are_named(local: Environment, clients: cloud.Clients) -> None:
    complete = small_template(STORAGE)
    document = json.loads(json.dumps(dict(complete.document)))
    del document["outputs"]["ACA_APP_ENDPOINT"]
    partial = dataclasses.replace(complete, document=document)
    asked = deployment.request(with_parameters(local, account=own_account()), partial, {})
    with pytest.raises(errors.CloudError, match="has no output ACA_APP_ENDPOINT"):
        deployment.create(clients, asked, Heard())


def test_a_run_that_was_cut_off_is_waited_for(local: Environment, clients: cloud.Clients) -> None:
    first = deployment.request(with_parameters(local, account=own_account()), small_template(STORAGE), {})
    deployment.create(clients, first, Heard())
    body: Any = {
        "properties": {"mode": "Incremental", "template": dict(first.template), "parameters": dict(first.parameters)}
    }
    cut_off = "inferops-local-20260101T000000000000Z"
    clients.deployments.deployments.begin_create_or_update(local.resource_group, cut_off, body, polling=False)
    heard = Heard()
    deployment.create(clients, first, heard)
    state = clients.deployments.deployments.get(local.resource_group, cut_off).as_dict()["properties"]
    assert state["provisioningState"] == "Succeeded"


def test_the_real_template_is_previewed_made_and_then_unchanged(
    local: Environment, clients: cloud.Clients, reader: cloud.Clients
) -> None:
    asked = deployment.request(local, template.load(ROOT), {"apiKey": KEY})
    before = plan.from_what_if(deployment.what_if(reader, asked))
    assert {change.kind for change in before.changes} == {Kind.CREATE}
    heard = Heard()
    outputs = deployment.create(clients, asked, heard)
    assert {change.resource_type for change in before.changes} == set(heard.types)
    assert outputs.resource_group_name == local.resource_group
    assert outputs.aca_app_endpoint.startswith("https://127.0.0.1:")
    after = deployment.what_if(reader, asked)
    assert KEY not in json.dumps(after)
    planned = plan.from_what_if(after)
    assert planned.is_empty, [(change.name, change.deltas) for change in planned.changes]
    more = with_parameters(
        local, **{name: entry["value"] for name, entry in local.parameters.items()} | {"maximumInstanceCount": 3}
    )
    (changed,) = plan.from_what_if(
        deployment.what_if(reader, deployment.request(more, template.load(ROOT), {"apiKey": KEY}))
    ).changes
    assert changed.resource_type == "Microsoft.App/containerApps"
    assert [(delta.path, delta.after) for delta in changed.deltas] == [("properties.template.scale.maxReplicas", 3)]

"""The SDK's asynchronous clients do this product's job: pages, polling, error classes, files, an app's life."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncIterator
from typing import Any

import pytest
from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ResourceExistsError,
    ResourceNotFoundError,
    ServiceRequestError,
)
from azure.identity.aio import ClientAssertionCredential
from azure.mgmt.resource.deployments.aio import DeploymentsMgmtClient
from azure.storage.fileshare import AccountSasPermissions, ResourceTypes, generate_account_sas

from tests.aio_clients import Clients, clients, identity
from tests.conftest import RunningStandIn
from tests.container_apps import SERVER, app_body
from tests.resource_manager_client import account, deployment, deployments_client, groups_client, template, unique
from tests.workflows.github import running_issuer

ACCOUNT: Any = {"location": "eastus", "sku": {"name": "Standard_LRS"}, "kind": "StorageV2"}


@pytest.fixture
async def writer(stand_in: RunningStandIn) -> AsyncIterator[Clients]:
    async with clients(stand_in, identity(stand_in)) as made:
        yield made


async def _group(of: Clients) -> str:
    name = f"rg-aio-{unique()}"
    await of.groups.resource_groups.create_or_update(name, {"location": "eastus"})
    return name


async def _account(of: Clients, group: str) -> tuple[str, dict[str, str]]:
    """A new account's name, and the credential of its key."""
    name = f"aio{unique()}"
    await (await of.storage.storage_accounts.begin_create(group, name, ACCOUNT)).result()
    keys = (await of.storage.storage_accounts.list_keys(group, name)).as_dict()["keys"]
    return name, {"account_name": name, "account_key": keys[0]["value"]}


def _accounts(count: int) -> dict[str, Any]:
    """A deployment of so many accounts, one after the other."""
    one = account(f"[concat('aio{unique()}x', copyIndex())]")
    one["copy"] = {"name": "accounts", "count": count, "mode": "serial", "batchSize": 1}
    return deployment(template([one], outputs={"count": {"type": "int", "value": count}}))


async def test_a_group_from_its_beginning_to_its_end(writer: Clients) -> None:
    groups = writer.groups.resource_groups
    name = await _group(writer)
    assert await groups.check_existence(name) is True
    changed = await groups.update(name, {"tags": {"for": name}})
    assert changed.tags == {"for": name}
    found = [group.name async for group in groups.list(filter=f"tagName eq 'for' and tagValue eq '{name}'")]
    assert found == [name]
    poller = await groups.begin_delete(name)
    assert poller.status() == "InProgress"
    await poller.wait()
    assert (poller.done(), poller.status()) == (True, "Succeeded")
    assert await groups.check_existence(name) is False
    with pytest.raises(ResourceNotFoundError) as missing:
        await groups.get(name)
    assert missing.value.error is not None
    assert (missing.value.status_code, missing.value.error.code) == (404, "ResourceGroupNotFound")


async def test_a_deployment_is_polled_and_its_operations_come_in_pages(writer: Clients) -> None:
    group, operations = await _group(writer), writer.deployments.deployments
    body: Any = _accounts(7)
    checked = await (await operations.begin_validate(group, "first", body)).result()
    assert checked.error is None and checked.properties is not None
    assert checked.properties.provisioning_state == "Succeeded"
    expected = await (await operations.begin_what_if(group, "first", body)).result()
    assert [change.change_type for change in expected.changes or []] == ["Create"] * 7

    poller = await operations.begin_create_or_update(group, "first", body)
    # Another client, of another process perhaps, takes the wait up by the token.
    token = poller.continuation_token()
    taken_up = await operations.begin_create_or_update(group, "first", body, continuation_token=token)
    for waited in (poller, taken_up):
        made = (await waited.result()).properties
        assert made is not None
        assert (made.provisioning_state, made.outputs) == ("Succeeded", {"count": {"type": "Int", "value": 7}})

    listed = writer.groups.resources.list_by_resource_group(group, top=3)
    pages = [[resource.name async for resource in page] async for page in listed.by_page()]
    assert [len(page) for page in pages] == [3, 3, 1]
    assert len({name for page in pages for name in page}) == 7
    done = writer.deployments.deployment_operations.list(group, "first", top=5)
    assert [len([one async for one in page]) async for page in done.by_page()] == [5, 3]
    empty: Any = deployment(template([]))
    await (await operations.begin_create_or_update(group, "second", empty)).result()
    assert [one.name async for one in operations.list_by_resource_group(group, top=1)] == ["second", "first"]


async def test_a_page_is_read_again_from_its_token(writer: Clients) -> None:
    group = await _group(writer)
    body: Any = _accounts(3)
    await (await writer.deployments.deployments.begin_create_or_update(group, "d", body)).result()
    pages = writer.groups.resources.list_by_resource_group(group, top=2).by_page()
    first = [resource.name async for resource in await pages.__anext__()]
    token = pages.continuation_token  # type: ignore[attr-defined]
    again = writer.groups.resources.list_by_resource_group(group, top=2).by_page(token)
    rest = [[resource.name async for resource in page] async for page in again]
    assert (len(first), [len(page) for page in rest]) == (2, [1])
    assert not set(first) & set(rest[0])
    with pytest.raises(HttpResponseError) as refused:
        forged = token.replace("skiptoken=", "skiptoken=!")
        await writer.groups.resources.list_by_resource_group(group, top=2).by_page(forged).__anext__()
    assert refused.value.error is not None and refused.value.error.code == "InvalidSkipToken"


async def test_a_deployment_is_cancelled_while_it_is_waited_for(writer: Clients) -> None:
    group, operations = await _group(writer), writer.deployments.deployments
    body: Any = _accounts(60)
    poller = await operations.begin_create_or_update(group, "slow", body)
    with pytest.raises(HttpResponseError) as refused:
        await operations.begin_create_or_update(group, "slow", body)
    assert refused.value.error is not None
    assert (refused.value.status_code, refused.value.error.code) == (409, "DeploymentActive")
    await operations.cancel(group, "slow")
    with pytest.raises(HttpResponseError, match="Canceled"):
        await poller.result()
    shown = await operations.get(group, "slow")
    assert shown.properties is not None and shown.properties.provisioning_state == "Canceled"
    await (await operations.begin_delete(group, "slow")).result()
    assert await operations.check_existence(group, "slow") is False


async def test_what_the_resource_manager_refuses_has_its_class_and_code(writer: Clients) -> None:
    stand_in, group = writer.stand_in, await _group(writer)
    wrong: Any = deployment(template([account("x")]))
    with pytest.raises(HttpResponseError) as invalid:
        await writer.deployments.deployments.begin_create_or_update(group, "wrong", wrong)
    assert invalid.value.error is not None and invalid.value.error.code == "InvalidTemplateDeployment"
    assert invalid.value.error.details[0].code == "PreflightValidationCheckFailed"
    async with clients(stand_in, identity(stand_in, reader=True)) as reader:
        with pytest.raises(HttpResponseError) as forbidden:
            await reader.groups.resource_groups.begin_delete(group)
        assert forbidden.value.error is not None
        assert (forbidden.value.status_code, forbidden.value.error.code) == (403, "AuthorizationFailed")
    async with clients(stand_in, identity(stand_in, secret="wrong")) as nobody:
        with pytest.raises(ClientAuthenticationError, match="AADSTS7000215"):
            await nobody.groups.resource_groups.get(group)
    told = stand_in.announcement
    async with (
        identity(stand_in) as credential,
        DeploymentsMgmtClient(
            credential,
            told["subscription"],
            base_url=told["resource_manager"],
            credential_scopes=["https://storage.azure.com/.default"],
            connection_verify=told["certificate"],
        ) as astray,
    ):
        with pytest.raises(ClientAuthenticationError) as audience:
            await astray.deployments.get(group, "any")
    assert audience.value.error is not None and audience.value.error.code == "InvalidAuthenticationTokenAudience"
    async with DeploymentsMgmtClient(
        writer.credential,
        told["subscription"],
        base_url="https://127.0.0.1:9",
        credential_scopes=[f"{told['resource_manager']}/.default"],
        connection_verify=told["certificate"],
        retry_total=0,
    ) as unreachable:
        with pytest.raises(ServiceRequestError):
            await unreachable.deployments.get(group, "any")


def test_the_same_pages_polling_and_classes_without_asyncio(stand_in: RunningStandIn) -> None:
    groups, deployments, name = groups_client(stand_in), deployments_client(stand_in), f"rg-aio-{unique()}"
    groups.resource_groups.create_or_update(name, {"location": "eastus"})
    body: Any = _accounts(3)
    poller = deployments.deployments.begin_create_or_update(name, "first", body)
    token = poller.continuation_token()
    taken_up = deployments.deployments.begin_create_or_update(name, "first", body, continuation_token=token)
    shown = taken_up.result().properties
    assert shown is not None and shown.provisioning_state == "Succeeded"
    pages = groups.resources.list_by_resource_group(name, top=2).by_page()
    assert [len(list(page)) for page in pages] == [2, 1]
    waited = groups.resource_groups.begin_delete(name)
    waited.wait(60)
    assert waited.status() == "Succeeded"
    with pytest.raises(ResourceNotFoundError):
        groups.resource_groups.get(name)


async def test_an_assertion_signs_in(stand_in: RunningStandIn) -> None:
    told = stand_in.announcement
    with running_issuer() as issuer:
        async with clients(stand_in, identity(stand_in)) as writer:
            address = f"{told['authority']}/stand-in/federated-credentials"
            token = (await writer.credential.get_token(f"{told['resource_manager']}/.default")).token
            body = {"client_id": told["client_id"], "issuer": issuer.url, "subject": issuer.subject}
            done = await _curl("POST", address, told["certificate"], token, json.dumps(body))
            assert json.loads(done) == body

        credential = ClientAssertionCredential(
            told["tenant"],
            told["client_id"],
            lambda: issuer.assertion("api://AzureADTokenExchange"),
            authority=told["authority"],
            disable_instance_discovery=True,
            connection_verify=told["certificate"],
        )
        async with clients(stand_in, credential) as federated:
            await _group(federated)
        assert issuer.issued == 1


async def test_files_in_many_requests_at_once(writer: Clients) -> None:
    group = await _group(writer)
    name, key = await _account(writer, group)
    content = os.urandom(9 * 1024 * 1024 + 17)
    async with writer.files(name, key) as service:
        share = await service.create_share("models", quota=10)
        folder = await share.create_directory("folder")
        file = folder.get_file_client("weights.bin")
        await file.upload_file(content, max_concurrency=4, metadata={"kind": "weights"})
        received = await (await file.download_file(max_concurrency=4)).readall()
        assert hashlib.sha256(received).digest() == hashlib.sha256(content).digest()
        assert (await file.get_file_properties()).metadata == {"kind": "weights"}
        await asyncio.gather(*(folder.upload_file(f"{n}.txt", str(n).encode()) for n in range(12)))
        pages = folder.list_directories_and_files(results_per_page=5).by_page()
        counts = [len([item async for item in page]) async for page in pages]
        assert counts == [5, 5, 3]
        renamed = await folder.get_file_client("0.txt").rename_file("folder/renamed.txt")
        copy = share.get_file_client("copy.txt")
        assert (await copy.start_copy_from_url(renamed.url))["copy_status"] == "success"
        assert await (await copy.download_file()).readall() == b"0"
        lease = await share.acquire_lease(lease_duration=15)
        with pytest.raises(ResourceExistsError) as held:
            await share.acquire_lease(lease_duration=15)
        assert held.value.error_code == "LeaseAlreadyPresent"  # type: ignore[attr-defined]
        await lease.release()

        with pytest.raises(ResourceExistsError) as exists:
            await service.create_share("models")
        assert exists.value.error_code == "ShareAlreadyExists"  # type: ignore[attr-defined]
        with pytest.raises(ResourceNotFoundError) as missing:
            await share.get_file_client("none").download_file()
        assert missing.value.error_code == "ResourceNotFound"  # type: ignore[attr-defined]
        with pytest.raises(HttpResponseError) as full:
            await share.delete_directory("folder")
        assert full.value.error_code == "DirectoryNotEmpty"  # type: ignore[attr-defined]


async def test_files_by_signature_by_login_and_by_nothing(writer: Clients) -> None:
    group = await _group(writer)
    name, key = await _account(writer, group)
    async with writer.files(name, key) as service:
        await service.create_share("models")
    reading = AccountSasPermissions(read=True, list=True)
    whole = ResourceTypes(service=True, container=True, object=True)
    signature = generate_account_sas(name, key["account_key"], whole, reading, "2036-01-01T00:00:00Z")
    async with writer.files(name, signature) as service:
        assert [share.name async for share in service.list_shares()] == ["models"]
        with pytest.raises(HttpResponseError) as forbidden:
            await service.create_share("other")
        assert forbidden.value.status_code == 403
        assert forbidden.value.error_code == "AuthorizationPermissionMismatch"  # type: ignore[attr-defined]
    async with writer.files(name, writer.credential, token_intent="backup") as service:
        file = service.get_share_client("models").get_file_client("by-login.txt")
        await file.upload_file(b"login")
        assert await (await file.download_file()).readall() == b"login"
    async with writer.files(name, {**key, "account_key": "d3Jvbmc="}) as service:
        with pytest.raises(ClientAuthenticationError) as wrong:
            await service.get_service_properties()
        assert wrong.value.error_code == "AuthenticationFailed"  # type: ignore[attr-defined]


async def test_an_app_from_its_environment_to_its_end(writer: Clients) -> None:
    group, apps = await _group(writer), writer.apps
    name, key = await _account(writer, group)
    async with writer.files(name, key) as service:
        share = await service.create_share("share")
        await share.get_file_client("server.py").upload_file(SERVER.encode())
    environment: Any = {"location": "eastus", "properties": {}}
    made = await (await apps.managed_environments.begin_create_or_update(group, "env", environment)).result()
    file = {"accountName": name, "accountKey": key["account_key"], "shareName": "share", "accessMode": "ReadOnly"}
    storage: Any = {"properties": {"azureFile": file}}
    await apps.managed_environments_storages.create_or_update(group, "env", "storage", storage)
    body: Any = app_body()
    body["location"], body["properties"]["environmentId"] = "eastus", made.id
    app = await (await apps.container_apps.begin_create_or_update(group, "app", body)).result()
    shown = app.as_dict()["properties"]
    assert (shown["provisioningState"], shown["configuration"]["ingress"]["targetPort"]) == ("Succeeded", 8000)
    assert [one.name async for one in apps.container_apps.list_by_resource_group(group)] == ["app"]
    told = writer.stand_in.announcement["certificate"]
    answer = await _curl("GET", f"https://{shown['configuration']['ingress']['fqdn']}/hello", told)
    assert json.loads(answer)["path"] == "/hello"
    revisions = [one.name async for one in apps.container_apps_revisions.list_revisions(group, "app")]
    assert revisions == [shown["latestRevisionName"]]
    secrets = (await apps.container_apps.list_secrets(group, "app")).as_dict()
    assert secrets["value"][0] == {"name": "api-key", "value": "secret value"}
    change: Any = {"tags": {"a": "b"}}
    await (await apps.container_apps.begin_update(group, "app", change)).result()
    assert (await apps.container_apps.get(group, "app")).tags == {"a": "b"}
    wrong: Any = {"location": "eastus", "properties": {"environmentId": f"{made.id}-none"}}
    with pytest.raises(HttpResponseError) as refused:
        await apps.container_apps.begin_create_or_update(group, "wrong", wrong)
    assert refused.value.status_code == 400
    await (await apps.container_apps.begin_delete(group, "app")).result()
    with pytest.raises(ResourceNotFoundError):
        await apps.container_apps.get(group, "app")


async def test_a_leased_file_is_written_only_with_its_lease(writer: Clients) -> None:
    group = await _group(writer)
    name, key = await _account(writer, group)
    async with writer.files(name, key) as service:
        share = await service.create_share("models")
        file = share.get_file_client("leased.txt")
        await file.upload_file(b"first")
        lease = await file.acquire_lease()
        with pytest.raises(HttpResponseError) as held:
            await file.upload_file(b"second", lease="10c0a1de-0000-4000-8000-0000000000ff")
        assert held.value.status_code == 412
        assert held.value.error_code == "LeaseIdMismatchWithFileOperation"  # type: ignore[attr-defined]
        await lease.release()


async def _curl(method: str, address: str, certificate: str, token: str = "", body: str = "") -> str:
    """Another client that others wrote."""
    arguments = ["--silent", "--show-error", "--fail", "--retry", "5", "--cacert", certificate, "--request", method]
    if token:
        arguments += ["--header", f"Authorization: Bearer {token}"]
    if body:
        arguments += ["--header", "Content-Type: application/json", "--data", body]
    process = await asyncio.create_subprocess_exec("curl", *arguments, address, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    assert process.returncode == 0
    return output.decode()

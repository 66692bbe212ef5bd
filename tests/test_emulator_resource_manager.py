"""Subscriptions, groups, providers, resources of any type, authorization, headers: as the service answers."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

from infra.emulator.files import FileService
from infra.emulator.identity import SUBSCRIPTION, TENANT, Identity
from infra.emulator.operations import Operations
from infra.emulator.provider import Cloud
from infra.emulator.resourcemanager import ResourceManager
from infra.emulator.storage import StorageProvider
from infra.emulator.store import Store
from tests.conftest import RunningStandIn
from tests.resource_manager_client import STORAGE, WORKSPACES, Arm, account, arm, groups_client, unique, workspace


@pytest.fixture(scope="module")
def writer(stand_in: RunningStandIn) -> Arm:
    return arm(stand_in)


@pytest.fixture(scope="module")
def reader(stand_in: RunningStandIn) -> Arm:
    return arm(stand_in, reader=True)


def test_subscription_tenant_and_locations(writer: Arm) -> None:
    listed = writer.http.get("/subscriptions", params={"api-version": "2022-12-01"}).json()
    assert [one["subscriptionId"] for one in listed["value"]] == [writer.subscription]
    assert listed["value"][0]["state"] == "Enabled"
    tenants = writer.http.get("/tenants", params={"api-version": "2022-12-01"}).json()
    assert tenants["value"][0]["tenantId"] == writer.stand_in.announcement["tenant"]
    locations = writer.get("/locations")["value"]
    assert {"eastus", "swedencentral", "westus3"} <= {one["name"] for one in locations}
    assert next(one for one in locations if one["name"] == "westus3")["displayName"] == "West US 3"


def test_a_group_by_the_sdk(stand_in: RunningStandIn) -> None:
    client, name = groups_client(stand_in), f"rg-{unique()}"
    assert client.resource_groups.check_existence(name) is False
    created = client.resource_groups.create_or_update(name, {"location": "West US", "tags": {"a": "b"}})
    assert created.properties is not None
    assert (created.name, created.location, created.properties.provisioning_state) == (name, "West US", "Succeeded")
    assert client.resource_groups.check_existence(name) is True
    assert client.resource_groups.update(name, {"tags": {"c": "d"}}).tags == {"c": "d"}
    tagged = client.resource_groups.list(filter="tagName eq 'c' and tagValue eq 'd'")
    assert name in [group.name for group in tagged]
    client.resource_groups.begin_delete(name).result()
    with pytest.raises(ResourceNotFoundError) as absent:
        client.resource_groups.get(name)
    assert absent.value.error is not None
    assert absent.value.error.code == "ResourceGroupNotFound"


def test_group_answers(writer: Arm) -> None:
    name = f"rg-{unique()}"
    created = writer.request("PUT", f"/resourcegroups/{name}", {"location": "eastus", "tags": {}})
    assert created.status_code == 201
    # The id says resourceGroups however it was asked, and the members stand in this order.
    assert created.json()["id"] == f"/subscriptions/{writer.subscription}/resourceGroups/{name}"
    assert list(created.json()) == ["id", "name", "type", "location", "tags", "properties"]
    assert writer.request("PUT", f"/resourcegroups/{name}", {"location": "East US"}).status_code == 200
    assert writer.request("HEAD", f"/resourcegroups/{name}").status_code == 204
    missing = writer.request("HEAD", "/resourcegroups/none")
    assert (missing.status_code, missing.headers["x-ms-failure-cause"]) == (404, "gateway")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"location": "BadLocation"}, 400, "LocationNotAvailableForResourceGroup"),
        ({}, 400, "LocationRequired"),
        ({"location": "westus"}, 409, "InvalidResourceGroupLocation"),
    ],
)
def test_refused_groups(writer: Arm, body: dict[str, str], status: int, code: str) -> None:
    group = writer.group()
    found, error = writer.error("PUT", group, body)
    assert (found, error["code"]) == (status, code)


def test_deleting_a_group_takes_its_resources_along(writer: Arm) -> None:
    group, name = writer.group(), f"acct{unique()}"
    path = f"{group}/providers/Microsoft.Storage/storageAccounts/{name}"
    writer.poll(writer.request("PUT", path, account(name), api_version=STORAGE))
    share = f"{path}/fileServices/default/shares/data"
    assert writer.request("PUT", share, {}, api_version=STORAGE).status_code == 201
    begun = writer.request("DELETE", group)
    assert (begun.status_code, begun.content) == (202, b"")
    assert int(begun.headers["retry-after"]) >= 1
    ended = writer.poll(begun)
    assert (ended.status_code, ended.content) == (200, b"")
    assert writer.error("GET", group)[1]["code"] == "ResourceGroupNotFound"
    available = writer.request(
        "POST",
        "/providers/Microsoft.Storage/checkNameAvailability",
        {"name": name, "type": "Microsoft.Storage/storageAccounts"},
        api_version=STORAGE,
    )
    assert available.json() == {"nameAvailable": True}


def test_providers(writer: Arm) -> None:
    shown = writer.get("/providers/microsoft.app")
    assert shown["namespace"] == "Microsoft.App"
    assert (shown["registrationState"], shown["registrationPolicy"]) == ("Registered", "RegistrationRequired")
    types = {one["resourceType"]: one for one in shown["resourceTypes"]}
    assert "2026-01-01" in types["containerApps"]["apiVersions"]
    assert "East US" in types["containerApps"]["locations"]
    assert {"Microsoft.App", "Microsoft.Storage", "Microsoft.Resources", "Microsoft.OperationalInsights"} <= {
        one["namespace"] for one in writer.get("/providers")["value"]
    }


def test_an_unregistered_namespace(own_stand_in: RunningStandIn) -> None:
    writer = arm(own_stand_in)
    group = writer.group()
    gone = writer.request("POST", "/providers/Microsoft.OperationalInsights/unregister")
    assert gone.json()["registrationState"] == "Unregistering"
    path = f"{group}/providers/Microsoft.OperationalInsights/workspaces/logs-1"
    status, error = writer.error("PUT", path, workspace("logs-1"), api_version=WORKSPACES)
    assert (status, error["code"]) == (409, "MissingSubscriptionRegistration")
    assert error["details"][0]["target"] == "Microsoft.OperationalInsights"
    again = writer.request("POST", "/providers/Microsoft.OperationalInsights/register")
    assert again.json()["registrationState"] == "Registering"


def test_the_reader_is_refused_in_azures_words(reader: Arm, writer: Arm) -> None:
    group = writer.group()
    assert reader.get(group)["location"] == "eastus"
    announcement = reader.stand_in.announcement
    path = f"{group}/providers/Microsoft.Storage/storageAccounts/account1"
    for method, below, action in (
        ("PUT", "", "Microsoft.Storage/storageAccounts/write"),
        ("DELETE", "", "Microsoft.Storage/storageAccounts/delete"),
        ("POST", "/listKeys", "Microsoft.Storage/storageAccounts/listKeys/action"),
    ):
        status, error = reader.error(method, path + below, {}, api_version=STORAGE)
        assert (status, error["code"]) == (403, "AuthorizationFailed")
        assert error["message"].startswith(f"The client '{announcement['reader_client_id']}' with object id '")
        assert f"does not have authorization to perform action '{action}' over scope '{path}'" in error["message"]
    status, error = reader.error("DELETE", group)
    assert "'Microsoft.Resources/subscriptions/resourcegroups/delete'" in error["message"]


def test_no_token(stand_in: RunningStandIn) -> None:
    address = f"{stand_in.announcement['resource_manager']}/subscriptions?api-version=2022-12-01"
    response = httpx.get(address, verify=stand_in.trust, timeout=60)
    assert (response.status_code, response.json()["error"]["code"]) == (401, "AuthenticationFailed")
    assert response.headers["www-authenticate"].startswith("Bearer ")


class _NoAccounts:
    def keys(self, account: str) -> list[bytes] | None:
        return None

    def allows_shared_key(self, account: str) -> bool:
        return False

    def token_may(self, token: str, action: str) -> bool:
        return False


async def test_what_a_cloud_is_registered_by(tmp_path: Path) -> None:
    store = Store(tmp_path / "state.db")
    files = FileService(tmp_path / "shares", store, _NoAccounts())
    cloud = Cloud(
        state=tmp_path,
        store=store,
        operations=Operations(store),
        files=files,
        base_url="https://127.0.0.1:1",
        certificate=tmp_path,
        private_key=tmp_path,
        subscription=SUBSCRIPTION,
        tenant=TENANT,
    )
    manager = ResourceManager(cloud, Identity(store, cloud.base_url), [StorageProvider(cloud)])
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", manager.handle)
    async with TestClient(TestServer(application)) as client:
        # No token: it is asked before there can be one.
        answer = await client.get("/metadata/endpoints?api-version=2022-09-01")
        metadata = await answer.json()
        own = str(client.make_url("")).rstrip("/")
        assert (answer.status, metadata["resourceManager"]) == (200, own)
        assert metadata["authentication"]["loginEndpoint"] == own
        assert (await client.get("/subscriptions?api-version=2022-12-01")).status == 401
    store.close()


@pytest.mark.parametrize(
    ("path", "status", "code", "part"),
    [
        ("/subscriptions/11111111-1111-1111-1111-111111111111", 404, "SubscriptionNotFound", "could not be found"),
        ("/subscriptions/nonsense", 400, "InvalidSubscriptionId", "malformed"),
        ("/resourceGroups/none", 404, "ResourceGroupNotFound", "Resource group 'none' could not be found."),
        ("/providers/Contoso.Things", 404, "InvalidResourceNamespace", "'Contoso.Things'"),
        ("/providers/Microsoft.Compute", 501, "NotImplemented", "Microsoft.Compute"),
    ],
)
def test_what_is_not_there(writer: Arm, path: str, status: int, code: str, part: str) -> None:
    found, error = writer.error("GET", path)
    assert (found, error["code"]) == (status, code)
    assert part in error["message"]


def test_types_and_versions(writer: Arm) -> None:
    group = writer.group()
    accounts = f"{group}/providers/Microsoft.Storage/storageAccounts"
    status, error = writer.error("GET", f"{accounts}/some", api_version="1999-01-01")
    assert (status, error["code"]) == (404, "InvalidResourceType")
    assert f",{STORAGE}" in error["message"].partition("The supported api-versions are '")[2]
    status, error = writer.error("PUT", f"{accounts}/some", account("some"), api_version="1999-01-01")
    assert (status, error["code"]) == (400, "NoRegisteredProviderFound")
    assert "for location 'eastus' and API version '1999-01-01' for type 'storageAccounts'" in error["message"]
    status, error = writer.error("GET", f"{group}/providers/Microsoft.Storage/storageAcounts/some", api_version=STORAGE)
    assert (status, error["code"]) == (404, "InvalidResourceType")
    status, error = writer.error("PUT", f"{accounts}/some/queueServices/default", {}, api_version=STORAGE)
    assert (status, error["code"]) == (501, "NotImplemented")
    response = writer.http.get(group)
    assert response.json()["error"]["code"] == "MissingApiVersionParameter"
    status, error = writer.error("GET", group, api_version="1999-01-01")
    assert (status, error["code"]) == (400, "InvalidApiVersionParameter")


def test_a_resource_needs_its_parent_and_its_place(writer: Arm) -> None:
    group = writer.group()
    accounts = f"{group}/providers/Microsoft.Storage/storageAccounts"
    status, error = writer.error("PUT", f"{accounts}/none/fileServices/default/shares/s", {}, api_version=STORAGE)
    assert (status, error["code"]) == (404, "ParentResourceNotFound")
    assert error["message"].startswith(
        "Failed to perform 'write' on resource(s) of type 'storageAccounts/fileServices/shares', because the parent"
    )
    for below in ("", "/s"):
        shares = f"{accounts}/none/fileServices/default/shares{below}"
        status, error = writer.error("GET", shares, api_version=STORAGE)
        assert (status, error["code"]) == (404, "ParentResourceNotFound")
    logs = f"{group}/providers/Microsoft.OperationalInsights/workspaces/logs-1"
    for location, status, code in (
        ("atlantis", 400, "LocationNotAvailableForResourceType"),
        ("", 400, "LocationRequired"),
    ):
        found = writer.error("PUT", logs, workspace("logs-1", location=location), api_version=WORKSPACES)
        assert (found[0], found[1]["code"]) == (status, code)
    assert writer.request("PUT", logs, workspace("logs-1"), api_version=WORKSPACES).status_code == 201
    found = writer.error("PUT", logs, workspace("logs-1", location="westus"), api_version=WORKSPACES)
    assert (found[0], found[1]["code"]) == (409, "InvalidResourceLocation")


def test_bodies_that_are_not_json(writer: Arm) -> None:
    group = writer.group()
    response = writer.http.put(group, params={"api-version": "2025-04-01"}, content=b'{"location": }')
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (400, "InvalidRequestContent")
    assert "could not be deserialized" in error["message"]
    # The Azure CLI leaves an empty part in a path, as in providers/Microsoft.Storage//storageAccounts.
    assert writer.get(group.replace("/resourceGroups", "//resourceGroups"))["location"] == "eastus"
    # As it sends templates: comments, and names without quotes.
    lenient = b"{location: 'eastus' /* where */, tags: {'a': 'b',}} // end"
    assert writer.http.put(group, params={"api-version": "2025-04-01"}, content=lenient).json()["tags"] == {"a": "b"}
    large = writer.http.put(group, params={"api-version": "2025-04-01"}, content=b" " * (5 * 1024 * 1024))
    assert large.status_code == 413


def test_headers(writer: Arm) -> None:
    own = {"x-ms-client-request-id": "mine", "x-ms-return-client-request-id": "true"}
    own["x-ms-correlation-request-id"] = "0a0b0c0d-0000-0000-0000-000000000000"
    response = writer.http.get("/subscriptions", params={"api-version": "2022-12-01"}, headers=own)
    assert response.headers["x-ms-client-request-id"] == "mine"
    assert response.headers["x-ms-correlation-request-id"] == own["x-ms-correlation-request-id"]
    assert response.headers["x-ms-request-id"] != writer.http.get("/tenants").headers["x-ms-request-id"]
    assert int(response.headers["x-ms-ratelimit-remaining-subscription-reads"]) > 0
    assert response.headers["content-type"] == "application/json; charset=utf-8"


def test_lists_of_resources(writer: Arm, stand_in: RunningStandIn) -> None:
    group, name = writer.group(), f"acct{unique()}"
    path = f"{group}/providers/Microsoft.Storage/storageAccounts/{name}"
    writer.poll(writer.request("PUT", path, account(name, tags={"team": "a"}), api_version=STORAGE))
    logs = f"{group}/providers/Microsoft.OperationalInsights/workspaces/logs-1"
    writer.request("PUT", logs, workspace("logs-1"), api_version=WORKSPACES)
    listed = writer.get(f"{group}/resources")["value"]
    assert [one["name"] for one in listed] == ["logs-1", name]
    assert list(listed[1]) == ["id", "name", "type", "sku", "kind", "location", "tags"]
    client, group_name = groups_client(stand_in), group.rpartition("/")[2]
    by_type = client.resources.list_by_resource_group(
        group_name, filter="resourceType eq 'microsoft.storage/storageaccounts'"
    )
    assert [one.name for one in by_type] == [name]
    expanded = writer.request("GET", f"{group}/resources?$expand=createdTime,provisioningState")
    assert expanded.json()["value"][1]["provisioningState"] == "Succeeded"
    assert expanded.json()["value"][1]["createdTime"].startswith("20")
    everywhere = client.resources.list(filter=f"resourceGroup eq '{group_name}' and location eq 'East US'")
    assert {one.name for one in everywhere} == {name, "logs-1"}
    with pytest.raises(HttpResponseError) as refused:
        list(client.resources.list(filter="substringof('a', name)"))
    assert refused.value.status_code == 501
    assert writer.request("HEAD", path, api_version=STORAGE).status_code == 204
    assert writer.get(path.upper().replace("/SUBSCRIPTIONS", "/subscriptions"), STORAGE)["name"] == name
    assert writer.get(path.upper().replace("/SUBSCRIPTIONS", "/subscriptions"), STORAGE)["id"] == path


def test_a_workspace(writer: Arm) -> None:
    group = writer.group()
    path = f"{group}/providers/Microsoft.OperationalInsights/workspaces/logs-1"
    created = writer.request("PUT", path, workspace("logs-1"), api_version=WORKSPACES)
    assert created.status_code == 201
    assert created.json()["properties"]["provisioningState"] == "Creating"
    assert list(created.json()) == ["properties", "location", "id", "name", "type", "etag"]
    status = writer.get(created.headers["azure-asyncoperation"])
    while status["status"] == "InProgress":
        status = writer.get(created.headers["azure-asyncoperation"])
    assert list(status) == ["id", "name", "status", "startTime", "endTime", "properties"]
    shown = writer.get(path, WORKSPACES)
    assert shown["properties"]["provisioningState"] == "Succeeded"
    assert shown["properties"]["sku"]["name"] == "PerGB2018"
    changed = writer.request(
        "PUT", path, workspace("logs-1", properties={"retentionInDays": 60}), api_version=WORKSPACES
    )
    assert (changed.status_code, changed.json()["properties"]["retentionInDays"]) == (200, 60)
    assert changed.json()["properties"]["customerId"] == shown["properties"]["customerId"]
    keys = writer.request("POST", f"{path}/sharedKeys", api_version="2020-08-01").json()
    assert len(keys["primarySharedKey"]) == len(keys["secondarySharedKey"]) == 88
    status_code, error = writer.error(
        "PUT", path, workspace("logs-1", properties={"retentionInDays": 5}), api_version=WORKSPACES
    )
    assert (status_code, error["code"]) == (400, "InvalidParameter")
    assert writer.request("DELETE", path, api_version=WORKSPACES).status_code == 200
    assert writer.request("DELETE", path, api_version=WORKSPACES).status_code == 204

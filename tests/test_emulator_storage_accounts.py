"""Storage accounts, their keys and shares, through the resource manager and by the real SDKs."""

from __future__ import annotations

import base64

import pytest
from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceNotFoundError
from azure.mgmt.storage import StorageManagementClient
from azure.mgmt.storage.models import FileShare, StorageAccountRegenerateKeyParameters, StorageAccountUpdateParameters
from azure.storage.fileshare import ShareServiceClient

from tests.conftest import RunningStandIn
from tests.resource_manager_client import STORAGE, Arm, account, arm, storage_client, unique


@pytest.fixture(scope="module")
def writer(stand_in: RunningStandIn) -> Arm:
    return arm(stand_in)


def _create(writer: Arm, name: str, **members: object) -> str:
    path = f"{writer.group()}/providers/Microsoft.Storage/storageAccounts/{name}"
    ended = writer.poll(writer.request("PUT", path, account(name, **members), api_version=STORAGE))
    assert ended.status_code == 200, ended.text
    return path


def _keys(client: StorageManagementClient, group: str, name: str) -> list[str]:
    keys = client.storage_accounts.list_keys(group, name).keys_property or []
    assert [key.key_name for key in keys] == ["key1", "key2"]
    return [str(key.value) for key in keys]


def _files(stand_in: RunningStandIn, name: str, key: str) -> ShareServiceClient:
    return ShareServiceClient(
        f"{stand_in.announcement['resource_manager']}/{name}",
        credential={"account_name": name, "account_key": key},
        connection_verify=stand_in.announcement["certificate"],
    )


def test_an_account_by_the_sdk(writer: Arm, stand_in: RunningStandIn) -> None:
    client, group, name = storage_client(stand_in), writer.group().rpartition("/")[2], f"acct{unique()}"
    assert client.storage_accounts.check_name_availability(
        {"name": name, "type": "Microsoft.Storage/storageAccounts"}
    ).name_available
    created = client.storage_accounts.begin_create(
        group, name, {"location": "eastus", "sku": {"name": "Standard_LRS"}, "kind": "StorageV2"}
    ).result()
    assert created.sku is not None and created.primary_endpoints is not None
    assert (created.name, created.provisioning_state, created.sku.tier) == (name, "Succeeded", "Standard")
    assert created.primary_endpoints.file == f"{stand_in.announcement['resource_manager']}/{name}/"
    keys = _keys(client, group, name)
    assert [len(base64.b64decode(key)) for key in keys] == [64, 64]
    client.storage_accounts.regenerate_key(group, name, StorageAccountRegenerateKeyParameters(key_name="key1"))
    renewed = _keys(client, group, name)
    assert renewed[0] != keys[0]
    assert renewed[1] == keys[1]
    assert [one.name for one in client.storage_accounts.list_by_resource_group(group)] == [name]
    changed = client.storage_accounts.update(
        group, name, StorageAccountUpdateParameters({"tags": {"a": "b"}, "properties": {"accessTier": "Cool"}})
    )
    assert (changed.tags, changed.access_tier, changed.minimum_tls_version) == ({"a": "b"}, "Cool", "TLS1_2")
    client.storage_accounts.delete(group, name)
    with pytest.raises(ResourceNotFoundError):
        client.storage_accounts.get_properties(group, name)


def test_creation_answers_as_recorded(writer: Arm) -> None:
    name = f"acct{unique()}"
    path = f"{writer.group()}/providers/Microsoft.Storage/storageAccounts/{name}"
    begun = writer.request("PUT", path, account(name), api_version=STORAGE)
    assert (begun.status_code, begun.content) == (202, b"")
    assert begun.headers["content-type"] == "text/plain; charset=utf-8"
    assert "/providers/Microsoft.Storage/locations/eastus/asyncoperations/" in begun.headers["location"]
    assert "?monitor=true&api-version=" in begun.headers["location"]
    ended = writer.poll(begun)
    assert ended.json() == writer.get(path, STORAGE)
    assert list(ended.json()) == ["sku", "kind", "id", "name", "type", "location", "tags", "properties"]
    assert list(ended.json()["properties"]) == [
        "allowCrossTenantDelegationSas",
        "keyCreationTime",
        "allowCrossTenantReplication",
        "privateEndpointConnections",
        "minimumTlsVersion",
        "allowBlobPublicAccess",
        "networkAcls",
        "supportsHttpsTrafficOnly",
        "encryption",
        "accessTier",
        "provisioningState",
        "creationTime",
        "primaryEndpoints",
        "primaryLocation",
        "statusOfPrimary",
    ]
    again = writer.request("PUT", path, account(name, properties={"accessTier": "Cool"}), api_version=STORAGE)
    assert (again.status_code, again.json()["properties"]["accessTier"]) == (200, "Cool")


@pytest.mark.parametrize(
    ("name", "members", "code"),
    [
        ("==--039+", {}, "AccountNameInvalid"),
        ("acctsku", {"sku": {"name": "Standard_XYZ"}}, "InvalidValuesForRequestParameters"),
        ("acctkind", {"kind": None}, "InvalidValuesForRequestParameters"),
        ("accttier", {"properties": {"accessTier": "Lukewarm"}}, "InvalidValuesForRequestParameters"),
        ("acctfile", {"kind": "FileStorage"}, "SkuNotSupported"),
    ],
)
def test_refused_accounts(writer: Arm, name: str, members: dict[str, object], code: str) -> None:
    path = f"{writer.group()}/providers/Microsoft.Storage/storageAccounts/{name}"
    status, error = writer.error("PUT", path, account(name, **members), api_version=STORAGE)
    assert (status, error["code"]) == (400, code)


def test_names_that_are_taken(writer: Arm) -> None:
    name = f"acct{unique()}"
    _create(writer, name)
    elsewhere = f"{writer.group()}/providers/Microsoft.Storage/storageAccounts"
    status, error = writer.error("PUT", f"{elsewhere}/{name}", account(name), api_version=STORAGE)
    assert (status, error["code"]) == (409, "StorageAccountInAnotherResourceGroup")
    status, error = writer.error("PUT", f"{elsewhere}/storage", account("storage"), api_version=STORAGE)
    assert (status, error["code"]) == (409, "StorageAccountAlreadyTaken")
    assert error["message"] == "The storage account named storage is already taken."
    for asked, reason in ((name, "AlreadyExists"), ("A_B", "AccountNameInvalid")):
        answer = writer.request(
            "POST", "/providers/Microsoft.Storage/checkNameAvailability", {"name": asked}, api_version=STORAGE
        ).json()
        assert (answer["nameAvailable"], answer["reason"]) == (False, reason)


def test_shares_are_those_of_the_file_service(writer: Arm, stand_in: RunningStandIn) -> None:
    name = f"acct{unique()}"
    path = _create(writer, name)
    client, group = storage_client(stand_in), path.split("/")[4]
    made = client.file_shares.create(
        group, name, "made-here", FileShare({"properties": {"shareQuota": 7, "metadata": {"a": "b"}}})
    )
    assert made.share_quota == 7
    files = _files(stand_in, name, _keys(client, group, name)[0])
    assert files.get_share_client("made-here").get_share_properties().quota == 7
    files.create_share("made-there", quota=9)
    files.get_share_client("made-there").get_file_client("a.txt").upload_file(b"text")
    assert {share.name: share.share_quota for share in client.file_shares.list(group, name)} == {
        "made-here": 7,
        "made-there": 9,
    }
    shown = client.file_shares.get(group, name, "made-there")
    assert (shown.access_tier, shown.lease_state) == ("TransactionOptimized", "available")
    client.file_shares.update(group, name, "made-there", FileShare({"properties": {"accessTier": "Hot"}}))
    assert client.file_shares.get(group, name, "made-there").access_tier == "Hot"
    assert files.get_share_client("made-there").get_share_properties().access_tier == "Hot"
    used = client.file_shares.get(group, name, "made-there", expand="stats")
    assert used.share_usage_bytes == 4
    client.file_shares.delete(group, name, "made-there")
    assert [share["name"] for share in files.list_shares()] == ["made-here"]
    status, error = writer.error("GET", f"{path}/fileServices/default/shares/made-there", api_version=STORAGE)
    assert (status, error["code"]) == (404, "ShareNotFound")
    assert error["message"].startswith("The specified share does not exist.\nRequestId:")
    assert writer.request("DELETE", path, api_version=STORAGE).status_code == 200
    with pytest.raises(HttpResponseError):
        list(files.list_shares())


def test_share_answers_as_recorded(writer: Arm) -> None:
    path = _create(writer, f"acct{unique()}") + "/fileServices/default"
    created = writer.request("PUT", f"{path}/shares/one", {"properties": {"shareQuota": 5}}, api_version=STORAGE)
    assert (created.status_code, created.json()["properties"]) == (201, {"shareQuota": 5})
    assert created.headers["etag"].startswith('"0x')
    assert writer.request("PUT", f"{path}/shares/one", {}, api_version=STORAGE).status_code == 200
    shown = writer.request("GET", f"{path}/shares/one", api_version=STORAGE)
    assert shown.headers["etag"] == shown.json()["etag"]
    assert list(shown.json()) == ["id", "name", "type", "etag", "properties"]
    assert writer.request("DELETE", f"{path}/shares/one", api_version=STORAGE).status_code == 200
    assert writer.request("DELETE", f"{path}/shares/one", api_version=STORAGE).status_code == 204
    cool = writer.request("PUT", f"{path}/shares/two", {"properties": {"accessTier": "Cool"}}, api_version=STORAGE)
    assert (cool.status_code, cool.json()["properties"]) == (201, {"accessTier": "Cool"})
    assert writer.get(f"{path}/shares/two", STORAGE)["properties"]["accessTier"] == "Cool"
    for body, code in (
        ({"properties": {"shareQuota": 0}}, "InvalidValuesForRequestParameters"),
        ({"properties": {"shareQuota": 10**6}}, "InvalidValuesForRequestParameters"),
    ):
        status, error = writer.error("PUT", f"{path}/shares/two", body, api_version=STORAGE)
        assert (status, error["code"]) == (400, code)
    status, error = writer.error("PUT", f"{path}/shares/A_B", {}, api_version=STORAGE)
    assert (status, error["code"]) == (400, "InvalidResourceName")


def test_shares_of_a_premium_account_are_premium(writer: Arm) -> None:
    path = _create(writer, f"acct{unique()}", kind="FileStorage", sku={"name": "Premium_LRS"})
    share = f"{path}/fileServices/default/shares/fast"
    assert writer.request("PUT", share, {}, api_version=STORAGE).status_code == 201
    assert writer.get(share, STORAGE)["properties"]["accessTier"] == "Premium"
    status, error = writer.error("PUT", share, {"properties": {"accessTier": "Hot"}}, api_version=STORAGE)
    assert (status, error["message"]) == (400, "Values for request parameters are invalid: accessTier.")


def test_the_file_service_of_an_account(writer: Arm) -> None:
    path = _create(writer, f"acct{unique()}") + "/fileServices/default"
    assert writer.request("PUT", path, {}, api_version=STORAGE).json() == {"name": "default"}
    assert writer.get(path, STORAGE)["properties"]["shareDeleteRetentionPolicy"] == {"enabled": True, "days": 7}
    asked = {"properties": {"shareDeleteRetentionPolicy": {"enabled": False}}}
    assert writer.request("PUT", path, asked, api_version=STORAGE).status_code == 200
    assert writer.get(path, STORAGE)["properties"]["shareDeleteRetentionPolicy"] == {"enabled": False}
    assert [one["name"] for one in writer.get(path.rpartition("/")[0], STORAGE)["value"]] == ["default"]
    assert writer.error("PUT", path.replace("default", "other"), {}, api_version=STORAGE)[0] == 400


def test_an_account_without_shared_keys(writer: Arm, stand_in: RunningStandIn) -> None:
    name = f"acct{unique()}"
    path = _create(writer, name, properties={"allowSharedKeyAccess": False})
    key = writer.request("POST", f"{path}/listKeys", api_version=STORAGE).json()["keys"][0]["value"]
    files = _files(stand_in, name, key)
    with pytest.raises(HttpResponseError) as refused:
        list(files.list_shares())
    assert refused.value.status_code == 403


def test_a_share_that_is_there_twice(writer: Arm, stand_in: RunningStandIn) -> None:
    name = f"acct{unique()}"
    path = _create(writer, name)
    key = writer.request("POST", f"{path}/listKeys", api_version=STORAGE).json()["keys"][1]["value"]
    writer.request("PUT", f"{path}/fileServices/default/shares/one", {}, api_version=STORAGE)
    files = _files(stand_in, name, key)
    with pytest.raises(ResourceExistsError):
        files.create_share("one")

"""The real azcopy copies and synchronises a folder with a share, by signature and by login."""

from __future__ import annotations

import os
from datetime import datetime, timedelta, timezone
from pathlib import Path
from urllib.parse import quote

import pytest
from azure.storage.fileshare import AccountSasPermissions, ResourceTypes, ShareServiceClient, generate_account_sas

from tests.azcopy import EXECUTABLE, AzCopy, azcopy
from tests.azure_cli import ENVIRONMENT, azure_cli
from tests.conftest import RunningStandIn
from tests.resource_manager_client import STORAGE, account, arm, unique

pytestmark = pytest.mark.skipif(
    not os.access(EXECUTABLE, os.X_OK), reason="azcopy is not in .local/azcopy: `make peers` installs it"
)
TO_SHARE, FROM_SHARE = ("--recursive", "--from-to=LocalFileSMB"), ("--recursive", "--from-to=FileSMBLocal")
FILES = {
    "one.txt": b"first",
    "deep/er/two words.bin": bytes(range(256)) * 40_000,
    "deep/ünï %41.txt": b"name",
    "deep/empty.txt": b"",
}


@pytest.fixture
def store(stand_in: RunningStandIn) -> tuple[str, str]:
    """Name and key of an account with an empty share `models`."""
    manager, name = arm(stand_in), f"azcopy{unique()}"
    path = f"{manager.group()}/providers/Microsoft.Storage/storageAccounts/{name}"
    body = account(name)
    body = {key: body[key] for key in ("location", "sku", "kind", "properties")}
    assert manager.poll(manager.request("PUT", path, body, api_version=STORAGE)).status_code == 200
    keys = manager.request("POST", f"{path}/listKeys", api_version=STORAGE).json()["keys"]
    key = str(keys[0]["value"])
    address = f"{stand_in.announcement['resource_manager']}/{name}"
    credential = {"account_name": name, "account_key": key}
    with ShareServiceClient(address, credential, connection_verify=stand_in.announcement["certificate"]) as client:
        client.create_share("models")
    return name, key


def _write(folder: Path) -> Path:
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
        # Azure tells times to the second: what was written within the second before it is sent would seem newer.
        os.utime(folder / name, (1_700_000_000, 1_700_000_000))
    return folder


def _read(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _signature(name: str, key: str, permission: AccountSasPermissions) -> str:
    expiry = datetime.now(timezone.utc) + timedelta(hours=1)
    return generate_account_sas(name, key, ResourceTypes(True, True, True), permission, expiry)


def _there_and_back(copy: AzCopy, address: str, query: str, folder: Path) -> None:
    """Copy and sync in both directions; `address` is the share's, `query` what follows any address in it."""
    source = _write(folder / "source")
    remote = f"{address}/copied{query}"
    counts = copy("copy", f"{source}/*", remote, *TO_SHARE)
    assert counts["Number of File Transfers Completed"] == str(len(FILES))
    assert counts["Total Number of Bytes Transferred"] == str(sum(len(content) for content in FILES.values()))
    copy("copy", f"{address}/copied/*{query}", str(folder / "copy"), *FROM_SHARE)
    assert _read(folder / "copy") == FILES

    (source / "one.txt").write_bytes(b"changed, and longer")
    os.utime(source / "one.txt", (4_000_000_000, 4_000_000_000))  # newer than anything
    (source / "deep/new.txt").write_bytes(b"new")
    (source / "deep/empty.txt").unlink()
    counts = copy("sync", str(source), remote, *TO_SHARE, "--delete-destination=true")
    assert counts["Number of Copy Transfers for Files"] == "2"
    assert counts["Number of Deletions at Destination"] == "1"
    back = folder / "back"
    back.mkdir()
    (back / "stranger.txt").write_bytes(b"to be deleted")
    copy("sync", remote, str(back), *FROM_SHARE, "--delete-destination=true")
    assert _read(back) == _read(source)


def test_by_signature(stand_in: RunningStandIn, store: tuple[str, str], tmp_path: Path) -> None:
    name, key = store
    address = f"{stand_in.announcement['resource_manager']}/{name}/models"
    allowed = AccountSasPermissions(read=True, write=True, delete=True, list=True, create=True)
    signature = _signature(name, key, allowed)
    _there_and_back(azcopy(stand_in, tmp_path), address, f"?{signature}", tmp_path)
    listed = azcopy(stand_in, tmp_path).run("list", f"{address}?{signature}", "--location=File").stdout
    assert "copied/deep/new.txt; Content Length: 3.00 B" in listed
    # A signature that only reads is refused, and azcopy says so.
    reading = _signature(name, key, AccountSasPermissions(read=True, list=True))
    done = azcopy(stand_in, tmp_path).run("copy", f"{tmp_path}/source/*", f"{address}/no?{reading}", *TO_SHARE)
    assert done.returncode != 0
    assert "Number of File Transfers Completed: 0" in done.stdout
    logs = "".join(path.read_text() for path in (tmp_path / "log").glob("*.log"))
    assert "AuthorizationPermissionMismatch" in logs
    assert quote(key, safe="") not in logs


def test_by_login(stand_in: RunningStandIn, store: tuple[str, str], tmp_path: Path) -> None:
    """As whoever is signed in to the Azure CLI: azcopy's own sign-in asks the Internet about any authority."""
    name, _ = store
    told = stand_in.announcement
    with azure_cli(stand_in, tmp_path) as az:
        az.text("cloud register --name StandIn --endpoint-resource-manager", told["resource_manager"])
        az.text("cloud set --name StandIn")
        az.text("config set core.instance_discovery=false")
        who = ["--username", told["client_id"], "--password", told["client_secret"], "--tenant", told["tenant"]]
        az.text("login --service-principal", *who)
        path = f"{ENVIRONMENT / 'bin'}:{az.told['PATH']}"
        login = {"AZCOPY_AUTO_LOGIN_TYPE": "AZCLI", "AZCOPY_TENANT_ID": told["tenant"]}
        copy = azcopy(stand_in, tmp_path, **(az.told | login | {"PATH": path}))
        _there_and_back(copy, f"{told['resource_manager']}/{name}/models", "", tmp_path)

"""Signing in and asking, through the real SDK: the stand-in, a closed port, and a server nobody should trust."""

from __future__ import annotations

import dataclasses
import json
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from azure.storage.fileshare import AccountSasPermissions, ResourceTypes, generate_account_sas
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from scripts import cloud, environment, errors
from scripts import share as shares
from scripts.environment import Environment
from tests.conftest import RunningStandIn

ROOT = Path(__file__).parent.parent


@pytest.fixture
def local() -> Environment:
    """The environment `local`, in a resource group that no other test uses."""
    loaded = environment.load("local", ROOT)
    return dataclasses.replace(loaded, resource_group=f"rg-{uuid.uuid4().hex[:12]}")


@pytest.fixture
def variables(stand_in: RunningStandIn) -> dict[str, str]:
    return {cloud.STAND_IN_VARIABLE: str(stand_in.announcement_file)}


@pytest.fixture
def clients(local: Environment, variables: dict[str, str]) -> Iterator[cloud.Clients]:
    with cloud.connect(local, variables=variables) as connected:
        yield connected


def group_exists(clients: cloud.Clients) -> bool:
    with cloud.translated(f"looking for the resource group {clients.resource_group}"):
        return bool(clients.resources.resource_groups.check_existence(clients.resource_group))


def make_group(clients: cloud.Clients) -> None:
    with cloud.translated(f"creating the resource group {clients.resource_group}"):
        clients.resources.resource_groups.create_or_update(clients.resource_group, {"location": "swedencentral"})


def announced(file: Path, **other: str) -> dict[str, str]:
    """A hand-made announcement of a stand-in that nobody started."""
    names = ("tenant", "client_id", "client_secret", "reader_client_id", "reader_client_secret")
    values = {**dict.fromkeys(names, "10c0a1de-0000-4000-8000-00000000000a"), **other}
    file.write_text(json.dumps(values))
    return {cloud.STAND_IN_VARIABLE: str(file)}


def test_importing_the_module_imports_neither_azure_nor_what_it_is_made_of() -> None:
    heavy = {"azure", "requests", "urllib3", "cryptography"}
    code = (
        f"import scripts.cloud, scripts.release, sys; print({heavy} & {{name.split('.')[0] for name in sys.modules}})"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_deploying_identity_may_write(clients: cloud.Clients) -> None:
    assert not group_exists(clients)
    make_group(clients)
    assert group_exists(clients)


def test_the_reading_identity_may_not_write(local: Environment, variables: dict[str, str]) -> None:
    with cloud.connect(local, "what_if", variables=variables) as reader:
        assert not group_exists(reader)
        with pytest.raises(errors.Forbidden) as caught:
            make_group(reader)
    error = caught.value
    assert (error.code, error.status) == ("AuthorizationFailed", 403)
    assert f"creating the resource group {local.resource_group}" in error.message.lower()
    shown = "\n".join(error.details)
    assert "identity: " in shown
    assert "action: Microsoft.Resources/subscriptions/resourceGroups/write" in shown.replace(
        "resourcegroups", "resourceGroups"
    )
    assert f"resourceGroups/{local.resource_group}" in shown


def test_a_client_secret_of_the_process_environment_comes_first(
    local: Environment, variables: dict[str, str], stand_in: RunningStandIn
) -> None:
    own = {
        "AZURE_TENANT_ID": stand_in.announcement["tenant"],
        "AZURE_CLIENT_ID": stand_in.announcement["reader_client_id"],
        "AZURE_CLIENT_SECRET": stand_in.announcement["reader_client_secret"],
    }
    with cloud.connect(local, "deploy", variables={**variables, **own}) as reader, pytest.raises(errors.Forbidden):
        make_group(reader)


def test_a_wrong_client_secret(local: Environment, variables: dict[str, str], stand_in: RunningStandIn) -> None:
    own = {
        "AZURE_TENANT_ID": stand_in.announcement["tenant"],
        "AZURE_CLIENT_ID": stand_in.announcement["client_id"],
        "AZURE_CLIENT_SECRET": "wrong",
    }
    with (
        cloud.connect(local, variables={**variables, **own}) as wrong,
        pytest.raises(errors.NotSignedIn, match="AADSTS7000215") as caught,
    ):
        group_exists(wrong)
    assert caught.value.code == "AADSTS7000215"
    assert "AZURE_CLIENT_SECRET" in caught.value.next_step


def test_an_assertion_is_fetched_for_the_role_and_its_refusal_is_explained(
    local: Environment, variables: dict[str, str]
) -> None:
    fetched = []

    def assertion() -> str:
        fetched.append(1)
        return "not.a.token"

    with cloud.connect(local, "what_if", assertion, variables) as wrong, pytest.raises(errors.NotSignedIn) as caught:
        group_exists(wrong)
    assert fetched
    assert (caught.value.code or "").startswith("AADSTS")


def test_nobody_is_signed_in(local: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # No Azure CLI, nor any other tool that the SDK asks for a token.
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "dev")
    with (
        cloud.connect(dataclasses.replace(local, cloud="azure"), variables={}) as nobody,
        pytest.raises(errors.NotSignedIn, match="looking for the resource group") as caught,
    ):
        group_exists(nobody)
    assert "az login" in caught.value.next_step


def test_no_stand_in_was_started(local: Environment, tmp_path: Path) -> None:
    with pytest.raises(errors.BadInput, match="make local") as caught:
        cloud.connect(local, variables={cloud.STAND_IN_VARIABLE: str(tmp_path / "none.json")})
    assert caught.value.problems[0].file == str(tmp_path / "none.json")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"authority": "x"', '{"authority": 1}'])
def test_a_broken_announcement(local: Environment, tmp_path: Path, content: str) -> None:
    (tmp_path / "broken.json").write_text(content)
    with pytest.raises(errors.BadInput, match="this is not what a stand-in announces"):
        cloud.connect(local, variables={cloud.STAND_IN_VARIABLE: str(tmp_path / "broken.json")})


def test_a_server_that_does_not_run(local: Environment, tmp_path: Path) -> None:
    certificate = str(write_certificate(tmp_path / "certificate.pem"))
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"https://127.0.0.1:{closed.getsockname()[1]}"
        elsewhere = announced(tmp_path / "a.json", authority=address, resource_manager=address, certificate=certificate)
        with (
            cloud.connect(local, variables=elsewhere) as unreachable,
            pytest.raises(errors.Unreachable, match="refused") as caught,
        ):
            group_exists(unreachable)
    assert "make local" in caught.value.next_step


def test_a_certificate_that_is_not_trusted(local: Environment, tmp_path: Path, stand_in: RunningStandIn) -> None:
    other = {**stand_in.announcement, "certificate": str(write_certificate(tmp_path / "other.pem"))}
    elsewhere = announced(tmp_path / "a.json", **other)
    with cloud.connect(local, variables=elsewhere) as distrusting, pytest.raises(errors.Untrusted) as caught:
        group_exists(distrusting)
    assert "certificate" in caught.value.message


def test_a_missing_thing_of_the_resource_manager(clients: cloud.Clients) -> None:
    make_group(clients)
    with pytest.raises(errors.NotFound) as caught, cloud.translated("reading the app none"):
        clients.container_apps.container_apps.get(clients.resource_group, "none")
    assert (caught.value.code, caught.value.status) == ("ResourceNotFound", 404)
    with pytest.raises(errors.NotFound, match="none"):
        clients.account_key("none")


def write_certificate(file: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "somebody else")])
    now = datetime.now(timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return file


@dataclasses.dataclass
class Share:
    """A file share with one file, and who signs in to it."""

    environment: Environment
    variables: dict[str, str]
    account: str
    name: str = "files"


@pytest.fixture(scope="module")
def share(stand_in: RunningStandIn) -> Share:
    variables = {cloud.STAND_IN_VARIABLE: str(stand_in.announcement_file)}
    own = dataclasses.replace(environment.load("local", ROOT), resource_group="rg-test-cloud-share")
    made = Share(own, variables, f"acc{uuid.uuid4().hex[:12]}")
    with cloud.connect(own, variables=variables) as clients:
        make_group(clients)
        settings: Any = {"location": "swedencentral", "kind": "StorageV2", "sku": {"name": "Standard_LRS"}}
        clients.storage.storage_accounts.begin_create(own.resource_group, made.account, settings).result()
        properties: Any = {"properties": {}}
        clients.storage.file_shares.create(own.resource_group, made.account, made.name, properties)
        shares.write_small_file(clients.share(made.account, made.name), "hello", b"hello")
    return made


@pytest.fixture
def share_owner(share: Share) -> Iterator[cloud.Clients]:
    with cloud.connect(share.environment, variables=share.variables) as connected:
        yield connected


def test_who_may_list_keys_gets_at_the_share_and_its_lease(share_owner: cloud.Clients, share: Share) -> None:
    client = share_owner.share(share.account, share.name)
    lease = client.acquire_lease(15)
    assert client.get_file("hello")[0] == b"hello"
    client.release_lease(lease)


def test_who_may_not_list_keys_uses_the_token(share: Share) -> None:
    with cloud.connect(share.environment, "what_if", variables=share.variables) as reader:
        with pytest.raises(errors.Forbidden, match="Listing the keys"):
            reader.account_key(share.account)
        client = reader.share(share.account, share.name)
        assert client.get_file("hello")[0] == b"hello"
        with pytest.raises(errors.Forbidden, match="Writing hello") as caught:
            shares.write_small_file(client, "hello", b"changed")
    assert "Storage File Data Privileged Contributor" in caught.value.next_step


@pytest.mark.parametrize("given", ["key", "signature", "nothing"])
def test_what_a_person_has_opens_the_share(share_owner: cloud.Clients, share: Share, given: str) -> None:
    key = share_owner.account_key(share.account)
    allowed = AccountSasPermissions(read=True, write=True, delete=True, list=True, create=True)
    tomorrow = datetime.now(timezone.utc) + timedelta(days=1)
    signature = generate_account_sas(share.account, key, ResourceTypes(False, True, True), allowed, tomorrow)
    told = {"key": {"AZURE_STORAGE_KEY": key}, "signature": {"AZURE_STORAGE_SAS_TOKEN": signature}, "nothing": {}}[
        given
    ]
    # The reader's own rights are not enough: it may neither list keys nor write.
    with cloud.connect(share.environment, "what_if", variables={**share.variables, **told}) as reader:
        client = reader.share(share.account, share.name)
        if given == "nothing":
            with pytest.raises(errors.Forbidden):
                shares.write_small_file(client, given, b"x")
            return
        shares.make_folders(client, [given])
        shares.write_small_file(client, f"{given}/file", given.encode())
        client.release_lease(client.acquire_lease(15))
        # The address of a source carries the signature.
        client.copy_file(f"{given}/file", f"{given}/copied")
        shares.move_folder(client, given, f"{given}-moved")
        assert client.get_file(f"{given}-moved/copied")[0] == given.encode()


def test_a_key_that_is_wrong_is_refused_and_one_for_another_account_is_not_used(
    share_owner: cloud.Clients, share: Share
) -> None:
    wrong = {**share.variables, "AZURE_STORAGE_KEY": "d3Jvbmc="}
    with cloud.connect(share.environment, variables=wrong) as clients, pytest.raises(errors.NotSignedIn) as caught:
        clients.share(share.account, share.name).get_file("hello")
    assert (caught.value.code, caught.value.status) == ("AuthenticationFailed", 403)
    assert caught.value.next_step.startswith("Correct AZURE_STORAGE_KEY") and share.account in caught.value.next_step
    with cloud.connect(share.environment, variables={**wrong, "AZURE_STORAGE_ACCOUNT": "another"}) as clients:
        assert clients.share(share.account, share.name).get_file("hello")[0] == b"hello"


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"AZURE_STORAGE_KEY": "not base64!"}, "AZURE_STORAGE_KEY"),
        ({"AZURE_STORAGE_SAS_TOKEN": "sv=2026"}, "AZURE_STORAGE_SAS_TOKEN"),
        ({"HTTPS_PROXY": "socks5://127.0.0.1:1"}, "HTTPS_PROXY"),
        ({"REQUESTS_CA_BUNDLE": "/no/such/file"}, "REQUESTS_CA_BUNDLE"),
    ],
)
@pytest.mark.parametrize("account", ["ours", None])
def test_what_cannot_open_a_share_is_told_before_there_is_one(
    local: Environment, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], said: str, account: str | None
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with cloud.connect(dataclasses.replace(local, cloud="azure")) as clients:
        with pytest.raises(errors.BadInput, match=said) as caught:
            clients.check_share_can_be_opened(account)
        assert len(caught.value.problems) == 1


def test_a_key_for_another_account_and_a_proxy_for_other_addresses_do_not_matter(
    local: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "socks5://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "ours.file.core.windows.net")
    variables = {"AZURE_STORAGE_KEY": "not base64!", "AZURE_STORAGE_ACCOUNT": "another"}
    with cloud.connect(dataclasses.replace(local, cloud="azure"), variables=variables) as clients:
        clients.check_share_can_be_opened("ours")


def test_a_signature_that_has_ended_is_told_so(share_owner: cloud.Clients, share: Share) -> None:
    yesterday = datetime.now(timezone.utc) - timedelta(days=1)
    allowed, key = AccountSasPermissions(read=True), share_owner.account_key(share.account)
    signature = generate_account_sas(share.account, key, ResourceTypes(object=True), allowed, yesterday)
    ended = {**share.variables, "AZURE_STORAGE_SAS_TOKEN": signature}
    with cloud.connect(share.environment, variables=ended) as clients, pytest.raises(errors.NotSignedIn) as caught:
        clients.share(share.account, share.name).get_file("hello")
    assert caught.value.next_step.startswith("Make a new AZURE_STORAGE_SAS_TOKEN")
    (detail,) = caught.value.details
    assert f"Expiry [{yesterday:%Y-%m-%dT%H:%M:%S}" in detail
    assert "sig=" not in str(caught.value)


def test_missing_things_on_the_share(share_owner: cloud.Clients, share: Share) -> None:
    client = share_owner.share(share.account, share.name)
    cases: list[tuple[str, Callable[[], Any]]] = [
        ("ResourceNotFound", lambda: client.get_file_properties("none")),
        ("ResourceNotFound", lambda: client.get_file("none")),
        ("ParentNotFound", lambda: shares.write_small_file(client, "a/b", b"x")),
        ("ShareNotFound", lambda: share_owner.share(share.account, "none").list_directories_and_files("")),
    ]
    for code, call in cases:
        with pytest.raises(errors.NotFound) as caught:
            call()
        assert (caught.value.code, caught.value.status) == (code, 404)


def test_a_share_that_is_leased_is_busy(share_owner: cloud.Clients, share: Share) -> None:
    client = share_owner.share(share.account, share.name)
    first = client.acquire_lease(15)
    with pytest.raises(errors.Busy, match="Taking the lease on the share") as caught:
        client.acquire_lease(15)
    client.release_lease(first)
    assert caught.value.code == "LeaseAlreadyPresent"

"""Puts the trained models where fine-tuning leaves them: resource group -> storage account -> file share -> folders.

A client of the stand-in like any other: it knows what the stand-in announced and speaks Azure's public API. What is
there already is left alone, so a second run changes nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TextIO

from azure.core.exceptions import AzureError, ResourceExistsError, ResourceNotFoundError
from azure.identity import ClientSecretCredential
from azure.mgmt.resource.resources import ResourceManagementClient
from azure.mgmt.resource.resources.models import ResourceGroup
from azure.mgmt.storage import StorageManagementClient
from azure.mgmt.storage.models import (
    FileShare,
    FileShareProperties,
    Sku,
    StorageAccount,
    StorageAccountCreateParameters,
    StorageAccountPropertiesCreateParameters,
)
from azure.storage.fileshare import ContentSettings, ShareClient

from infra.emulator.template.functions.hashing import unique_string

SHARE_QUOTA_GIB = 1024
# Looks at a long operation this often where the service does not say how long to wait.
POLLING_SECONDS = 0.2


class PublishError(Exception):
    """Says what went wrong and what to do about it."""


@dataclass(frozen=True)
class Announcement:
    """What a client must be told about the stand-in, as it printed it."""

    authority: str
    resource_manager: str
    certificate: str
    tenant: str
    subscription: str
    client_id: str
    client_secret: str

    @classmethod
    def read(cls, path: Path) -> Announcement:
        """Raises PublishError when the file is missing or is not a stand-in's announcement."""
        try:
            announced = json.loads(path.read_text(encoding="utf-8"))
            return cls(**{name: str(announced[name]) for name in cls.__dataclass_fields__})
        except OSError as error:
            raise PublishError(
                f"The stand-in's announcement {path} cannot be read: {error.strerror}. Start the stand-in: make local"
            ) from None
        except (ValueError, KeyError, TypeError) as error:
            raise PublishError(
                f"{path} is not what a stand-in announces ({type(error).__name__}: {error}). Start it anew: make local"
            ) from None


@dataclass(frozen=True)
class Place:
    """Where the models go, by the AI Toolkit's default names."""

    subscription: str
    resource_group: str
    location: str

    @property
    def suffix(self) -> str:
        """The end of the default names: take(uniqueString(resourceGroup().id), 5) in a template's words."""
        return unique_string(f"/subscriptions/{self.subscription}/resourceGroups/{self.resource_group}")[:5]

    @property
    def account(self) -> str:
        return f"aistorage{self.suffix}"

    @property
    def share(self) -> str:
        return f"aifileshare{self.suffix}"


@contextlib.contextmanager
def file_share(announced: Announcement, place: Place, messages: TextIO = sys.stderr) -> Iterator[ShareClient]:
    """A client of the share, after making what is missing of resource group, storage account and share.

    Raises PublishError when the stand-in refuses or does not answer, here and in the body of the `with`.
    """
    trust: dict[str, Any] = {"connection_verify": announced.certificate}
    manager: dict[str, Any] = {
        "base_url": announced.resource_manager,
        "credential_scopes": [f"{announced.resource_manager}/.default"],
        "polling_interval": POLLING_SECONDS,
        **trust,
    }
    with contextlib.ExitStack() as clients:
        try:
            credential = clients.enter_context(
                ClientSecretCredential(
                    announced.tenant,
                    announced.client_id,
                    announced.client_secret,
                    authority=announced.authority,
                    # The list of known authorities is Azure's; the stand-in's is not on it.
                    disable_instance_discovery=True,
                    **trust,
                )
            )
            groups = clients.enter_context(ResourceManagementClient(credential, place.subscription, **manager))
            storage = clients.enter_context(StorageManagementClient(credential, place.subscription, **manager))
            _ensure_group(groups, place, messages)
            account = _ensure_account(storage, place, messages)
            _ensure_share(storage, place, messages)
            endpoints = account.properties.primary_endpoints if account.properties else None
            keys = storage.storage_accounts.list_keys(place.resource_group, place.account).keys_property
            if endpoints is None or not endpoints.file or not keys or not keys[0].value:
                raise PublishError(f"The storage account {place.account} has no file service or no key.")
            yield clients.enter_context(
                ShareClient(
                    endpoints.file.rstrip("/"),
                    place.share,
                    credential=keys[0].value,
                    initial_backoff=1,
                    increment_base=2,
                    **trust,
                )
            )
        except AzureError as error:
            reason = str(error.message).splitlines()[0] if error.message else type(error).__name__
            raise PublishError(
                f"The stand-in at {announced.resource_manager} did not do what was asked: {reason} "
                "Look at its log (.local/stand-in.log), or start it anew: make local-down local"
            ) from error


def _ensure_group(groups: ResourceManagementClient, place: Place, messages: TextIO) -> None:
    if not groups.resource_groups.check_existence(place.resource_group):
        groups.resource_groups.create_or_update(place.resource_group, ResourceGroup(location=place.location))
        print(f"Made the resource group {place.resource_group}.", file=messages)


def _ensure_account(storage: StorageManagementClient, place: Place, messages: TextIO) -> StorageAccount:
    try:
        return storage.storage_accounts.get_properties(place.resource_group, place.account)
    except ResourceNotFoundError:
        creation = storage.storage_accounts.begin_create(
            place.resource_group,
            place.account,
            StorageAccountCreateParameters(
                sku=Sku(name="Standard_LRS"),
                kind="StorageV2",
                location=place.location,
                properties=StorageAccountPropertiesCreateParameters(large_file_shares_state="Enabled"),
            ),
        )
        account = creation.result()
        print(f"Made the storage account {place.account}.", file=messages)
        return account


def _ensure_share(storage: StorageManagementClient, place: Place, messages: TextIO) -> None:
    try:
        storage.file_shares.get(place.resource_group, place.account, place.share)
    except ResourceNotFoundError:
        storage.file_shares.create(
            place.resource_group,
            place.account,
            place.share,
            FileShare(file_share_properties=FileShareProperties(share_quota=SHARE_QUOTA_GIB)),
        )
        print(f"Made the file share {place.share}.", file=messages)


def upload(folder: Path, share: ShareClient) -> list[str]:
    """Uploads the files below `folder` that the share lacks or has otherwise; returns their paths on the share.

    A file counts as there when size and MD5 agree. The MD5 is written after the data, so a file whose upload was cut
    off does not count.
    """
    uploaded = []
    folders: set[PurePosixPath] = set()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = PurePosixPath(path.relative_to(folder).as_posix())
        digest = _md5(path)
        if not _is_there(share, name, path.stat().st_size, digest):
            _make_folders(share, name, folders)
            _upload_file(share, name, path, digest)
            uploaded.append(str(name))
    return uploaded


def _md5(path: Path) -> bytes:
    # What the service keeps beside a file to compare it by; nothing rests on its strength.
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.digest()


def _is_there(share: ShareClient, name: PurePosixPath, size: int, digest: bytes) -> bool:
    try:
        found = share.get_file_client(str(name)).get_file_properties()
    except ResourceNotFoundError:
        return False
    return bool(found.size == size and bytes(found.content_settings.content_md5 or b"") == digest)


def _make_folders(share: ShareClient, name: PurePosixPath, made: set[PurePosixPath]) -> None:
    for folder in reversed(name.parents[:-1]):
        if folder not in made:
            with contextlib.suppress(ResourceExistsError):
                share.get_directory_client(str(folder)).create_directory()
            made.add(folder)


def _upload_file(share: ShareClient, name: PurePosixPath, path: Path, digest: bytes) -> None:
    client = share.get_file_client(str(name))
    with path.open("rb") as data:
        client.upload_file(data, length=path.stat().st_size)
    client.set_http_headers(ContentSettings(content_md5=bytearray(digest)))

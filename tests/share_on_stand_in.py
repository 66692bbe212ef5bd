"""File shares of the stand-in for tests, reached as the command reaches them, and by the SDK beside it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from azure.storage.fileshare import ShareClient as SdkShareClient

from scripts import cloud
from scripts.cloud import Clients
from scripts.environment import Environment, Model, ModelFolder, ProofSettings
from scripts.files import ShareClient
from tests.conftest import RunningStandIn

ACCOUNT = "sharetests"
RESOURCE_GROUP = "rg-shares"


def model(base: str | Path = "model-cache/demo", adapters: Mapping[str, str | Path] | None = None) -> Model:
    """A model as an environment names it: a str is a folder on the share, a Path one on this machine."""

    def folder(where: str | Path) -> ModelFolder:
        return ModelFolder(str(where), where if isinstance(where, Path) else None)

    return Model(folder(base), {name: folder(where) for name, where in (adapters or {}).items()})


def environment_of(stand_in: RunningStandIn, resource_group: str) -> Environment:
    """An environment `local` on the stand-in."""
    return Environment(
        name="local",
        cloud="local",
        subscription=stand_in.announcement["subscription"],
        resource_group=resource_group,
        location="swedencentral",
        identity=None,
        model=model(),
        proof=ProofSettings(()),
        promote_from=None,
        parameters={},
        root=Path.cwd(),
        files=(),
    )


@contextlib.contextmanager
def clients_of(stand_in: RunningStandIn, resource_group: str) -> Iterator[Clients]:
    """Signed-in clients of the stand-in's subscription."""
    variables = {cloud.STAND_IN_VARIABLE: str(stand_in.announcement_file)}
    with cloud.connect(environment_of(stand_in, resource_group), variables=variables) as clients:
        yield clients


@contextlib.contextmanager
def new_share(stand_in: RunningStandIn, name: str) -> Iterator[ShareClient]:
    """A share of its own for one test, in an account that the tests of one stand-in have in common."""
    with clients_of(stand_in, RESOURCE_GROUP) as clients:
        if not clients.resources.resource_groups.check_existence(RESOURCE_GROUP):
            clients.resources.resource_groups.create_or_update(RESOURCE_GROUP, {"location": "swedencentral"})
        clients.storage.storage_accounts.begin_create(
            RESOURCE_GROUP,
            ACCOUNT,
            {"location": "swedencentral", "kind": "StorageV2", "sku": {"name": "Standard_LRS"}},
        ).result()
        properties: Any = {"properties": {}}
        clients.storage.file_shares.create(RESOURCE_GROUP, ACCOUNT, name, properties)
        yield clients.share(ACCOUNT, name)


def sdk_share(stand_in: RunningStandIn, name: str) -> SdkShareClient:
    """The same share through the SDK's client."""
    with clients_of(stand_in, RESOURCE_GROUP) as clients:
        address, key = clients.cloud.file_endpoint.format(account=ACCOUNT), clients.account_key(ACCOUNT)
    return SdkShareClient(address, name, credential=key, connection_verify=stand_in.announcement["certificate"])

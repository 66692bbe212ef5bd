"""The SDK's asynchronous clients against the stand-in."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from azure.core.credentials_async import AsyncTokenCredential
from azure.identity.aio import ClientSecretCredential
from azure.mgmt.appcontainers.aio import ContainerAppsAPIClient
from azure.mgmt.resource.deployments.aio import DeploymentsMgmtClient
from azure.mgmt.resource.resources.aio import ResourceManagementClient
from azure.mgmt.storage.aio import StorageManagementClient
from azure.storage.fileshare.aio import ShareServiceClient

from tests.conftest import RunningStandIn


@dataclass
class Clients:
    """One caller's clients. Operations are polled every 0.05 s."""

    stand_in: RunningStandIn
    credential: AsyncTokenCredential
    groups: ResourceManagementClient
    deployments: DeploymentsMgmtClient
    storage: StorageManagementClient
    apps: ContainerAppsAPIClient

    def files(self, account: str, credential: Any, **options: Any) -> ShareServiceClient:
        """The file service of an account."""
        told = self.stand_in.announcement
        settings: dict[str, Any] = {"connection_verify": told["certificate"], "retry_total": 0, **options}
        return ShareServiceClient(f"{told['resource_manager']}/{account}", credential, **settings)


def identity(stand_in: RunningStandIn, *, reader: bool = False, secret: str | None = None) -> ClientSecretCredential:
    """One of the two callers; `secret` in place of the right one."""
    told, prefix = stand_in.announcement, "reader_" if reader else ""
    return ClientSecretCredential(
        told["tenant"],
        told[f"{prefix}client_id"],
        secret or told[f"{prefix}client_secret"],
        authority=told["authority"],
        disable_instance_discovery=True,
        connection_verify=told["certificate"],
    )


@contextlib.asynccontextmanager
async def clients(stand_in: RunningStandIn, credential: AsyncTokenCredential) -> AsyncIterator[Clients]:
    """Closes the clients and the credential with the block."""
    told = stand_in.announcement
    settings: dict[str, Any] = {
        "credential": credential,
        "subscription_id": told["subscription"],
        "base_url": told["resource_manager"],
        "credential_scopes": [f"{told['resource_manager']}/.default"],
        "connection_verify": told["certificate"],
        "polling_interval": 0.05,
        "retry_total": 0,
    }
    async with (
        credential,
        ResourceManagementClient(**settings) as groups,
        DeploymentsMgmtClient(**settings) as deployments,
        StorageManagementClient(**settings) as storage,
        ContainerAppsAPIClient(**settings) as apps,
    ):
        yield Clients(stand_in, credential, groups, deployments, storage, apps)

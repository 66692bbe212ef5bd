"""How the tests talk to the resource manager: plain HTTP requests, and the real SDK's clients."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass
from typing import Any

import httpx
from azure.identity import ClientSecretCredential
from azure.mgmt.resource.deployments import DeploymentsMgmtClient
from azure.mgmt.resource.resources import ResourceManagementClient
from azure.mgmt.storage import StorageManagementClient

from tests.conftest import RunningStandIn

RESOURCES = "2025-04-01"
STORAGE = "2026-04-01"
WORKSPACES = "2026-03-01"
GROUP_SCHEMA = "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#"
SUBSCRIPTION_SCHEMA = "https://schema.management.azure.com/schemas/2018-05-01/subscriptionDeploymentTemplate.json#"
_numbers = itertools.count(1)


def template(resources: Any, schema: str = GROUP_SCHEMA, **sections: Any) -> dict[str, Any]:
    """A template; an object of resources makes it one with symbolic names."""
    language = {"languageVersion": "2.0"} if isinstance(resources, dict) else {}
    return {"$schema": schema, **language, "contentVersion": "1.0.0.0", **sections, "resources": resources}


def account(name: str, **members: Any) -> dict[str, Any]:
    """A storage account as a template declares it."""
    return {
        "type": "Microsoft.Storage/storageAccounts",
        "apiVersion": STORAGE,
        "name": name,
        "location": "eastus",
        "sku": {"name": "Standard_LRS"},
        "kind": "StorageV2",
        "properties": {},
    } | members


def workspace(name: str, **members: Any) -> dict[str, Any]:
    """A Log Analytics workspace as a template declares it."""
    return {
        "type": "Microsoft.OperationalInsights/workspaces",
        "apiVersion": WORKSPACES,
        "name": name,
        "location": "eastus",
        "properties": {"retentionInDays": 30},
    } | members


def deployment(value: dict[str, Any], mode: str = "Incremental", **members: Any) -> dict[str, Any]:
    """The body of a request for a deployment; `members` go into its properties, `location` beside them."""
    location = {"location": members.pop("location")} if "location" in members else {}
    return {**location, "properties": {"mode": mode, "template": value, **members}}


@dataclass
class Arm:
    """Requests with a token, at the subscription's address."""

    stand_in: RunningStandIn
    http: httpx.Client
    subscription: str

    def request(self, method: str, path: str, body: Any = None, *, api_version: str = RESOURCES) -> httpx.Response:
        """`path` is below the subscription, an id, or a whole address that has its api-version."""
        if path.startswith("https://"):
            return self.http.request(method, path, json=body)
        if not path.startswith("/subscriptions/"):
            path = f"/subscriptions/{self.subscription}{path}"
        return self.http.request(method, httpx.URL(path).copy_merge_params({"api-version": api_version}), json=body)

    def get(self, path: str, api_version: str = RESOURCES) -> Any:
        """The JSON of a GET that must succeed."""
        response = self.request("GET", path, api_version=api_version)
        assert response.status_code == 200, response.text
        return response.json()

    def error(self, method: str, path: str, body: Any = None, *, api_version: str = RESOURCES) -> tuple[int, Any]:
        """Status and error of a request that must be refused."""
        response = self.request(method, path, body, api_version=api_version)
        assert response.status_code >= 400, response.text
        return response.status_code, response.json()["error"]

    def group(self) -> str:
        """The id of a new resource group."""
        path = f"/subscriptions/{self.subscription}/resourceGroups/rg-{unique()}"
        assert self.request("PUT", path, {"location": "eastus"}).status_code == 201
        return path

    def poll(self, response: httpx.Response, seconds: float = 90) -> httpx.Response:
        """The last answer of the address that `response` (202 with Location) names."""
        end = time.monotonic() + seconds
        while response.status_code == 202:
            assert time.monotonic() < end, "it never ended"
            time.sleep(0.03)
            response = self.request("GET", response.headers["location"])
        return response

    def deploy(self, scope: str, body: dict[str, Any], name: str = "") -> dict[str, Any]:
        """The deployment as it is once it has ended, however it ended."""
        path = f"{scope}/providers/Microsoft.Resources/deployments/{name or f'd-{unique()}'}"
        response = self.request("PUT", path, body)
        assert response.status_code in (200, 201), response.text
        return self.wait(response)

    def wait(self, response: httpx.Response, seconds: float = 90) -> dict[str, Any]:
        """The deployment that `response` accepted, once it has ended."""
        end = time.monotonic() + seconds
        while self.get(response.headers["azure-asyncoperation"])["status"] in ("Accepted", "Running"):
            assert time.monotonic() < end, "it never ended"
            time.sleep(0.03)
        shown: dict[str, Any] = self.get(response.json()["id"])
        return shown

    def what_if(self, scope: str, body: dict[str, Any]) -> dict[str, Any]:
        """The result of a preview, as it is polled."""
        path = f"{scope}/providers/Microsoft.Resources/deployments/what-if/whatIf"
        response = self.request("POST", path, body)
        assert response.status_code == 202, response.text
        result: dict[str, Any] = self.poll(response).json()
        return result


def arm(stand_in: RunningStandIn, *, reader: bool = False) -> Arm:
    """Requests as one of the two identities."""
    announcement = stand_in.announcement
    http = httpx.Client(
        base_url=announcement["resource_manager"],
        verify=stand_in.trust,
        headers={"Authorization": f"Bearer {stand_in.token(reader=reader)}"},
        timeout=60,
    )
    return Arm(stand_in, http, announcement["subscription"])


def unique() -> str:
    """A text that no other caller gets: letters and digits, valid in the name of an account."""
    return f"{time.time_ns() // 1000 % 10**9:09d}{next(_numbers)}"


def _credential(announcement: dict[str, str]) -> ClientSecretCredential:
    return ClientSecretCredential(
        announcement["tenant"],
        announcement["client_id"],
        announcement["client_secret"],
        authority=announcement["authority"],
        disable_instance_discovery=True,
        connection_verify=announcement["certificate"],
    )


def client_settings(announcement: dict[str, str]) -> dict[str, Any]:
    """What every client of the management SDKs is made with."""
    return {
        "credential": _credential(announcement),
        "subscription_id": announcement["subscription"],
        "base_url": announcement["resource_manager"],
        "credential_scopes": [announcement["resource_manager"] + "/.default"],
        "connection_verify": announcement["certificate"],
        "polling_interval": 0.05,
    }


def groups_client(stand_in: RunningStandIn) -> ResourceManagementClient:
    """The SDK's client of groups, providers and resources."""
    return ResourceManagementClient(**client_settings(stand_in.announcement))


def deployments_client(stand_in: RunningStandIn) -> DeploymentsMgmtClient:
    """The SDK's client of deployments."""
    return DeploymentsMgmtClient(**client_settings(stand_in.announcement))


def storage_client(stand_in: RunningStandIn) -> StorageManagementClient:
    """The SDK's client of storage accounts."""
    return StorageManagementClient(**client_settings(stand_in.announcement))

"""Resource providers of the subscription: which types and API versions there are, and which are registered."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from infra.emulator.exceptions import AzureError, NotEmulated
from infra.emulator.provider import Cloud, Provider, ResourceType
from infra.emulator.regions import REGIONS

# API versions of Microsoft.Resources itself (deployments, resource groups, subscriptions, locations, tenants).
RESOURCES = "Microsoft.Resources"
RESOURCES_API_VERSIONS = (
    *("2026-06-01", "2025-04-01", "2025-03-01", "2024-11-01", "2024-08-01", "2024-07-01", "2024-03-01", "2023-07-01"),
    *("2022-12-01", "2022-09-01", "2022-06-01", "2022-05-01", "2022-01-01", "2021-04-01", "2021-01-01", "2020-10-01"),
    *("2020-09-01", "2020-08-01", "2020-07-01", "2020-06-01", "2020-05-01", "2020-01-01", "2019-11-01", "2019-10-01"),
    *("2019-08-01", "2019-07-01", "2019-06-01", "2019-05-10", "2019-05-01", "2019-04-01", "2019-03-01", "2018-11-01"),
    *("2018-09-01", "2018-08-01", "2018-07-01", "2018-06-01", "2018-05-01", "2018-02-01", "2018-01-01", "2017-08-01"),
    *("2017-06-01", "2017-05-10", "2017-05-01", "2017-03-01", "2016-09-01", "2016-07-01", "2016-06-01", "2016-02-01"),
    *("2015-11-01", "2015-01-01", "2014-04-01"),
)
_RESOURCES_TYPES = ("deployments", "resourceGroups", "subscriptions", "subscriptions/locations", "tenants")

# Types that Azure has in the namespaces that are emulated here in part, by lower case: 501 instead of a wrong 404.
_IN_AZURE = frozenset(
    f"{namespace}/{name}"
    for namespace, names in {
        "microsoft.app": (
            "builders builders/builds builders/patches connectedenvironments connectedenvironments/certificates"
            " containerapps containerapps/authconfigs containerapps/privateendpointconnectionproxies"
            " containerapps/resiliencypolicies containerapps/revisions containerapps/revisions/replicas"
            " containerapps/sourcecontrols functions getcustomdomainverificationid jobs jobs/executions logicapps"
            " managedenvironments managedenvironments/certificates managedenvironments/daprcomponents"
            " managedenvironments/dotnetcomponents managedenvironments/httprouteconfigs"
            " managedenvironments/javacomponents managedenvironments/maintenanceconfigurations"
            " managedenvironments/managedcertificates managedenvironments/privateendpointconnections"
            " managedenvironments/storages operations sessionpools spaces"
        ),
        "microsoft.storage": (
            "storageaccounts storageaccounts/blobservices storageaccounts/blobservices/containers"
            " storageaccounts/fileservices storageaccounts/fileservices/shares storageaccounts/queueservices"
            " storageaccounts/queueservices/queues storageaccounts/tableservices storageaccounts/tableservices/tables"
            " storageaccounts/managementpolicies storageaccounts/inventorypolicies storageaccounts/encryptionscopes"
            " storageaccounts/localusers storageaccounts/objectreplicationpolicies"
            " storageaccounts/privateendpointconnections deletedaccounts operations skus storagetasks"
        ),
        "microsoft.operationalinsights": (
            "workspaces workspaces/dataexports workspaces/datasources workspaces/linkedservices"
            " workspaces/linkedstorageaccounts workspaces/savedsearches workspaces/storageinsightconfigs"
            " workspaces/tables workspaces/query clusters deletedworkspaces operations querypacks storageinsightconfigs"
        ),
        "microsoft.resources": (
            "deploymentscripts deploymentstacks templatespecs templatespecs/versions tags changes links"
            " notifyresourcejobs providers resources operationresults checkpolicycompliance bulkdelete"
        ),
    }.items()
    for name in names.split()
)
_REGISTERING_SECONDS = 1.0


class Namespaces:
    """The providers and the state of their registration. All are registered until a client unregisters them."""

    def __init__(self, cloud: Cloud, providers: Sequence[Provider]) -> None:
        self._cloud = cloud
        self.providers = {provider.namespace.lower(): provider for provider in providers}
        self._types = {one.type.lower(): one for provider in providers for one in provider.types.values()}

    def provider(self, namespace: str) -> Provider:
        """Raises AzureError when there is none, NotEmulated when only Azure has it."""
        provider = self.providers.get(namespace.lower())
        if provider is None:
            if namespace.lower().startswith("microsoft."):
                raise NotEmulated(f"the resource provider {namespace}")
            raise AzureError(
                404,
                "InvalidResourceNamespace",
                f"The resource namespace '{namespace}' is invalid.",
                from_gateway=True,
            )
        return provider

    def known(self, resource_type: str) -> ResourceType | None:
        """The type with that name (Microsoft.App/containerApps), if it is emulated."""
        return self._types.get(resource_type.lower())

    def type(self, resource_type: str, api_version: str, location: str | None = None) -> ResourceType:
        """The type at that API version. `location` is that of the resource, if known: Azure then words it otherwise.

        Raises AzureError when there is no such type or version, NotEmulated when only Azure has it.
        """
        found = self.known(resource_type)
        namespace, _, name = resource_type.partition("/")
        if found is None:
            self.provider(namespace)
            raise self.no_such_type(resource_type, api_version)
        if api_version.lower() in found.api_versions:
            return found
        if location:
            raise AzureError(
                400,
                "NoRegisteredProviderFound",
                f"No registered resource provider found for location '{location}' and API version '{api_version}' for"
                f" type '{name}'. The supported api-versions are '{', '.join(sorted(found.api_versions))}'. The"
                f" supported locations are '{', '.join(region for region, _, _ in REGIONS)}'.",
                from_gateway=True,
            )
        raise AzureError(
            404,
            "InvalidResourceType",
            f"The resource type '{name}' could not be found in the namespace '{namespace}' for api version"
            f" '{api_version}'. The supported api-versions are '{','.join(sorted(found.api_versions))}'.",
            from_gateway=True,
        )

    @staticmethod
    def no_such_type(resource_type: str, api_version: str) -> AzureError:
        """What to raise for a type that is not emulated."""
        if resource_type.lower() in _IN_AZURE:
            return NotEmulated(f"the resource type {resource_type}")
        namespace = resource_type.partition("/")[0]
        return AzureError(
            404,
            "InvalidResourceType",
            f"The resource type could not be found in the namespace '{namespace}' for api version '{api_version}'.",
            from_gateway=True,
        )

    def check_registered(self, namespace: str) -> None:
        """Raises AzureError MissingSubscriptionRegistration."""
        if self.state(namespace) != "Registered":
            message = (
                f"The subscription is not registered to use namespace '{namespace}'. See https://aka.ms/rps-not-found"
                " for how to register subscriptions."
            )
            code = "MissingSubscriptionRegistration"
            detail = AzureError(409, code, message, target=namespace)
            raise AzureError(409, code, message, details=[detail], from_gateway=True)

    def state(self, namespace: str) -> str:
        """Registered, Registering, Unregistering or Unregistered."""
        stored = self._cloud.store.get("provider-registration", namespace.lower())
        if stored is None:
            return "Registered"
        on_the_way = time.time() - stored["since_seconds"] < _REGISTERING_SECONDS
        state: str = stored["state"]
        return state.replace("ered", "ering") if on_the_way else state

    def register(self, namespace: str, registered: bool = True) -> None:
        """Begins to register or to unregister the namespace; registering one that is registered does nothing."""
        wanted = "Registered" if registered else "Unregistered"
        if self.state(namespace) != wanted:
            document = {"state": wanted, "since_seconds": time.time()}
            self._cloud.store.put("provider-registration", namespace.lower(), document)

    def register_now(self, namespace: str) -> None:
        """Registers without delay: what a template deployment does for the types that it uses."""
        if self.state(namespace) != "Registered":
            self._cloud.store.delete("provider-registration", namespace.lower())

    def shown(self, namespace: str, within_subscription: bool = True) -> dict[str, Any]:
        """The document of GET /subscriptions/S/providers/NAMESPACE."""
        prefix = f"/subscriptions/{self._cloud.subscription}" if within_subscription else ""
        if namespace.lower() == RESOURCES.lower():
            name, types = RESOURCES, [_type(one, RESOURCES_API_VERSIONS, "None") for one in _RESOURCES_TYPES]
        else:
            provider = self.provider(namespace)
            name = provider.namespace
            types = []
            for one in provider.types.values():
                own = one.type.split("/", 1)[1]
                capabilities = "None" if "/" in own else "SupportsTags, SupportsLocation"
                types.append(_type(own, one.api_versions, capabilities))
        document = {"id": f"{prefix}/providers/{name}", "namespace": name, "resourceTypes": types}
        if within_subscription:
            free = name == RESOURCES
            document["registrationState"] = "Registered" if free else self.state(name)
            document["registrationPolicy"] = "RegistrationFree" if free else "RegistrationRequired"
        return document

    def listed(self, within_subscription: bool = True) -> list[dict[str, Any]]:
        """All of them, Microsoft.Resources among them."""
        names = sorted([RESOURCES, *(provider.namespace for provider in self.providers.values())])
        return [self.shown(name, within_subscription) for name in names]


def check_resources_api_version(api_version: str) -> None:
    """Raises AzureError when Microsoft.Resources has no such API version."""
    if api_version not in RESOURCES_API_VERSIONS:
        raise AzureError(
            400,
            "InvalidApiVersionParameter",
            f"The api-version '{api_version}' is invalid. The supported versions are"
            f" '{','.join(RESOURCES_API_VERSIONS)}'.",
            from_gateway=True,
        )


def _type(name: str, api_versions: Sequence[str], capabilities: str) -> dict[str, Any]:
    newest_first = sorted(api_versions, reverse=True)
    stable = [version for version in newest_first if not version.endswith("preview")]
    return {
        "resourceType": name,
        "locations": [display for _, display, _ in REGIONS],
        "apiVersions": newest_first,
        "defaultApiVersion": (stable or newest_first)[0],
        "capabilities": capabilities,
    }

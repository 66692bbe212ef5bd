"""Managed environments and their storages: state and rules.

An environment here is a name with settings; it runs nothing.
"""

from __future__ import annotations

import asyncio
import copy
import hashlib
import random
import re
from collections.abc import Callable, Sequence
from typing import Any

from infra.emulator.containerapps import answers
from infra.emulator.containerapps.documents import merge
from infra.emulator.containerapps.locations import display_name, region_name
from infra.emulator.containerapps.pace import Pace
from infra.emulator.containerapps.profiles import PROFILE_TYPES, check_environment
from infra.emulator.containerapps.shapes import BOOLEAN, FREE, IGNORED, INTEGER, TEXT, ListOf, Shape, choice, take
from infra.emulator.containerapps.tokens import Tokens
from infra.emulator.exceptions import AzureError, NotEmulated
from infra.emulator.operations import FAILED, SUCCEEDED, Operation
from infra.emulator.provider import Answer, Call, Cloud, ResourceType, system_data
from infra.emulator.resource_id import ResourceId

_SWITCH = Shape("Enabled", {"enabled": BOOLEAN})
ENVIRONMENT = Shape(
    "ManagedEnvironment",
    {
        "id": IGNORED,
        "name": IGNORED,
        "type": IGNORED,
        "systemData": IGNORED,
        "resourceGroup": IGNORED,
        "location": TEXT,
        "tags": FREE,
        "kind": TEXT,
        "identity": FREE,
        "properties": Shape(
            "ManagedEnvironmentProperties",
            {
                "provisioningState": IGNORED,
                "daprAIInstrumentationKey": TEXT,
                "daprAIConnectionString": TEXT,
                "vnetConfiguration": FREE,
                "deploymentErrors": IGNORED,
                "defaultDomain": IGNORED,
                "staticIp": IGNORED,
                "appLogsConfiguration": Shape(
                    "AppLogsConfiguration",
                    {
                        "destination": TEXT,
                        "logAnalyticsConfiguration": Shape(
                            "LogAnalyticsConfiguration", {"customerId": TEXT, "sharedKey": TEXT}
                        ),
                    },
                ),
                "openTelemetryConfiguration": FREE,
                "zoneRedundant": BOOLEAN,
                "kedaConfiguration": IGNORED,
                "daprConfiguration": IGNORED,
                "ingressConfiguration": FREE,
                "eventStreamEndpoint": IGNORED,
                "customDomainConfiguration": Shape(
                    "CustomDomainConfiguration",
                    {
                        "customDomainVerificationId": IGNORED,
                        "dnsSuffix": TEXT,
                        "certificateKeyVaultProperties": FREE,
                        "certificateValue": TEXT,
                        "certificatePassword": TEXT,
                        "thumbprint": IGNORED,
                        "subjectName": IGNORED,
                        "expirationDate": IGNORED,
                    },
                ),
                "workloadProfiles": ListOf(
                    Shape(
                        "WorkloadProfile",
                        {
                            "workloadProfileType": TEXT,
                            "name": TEXT,
                            "minimumCount": INTEGER,
                            "maximumCount": INTEGER,
                            "enableFips": BOOLEAN,
                        },
                    )
                ),
                "appInsightsConfiguration": FREE,
                "infrastructureResourceGroup": TEXT,
                "peerAuthentication": Shape("PeerAuthentication", {"mtls": _SWITCH}),
                "peerTrafficConfiguration": Shape("PeerTrafficConfiguration", {"encryption": _SWITCH}),
                "publicNetworkAccess": choice("Enabled", "Disabled"),
                "privateEndpointConnections": IGNORED,
                "privateLinkDefaultDomain": IGNORED,
            },
        ),
    },
)
STORAGE = Shape(
    "ManagedEnvironmentStorage",
    {
        "id": IGNORED,
        "name": IGNORED,
        "type": IGNORED,
        "systemData": IGNORED,
        "resourceGroup": IGNORED,
        "properties": Shape(
            "ManagedEnvironmentStorageProperties",
            {
                "provisioningState": IGNORED,
                "azureFile": Shape(
                    "AzureFileProperties",
                    {
                        "accountName": TEXT,
                        "accountKey": TEXT,
                        "accountKeyVaultProperties": FREE,
                        "shareName": TEXT,
                        "accessMode": choice("ReadOnly", "ReadWrite"),
                    },
                ),
                "nfsAzureFile": FREE,
            },
        ),
    },
)
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9]*(-[A-Za-z0-9]+)*")
_STORAGE_NAME = re.compile(r"[a-z]([a-z0-9]|-(?!-))*(?<!-)")
_NAME_LENGTH, _STORAGE_NAME_LENGTH = 60, 32
# How long the service itself works on a request: a minute or two in the recordings, shortened here.
_WORK_SECONDS = 3.0
_DELETING = "ScheduledForDelete"
_ADJECTIVES = ("ambitious", "bold", "brave", "bright", "calm", "gentle", "happy", "kind", "lively", "proud", "white")
_NOUNS = ("beach", "bush", "coast", "field", "flower", "forest", "hill", "meadow", "ocean", "river", "sky", "tree")
_NULL_IN_2025_07 = ("openTelemetryConfiguration", "ingressConfiguration", "appInsightsConfiguration")


class ManagedEnvironments(ResourceType):
    """Microsoft.App/managedEnvironments."""

    type = "Microsoft.App/managedEnvironments"
    api_versions = answers.API_VERSIONS

    def __init__(
        self, cloud: Cloud, tokens: Tokens, pace: Pace, cores_in_use: Callable[[str], dict[str, float]]
    ) -> None:
        """`cores_in_use` gives, for the id of an environment, the cores (and GPUs) that its replicas hold now."""
        super().__init__(cloud)
        self._tokens = tokens
        self._pace = pace
        self._cores_in_use = cores_in_use

    async def put(self, call: Call, resource_id: ResourceId, body: dict[str, Any]) -> Answer:
        """201 with Waiting or Updating; 200 when nothing changes."""
        before = self._settled(resource_id)
        document = self._document(call, resource_id, take(body, ENVIRONMENT), before)
        if before is not None and _asked(document) == _asked(before):
            document["properties"]["provisioningState"] = SUCCEEDED
            self.save(resource_id, document)
            return answers.answer(200, self.shown_at(document, call.api_version))
        document["properties"]["provisioningState"] = "Waiting" if before is None else "Updating"
        self.save(resource_id, document)
        operation = self._begin(resource_id)
        return answers.created(
            self.cloud, call, operation, document["location"], self.shown_at(document, call.api_version)
        )

    async def patch(self, call: Call, resource_id: ResourceId, body: dict[str, Any]) -> Answer:
        """202 with Location alone; 200 when nothing changes."""
        self.document(resource_id)
        before = self._settled(resource_id)
        assert before is not None
        writable = {name: value for name, value in before.items() if name != "systemData"}
        document = self._document(call, resource_id, take(merge(writable, body), ENVIRONMENT), before)
        if _asked(document) == _asked(before):
            return answers.answer(200, self.shown_at(before, call.api_version))
        document["properties"]["provisioningState"] = "Updating"
        self.save(resource_id, document)
        return answers.deleted(self.cloud, call, self._begin(resource_id), document["location"])

    async def get(self, call: Call, resource_id: ResourceId) -> Answer:
        """The environment as the API version shows it."""
        return answers.answer(200, self.shown_at(self.document(resource_id), call.api_version))

    async def list(self, call: Call, within: str) -> Answer:
        """All environments of a group or of the subscription."""
        answer = await super().list(call, within)
        return answers.answer(
            200, {"value": [self.shown_at(document, call.api_version) for document in answer.body["value"]]}
        )

    async def delete(self, call: Call, resource_id: ResourceId) -> Answer:
        """202; 204 when there is none. Refused while it holds apps."""
        document = self.cloud.store.get("resource", resource_id.key)
        if document is None:
            return answers.answer(204)
        apps = [
            app["name"]
            for _, app in self.cloud.store.items("resource", "/subscriptions/")
            if app["type"] == "Microsoft.App/containerApps"
            and app["properties"]["environmentId"].lower() == resource_id.key
        ]
        if apps:
            # The code is that of builders (ManagedEnvironmentHasBuilders), said of apps.
            raise AzureError(
                409,
                "ManagedEnvironmentHasContainerApps",
                f"The specified environment {resource_id.name} cannot be deleted because it still contains"
                f" {len(apps)} ContainerApps.",
            )
        document["properties"]["provisioningState"] = _DELETING
        self.save(resource_id, document)
        return answers.deleted(self.cloud, call, self._begin_deletion(resource_id), document["location"])

    async def action(self, call: Call, resource_id: ResourceId, action: str, body: Any) -> Answer:
        """getAuthtoken, workloadProfileStates, usages."""
        document = self.document(resource_id)
        verb = action.lower()
        if verb == "getauthtoken":
            return answers.answer(200, self._tokens.issue(resource_id, document))
        if verb == "workloadprofilestates":
            return answers.answer(200, {"value": _profile_states(document)})
        if verb == "usages":
            return Answer(200, {"value": self._usages(resource_id)})
        raise NotEmulated(f"{self.type}/{action}")

    def preflight(self, resource_id: ResourceId, body: dict[str, Any]) -> None:
        """Name, shape and profiles."""
        taken = take(body, ENVIRONMENT)
        _check_name(resource_id.name)
        check_environment((taken.get("properties") or {}).get("workloadProfiles") or [], taken.get("location") or "")

    def resume(self) -> None:
        """Takes up what was going on when the stand-in ended."""
        for _, document in self.cloud.store.items("resource", "/subscriptions/"):
            if document["type"] != self.type or document["properties"]["provisioningState"] in (SUCCEEDED, FAILED):
                continue
            is_deletion = document["properties"]["provisioningState"] == _DELETING
            (self._begin_deletion if is_deletion else self._begin)(ResourceId.parse(document["id"]))

    def _begin(self, resource_id: ResourceId) -> Operation:
        """Starts the work of a PUT or PATCH."""
        return self.cloud.operations.begin(answers.ENVIRONMENT_STATUSES, str(resource_id), self._settle(resource_id))

    def _begin_deletion(self, resource_id: ResourceId) -> Operation:
        """Starts the work of a DELETE."""
        return self.cloud.operations.begin(answers.ENVIRONMENT_RESULTS, str(resource_id), self._remove(resource_id))

    async def _settle(self, resource_id: ResourceId) -> None:
        await asyncio.sleep(self._pace.quick(_WORK_SECONDS))
        document = self.document(resource_id)
        document["properties"]["provisioningState"] = SUCCEEDED
        self.save(resource_id, document)

    async def _remove(self, resource_id: ResourceId) -> None:
        await asyncio.sleep(self._pace.quick(_WORK_SECONDS))
        self.remove(resource_id)

    def _settled(self, resource_id: ResourceId) -> dict[str, Any] | None:
        """What is there, unless something is going on with it."""
        document: dict[str, Any] | None = self.cloud.store.get("resource", resource_id.key)
        if document is not None and document["properties"]["provisioningState"] not in (SUCCEEDED, FAILED):
            raise AzureError(
                409,
                "ManagedEnvironmentOperationInProgress",
                f"Cannot modify Container Apps environment {resource_id.name} because another operation is in"
                " progress.",
            )
        return document

    def _document(
        self, call: Call, resource_id: ResourceId, taken: dict[str, Any], before: dict[str, Any] | None
    ) -> dict[str, Any]:
        """The environment that a request asks for, with what the service puts in. Raises AzureError."""
        _check_name(resource_id.name)
        asked = taken.get("properties") or {}
        had = before["properties"] if before else {}
        location = taken.get("location") or (before or {}).get("location") or ""
        if before and region_name(location) != region_name(before["location"]):
            raise AzureError(
                409,
                "InvalidResourceLocation",
                f"The resource '{resource_id.name}' already exists in location '{before['location']}' in resource"
                f" group '{resource_id.resource_group}'. A resource with the same name cannot be created in location"
                f" '{location}'. Please select a new resource name.",
                from_gateway=True,
            )
        for name in (
            "vnetConfiguration",
            "openTelemetryConfiguration",
            "ingressConfiguration",
            "appInsightsConfiguration",
        ):
            if asked.get(name):
                raise NotEmulated(f"{self.type} with {name}")
        if (asked.get("customDomainConfiguration") or {}).get("dnsSuffix"):
            raise NotEmulated(f"{self.type} with a custom domain")
        if ((taken.get("identity") or {}).get("type") or "None") != "None":
            raise NotEmulated(f"{self.type} with an identity")
        if had.get("workloadProfiles") and not asked.get("workloadProfiles"):
            raise AzureError(400, "WorkloadProfileCannotRemoveAll", "At least 1 workload profile must be specified.")
        profiles = asked.get("workloadProfiles")
        logs = asked.get("appLogsConfiguration") or {}
        workspace = logs.get("logAnalyticsConfiguration")
        domain = had.get("defaultDomain") or _domain(str(resource_id), location)
        properties = {
            "provisioningState": SUCCEEDED,
            "daprAIInstrumentationKey": None,
            "daprAIConnectionString": None,
            "vnetConfiguration": None,
            "defaultDomain": domain,
            "staticIp": "127.0.0.1",
            "appLogsConfiguration": {
                "destination": logs.get("destination"),
                "logAnalyticsConfiguration": workspace
                and {"customerId": workspace.get("customerId"), "sharedKey": None},
            },
            "openTelemetryConfiguration": None,
            "zoneRedundant": bool(asked.get("zoneRedundant")),
            "kedaConfiguration": {"version": "2.17.2"},
            "daprConfiguration": {"version": "1.13.6-msft.6"},
            "ingressConfiguration": None,
            "eventStreamEndpoint": f"{self.cloud.base_url}/subscriptions/{resource_id.subscription}/resourceGroups"
            f"/{resource_id.resource_group}/managedEnvironments/{resource_id.name}/eventstream",
            "customDomainConfiguration": {
                "customDomainVerificationId": verification_id(resource_id.subscription),
                **dict.fromkeys(
                    (
                        "dnsSuffix",
                        "certificateKeyVaultProperties",
                        "certificateValue",
                        "certificatePassword",
                        "thumbprint",
                        "subjectName",
                        "expirationDate",
                    )
                ),
            },
            "workloadProfiles": check_environment(profiles, location) if profiles else None,
            "appInsightsConfiguration": None,
            "infrastructureResourceGroup": asked.get("infrastructureResourceGroup"),
            "peerAuthentication": {"mtls": {"enabled": _enabled(asked.get("peerAuthentication"), "mtls")}},
            "peerTrafficConfiguration": {
                "encryption": {"enabled": _enabled(asked.get("peerTrafficConfiguration"), "encryption")}
            },
            "publicNetworkAccess": asked.get("publicNetworkAccess") or "Enabled",
        }
        document = {
            "id": before["id"] if before else str(resource_id),
            "name": before["name"] if before else resource_id.name,
            "type": self.type,
            "location": display_name(location),
        }
        if taken.get("tags"):
            document["tags"] = taken["tags"]
        return document | {
            "systemData": system_data(call.principal, before["systemData"] if before else None),
            "properties": properties,
        }

    def shown_at(self, document: dict[str, Any], api_version: str) -> dict[str, Any]:
        """The environment as an API version shows it: what came with 2025-07-01 is absent before."""
        if api_version >= "2025-07-01":
            return document
        older = copy.deepcopy(document)
        properties = older["properties"]
        for name in (*_NULL_IN_2025_07, "publicNetworkAccess"):
            properties.pop(name, None)
        properties["customDomainConfiguration"].pop("certificateKeyVaultProperties", None)
        for profile in properties["workloadProfiles"] or []:
            profile.pop("enableFips", None)
        return older

    def _usages(self, resource_id: ResourceId) -> Sequence[dict[str, Any]]:
        """Quota names: learn.microsoft.com/azure/container-apps/quotas; limits are the recorded defaults."""
        in_use = self._cores_in_use(resource_id.key)
        return [
            usage(name, words, in_use.get(name, 0), limit)
            for name, words, limit in (
                ("ManagedEnvironmentGeneralPurposeCores", "Managed Environment General Purpose Cores", 100),
                ("ManagedEnvironmentMemoryOptimizedCores", "Managed Environment Memory Optimized Cores", 50),
                ("ManagedEnvironmentConsumptionCores", "Managed Environment Consumption Cores", 100),
                ("ManagedEnvironmentConsumptionNCA100Gpus", "Managed Environment Consumption NCA100 Gpus", 1),
                ("ManagedEnvironmentConsumptionT4Gpus", "Managed Environment Consumption T4 Gpus", 1),
            )
        ]


class ManagedEnvironmentStorages(ResourceType):
    """Microsoft.App/managedEnvironments/storages: a file share that apps of the environment may mount.

    The account key is taken and not kept: a mount here is a local folder, which needs none.
    """

    type = "Microsoft.App/managedEnvironments/storages"
    api_versions = answers.API_VERSIONS

    async def put(self, call: Call, resource_id: ResourceId, body: dict[str, Any]) -> Answer:
        """200, at once."""
        self._environment(resource_id)
        properties = self._properties(resource_id, body)
        document = {
            "id": str(resource_id),
            "name": resource_id.name,
            "type": "Microsoft.App/managedenvironments/storages",
            "properties": properties,
        }
        self.save(resource_id, document)
        return answers.answer(200, document)

    async def get(self, call: Call, resource_id: ResourceId) -> Answer:
        """One storage, without its key."""
        return answers.answer(200, self.document(resource_id))

    async def list(self, call: Call, within: str) -> Answer:
        """All storages of an environment."""
        self._environment(ResourceId.parse(within).child("storages", "any"))
        return answers.answer(200, (await super().list(call, within)).body)

    async def delete(self, call: Call, resource_id: ResourceId) -> Answer:
        """200; 204 when there is none."""
        return answers.answer((await super().delete(call, resource_id)).status)

    def document(self, resource_id: ResourceId) -> dict[str, Any]:
        """The stored document. Raises the provider's own 404."""
        document: dict[str, Any] | None = self.cloud.store.get("resource", resource_id.key)
        if document is None:
            self._environment(resource_id)
            raise AzureError(
                404,
                "ManagedEnvironmentStorageNotFound",
                f"ManagedEnvironment Storage '{resource_id.name}' was not found.",
            )
        return document

    def preflight(self, resource_id: ResourceId, body: dict[str, Any]) -> None:
        """Name and shape."""
        self._properties(resource_id, body)

    def _properties(self, resource_id: ResourceId, body: dict[str, Any]) -> dict[str, Any]:
        name = resource_id.name
        if not _STORAGE_NAME.fullmatch(name) or len(name) > _STORAGE_NAME_LENGTH:
            raise AzureError(
                400,
                "ManagedEnvironmentStorageInvalidName",
                f"Invalid storage name '{name}'. A name must consist of lower case alphanumeric characters or '-',"
                " start with an alphabetic character, and end with an alphanumeric character and cannot have '--'. The"
                f" length must not be more than {_STORAGE_NAME_LENGTH} characters.",
            )
        properties = take(body, STORAGE).get("properties") or {}
        if properties.get("nfsAzureFile"):
            raise NotEmulated(f"{self.type} with nfsAzureFile")
        file = properties.get("azureFile") or {}
        if file.get("accountKeyVaultProperties"):
            raise NotEmulated(f"{self.type} with accountKeyVaultProperties")
        missing = [key for key in ("accountName", "accountKey", "shareName", "accessMode") if not file.get(key)]
        if missing:
            raise AzureError(
                400,
                "ManagedEnvironmentStorageInvalidProperties",
                f"Storage '{name}' is missing {', '.join('azureFile.' + key for key in missing)}.",
            )
        return {"azureFile": {key: file[key] for key in ("accountName", "shareName", "accessMode")}}

    def _environment(self, resource_id: ResourceId) -> None:
        parent = resource_id.parent
        assert parent is not None
        if self.cloud.store.get("resource", parent.key) is None:
            raise AzureError(
                404,
                "ParentResourceNotFound",
                "Failed to perform 'write' on resource(s) of type 'managedEnvironments/storages', because the parent"
                f" resource '{parent}' could not be found.",
                from_gateway=True,
            )


def usage(name: str, words: str, current: float, limit: int) -> dict[str, Any]:
    """One element of a list of usages."""
    return {
        "name": {"value": name, "localizedValue": words},
        "usage": current,
        "currentValue": current,
        "limit": limit,
    }


def verification_id(subscription: str) -> str:
    """customDomainVerificationId: the same for everything in a subscription."""
    return hashlib.sha256(subscription.lower().encode()).hexdigest().upper()


def _asked(document: dict[str, Any]) -> tuple[Any, ...]:
    """What a request can change."""
    properties = {name: value for name, value in document["properties"].items() if name != "provisioningState"}
    return document.get("tags"), document["location"], properties


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name) or not 2 <= len(name) <= _NAME_LENGTH:
        raise AzureError(
            400,
            "ManagedEnvironmentInvalidName",
            f"Invalid environment name '{name}'. A name must consist of alphanumeric characters or '-', start with an"
            " alphabetic character, and end with an alphanumeric character and cannot have '--'. The length must be"
            f" between 2 and {_NAME_LENGTH} characters inclusive.",
        )


def _domain(environment_id: str, location: str) -> str:
    """The domain of the environment's apps. It ends in .localhost: here every app is a port of this machine."""
    choose = random.Random(environment_id.lower())  # noqa: S311 (a name, not a secret)
    words = choose.choice(_ADJECTIVES) + choose.choice(_NOUNS)
    return f"{words}-{choose.getrandbits(32):08x}.{region_name(location)}.azurecontainerapps.localhost"


def _enabled(switches: dict[str, Any] | None, name: str) -> bool:
    return bool(((switches or {}).get(name) or {}).get("enabled"))


def _profile_states(document: dict[str, Any]) -> list[dict[str, Any]]:
    states = []
    for profile in document["properties"]["workloadProfiles"] or []:
        shown = {name: value for name, value in profile.items() if name != "enableFips"}
        if not PROFILE_TYPES[profile["workloadProfileType"]].is_consumption:
            shown = {"currentCount": profile.get("minimumCount", 0), **shown}
        states.append(
            {
                "id": f"{document['id']}/workloadProfileStates/{profile['name']}",
                "name": profile["name"],
                "type": profile["workloadProfileType"],
                "properties": shown,
            }
        )
    return states

"""Managed environments: state and operations. An environment here is a name with settings; it runs nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from infra.emulator.containerapps import answers, quotas
from infra.emulator.containerapps import environment_documents as documents
from infra.emulator.containerapps.documents import merge
from infra.emulator.containerapps.pace import Pace
from infra.emulator.containerapps.profiles import PROFILE_TYPES
from infra.emulator.containerapps.shapes import take
from infra.emulator.containerapps.tokens import Tokens
from infra.emulator.exceptions import AzureError, NotEmulated
from infra.emulator.operations import FAILED, SUCCEEDED, Operation
from infra.emulator.provider import Answer, Call, Cloud, ResourceType, system_data
from infra.emulator.resource_id import ResourceId

# How long the service itself works on a request: a minute or two in the recordings, shortened here.
_WORK_SECONDS = 3.0
_DELETING = "ScheduledForDelete"


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
        document = self._document(call, resource_id, take(body, documents.ENVIRONMENT), before)
        if before is None:
            self._check_quota(resource_id, document["location"])
        elif documents.asked_for(document) == documents.asked_for(before):
            document["properties"]["provisioningState"] = SUCCEEDED
            self.save(resource_id, document)
            return answers.answer(200, documents.at_version(document, call.api_version))
        document["properties"]["provisioningState"] = "Waiting" if before is None else "Updating"
        self.save(resource_id, document)
        operation = self._begin(resource_id)
        return answers.created(
            self.cloud, call, operation, document["location"], documents.at_version(document, call.api_version)
        )

    async def patch(self, call: Call, resource_id: ResourceId, body: dict[str, Any]) -> Answer:
        """202 with Location alone; 200 when nothing changes."""
        self.document(resource_id)
        before = self._settled(resource_id)
        assert before is not None
        writable = {name: value for name, value in before.items() if name != "systemData"}
        document = self._document(call, resource_id, take(merge(writable, body), documents.ENVIRONMENT), before)
        if documents.asked_for(document) == documents.asked_for(before):
            return answers.answer(200, documents.at_version(before, call.api_version))
        document["properties"]["provisioningState"] = "Updating"
        self.save(resource_id, document)
        return answers.deleted(self.cloud, call, self._begin(resource_id), document["location"])

    async def get(self, call: Call, resource_id: ResourceId) -> Answer:
        """The environment as the API version shows it."""
        return answers.answer(200, documents.at_version(self.document(resource_id), call.api_version))

    async def list(self, call: Call, within: str) -> Answer:
        """All environments of a group or of the subscription."""
        answer = await super().list(call, within)
        return answers.answer(
            200, {"value": [documents.at_version(document, call.api_version) for document in answer.body["value"]]}
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
        documents.check(resource_id, take(body, documents.ENVIRONMENT), None)

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
        try:
            await self.cloud.faults.hinder(str(resource_id))
        except AzureError as failure:
            document = self.document(resource_id)
            document["properties"] |= {"provisioningState": FAILED, "deploymentErrors": failure.message}
            self.save(resource_id, document)
            raise
        document = self.document(resource_id)
        document["properties"]["provisioningState"] = SUCCEEDED
        self.save(resource_id, document)

    async def _remove(self, resource_id: ResourceId) -> None:
        await asyncio.sleep(self._pace.quick(_WORK_SECONDS))
        try:
            await self.cloud.faults.hinder(str(resource_id))
        except AzureError:
            document = self.document(resource_id)
            document["properties"]["provisioningState"] = FAILED
            self.save(resource_id, document)
            raise
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

    def _check_quota(self, resource_id: ResourceId, location: str) -> None:
        """Words: github.com/microsoft/azure-container-apps issues 429 and 1648."""
        there = [
            document
            for _, document in self.cloud.store.items("resource", "/subscriptions/")
            if document["type"] == self.type and document["location"] == location
        ]
        usual, wanted = quotas.limit(quotas.ENVIRONMENTS), len(there) + 1
        limit = self.cloud.faults.is_missing(quotas.ENVIRONMENTS, str(resource_id), wanted)
        if limit is None and wanted > usual:
            limit = usual
        if limit is not None:
            raise AzureError(
                400,
                "MaxNumberOfRegionalEnvironmentsInSubExceeded",
                f"The subscription '{resource_id.subscription}' cannot have more than {limit} environments in"
                f" {location}.",
            )

    def _document(
        self, call: Call, resource_id: ResourceId, taken: dict[str, Any], before: dict[str, Any] | None
    ) -> dict[str, Any]:
        """The environment that a request asks for. Raises AzureError."""
        documents.check(resource_id, taken, before)
        document = documents.document(resource_id, taken, before, self.cloud.base_url)
        document["systemData"] = system_data(call.principal, before["systemData"] if before else None)
        return document

    def _usages(self, resource_id: ResourceId) -> Sequence[dict[str, Any]]:
        """The quotas of an environment, and what is used of them."""
        in_use = self._cores_in_use(resource_id.key)
        return [
            usage(name, words, in_use.get(name, 0), self.cloud.faults.limit(name, str(resource_id), limit))
            for name, (words, limit) in quotas.OF_AN_ENVIRONMENT.items()
        ]


def usage(name: str, words: str, current: float, limit: int) -> dict[str, Any]:
    """One element of a list of usages."""
    return {
        "name": {"value": name, "localizedValue": words},
        "usage": current,
        "currentValue": current,
        "limit": limit,
    }


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

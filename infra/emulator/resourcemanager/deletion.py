"""Deletes a resource group with everything in it: deployments that go on, resources, the history of deployments."""

from __future__ import annotations

from typing import Any

from infra.emulator.exceptions import AzureError
from infra.emulator.provider import Answer, Call, Cloud
from infra.emulator.resourcemanager.deployments import Deployments
from infra.emulator.resourcemanager.groups import ResourceGroups
from infra.emulator.resourcemanager.jobs import Jobs, as_document, from_document
from infra.emulator.resourcemanager.resources import Resources

_KIND = "resource-group-deletion"


class GroupDeletion:
    """Polled like every work of the resource manager; a restart begins it again."""

    def __init__(
        self, cloud: Cloud, jobs: Jobs, groups: ResourceGroups, resources: Resources, deployments: Deployments
    ) -> None:
        self._cloud, self._jobs, self._groups = cloud, jobs, groups
        self._resources, self._deployments = resources, deployments
        jobs.add(_KIND, self._work)

    def begin(self, call: Call, name: str) -> Answer:
        """202 with the address to poll. Meanwhile the group is there and says Deleting."""
        name = str(self._groups.document(name)["name"])
        self._groups.mark(name, "Deleting")
        scope = f"/subscriptions/{self._cloud.subscription}"
        return self._jobs.begin(_KIND, call, scope, {"group": name, "call": as_document(call)})

    async def _work(self, request: dict[str, Any]) -> Answer:
        name = request["group"]
        # A second request to delete the same group finds nothing more to do.
        if self._groups.exists(name):
            await self._deployments.cancel_all(name)
            try:
                await self._resources.delete_all(from_document(request["call"]), name)
            except AzureError:
                self._groups.mark(name, "Succeeded")
                raise
            with self._cloud.store.transaction():
                self._deployments.forget_all(name)
                self._groups.remove(name)
        return Answer(200)

"""The namespace Microsoft.App: its resource types, what stands under the subscription, and the log streams."""

from __future__ import annotations

import logging
import re
from typing import Any

from aiohttp import web

from infra.emulator.containerapps import answers, environment_documents, logs, processes, quotas
from infra.emulator.containerapps.apps import ContainerApps
from infra.emulator.containerapps.environments import ManagedEnvironments, usage
from infra.emulator.containerapps.locations import region_name
from infra.emulator.containerapps.pace import Pace
from infra.emulator.containerapps.profiles import PROFILE_TYPES
from infra.emulator.containerapps.revision_resources import ContainerAppReplicas, ContainerAppRevisions
from infra.emulator.containerapps.storages import ManagedEnvironmentStorages
from infra.emulator.containerapps.tokens import Tokens
from infra.emulator.containerapps.workload import Workload
from infra.emulator.exceptions import AzureError, NotEmulated
from infra.emulator.provider import Answer, Call, Cloud, Provider, ResourceType
from infra.emulator.resource_id import ResourceId

log = logging.getLogger(__name__)

_STREAM = re.compile(
    r"/subscriptions/(?P<subscription>[^/]+)/resourceGroups/(?P<group>[^/]+)"
    r"/(?P<type>containerApps|managedEnvironments)/(?P<name>[^/]+)"
    r"/(?:eventstream|revisions/(?P<revision>[^/]+)/replicas/(?P<replica>[^/]+)/containers/(?P<container>[^/]+)"
    r"/(?P<what>logstream|exec))/?",
    re.IGNORECASE,
)


class ContainerAppsProvider(Provider):
    """Microsoft.App."""

    namespace = "Microsoft.App"

    def __init__(self, cloud: Cloud, pace: Pace | None = None) -> None:
        self._cloud = cloud
        self._tokens = Tokens()
        pace = pace or Pace()
        self._apps = ContainerApps(cloud, self._tokens, pace)
        self._environments = ManagedEnvironments(cloud, self._tokens, pace, self._apps.cores_in_use)
        all_types: tuple[ResourceType, ...] = (
            self._environments,
            ManagedEnvironmentStorages(cloud),
            self._apps,
            ContainerAppRevisions(cloud, self._apps.workload),
            ContainerAppReplicas(cloud, self._apps.workload),
        )
        self.types = {each.type.lower(): each for each in all_types}

    async def start(self) -> None:
        """Ends what a killed stand-in left behind, and brings the apps back."""
        for replica in processes.end_left_over(self._cloud.store):
            log.warning("ended replica %s, which an earlier stand-in had left behind", replica)
        self._environments.resume()
        await self._apps.start_all()

    async def stop(self) -> None:
        """Ends all processes and listeners."""
        await self._apps.stop_all()

    async def subscription_call(self, call: Call, method: str, rest: tuple[str, ...], body: Any) -> Answer:
        """Polling addresses, usages, the types of workload profiles, the id that verifies custom domains."""
        if method == "GET" and len(rest) >= 3 and rest[0].lower() == "locations":
            location, kind = rest[1], rest[2].lower()
            if len(rest) == 4 and kind.endswith(("operationstatuses", "operationresults")):
                return self._poll(call, location, rest[2], rest[3])
            if len(rest) == 3 and kind == "usages":
                return Answer(200, {"value": self._usages(location)})
            if len(rest) == 3 and kind == "availablemanagedenvironmentsworkloadprofiletypes":
                return answers.answer(200, {"value": self._profile_types(location)})
        if method == "POST" and [word.lower() for word in rest] == ["getcustomdomainverificationid"]:
            return answers.answer(200, environment_documents.verification_id(self._cloud.subscription))
        raise NotEmulated(f"{method} {self.namespace}/{'/'.join(rest)}")

    def handles(self, path: str) -> bool:
        """Whether log_stream() is to answer: the addresses below an eventStreamEndpoint."""
        return _STREAM.fullmatch(path) is not None

    async def log_stream(self, request: web.Request) -> web.StreamResponse:
        """Streams what a container prints, or an app's events, to the bearer of a token of getAuthtoken."""
        try:
            stream = self._stream(request)
        except AzureError as refusal:
            return web.json_response({"error": refusal.as_dict()}, status=refusal.status)
        return await logs.answer(request, stream)

    def pages(self) -> list[dict[str, str]]:
        """Where each app is reached on this machine: name, endpoint (TLS), page (plain http, for a browser)."""
        return list(self._apps.pages())

    def workload(self, app_id: ResourceId) -> Workload:
        """The running side of an app. Raises the 404 of the resource manager."""
        return self._apps.workload(app_id)

    def _stream(self, request: web.Request) -> logs.Stream:
        place = _STREAM.fullmatch(request.path)
        assert place is not None
        is_app = place["type"].lower() == "containerapps"
        type_name = "containerApps" if is_app else "managedEnvironments"
        resource_id = ResourceId(place["subscription"], place["group"], self.namespace, (type_name,), (place["name"],))
        if not self._tokens.opens(request.headers.get("Authorization"), resource_id):
            raise AzureError(401, "Unauthorized", "The token is missing, expired or of another resource.")
        if request.method != "GET" or (place["what"] or "").lower() == "exec":
            raise NotEmulated("a shell in a container")
        if not is_app:
            raise NotEmulated("the log stream of a whole environment")
        workload = self._apps.workload(resource_id)
        if place["replica"] is None:
            return logs.system(workload.events)
        revision = workload.revisions.get(place["revision"])
        live = workload.live(revision.name)
        replicas = [] if live is None else [*live.replicas, *live.ended]
        replica = next((each for each in replicas if each.name.lower() == place["replica"].lower()), None)
        if replica is None or replica.orders.container.lower() != place["container"].lower():
            raise AzureError(
                404, "ContainerNotFound", f"Replica {place['replica']} has no container {place['container']}."
            )
        return logs.console(replica.orders.container, revision.name, replica.name, replica.journal)

    def _poll(self, call: Call, location: str, kind: str, operation_id: str) -> Answer:
        operation = self._cloud.operations.get(operation_id)
        if operation is None or not operation.kind.startswith(("containerapp", "managedEnvironment")):
            raise AzureError(404, "OperationNotFound", f"Operation '{operation_id}' was not found.")
        resource_id = ResourceId.parse(operation.resource_id)
        is_app = operation.kind.startswith("containerapp")

        def resource() -> Any | None:
            if answers.is_deletion(operation):
                return None
            document = self._cloud.store.get("resource", resource_id.key)
            if document is None:
                return None
            show = self._apps.shown_at if is_app else environment_documents.at_version
            return show(document, call.api_version)

        return answers.poll(self._cloud, call, kind, region_name(location), operation, resource)

    def _usages(self, location: str) -> list[dict[str, Any]]:
        environments = [
            document
            for _, document in self._cloud.store.items("resource", "/subscriptions/")
            if document["type"] == ManagedEnvironments.type
            and region_name(document["location"]) == region_name(location)
        ]
        used = {
            quotas.ENVIRONMENTS: len(environments),
            quotas.DEDICATED_GPUS: self._apps.gpus_in_use(location),
        }
        return [
            usage(name, words, used[name], self._cloud.faults.limit(name, f"/locations/{location}", limit))
            for name, (words, limit) in quotas.OF_A_REGION.items()
        ]

    def _profile_types(self, location: str) -> list[dict[str, Any]]:
        shown = []
        for kind in PROFILE_TYPES.values():
            if not kind.offered_in(location):
                continue
            properties: dict[str, Any] = {
                "displayName": kind.display_name,
                "category": kind.category,
                "cores": kind.cores,
                "memoryGiB": kind.memory_gib,
            }
            if kind.gpus:
                properties["gpus"] = kind.gpus
            shown.append(
                {
                    "location": region_name(location),
                    "properties": properties,
                    "id": f"/subscriptions/{self._cloud.subscription}/providers/Microsoft.App"
                    f"/availableManagedEnvironmentsWorkloadProfileTypes/{kind.name}",
                    "name": kind.name,
                    "type": "Microsoft.App/availableManagedEnvironmentsWorkloadProfileTypes",
                }
            )
        return shown

"""Container apps: state, rules, operations. What runs is behind a Workload, what answers behind an Ingress."""

from __future__ import annotations

import asyncio
import copy
import logging
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from infra.emulator import ports as loopback
from infra.emulator.certificate import server_context
from infra.emulator.containerapps import answers, documents, quotas, rules
from infra.emulator.containerapps.environment_documents import verification_id
from infra.emulator.containerapps.ingress import Ingress
from infra.emulator.containerapps.launch import NO_ROOM, CannotStart
from infra.emulator.containerapps.locations import display_name, region_name
from infra.emulator.containerapps.pace import Pace
from infra.emulator.containerapps.profiles import PROFILE_TYPES
from infra.emulator.containerapps.revisions import same_template
from infra.emulator.containerapps.shapes import take
from infra.emulator.containerapps.tokens import Tokens
from infra.emulator.containerapps.workload import Settings, Surroundings, Workload
from infra.emulator.exceptions import AzureError, NotEmulated
from infra.emulator.fault_switch import FaultSwitch
from infra.emulator.operations import FAILED, SUCCEEDED, Operation
from infra.emulator.provider import Answer, Call, Cloud, ResourceType, system_data
from infra.emulator.resource_id import ResourceId

log = logging.getLogger(__name__)

IN_PROGRESS, DELETING = "InProgress", "Deleting"
_SECRETS, _PORTS = "containerapp-secrets", "containerapp-ports"
# How long the service itself works on a request: 4 s at the least in the recordings.
_WORK_SECONDS = 2.0
# SIGTERM to SIGKILL when the whole stand-in stops, which has 8 s.
_STOP_GRACE_SECONDS = 5.0


class ContainerApps(ResourceType):
    """Microsoft.App/containerApps."""

    type = "Microsoft.App/containerApps"
    api_versions = answers.API_VERSIONS

    def __init__(self, cloud: Cloud, tokens: Tokens, pace: Pace) -> None:
        super().__init__(cloud)
        self._tokens = tokens
        self._pace = pace
        self._workloads: dict[str, Workload] = {}
        self._ingresses: dict[str, Ingress] = {}
        self._closed = False

    async def put(self, call: Call, resource_id: ResourceId, body: dict[str, Any]) -> Answer:
        """201 with InProgress; the work goes on."""
        return await self._write(call, resource_id, take(body, documents.APP), self._modifiable(resource_id))

    async def patch(self, call: Call, resource_id: ResourceId, body: dict[str, Any]) -> Answer:
        """202, empty."""
        self.document(resource_id)
        before = self._modifiable(resource_id)
        assert before is not None
        # A null in place of everything changes nothing.
        given = {name: value for name, value in body.items() if name.lower() != "properties" or value is not None}
        merged = documents.merge({name: value for name, value in before.items() if name != "systemData"}, given)
        configuration = merged["properties"].get("configuration")
        changed = (given.get("properties") or {}).get("configuration") or {}
        if configuration is not None and "secrets" not in {name.lower() for name in changed}:
            configuration["secrets"] = self._secrets(resource_id) or None
        answer = await self._write(call, resource_id, take(merged, documents.APP), before)
        assert answer.operation is not None
        return answers.patched(self.cloud, call, answer.operation, before["location"])

    async def get(self, call: Call, resource_id: ResourceId) -> Answer:
        """The app as the API version shows it."""
        return answers.answer(200, self.shown_at(self.document(resource_id), call.api_version))

    async def list(self, call: Call, within: str) -> Answer:
        """All apps of a group or of the subscription."""
        prefix = within.lower().rstrip("/") + "/"
        apps = [document for _, document in self.cloud.store.items("resource", prefix) if document["type"] == self.type]
        return answers.answer(200, {"value": [self.shown_at(document, call.api_version) for document in apps]})

    async def delete(self, call: Call, resource_id: ResourceId) -> Answer:
        """202; 204 when there is none. Ends the processes."""
        document = self.cloud.store.get("resource", resource_id.key)
        if document is None:
            return answers.answer(204)
        document["properties"]["provisioningState"] = DELETING
        self.save(resource_id, document)
        operation = self.cloud.operations.begin(answers.APP_RESULTS, str(resource_id), self._delete_all(resource_id))
        return answers.deleted(self.cloud, call, operation, document["location"])

    async def action(self, call: Call, resource_id: ResourceId, action: str, body: Any) -> Answer:
        """listSecrets, getAuthtoken, start, stop."""
        document = self.document(resource_id)
        verb = action.lower()
        if verb == "listsecrets":
            return answers.answer(200, {"value": self._secrets(resource_id)})
        if verb == "getauthtoken":
            return answers.answer(200, self._tokens.issue(resource_id, document))
        if verb in ("start", "stop"):
            self._modifiable(resource_id)
            return await self._switch(call, resource_id, document, "Running" if verb == "start" else "Stopped")
        raise NotEmulated(f"{self.type}/{action}")

    def preflight(self, resource_id: ResourceId, body: dict[str, Any]) -> None:
        """What can be told although the deployment may still make or change the environment."""
        taken = take(body, documents.APP)
        configuration = (taken.get("properties") or {}).get("configuration") or {}
        rules.check_app(resource_id.name, taken, configuration.get("secrets") or [])
        properties = taken["properties"]
        environment_id = properties.get("environmentId") or properties["managedEnvironmentId"]
        rules.check_before_deployment(taken, self.cloud.store.get("resource", environment_id.lower()))

    def shown(self, document: dict[str, Any]) -> dict[str, Any]:
        """As the newest API version shows it."""
        return self.shown_at(document, answers.API_VERSIONS[-1])

    def shown_at(self, document: dict[str, Any], api_version: str) -> dict[str, Any]:
        """The document with what is known only now, in the service's order of members."""
        resource_id = _app_id(document)
        properties = copy.deepcopy(document["properties"])
        revisions = self.workload(resource_id).revisions
        latest, ready = revisions.latest(), revisions.latest_ready()
        ports = self._ports(resource_id) if properties["configuration"]["ingress"] else None
        if ports and latest:
            properties["configuration"]["ingress"]["fqdn"] = f"127.0.0.1:{ports['tls']}"
        state = properties.pop("provisioningState")
        running = properties.pop("runningStatus", "Running")
        errors = properties.pop("deploymentErrors", None)
        shown = {"provisioningState": state, "runningStatus": running}
        if errors:
            shown["deploymentErrors"] = errors
        for name in ("managedEnvironmentId", "environmentId", "workloadProfileName", "outboundIpAddresses"):
            shown[name] = properties.pop(name)
        shown |= {
            "latestRevisionName": latest.name if latest else "",
            "latestReadyRevisionName": ready.name if ready else "",
            "latestRevisionFqdn": f"{latest.name}.app.localhost:{ports['tls']}" if latest and ports else "",
        }
        shown |= properties
        shown["eventStreamEndpoint"] = self._event_stream(resource_id)
        shown["delegatedIdentities"] = []
        return documents.at_version({**document, "properties": shown}, api_version)

    def workload(self, resource_id: ResourceId) -> Workload:
        """The running side of an app. Raises the 404 of the resource manager when there is no such app."""
        workload = self._workloads.get(resource_id.key)
        if workload is None:
            resource_id = _app_id(self.document(resource_id))
            workload = self._workloads[resource_id.key] = Workload(resource_id, self._surroundings(resource_id))
        return workload

    def cores_in_use(self, environment: str) -> dict[str, float]:
        """By the name of the quota: what the replicas in an environment hold. `environment` is an id in lower case."""
        return self._in_use(lambda app: bool(app["properties"]["environmentId"].lower() == environment))

    def gpus_in_use(self, location: str) -> float:
        """How many dedicated A100s the replicas in a region hold."""
        used = self._in_use(lambda app: region_name(app["location"]) == region_name(location))
        return used.get(quotas.DEDICATED_GPUS, 0)

    def _in_use(self, counts: Callable[[dict[str, Any]], bool]) -> dict[str, float]:
        used: dict[str, float] = {}
        for document in filter(counts, self._all()):
            properties = document["properties"]
            kind = PROFILE_TYPES[self._profile_type(properties)]
            for cores in self.workload(_app_id(document)).cores_of_replicas():
                for quota, taken in quotas.of_replica(kind, cores).items():
                    used[quota] = used.get(quota, 0) + taken
        return used

    def pages(self) -> Sequence[dict[str, str]]:
        """Where each app with ingress is reached on this machine: for programs, and for a person's browser."""
        pages = []
        for document in self._all():
            resource_id = _app_id(document)
            if document["properties"]["configuration"]["ingress"]:
                ports = self._ports(resource_id)
                pages.append(
                    {
                        "name": document["name"],
                        "endpoint": f"https://127.0.0.1:{ports['tls']}",
                        "page": f"http://127.0.0.1:{ports['page']}",
                    }
                )
        return pages

    async def start_all(self) -> None:
        """After a restart of the stand-in: the apps come back, and unfinished work is done."""
        for document in self._all():
            resource_id = _app_id(document)
            state = document["properties"]["provisioningState"]
            if state == DELETING:
                self.cloud.operations.begin(answers.APP_RESULTS, str(resource_id), self._delete_all(resource_id))
                continue
            workload = self.workload(resource_id)
            await self._arrange_ingress(resource_id)
            workload.start()
            if state == IN_PROGRESS:
                self._begin(resource_id)

    async def stop_all(self) -> None:
        """Ends all processes and closes all ports within 8 seconds."""
        self._closed = True
        await asyncio.gather(
            *(workload.stop(_STOP_GRACE_SECONDS) for workload in self._workloads.values()),
            *(ingress.stop() for ingress in self._ingresses.values()),
        )

    async def _write(
        self, call: Call, resource_id: ResourceId, taken: dict[str, Any], before: dict[str, Any] | None
    ) -> Answer:
        properties = taken.get("properties") or {}
        secrets = (properties.get("configuration") or {}).get("secrets") or []
        rules.check_app(resource_id.name, taken, secrets)
        environment = self._environment(properties.get("environmentId") or properties["managedEnvironmentId"])
        storages = [
            document["name"]
            for _, document in self.cloud.store.items("resource", environment["id"].lower() + "/storages/")
        ]
        profile = rules.check_in_environment(taken, environment, storages)
        accepted = documents.accepted(taken)
        if before is None and accepted["configuration"]["maxInactiveRevisions"] is None:
            accepted["configuration"]["maxInactiveRevisions"] = 100
        id_text = f"/subscriptions/{resource_id.subscription}/resourceGroups/{resource_id.resource_group}"
        document: dict[str, Any] = {
            # In lower case where the type is not: recorded.
            "id": before["id"] if before else f"{id_text}/providers/Microsoft.App/containerapps/{resource_id.name}",
            "name": before["name"] if before else resource_id.name,
            "type": self.type,
            "location": display_name(taken.get("location") or environment["location"]),
        }
        for name in ("tags", "kind", "managedBy", "extendedLocation"):
            if taken.get(name):
                document[name] = taken[name]
        document["systemData"] = system_data(call.principal, before["systemData"] if before else None)
        document["properties"] = {
            "provisioningState": IN_PROGRESS,
            "managedEnvironmentId": environment["id"],
            "environmentId": environment["id"],
            "workloadProfileName": profile,
            "outboundIpAddresses": ["127.0.0.1"],
            "customDomainVerificationId": verification_id(resource_id.subscription),
            **accepted,
        }
        if before and before["properties"].get("runningStatus") == "Stopped":
            document["properties"]["runningStatus"] = "Stopped"
        document["identity"] = documents.identity(taken.get("identity"), document["id"], self.cloud.tenant)
        with self.cloud.store.transaction():
            self.save(resource_id, document)
            kept = [{name: secret[name] for name in ("name", "value")} for secret in secrets]
            self.cloud.store.put(_SECRETS, resource_id.key, kept)
        operation = self._begin(resource_id)
        shown = copy.deepcopy(document)
        shown["properties"]["delegatedIdentities"] = []
        shown["systemData"]["lastModifiedAt"] += "Z"
        if before is None:
            shown["systemData"]["createdAt"] += "Z"
        return answers.created(
            self.cloud, call, operation, document["location"], documents.at_version(shown, call.api_version)
        )

    def _begin(self, resource_id: ResourceId) -> Operation:
        return self.cloud.operations.begin(answers.APP_STATUSES, str(resource_id), self._settle(resource_id))

    async def _settle(self, resource_id: ResourceId) -> None:
        """Defaults, and a new revision if the template is another one. Succeeded does not mean that it is ready."""
        await self._work()
        hindered = await self._hindered(resource_id)
        document = self.document(resource_id)
        accepted = document["properties"]
        settled = documents.settled(accepted)
        template = settled["template"]
        workload = self.workload(resource_id)
        try:
            if hindered is not None:
                raise hindered
            with self.cloud.store.transaction():
                latest = workload.revisions.latest()
                suffix = template["revisionSuffix"]
                if (
                    latest is None
                    or not same_template(latest.template, template)
                    or (suffix and latest.name != f"{resource_id.name}--{suffix}")
                ):
                    shown = documents.revision_template(template, accepted["template"]["scale"])
                    workload.revisions.create(template, shown)
                settled["provisioningState"] = SUCCEEDED
                settled.pop("deploymentErrors", None)
                self.save(resource_id, document | {"properties": settled})
        except AzureError as failure:
            accepted["provisioningState"] = FAILED
            accepted["deploymentErrors"] = f"ErrorCode: {failure.code}, Message: {failure.message}"
            self.save(resource_id, document)
            raise
        await self._arrange_ingress(resource_id)
        if not workload.is_started:
            workload.start()
        workload.changed()

    async def _work(self) -> None:
        """The time that the service takes. It never ends once the stand-in stops: the next start begins anew."""
        await asyncio.sleep(self._pace.quick(_WORK_SECONDS))
        if self._closed:
            await asyncio.Event().wait()

    async def _hindered(self, resource_id: ResourceId) -> AzureError | None:
        """What the fault switch lets the work on an app fail with.

        Raises AzureError when the app is gone by now, or on its way: a change must not bring it back.
        """
        failure: AzureError | None = None
        try:
            await self.cloud.faults.hinder(str(resource_id))
        except AzureError as problem:
            failure = problem
        if self.document(resource_id)["properties"]["provisioningState"] == DELETING:
            raise AzureError(404, "ResourceNotFound", f"The container app '{resource_id.name}' is being deleted.")
        return failure

    async def _switch(self, call: Call, resource_id: ResourceId, document: dict[str, Any], running: str) -> Answer:
        """start and stop: all replicas come back, or end."""

        async def switch() -> None:
            await self._work()
            failure = await self._hindered(resource_id)
            if failure is not None:
                self._set_state(resource_id, {"provisioningState": FAILED})
                raise failure
            self._set_state(resource_id, {"runningStatus": running, "provisioningState": SUCCEEDED})
            workload = self.workload(resource_id)
            workload.changed()

        document["properties"]["provisioningState"] = IN_PROGRESS
        self.save(resource_id, document)
        operation = self.cloud.operations.begin(answers.APP_STATUSES, str(resource_id), switch())
        return answers.patched(self.cloud, call, operation, document["location"])

    def _set_state(self, resource_id: ResourceId, state: dict[str, str]) -> None:
        document = self.document(resource_id)
        document["properties"] |= state
        self.save(resource_id, document)

    async def _delete_all(self, resource_id: ResourceId) -> None:
        """Processes, port, documents."""
        if not self.exists(resource_id):
            return
        try:
            await self.cloud.faults.hinder(str(resource_id))
        except AzureError:
            self._set_state(resource_id, {"provisioningState": FAILED})
            raise
        ingress = self._ingresses.pop(resource_id.key, None)
        if ingress is not None:
            await ingress.stop()
        workload = self.workload(resource_id)
        await workload.stop(_STOP_GRACE_SECONDS)
        with self.cloud.store.transaction():
            for revision in workload.revisions.all():
                workload.revisions.remove(revision)
            for kind in (_SECRETS, _PORTS):
                self.cloud.store.delete(kind, resource_id.key)
            self.remove(resource_id)
        self._workloads.pop(resource_id.key, None)

    def _modifiable(self, resource_id: ResourceId) -> dict[str, Any] | None:
        """What is there, unless something is going on with it."""
        document: dict[str, Any] | None = self.cloud.store.get("resource", resource_id.key)
        if document is not None and document["properties"]["provisioningState"] in (IN_PROGRESS, DELETING):
            raise AzureError(
                409,
                "ContainerAppOperationInProgress",
                f"Cannot modify a container app '{resource_id.name}' because there is an active provisioning operation"
                " in progress.",
            )
        return document

    def _environment(self, environment_id: str) -> dict[str, Any]:
        try:
            resource_id = ResourceId.parse(environment_id)
        except ValueError:
            raise AzureError(
                400, "InvalidManagedEnvironmentId", f"Invalid ManagedEnvironmentId value '{environment_id}'."
            ) from None
        document: dict[str, Any] | None = self.cloud.store.get("resource", resource_id.key)
        if document is None or document["type"].lower() != "microsoft.app/managedenvironments":
            raise AzureError(400, "ManagedEnvironmentNotFound", f"Environment {resource_id.name} was not found.")
        if document["properties"]["provisioningState"] != SUCCEEDED:
            raise AzureError(
                400,
                "ManagedEnvironmentNotProvisioned",
                f"The environment '{environment_id}' has not been provisioned successfully.",
            )
        return document

    def _secrets(self, resource_id: ResourceId) -> Sequence[dict[str, str]]:
        secrets: Sequence[dict[str, str]] = self.cloud.store.get(_SECRETS, resource_id.key) or []
        return secrets

    def _surroundings(self, resource_id: ResourceId) -> Surroundings:
        """What the app's workload asks for, read anew each time."""

        def settings() -> Settings:
            return self._settings(resource_id)

        def secrets() -> dict[str, str]:
            return {secret["name"]: secret["value"] for secret in self._secrets(resource_id)}

        def share_folder(storage: str) -> Path:
            return self._share_folder(resource_id, storage)

        folder = self.cloud.state / "apps" / f"{resource_id.resource_group}-{resource_id.name}".lower()

        def check_quota(cores: float) -> None:
            self._check_quota(resource_id, cores)

        return Surroundings(self.cloud.store, folder, self._pace, settings, secrets, share_folder, check_quota)

    def _check_quota(self, resource_id: ResourceId, cores: float) -> None:
        """Whether one replica more, with so many cores, is within the quotas of cores and GPUs.

        No request is refused for want of them: the replica does not start, and the events say so
        (github.com/microsoft/azure-container-apps issue 1529). Raises CannotStart.
        """
        document = self.document(resource_id)
        properties = document["properties"]
        environment = str(properties["environmentId"])
        in_environment = self.cores_in_use(environment.lower())
        for quota, taken in quotas.of_replica(PROFILE_TYPES[self._profile_type(properties)], cores).items():
            is_regional = quota in quotas.OF_A_REGION
            used = self.gpus_in_use(document["location"]) if is_regional else in_environment.get(quota, 0)
            limit = self.cloud.faults.is_missing(quota, environment, used + taken)
            # A rule may also grant more than usual.
            usual = max(quotas.limit(quota), self.cloud.faults.limit(quota, environment, 0))
            if limit is None and used + taken > usual:
                limit = usual
            if limit is not None:
                what = "GPUs" if quota.endswith("Gpus") else "Cores"
                message = f"Maximum Allowed {what} exceeded for the Managed Environment: {quota} is limited to {limit}"
                raise CannotStart(NO_ROOM, message)

    def _settings(self, resource_id: ResourceId) -> Settings:
        properties = self.document(resource_id)["properties"]
        environment = self._environment_of(properties)
        configuration = properties["configuration"]
        ingress = configuration["ingress"]
        most_inactive = configuration["maxInactiveRevisions"]
        return Settings(
            mode=configuration["activeRevisionsMode"],
            target_port=ingress and ingress["targetPort"],
            port=self._ports(resource_id)["tls"] if ingress else None,
            traffic=tuple((ingress and ingress["traffic"]) or [{"weight": 100, "latestRevision": True}]),
            stopped=properties.get("runningStatus") == "Stopped",
            domain=environment["properties"]["defaultDomain"],
            has_gpu=PROFILE_TYPES[self._profile_type(properties)].gpus > 0,
            most_inactive=100 if most_inactive is None else most_inactive,
        )

    def _environment_of(self, properties: Mapping[str, Any]) -> dict[str, Any]:
        """The environment of an app that is there: it cannot be deleted before the app."""
        environment = self.cloud.store.get("resource", properties["environmentId"].lower())
        assert isinstance(environment, dict)
        return environment

    def _profile_type(self, properties: Mapping[str, Any]) -> str:
        environment = self._environment_of(properties)
        profiles = environment["properties"]["workloadProfiles"] or []
        name = properties["workloadProfileName"]
        return next((str(each["workloadProfileType"]) for each in profiles if each["name"] == name), "Consumption")

    def _share_folder(self, resource_id: ResourceId, storage: str) -> Path:
        """The local folder behind a storage of the app's environment. Raises CannotStart."""
        environment = self.document(resource_id)["properties"]["environmentId"].lower()
        document = self.cloud.store.get("resource", f"{environment}/storages/{storage.lower()}")
        if document is None:
            raise CannotStart("FailedMount", f"Storage {storage} not found under managed environment")
        file = document["properties"]["azureFile"]
        account, share = file["accountName"], file["shareName"]
        if not self.cloud.files.share_exists(account, share):
            raise CannotStart(
                "FailedMount",
                f"MountVolume.MountDevice failed for storage '{storage}': mount error(2): No such file or directory:"
                f" account {account} has no share {share}",
            )
        return self.cloud.files.share_folder(account, share)

    async def _arrange_ingress(self, resource_id: ResourceId) -> None:
        """Opens the app's ports when it has ingress, closes them when it has none."""
        wanted = self.document(resource_id)["properties"]["configuration"]["ingress"] is not None
        ingress = self._ingresses.get(resource_id.key)
        if wanted and ingress is None:
            ports = self._ports(resource_id)
            tls, page = _bound(ports["tls"]), _bound(ports["page"])
            actual = {"tls": tls.getsockname()[1], "page": page.getsockname()[1]}
            if actual != ports:
                log.warning("app %s: its ports %s are taken, it is at %s now", resource_id.name, ports, actual)
                self.cloud.store.put(_PORTS, resource_id.key, actual)
            switch = FaultSwitch(self.cloud.faults)
            ingress = Ingress(resource_id.name, self.workload(resource_id).replica_for, self._pace.idle_seconds, switch)
            context = server_context(self.cloud.certificate, self.cloud.private_key)
            await ingress.start(tls, page, context)
            self._ingresses[resource_id.key] = ingress
        elif not wanted and ingress is not None:
            del self._ingresses[resource_id.key]
            await ingress.stop()

    def _ports(self, resource_id: ResourceId) -> dict[str, int]:
        """The app's two ports, chosen once."""
        ports: dict[str, int] | None = self.cloud.store.get(_PORTS, resource_id.key)
        if ports is None:
            with loopback.bound_to_any() as tls, loopback.bound_to_any() as page:
                ports = {"tls": tls.getsockname()[1], "page": page.getsockname()[1]}
            self.cloud.store.put(_PORTS, resource_id.key, ports)
        return ports

    def _event_stream(self, resource_id: ResourceId) -> str:
        return (
            f"{self.cloud.base_url}/subscriptions/{resource_id.subscription}/resourceGroups"
            f"/{resource_id.resource_group}/containerApps/{resource_id.name}/eventstream"
        )

    def _all(self) -> Sequence[dict[str, Any]]:
        return [doc for _, doc in self.cloud.store.items("resource", "/subscriptions/") if doc["type"] == self.type]


def _app_id(document: Mapping[str, Any]) -> ResourceId:
    """The id with the type as it is elsewhere than in an app's own id."""
    return ResourceId.parse(document["id"].replace("/containerapps/", "/containerApps/"))


def _bound(port: int) -> socket.socket:
    """A socket on that port of loopback, or on another one where it is taken."""
    try:
        return loopback.bound(port)
    except OSError:
        return loopback.bound_to_any()

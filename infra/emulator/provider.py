"""What the resource manager expects of a resource provider: the namespace's calls and its resource types.

The resource manager routes, authorises and answers over HTTP; a provider holds the rules of its resources. Both speak
in `Call` and `Answer`, so that a template deployment and a client's PUT go the same way.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from infra.emulator.exceptions import AzureError, NotEmulated
from infra.emulator.faults import Faults
from infra.emulator.operations import Operation, Operations, timestamp
from infra.emulator.resource_id import ResourceId
from infra.emulator.store import Store

if TYPE_CHECKING:
    from infra.emulator.files import FileService


@dataclass(frozen=True)
class Principal:
    """Who calls: a service principal of the stand-in's one tenant. A reader may not write."""

    client_id: str
    object_id: str
    name: str
    may_write: bool


@dataclass(frozen=True)
class Call:
    """One request as a provider sees it. `query` keys are lower case; `base_url` is where the stand-in is called."""

    principal: Principal
    api_version: str
    base_url: str
    query: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """What goes back: `body` is JSON, None is an empty body. `operation` is what a deployment waits for."""

    status: int
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    operation: Operation | None = None


@dataclass
class Cloud:
    """What every provider works with. `base_url` has no slash at its end."""

    state: Path
    store: Store
    operations: Operations
    files: FileService
    base_url: str
    certificate: Path
    private_key: Path
    subscription: str
    tenant: str
    faults: Faults = field(default_factory=Faults)


class ResourceType(ABC):
    """One resource type: its rules, its defaults, its documents.

    The default methods keep a document {id, name, type, location, tags, properties, ...} per resource in the store
    under kind "resource" and the id in lower case. Every method raises AzureError for what Azure refuses.
    """

    type: ClassVar[str]
    api_versions: ClassVar[tuple[str, ...]]

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud

    @abstractmethod
    async def put(self, call: Call, resource_id: ResourceId, body: dict[str, Any]) -> Answer:
        """Creates or replaces."""

    async def patch(self, call: Call, resource_id: ResourceId, body: dict[str, Any]) -> Answer:
        """Merges `body` into what is there."""
        raise NotEmulated(f"PATCH {self.type}")

    async def get(self, call: Call, resource_id: ResourceId) -> Answer:
        """The resource as the service shows it."""
        return Answer(200, self.shown(self.document(resource_id)))

    async def list(self, call: Call, within: str) -> Answer:
        """All resources of the type below `within`: a subscription, a resource group or a parent resource (its id)."""
        prefix = within.lower().rstrip("/") + "/"
        documents = [document for _, document in self.cloud.store.items("resource", prefix)]
        mine = [document for document in documents if document["type"].lower() == self.type.lower()]
        return Answer(200, {"value": [self.shown(document) for document in mine]})

    async def delete(self, call: Call, resource_id: ResourceId) -> Answer:
        """Removes the resource and its children: 200, or 204 when there was none."""
        if self.cloud.store.get("resource", resource_id.key) is None:
            return Answer(204)
        self.remove(resource_id)
        return Answer(200)

    async def action(self, call: Call, resource_id: ResourceId, action: str, body: Any) -> Answer:
        """POST .../{action}; GET of something that is not a child type comes here too, with body None."""
        raise NotEmulated(f"{self.type}/{action}")

    def preflight(self, resource_id: ResourceId, body: dict[str, Any]) -> None:
        """What the provider checks before a deployment starts (validate, what-if). Raises AzureError."""

    def shown(self, document: dict[str, Any]) -> dict[str, Any]:
        """A stored document as a GET shows it: without secrets, with what is computed on reading."""
        return document

    def document(self, resource_id: ResourceId) -> dict[str, Any]:
        """The stored document. Raises the 404 of the resource manager."""
        document = self.cloud.store.get("resource", resource_id.key)
        if document is None:
            group = resource_id.resource_group
            raise AzureError(
                404,
                "ResourceNotFound",
                f"The Resource '{resource_id.type}/{'/'.join(resource_id.names)}' under resource group '{group}' was"
                " not found. For more details please go to https://aka.ms/ARMResourceNotFoundFix",
                from_gateway=True,
            )
        assert isinstance(document, dict)
        return document

    def exists(self, resource_id: ResourceId) -> bool:
        """Whether the resource is there."""
        return self.cloud.store.get("resource", resource_id.key) is not None

    def save(self, resource_id: ResourceId, document: dict[str, Any]) -> None:
        """Stores the document."""
        self.cloud.store.put("resource", resource_id.key, document)

    def remove(self, resource_id: ResourceId) -> None:
        """Forgets the document and those of its children, together."""
        with self.cloud.store.transaction():
            self.cloud.store.delete("resource", resource_id.key)
            for key, _ in self.cloud.store.items("resource", resource_id.key + "/"):
                self.cloud.store.delete("resource", key)


class Provider(ABC):
    """One namespace, for example Microsoft.App."""

    namespace: ClassVar[str]
    types: Mapping[str, ResourceType]
    """By type in lower case."""

    async def subscription_call(self, call: Call, method: str, rest: tuple[str, ...], body: Any) -> Answer:
        """What stands under /subscriptions/S/providers/NAMESPACE/ and is no list of a type: polling addresses
        (locations/L/...OperationStatuses/ID), usages, checkNameAvailability."""
        raise NotEmulated(f"{method} {self.namespace}/{'/'.join(rest)}")

    async def start(self) -> None:
        """Takes up after a restart of the stand-in what was going on before: unfinished operations, processes."""

    async def stop(self) -> None:
        """Ends what start() and the calls have started (processes, listeners) within 8 seconds."""


def system_data(principal: Principal, before: dict[str, Any] | None) -> dict[str, Any]:
    """systemData of a resource that `principal` has just written; `before` is the one that it had."""
    now = timestamp()
    created = before or {"createdBy": principal.client_id, "createdByType": "Application", "createdAt": now}
    return {
        "createdBy": created["createdBy"],
        "createdByType": created["createdByType"],
        "createdAt": created["createdAt"],
        "lastModifiedBy": principal.client_id,
        "lastModifiedByType": "Application",
        "lastModifiedAt": now,
    }

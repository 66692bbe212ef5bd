"""Resources of any type: what the resource manager checks before a provider is asked, and lists across types."""

from __future__ import annotations

from typing import Any

from infra.emulator import regions, schemas
from infra.emulator.exceptions import AzureError
from infra.emulator.provider import Answer, Call, Cloud, ResourceType
from infra.emulator.resource_id import ResourceId
from infra.emulator.resourcemanager import authorization
from infra.emulator.resourcemanager.filters import matches
from infra.emulator.resourcemanager.groups import ResourceGroups
from infra.emulator.resourcemanager.namespaces import Namespaces

_LISTED = ("sku", "kind", "managedBy", "identity", "location", "tags")


class Resources:
    """Requests on resources, from clients and from deployments alike."""

    def __init__(self, cloud: Cloud, namespaces: Namespaces, groups: ResourceGroups) -> None:
        self._cloud, self._namespaces, self._groups = cloud, namespaces, groups

    async def put(self, call: Call, resource_id: ResourceId, body: Any) -> Answer:
        """Creates or replaces. Raises AzureError."""
        known, resource_id = self._writable(call, resource_id, body)
        self._check_parent(resource_id, "write")
        if _is_tracked(resource_id):
            self._check_location(known, resource_id, body)
        schemas.check(known.type, call.api_version, _object(body))
        authorization.check_links(call.principal, known.type, str(resource_id), self._cloud.subscription, body)
        return await known.put(call, resource_id, body)

    async def patch(self, call: Call, resource_id: ResourceId, body: Any) -> Answer:
        """Merges into what is there. Raises AzureError."""
        known, resource_id = self._writable(call, resource_id, body)
        self._check_parent(resource_id, "write")
        schemas.check(known.type, call.api_version, _object(body), partial=True)
        return await known.patch(call, resource_id, body)

    async def get(self, call: Call, resource_id: ResourceId) -> Answer:
        """The resource as it is. Raises AzureError."""
        known, resource_id = self._readable(call, resource_id)
        if resource_id.parent is not None:
            self._check_ancestor(resource_id.parent)
        return await known.get(call, resource_id)

    async def delete(self, call: Call, resource_id: ResourceId) -> Answer:
        """Removes the resource. Raises AzureError."""
        known, resource_id = self._readable(call, resource_id)
        self._check_parent(resource_id, "delete")
        return await known.delete(call, resource_id)

    async def of_type(self, call: Call, resource_type: str, within: str) -> Answer:
        """All resources of a type in a subscription, group or parent (`within` is its id). Raises AzureError."""
        known = self._namespaces.type(resource_type, call.api_version)
        if "/providers/" in within:
            self._check_ancestor(ResourceId.parse(within))
        return await known.list(call, within)

    async def action(self, call: Call, resource_id: ResourceId, action: str, body: Any) -> Answer:
        """POST of an action, or GET (`body` None) of something below a resource that is no type. Raises AzureError."""
        known, resource_id = self._readable(call, resource_id)
        if resource_id.parent is not None:
            self._check_ancestor(resource_id.parent)
        return await known.action(call, resource_id, action, body)

    def preflight(self, resource_type: str, api_version: str, resource_id: ResourceId, body: dict[str, Any]) -> None:
        """What is checked before a deployment starts. Raises AzureError."""
        location = body.get("location")
        known = self._namespaces.type(resource_type, api_version, location if isinstance(location, str) else None)
        if _is_tracked(resource_id):
            self._check_location(known, resource_id, body)
        known.preflight(resource_id, body)

    def canonical(self, resource_id: ResourceId) -> ResourceId:
        """The id in the casing of Azure's type list and of the group's and the resource's own names."""
        known = self._namespaces.known(resource_id.type)
        group = resource_id.resource_group
        if group is not None and self._groups.exists(group):
            group = str(self._groups.document(group)["name"])
        namespace, types = resource_id.namespace, resource_id.types
        if known is not None:
            namespace, *own = known.type.split("/")
            types = tuple(own)
        result = ResourceId(self._cloud.subscription, group, namespace, types, resource_id.names)
        stored = self._cloud.store.get("resource", result.key)
        if stored is None or not isinstance(stored.get("name"), str):
            return result
        names = (*resource_id.names[:-1], stored["name"].rpartition("/")[2])
        return ResourceId(result.subscription, group, namespace, types, names)

    def listed(self, within: str, query: str = "", expand: str = "") -> list[dict[str, Any]]:
        """The resources with a location below a subscription or group, as .../resources lists them.

        `expand` may name createdTime, changedTime and provisioningState.
        """
        documents = []
        wanted = [name.strip() for name in expand.split(",")]
        for _, document in self._cloud.store.items("resource", within.lower() + "/"):
            known = self._namespaces.known(str(document.get("type")))
            if known is None or known.type.count("/") > 1 or not matches(query, document):
                continue
            shown = known.shown(document)
            entry = {"id": shown["id"], "name": shown["name"], "type": known.type}
            entry |= {key: shown[key] for key in _LISTED if shown.get(key) is not None}
            documents.append(entry | {key: value for key, value in _expanded(shown).items() if key in wanted})
        return documents

    async def delete_all(self, call: Call, group: str) -> None:
        """Deletes what is in a group, whatever refers to others first. Raises the last refusal if some stay.

        A resource that another one still needs refuses to go (409), so the rest is tried again as long as some go.
        """
        while True:
            left = self._inside(group)
            refusal: AzureError | None = None
            for known, resource_id in left:
                try:
                    await self._delete_now(call, known, resource_id)
                except AzureError as problem:
                    refusal = problem
            remaining = self._inside(group)
            if not remaining:
                return
            if len(remaining) == len(left):
                assert refusal is not None, "a provider said that it deleted a resource, and did not"
                raise refusal

    async def _delete_now(self, call: Call, known: ResourceType, resource_id: ResourceId) -> None:
        newest = Call(call.principal, max(known.api_versions), call.base_url)
        await settle(self._cloud, await known.delete(newest, resource_id))

    def _inside(self, group: str) -> list[tuple[ResourceType, ResourceId]]:
        """Top-level resources of a group; one comes before those whose ids stand in its document."""
        prefix = self._groups.id(group).lower() + "/"
        found = []
        for _, document in self._cloud.store.items("resource", prefix):
            known = self._namespaces.known(str(document.get("type")))
            if known is not None and known.type.count("/") == 1:
                found.append((known, ResourceId.parse(document["id"]), str(document).lower()))
        mentioned = {
            resource_id.key: sum(resource_id.key in text for _, other, text in found if other.key != resource_id.key)
            for _, resource_id, _ in found
        }
        found.sort(key=lambda entry: mentioned[entry[1].key])
        return [(known, resource_id) for known, resource_id, _ in found]

    def _readable(self, call: Call, resource_id: ResourceId) -> tuple[ResourceType, ResourceId]:
        self._groups.document(_group(resource_id))
        resource_id = self.canonical(resource_id)
        return self._namespaces.type(resource_id.type, call.api_version), resource_id

    def _writable(self, call: Call, resource_id: ResourceId, body: Any) -> tuple[ResourceType, ResourceId]:
        self._groups.writable(_group(resource_id))
        resource_id = self.canonical(resource_id)
        location = body.get("location") if isinstance(body, dict) else None
        known = self._namespaces.type(resource_id.type, call.api_version, location)
        self._namespaces.check_registered(known.type.partition("/")[0])
        return known, resource_id

    def _check_parent(self, resource_id: ResourceId, verb: str) -> None:
        """A child needs the top-level resource. What lies between (fileServices/default) comes with it."""
        top = _top_level(resource_id)
        if top != resource_id and self._cloud.store.get("resource", top.key) is None:
            raise AzureError(
                404,
                "ParentResourceNotFound",
                f"Failed to perform '{verb}' on resource(s) of type '{'/'.join(resource_id.types)}', because the parent"
                f" resource '{top}' could not be found.",
                from_gateway=True,
            )

    def _check_ancestor(self, resource_id: ResourceId) -> None:
        """Reading what is below a resource needs the top-level one."""
        top = _top_level(resource_id)
        if self._cloud.store.get("resource", top.key) is None:
            message = f"Can not perform requested operation on nested resource. Parent resource '{top.name}' not found."
            raise AzureError(404, "ParentResourceNotFound", message, from_gateway=True)

    def _check_location(self, known: ResourceType, resource_id: ResourceId, body: Any) -> None:
        location = regions.check_for_type(body.get("location") if isinstance(body, dict) else None, known.type)
        stored = self._cloud.store.get("resource", resource_id.key)
        if stored is not None and regions.normalized(str(stored["location"])) != regions.normalized(location):
            raise AzureError(
                409,
                "InvalidResourceLocation",
                f"The resource '{resource_id.name}' already exists in location"
                f" '{regions.normalized(str(stored['location']))}' in resource group '{resource_id.resource_group}'. A"
                f" resource with the same name cannot be created in location '{location}'. Please select a new resource"
                " name.",
                from_gateway=True,
            )


async def settle(cloud: Cloud, answer: Answer) -> None:
    """Waits until what `answer` began has ended. Raises AzureError with the operation's error when it failed."""
    if answer.operation is not None:
        ended = await cloud.operations.wait(answer.operation)
        if ended.error is not None:
            raise error_of(409, ended.error)


def error_of(status: int, document: dict[str, Any]) -> AzureError:
    """The reverse of AzureError.as_dict()."""
    return AzureError(
        status,
        str(document.get("code")),
        str(document.get("message")),
        target=document.get("target"),
        details=[error_of(status, detail) for detail in document.get("details", ())],
        additional_info=document.get("additionalInfo", ()),
    )


def _is_tracked(resource_id: ResourceId) -> bool:
    return len(resource_id.types) == 1


def _group(resource_id: ResourceId) -> str:
    """Every type that is emulated lives in resource groups. Raises AzureError for an id that names none."""
    if resource_id.resource_group is None:
        message = f"The resource '{resource_id}' must be in a resource group: its type is not deployed elsewhere."
        raise AzureError(400, "MissingResourceGroup", message, from_gateway=True)
    return resource_id.resource_group


def _top_level(resource_id: ResourceId) -> ResourceId:
    while resource_id.parent is not None:
        resource_id = resource_id.parent
    return resource_id


def _expanded(document: dict[str, Any]) -> dict[str, Any]:
    """What a list shows on request, as far as the type records it."""
    properties, written = document.get("properties", {}), document.get("systemData", {})
    created = written.get("createdAt") or properties.get("creationTime") or properties.get("createdDate")
    changed = written.get("lastModifiedAt") or properties.get("modifiedDate") or created
    found = {
        "createdTime": created,
        "changedTime": changed,
        "provisioningState": properties.get("provisioningState"),
    }
    return {key: value for key, value in found.items() if value is not None}


def _object(body: Any) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise AzureError(
            400,
            "InvalidRequestContent",
            "The request content was invalid and could not be deserialized: 'The content must be a JSON object. Path"
            " '', line 1, position 1.'.",
            from_gateway=True,
        )
    return body

"""HTTP of the resource manager: who calls, which address is meant, Azure's headers, and its error bodies."""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Sequence
from typing import Any, Protocol
from urllib.parse import unquote

from aiohttp import web

from infra.emulator.exceptions import AzureError, NotEmulated
from infra.emulator.fault_switch import Fault
from infra.emulator.operations import IN_PROGRESS
from infra.emulator.provider import Answer, Call, Cloud, Principal, Provider
from infra.emulator.resource_id import ResourceId
from infra.emulator.resourcemanager import authorization, cloud_metadata, fault_errors, pages
from infra.emulator.resourcemanager.deletion import GroupDeletion
from infra.emulator.resourcemanager.deployments import Deployments
from infra.emulator.resourcemanager.groups import ResourceGroups
from infra.emulator.resourcemanager.jobs import RETRY_AFTER, Jobs
from infra.emulator.resourcemanager.namespaces import RESOURCES, Namespaces, check_resources_api_version
from infra.emulator.resourcemanager.resources import Resources
from infra.emulator.resourcemanager.subscriptions import Subscriptions
from infra.emulator.template.json_text import JsonError, Positions
from infra.emulator.template.json_text import read as read_json

log = logging.getLogger(__name__)

_LARGEST_BODY = 4 * 1024 * 1024
_GROUP = "Microsoft.Resources/subscriptions/resourcegroups"
# What a new caller has left, by kind of request, as recorded.
_REMAINING = {"GET": ("reads", 1099, 16499), "HEAD": ("reads", 1099, 16499), "DELETE": ("deletes", 799, 11999)}
_WRITES = ("writes", 799, 11999)


class Authenticator(Protocol):
    """Who is behind a request's Authorization header."""

    def principal(self, authorization: str | None) -> Principal:
        """Raises AzureError 401."""


class ResourceManager:
    """Everything under /subscriptions, /providers and /tenants, and /metadata/endpoints, which needs no token."""

    def __init__(self, cloud: Cloud, identity: Authenticator, providers: Sequence[Provider]) -> None:
        self._cloud, self._identity, self._providers = cloud, identity, tuple(providers)
        self._jobs = Jobs(cloud.store, cloud.operations, cloud.faults)
        self._subscriptions = Subscriptions(cloud)
        self._namespaces = Namespaces(cloud, providers)
        self._groups = ResourceGroups(cloud)
        self._resources = Resources(cloud, self._namespaces, self._groups)
        self._deployments = Deployments(
            cloud, self._jobs, self._subscriptions, self._namespaces, self._groups, self._resources
        )
        self._deletion = GroupDeletion(cloud, self._jobs, self._groups, self._resources, self._deployments)

    async def start(self) -> None:
        """Starts the providers, then takes up what was going on before: deletions, what-ifs, deployments."""
        for provider in self._providers:
            await provider.start()
        self._jobs.resume()
        self._deployments.resume()

    async def stop(self) -> None:
        """Stops what is going on, which the next start takes up again, and then the providers."""
        await self._deployments.suspend()
        await self._jobs.suspend()
        for provider in self._providers:
            await provider.stop()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answers one request; never raises but when the client is gone."""
        correlation = _correlation(request)
        try:
            answer = await self._answer(request, correlation)
            if request.method == "GET":
                answer = pages.page(answer, request.url)
            status, headers = answer.status, _retry_after(answer) | dict(answer.headers)
            data = None if answer.body is None else _json(answer.body)
        except AzureError as problem:
            return _refusal(request, problem, correlation)
        except Exception:
            # A defect of the stand-in: the client gets Azure's 500, and the log says where.
            log.exception("%s %s", request.method, request.path)
            defect = AzureError(500, "InternalServerError", "The stand-in failed; see its log.")
            return _refusal(request, defect, correlation)
        return _response(request, status, headers, data, correlation)

    def refuse(self, request: web.Request, fault: Fault) -> web.StreamResponse:
        """An error of the fault switch, as the resource manager words it."""
        return _refusal(request, fault_errors.of_fault(fault, request, self._cloud.subscription), _correlation(request))

    async def _answer(self, request: web.Request, correlation: str) -> Answer:
        # Two slashes in a row count as one: clients leave out an empty part of a path.
        segments = [unquote(segment) for segment in request.rel_url.raw_path.split("/") if segment]
        if [segment.lower() for segment in segments] == ["metadata", "endpoints"] and request.method == "GET":
            return Answer(200, cloud_metadata.endpoints(f"{request.scheme}://{request.host}", self._cloud.tenant))
        principal = self._identity.principal(request.headers.get("Authorization"))
        query = {name.lower(): value for name, value in request.query.items()}
        if not query.get("api-version"):
            message = "The api-version query parameter (?api-version=) is required for all requests."
            raise AzureError(400, "MissingApiVersionParameter", message, from_gateway=True)
        call = Call(principal, query["api-version"], f"{request.scheme}://{request.host}", query)
        body, positions = await _read_body(request)
        request_ = _Request(request.method, segments, body, positions, call, correlation)
        first = segments[0].lower() if segments else ""
        if first == "subscriptions":
            return await self._in_subscriptions(request_)
        if first == "tenants" and len(segments) == 1 and request.method == "GET":
            check_resources_api_version(call.api_version)
            return self._subscriptions.tenants()
        if first == "providers":
            return self._in_tenant(request_)
        raise _no_route(request.method, request.path)

    def _in_tenant(self, request: _Request) -> Answer:
        match request.method, request.lower[1:]:
            case "GET", []:
                return Answer(200, {"value": self._namespaces.listed(within_subscription=False)})
            case "GET", [namespace]:
                return Answer(200, self._namespaces.shown(namespace, within_subscription=False))
            case "POST", ["microsoft.resources", "calculatetemplatehash"]:
                return self._deployments.template_hash(request.body)
        raise NotEmulated(f"{request.method} {request.path}: nothing is deployed above subscriptions")

    async def _in_subscriptions(self, request: _Request) -> Answer:
        method, lower = request.method, request.lower
        if len(lower) == 1 and method == "GET":
            check_resources_api_version(request.call.api_version)
            return self._subscriptions.list()
        if len(lower) == 1:
            raise _no_route(method, request.path)
        self._subscriptions.check(request.segments[1])
        match lower[2:]:
            case ["resourcegroups", _, "deployments", *_]:
                return await self._deployment(request, request.segments[3], request.segments[5:])
            case ["deployments", *_]:
                return await self._deployment(request, None, request.segments[3:])
            case ["resourcegroups", _, "providers", _, *_]:
                return await self._in_namespace(request, request.segments[3], request.segments[5:])
            case ["providers", _, *_]:
                return await self._in_namespace(request, None, request.segments[3:])
        check_resources_api_version(request.call.api_version)
        match method, lower[2:]:
            case "GET", []:
                return self._subscriptions.get()
            case "GET", ["locations"]:
                return self._subscriptions.locations()
            case "GET", ["operationresults", job]:
                return self._jobs.poll(job)
            case "GET", ["resources"]:
                return self._listed(request, f"/subscriptions/{self._cloud.subscription}")
            case "GET", ["providers"]:
                return Answer(200, {"value": self._namespaces.listed()})
            case "GET", ["resourcegroups"]:
                return self._groups.list(request.call.query.get("$filter", ""))
            case "GET", ["resourcegroups", group, "resources"]:
                return self._listed(request, self._groups.document(group)["id"])
            case _, ["resourcegroups", _]:
                return self._group(request, request.segments[3])
        raise NotEmulated(f"{method} {request.path}")

    def _group(self, request: _Request, name: str) -> Answer:
        method = request.method
        authorization.check(request.call.principal, authorization.action_of(method, _GROUP), self._groups.id(name))
        if method == "GET":
            return Answer(200, self._groups.document(name))
        if method == "HEAD":
            self._groups.document(name)
            return Answer(204)
        if method == "PUT":
            return self._groups.put(name, request.body)
        if method == "PATCH":
            return self._groups.patch(name, request.body)
        if method == "DELETE":
            return self._deletion.begin(request.call, name)
        raise _not_allowed(method)

    def _listed(self, request: _Request, within: str) -> Answer:
        query = request.call.query
        found = self._resources.listed(within, query.get("$filter", ""), query.get("$expand", ""))
        return Answer(200, {"value": found})

    async def _in_namespace(self, request: _Request, group: str | None, below: list[str]) -> Answer:
        """`below` is what follows .../providers/: a deployment, the provider itself, or its resources."""
        namespace, *tail = below
        words = [word.lower() for word in tail]
        if namespace.lower() == RESOURCES.lower() and words[:1] == ["deployments"]:
            return await self._deployment(request, group, tail[1:])
        if group is None and (not words or words in (["register"], ["unregister"])):
            return self._registration(request, namespace, words)
        if "providers" in words[::2]:
            raise NotEmulated(f"{request.method} {request.path}: resources that extend another resource")
        if namespace.lower() == RESOURCES.lower():
            raise self._namespaces.no_such_type("/".join((RESOURCES, *tail[0::2])), request.call.api_version)
        if not tail:
            raise _no_route(request.method, request.path)
        return await self._resource(request, self._namespaces.provider(namespace), group, tail)

    def _registration(self, request: _Request, namespace: str, rest: list[str]) -> Answer:
        check_resources_api_version(request.call.api_version)
        match request.method, rest:
            case "GET", []:
                return Answer(200, self._namespaces.shown(namespace))
            case "POST", [verb]:
                shown = self._namespaces.shown(namespace)
                scope = f"/subscriptions/{self._cloud.subscription}"
                authorization.check(request.call.principal, f"{shown['namespace']}/{verb}/action", scope)
                self._namespaces.register(namespace, registered=verb == "register")
                return Answer(200, self._namespaces.shown(namespace))
        raise _not_allowed(request.method)

    async def _deployment(self, request: _Request, group: str | None, rest: list[str]) -> Answer:
        check_resources_api_version(request.call.api_version)
        return await self._deployments.handle(
            request.call, request.method, group, rest, request.body, request.positions, request.correlation
        )

    async def _resource(self, request: _Request, provider: Provider, group: str | None, tail: list[str]) -> Answer:
        """The longest known type in `tail` is the resource; one segment after it is a list or an action."""
        call, method = request.call, request.method
        for pairs in range(len(tail) // 2, 0, -1):
            types, names, rest = tuple(tail[0 : 2 * pairs : 2]), tuple(tail[1 : 2 * pairs : 2]), tail[2 * pairs :]
            if self._namespaces.known("/".join((provider.namespace, *types))) is not None:
                resource_id = ResourceId(self._cloud.subscription, group, provider.namespace, types, names)
                return await self._on_resource(request, self._resources.canonical(resource_id), rest)
        if len(tail) == 1 and self._namespaces.known(f"{provider.namespace}/{tail[0]}") is not None:
            if method != "GET":
                raise _not_allowed(method)
            within = f"/subscriptions/{self._cloud.subscription}"
            if group is not None:
                within = self._groups.document(group)["id"]
            return await self._resources.of_type(call, f"{provider.namespace}/{tail[0]}", within)
        if group is not None:
            self._groups.document(group)
            raise self._namespaces.no_such_type("/".join((provider.namespace, *tail[0::2])), call.api_version)
        if method != "GET" and tail[-1].lower() != "checknameavailability":
            action = authorization.action_of(method, "/".join((provider.namespace, *tail[:-1])), tail[-1])
            authorization.check(call.principal, action, f"/subscriptions/{self._cloud.subscription}")
        return await provider.subscription_call(call, method, tuple(tail), request.body)

    async def _on_resource(self, request: _Request, resource_id: ResourceId, rest: list[str]) -> Answer:
        call, method, body = request.call, request.method, request.body
        action = "/".join(rest)
        authorization.check(call.principal, authorization.action_of(method, resource_id.type, action), str(resource_id))
        if rest and method in ("GET", "POST"):
            child = f"{resource_id.type}/{rest[0]}"
            if method == "GET" and len(rest) == 1 and self._namespaces.known(child) is not None:
                return await self._resources.of_type(call, child, str(resource_id))
            return await self._resources.action(
                call, resource_id, action, None if method == "GET" else ({} if body is None else body)
            )
        if rest:
            self._groups.document(resource_id.resource_group or "")
            raise self._namespaces.no_such_type("/".join((resource_id.type, *rest[0::2])), call.api_version)
        if method == "GET":
            return await self._resources.get(call, resource_id)
        if method == "HEAD":
            await self._resources.get(call, resource_id)
            return Answer(204)
        if method == "PUT":
            return await self._resources.put(call, resource_id, body)
        if method == "PATCH":
            return await self._resources.patch(call, resource_id, body)
        if method == "DELETE":
            return await self._resources.delete(call, resource_id)
        raise _not_allowed(method)


class _Request:
    """A request as it is routed: `lower` are its segments in lower case."""

    def __init__(
        self, method: str, segments: list[str], body: Any, positions: Positions, call: Call, correlation: str
    ) -> None:
        self.method, self.segments, self.body, self.positions, self.call = method, segments, body, positions, call
        self.correlation = correlation
        self.lower = [segment.lower() for segment in segments]
        self.path = "/" + "/".join(segments)


def _json(value: Any) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        # Half of a surrogate pair, which JSON can escape and UTF-8 cannot hold.
        return json.dumps(value, separators=(",", ":")).encode()


async def _read_body(request: web.Request) -> tuple[Any, Positions]:
    """The JSON of the body and where its values stand; None when it is empty."""
    parts, size = [], 0
    async for part in request.content.iter_any():
        parts.append(part)
        size += len(part)
        if size > _LARGEST_BODY:
            message = f"The request content size exceeds the maximum size of {_LARGEST_BODY // 1024**2} MB."
            raise AzureError(413, "RequestContentTooLarge", message, from_gateway=True)
    data = b"".join(parts)
    if not data.strip():
        return None, Positions()
    try:
        return read_json(data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        problem = "The content is not UTF-8. Path '', line 0, position 0."
    except JsonError as failure:
        problem = str(failure)
    message = f"The request content was invalid and could not be deserialized: '{problem}'."
    raise AzureError(400, "InvalidRequestContent", message, from_gateway=True)


def _correlation(request: web.Request) -> str:
    return request.headers.get("x-ms-correlation-request-id") or str(uuid.uuid4())


def _refusal(request: web.Request, problem: AzureError, correlation: str) -> web.Response:
    headers = dict(problem.headers)
    if problem.from_gateway:
        headers["x-ms-failure-cause"] = "gateway"
    return _response(request, problem.status, headers, _json({"error": problem.as_dict()}), correlation)


def _response(
    request: web.Request, status: int, headers: dict[str, str], data: bytes | None, correlation: str
) -> web.Response:
    response = web.Response(status=status, headers=_common_headers(request, status, correlation) | headers)
    if data is not None:
        response.body = data
        response.headers.setdefault("Content-Type", "application/json; charset=utf-8")
    return response


def _common_headers(request: web.Request, status: int, correlation: str) -> dict[str, str]:
    request_id = str(uuid.uuid4())
    now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    headers = {
        "Cache-Control": "no-cache",
        "Pragma": "no-cache",
        "Expires": "-1",
        "x-ms-request-id": request_id,
        "x-ms-correlation-request-id": correlation,
        "x-ms-routing-request-id": f"EASTUS:{now}:{request_id}",
        "Strict-Transport-Security": "max-age=31536000; includeSubDomains",
        "X-Content-Type-Options": "nosniff",
    }
    if status < 400:
        kind, own, everyone = _REMAINING.get(request.method, _WRITES)
        headers[f"x-ms-ratelimit-remaining-subscription-{kind}"] = str(own)
        headers[f"x-ms-ratelimit-remaining-subscription-global-{kind}"] = str(everyone)
    client_id = request.headers.get("x-ms-client-request-id")
    if client_id is not None and request.headers.get("x-ms-return-client-request-id", "").lower() == "true":
        headers["x-ms-client-request-id"] = client_id
    return headers


def _retry_after(answer: Answer) -> dict[str, str]:
    """When to ask again about work that goes on, where the provider does not say: clients wait half a minute then."""
    going_on = isinstance(answer.body, dict) and answer.body.get("status") == IN_PROGRESS
    return RETRY_AFTER if going_on or answer.status == 202 or "Azure-AsyncOperation" in answer.headers else {}


def _not_allowed(method: str) -> AzureError:
    message = f"The http method '{method}' is not supported for a resource collection or for this resource."
    return AzureError(405, "HttpMethodNotSupported", message, from_gateway=True)


def _no_route(method: str, path: str) -> AzureError:
    message = f"The request URL '{path}' with method '{method}' is not valid."
    return AzureError(404, "InvalidRequestUrl", message, from_gateway=True)

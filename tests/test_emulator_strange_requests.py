"""Whatever a client sends, the answer is what it asked for or an error with a code, never the 500 of a defect."""

from __future__ import annotations

import copy
import functools
import itertools
import json
import operator
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import RunningStandIn
from tests.resource_manager_client import (
    RESOURCES,
    STORAGE,
    WORKSPACES,
    Arm,
    account,
    arm,
    deployment,
    template,
    unique,
    workspace,
)
from tests.waiting import until

APPS = "2025-07-01"
_GROUP = "/subscriptions/here/resourceGroups/here"
_APP = {
    "location": "eastus",
    "tags": {"a": "b"},
    "properties": {
        "environmentId": f"{_GROUP}/providers/Microsoft.App/managedEnvironments/env",
        "configuration": {
            "activeRevisionsMode": "Single",
            "secrets": [{"name": "key", "value": "secret"}],
            "ingress": {"external": True, "targetPort": 8000, "traffic": [{"weight": 100, "latestRevision": True}]},
        },
        "template": {
            "containers": [
                {
                    "name": "main",
                    "image": "python:3.12",
                    "resources": {"cpu": 0.5, "memory": "1Gi"},
                    "env": [{"name": "KEY", "secretRef": "key"}],
                    "probes": [{"type": "Liveness", "httpGet": {"path": "/health", "port": 8000}}],
                    "volumeMounts": [{"volumeName": "scratch", "mountPath": "/scratch"}],
                }
            ],
            "volumes": [{"name": "scratch", "storageType": "EmptyDir"}],
            "scale": {"minReplicas": 0, "rules": [{"name": "http", "http": {"metadata": {"concurrentRequests": "5"}}}]},
        },
    },
}
_ENVIRONMENT = {
    "location": "eastus",
    "properties": {
        "workloadProfiles": [{"name": "Consumption", "workloadProfileType": "Consumption"}],
        "appLogsConfiguration": {
            "destination": "log-analytics",
            "logAnalyticsConfiguration": {"customerId": "id", "sharedKey": "key"},
        },
    },
}


def _body(declared: dict[str, Any]) -> dict[str, Any]:
    """What a client sends for a resource that a template declares so."""
    return {key: value for key, value in declared.items() if key not in ("type", "apiVersion", "name")}


_TEMPLATE = template(
    [
        account("[parameters('name')]"),
        workspace("logs", dependsOn=["[parameters('name')]"]),
        {"type": "Microsoft.App/managedEnvironments", "apiVersion": APPS, "name": "env", **_ENVIRONMENT},
        {"type": "Microsoft.App/containerApps", "apiVersion": APPS, "name": "app", "dependsOn": ["env"], **_APP},
    ],
    parameters={"name": {"type": "string", "defaultValue": "x"}},
    outputs={"name": {"type": "string", "value": "[parameters('name')]"}},
)
# Path below a group, API version, and a body that is as it should be.
_RESOURCES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("/providers/Microsoft.App/managedEnvironments/env", APPS, _ENVIRONMENT),
    ("/providers/Microsoft.App/containerApps/app", APPS, _APP),
    ("/providers/Microsoft.Storage/storageAccounts/strangeaccount", STORAGE, _body(account("a"))),
    ("/providers/Microsoft.OperationalInsights/workspaces/logs", WORKSPACES, _body(workspace("a"))),
    (
        "/providers/Microsoft.Resources/deployments/strange",
        RESOURCES,
        deployment(_TEMPLATE, parameters={"name": {"value": "strange"}}),
    ),
    ("", RESOURCES, {"location": "eastus", "tags": {"a": "b"}}),
)
_GONE = object()
_STRANGE: tuple[Any, ...] = (None, -1, "[", [], _GONE)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something stands in a body, as the keys that lead there."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield (*path, key)
        yield from places(item, (*path, key))


def with_strange(body: Any, place: tuple[Any, ...], strange: Any) -> Any:
    """The body with that in place of what stands there."""
    changed = copy.deepcopy(body)
    within = functools.reduce(operator.getitem, place[:-1], changed)
    if strange is _GONE:
        del within[place[-1]]
    else:
        within[place[-1]] = strange
    return changed


@pytest.fixture(scope="module")
def manager(stand_in: RunningStandIn) -> Arm:
    return arm(stand_in)


@pytest.fixture(scope="module")
def group(manager: Arm) -> str:
    """With everything that the requests are about, as it should be."""
    group = manager.group()
    for path, version, body in _RESOURCES:
        answer = manager.request("PUT", group + path, _within(group, body), api_version=version)
        assert answer.is_success, answer.text
        _settle(manager, group + path, version)
    return group


def _settle(manager: Arm, address: str, version: str) -> None:
    """Waits until nothing is going on with the resource."""
    until(lambda: manager.get(address, version)["properties"]["provisioningState"] in ("Succeeded", "Failed"), address)


def _within(group: str, body: Any) -> Any:
    return json.loads(json.dumps(body).replace(_GROUP, group))


@pytest.mark.parametrize(("path", "version", "good"), _RESOURCES)
def test_a_body_with_something_strange_in_it(
    manager: Arm, group: str, path: str, version: str, good: dict[str, Any]
) -> None:
    """At every place of it."""
    asks = [("POST", "/validate")] if "deployments" in path else [("PATCH", ""), ("PUT", "")]
    for place, strange, (method, action) in itertools.product(places(good), _STRANGE, asks):
        body = _within(group, with_strange(good, place, strange))
        if strange is None and len(place) <= 2 and not action:
            # While an earlier request is at work, the answer to any other is 409, however strange it is.
            _settle(manager, group + path, version)
        answer = manager.request(method, group + path + action, body, api_version=version)
        what = f"{method} with {strange!r} at {place}: {answer.text}"
        assert answer.status_code < 500 or answer.status_code == 501, what
        if answer.status_code >= 400:
            error = answer.json()["error"]
            assert error["code"] and error["message"], what


_HEADERS = (
    *(("x-ms-type", "file"), ("x-ms-content-length", "10"), ("x-ms-content-length", "-1"), ("x-ms-write", "update")),
    *(("x-ms-write", "clear"), ("x-ms-range", "bytes=0-3"), ("x-ms-range", "bytes=9-1"), ("Range", "bytes=5-")),
    *(("x-ms-lease-action", "acquire"), ("x-ms-lease-action", "break"), ("x-ms-lease-duration", "15")),
    *(("x-ms-lease-id", "no guid"), ("x-ms-proposed-lease-id", "no guid"), ("x-ms-meta-a", "b"), ("x-ms-meta-1", "b")),
    *(("x-ms-file-creation-time", "now"), ("x-ms-file-last-write-time", "9999-99-99"), ("x-ms-share-quota", "0")),
    *(("x-ms-file-attributes", "Strange"), ("x-ms-file-permission-key", "1*2"), ("Content-MD5", "no digest")),
    *(("x-ms-copy-source", "https://127.0.0.1/x/y"), ("x-ms-copy-source", "no address"), ("x-ms-version", "1")),
    *(("x-ms-file-rename-source", "//"), ("x-ms-source-range", "bytes=0-1"), ("x-ms-copy-action", "abort")),
)
_QUERY = (
    *("restype=share", "restype=directory", "restype=service", "comp=list", "comp=range", "comp=metadata", "comp=acl"),
    *("comp=properties", "comp=lease", "comp=rangelist", "comp=rename", "comp=copy", "comp=stats", "comp=listhandles"),
    *(
        "comp=filepermission",
        "comp=snapshot",
        "comp=strange",
        "maxresults=0",
        "marker=strange",
        "prefix=%FF",
        "include=x",
    ),
)
_PATHS = (
    "",
    "/files",
    "/files/file",
    "/files/none/file",
    "/files/%00",
    "/files/%C3%28",
    "/FILES/a",
    "/a" * 260,
)


@pytest.fixture(scope="module")
def share(stand_in: RunningStandIn, manager: Arm, group: str) -> Iterator[tuple[str, dict[str, str]]]:
    """The address of an account with a share and a file in it, and what every request needs."""
    name = f"strange{unique()}"
    path = f"{group}/providers/Microsoft.Storage/storageAccounts/{name}"
    assert manager.poll(manager.request("PUT", path, account(name), api_version=STORAGE)).status_code == 200
    headers = {
        "Authorization": f"Bearer {stand_in.token('https://storage.azure.com')}",
        "x-ms-version": "2026-10-06",
        "x-ms-file-request-intent": "backup",
    }
    address = f"{stand_in.announcement['resource_manager']}/{name}"
    for path, more in (("?restype=share", {}), ("/file", {"x-ms-type": "file", "x-ms-content-length": "10"})):
        assert manager.http.put(f"{address}/files{path}", headers=headers | more).status_code == 201
    yield address, headers


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
@given(
    st.sampled_from(["GET", "HEAD", "PUT", "DELETE", "POST", "PATCH"]),
    st.sampled_from(_PATHS),
    st.lists(st.sampled_from(_QUERY), max_size=2),
    st.lists(st.sampled_from(_HEADERS), max_size=5),
    st.sampled_from([b"", b"0123", b"<a>"]),
)
def test_a_request_to_a_share_that_makes_no_sense(
    manager: Arm,
    share: tuple[str, dict[str, str]],
    method: str,
    path: str,
    query: list[str],
    more: list[tuple[str, str]],
    body: bytes,
) -> None:
    address, headers = share
    answer = manager.http.request(
        method, f"{address}{path}?{'&'.join(query)}", headers=headers | dict(more), content=body
    )
    assert answer.status_code < 500 or answer.status_code == 501, answer.text
    if answer.status_code >= 400:
        code = answer.headers["x-ms-error-code"]
        assert method == "HEAD" or ElementTree.fromstring(answer.content.decode("utf-8-sig")).findtext("Code") == code

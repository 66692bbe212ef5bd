"""A mixed load on a stand-in that may die at any moment, and what must be there when it lives again.

Each load knows what was acknowledged, and the one change whose answer it did not live to see: afterwards the stand-in
has that change whole, or not at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing
import os
import random
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import httpx

from tests.conftest import RunningStandIn
from tests.waiting import until

ACCOUNT, SHARE, GROUP = "killedaccount", "killed", "rg-killed"
_APPS, _RESOURCES, _STORAGE, _WORKSPACES = "2025-07-01", "2025-04-01", "2026-04-01", "2026-03-01"
_ANSWERS_ITS_VALUE = (
    "import http.server, os\n"
    "class Handler(http.server.BaseHTTPRequestHandler):\n"
    "    def do_GET(self):\n"
    "        self.send_response(200)\n"
    "        self.end_headers()\n"
    "        self.wfile.write(os.environ['VALUE'].encode())\n"
    "http.server.HTTPServer(('127.0.0.1', int(os.environ['PORT'])), Handler).serve_forever()\n"
)


def serve(state: str, told: str) -> None:
    """A forked process's whole life: what `python -m infra.emulator` does, its announcement in a file."""
    from infra.emulator.__main__ import main

    for number, path in ((1, told), (2, f"{state}.log")):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, number)
    sys.argv = ["infra.emulator", "--state", state]
    sys.exit(main())


class Process:
    """Stand-ins on one folder, one after the other. They are forked from a process that has imported everything."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["infra.emulator.server", "tests.killed_stand_in"])
        self._process: ForkServerProcess | None = None
        self._lives = 0

    def start(self) -> None:
        """Starts one; announced() waits for it."""
        self._lives += 1
        told = str(self._told)
        self._process = self._context.Process(target=serve, args=(str(self._state), told))
        self._process.start()

    def announced(self) -> dict[str, str]:
        """What it announced once it can be called."""
        end = time.monotonic() + 120
        while not (self._told.exists() and self._told.read_text().endswith("\n")):
            assert self._process is not None and self._process.is_alive() and time.monotonic() < end, self._log()
            time.sleep(0.005)
        announcement: dict[str, str] = json.loads(self._told.read_text())
        return announcement

    def kill(self) -> None:
        """SIGKILL."""
        assert self._process is not None
        self._process.kill()
        self._process.join(10)
        self._process = None

    def end(self) -> None:
        """SIGTERM, for the last one."""
        if self._process is not None:
            self._process.terminate()
            self._process.join(60)
            code = self._process.exitcode
            if code is None:
                self.kill()
            assert code == 0, self._log()

    @property
    def _told(self) -> Path:
        return self._state.parent / f"announcement-{self._lives}.json"

    def _log(self) -> str:
        return Path(f"{self._state}.log").read_text()[-4000:]


class Load:
    """One kind of change, made again and again in a thread of its own until the stand-in is gone."""

    def __init__(self, announcement: dict[str, str], state: Path, seed: int) -> None:
        self.state = state
        self.random = random.Random(seed)
        self.acknowledged = 0
        self.problem: BaseException | None = None
        self.announcement = announcement
        self.subscription = announcement["subscription"]
        trust = ssl.create_default_context(cafile=announcement["certificate"])
        self.http = httpx.Client(base_url=announcement["resource_manager"], verify=trust, timeout=60)
        self._tokens: dict[str, str] = {}
        self._stopping = threading.Event()

    def change(self) -> None:
        """One change: told to the model before it is asked for, and again when it is acknowledged."""
        raise NotImplementedError

    def check(self) -> None:
        """What is there is what was acknowledged, with or without the change that was under way."""
        raise NotImplementedError

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Changes until the block ends, in which the stand-in is killed."""
        self._stopping.clear()
        thread = threading.Thread(target=self._run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stopping.set()
            thread.join(90)
            assert not thread.is_alive()
            if self.problem is not None:
                raise self.problem

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self.change()
        except httpx.TransportError:
            return  # the stand-in is gone
        except BaseException as problem:
            self.problem = problem

    def manage(self, method: str, path: str, api_version: str, body: Any = None) -> httpx.Response:
        """A request to the resource manager; `path` is below the subscription."""
        headers = {"Authorization": f"Bearer {self._token(self.announcement['resource_manager'])}"}
        address = f"/subscriptions/{self.subscription}{path}?api-version={api_version}"
        return self.http.request(method, address, json=body, headers=headers)

    def files(
        self, method: str, path: str, query: str = "", headers: dict[str, str] | None = None, body: bytes = b""
    ) -> httpx.Response:
        """A request to the file service; `path` is below the share."""
        sent = {
            "Authorization": f"Bearer {self._token('https://storage.azure.com')}",
            "x-ms-version": "2026-10-06",
            "x-ms-file-request-intent": "backup",
        }
        address = f"/{ACCOUNT}/{SHARE}{path}" + (f"?{query}" if query else "")
        return self.http.request(method, address, headers=sent | (headers or {}), content=body)

    def _token(self, audience: str) -> str:
        if audience not in self._tokens:
            running = RunningStandIn(self.state, None, self.announcement, self.state)  # type: ignore[arg-type]
            self._tokens[audience] = running.token(audience)
        return self._tokens[audience]


class Files(Load):
    """Writes, replacements, renames of files and directories, deletions. Each file carries the hash of its content in
    its metadata, so that content and properties that do not belong together are seen."""

    def __init__(self, announcement: dict[str, str], state: Path, seed: int) -> None:
        super().__init__(announcement, state, seed)
        self._root = f"/writer-{seed}"
        self._model: dict[str, bytes] = {}
        self._after: dict[str, bytes] | None = None
        for folder in ("", "/one"):
            _expect(self.files("PUT", self._root + folder, "restype=directory"), 201)
        self._folder, self._folder_after = "/one", "/one"

    def change(self) -> None:
        chosen = self.random.random()
        names = sorted(self._model)
        if chosen < 0.5 or not names:
            self._write(f"file-{self.random.randrange(8)}")
        elif chosen < 0.75:
            self._rename(self.random.choice(names), f"file-{self.random.randrange(8)}")
        elif chosen < 0.9:
            self._rename_folder()
        else:
            self._delete(self.random.choice(names))
        self._model, self._folder = (self._model if self._after is None else self._after), self._folder_after
        self._after = None
        self.acknowledged += 1

    def _write(self, name: str) -> None:
        content = self.random.randbytes(self.random.choice((0, 10, 4_000, 300_000)))
        self._after = self._model | {name: content}
        headers = {
            "x-ms-type": "file",
            "x-ms-content-length": str(len(content)),
            "x-ms-meta-sha256": hashlib.sha256(content).hexdigest(),
        }
        _expect(self.files("PUT", self._path(name), "", headers, content), 201)

    def _rename(self, source: str, target: str) -> None:
        if source == target:
            return
        self._after = {name: content for name, content in self._model.items() if name != source}
        self._after[target] = self._model[source]
        self._move(self._path(source), self._path(target))

    def _rename_folder(self) -> None:
        self._folder_after = "/two" if self._folder == "/one" else "/one"
        self._move(self._root + self._folder, self._root + self._folder_after)

    def _move(self, source: str, target: str) -> None:
        address = f"{self.announcement['resource_manager']}/{ACCOUNT}/{SHARE}{source}"
        headers = {"x-ms-file-rename-source": address, "x-ms-file-rename-replace-if-exists": "true"}
        kind = "" if source.rpartition("/")[2].startswith("file") else "restype=directory&"
        _expect(self.files("PUT", target, f"{kind}comp=rename", headers), 200)

    def _delete(self, name: str) -> None:
        self._after = {other: content for other, content in self._model.items() if other != name}
        _expect(self.files("DELETE", self._path(name)), 202)

    def _path(self, name: str) -> str:
        return f"{self._root}{self._folder}/{name}"

    def check(self) -> None:
        root = self.state / "shares" / ACCOUNT / SHARE / self._root[1:]
        (folder,) = root.iterdir()
        assert f"/{folder.name}" in (self._folder, self._folder_after)
        found = {path.name: path.read_bytes() for path in folder.iterdir()}
        possible = [self._model] if self._after is None else [self._model, self._after]
        assert found in possible, _difference(found, possible)
        self._folder = self._folder_after = f"/{folder.name}"
        self._model, self._after = found, None
        for name, content in found.items():
            answer = self.files("GET", self._path(name))
            assert answer.content == content
            assert answer.headers["x-ms-meta-sha256"] == hashlib.sha256(content).hexdigest(), name


class Deployments(Load):
    """Deployments of a workspace each, and a tag on their group that counts them."""

    def __init__(self, announcement: dict[str, str], state: Path, seed: int) -> None:
        super().__init__(announcement, state, seed)
        self._count = 0
        self._accepted: list[int] = []
        self._asked: int | None = None
        self._tags = {""}

    def change(self) -> None:
        self._count += 1
        number = self._count
        resource = {
            "type": "Microsoft.OperationalInsights/workspaces",
            "apiVersion": _WORKSPACES,
            "name": f"workspace-{number}",
            "location": "eastus",
            "properties": {"retentionInDays": 30},
        }
        template = {
            "$schema": "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#",
            "contentVersion": "1.0.0.0",
            "resources": [resource],
        }
        body = {"properties": {"mode": "Incremental", "template": template}}
        self._asked = number
        _expect(self.manage("PUT", self._path(number), _RESOURCES, body), 201)
        self._accepted.append(number)
        self._asked = None
        tag = str(number)
        self._tags.add(tag)
        group = {"location": "eastus", "tags": {"deployments": tag}}
        _expect(self.manage("PUT", f"/resourceGroups/{GROUP}", _RESOURCES, group), 200)
        self._tags = {tag}
        self.acknowledged += 2
        time.sleep(0.05)

    def check(self) -> None:
        if self._asked is not None and self.manage("HEAD", self._path(self._asked), _RESOURCES).status_code == 204:
            # Its answer was lost, and it had been accepted: then it is as good as any other.
            self._accepted.append(self._asked)
        self._asked = None
        for number in self._accepted:
            until(lambda number=number: self._state(number) == "Succeeded", f"deployment {number}")  # type: ignore[misc]
            name = f"/resourceGroups/{GROUP}/providers/Microsoft.OperationalInsights/workspaces/workspace-{number}"
            shown = _expect(self.manage("GET", name, _WORKSPACES), 200).json()
            assert shown["properties"]["provisioningState"] == "Succeeded"
        self._accepted = []
        group = _expect(self.manage("GET", f"/resourceGroups/{GROUP}", _RESOURCES), 200).json()
        tag = group.get("tags", {}).get("deployments", "")
        assert tag in self._tags
        self._tags = {tag}

    def _state(self, number: int) -> str:
        shown = _expect(self.manage("GET", self._path(number), _RESOURCES), 200).json()
        assert shown["properties"]["provisioningState"] != "Failed", shown
        return str(shown["properties"]["provisioningState"])

    def _path(self, number: int) -> str:
        return f"/resourceGroups/{GROUP}/providers/Microsoft.Resources/deployments/d-{number}"


class App(Load):
    """An app that is given a number as a tag again and again, and, with each eighth, a new value that it answers with.

    A new value makes a new revision, and each revision a process that starts with each life of the stand-in.
    """

    def __init__(self, announcement: dict[str, str], state: Path, seed: int) -> None:
        super().__init__(announcement, state, seed)
        self._base = f"/resourceGroups/{GROUP}/providers/Microsoft.App"
        environment = {"location": "eastus", "properties": {}}
        _expect(self.manage("PUT", f"{self._base}/managedEnvironments/env", _APPS, environment), 201)
        until(lambda: self._shown("managedEnvironments/env")["provisioningState"] == "Succeeded", "the environment")
        self._number = 0
        self._possible = {0}
        self._put(201)

    def change(self) -> None:
        if self._shown("containerApps/app")["provisioningState"] != "Succeeded":
            time.sleep(0.02)
            return
        self._number += 1
        self._possible.add(self._number)
        self._put(201)
        self._possible = {self._number}
        self.acknowledged += 1

    def check(self) -> None:
        """The tag that the resource shows is the acknowledged one, or the one on its way; the value belongs to it."""
        shown = _expect(self.manage("GET", f"{self._base}/containerApps/app", _APPS), 200).json()
        number = int(shown["tags"]["number"])
        assert number in self._possible
        self._possible = {number}
        container = shown["properties"]["template"]["containers"][0]
        assert container["env"][0]["value"] == _value(number)

    def check_answers(self) -> None:
        """The app comes back and answers with that value."""
        until(lambda: self._shown("containerApps/app")["provisioningState"] == "Succeeded", "the app's change")
        host = self._shown("containerApps/app")["configuration"]["ingress"]["fqdn"]
        value = _value(next(iter(self._possible)))
        heard: list[str] = []

        def answers() -> bool:
            heard.append(self.http.get(f"https://{host}/").text)
            return heard[-1] == value

        try:
            until(answers, f"value {value} from the app")
        except (AssertionError, httpx.TransportError) as problem:
            events = (self.state / "apps" / f"{GROUP}-app" / "events.log").read_text()
            raise AssertionError(f"{problem!r}; heard {heard[-5:]}\n{events[-6000:]}") from problem

    def _shown(self, name: str) -> Any:
        return _expect(self.manage("GET", f"{self._base}/{name}", _APPS), 200).json()["properties"]

    def _put(self, status: int) -> None:
        environment = f"/subscriptions/{self.subscription}{self._base}/managedEnvironments/env"
        container = {
            "name": "app",
            "image": "docker.io/library/python:3.12",
            "command": ["python", "-S", "-c", _ANSWERS_ITS_VALUE],
            "env": [{"name": "VALUE", "value": _value(self._number)}, {"name": "PORT", "value": "8000"}],
        }
        properties = {
            "environmentId": environment,
            "configuration": {"ingress": {"external": True, "targetPort": 8000}},
            "template": {"containers": [container], "scale": {"minReplicas": 1, "maxReplicas": 1}},
        }
        body = {"location": "eastus", "tags": {"number": str(self._number)}, "properties": properties}
        _expect(self.manage("PUT", f"{self._base}/containerApps/app", _APPS, body), status)


def _value(number: int) -> str:
    """What the app answers with when it has this number."""
    return f"value-{number // 8}"


def prepare(announcement: dict[str, str], state: Path) -> None:
    """The group, the account and the share that the loads have in common."""
    load = Load(announcement, state, 0)
    _expect(load.manage("PUT", f"/resourceGroups/{GROUP}", _RESOURCES, {"location": "eastus"}), 201)
    account = f"/resourceGroups/{GROUP}/providers/Microsoft.Storage/storageAccounts/{ACCOUNT}"
    body = {"location": "eastus", "sku": {"name": "Standard_LRS"}, "kind": "StorageV2", "properties": {}}
    _expect(load.manage("PUT", account, _STORAGE, body), 202)
    state_of = "provisioningState"
    until(lambda: load.manage("GET", account, _STORAGE).json()["properties"][state_of] == "Succeeded", "the account")
    _expect(load.files("PUT", "", "restype=share"), 201)


def _expect(answer: httpx.Response, status: int) -> httpx.Response:
    assert answer.status_code == status, f"{answer.request.method} {answer.request.url}: {answer.text}"
    return answer


def _difference(found: dict[str, bytes], possible: list[dict[str, bytes]]) -> str:
    def shown(files: dict[str, bytes]) -> dict[str, str]:
        return {name: f"{len(content)} bytes" for name, content in sorted(files.items())}

    return f"found {shown(found)}, and not one of {[shown(each) for each in possible]}"

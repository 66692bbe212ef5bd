"""A checkout, a share on the stand-in and a tiny app: whole verbs (deploy, rollback, gc) run here in milliseconds.

The share is the stand-in's, reached by its account's key. The container app is tiny_resource_manager's,
and what it runs is tiny_app: a restart has it serve what `current` names on the share then, as a replica does.
Everything but the app's own answers goes through killing_proxy, which counts.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import signal
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import azure.storage.fileshare
import yaml

from scripts import history, publish, release, rollout, verbs
from scripts import share as shares
from scripts.deployment import Outputs
from scripts.files import ShareClient
from scripts.garbage import Garbage
from scripts.lock import Lock
from scripts.session import Session
from tests.conftest import ROOT, RunningStandIn
from tests.killing_proxy import KillingProxy, killing_proxy
from tests.nursery import Nursery, running_nursery
from tests.share_on_stand_in import clients_of
from tests.tiny_app import KEY, TinyApp, make_certificate, running_tiny_app
from tests.tiny_resource_manager import APP, GROUP, SUBSCRIPTION, TinyResourceManager, replica, running_resource_manager

BASE = "model-cache/demo-base"


def deploy(session: Session) -> str:
    """The id of the release that serves then."""
    return rollout.deploy(session).release.id


def rollback(session: Session, name: str | None = None) -> str:
    return rollout.rollback(session, name).release.id


def collect_garbage(session: Session, keep: int) -> Garbage:
    return verbs.collect_garbage(session, keep=keep, agreed=lambda found: True)


def hold_the_lock(session: Session, lease_seconds: int) -> None:
    """Until somebody ends the process."""
    with Lock(session.share, lease_seconds=lease_seconds):
        while True:
            release.read_current(session.share)


@dataclass
class World:
    """What there is, and the folder of the stand-in's disk that holds the share."""

    root: Path
    state: Path
    proxy: KillingProxy
    app: TinyApp
    manager: TinyResourceManager
    account: str
    variables: dict[str, str]
    broken: set[str] = field(default_factory=set)
    """Releases that fail their proof when they are served."""
    made: list[str] = field(default_factory=list)
    """Ids of releases, for the tests to remember."""
    said: list[str] = field(default_factory=list)
    _open: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    _until_closed: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    _nursery: Nursery | None = None

    def new_share(self) -> None:
        """From now on another share, which holds the base model and nothing else."""
        self._open.close()
        name = f"w{uuid.uuid4().hex[:12]}"
        config = {
            "SUBSCRIPTION_ID": SUBSCRIPTION,
            "RESOURCE_GROUP_NAME": GROUP,
            "STORAGE_ACCOUNT_NAME": self.account,
            "FILE_SHARE_NAME": name,
            "ACA_APP_NAME": APP,
            "ACA_APP_ENDPOINT": self.app.url,
        }
        (self.root / "world.json").write_text(json.dumps(config))
        self.session = open_session(self.root, self.said.append)
        self._open.callback(self.session.close)
        self.sdk = azure.storage.fileshare.ShareClient(
            f"{self.proxy.url}/{self.account}",
            name,
            credential=self.variables["AZURE_STORAGE_KEY"],
            connection_verify=str(self.session.clients.cloud.certificate),
        )
        self.sdk.create_share()
        shares.make_folders(self.share, [BASE])
        shares.write_small_file(self.share, f"{BASE}/config.json", b"{}")
        self._restarted()

    @property
    def share(self) -> ShareClient:
        return self.session.share

    @property
    def outputs(self) -> Outputs:
        return publish.read_config(self.root / "world.json")

    @property
    def folder(self) -> Path:
        return self.state / "shares" / self.account / self.outputs.file_share_name

    def close(self) -> None:
        self._open.close()
        self._until_closed.close()

    def write(self, path: str, content: bytes) -> None:
        """A file of the checkout."""
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_bytes(content)

    def change(self, number: int, *, adapter: bool = False) -> None:
        """Makes the checkout another release, with another adapter too where that is asked for."""
        self.write("inference/serve.py", b"print(%d)\n" % number)
        if adapter:
            self.write("adapter/adapter_model.safetensors", bytes([number % 256]) * LARGE_BYTES)

    def run_and_kill(self, run: Callable[[Session], Any], after: int | None) -> bool:
        """Run a verb in a process of its own that is killed after so many requests; whether it was."""
        if self._nursery is None:
            warm_up = partial(_in_session, self.root, _look_at_everything)
            self._nursery = self._until_closed.enter_context(running_nursery(warm_up, self.variables))
        self.proxy.arm(after)
        self.proxy.aim_at(self._nursery.start(partial(_in_session, self.root, run)))
        code = self._nursery.go()
        self.proxy.wait_until_idle()
        self.proxy.arm(None)
        assert code in (0, -signal.SIGKILL), f"exit code {code}"
        return bool(code)

    def free(self) -> None:
        """Ends a lease that a dead process left; by itself it ends within a minute."""
        if self.sdk.get_share_properties().lease.status == "locked":
            azure.storage.fileshare.ShareLeaseClient(self.sdk).break_lease(lease_break_period=0)

    def current(self) -> str | None:
        """What a replica would find that starts now."""
        file = self.folder / "current"
        return file.read_text().strip().removeprefix("releases/") if file.exists() else None

    def check_whole(self, release_id: str) -> None:
        """Every file of the release and of its adapters is there, with the content that its hash says."""
        document = json.loads((self.folder / "releases" / release_id / "release.json").read_text())
        assert document["id"] == release_id
        for path, said in document["files"].items():
            content = (self.folder / "releases" / release_id / path).read_bytes()
            assert hashlib.sha256(content).hexdigest() == said["sha256"], path
        for adapter in document["adapters"].values():
            assert sorted(file.name for file in (self.folder / adapter).iterdir()) == ADAPTER_FILES, adapter
            content = (self.folder / adapter / "adapter_model.safetensors").read_bytes()
            # Of one byte all through, which is none of a range that was never written.
            assert content == content[:1] * len(content) and content[:1] not in (b"", b"\0"), adapter

    def check_all_whole(self) -> set[str]:
        """Whatever has the name of a release or of an adapter is whole; returns the releases' ids."""
        ids = {path.name for path in (self.folder / "releases").glob("[!.]*/")} if self.current() else set()
        for release_id in ids:
            self.check_whole(release_id)
        return ids

    def check_nothing_else(self) -> None:
        """Only the verbs' own places were written."""
        assert {path.name for path in self.folder.iterdir()} <= {"current", "releases", "adapters", "model-cache"}
        assert [str(path.relative_to(self.folder)) for path in (self.folder / "model-cache").rglob("*.*")] == [
            f"{BASE}/config.json"
        ]

    def check_nothing_half_made(self) -> None:
        """No rest of an upload or of a removal."""
        assert not list(self.folder.rglob(".*"))

    def check_serves(self) -> None:
        """A replica that started now would serve the release that `current` names; the one that runs stays as it is."""
        state, running = self.manager.state, self.app.behaviour
        replicas, self.app.behaviour = state.replicas, dataclasses.replace(running)
        self._restarted()
        assert self.app.behaviour.release == (self.current() or "")
        state.replicas, self.app.behaviour = replicas, running

    def _restarted(self) -> None:
        """What a restart does: a new replica, which reads `current` once."""
        name = f"{APP}--1-{uuid.uuid4().hex[:5]}"
        self.manager.state.replicas = [replica(name)]
        current = self.current()
        behaviour = self.app.behaviour
        behaviour.usage = current not in self.broken
        behaviour.release, behaviour.status = current or "", "ready" if current else "loading"
        if current:
            document = json.loads((self.folder / "releases" / current / "release.json").read_text())
            behaviour.models = [document["base"].rpartition("/")[2], *document["adapters"]]


LARGE_BYTES = shares.RANGE_BYTES + 100_000
"""What needs more than one request to be sent."""

ADAPTER_FILES = ["adapter_config.json", "adapter_model.safetensors"]


def open_session(root: Path, say: Callable[[str], None]) -> Session:
    config = root / "world.json"
    return Session("local", root, role="deploy", config=config, say=say, progress=lambda line: None)


def _in_session(root: Path, run: Callable[[Session], Any]) -> None:
    with contextlib.closing(open_session(root, lambda line: None)) as session:
        run(session)


def _look_at_everything(session: Session) -> None:
    history.of(session.share)
    session.app.state()
    session.endpoint.ready()


@contextlib.contextmanager
def _process_environment(variables: Mapping[str, str]) -> Iterator[None]:
    """The variables in this process's environment until the block ends."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def running_world(stand_in: RunningStandIn, folder: Path) -> Iterator[World]:
    """A world with a share of its own; folder is where its files may lie."""
    account = f"world{uuid.uuid4().hex[:12]}"
    with clients_of(stand_in, GROUP) as clients:
        clients.resources.resource_groups.create_or_update(GROUP, {"location": "swedencentral"})
        parameters: Any = {"location": "swedencentral", "kind": "StorageV2", "sku": {"name": "Standard_LRS"}}
        clients.storage.storage_accounts.begin_create(GROUP, account, parameters).result()
        variables = {"AZURE_STORAGE_ACCOUNT": account, "AZURE_STORAGE_KEY": clients.account_key(account)}
    own = make_certificate(folder / "own.pem")
    trusted = folder / "trusted.pem"
    trusted.write_bytes(own.read_bytes() + Path(stand_in.announcement["certificate"]).read_bytes())
    root = folder / "checkout"
    shutil.copytree(ROOT / "infra" / "provision", root / "infra" / "provision")
    shutil.copytree(ROOT / "environments" / "local", root / "environments" / "local")
    file = root / "environments" / "local" / "environment.yaml"
    settings = yaml.safe_load(file.read_text())
    settings |= {"model": {"base": BASE, "adapters": {"default": "./adapter"}}, "proof": {"prompts": []}}
    file.write_text(yaml.safe_dump(settings))
    with (
        running_tiny_app(own) as app,
        running_resource_manager(own) as manager,
        killing_proxy(
            {"/Microsoft.App/": manager.url, "": stand_in.announcement["resource_manager"]}, trusted, own
        ) as proxy,
    ):
        announced = stand_in.announcement | {"certificate": str(trusted)}
        announced |= {"authority": proxy.url, "resource_manager": proxy.url}
        (root / ".local").mkdir()
        (root / ".local" / "stand-in.json").write_text(json.dumps(announced))
        manager.state.secrets = {"api-key": KEY}
        world = World(root, stand_in.state, proxy, app, manager, account, variables)
        manager.state.on_restart = world._restarted
        world.write("inference/start.sh", b"exec python serve.py\n")
        for path in release.CODE[1:]:
            world.write(path, b"torch==2.0\n")
        world.write("adapter/adapter_config.json", b"{}")
        world.change(1, adapter=True)
        with _process_environment(variables), contextlib.closing(world):
            world.new_share()
            yield world

"""A deploy that is killed after any of its requests: `current` names one whole release, and the next run completes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from azure.storage.fileshare import ShareLeaseClient

from scripts import release as releases
from scripts import share as shares
from scripts.lock import Lock
from tests.conftest import RunningStandIn
from tests.killing_proxy import KillingProxy, killing_proxy
from tests.share_deploy import LEASE_SECONDS, Sources, Target, deploy, deploy_when_told
from tests.share_on_stand_in import ACCOUNT, RESOURCE_GROUP, clients_of, new_share
from tests.tiny_app import make_certificate

if TYPE_CHECKING:
    from scripts.cloud import ShareClient

BASE = "model-cache/demo-base"


@dataclass(frozen=True)
class World:
    """The account behind the stand-in's address and behind the proxy's, and what is deployed onto its shares."""

    direct: Target
    proxied: Target
    proxy: KillingProxy
    sources: Sources


@pytest.fixture
def world(stand_in: RunningStandIn, tmp_path: Path) -> Iterator[World]:
    sources = Sources(tmp_path / "repository", BASE, tmp_path / "adapter")
    for path, content in {
        "repository/inference/serve.py": b"print('one')\n",
        "repository/inference/start.sh": b"exec python serve.py\n",
        "repository/requirements/inference.txt": b"torch==2.0\n",
        "adapter/adapter_config.json": b"{}",
        "adapter/adapter_model.safetensors": b"w" * (shares.RANGE_BYTES + 100_000),
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    with new_share(stand_in, f"k{uuid.uuid4().hex[:12]}"), clients_of(stand_in, RESOURCE_GROUP) as clients:
        key = clients.account_key(ACCOUNT)
        trusted = clients.cloud.certificate
        address = clients.cloud.resource_manager
    assert trusted is not None
    certificate = make_certificate(tmp_path / "proxy.pem")
    with killing_proxy(address, trusted, certificate) as proxy:
        direct = Target(f"{address}/{ACCOUNT}", trusted, key, "")
        proxied = Target(f"{proxy.url}/{ACCOUNT}", certificate, key, "")
        yield World(direct, proxied, proxy, sources)


@contextlib.contextmanager
def fresh_share(world: World) -> Iterator[ShareClient]:
    """A share that holds the base model and nothing else."""
    with replace(world.direct, share=f"k{uuid.uuid4().hex[:12]}").client() as share:
        share.create_share()
        shares.make_folders(share, [BASE])
        shares.write_small_file(share, f"{BASE}/config.json", b"{}")
        yield share
        share.delete_share()


def fork_server() -> multiprocessing.context.ForkServerContext:
    """Processes that have the SDK loaded already: real ones, to be killed, at a few milliseconds each."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.share_deploy"])
    return context


def run_and_kill(world: World, target: Target, sources: Sources, after: int | None) -> bool:
    """Deploy in a process of its own, killed after so many requests; whether it was."""
    context = fork_server()
    hears, says = context.Pipe(duplex=False)
    process = context.Process(target=deploy_when_told, args=(hears, target, sources))
    world.proxy.arm(after)
    process.start()
    assert process.pid is not None
    world.proxy.aim_at(process.pid)
    says.send("go")
    process.join(60)
    world.proxy.wait_until_idle()
    assert process.exitcode in (0, -9), f"exit code {process.exitcode} after {len(world.proxy.requests)} requests"
    return process.exitcode == -9


def check_whole(share: ShareClient, release_id: str) -> None:
    """Every file of the release and of its adapters is there, with the content that its hash says."""
    folder = f"releases/{release_id}"
    manifest = shares.read_small_file(share, f"{folder}/release.json")
    assert manifest is not None, f"{folder} has no manifest"
    document = json.loads(manifest.content)
    assert document["id"] == release_id
    for path, said in document["files"].items():
        file = shares.read_small_file(share, f"{folder}/{path}")
        assert file is not None, f"{folder}/{path} is missing"
        assert hashlib.sha256(file.content).hexdigest() == said["sha256"]
    for adapter in document["adapters"].values():
        entries = shares.read_remote(share, adapter)
        assert {entry.path for entry in entries} == {"adapter_config.json", "adapter_model.safetensors"}
        for entry in entries:
            file = shares.read_small_file(share, f"{adapter}/{entry.path}")
            assert file is not None
            assert hashlib.sha256(file.content).hexdigest() == entry.sha256


def check_nothing_else(share: ShareClient, *, complete: bool) -> None:
    """Only the deploy's own places were written; a complete run leaves nothing half-done."""
    assert {name for name, _ in shares.list_folder(share, "")} <= {"current", "releases", "adapters", "model-cache"}
    assert [entry.path for entry in shares.read_remote(share, "model-cache")] == ["demo-base/config.json"]
    if complete:
        for folder in ("releases", "adapters/default"):
            assert not [name for name, _ in shares.list_folder(share, folder) if name.startswith(".")]


def kill_everywhere(world: World, *, update: bool) -> int:
    """Kill a deploy after each of its requests, on a share of its own each time; returns how many points there were."""
    serve = world.sources.repository / "inference" / "serve.py"
    weights = world.sources.adapter / "adapter_model.safetensors"
    point = 0
    killed = True
    while killed:
        point += 1
        with fresh_share(world) as share:
            direct = replace(world.direct, share=share.share_name)
            old: str | None = None
            if update:
                serve.write_bytes(b"print('one')\n")
                weights.write_bytes(b"w" * (shares.RANGE_BYTES + 100_000))
                old = deploy(direct, world.sources)
                serve.write_bytes(b"print('two')\n")
                weights.write_bytes(b"v" * (shares.RANGE_BYTES + 200_000))
            new = world.sources.package().release.id
            killed = run_and_kill(world, replace(world.proxied, share=share.share_name), world.sources, point)
            current = releases.read_current(share)
            if current is None:
                assert old is None
            else:
                assert current.release in (old, new)
                assert current.previous in (None, old)
                check_whole(share, current.release)
            if old is not None:
                check_whole(share, old)
            check_nothing_else(share, complete=False)
            if share.get_share_properties().lease.status == "locked":
                # The lease would end by itself after LEASE_SECONDS; another test waits for that.
                ShareLeaseClient(share).break_lease(lease_break_period=0)
            assert deploy(direct, world.sources) == new
            assert releases.read_current(share) == releases.Current(new, True, None)
            check_whole(share, new)
            check_nothing_else(share, complete=True)
    return point - 1


def test_a_first_deploy_killed_after_any_request(world: World) -> None:
    assert kill_everywhere(world, update=False) > 25


def test_an_update_killed_after_any_request(world: World) -> None:
    assert kill_everywhere(world, update=True) > 20


def test_a_killed_deploy_frees_the_share_by_itself(world: World) -> None:
    with fresh_share(world) as share:
        proxied = replace(world.proxied, share=share.share_name)
        assert run_and_kill(world, proxied, world.sources, after=2)
        said: list[str] = []
        with Lock(share, wait_seconds=LEASE_SECONDS + 10, say=said.append):
            assert said, "it waited"

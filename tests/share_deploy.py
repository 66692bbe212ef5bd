"""The share's part of a deploy, to run in a process of its own: lock, upload, switch, confirm, unlock."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import azure.storage.fileshare

from scripts import release as releases
from scripts.cloud import FILE_RETRIES, FILE_TIMEOUTS
from scripts.lock import Lock

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from scripts.cloud import ShareClient

LEASE_SECONDS = 15


@dataclass(frozen=True)
class Target:
    """A share by its address and account key, and the certificate to trust."""

    account_url: str
    certificate: Path
    key: str
    share: str

    def client(self) -> ShareClient:
        return azure.storage.fileshare.ShareClient(
            self.account_url,
            self.share,
            credential=self.key,
            connection_verify=str(self.certificate),
            **FILE_RETRIES,
            **FILE_TIMEOUTS,
        )


@dataclass(frozen=True)
class Sources:
    """What is deployed: a repository, the base on the share, a local adapter."""

    repository: Path
    base: str
    adapter: Path

    def package(self) -> releases.Package:
        return releases.prepare(self.repository, base=self.base, adapters={"default": self.adapter}, commit="c0ffee")


def deploy(target: Target, sources: Sources) -> str:
    """Returns the id of the release that is current then."""
    package = sources.package()
    with target.client() as share, Lock(share, lease_seconds=LEASE_SECONDS) as lock:
        before = releases.read_current(share)
        releases.upload(share, package, lock)
        previous = before.fallback if before else None
        releases.set_current(share, package.release.id, lock, previous=previous)
        releases.confirm_current(share, package.release.id, lock)
    return package.release.id


def deploy_when_told(go: Connection, target: Target, sources: Sources) -> None:
    """A process's whole life: wait for the word, deploy."""
    go.recv()
    deploy(target, sources)

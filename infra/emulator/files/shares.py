"""The shares of every account: their documents in the store, their folders on disk.

Knows nothing of HTTP, and of what is inside a share only how much it is.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from infra.emulator.files import leases
from infra.emulator.files.exceptions import error
from infra.emulator.files.formats import now
from infra.emulator.files.names import check_share_name
from infra.emulator.store import Store

log = logging.getLogger(__name__)

KIND = "files.share"
ENTRY_KIND = "files.entry"
DEFAULT_QUOTA_GIB = 5120
# The largest share of an account with large file shares, which every new account has.
MAXIMUM_QUOTA_GIB = 102_400
_GIB = 1024**3
# What a local process writes into a share is noticed after so long.
_ROOM_SECONDS = 30.0
_DELETING_KIND = "files.deleting"
_TRASH = ".deleted"
_UNKNOWN = ".unknown"


@dataclass
class Share:
    """A share's properties. Times are ticks; `permissions` are security descriptors by their key."""

    created: int
    modified: int
    quota_gib: int
    access_tier: str = "TransactionOptimized"
    access_tier_changed: int = 0
    metadata: dict[str, str] = field(default_factory=dict)
    lease: dict[str, Any] | None = None
    access_policies: list[dict[str, str]] = field(default_factory=list)
    permissions: dict[str, str] = field(default_factory=dict)


@dataclass
class _Room:
    """How many bytes a share may still take, as it was measured at a time.monotonic(), less what was taken since."""

    left: int
    measured: float


class Shares:
    """Every share under `root`, one folder each: root/<account>/<share>."""

    def __init__(self, root: Path, store: Store) -> None:
        self.root = root
        self._store = store
        self._room: dict[tuple[str, str], _Room] = {}
        self._measuring = asyncio.Lock()
        root.mkdir(parents=True, exist_ok=True)
        for folder in root.glob("[!.]*/*"):
            account, name = folder.parent.name, folder.name
            if self.find(account, name) is not None:
                continue
            if self._store.get(_DELETING_KIND, f"{account}/{name}") is not None:
                self._discard(account, name)  # the process was killed while it deleted the share
            else:
                self._put_aside(folder)
        self._empty_trash()

    def folder(self, account: str, name: str) -> Path:
        """The local folder that holds the share's files; it exists while the share does."""
        return self.root / account / name

    def find(self, account: str, name: str) -> Share | None:
        """The share, or None."""
        stored = self._store.get(KIND, f"{account}/{name}")
        return None if stored is None else Share(**stored)

    def get(self, account: str, name: str) -> Share:
        """The share. Raises StorageError 404."""
        share = self.find(account, name)
        if share is None:
            raise error("ShareNotFound")
        return share

    def list(self, account: str) -> list[tuple[str, Share]]:
        """Names and shares of an account, in the order of their names."""
        prefix = f"{account}/"
        return [(key[len(prefix) :], Share(**stored)) for key, stored in self._store.items(KIND, prefix)]

    def create(self, account: str, name: str, quota_gib: int, metadata: dict[str, str] | None = None) -> Share:
        """A new, empty share. Raises StorageError for a bad name or quota, and 409 when it exists."""
        check_share_name(name)
        if self.find(account, name) is not None:
            raise error("ShareAlreadyExists")
        if not 1 <= quota_gib <= MAXIMUM_QUOTA_GIB:
            raise error("InvalidHeaderValue", HeaderName="x-ms-share-quota", HeaderValue=str(quota_gib))
        self.folder(account, name).mkdir(parents=True)
        present = now()
        share = Share(present, present, quota_gib, access_tier_changed=present, metadata=metadata or {})
        self.put(account, name, share)
        return share

    def put(self, account: str, name: str, share: Share) -> None:
        """Stores a changed share."""
        self._room.pop((account, name), None)
        self._store.put(KIND, f"{account}/{name}", asdict(share))

    def touch(self, account: str, name: str, share: Share) -> Share:
        """Stores a changed share with a new entity tag."""
        share.modified = now()
        self.put(account, name, share)
        return share

    def delete(self, account: str, name: str) -> None:
        """Removes the share and all that is in it. Raises StorageError 404."""
        self.get(account, name)
        self._room.pop((account, name), None)
        with self._store.transaction():
            self._store.delete(KIND, f"{account}/{name}")
            self._store.put(_DELETING_KIND, f"{account}/{name}", True)
            for key, _ in self._store.items(ENTRY_KIND, f"{account}/{name}/"):
                self._store.delete(ENTRY_KIND, key)
        self._discard(account, name)

    def take(self, account: str, name: str, growth: int) -> bool:
        """Counts bytes that the share is to hold from now on; False when they may be too many: ask make_room.

        The size of a file counts from the moment it is created, written or not. Whether Azure counts what is not
        written is not known.
        """
        if growth <= 0:
            return True
        room = self._room.get((account, name))
        if room is None or room.left < growth or time.monotonic() - room.measured > _ROOM_SECONDS:
            return False
        room.left -= growth
        return True

    async def make_room(self, account: str, name: str, growth: int) -> None:
        """Counts bytes that the share is to hold from now on. Raises StorageError 403 when its quota is reached."""
        async with self._measuring:
            if not self.take(account, name, growth):
                await self.measure(account, name)
                if not self.take(account, name, growth):
                    raise error("ShareSizeLimitReached")

    async def measure(self, account: str, name: str) -> int:
        """The bytes of all files of the share; what `take` goes by is right again. Raises StorageError 404."""
        quota = self.get(account, name).quota_gib * _GIB
        folder = str(self.folder(account, name))
        begun = time.monotonic()
        used = await asyncio.to_thread(lambda: sum(_sizes(folder)))
        self._room[account, name] = _Room(quota - used, begun)
        return used

    def lease(self, share: Share) -> leases.Lease | None:
        """The share's lease."""
        return leases.load(share.lease)

    def _discard(self, account: str, name: str) -> None:
        trash = self.root / _TRASH
        trash.mkdir(exist_ok=True)
        try:
            self.folder(account, name).rename(trash / uuid.uuid4().hex)
        except FileNotFoundError:
            log.warning("the folder of share %s/%s had been removed before the share was deleted", account, name)
        self._store.delete(_DELETING_KIND, f"{account}/{name}")
        self._empty_trash()

    def _put_aside(self, folder: Path) -> None:
        """A folder of a share that the store does not know may hold somebody's only copy: it is never deleted."""
        aside = self.root / _UNKNOWN
        aside.mkdir(exist_ok=True)
        target = aside / f"{folder.parent.name}.{folder.name}.{uuid.uuid4().hex}"
        folder.rename(target)
        log.warning("%s belongs to no known share; its files are in %s now", folder, target)

    def _empty_trash(self) -> None:
        """Removes in the background: a share may hold many files."""
        trash = self.root / _TRASH
        if trash.exists():
            threading.Thread(target=_remove_all_in, args=(trash,), name="empty-trash", daemon=True).start()


def _sizes(folder: str) -> Iterator[int]:
    """The sizes of all files below a folder; what vanishes meanwhile is passed over."""
    for directory, _, names in os.walk(folder):
        for name in names:
            try:
                yield os.stat(f"{directory}/{name}").st_size  # noqa: PTH116 - for every file of a share
            except FileNotFoundError:
                continue


def _remove_all_in(trash: Path) -> None:
    for folder in trash.iterdir():
        try:
            shutil.rmtree(folder)
        except FileNotFoundError:
            continue  # another removal was quicker
        except OSError as problem:
            log.warning("what is left of a deleted share could not be removed: %s", problem)

"""The shares of every account: their documents in the store, their folders on disk.

Knows nothing of HTTP, nor of what is inside a share.
"""

from __future__ import annotations

import logging
import shutil
import threading
import uuid
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


class Shares:
    """Every share under `root`, one folder each: root/<account>/<share>."""

    def __init__(self, root: Path, store: Store) -> None:
        self.root = root
        self._store = store
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
        self._store.put(KIND, f"{account}/{name}", asdict(share))

    def touch(self, account: str, name: str, share: Share) -> Share:
        """Stores a changed share with a new entity tag."""
        share.modified = now()
        self.put(account, name, share)
        return share

    def delete(self, account: str, name: str) -> None:
        """Removes the share and all that is in it. Raises StorageError 404."""
        self.get(account, name)
        with self._store.transaction():
            self._store.delete(KIND, f"{account}/{name}")
            self._store.put(_DELETING_KIND, f"{account}/{name}", True)
            for key, _ in self._store.items(ENTRY_KIND, f"{account}/{name}/"):
                self._store.delete(ENTRY_KIND, key)
        self._discard(account, name)

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


def _remove_all_in(trash: Path) -> None:
    for folder in trash.iterdir():
        try:
            shutil.rmtree(folder)
        except FileNotFoundError:
            continue  # another removal was quicker
        except OSError as problem:
            log.warning("what is left of a deleted share could not be removed: %s", problem)

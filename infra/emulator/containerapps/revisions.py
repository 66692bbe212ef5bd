"""Revisions as they are kept: what each one runs, whether it is active, whether it was ever ready. Knows no process."""

from __future__ import annotations

import secrets
import string
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import Any

from infra.emulator.exceptions import AzureError
from infra.emulator.resource_id import ResourceId
from infra.emulator.store import Store

_KIND = "containerapp-revision"
_LETTERS = string.ascii_lowercase + string.digits
_SUFFIX_LENGTH = 7


@dataclass
class Revision:
    """One revision of an app. `template` is the settled one, `shown` the same as a GET of the revision shows it."""

    name: str
    number: int
    created: str
    template: dict[str, Any]
    shown: dict[str, Any]
    active: bool = True
    ready_once: bool = False
    last_active: str | None = None


class Revisions:
    """The revisions of one app, oldest first."""

    def __init__(self, store: Store, app_id: ResourceId) -> None:
        self._store = store
        self._app = app_id
        self._prefix = f"{app_id.key}/revisions/"

    def all(self) -> list[Revision]:
        """Oldest first."""
        kept = [Revision(**document) for _, document in self._store.items(_KIND, self._prefix)]
        return sorted(kept, key=lambda revision: revision.number)

    def find(self, name: str) -> Revision | None:
        """The revision with that name, in any case."""
        document = self._store.get(_KIND, self._prefix + name.lower())
        return None if document is None else Revision(**document)

    def get(self, name: str) -> Revision:
        """The revision with that name. Raises the provider's 404."""
        revision = self.find(name)
        if revision is None:
            raise AzureError(404, "RevisionNotFound", f"Revision '{name}' was not found.")
        return revision

    def latest(self) -> Revision | None:
        """The newest one."""
        kept = self.all()
        return kept[-1] if kept else None

    def latest_ready(self) -> Revision | None:
        """The newest one that was ever ready; an app's first revision counts as soon as it is there (recorded)."""
        kept = self.all()
        return next((revision for revision in reversed(kept) if revision.ready_once), kept[0] if kept else None)

    def save(self, revision: Revision) -> None:
        """Stores it."""
        self._store.put(_KIND, self._prefix + revision.name.lower(), asdict(revision))

    def remove(self, revision: Revision) -> None:
        """Forgets it."""
        self._store.delete(_KIND, self._prefix + revision.name.lower())

    def create(self, template: dict[str, Any], shown: dict[str, Any]) -> Revision:
        """A new revision of that template. Raises AzureError when its suffix is taken."""
        suffix = template["revisionSuffix"]
        kept = self.all()
        name = f"{self._app.name}--{suffix or ''.join(secrets.choice(_LETTERS) for _ in range(_SUFFIX_LENGTH))}"
        if self.find(name) is not None:
            raise AzureError(
                400,
                "ContainerAppOperationError",
                f"Failed to provision revision for container app '{self._app.name}'. Error details: The following"
                " field(s) are either invalid or missing. Field 'template.revisionsuffix' is invalid with details:"
                f" 'Invalid value: \"{suffix}\": revision with suffix {suffix} already exists.';.",
            )
        revision = Revision(name, kept[-1].number + 1 if kept else 1, now_with_offset(), template, shown)
        self.save(revision)
        return revision

    def prune(self, most_inactive: int) -> None:
        """Forgets the oldest inactive ones over that number."""
        inactive = [revision for revision in self.all() if not revision.active]
        for revision in inactive[: max(len(inactive) - most_inactive, 0)]:
            self.remove(revision)


def now_with_offset() -> str:
    """Now, as revisions show times: 2024-10-14T06:21:41+00:00."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S+00:00")


def same_template(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two settled templates make the same revision, their suffixes aside."""
    return {**one, "revisionSuffix": None} == {**other, "revisionSuffix": None}

"""What runs of one app: its active revisions, their replicas, who gets a request. Every change is made in reconcile().

Single mode: a new revision runs beside the old one until it is ready; a failing one leaves the old one serving.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
import string
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from infra.emulator.containerapps.launch import Launch, Names, plan
from infra.emulator.containerapps.logs import Journal, Place, event_line
from infra.emulator.containerapps.pace import Pace
from infra.emulator.containerapps.probes import probes_of
from infra.emulator.containerapps.replica import Orders, Replica
from infra.emulator.containerapps.revisions import Revision, Revisions, now_with_offset
from infra.emulator.containerapps.scale import Scale
from infra.emulator.resource_id import ResourceId
from infra.emulator.store import Store
from infra.emulator.waiting import within

log = logging.getLogger(__name__)

_TICK_SECONDS = 0.5
_KEEP_OLD_SECONDS = 30.0
_DEFAULT_GRACE_SECONDS = 30
_REMEMBERED_REPLICAS = 5
_KEPT_LOGS = 50
_NO_UPSTREAM = "no healthy upstream"
_STOPPED = "Error 404 - This Container App is stopped or does not exist."


class Refused(Exception):
    """The ingress has no replica for a request: the status and the text that it answers."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


@dataclass(frozen=True)
class Settings:
    """What an app's resource says about all its revisions."""

    mode: str
    target_port: int | None
    port: int | None
    """Of the ingress, on this machine."""
    traffic: tuple[Mapping[str, Any], ...]
    stopped: bool
    domain: str
    has_gpu: bool
    most_inactive: int


@dataclass(frozen=True)
class Surroundings:
    """What a workload asks of its provider, anew each time since it may change."""

    store: Store
    folder: Path
    pace: Pace
    settings: Callable[[], Settings]
    secrets: Callable[[], dict[str, str]]
    share_folder: Callable[[str], Path]
    """The local folder of a storage of the app's environment. Raises CannotStart."""
    check_quota: Callable[[float], None]
    """Whether there is room for one replica more, with so many cores. Raises CannotStart."""


@dataclass(eq=False)
class LiveRevision:
    """An active revision and its replicas."""

    record: Revision
    has_ingress: bool
    replicas: list[Replica] = field(default_factory=list)
    ended: list[Replica] = field(default_factory=list)
    generation: str = ""
    waiting: int = 0
    activating: bool = False
    """It is coming up from no replica at all: requests wait for it."""
    surplus_since: float | None = None

    @property
    def scale(self) -> Scale:
        """How many replicas it asks for."""
        return Scale.of(self.record.template, self.has_ingress)

    @property
    def live(self) -> list[Replica]:
        """Its replicas that were not told to end."""
        return [replica for replica in self.replicas if not replica.stopping]

    @property
    def ready(self) -> list[Replica]:
        """Those that may get a request."""
        return [replica for replica in self.replicas if replica.ready and not replica.stopping]

    @property
    def current(self) -> list[Replica]:
        """Those started since the last restart of the revision."""
        return [replica for replica in self.live if f"-{self.generation}-" in replica.name]

    @property
    def crashing(self) -> bool:
        """All that run of the newest generation crash."""
        return bool(self.current) and all(replica.crashing for replica in self.current)


class Workload:
    """The running side of one app, from start() to stop()."""

    def __init__(self, app_id: ResourceId, surroundings: Surroundings) -> None:
        self.app_id = app_id
        self.revisions = Revisions(surroundings.store, app_id)
        self.events = Journal(surroundings.folder / "events.log")
        self._around = surroundings
        self._pace = surroundings.pace
        self._live: dict[str, LiveRevision] = {}
        self._journals: dict[str, Journal] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._superseded_since: dict[str, float] = {}
        self._wake = asyncio.Event()
        self._turn = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._stale = True
        self._settings: Settings | None = None

    @property
    def is_started(self) -> bool:
        """start() was called."""
        return self._task is not None

    def start(self) -> None:
        """Takes up what the store says about the app, and keeps to it."""
        self._task = asyncio.create_task(self._keep_reconciling(), name=f"workload {self.app_id.name}")

    async def stop(self, most_grace_seconds: float | None = None) -> None:
        """Ends all replicas. With `most_grace_seconds` at once, without waiting for requests; those that end already
        get no longer either."""
        self._closed = True
        self._notify()
        if self._task is not None:
            await asyncio.wait([self._task])
        replicas = [replica for revision in self._live.values() for replica in revision.replicas]
        if most_grace_seconds is not None:
            for replica in replicas:
                replica.hasten(most_grace_seconds)
        await asyncio.gather(*(replica.stop() for replica in replicas), *self._ending)
        self.events.close()

    def changed(self) -> None:
        """The resource or a revision has been written: look again."""
        self._stale = True
        self._notify()

    def restart(self, name: str) -> None:
        """New replicas for the revision; the old ones end when the new ones are ready."""
        live = self._live.get(name.lower())
        if live is None:
            return
        live.generation, live.surplus_since = _generation(), None
        self._notify()

    def deactivate(self, revision: Revision) -> None:
        """Ends the revision's replicas."""
        revision.active, revision.last_active = False, now_with_offset()
        self.revisions.save(revision)
        self.changed()

    def activate(self, revision: Revision) -> None:
        """Runs the revision again, with a replica until the scale rules say otherwise."""
        revision.active = True
        self.revisions.save(revision)
        self._stale = True
        self._reconcile()
        live = self._live[revision.name.lower()]
        if self._settings is not None and not self._settings.stopped and not live.live:
            live.activating = True
            self._begin(live, self._settings)
        self._notify()

    def live(self, name: str) -> LiveRevision | None:
        """The running side of a revision, None when it is not active."""
        return self._live.get(name.lower())

    def journal(self, replica: str) -> Journal:
        """The lines of a replica's container, also of one that has ended."""
        if replica not in self._journals:
            self._journals[replica] = Journal(self._around.folder / f"{replica}.log")
        return self._journals[replica]

    def revision_address(self, name: str) -> str | None:
        """Where one revision is reached, whatever the traffic rules say. None without ingress."""
        settings = self._around.settings()
        return f"{name}.app.localhost:{settings.port}" if settings.port else None

    def traffic_weight(self, revision: Revision) -> int:
        """Percent of the traffic by the rules: in single mode all of it is said to go to the newest one (recorded)."""
        settings = self._around.settings()
        latest = self.revisions.latest()
        is_latest = latest is not None and latest.name == revision.name
        if settings.mode == "Single":
            return 100 if is_latest and revision.active else 0
        return sum(
            rule.get("weight") or 0
            for rule in settings.traffic
            if (is_latest if rule.get("latestRevision") else rule.get("revisionName") == revision.name)
        )

    def cores_of_replicas(self) -> list[float]:
        """The cores that each replica of the app holds, of all revisions; one that waits for room holds none."""
        return [_cores(live.record.template) for live in self._live.values() for each in live.replicas if each.placed]

    @contextlib.asynccontextmanager
    async def replica_for(self, host: str) -> AsyncIterator[Replica]:
        """A ready replica for one request to `host`. Raises Refused."""
        revision = self._choose(host)
        revision.waiting += 1
        try:
            replica = await self._ready_replica(revision)
        finally:
            revision.waiting -= 1
        replica.in_flight += 1
        self._notify()
        try:
            yield replica
        finally:
            replica.in_flight -= 1
            self._notify()

    def _choose(self, host: str) -> LiveRevision:
        """The revision that the host names, or one by the traffic rules."""
        settings = self._settings or self._around.settings()
        active = {key: live for key, live in self._live.items() if live.record.active}
        if settings.stopped or not active:
            raise Refused(404, _STOPPED)
        named = active.get(host.partition(".")[0].lower())
        if named is not None:
            return named
        if settings.mode != "Single":
            weights = [(_by_rule(rule, active), rule.get("weight") or 0) for rule in settings.traffic]
            able = [(live, weight) for live, weight in weights if live is not None and weight > 0]
            if not able:
                raise Refused(404, _STOPPED)
            lives = [live for live, _ in able]
            return random.choices(lives, [weight for _, weight in able])[0]  # noqa: S311 (a share, not a secret)
        newest_first = sorted(active.values(), key=lambda live: -live.record.number)
        return next((live for live in newest_first if live.record.ready_once), newest_first[0])

    async def _ready_replica(self, revision: LiveRevision) -> Replica:
        end = time.monotonic() + self._pace.hold_seconds
        while True:
            if revision.ready:
                return min(revision.ready, key=lambda replica: replica.in_flight)
            if not revision.live and not revision.activating:
                revision.activating = True
                self._notify()
            if not revision.activating or self._closed:
                raise Refused(503, _NO_UPSTREAM)
            try:
                await within(end - time.monotonic(), self._turn.wait())
            except asyncio.TimeoutError:
                raise Refused(504, "stream timeout") from None

    async def _keep_reconciling(self) -> None:
        while not self._closed:
            self._wake.clear()
            try:
                self._reconcile()
            except Exception:
                # A defect of the stand-in: say so, and go on with the other apps.
                log.exception("app %s", self.app_id.name)
            with contextlib.suppress(asyncio.TimeoutError):
                await within(_TICK_SECONDS, self._wake.wait())

    def _reconcile(self) -> None:
        if self._stale or self._settings is None:
            self._stale = False
            self._settings = self._around.settings()
            self._take_up(self._settings)
        settings = self._settings
        for live in list(self._live.values()):
            self._note_readiness(live)
            self._scale(live, settings)
            if not live.record.active and not live.replicas:
                del self._live[live.record.name.lower()]
        if settings.mode == "Single":
            self._supersede()

    def _take_up(self, settings: Settings) -> None:
        """What the store says now about the revisions."""
        self.revisions.prune(settings.most_inactive)
        for record in self.revisions.all():
            key = record.name.lower()
            if key in self._live:
                self._live[key].record = record
                self._live[key].has_ingress = settings.target_port is not None
            elif record.active:
                self._live[key] = LiveRevision(record, settings.target_port is not None, generation=_generation())

    def _note_readiness(self, live: LiveRevision) -> None:
        if live.activating and live.ready:
            seconds = (datetime.now(timezone.utc) - live.ready[0].created).total_seconds()
            message = f"Replica is ready {seconds:.1f} s after it was scheduled"
            self._tell(live, live.ready[0].name, "ReplicaReady", message)
            log.info("%s: cold start, ready after %.1f s", live.record.name, seconds)
        if live.ready or live.crashing or not (live.live or live.waiting):
            live.activating = False
        if live.ready and not live.record.ready_once:
            live.record.ready_once = True
            self.revisions.save(live.record)
            self._tell(live, None, "RevisionReady", f"Revision '{live.record.name}' is ready")

    def _scale(self, live: LiveRevision, settings: Settings) -> None:
        old = [replica for replica in live.live if replica not in live.current]
        serving = [replica for replica in old if replica.ready]
        replaced = sum(replica.ready for replica in live.current) >= len(serving)
        # With a quota of one GPU a restart needs the room of what it replaces.
        replaced = replaced or any(replica.without_room for replica in live.current)
        for replica in old:
            # What a restart replaces goes on serving until as many new ones do.
            if replaced or replica not in serving:
                self._end(live, replica)
        if not live.record.active or settings.stopped:
            for replica in live.live:
                self._end(live, replica)
            return
        count, now = max(len(live.current), len(serving)), time.monotonic()
        in_flight = live.waiting + sum(replica.in_flight for replica in live.live)
        wanted = live.scale.wanted(in_flight)
        if not live.record.ready_once:
            wanted = max(wanted, 1)
        if wanted >= count:
            live.surplus_since = None
        else:
            live.surplus_since = live.surplus_since or now
            if now - live.surplus_since < live.scale.cooldown_seconds:
                wanted = count
        if wanted and not live.replicas:
            self._tell(live, None, "KEDAScaleTargetActivated", f"Scaled revision from 0 to {wanted}")
        if wanted and not live.live:
            # Once it has been ready, requests wait for it to be so again.
            live.activating = live.activating or live.record.ready_once
        for _ in range(wanted - len(live.current)):
            self._begin(live, settings)
        surplus = sorted(live.current, key=lambda replica: (replica.ready, replica.in_flight, replica.created))
        for replica in surplus[: max(len(live.current) - wanted, 0)]:
            self._end(live, replica)
        if not wanted and count:
            self._tell(live, None, "KEDAScaleTargetDeactivated", f"Deactivated revision from {count} to 0")

    def _supersede(self) -> None:
        """Single mode: once the newest revision is ready, the others have their time and are deactivated."""
        newest = max(self._live.values(), key=lambda live: live.record.number, default=None)
        if newest is None or not newest.record.ready_once:
            self._superseded_since.clear()
            return
        now = time.monotonic()
        for key, live in self._live.items():
            if live is newest or not live.record.active:
                continue
            since = self._superseded_since.setdefault(key, now)
            if now - since >= self._pace.quick(_KEEP_OLD_SECONDS):
                del self._superseded_since[key]
                self.deactivate(live.record)

    def _begin(self, live: LiveRevision, settings: Settings) -> None:
        record = live.record
        name = f"{record.name}-{live.generation}-{_letters(5)}"
        place = Place(self.app_id.name, record.name, name)

        def event(reason: str, message: str, warning: bool) -> None:
            self.events.add(event_line(place, reason, message, warning=warning))

        replica = Replica(
            name,
            self._orders(record, name, settings),
            self._around.store,
            self.journal(name),
            self._pace,
            self._notify,
            event,
        )
        live.replicas.append(replica)
        replica.start()
        self._forget_old_logs()

    def _forget_old_logs(self) -> None:
        """Keeps the newest logs of replicas, those that run among them."""
        running = {replica.journal.path for live in self._live.values() for replica in live.replicas}
        logs = [path for path in self._around.folder.glob(f"{self.app_id.name}--*.log*") if path not in running]
        for path in sorted(logs, key=lambda path: path.stat().st_mtime)[:-_KEPT_LOGS]:
            self._journals.pop(path.name.partition(".")[0], None)
            path.unlink()

    def _orders(self, record: Revision, replica: str, settings: Settings) -> Orders:
        template = record.template
        container = template["containers"][0]
        names = Names(self.app_id.name, record.name, replica, settings.domain)

        def launch(port: int, scratch: Path) -> Launch:
            if not any(each.placed for live in self._live.values() for each in live.replicas if each.name == replica):
                self._around.check_quota(_cores(template))
            return plan(
                names,
                container,
                template["volumes"] or [],
                self._around.secrets(),
                self._around.share_folder,
                target_port=settings.target_port,
                port=port,
                scratch=scratch,
            )

        grace = template["terminationGracePeriodSeconds"]
        return Orders(
            container["name"],
            launch,
            probes_of(container, settings.target_port, settings.has_gpu),
            settings.target_port,
            _DEFAULT_GRACE_SECONDS if grace is None else grace,
        )

    def _end(self, live: LiveRevision, replica: Replica) -> None:
        async def end() -> None:
            await replica.stop()
            live.replicas.remove(replica)
            live.ended = [*live.ended, replica][-_REMEMBERED_REPLICAS:]
            self._notify()

        replica.announce_stop()
        task = asyncio.create_task(end(), name=f"end {replica.name}")
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    def _tell(self, live: LiveRevision, replica: str | None, reason: str, message: str) -> None:
        self.events.add(event_line(Place(self.app_id.name, live.record.name, replica), reason, message))

    def _notify(self) -> None:
        self._wake.set()
        turn, self._turn = self._turn, asyncio.Event()
        turn.set()


def _by_rule(rule: Mapping[str, Any], active: Mapping[str, LiveRevision]) -> LiveRevision | None:
    """The revision that a traffic rule names."""
    if rule.get("latestRevision"):
        ready = [live for live in active.values() if live.record.ready_once] or list(active.values())
        return max(ready, key=lambda live: live.record.number, default=None)
    return active.get(str(rule.get("revisionName")).lower())


def _cores(template: Mapping[str, Any]) -> float:
    """What a replica of the template takes."""
    return sum(float(container["resources"]["cpu"]) for container in template["containers"])


def _generation() -> str:
    """As the hash of a replica set."""
    return secrets.token_hex(5)[:9]


def _letters(count: int) -> str:
    return "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(count))

"""The app's running side: restart it, wait until it serves a release, its state, its log.

Knows the container app, its revisions and replicas, and /ready. Knows no share and nothing of how a release got there.
The resource manager says Succeeded while a revision starts and also when its container crashes, so what counts here is
the revision's running state and what /ready answers.
"""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import takewhile
from pathlib import Path
from typing import Any, Protocol

import httpx

from scripts import cloud
from scripts.endpoint import Endpoint, Readiness
from scripts.errors import CloudError, NotFound, NotReady, NotSignedIn, Unanswered, Unreachable, Untrusted

CANNOT_SERVE = "the model cannot be served:"
"""What the app writes into its log, with the reason behind it, when its model does not load (inference/engine.py)."""

ENDED = " serve: ended"
"""In its last line, behind which a process that is started in its place writes (inference/serve.py)."""

LONGEST_TAIL = 300
"""The most lines of the past that the log stream gives (azure-cli: containerapp logs show --tail)."""

_CRASHES = 2
_LOG_LINES_SHOWN = 30
_OWN_LOG_LINE = re.compile(r"\d{4}-\d\d-\d\dT[\d:]+Z [A-Z]+ \w+: (.+)")
"""As start.sh and inference/serve.py write them, behind the platform's own time."""

_FAILED_STATES = {"failed", "degraded"}
_ASLEEP_STATES = {"scaledtozero", "deprovisioning"}
_END_STATUSES = {"ready", "failed"}


@dataclass(frozen=True)
class ReplicaState:
    """One replica: its running state (Running, NotRunning, Unknown), and how often its containers started again."""

    name: str
    running_state: str
    details: str
    restarts: int
    created: datetime | None
    container: str


@dataclass(frozen=True)
class RevisionState:
    """The active revision and its replicas, newest first, in Azure's words."""

    name: str
    running_state: str
    health_state: str
    provisioning_state: str
    details: str
    replicas: tuple[ReplicaState, ...]

    @property
    def has_failed(self) -> bool:
        """Whether Azure says that the revision does not run; true also for a while after the cause is gone."""
        return (
            self.running_state.lower() in _FAILED_STATES
            or self.provisioning_state.lower() == "failed"
            or self.health_state.lower() == "unhealthy"
        )

    @property
    def is_asleep(self) -> bool:
        """Whether it is scaled to zero; replicas that have ended stay listed for a while."""
        return not self.replicas or self.running_state.lower() in _ASLEEP_STATES

    def as_it_is(self) -> Restart:
        """What to wait for where nothing is restarted: what runs or starts, and nothing of what has ended."""
        ended = frozenset(one.name for one in self.replicas if one.running_state.lower() != "running")
        return Restart(self.name, ended, self.has_failed, self.is_asleep)

    def __str__(self) -> str:
        state = f"{self.name}: {self.provisioning_state}, {self.running_state}, health {self.health_state}"
        return f"{state} ({self.details})" if self.details else state


@dataclass(frozen=True)
class Restart:
    """What was there before a restart: whoever waits for the new replica must not take the old one for it."""

    revision: str
    replicas_before: frozenset[str]
    had_failed: bool
    was_asleep: bool = False


@dataclass(frozen=True)
class Pace:
    """How often wait_until_ready asks, and how long it takes what Azure says of a revision for what was before.

    answer_seconds is how long it listens for an answer: the ingress holds a request for which no replica is ready, and
    meanwhile what the replica does is to be looked at.

    Right after a restart a revision still shows the state that it had; one that had failed shows that for longer.
    """

    poll_seconds: float = 1.0
    answer_seconds: float = 5.0
    state_every_seconds: float = 5.0
    grace_seconds: float = 20.0
    grace_after_failure_seconds: float = 60.0


class AppsClient(Protocol):
    """What is used of the SDK's ContainerAppsAPIClient: three of its groups of operations."""

    container_apps: Any
    container_apps_revisions: Any
    container_apps_revision_replicas: Any


class App:
    """One container app. certificate is the PEM file to trust for its log stream, None for what this machine trusts."""

    def __init__(self, client: AppsClient, *, resource_group: str, name: str, certificate: Path | None = None) -> None:
        self._client = client
        self._resource_group = resource_group
        self._name = name
        self._certificate = certificate

    def state(self) -> RevisionState:
        """The active revision, the newest where there are several, and its replicas (two requests).

        Raises NotFound when the app has no active revision.
        """
        with cloud.translated(f"listing the revisions of the app {self._name}"):
            revisions = list(self._client.container_apps_revisions.list_revisions(self._resource_group, self._name))
        active = [
            (str(revision.name), revision.properties)
            for revision in revisions
            if revision.properties and revision.properties.active
        ]
        if not active:
            raise NotFound(
                f"The container app {self._name} has no active revision.",
                "Run `inferops provision` for the environment, or activate a revision in the portal.",
            )
        name, properties = max(active, key=lambda revision: _moment(revision[1].created_time))
        with cloud.translated(f"listing the replicas of the revision {name}"):
            listed = self._client.container_apps_revision_replicas.list_replicas(self._resource_group, self._name, name)
        replicas = sorted(map(_replica, listed.value or []), key=lambda replica: _moment(replica.created), reverse=True)
        told = [properties.provisioning_error, properties.get("runningStateDetails")]
        return RevisionState(
            name=name,
            running_state=_word(properties.running_state),
            health_state=_word(properties.health_state),
            provisioning_state=_word(properties.provisioning_state),
            details="; ".join(dict.fromkeys(str(part) for part in told if part)),
            replicas=tuple(replicas),
        )

    def restart(self) -> Restart:
        """Restart the active revision: its replicas start again and read `current`; no new revision is made."""
        before = self.state()
        with cloud.translated(f"restarting the revision {before.name}"):
            self._client.container_apps_revisions.restart_revision(self._resource_group, self._name, before.name)
        names = frozenset(replica.name for replica in before.replicas)
        return Restart(before.name, names, before.has_failed, before.is_asleep)

    def log_lines(
        self, *, tail: int = 100, follow: bool = False, other_than: frozenset[str] = frozenset()
    ) -> Iterator[str]:
        """Lines of the newest replica's log: the last `tail` (0 to 300), and with follow what comes, until it ends.

        Where there is a choice it is none of `other_than`: Azure tells in whole seconds when a replica was made, so one
        may look as old as the one whose place it takes. Raises NotFound when no replica runs (scaled to zero),
        CloudError when the stream is refused.
        """
        state = self.state()
        if not state.replicas:
            raise NotFound(
                f"The app {self._name} has no replica now, and a log belongs to a replica.",
                "Send it a request (inferops chat), which starts one; older lines are in its Log Analytics workspace.",
            )
        replica = next((one for one in state.replicas if one.name not in other_than), state.replicas[0])
        with cloud.translated(f"asking for the log stream of the app {self._name}"):
            app = self._client.container_apps.get(self._resource_group, self._name)
            token = self._client.container_apps.get_auth_token(self._resource_group, self._name)
        bearer = token.properties.token if token.properties else None
        stream_endpoint = str(app.properties.event_stream_endpoint or "") if app.properties else ""
        if "/subscriptions/" not in stream_endpoint or not bearer:
            raise CloudError(
                f"Azure does not say where the log of the app {self._name} can be read.",
                "Look into its Log Analytics workspace.",
            )
        # As azure-cli does: the stream's host, then the app's own path; the SDK has no method for it.
        host = stream_endpoint[: stream_endpoint.index("/subscriptions/")]
        subscription = str(app.id).split("/")[2]
        url = (
            f"{host}/subscriptions/{subscription}/resourceGroups/{self._resource_group}"
            f"/containerApps/{self._name}/revisions/{state.name}/replicas/{replica.name}"
            f"/containers/{replica.container}/logstream"
        )
        parameters = {
            "follow": str(follow).lower(),
            "output": "text",
            "tailLines": str(min(max(tail, 0), LONGEST_TAIL)),
        }
        context = ssl.create_default_context(cafile=None if self._certificate is None else str(self._certificate))
        timeout = httpx.Timeout(30, read=None if follow else 30)
        try:
            with (
                httpx.Client(verify=context, timeout=timeout) as client,
                client.stream("GET", url, params=parameters, headers={"Authorization": f"Bearer {bearer}"}) as stream,
            ):
                if stream.status_code != 200:
                    raise CloudError(
                        f"The log stream of the app {self._name} was refused: HTTP {stream.status_code}.",
                        "Ask again; right after a restart the replica has no log yet.",
                        status=stream.status_code,
                    )
                for line in stream.iter_lines():
                    if line:
                        yield line
        except httpx.HTTPError as error:
            raise Unreachable(
                f"The log stream of the app {self._name} broke off: {error or type(error).__name__}.",
                "Ask again.",
            ) from None

    def last_log_lines(self, *, other_than: frozenset[str] = frozenset()) -> tuple[str, ...]:
        """The last lines of the log, for an error's details; where there are none, one line that says why."""
        try:
            lines = tuple(self.log_lines(tail=_LOG_LINES_SHOWN, other_than=other_than))
        except CloudError as error:
            return (f"no log: {error.message}",)
        return tuple(f"log: {line}" for line in lines[-_LOG_LINES_SHOWN:]) or ("the replica's log is empty",)


def wait_until_ready(
    app: App,
    endpoint: Endpoint,
    release: str,
    restart: Restart,
    *,
    deadline_seconds: float,
    nothing_changed: bool = False,
    progress: Callable[[str], None] | None = None,
    pace: Pace = Pace(),
) -> Readiness:
    """Wait until /ready says 200 under the release; the asking itself wakes an app that is scaled to zero.

    nothing_changed: no replica is known to start or to end, so that one under another release is there to stay.
    progress is told what /ready answers and what the new replica writes into its log, each thing once.
    Raises NotReady, with the revision's state and the last lines of the log, as soon as the new replica is known to
    have failed (/ready says so under this release, its container crashed repeatedly, or Azure calls the revision
    failed) or another release's is there to stay, or when the deadline passes. Raises NotSignedIn when the app keeps
    refusing the key, Untrusted when its certificate is not to be trusted.
    """
    started = time.monotonic()
    grace = pace.grace_after_failure_seconds if restart.had_failed else pace.grace_seconds
    looked_at, failures_seen = started, 0
    told: set[str] = set()

    def tell(text: str) -> None:
        if progress and text not in told:
            told.add(text)
            progress(text)

    while True:
        elapsed = time.monotonic() - started
        try:
            readiness = endpoint.ready(answer_seconds=min(pace.answer_seconds, max(1.0, deadline_seconds - elapsed)))
            now = _described(readiness, release)
            has_ended = readiness.status in _END_STATUSES and readiness.release == release
            # The old replica may serve the same release, or have failed under it, until it is gone.
            if has_ended and readiness.status == "ready" and readiness.http_status == 200:
                if _replaced(app, restart, in_place=elapsed > grace):
                    return readiness
                now = "an old replica still runs"
            elif has_ended and (elapsed > grace or not _old_one_runs(app, restart)):
                raise _not_ready(
                    app, restart, f"The app cannot serve release {release}: {readiness.error or 'no reason given'}."
                )
            if nothing_changed and readiness.release and readiness.release != release:
                raise _not_ready(app, restart, f"The app serves release {readiness.release} and not {release}.")
            stranger = readiness.status == "ready" and readiness.release is None
            if stranger and elapsed > grace and not _old_one_runs(app, restart):
                raise NotSignedIn(
                    f"{endpoint.url} is ready but does not name its release: it does not accept this key.",
                    "Set INFERENCE_API_KEY to the app's key, or unset it to use the key of the app.",
                )
            tell(now)
        except Untrusted:
            raise
        except Unanswered as error:
            # Held, as no replica is ready: what its log says, below, tells more.
            now = error.message
        except CloudError as error:
            # The old replica may answer still, with the key that it was started with.
            if isinstance(error, NotSignedIn) and elapsed > grace and not _old_one_runs(app, restart):
                raise
            now = error.message
            tell(now)
        elapsed = time.monotonic() - started
        if time.monotonic() - looked_at >= pace.state_every_seconds:
            looked_at = time.monotonic()
            state = app.state()
            lines = _new_log(app, state, restart)
            of_this_process = takewhile(lambda line: ENDED not in line, lines)
            told_why = (line.partition(CANNOT_SERVE)[2].strip() for line in of_this_process if CANNOT_SERVE in line)
            reason = next(told_why, None)
            if reason:
                raise _not_ready(app, restart, f"The app cannot serve release {release}: {reason}.")
            own = next(filter(None, map(_OWN_LOG_LINE.search, lines)), None)
            if own:
                tell(f"the replica: {own[1]}")
            finding = _failure(state, restart, may_be_old=elapsed < grace)
            failures_seen = failures_seen + 1 if finding else 0
            if failures_seen > 1:
                raise _not_ready(app, restart, f"The app does not start under release {release}: {finding}.")
        if elapsed >= deadline_seconds:
            raise _not_ready(
                app, restart, f"The app did not serve release {release} within {deadline_seconds:.0f} s; last: {now}."
            )
        time.sleep(pace.poll_seconds)


def _replaced(app: App, restart: Restart, *, in_place: bool) -> bool:
    """Whether every request reaches a replica that started after the restart.

    in_place: by now, replicas that are all called as before were restarted under their names. Of several replicas some
    are old for as long as the others start.
    """
    if not _old_one_runs(app, restart):
        return True
    return in_place and all(replica.name in restart.replicas_before for replica in app.state().replicas)


def _old_one_runs(app: App, restart: Restart) -> bool:
    return bool(restart.replicas_before) and any(
        replica.name in restart.replicas_before and replica.running_state.lower() == "running"
        for replica in app.state().replicas
    )


def _new_log(app: App, state: RevisionState, restart: Restart) -> list[str]:
    """The last lines that the new replica wrote, the newest first; none where there is no such replica or log.

    A replica that is not ready gets no request from outside, so its /ready, which says the same, cannot be asked.
    """
    if all(replica.name in restart.replicas_before for replica in state.replicas):
        return []
    try:
        return list(app.log_lines(tail=_LOG_LINES_SHOWN, other_than=restart.replicas_before))[::-1]
    except CloudError:
        return []  # no log yet, or no stream: what Azure says of the revision decides


def _failure(state: RevisionState, restart: Restart, *, may_be_old: bool) -> str | None:
    """Why the new replica will not come, or None. may_be_old: what Azure says of the revision may be of before."""
    new = [replica for replica in state.replicas if replica.name not in restart.replicas_before]
    for replica in new:
        if replica.restarts >= _CRASHES:
            return f"its container crashed {replica.restarts} times" + (f" ({replica.details})" * bool(replica.details))
    # While its only replica loads a large model a revision may be called unhealthy.
    if may_be_old or any(replica.running_state.lower() == "running" and not replica.restarts for replica in new):
        return None
    return f"the revision is {state}" if state.has_failed else None


def _not_ready(app: App, restart: Restart, message: str) -> NotReady:
    try:
        details = [str(app.state()), *app.last_log_lines(other_than=restart.replicas_before)]
    except CloudError as error:
        details = [f"no state: {error.message}"]
    return NotReady(message, "Correct what the log says and deploy again.", details=details)


def _described(readiness: Readiness, release: str) -> str:
    if readiness.release is not None and readiness.release != release:
        return f"release {readiness.release} still answers"
    return f"{readiness.status}: {readiness.phase}" if readiness.phase else readiness.status


def _replica(replica: Any) -> ReplicaState:
    properties = replica.properties
    containers = list(properties.containers or []) if properties else []
    told = [properties.running_state_details if properties else None]
    told += [container.running_state_details for container in containers]
    return ReplicaState(
        name=str(replica.name),
        running_state=_word(properties.running_state if properties else None),
        details="; ".join(dict.fromkeys(str(part) for part in told if part)),
        restarts=max((container.restart_count or 0 for container in containers), default=0),
        created=properties.created_time if properties else None,
        container=str(containers[0].name) if containers else "",
    )


def _moment(value: datetime | None) -> datetime:
    return value or datetime.min.replace(tzinfo=timezone.utc)


def _word(value: object) -> str:
    """A state as Azure writes it: an enumeration's value, a word that the SDK does not know yet, or nothing."""
    return str(getattr(value, "value", value)) if value else "Unknown"

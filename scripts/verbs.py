"""What each verb does, in order. Every function takes a Session and returns what there is to show.

Knows the steps and what to do when one fails; how a result is printed is cli.py's and report.py's.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripts import deployment, plan, proof, publish, release, replica, report
from scripts.deployment import Operation, Outputs, Request
from scripts.endpoint import Answer, Readiness
from scripts.errors import BadInput, InferopsError, NotFound, NotReady, Problem, ProofFailed
from scripts.parameters import value_message
from scripts.plan import Plan
from scripts.proof import ExpectedAnswer, Proof
from scripts.release import Lock, Package
from scripts.session import KEY_PARAMETER, KEY_VARIABLE, Session

READY_SECONDS = 40 * 60.0
"""How long a release may take to serve: the most that a container app's start-up probe allows (60 + 10 x 240 s)."""

LOCK_WAIT_SECONDS = 75.0
"""How long to wait for another deploy: longer than the lease of one that died."""

PUBLISHED = Path("infra")
PREVIEW_KEY = "the key is not needed for a preview"


@dataclass(frozen=True)
class Provisioned:
    """outputs of the deployment; changed is False when there was nothing to do; release is what serves, if any."""

    plan: Plan
    outputs: Outputs
    changed: bool
    release: str | None


@dataclass(frozen=True)
class Deployed:
    """The release that serves now, what it replaced, and how it was proven. changed is False when it served already."""

    release: release.Release
    previous: str | None
    changed: bool
    proof: Proof
    outputs: Outputs
    timings_seconds: Mapping[str, float]
    files: tuple[Path, Path]


@dataclass
class Timings:
    """Seconds by phase, in the order in which the phases began."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Counts the block's time to the phase."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - started


def what_if(session: Session) -> Plan:
    """What provision would change. Writes nothing; a reading identity suffices."""
    request = _request(session, None if _key_is_referenced(session) else _given_key(session) or PREVIEW_KEY)
    session.progress("asking Azure what would change")
    return plan.from_what_if(deployment.what_if(session.clients, request))


def provision(session: Session) -> Provisioned:
    """Bring the resources to what template and parameters say, and see that what served before still serves."""
    given_key, referenced = _given_key(session), _key_is_referenced(session)
    present = _present(session)
    held_key = _held_key(session, present)
    key = None if referenced else given_key or held_key
    if key is None and not referenced:
        advice = "Choose a long random text and set it; callers of the endpoint will need it"
        raise BadInput([Problem(None, KEY_VARIABLE, None, "the endpoint's key is not set", advice)])
    request = _request(session, key)
    session.progress("asking Azure what would change")
    planned = plan.from_what_if(deployment.what_if(session.clients, request))
    # Of a key in a vault nobody can tell here whether it is still the app's.
    if present is not None and planned.is_empty and key is not None and key == held_key:
        return Provisioned(planned, present, False, release.read_current_id(session.share))
    session.outputs = deployment.create(session.clients, request, _told(session.say))
    new_key = held_key is not None and session.app_key(session.outputs.aca_app_name) != held_key
    return Provisioned(planned, session.outputs, True, _still_serves(session, new_key=new_key))


def deploy(session: Session) -> Deployed:
    """Put the code and the models of this checkout into use: upload, switch, restart, prove, publish."""
    timings = Timings()
    model = session.environment.model
    with timings.phase("read"):
        package = release.prepare(
            session.root,
            base=model.base.local or model.base.path,
            adapters={name: folder.local or folder.path for name, folder in model.adapters.items()},
            commit=_commit(session.root),
        )
    release.check_folders(
        session.share, package, described_in=str(session.environment.files[0].relative_to(session.root))
    )
    with release.Lock(session.share, wait_seconds=LOCK_WAIT_SECONDS, say=session.say) as lock:
        before = release.read_current(session.share)
        target = package.release.id
        if before is not None and before.release == target and before.proven and _serves(session, target):
            shown = _prove(session, package, timings)
            if not shown.passed:
                raise ProofFailed(
                    f"Release {target}, which is in use already, does not answer as it must; nothing was changed.",
                    f"Correct the proof's prompts or the model. A new start may help too: "
                    f"inferops restart {session.name}",
                    details=_failures(shown),
                )
            return _published(session, package, None, False, shown, timings)
        previous = None
        if before is not None:
            # A deploy of this release that was cut off left behind what it was replacing.
            cut_off = before.release == target and not before.proven
            previous = before.previous if cut_off else before.fallback
        with timings.phase("upload"):
            _upload(session, package, lock)
        shown = _switch(session, package, previous, lock, timings)
    return _published(session, package, previous if previous != target else None, True, shown, timings)


def restart(session: Session) -> Readiness:
    """Restart the replica and wait until it serves the current release."""
    current = release.read_current_id(session.share)
    restarted = session.app.restart()
    session.say(f"restarted the revision {restarted.revision}")
    if current is None:
        raise NotFound(
            "The replica was restarted and waits: the share names no release yet.",
            f"Run: inferops deploy {session.name}",
        )
    return _wait(session, current, restarted)


def chat(session: Session, question: str, on_text: Callable[[str], None], **options: Any) -> Answer:
    """Ask the endpoint; on_text gets the answer as it comes. Options: model, max_tokens, temperature."""
    return session.endpoint.stream_chat(question, on_text, **options)


def publish_again(session: Session) -> tuple[Outputs, tuple[Path, Path]]:
    """Write the configuration of what serves now, without a proof."""
    current = release.read_current_id(session.share)
    manifest = release.read_release(session.share, current) if current else None
    if manifest is None:
        raise NotFound("The share names no release yet.", f"Run: inferops deploy {session.name}")
    record = publish.Record(session.name, manifest, {}, None, session.job.run_url)
    return session.outputs, publish.write(session.root / PUBLISHED, session.outputs, record, session.job)


def _request(session: Session, key: str | None) -> Request:
    return deployment.request(session.environment, session.template, {} if key is None else {KEY_PARAMETER: key})


def _key_is_referenced(session: Session) -> bool:
    """Whether the parameters take the key from a Key Vault."""
    return "reference" in session.environment.parameters.get(KEY_PARAMETER, {})


def _given_key(session: Session) -> str | None:
    """The key of the process environment. Raises BadInput when the template does not take it (it is too short)."""
    key, parameter = session.given_key, session.template.parameters.get(KEY_PARAMETER)
    wrong = None if key is None or parameter is None else value_message(key, parameter)
    if wrong is not None:
        raise BadInput([Problem(None, KEY_VARIABLE, None, f"the key {wrong}", "Choose a long random text")])
    return key


def _present(session: Session) -> Outputs | None:
    try:
        return deployment.last_outputs(session.clients, session.environment)
    except NotFound:
        return None


def _held_key(session: Session, present: Outputs | None) -> str | None:
    """The key that the app has now; None when there is no app yet."""
    if present is None:
        return None
    try:
        return session.app_key(present.aca_app_name)
    except NotFound:
        return None


def _told(say: Callable[[str], None]) -> Callable[[Operation], None]:
    def tell(operation: Operation) -> None:
        say(f"{operation.state}: {operation.resource_type} {operation.resource_name}")

    return tell


def _still_serves(session: Session, *, new_key: bool) -> str | None:
    """After a change of the resources: the release that serves, None before the first deploy. Raises NotReady."""
    current = release.read_current_id(session.share)
    if current is None:
        session.say(f"The resources are there; the app waits for its first release: inferops deploy {session.name}")
        return None
    if new_key:
        # A changed secret makes no new revision, and a replica reads it only when it starts
        # (learn.microsoft.com, "Manage secrets in Azure Container Apps").
        restarted = session.app.restart()
        session.say(f"restarted the revision {restarted.revision}, which takes the new key")
    else:
        state = session.app.state()
        restarted = replica.Restart(state.name, frozenset(), state.has_failed)
    _wait(session, current, restarted)
    return current


def _upload(session: Session, package: Package, lock: Lock) -> None:
    def progress(folder: str, done: Any) -> None:
        session.progress(f"{folder}: {done.files_done} of {done.files_total} files, {report.size(done.bytes_done)}")

    for folder in release.upload(session.share, package, lock, progress=progress):
        session.say(f"uploaded {folder}")


def _switch(session: Session, package: Package, previous: str | None, lock: Lock, timings: Timings) -> Proof:
    """Make the package's release the current one, proven; or put the previous one back and raise.

    Raises ProofFailed when it does not serve or answer as it must; anything else (Ctrl-C, no network) as it is.
    """
    target = package.release.id
    lock.check()
    try:
        # Within the block: whoever interrupts this very request may have come too late to keep it from being done.
        release.set_current(session.share, target, lock, previous=previous)
        with timings.phase("start"):
            restarted = session.app.restart()
            session.say(f"release {target} is current; restarted the revision {restarted.revision}")
            _wait(session, target, restarted)
        shown = _prove(session, package, timings)
        if not shown.passed:
            raise ProofFailed(f"Release {target} does not answer as it must.", "", details=_failures(shown))
    except (NotReady, ProofFailed) as failure:
        fate = _put_back(session, target, previous, lock, wait=True)
        raise ProofFailed(
            f"{failure.message} {fate}",
            "Correct what the lines above say and deploy again.",
            details=failure.details,
        ) from None
    except BaseException:
        # Interrupted or cut off: the shortest way back, without waiting for it.
        session.say(_put_back(session, target, previous, lock, wait=False))
        raise
    release.confirm_current(session.share, target, lock)
    return shown


def _put_back(session: Session, failed: str, previous: str | None, lock: Lock, *, wait: bool) -> str:
    """Make the previous release current again; tells in a sentence what has become of it."""
    try:
        if previous is None:
            release.remove_current(session.share, lock)
            session.app.restart()
            return "There was no release before it: the app waits for one that works."
        release.confirm_current(session.share, previous, lock)
        if previous == failed:
            return "It was in use before; there is no other to go back to."
        restarted = session.app.restart()
        if wait:
            session.say(f"putting release {previous} back")
            _wait(session, previous, restarted)
            return f"Release {previous} is back and serves."
        return f"Release {previous} is current again; its replica starts."
    except InferopsError as error:
        return (
            f"Putting {previous or 'the empty state'} back in place of {failed} failed too ({error.message});"
            " the next deploy takes up from here."
        )


def _wait(session: Session, target: str, restarted: replica.Restart) -> Readiness:
    return replica.wait_until_ready(
        session.app,
        session.endpoint,
        target,
        restarted,
        deadline_seconds=READY_SECONDS,
        progress=session.progress,
    )


def _serves(session: Session, target: str) -> bool:
    """Whether the app answers under the release already; wakes it when it sleeps."""
    state = session.app.state()
    if state.has_failed:
        return False
    if not state.replicas:
        session.progress("waking the app")
    try:
        _wait(session, target, replica.Restart(state.name, frozenset(), False))
    except NotReady:
        return False
    return True


def _prove(session: Session, package: Package, timings: Timings) -> Proof:
    expected = [ExpectedAnswer(wanted.prompt, wanted.contains or "") for wanted in session.environment.proof.prompts]
    base = package.release.base.rpartition("/")[2]

    def tell(check: proof.Check) -> None:
        session.say(f"{'passed' if check.passed else 'FAILED'}: {check.name} ({check.detail})")

    with timings.phase("proof"):
        shown = proof.prove(
            session.endpoint,
            release=package.release.id,
            models=[base, *package.release.adapters],
            expected=expected,
            on_check=tell,
        )
    if not shown.passed:
        # What passed is part of the summary of what is published.
        session.job.add_summary(report.proof_markdown(shown))
    return shown


def _failures(shown: Proof) -> list[str]:
    return [f"{check.name}: {check.detail}" for check in shown.failures]


def _published(
    session: Session, package: Package, previous: str | None, changed: bool, shown: Proof, timings: Timings
) -> Deployed:
    record = publish.Record(session.name, package.release, timings.seconds, shown, session.job.run_url)
    files = publish.write(session.root / PUBLISHED, session.outputs, record, session.job)
    return Deployed(package.release, previous, changed, shown, session.outputs, timings.seconds, files)


def _commit(root: Path) -> str | None:
    """The checkout's commit; None outside Git. A tree with changes that are not committed gets a mark."""
    try:
        head = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        dirty = subprocess.run(["git", "-C", str(root), "status", "--porcelain"], capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("-dirty" if dirty.stdout.strip() else "")

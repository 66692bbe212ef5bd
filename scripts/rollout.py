"""Putting a release into use: deploy and rollback. Each takes a Session and returns what there is to show.

Knows the order of the steps and what to do when one fails: the release before is put back. How a result is printed is
cli.py's and report.py's.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from scripts import comparison, diff, history, lineage, proof, publish, replica, report
from scripts import release as releases
from scripts.comparison import Earlier, ExpectedAnswer
from scripts.deployment import Outputs
from scripts.diff import Difference
from scripts.endpoint import Readiness
from scripts.errors import InferopsError, NotFound, NotReady, ProofFailed
from scripts.gap import GapWatch
from scripts.lock import Lock
from scripts.progress import Progress
from scripts.proof import Proof
from scripts.release import Current, Package, Release
from scripts.session import Session

READY_SECONDS = 40 * 60.0
"""How long a release may take to serve: the most that a container app's start-up probe allows (60 + 10 x 240 s)."""

LOCK_WAIT_SECONDS = 75.0
"""How long to wait for another run: longer than the lease of one that died."""

PUBLISHED = Path("infra")


@dataclass(frozen=True)
class Deployed:
    """The release that serves now, what it replaced, and how it was proven. changed is False when it served already."""

    release: Release
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


def deploy(session: Session) -> Deployed:
    """Put the code and the models of this checkout into use: upload, switch, restart, prove, publish.

    When the release is in use already, one request to the share finds it out, and nothing is written or restarted.
    """
    timings = Timings()
    package = packed(session, timings)
    share, target = session.share, package.release
    found = releases.read_current(share)
    if _is_in_use(session, target, found):
        return _proven_again(session, target, timings)
    releases.check_folders(share, target, package.uploaded_folders, described_in=_described_in(session))
    lineage.check(share, package)
    difference = diff.against(share, package, found.release if found else None)
    if not difference.is_empty:  # otherwise it was said why it is deployed nevertheless
        session.say(report.difference_counts(difference))
    with locked(session) as lock:
        before = releases.read_current(share)
        if before != found and _is_in_use(session, target, before):
            return _proven_again(session, target, timings)
        previous = _fallback(before, target)
        with history.recorded(share, lock, _entry(session, "deploy", target, before), before, say=session.say) as run:
            with timings.phase("upload"):
                _upload(session, package, lock, before)
            slowest = session.environment.proof.slowest
            # What wakes is what `current` names, and that need not be what this goes back to.
            wake = slowest is not None and previous == before
            earlier = _answers_before(session, previous, timings, wake=wake)
            shown = _switch(session, target, previous, lock, run, timings, earlier, slowest)
    replaced = previous.release if previous is not None and previous.release != target.id else None
    return _published(session, target, replaced, True, shown, timings)


def planned(session: Session) -> Difference:
    """What deploy would bring onto the share. Writes nothing."""
    package = packed(session, Timings())
    described_in = _described_in(session)
    releases.check_folders(session.share, package.release, package.uploaded_folders, described_in=described_in)
    lineage.check(session.share, package)
    return diff.against(session.share, package, releases.read_current_id(session.share))


def rollback(session: Session, name: str | None = None) -> Deployed:
    """Put an earlier release back into use: one write of `current`, a restart, the proof, the publication.

    Without a name it is the last one that was proven before the one in use. Raises ProofFailed when it does not answer
    as it must and what was in use is back, InferopsError when that is not; BadInput or NotFound when there is no such
    release.
    """
    timings = Timings()
    share = session.share
    with locked(session) as lock:
        before = releases.read_current(share)
        if before is None:
            raise NotFound("The share names no release yet.", f"Run: inferops deploy {session.name}")
        target = releases.find(share, name) if name is not None else _proven_before(session, before)
        if _is_in_use(session, target, before):
            return _proven_again(session, target, timings)
        releases.check_folders(share, target, described_in=f"releases/{target.id}/{releases.MANIFEST}")
        previous = _fallback(before, target)
        with history.recorded(share, lock, _entry(session, "rollback", target, before), before, say=session.say) as run:
            # Shown beside each other, and no condition: who goes back does not ask for speed.
            earlier = _answers_before(session, previous, timings, wake=False)
            shown = _switch(session, target, previous, lock, run, timings, earlier, None)
    return _published(session, target, before.release, True, shown, timings)


def packed(session: Session, timings: Timings) -> Package:
    """The release that this checkout makes. Raises BadInput for whatever cannot be sent."""
    model = session.environment.model
    with timings.phase("read"):
        return releases.prepare(
            session.root,
            base=model.base.local or model.base.path,
            adapters={name: folder.local or folder.path for name, folder in model.adapters.items()},
            commit=_commit(session.root),
        )


def locked(session: Session) -> Lock:
    """The lock of the environment's share; Locked tells who holds it."""
    share = session.share
    return Lock(share, wait_seconds=LOCK_WAIT_SECONDS, holder=lambda: history.holder(share), say=session.say)


def wait(session: Session, release_id: str, restarted: replica.Restart, *, nothing_changed: bool = False) -> Readiness:
    """Wait until the app serves the release. Raises NotReady. nothing_changed is replica.wait_until_ready's."""
    return replica.wait_until_ready(
        session.app,
        session.endpoint,
        release_id,
        restarted,
        deadline_seconds=READY_SECONDS,
        nothing_changed=nothing_changed,
        progress=session.progress,
    )


def _described_in(session: Session) -> str:
    return str(session.environment.files[0].relative_to(session.root))


def _entry(session: Session, verb: history.Verb, target: Release, before: Current | None) -> history.Entry:
    return history.begun(verb, session.who, target, previous=before.release if before else None)


def _fallback(before: Current | None, target: Release) -> Current | None:
    """What to go back to when the target fails; None when there is nothing else.

    It is the last release that was proven, or one that never was where there is no other.
    """
    if before is None:
        return None
    back = before.fallback
    # A run that was cut off leaves the target itself behind, not proven.
    return None if back.release == target.id and not back.proven else back


def _proven_before(session: Session, before: Current) -> Release:
    """The release to go back to when none is named."""
    share = session.share
    if not before.proven and before.previous is not None:
        candidates: tuple[str, ...] = (before.previous,)
    else:
        candidates = history.proven_before(history.read(share, before), before.release)
    for candidate in candidates:
        found = releases.read_release(share, candidate)
        if found is not None:
            return found
    raise NotFound(
        f"The share has no release that was proven before {before.release}.",
        f"Name one of those that inferops history {session.name} shows.",
    )


def _is_in_use(session: Session, target: Release, current: Current | None) -> bool:
    """Whether the release is the proven one in use and answers; wakes the app when it sleeps.

    Says why not, of one that `current` names.
    """
    if current is None or current.release != target.id:
        return False
    why = _why_not_in_use(session, current)
    if why is not None:
        session.say(f"release {target.id} is current, but {why}")
    return why is None


def _why_not_in_use(session: Session, current: Current) -> str | None:
    if not current.proven:
        return "it was never proven"
    state = session.app.state()
    if state.has_failed:
        return f"the app does not run: {state}"
    if state.is_asleep:
        session.progress("waking the app, which is scaled to zero: a replica starts and loads the model")
    try:
        wait(session, current.release, state.as_it_is(), nothing_changed=True)
    except NotReady as failure:
        return f"it does not serve: {failure.message}"
    return None


def _proven_again(session: Session, target: Release, timings: Timings) -> Deployed:
    """The proof of the release that is in use already. Raises InferopsError when it fails; nothing is changed."""
    shown = _prove(session, target, timings)
    if not shown.passed:
        raise InferopsError(
            f"Release {target.id}, which is in use already, does not answer as it must; nothing was changed.",
            f"Correct the proof's prompts or the model. A new start may help too: inferops restart {session.name}",
            details=_failures(shown),
        )
    return _published(session, target, None, False, shown, timings)


def _upload(session: Session, package: Package, lock: Lock, before: Current | None) -> None:
    def progress(folder: str, done: Progress) -> None:
        session.progress(f"{folder}: {report.transfer(done)}")

    earlier = before.release if before is not None else None
    try:
        made = releases.upload(session.share, package, lock, earlier=earlier, progress=progress)
    except BaseException:
        in_use = "the app has no release yet" if earlier is None else f"release {earlier} stays in use"
        session.say(f"{in_use}; the next deploy goes on with what was uploaded")
        raise
    for folder in made:
        session.say(f"uploaded {folder}")


def _answers_before(session: Session, previous: Current | None, timings: Timings, *, wake: bool) -> Earlier | None:
    """What the release in use answers to the proof's prompts, before it is replaced; None when it does not serve.

    An app that sleeps is woken only if asked.
    """
    expected = _expected(session)
    if previous is None or not expected:
        return None
    with timings.phase("compare"):
        state = session.app.state()
        if state.has_failed or (state.is_asleep and not wake):
            return None
        if state.is_asleep:
            session.progress("waking the app, to compare the release in use with the new one")
            try:
                wait(session, previous.release, state.as_it_is(), nothing_changed=True)
            except NotReady:
                return None
        return comparison.take(session.endpoint, previous.release, expected)


def _switch(
    session: Session,
    target: Release,
    previous: Current | None,
    lock: Lock,
    run: history.Run,
    timings: Timings,
    earlier: Earlier | None,
    slowest: float | None,
) -> Proof:
    """Make the release the current one, proven; or put the previous one back and raise.

    earlier is what the release in use answered; slowest the least share of its speed that will do. Raises ProofFailed
    when the release does not serve or answer as it must and the previous one is back, InferopsError when there is none
    or putting it back failed too; anything else (Ctrl-C, no network) as it is.
    """
    lock.check()
    try:
        # Within the block: whoever interrupts this very request may have come too late to keep it from being done.
        # What was never proven is not what a run goes back to that finds this one cut off.
        known_good = previous.release if previous is not None and previous.proven else None
        releases.set_current(session.share, target.id, lock, previous=known_good)
        with timings.phase("start"):
            _restart(session, target.id, timings, served_before=previous is not None)
        shown = _prove(session, target, timings, earlier, slowest)
        if not shown.passed:
            raise ProofFailed(f"Release {target.id} does not answer as it must.", "", details=_failures(shown))
    except (NotReady, ProofFailed) as failure:
        is_back, fate = _put_back(session, target.id, previous, lock, wait_for_it=True)
        raise (ProofFailed if is_back else InferopsError)(
            f"{failure.message} {fate}",
            "Correct what the lines above say and deploy again.",
            details=failure.details,
        ) from None
    except BaseException:
        # Interrupted or cut off: the shortest way back, without waiting for it.
        _, fate = _put_back(session, target.id, previous, lock, wait_for_it=False)
        session.say(fate)
        raise
    _note_as_proven(session, target.id, lock, run)
    return shown


def _note_as_proven(session: Session, release_id: str, lock: Lock, run: history.Run) -> None:
    """Note that the release in use passed its proof. When that fails the release serves nevertheless, and is left."""
    serves = f"Release {release_id} serves, having passed its proof; it may not be noted as proven yet."
    run.left_open = True  # what is to be remembered of it stands in `current`, and the next run looks there
    try:
        releases.confirm_current(session.share, release_id, lock)
    except InferopsError as failure:
        raise InferopsError(
            f"{failure.message} {serves}",
            f"The next deploy of it notes it, and so does: inferops rollback {session.name} {release_id}",
            details=failure.details,
        ) from failure
    except BaseException:
        session.say(f"{serves} The next deploy of it notes it.")
        raise


def _restart(session: Session, release_id: str, timings: Timings, *, served_before: bool) -> None:
    """Restart the replicas, wait until the release serves, and tell how long nobody was answered meanwhile."""
    restarted = session.app.restart()
    session.say(f"release {release_id} is current; restarted the revision {restarted.revision}")
    if not served_before or restarted.was_asleep:  # there is nobody who could notice
        wait(session, release_id, restarted)
        return
    with GapWatch(session.endpoint) as watch:
        wait(session, release_id, restarted)
    timings.seconds["unanswered"] = watch.seconds
    session.say(report.gap(watch.seconds))


def _put_back(
    session: Session, failed: str, previous: Current | None, lock: Lock, *, wait_for_it: bool
) -> tuple[bool, str]:
    """Make the previous release current again; whether it is, and in a sentence what has become of it."""
    name = "the empty state" if previous is None else previous.release + ("" if previous.proven else " (never proven)")
    try:
        if previous is None:
            releases.remove_current(session.share, lock)
            session.app.restart()
            return False, "There was no release before it: the app waits for one that works."
        releases.restore_current(session.share, previous, lock)
        if previous.release == failed:
            return False, "It was in use before; there is no other to go back to."
        restarted = session.app.restart()
        if wait_for_it:
            session.say(f"putting release {name} back")
            wait(session, previous.release, restarted)
            return True, f"Release {name} is back and serves."
        return True, f"Release {name} is current again; its replica starts."
    except InferopsError as error:
        return False, (
            f"Putting {name} back in place of {failed} failed too ({error.message});"
            " the next deploy takes up from here."
        )


def _expected(session: Session) -> list[ExpectedAnswer]:
    prompts = session.environment.proof.prompts
    return [ExpectedAnswer(wanted.prompt, wanted.contains or "", wanted.model) for wanted in prompts]


def _prove(
    session: Session,
    target: Release,
    timings: Timings,
    earlier: Earlier | None = None,
    slowest: float | None = None,
) -> Proof:
    base = target.base.rpartition("/")[2]

    def tell(check: proof.Check) -> None:
        session.say(f"{'passed' if check.passed else 'FAILED'}: {check.name} ({check.detail})")

    with timings.phase("proof"):
        shown = proof.prove(
            session.endpoint,
            release=target.id,
            models=[base, *target.adapters],
            expected=_expected(session),
            earlier=earlier,
            slowest=slowest,
            on_check=tell,
        )
    if earlier is not None:
        session.say(report.comparison_text(shown))
    if not shown.passed:
        # What passed is part of the summary of what is published.
        session.job.add_summary(report.proof_markdown(shown))
    return shown


def _failures(shown: Proof) -> list[str]:
    return [f"{check.name}: {check.detail}" for check in shown.failures]


def _published(
    session: Session, target: Release, previous: str | None, changed: bool, shown: Proof, timings: Timings
) -> Deployed:
    record = publish.Record(session.name, target, timings.seconds, shown, session.job.run_url)
    files = publish.write(session.root / PUBLISHED, session.outputs, record, session.job)
    return Deployed(target, previous, changed, shown, session.outputs, timings.seconds, files)


def _commit(root: Path) -> str | None:
    """The checkout's commit; None outside Git. A tree with changes that are not committed gets a mark."""
    try:
        head = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        dirty = subprocess.run(["git", "-C", str(root), "status", "--porcelain"], capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("-dirty" if dirty.stdout.strip() else "")

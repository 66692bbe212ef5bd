"""What the other verbs do, in order. Every function takes a Session and returns what there is to show.

Knows the steps and what to do when one fails; how a result is printed is cli.py's and report.py's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts import deployment, diff, garbage, history, plan, publish, pull, release, replica, report, rollout
from scripts.deployment import Operation, Outputs, Request
from scripts.diff import Difference
from scripts.endpoint import Answer, Readiness
from scripts.errors import BadInput, NotFound, Problem
from scripts.garbage import Garbage
from scripts.parameters import value_message
from scripts.plan import Plan
from scripts.progress import Progress
from scripts.release import Release
from scripts.session import KEY_PARAMETER, KEY_VARIABLE, Session

PREVIEW_KEY = "the key is not needed for a preview"


@dataclass(frozen=True)
class Provisioned:
    """outputs of the deployment; changed is False when there was nothing to do; release is what serves, if any."""

    plan: Plan
    outputs: Outputs
    changed: bool
    release: str | None


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
    return rollout.wait(session, current, restarted)


def chat(session: Session, question: str, on_text: Callable[[str], None], **options: Any) -> Answer:
    """Ask the endpoint; on_text gets the answer as it comes. Options: model, max_tokens, temperature."""
    return session.endpoint.stream_chat(question, on_text, **options)


def difference(session: Session) -> Difference:
    """What this checkout changes against the release in use, with the texts of short files."""
    package = rollout.packed(session, rollout.Timings())
    return diff.against(session.share, package, release.read_current_id(session.share), with_texts=True)


def collect_garbage(session: Session, *, keep: int, agreed: Callable[[Garbage], bool]) -> Garbage:
    """Remove releases and adapters that nobody needs, if `agreed` says so of what was found; returns what was removed.

    agreed is asked before the lock is taken, since a person may take long to answer: what somebody has come to need
    meanwhile stays.
    """
    share = session.share
    found = garbage.find(share, keep=keep)
    if not found.items or not agreed(found):
        return Garbage((), found.kept)
    shown = {item.folder for item in found.items}
    with rollout.locked(session) as lock:
        now = garbage.find(share, keep=keep)
        items = tuple(item for item in now.items if item.folder in shown)
        current = release.read_current(share)
        with history.recorded(share, lock, history.begun("gc", session.who), current, say=session.say) as run:
            garbage.remove(share, lock, items, progress=lambda item: session.progress(f"removed {item.folder}"))
            removed = Garbage(items, now.kept)
            run.detail = report.garbage_counts(removed)
    return removed


def pull_release(session: Session, name: str, folder: Path, *, with_adapters: bool) -> tuple[Release, int]:
    """Bring a release of the share into a local folder; returns it and how many files it is."""
    pull.check_empty(folder)
    found = release.find(session.share, name)

    def progress(done: Progress) -> None:
        session.progress(report.transfer(done))

    written = pull.pull(session.share, found, folder, with_adapters=with_adapters, say=session.say, progress=progress)
    return found, len(written)


def publish_again(session: Session) -> tuple[Outputs, tuple[Path, Path]]:
    """Write the configuration of what serves now, without a proof."""
    current = release.read_current_id(session.share)
    manifest = release.read_release(session.share, current) if current else None
    if manifest is None:
        raise NotFound("The share names no release yet.", f"Run: inferops deploy {session.name}")
    record = publish.Record(session.name, manifest, {}, None, session.job.run_url)
    return session.outputs, publish.write(session.root / rollout.PUBLISHED, session.outputs, record, session.job)


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
    rollout.wait(session, current, restarted)
    return current

"""What the other verbs do, in order. Every function takes a Session and returns what there is to show.

Knows the steps and what to do when one fails; how a result is printed is cli.py's and report.py's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts import deployment, diff, garbage, history, keys, plan, publish, pull, report, rollout
from scripts import release as releases
from scripts.deployment import Operation, Outputs, Request
from scripts.diff import Difference
from scripts.endpoint import Answer, Readiness
from scripts.environment import PARAMETERS_FILE
from scripts.errors import BadInput, NotFound, Problem
from scripts.garbage import Garbage
from scripts.keys import FIRST, NAMED, Keys, Place
from scripts.parameters import value_message
from scripts.plan import Plan
from scripts.progress import Progress
from scripts.release import Release
from scripts.session import Session

PREVIEW_KEY = "the key is not needed for a preview"

SILENCE_SECONDS = 3.0
NO_ANSWER_YET = "no answer yet: when an app was scaled to zero, a replica starts and loads the model first"


@dataclass(frozen=True)
class Provisioned:
    """outputs of the deployment; changed is False when there was nothing to do; release is what serves, if any."""

    plan: Plan
    outputs: Outputs
    changed: bool
    release: str | None


def what_if(session: Session) -> Plan:
    """What provision would change. Writes nothing; a reading identity suffices."""
    given = _given_keys(session)
    if session.given_named_keys is not None:
        _check_limits(session, given)
    request = _request(session, Keys(given.first or PREVIEW_KEY, given.named))
    session.progress("asking Azure what would change")
    return plan.from_what_if(deployment.what_if(session.clients, request))


def provision(session: Session, *, always: bool = False) -> Provisioned:
    """Bring the resources to what template and parameters say, and see that what served before still serves.

    always deploys the template and restarts the replicas even if the preview shows no change: of a storage account's
    key, which the app mounts the share with, nobody can tell whether it is still the one that the app has.
    """
    given = _given_keys(session)
    present = _present(session)
    session.clients.check_share_can_be_opened(present.storage_account_name if present else None)
    held = _held_keys(session, present)
    asked = _asked_keys(session, given, held)
    request = _request(session, asked)
    session.progress("asking Azure what would change")
    planned = plan.from_what_if(deployment.what_if(session.clients, request))
    # Of a key in a vault nobody can tell here whether it is still the app's.
    in_vault = any(_is_referenced(session, place) for place in (FIRST, NAMED))
    if present is not None and planned.is_empty and asked == held and not in_vault and not always:
        return Provisioned(planned, present, False, releases.read_current_id(session.share))
    session.outputs = deployment.create(session.clients, request, _told(session.say))
    new = session.app_keys(session.outputs.aca_app_name)
    changed = keys.difference(held.named if held else {}, new.named)
    if changed:
        session.say(f"named keys: {changed}")
    restart = "which takes the new keys" if held is not None and new != held else ""
    if always and not restart:
        restart = "which mounts the share anew"
    return Provisioned(planned, session.outputs, True, _still_serves(session, restart))


def restart(session: Session) -> Readiness:
    """Restart the replica and wait until it serves the current release."""
    current = releases.read_current_id(session.share)
    restarted = session.app.restart()
    session.say(f"restarted the revision {restarted.revision}")
    if current is None:
        raise NotFound(
            "The replica was restarted and waits: the share names no release yet.",
            f"Run: inferops deploy {session.name}",
        )
    return rollout.wait(session, current, restarted)


def chat(session: Session, question: str, on_text: Callable[[str], None], **options: Any) -> Answer:
    """Ask the endpoint; on_text gets the answer as it comes. Options: model, max_tokens, temperature.

    A person who waits for some seconds is told what for, most likely.
    """
    endpoint = session.endpoint
    waiting = threading.Timer(SILENCE_SECONDS, session.say, [NO_ANSWER_YET])
    waiting.daemon = True

    def heard(piece: str) -> None:
        waiting.cancel()
        on_text(piece)

    waiting.start()
    try:
        return endpoint.stream_chat(question, heard, **options)
    finally:
        waiting.cancel()


def difference(session: Session) -> Difference:
    """What this checkout changes against the release in use, with the texts of short files."""
    package = rollout.packed(session, rollout.Timings())
    return diff.against(session.share, package, releases.read_current_id(session.share), with_texts=True)


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
        current = releases.read_current(share)
        with history.recorded(share, lock, history.begun("gc", session.who), current, say=session.say) as run:
            garbage.remove(share, lock, items, progress=lambda item: session.progress(f"removed {item.folder}"))
            removed = Garbage(items, now.kept)
            run.detail = report.garbage_counts(removed)
    return removed


def pull_release(session: Session, name: str, folder: Path, *, with_adapters: bool) -> tuple[Release, int]:
    """Bring a release of the share into a local folder; returns it and how many files it is."""
    pull.check_empty(folder)
    found = releases.find(session.share, name)

    def progress(done: Progress) -> None:
        session.progress(report.transfer(done))

    written = pull.pull(session.share, found, folder, with_adapters=with_adapters, say=session.say, progress=progress)
    return found, len(written)


def publish_again(session: Session) -> tuple[Outputs, tuple[Path, Path]]:
    """Write the configuration of what serves now, without a proof."""
    current = releases.read_current_id(session.share)
    manifest = releases.read_release(session.share, current) if current else None
    if manifest is None:
        raise NotFound("The share names no release yet.", f"Run: inferops deploy {session.name}")
    record = publish.Record(session.name, manifest, {}, None, session.job.run_url)
    return session.outputs, publish.write(session.root / rollout.PUBLISHED, session.outputs, record, session.job)


def _request(session: Session, asked: Keys) -> Request:
    values = {FIRST.parameter: asked.first, NAMED.parameter: keys.joined(asked.named)}
    return deployment.request(session.environment, session.template, {name: key for name, key in values.items() if key})


def _is_referenced(session: Session, place: Place) -> bool:
    """Whether the parameters take these keys from a Key Vault."""
    return "reference" in session.environment.parameters.get(place.parameter, {})


def _given_keys(session: Session) -> Keys:
    """The keys of the process environment.

    Raises BadInput when the template does not take the first (it is too short), and when named ones are given beside a
    Key Vault that has them.
    """
    problems = []
    if _is_referenced(session, NAMED) and session.given_named_keys is not None:
        message = f"the parameter {NAMED.parameter} takes these keys from a Key Vault"
        problems.append(Problem(None, NAMED.variable, None, message, "Unset it, or remove the reference"))
    first, parameter = session.given_key, session.template.parameters.get(FIRST.parameter)
    wrong = None if first is None or parameter is None else value_message(first, parameter)
    if wrong is not None:
        problems.append(Problem(None, FIRST.variable, None, f"the key {wrong}", "Choose a long random text"))
    if problems:
        raise BadInput(problems)
    return Keys(first, session.given_named_keys or {})


def _asked_keys(session: Session, given: Keys, held: Keys | None) -> Keys:
    """The keys that the app is to have: what is not given stays as it is. Raises BadInput when that is no first key."""
    first = given.first or (held.first if held else None)
    if first is None and not _is_referenced(session, FIRST):
        advice = "Choose a long random text and set it; callers of the endpoint will need it"
        raise BadInput([Problem(None, FIRST.variable, None, "the endpoint's key is not set", advice)])
    named = given.named if session.given_named_keys is not None or held is None else held.named
    asked = Keys(first, named)
    if problems := keys.shared_problems(asked):
        raise BadInput(problems)
    if not _is_referenced(session, NAMED):
        _check_limits(session, asked)
    return asked


def _check_limits(session: Session, asked: Keys) -> None:
    """Raises BadInput when the parameters limit a key, by name, that the app will not have."""
    limits = session.environment.parameters.get(keys.LIMITS, {}).get("value") or {}
    if problems := keys.limits_problems(limits, asked.named, PARAMETERS_FILE):
        raise BadInput(problems)


def _present(session: Session) -> Outputs | None:
    try:
        return deployment.last_outputs(session.clients, session.environment)
    except NotFound:
        return None


def _held_keys(session: Session, present: Outputs | None) -> Keys | None:
    """The keys that the app has now; None when there is no app yet, or none with a first key."""
    if present is None:
        return None
    try:
        held = session.app_keys(present.aca_app_name)
    except NotFound:
        return None
    return held if held.first else None


def _told(say: Callable[[str], None]) -> Callable[[Operation], None]:
    def tell(operation: Operation) -> None:
        say(f"{operation.state}: {operation.resource_type} {operation.resource_name}")

    return tell


def _still_serves(session: Session, restart: str) -> str | None:
    """After a change of the resources: the release that serves, None before the first deploy. Raises NotReady.

    restart says what the revision is restarted for, in a clause about it; empty when it need not be.
    """
    current = releases.read_current_id(session.share)
    if current is None:
        session.say(f"The resources are there; the app waits for its first release: inferops deploy {session.name}")
        return None
    if restart:
        # A changed secret makes no new revision, and a replica reads it only when it starts
        # (learn.microsoft.com, "Manage secrets in Azure Container Apps").
        restarted = session.app.restart()
        session.say(f"restarted the revision {restarted.revision}, {restart}")
    else:
        restarted = session.app.state().as_it_is()
    rollout.wait(session, current, restarted)
    return current

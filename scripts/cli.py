"""The command `inferops`: its verbs and options, what they print, and the exit codes. No Azure, no HTTP.

Results go to stdout (with --json one document), progress and messages to stderr. Exit codes: 0 done, 1 the operation
failed, 2 bad input and nothing was changed, 3 there are changes, 4 the proof failed and the previous release is back
(1 when it is not), 130 interrupted.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

if TYPE_CHECKING:
    from scripts.cloud import Role
    from scripts.errors import InferopsError
    from scripts.garbage import Garbage
    from scripts.rollout import Deployed
    from scripts.session import Session

THERE_ARE_CHANGES = 3
INTERRUPTED = 130

_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
_environment = click.argument("environment")
_config = click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A hand-written inference.config.json in place of the environment's last deployment.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="inferops")
@click.option(
    "--root",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    default=Path(),
    show_default="the current folder",
    help="The repository.",
)
@click.pass_context
def inferops(context: click.Context, root: Path) -> None:
    """Run a fine-tuned language model from this Git repository.

    ENVIRONMENT is the name of a folder under environments/.
    """
    context.obj = root.resolve()


def main() -> int:
    """Runs the command, and tells of whatever goes wrong; returns the exit code."""
    # A runner that is stopped sends SIGTERM: it ends a verb as Ctrl-C does, with everything put back.
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # in the background a shell has it ignored
        signal.signal(signal.SIGINT, _interrupt)
    as_json = "--json" in sys.argv
    try:
        # Without standalone mode click returns the code of an early exit, and nothing (None) of a verb that ended.
        code: int = inferops.main(standalone_mode=False) or 0
    except click.ClickException as wrong:
        wrong.show()
        if as_json:
            _print_error(wrong.format_message(), (), "Run the same command with --help.")
        code = 2
    except (KeyboardInterrupt, click.Abort):
        sys.stderr.write("\nInterrupted.\n")
        code = INTERRUPTED
    except BrokenPipeError:
        # The reader of our stdout has gone, as `| head` does; that is no failure worth words.
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123,SIM115 (held to the end, so that nothing is flushed to the closed pipe)
        code = 1
    except Exception as error:
        code = _failed(error, as_json)
    return code


def _interrupt(number: int, frame: object) -> NoReturn:
    # GitHub cancels a job with SIGINT and, 7.5 s later, with SIGTERM: what is being put back by then is not broken off.
    # A second Ctrl-C still is a person's to press.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def _failed(error: Exception, as_json: bool) -> int:
    """Tell of a failure and return the exit code."""
    from scripts.errors import BadInput, InferopsError
    from scripts.github import current_job

    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        error = InferopsError(f"There is no space left where this writes: {error}.", "Make space, and run it again.")
    elif not isinstance(error, InferopsError):
        error = _unexpected(error)
    job = current_job()
    if isinstance(error, BadInput):
        job.annotate(error.problems, sys.stderr)
    else:
        job.annotate_error(error, sys.stderr)
    sys.stderr.write(f"{error}\n")
    if as_json:
        # It may be stdout that cannot be written.
        with contextlib.suppress(OSError):
            _print_error(error.message, error.details, error.next_step)
    return error.exit_code


def _print_error(message: str, details: Sequence[str], next_step: str) -> None:
    """The one document of a run that failed."""
    click.echo(json.dumps({"error": {"message": message, "details": list(details), "next_step": next_step}}, indent=2))


def _unexpected(error: Exception) -> InferopsError:
    """A defect of ours: the person gets a sentence and a file to send us, not a traceback."""
    from scripts.errors import InferopsError

    try:
        with tempfile.NamedTemporaryFile("w", prefix="inferops-", suffix=".txt", delete=False) as report:
            report.write("".join(traceback.format_exception(error)))
        evidence = f"the file {report.name}"
    except OSError:  # there is no folder for such files, or no room
        place = traceback.extract_tb(error.__traceback__)[-1]
        evidence = f"the place where it happened, {place.filename}, line {place.lineno}"
    return InferopsError(
        f"Something unexpected happened: {type(error).__name__}: {error}",
        f"This is a defect of inferops. Please report it with {evidence}.",
    )


def _utf8(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """The argument, unless its bytes are no text."""
    if value is not None and any("\ud800" <= character <= "\udfff" for character in value):
        raise click.BadParameter("it is not UTF-8 text.")
    return value


@contextlib.contextmanager
def _session(
    context: click.Context, environment: str, role: Role = "deploy", config: Path | None = None
) -> Iterator[Session]:
    from scripts.messages import Messages
    from scripts.session import Session

    messages = Messages()
    session = Session(environment, context.obj, role=role, config=config, say=messages.say, progress=messages.progress)
    try:
        yield session
    finally:
        messages.end()
        session.close()


def _print(as_json: bool, document: Callable[[], Any], text: Callable[[], str]) -> None:
    click.echo(json.dumps(document(), indent=2, ensure_ascii=False) if as_json else text().rstrip("\n"))


@inferops.command("what-if")
@_environment
@_json
@click.option("--exit-code", is_flag=True, help="Exit 3 when there are changes.")
@click.pass_context
def what_if(context: click.Context, environment: str, as_json: bool, exit_code: bool) -> None:
    """Show what provision would change."""
    from scripts import report, verbs

    with _session(context, environment, "what_if") as session:
        planned = verbs.what_if(session)
        session.job.add_summary(report.plan_markdown(planned))
    _print(as_json, lambda: report.plan_json(planned), lambda: report.plan_text(planned))
    if exit_code and not planned.is_empty:
        context.exit(THERE_ARE_CHANGES)


@inferops.command()
@_environment
@_json
@click.option(
    "--always",
    is_flag=True,
    help="Deploy the template and restart the replicas even if no change is seen, as after a storage account's key was "
    "renewed.",
)
@click.pass_context
def provision(context: click.Context, environment: str, as_json: bool, always: bool) -> None:
    """Create or update the resources; wait until the app runs.

    The endpoint's key is taken from INFERENCE_API_KEY, those of further callers from INFERENCE_API_KEYS
    (name=key,name=key; or none). Without them, the keys that the app has are kept.
    """
    from scripts import report, verbs
    from scripts.publish import config_of

    with _session(context, environment) as session:
        done = verbs.provision(session, always=always)
        session.job.add_summary(report.plan_markdown(done.plan))

    def text() -> str:
        if not done.changed:
            return f"Nothing to change: the resources of {environment} are as the template says."
        return f"Provisioned {environment}: {done.outputs.aca_app_endpoint}"

    def document() -> dict[str, Any]:
        plan = report.plan_json(done.plan)
        return {"changed": done.changed, "release": done.release, "outputs": config_of(done.outputs), "plan": plan}

    _print(as_json, document, text)


@inferops.command()
@_environment
@_json
@_config
@click.option("--dry-run", is_flag=True, help="Only show what would be sent; write nothing.")
@click.pass_context
def deploy(context: click.Context, environment: str, as_json: bool, config: Path | None, dry_run: bool) -> None:
    """Make a release of this checkout, use it and prove it.

    What is new is sent, the replica restarts, the proof is made, and the endpoint is published. A release that does not
    serve, or does not answer as it must, is taken back: exit code 4 when the one before serves again, 1 when none does.
    """
    from scripts import report, rollout

    with _session(context, environment, config=config) as session:
        if not dry_run:
            _print_deployed(as_json, rollout.deploy(session), "Nothing to deploy")
            return
        planned = rollout.planned(session)
    _print(as_json, lambda: report.difference_json(planned), lambda: report.difference_text(planned))


@inferops.command()
@_environment
@click.argument("release", required=False, callback=_utf8)
@_json
@_config
@click.pass_context
def rollback(context: click.Context, environment: str, release: str | None, as_json: bool, config: Path | None) -> None:
    """Put an earlier RELEASE into use again, and prove it.

    RELEASE is an id of the history or the beginning of one; without it, the last one that was proven before. One that
    does not answer as it must is taken back, and what was in use stays: exit code 4.
    """
    from scripts import rollout

    with _session(context, environment, config=config) as session:
        _print_deployed(as_json, rollout.rollback(session, release), "Nothing to roll back")


def _print_deployed(as_json: bool, done: Deployed, unchanged: str) -> None:
    from scripts.publish import config_of

    def text() -> str:
        if not done.changed:
            return f"{unchanged}: release {done.release.id} is in use and answers."
        replaced = f" It replaced {done.previous}." if done.previous else ""
        seconds = ", ".join(f"{phase} {seconds:.1f} s" for phase, seconds in done.timings_seconds.items())
        return f"Release {done.release.id} serves at {done.outputs.aca_app_endpoint}.{replaced}\n({seconds})"

    def document() -> dict[str, Any]:
        return {
            "changed": done.changed,
            "release": done.release.id,
            "previous": done.previous,
            "outputs": config_of(done.outputs),
            "proof": done.proof.to_json(),
            "timings_seconds": {phase: round(seconds, 3) for phase, seconds in done.timings_seconds.items()},
            "files": [str(path) for path in done.files],
        }

    _print(as_json, document, text)


@inferops.command()
@_environment
@_json
@_config
@click.option(
    "--limit", type=click.IntRange(min=1), default=20, show_default=True, help="Runs that are shown; --json has all."
)
@click.pass_context
def history(context: click.Context, environment: str, as_json: bool, config: Path | None, limit: int) -> None:
    """Show who put which release into use, when, and how it went.

    `*` is the one in use, proven or not; proven is one that passed its proof.
    """
    from scripts import history as histories
    from scripts import report

    with _session(context, environment, config=config) as session:
        past = histories.of(session.share)
        session.job.add_summary(report.block(report.history_text(past, limit)))
    _print(as_json, lambda: report.history_json(past), lambda: report.history_text(past, limit))


@inferops.command()
@_environment
@_json
@_config
@click.option("--exit-code", is_flag=True, help="Exit 3 when there are changes.")
@click.pass_context
def diff(context: click.Context, environment: str, as_json: bool, config: Path | None, exit_code: bool) -> None:
    """Show what this checkout changes against the release in use."""
    from scripts import report, verbs

    with _session(context, environment, config=config) as session:
        found = verbs.difference(session)
        session.job.add_summary(report.difference_markdown(found))
    _print(as_json, lambda: report.difference_json(found), lambda: report.difference_text(found))
    if exit_code and not found.is_empty:
        context.exit(THERE_ARE_CHANGES)


@inferops.command()
@_environment
@_json
@_config
@click.option("--keep", type=click.IntRange(min=0), default=5, show_default=True, help="Releases kept to go back to.")
@click.option("--dry-run", is_flag=True, help="Only show what would be removed.")
@click.option("--yes", is_flag=True, help="Do not ask, even at a terminal.")
@click.pass_context
def gc(
    context: click.Context, environment: str, as_json: bool, config: Path | None, keep: int, dry_run: bool, yes: bool
) -> None:
    """Remove releases and adapters that nobody needs.

    They are shown first. The release in use, the one that it would fall back to, and --keep others that were proven
    before stay, each with its adapters. What fine-tuning wrote is never touched.
    """
    from scripts import garbage, report, verbs

    def agreed(found: Garbage) -> bool:
        click.echo(report.garbage_text(found), err=True)
        return yes or not sys.stdin.isatty() or click.confirm("Remove them?", err=True)

    with _session(context, environment, config=config) as session:
        found = (
            garbage.find(session.share, keep=keep)
            if dry_run
            else verbs.collect_garbage(session, keep=keep, agreed=agreed)
        )
        session.job.add_summary(report.block(report.garbage_text(found)))
    _print(
        as_json,
        lambda: {"removed": not dry_run and bool(found.items), **report.garbage_json(found)},
        lambda: report.garbage_text(found) if dry_run else f"Removed {report.garbage_counts(found)}.",
    )


@inferops.command()
@_environment
@click.argument("release", callback=_utf8)
@click.argument("folder", type=click.Path(path_type=Path))
@_json
@_config
@click.option("--adapters", "with_adapters", is_flag=True, help="Also the adapters that were uploaded with it.")
@click.pass_context
def pull(
    context: click.Context,
    environment: str,
    release: str,
    folder: Path,
    as_json: bool,
    config: Path | None,
    with_adapters: bool,
) -> None:
    """Download a RELEASE from the share into an empty FOLDER.

    RELEASE is an id, its beginning, or `current`. Every file is checked against its hash.
    """
    from scripts import verbs

    with _session(context, environment, config=config) as session:
        found, files = verbs.pull_release(session, release, folder, with_adapters=with_adapters)
    _print(
        as_json,
        lambda: {"release": found.to_json(), "folder": str(folder), "files": files},
        lambda: f"Release {found.id} is in {folder}: {files} files, and release.json.",
    )


@inferops.command()
@_environment
@_json
@_config
@click.pass_context
def restart(context: click.Context, environment: str, as_json: bool, config: Path | None) -> None:
    """Restart the replica and wait until it is ready."""
    from scripts import verbs

    with _session(context, environment, config=config) as session:
        ready = verbs.restart(session)
    _print(
        as_json,
        lambda: {"release": ready.release, "models": list(ready.models), "ledger": dict(ready.ledger)},
        lambda: f"Restarted: release {ready.release} serves {', '.join(ready.models)}.",
    )


@inferops.command()
@_environment
@_json
@_config
@click.pass_context
def status(context: click.Context, environment: str, as_json: bool, config: Path | None) -> None:
    """Show the app, its replicas and the release in use.

    And how long each part of the last start took. A sleeping app is not woken.
    """
    from scripts import report
    from scripts import status as statuses

    with _session(context, environment, config=config) as session:
        now = statuses.of(session)
        session.job.add_summary(report.block(str(now)))
    _print(as_json, now.to_json, lambda: str(now))


@inferops.command()
@_environment
@click.argument("question", callback=_utf8)
@_json
@_config
@click.option("--model", callback=_utf8, help="The base model's or an adapter's name. [default: the adapter `default`]")
@click.option("--max-tokens", type=click.IntRange(min=1), help="The longest answer, in tokens.")
@click.option("--temperature", type=click.FloatRange(0, 2), default=0.0, show_default=True)
@click.pass_context
def chat(
    context: click.Context,
    environment: str,
    question: str,
    as_json: bool,
    config: Path | None,
    model: str | None,
    max_tokens: int | None,
    temperature: float,
) -> None:
    """Ask the model a QUESTION and show the answer as it comes."""
    from scripts import verbs

    def show(piece: str) -> None:
        if not as_json:
            click.echo(piece, nl=False)

    with _session(context, environment, config=config) as session:
        options = {"model": model, "max_tokens": max_tokens, "temperature": temperature}
        answer = verbs.chat(session, question, show, **options)
    _print(
        as_json,
        lambda: {
            "question": question,
            "answer": answer.text,
            "model": answer.model,
            "finish_reason": answer.finish_reason,
            "usage": dict(answer.usage),
            "seconds": round(answer.seconds, 3),
        },
        lambda: "",
    )


@inferops.command()
@_environment
@_config
@click.option("--follow", "-f", is_flag=True, help="Keep printing what is written, until Ctrl-C.")
@click.option("--tail", type=click.IntRange(0, 300), default=100, show_default=True, help="Earlier lines to print.")
@click.pass_context
def logs(context: click.Context, environment: str, config: Path | None, follow: bool, tail: int) -> None:
    """Print the replica's log."""
    with _session(context, environment, config=config) as session:
        for line in session.app.log_lines(tail=tail, follow=follow):
            click.echo(line)


@inferops.command()
@_environment
@_json
@_config
@click.pass_context
def publish(context: click.Context, environment: str, as_json: bool, config: Path | None) -> None:
    """Write the endpoint's configuration again.

    That is infra/inference.config.json and infra/deployment.json, for the release in use.
    """
    from scripts import verbs
    from scripts.publish import config_of

    with _session(context, environment, config=config) as session:
        outputs, files = verbs.publish_again(session)
    _print(as_json, lambda: config_of(outputs), lambda: "\n".join(f"Wrote {path}" for path in files))


@inferops.command()
@_json
@click.option(
    "--touched-by",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Only those that a change concerns: a file with the changed paths, one per line.",
)
@click.pass_context
def environments(context: click.Context, as_json: bool, touched_by: Path | None) -> None:
    """List the environments that can be acted on.

    They are listed in the order in which a merge deploys them. One whose ids are still placeholders is named on stderr
    and left out, and so is a local one without a stand-in.
    """
    from scripts import fleet
    from scripts.github import current_job

    changed = None if touched_by is None else touched_by.read_text(encoding="utf-8").splitlines()
    listed = fleet.listed(context.obj, changed)
    for name, reason in listed.skipped.items():
        sys.stderr.write(f"{name}: skipped, {reason}\n")
    current_job().set_outputs({"environments": json.dumps(list(listed.names))})
    _print(
        as_json,
        lambda: {"environments": list(listed.names), "skipped": dict(listed.skipped)},
        lambda: "\n".join(listed.names),
    )

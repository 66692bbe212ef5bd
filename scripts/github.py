"""What a GitHub Actions job offers: annotations, the job summary, outputs, masks and the OIDC assertion.

The only reader of the GITHUB_* and ACTIONS_* variables. Outside a job everything here does nothing, so that a verb
says the same things on a runner and on a person's machine. Knows nothing of Azure beyond the audience of the assertion.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from scripts.errors import InferopsError, NotSignedIn, Problem

AUDIENCE = "api://AzureADTokenExchange"
"""Whom the assertion is for, unless a cloud says otherwise (Entra: workload identity federation)."""

SUMMARY_BYTES = 1024 * 1024
"""The most that one step's summary may hold; a longer one is dropped whole (GitHub: workflow commands)."""

_CUT = "\n_The rest does not fit into a job summary; the job's log has all of it._\n"
_ATTEMPTS = 4
_TRANSIENT = {408, 429, 500, 502, 503, 504}


@dataclass(frozen=True)
class Job:
    """The variables of the running job; what is absent is None, and then the matching method does nothing."""

    is_running: bool
    actor: str | None
    summary_file: Path | None
    output_file: Path | None
    run_url: str | None
    token_request_url: str | None
    token_request_token: str | None

    @property
    def has_oidc(self) -> bool:
        """Whether the job may ask for an assertion: the permission id-token: write was granted."""
        return bool(self.token_request_url and self.token_request_token)

    def annotate(self, problems: Iterable[Problem], stream: TextIO) -> None:
        """Show the problems at their files in the pull request; one line of the log for each."""
        if self.is_running:
            for problem in problems:
                stream.write(annotation(problem) + "\n")
            stream.flush()

    def annotate_error(self, error: InferopsError, stream: TextIO) -> None:
        """Show an error on top of the job's page."""
        if self.is_running:
            stream.write(f"::error title={_property(error.message)}::{_data(str(error))}\n")
            stream.flush()

    def mask(self, secret: str, stream: TextIO) -> None:
        """Have the runner replace the secret by *** in every later line of the log, each of its lines by itself."""
        if self.is_running:
            for line in secret.splitlines():
                if line.strip():
                    stream.write(f"::add-mask::{_data(line)}\n")
            stream.flush()

    def add_summary(self, markdown: str) -> None:
        """Append to the step's summary, cut at a line so that the whole stays within what GitHub shows."""
        if self.summary_file is None:
            return
        written = self.summary_file.stat().st_size if self.summary_file.exists() else 0
        content = markdown.rstrip("\n").encode() + b"\n"
        room = SUMMARY_BYTES - written
        if len(content) > room:
            kept = content[: max(0, room - len(_CUT.encode()))]
            kept = kept[: kept.rfind(b"\n") + 1]
            content = kept + _CUT.encode() if len(kept) + len(_CUT.encode()) <= room else b""
        with self.summary_file.open("ab") as stream:
            stream.write(content)

    def set_outputs(self, outputs: Mapping[str, str]) -> None:
        """Set outputs of the step. A value may have several lines."""
        if self.output_file is None:
            return
        with self.output_file.open("a", encoding="utf-8", newline="\n") as stream:
            for name, value in outputs.items():
                if "\n" in value or "\r" in value:
                    # A delimiter that no value can guess: a line equal to it would end the value and start another.
                    delimiter = f"end-{secrets.token_hex(16)}"
                    stream.write(f"{name}<<{delimiter}\n{value}\n{delimiter}\n")
                else:
                    stream.write(f"{name}={value}\n")

    def oidc_assertion(self, audience: str = AUDIENCE, *, sleep: Callable[[float], None] = time.sleep) -> str:
        """A new assertion of the job's identity. It lives about five minutes, so ask again for every token.

        Raises NotSignedIn when the job may not ask, or when GitHub does not answer after several attempts.
        """
        import httpx  # not at import: most verbs on a person's machine never ask

        if not (self.token_request_url and self.token_request_token):
            raise NotSignedIn(
                "This job cannot ask GitHub for an OIDC assertion.",
                "Give the job the permission `id-token: write`. A pull request from a fork never gets it.",
            )
        url = httpx.URL(self.token_request_url).copy_merge_params({"audience": audience})
        headers = {"Authorization": f"Bearer {self.token_request_token}", "Accept": "application/json"}
        reason = ""
        for attempt in range(_ATTEMPTS):
            if attempt:
                sleep(2.0 ** (attempt - 1))
            try:
                response = httpx.get(url, headers=headers, timeout=20)
            except httpx.TransportError as error:
                reason = f"no answer ({type(error).__name__})"
                continue
            if response.status_code == 200:
                try:
                    return str(response.json()["value"])
                except (ValueError, KeyError, TypeError):
                    reason = "an answer without an assertion"
                    continue
            reason = f"HTTP {response.status_code}"
            if response.status_code not in _TRANSIENT:
                break
        raise NotSignedIn(
            f"GitHub did not give an OIDC assertion: {reason}.",
            "Run the job again. If it happens again, check that the job has the permission `id-token: write`.",
        )


def current_job(variables: Mapping[str, str] = os.environ) -> Job:
    """The job that this process runs in; outside GitHub Actions a Job that does nothing."""
    running = variables.get("GITHUB_ACTIONS") == "true"

    def value(name: str) -> str | None:
        return variables.get(name) or None if running else None

    def path(name: str) -> Path | None:
        found = value(name)
        return Path(found) if found else None

    server, repository, run = value("GITHUB_SERVER_URL"), value("GITHUB_REPOSITORY"), value("GITHUB_RUN_ID")
    attempt = value("GITHUB_RUN_ATTEMPT")
    run_url = f"{server}/{repository}/actions/runs/{run}" if server and repository and run else None
    return Job(
        is_running=running,
        actor=value("GITHUB_ACTOR"),
        summary_file=path("GITHUB_STEP_SUMMARY"),
        output_file=path("GITHUB_OUTPUT"),
        run_url=f"{run_url}/attempts/{attempt}" if run_url and attempt else run_url,
        token_request_url=value("ACTIONS_ID_TOKEN_REQUEST_URL"),
        token_request_token=value("ACTIONS_ID_TOKEN_REQUEST_TOKEN"),
    )


def annotation(problem: Problem) -> str:
    """The workflow command that shows a problem at its file, and at its line when `where` names one ("line 3, ...")."""
    properties = []
    if problem.file:
        properties.append(f"file={_property(problem.file)}")
        line = _line_number(problem.where)
        if line:
            properties.append(f"line={line}")
    place = " " + ",".join(properties) if properties else ""
    return f"::error{place}::{_data(str(problem))}"


def _line_number(where: str) -> str:
    first, _, rest = where.partition(" ")
    number = rest.partition(",")[0].partition(":")[0].strip()
    return number if first == "line" and number.isdecimal() else ""


def _data(text: str) -> str:
    """Escape the text of a workflow command."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    """Escape a property of a workflow command."""
    return _data(text).replace(":", "%3A").replace(",", "%2C")

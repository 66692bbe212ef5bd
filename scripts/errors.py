"""The error tree: every error names the thing that is wrong and the next step.

Knows nothing of Azure, of HTTP, or of how an error is printed. A caller catches at the level it cares about; the
command line turns what is left into a message and the error's exit code.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


class InferopsError(Exception):
    """An operation failed for a reason that a person can act on.

    message says what happened and to which thing; next_step what to do now; details are further lines (nested causes,
    log lines), each one fact. None of them holds a secret. exit_code is what the command exits with.
    """

    exit_code = 1

    def __init__(self, message: str, next_step: str, *, details: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.next_step = next_step
        self.details = tuple(details)

    def __str__(self) -> str:
        return "\n".join([self.message, *(f"  {line}" for line in self.details), f"Next: {self.next_step}"])


@dataclass(frozen=True)
class Problem:
    """One thing wrong with what a person wrote.

    file is the path as the person knows it, None when the problem is no file's (an argument, a process environment
    variable); where is the key or line within it, empty when the file as a whole is meant; value is the offending text,
    None when there is none to show, or when it may be a secret.
    """

    file: str | None
    where: str
    value: str | None
    message: str
    next_step: str

    def __str__(self) -> str:
        place = ": ".join(part for part in (self.file, self.where) if part)
        shown = "" if self.value is None else f" (found {self.value})"
        sentence = self.message.rstrip(".") + shown
        stop = "" if sentence.endswith("?") else "."
        return f"{place + ': ' if place else ''}{sentence}{stop} {self.next_step.rstrip('.')}."


class BadInput(InferopsError):
    """What was given cannot be used; nothing was contacted or changed. Carries every problem found, at least one."""

    exit_code = 2

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        super().__init__(
            f"{count} {'problem' if count == 1 else 'problems'} in the input; nothing was changed.",
            "Correct what is listed and run the same command again.",
            details=[str(problem) for problem in self.problems],
        )


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """The end of a message that names the choice nearest to a misspelt word; empty when none is near."""
    import difflib  # here, because most runs end well

    by_lower = {choice.lower(): choice for choice in choices}
    close = difflib.get_close_matches(word.lower(), by_lower, n=1)
    return f"; did you mean {by_lower[close[0]]}?" if close else ""


class ProofFailed(InferopsError):
    """The new release does not answer as it must, and the release before it is back in use."""

    exit_code = 4


class NotReady(InferopsError):
    """The container app did not come to serve the release: its replica failed to start, or not in time.

    details hold the lines of its log and of its revision that say why.
    """


class Locked(InferopsError):
    """Another deploy of the same environment holds the lease on the share."""


class CloudError(InferopsError):
    """The cloud refused or failed an operation.

    code is the service's own word, status the HTTP status, retry_after_seconds how long it asks to wait, where known.
    """

    def __init__(
        self,
        message: str,
        next_step: str,
        *,
        details: Sequence[str] = (),
        code: str | None = None,
        status: int | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message, next_step, details=details)
        self.code = code
        self.status = status
        self.retry_after_seconds = retry_after_seconds


class NotSignedIn(CloudError):
    """No credential, an expired one, or one that the tenant does not accept."""


class Forbidden(CloudError):
    """The identity is known but lacks the permission."""


class NotFound(CloudError):
    """The named thing does not exist."""


class NameTaken(CloudError):
    """A globally unique name belongs to somebody else."""


class QuotaExceeded(CloudError):
    """The subscription's or the region's limit is reached."""


class RegionUnsuitable(CloudError):
    """The region does not offer what the template asks for (a workload profile, a resource type)."""


class NotRegistered(CloudError):
    """The subscription has not registered a resource provider."""


class Busy(CloudError):
    """Another operation on the same resource is still running."""


class Throttled(CloudError):
    """Too many requests, also after the retries."""


class Invalid(CloudError):
    """The service refuses the request's content: the template or a value in it."""


class Unreachable(CloudError):
    """No answer: the network is down, the address is wrong, or the service does not run."""


class Unanswered(Unreachable):
    """The request went out, and no answer came in time."""


class Untrusted(CloudError):
    """The server's certificate is not one that this machine trusts."""


class ServiceFault(CloudError):
    """The service failed by itself (HTTP 5xx), also after the retries."""


class DeploymentFailed(CloudError):
    """The deployment ran and ended as failed or canceled; details name each failed resource and its cause."""

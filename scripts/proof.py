"""An endpoint -> Proof: the checks made before the configuration is published.

Knows what a served release must do as a caller sees it; knows no Azure, no share, and not what happens when it fails.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from scripts.comparison import ANSWER_TOKENS, Comparison, Earlier, ExpectedAnswer, ask, tokens_per_second
from scripts.endpoint import Answer, Endpoint
from scripts.errors import CloudError, NotSignedIn, Throttled, Unreachable

_QUESTION = "Say hello."
_ATTEMPTS = 3
_PAUSE_SECONDS = 2.0
_LONGEST_PAUSE_SECONDS = 60.0
_GATEWAY = {502, 503, 504}


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. detail is one line: what came, or what is wrong."""

    name: str
    passed: bool
    detail: str
    seconds: float

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "passed": self.passed, "detail": self.detail, "seconds": round(self.seconds, 3)}


@dataclass(frozen=True)
class Proof:
    """All checks, in the order in which they were made, and what was answered to each prompt.

    earlier_release is the one that was in use before; None when it was not asked for its answers.
    """

    checks: tuple[Check, ...]
    comparisons: tuple[Comparison, ...] = ()
    earlier_release: str | None = None

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    @property
    def failures(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if not check.passed)

    @property
    def rates(self) -> tuple[float | None, float | None]:
        """Tokens in a second over all prompts: of the release before and of this one; None: not measured."""
        return (
            tokens_per_second([comparison.earlier for comparison in self.comparisons]),
            tokens_per_second([comparison.new for comparison in self.comparisons]),
        )

    def to_json(self) -> dict[str, Any]:
        earlier, new = (None if rate is None else round(rate, 2) for rate in self.rates)
        return {
            "passed": self.passed,
            "checks": [check.to_json() for check in self.checks],
            "earlier_release": self.earlier_release,
            "tokens_per_second": {"earlier": earlier, "new": new},
            "answers": [comparison.to_json() for comparison in self.comparisons],
        }


class _Wrong(Exception):
    """A check's finding, in one line."""


def prove(
    endpoint: Endpoint,
    *,
    release: str,
    models: Sequence[str],
    expected: Sequence[ExpectedAnswer] = (),
    earlier: Earlier | None = None,
    slowest: float | None = None,
    on_check: Callable[[Check], None] | None = None,
) -> Proof:
    """Make every check, also after one has failed.

    models are the names that must be offered: the base and the adapters. earlier is what the release in use before
    answered to `expected`; slowest is the least share of its tokens in a second that will do, None for no such check.
    on_check gets each check as it is made. Never raises for what the endpoint does: that is what a failed check says.
    """
    answers: list[Answer | None] = [None] * len(expected)
    steps: list[tuple[str, Callable[[], str]]] = [
        ("ready under the release", partial(_ready, endpoint, release)),
        ("models are listed", partial(_models, endpoint, models)),
        ("an authenticated chat answers", partial(_chat, endpoint)),
        ("a streamed chat ends with [DONE]", partial(_stream, endpoint)),
        ("a chat without a key gets 401", partial(_refused, endpoint, None)),
        ("a chat with a wrong key gets 401", partial(_refused, endpoint, secrets.token_urlsafe(16))),
    ]
    for number, wanted in enumerate(expected):
        name = f"the answer to {_shortened(wanted.prompt)!r}"
        if wanted.model:
            name += f" by {wanted.model}"
        if wanted.contains:
            name += f" contains {_shortened(wanted.contains)!r}"
        steps.append((name, partial(_expected, endpoint, wanted, answers, number)))
    if earlier is not None and slowest is not None:
        name = f"at least {slowest:g} times as many tokens in a second as release {earlier.release}"
        steps.append((name, partial(_quick_enough, endpoint, expected, answers, earlier, slowest)))
    checks = []
    for name, step in steps:
        check = _made(name, step)
        checks.append(check)
        if on_check:
            on_check(check)
    before = earlier.answers if earlier is not None else (None,) * len(expected)
    return Proof(
        tuple(checks),
        tuple(Comparison(*triple) for triple in zip(expected, before, answers, strict=True)),
        earlier.release if earlier is not None else None,
    )


def _made(name: str, step: Callable[[], str]) -> Check:
    """Run one check. What says nothing about the release gets two more chances, and then the detail says so."""
    started = time.monotonic()
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            passed, detail = True, step()
        except _Wrong as finding:
            passed, detail = False, str(finding)
        except CloudError as error:
            passed, detail = False, error.message
            pause = _pause_seconds(error)
            if attempt < _ATTEMPTS and pause is not None:
                time.sleep(pause)
                continue
        break
    if attempt > 1:
        detail = f"{detail} (attempt {attempt})"
    return Check(name, passed, detail, time.monotonic() - started)


def _pause_seconds(error: CloudError) -> float | None:
    """How long to wait before another attempt; None when the error is the release's own."""
    if isinstance(error, Throttled):
        # The key's limit, or a queue that others fill: how much is asked, and not how the release answers.
        return min(max(error.retry_after_seconds or 0.0, _PAUSE_SECONDS), _LONGEST_PAUSE_SECONDS)
    # An ingress that has no replica to ask yet.
    return _PAUSE_SECONDS if isinstance(error, Unreachable) or error.status in _GATEWAY else None


def _ready(endpoint: Endpoint, release: str) -> str:
    readiness = endpoint.ready()
    if readiness.http_status != 200 or readiness.status != "ready":
        raise _Wrong(f"/ready says {readiness.status} (HTTP {readiness.http_status}): {readiness.error or 'no reason'}")
    if readiness.release != release:
        raise _Wrong(f"/ready names the release {readiness.release}, not {release}")
    return f"release {release}"


def _models(endpoint: Endpoint, wanted: Sequence[str]) -> str:
    offered = endpoint.models()
    missing = [name for name in wanted if name not in offered]
    if missing:
        raise _Wrong(f"not offered: {', '.join(missing)}; offered: {', '.join(offered) or 'none'}")
    return ", ".join(offered)


def _chat(endpoint: Endpoint) -> str:
    answer = endpoint.chat(_QUESTION, max_tokens=ANSWER_TOKENS, temperature=0)
    if not answer.text.strip():
        raise _Wrong("the answer is empty")
    if not {"prompt_tokens", "completion_tokens", "total_tokens"} <= answer.usage.keys():
        raise _Wrong("the answer carries no usage (prompt, completion and total tokens)")
    return f"{answer.usage['completion_tokens']} tokens by {answer.model} in {answer.seconds:.2f} s"


def _stream(endpoint: Endpoint) -> str:
    pieces: list[str] = []
    answer = endpoint.stream_chat(_QUESTION, pieces.append, max_tokens=ANSWER_TOKENS, temperature=0)
    if not answer.text.strip():
        raise _Wrong("the streamed answer is empty")
    return f"{len(pieces)} pieces in {answer.seconds:.2f} s"


def _refused(endpoint: Endpoint, key: str | None) -> str:
    with endpoint.with_key(key) as stranger:
        try:
            stranger.chat(_QUESTION, max_tokens=1)
        except NotSignedIn:
            return "HTTP 401"
        except Unreachable:
            raise
        except CloudError as error:
            if error.status in _GATEWAY:
                raise
            raise _Wrong(f"expected HTTP 401: {error.message}") from None
    raise _Wrong("the app answered: anybody may use it")


def _expected(endpoint: Endpoint, wanted: ExpectedAnswer, answers: list[Answer | None], number: int) -> str:
    """Keeps the answer in its place, right or wrong."""
    answer = answers[number] = ask(endpoint, wanted)
    if not answer.text.strip():
        raise _Wrong(f"the answer of {answer.model} is empty")
    if not wanted.holds(answer.text):
        raise _Wrong(f"the answer of {answer.model} is {_shortened(answer.text, 200)!r}")
    return _shortened(answer.text, 200)


def _quick_enough(
    endpoint: Endpoint,
    expected: Sequence[ExpectedAnswer],
    answers: list[Answer | None],
    earlier: Earlier,
    slowest: float,
) -> str:
    """A replica that has just started may be slow for a moment: what is too slow is measured again, twice at most."""
    before = tokens_per_second(earlier.answers)
    if before is None:
        return "not measured: the earlier release gave no answer"
    now = tokens_per_second(answers)
    for _ in range(_ATTEMPTS - 1):
        if now is None or now >= slowest * before:
            break
        answers[:] = [ask(endpoint, wanted) for wanted in expected]
        now = tokens_per_second(answers)
    if now is None:
        raise _Wrong("not measured: this release gave no answer")
    told = f"{now:.1f} tokens/s, {now / before:.2f} times the {before:.1f} before"
    if now < slowest * before:
        raise _Wrong(told)
    return told


def _shortened(text: str, most: int = 60) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 3] + "..."

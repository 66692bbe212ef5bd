"""The same prompts put to the release in use and to the one that replaces it, beside each other.

Knows prompts, answers and how quick they were; knows no Azure, no release's contents, and not what follows from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scripts.endpoint import Answer, Endpoint
from scripts.errors import CloudError

ANSWER_TOKENS = 64
"""The most tokens a checked answer has; a proof is about the app and not about long answers."""


@dataclass(frozen=True)
class ExpectedAnswer:
    """A prompt and a text that the answer at temperature 0 must contain; with an empty text any answer will do.

    model is the base's or an adapter's name, None for what answers by default.
    """

    prompt: str
    contains: str
    model: str | None = None

    def holds(self, text: str) -> bool:
        """Whether the text is such an answer."""
        return bool(text.strip()) and self.contains in text


@dataclass(frozen=True)
class Comparison:
    """One prompt's two answers; None where a release gave none. earlier is that of the release that was in use."""

    expected: ExpectedAnswer
    earlier: Answer | None
    new: Answer | None

    @property
    def passed(self) -> bool:
        """Whether the new answer is as expected."""
        return self.new is not None and self.expected.holds(self.new.text)

    def to_json(self) -> dict[str, Any]:
        return {
            "prompt": self.expected.prompt,
            "model": self.expected.model,
            "contains": self.expected.contains,
            "passed": self.passed,
            "earlier": _answer_json(self.earlier),
            "new": _answer_json(self.new),
        }


@dataclass(frozen=True)
class Earlier:
    """What the release in use answered before it was replaced, in the order of the prompts; None: no answer."""

    release: str
    answers: tuple[Answer | None, ...]


def ask(endpoint: Endpoint, expected: ExpectedAnswer) -> Answer:
    """The answer at temperature 0, streamed, so that it is known when its first piece came. Raises as Endpoint does."""
    return endpoint.stream_chat(
        expected.prompt, lambda piece: None, model=expected.model, max_tokens=ANSWER_TOKENS, temperature=0
    )


def take(endpoint: Endpoint, release: str, expected: Sequence[ExpectedAnswer]) -> Earlier | None:
    """Put every prompt to the release in use; None when it does not serve. An answer that fails is None."""
    try:
        if endpoint.ready().release != release:
            return None
    except CloudError:
        return None
    answers: list[Answer | None] = []
    for wanted in expected:
        try:
            answers.append(ask(endpoint, wanted))
        except CloudError:
            answers.append(None)
    return Earlier(release, tuple(answers))


def tokens_per_second(answers: Sequence[Answer | None]) -> float | None:
    """The rate of all answers together, from question to end; None when none of them tells its tokens."""
    counted = [answer for answer in answers if answer is not None and answer.tokens_per_second is not None]
    if not counted:
        return None
    # Not from the first token on: what lies between may hold pieces back, and they would seem to come all at once.
    return sum(answer.usage["completion_tokens"] for answer in counted) / sum(answer.seconds for answer in counted)


def _answer_json(answer: Answer | None) -> dict[str, Any] | None:
    if answer is None:
        return None
    rate = answer.tokens_per_second
    return {
        "text": answer.text,
        "tokens": answer.usage.get("completion_tokens"),
        "tokens_per_second": None if rate is None else round(rate, 2),
        "first_token_seconds": None if answer.first_seconds is None else round(answer.first_seconds, 4),
        "seconds": round(answer.seconds, 4),
    }

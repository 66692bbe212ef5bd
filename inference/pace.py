"""How many prompt tokens a step may compute, so that a long prompt does not stop the streams of others.

Learnt from the steps themselves, and so right for a processor and for a GPU: how long a step takes that only continues
answers, and what each prompt token adds to it.
"""

from __future__ import annotations

import statistics
from collections import deque

FEWEST_TOKENS = 8
"""Of a prompt in one step: a step is not made for less. With 16, beside eight rows on two cores, this and not LONGER
decided how long the steps became: 1.8 times."""

LONGER = 0.65
"""How much longer a step may become for a row that waits. Steps scatter, and the slowest twentieth of them, too, is to
be at most twice as long: with 0.8 it was 2.2 and 2.4 times for two of twelve long prompts."""

REMEMBERED_STEPS = 32
"""For each number of rows that only go on. While a prompt is computed there are no new ones to learn from, so that a
few slow ones just before it must not count."""

NEWEST_WEIGHS = 0.25
"""How much the newest step counts in the running mean of what a prompt token adds."""


class Pace:
    """For each row that waits for its first token, a step may take two thirds as long again as one that only continues
    answers: a prompt alone, however long, makes the others' tokens come half as fast and no slower, and a crowd of new
    rows does not wait for its first tokens until the old ones have ended."""

    def __init__(self, most_tokens: int) -> None:
        self._most_tokens = most_tokens
        self._plain_seconds: dict[int, deque[float]] = {}
        self._seconds_per_token: float | None = None

    def tokens(self, *, continuing: int, waiting: int) -> int:
        """How many prompt tokens may stand in a step with `continuing` rows, when `waiting` rows have prompts left."""
        plain = self._plain(continuing)
        if not continuing or plain is None or self._seconds_per_token is None:
            return self._most_tokens
        more_seconds = plain * LONGER * waiting
        return max(
            min(FEWEST_TOKENS, self._most_tokens), min(self._most_tokens, int(more_seconds / self._seconds_per_token))
        )

    def took(self, seconds: float, *, continuing: int, prompt_tokens: int) -> None:
        """Learn from a step."""
        if not prompt_tokens:
            steps = self._plain_seconds.setdefault(continuing.bit_length(), deque(maxlen=REMEMBERED_STEPS))
            steps.append(seconds)
        elif prompt_tokens >= FEWEST_TOKENS:
            added = max(seconds - (self._plain(continuing) or 0.0), seconds / 10) / prompt_tokens
            before = added if self._seconds_per_token is None else self._seconds_per_token
            self._seconds_per_token = before + NEWEST_WEIGHS * (added - before)

    def _plain(self, continuing: int) -> float | None:
        """Seconds of a step that continues so many rows: the median of those measured, else as for the nearest smaller
        number of rows (steps of few rows take nearly the same time, because each reads all the weights), else
        unknown."""
        known = [size for size in self._plain_seconds if size <= continuing.bit_length()]
        return statistics.median(self._plain_seconds[max(known)]) if known else None

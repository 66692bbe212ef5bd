"""How many prompt tokens a step may compute, so that a long prompt does not stop the streams of others.

Learnt from the steps themselves, and so right for a processor and for a GPU: how long a step takes that only continues
answers, and what each prompt token adds to it.
"""

from __future__ import annotations

FEWEST_TOKENS = 16
"""Of a prompt in one step: fewer save hardly any time, because the step reads the model's weights anyway."""

LONGER = 0.65
"""How much longer a step may become for a row that waits. Steps scatter, and the slowest twentieth of them, too, is to
be at most twice as long: of twelve long prompts it was 2.04 times for one; with 0.8, 2.2 and 2.4 times for two."""

NEWEST_WEIGHS = 0.25
"""How much the newest step counts in the running means."""


class Pace:
    """For each row that waits for its first token, a step may take two thirds as long again as one that only continues
    answers: a prompt alone, however long, makes the others' tokens come half as fast and no slower, and a crowd of new
    rows does not wait for its first tokens until the old ones have ended."""

    def __init__(self, most_tokens: int) -> None:
        self._most_tokens = most_tokens
        self._plain_seconds: dict[int, float] = {}
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
            size = continuing.bit_length()
            self._plain_seconds[size] = _mean(self._plain_seconds.get(size), seconds)
        elif prompt_tokens >= FEWEST_TOKENS:
            added = max(seconds - (self._plain(continuing) or 0.0), seconds / 10)
            self._seconds_per_token = _mean(self._seconds_per_token, added / prompt_tokens)

    def _plain(self, continuing: int) -> float | None:
        """Seconds of a step that continues so many rows: as measured, else as for the nearest smaller number of rows
        (steps of few rows take nearly the same time, because each reads all the weights), else unknown."""
        known = [size for size in self._plain_seconds if size <= continuing.bit_length()]
        return self._plain_seconds[max(known)] if known else None


def _mean(before: float | None, newest: float) -> float:
    return newest if before is None else before + NEWEST_WEIGHS * (newest - before)

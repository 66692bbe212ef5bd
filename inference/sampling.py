"""Logits -> the next token of each row. Knows probabilities, not text."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

# How many of the most probable tokens are sorted first: nearly always the nucleus lies within them.
FIRST_SORTED = 1024


@dataclass
class Choice:
    """How one row chooses: `temperature` 0 is greedy. The same seed draws the same numbers, alone or in a batch."""

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    numbers: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.numbers = random.Random(self.seed)  # noqa: S311 - a choice of words, not a secret


def choose(logits: torch.Tensor, choices: Sequence[Choice]) -> list[int | None]:
    """One token id for each row of `logits` [rows, vocabulary]; None where the model gave no finite number."""
    greedy = logits.argmax(dim=-1)
    finite = torch.isfinite(logits.gather(1, greedy.unsqueeze(1)).squeeze(1)).tolist()
    tokens: list[int | None] = [token if sound else None for token, sound in zip(greedy.tolist(), finite, strict=True)]
    for row, choice in enumerate(choices):
        if choice.temperature > 0 and tokens[row] is not None:
            tokens[row] = _draw(logits[row], choice)
    return tokens


def _draw(logits: torch.Tensor, choice: Choice) -> int:
    """One token by nucleus sampling: from the smallest set of tokens whose probabilities reach `top_p`.

    One random number a token, used as a position in the sorted order: small differences of rounding between a batch
    and a single row then hardly ever change what is drawn.
    """
    probabilities = torch.softmax(logits.float() / choice.temperature, dim=-1)
    ordered, ids = probabilities.topk(min(FIRST_SORTED, probabilities.numel()))
    cumulative = ordered.cumsum(0)
    if float(cumulative[-1]) < choice.top_p and ordered.numel() < probabilities.numel():
        ordered, ids = probabilities.sort(descending=True)
        cumulative = ordered.cumsum(0)
    nucleus = cumulative[: int(torch.searchsorted(cumulative, choice.top_p)) + 1]
    position = int(torch.searchsorted(nucleus, choice.numbers.random() * float(nucleus[-1]), right=True))
    return int(ids[min(position, nucleus.numel() - 1)])

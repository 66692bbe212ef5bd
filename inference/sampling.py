"""Logits -> the next token of each row. Knows probabilities, not text.

The order is that of transformers' processors: penalties and biases, the grammar, temperature, then what is left of the
distribution by top_k, top_p and min_p. Rows that take the likeliest token of the model's own logits cost one argmax.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

if TYPE_CHECKING:
    from constrain import Constraint

log = logging.getLogger("sampling")

Probabilities = npt.NDArray[np.float32]

Amounts = tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]
"""Tokens, and a number for each."""

COLDEST = 1e-5
"""Below this temperature a float32 could be 0, and nothing but the likeliest token comes up anyway."""

BLOCK = 256
"""How many probabilities are added up at a time on the way to a drawn one."""


@dataclass(frozen=True)
class Logprobs:
    """Natural log probabilities by the model's own logits: of the chosen token, and of the likeliest ones."""

    chosen: float
    likeliest: tuple[tuple[int, float], ...]


@dataclass
class Choice:
    """How one row chooses, and what it has chosen so far. The same seed draws the same numbers, alone or in a batch."""

    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    seed: int | str | None = None
    top_k: int = 0
    """0: no limit."""
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    """Divides positive logits and multiplies negative ones of tokens of the prompt and of the answer."""
    frequency_penalty: float = 0.0
    """Taken from a token's logit for each time that it stands in the answer."""
    presence_penalty: float = 0.0
    """Taken once, when it stands in the answer at all."""
    bias: Mapping[int, float] = field(default_factory=dict)
    prompt: Sequence[int] = ()
    """For the repetition penalty alone."""
    constraint: Constraint | None = None
    logprobs: int | None = None
    """How many of the likeliest tokens are told with each token; None: nothing is told."""

    told: Logprobs | None = field(default=None, init=False)
    """Of the token chosen last, when `logprobs` asks for it."""
    error: str | None = field(default=None, init=False)
    """Why there is no token, when that is not the model's fault."""

    def __post_init__(self) -> None:
        self.numbers = random.Random(self.seed)  # noqa: S311 - a choice of words, not a secret
        self._chosen: dict[int, int] = {}
        self._seen = set(self.prompt) if self.repetition_penalty != 1 else set()
        # The same as an array, for making one of hundreds of numbers at every step takes longer than all the rest.
        self._seen_ids = np.array(sorted(self._seen), dtype=np.int64)
        self._biases = _amounts(self.bias)
        self.changes_logits = bool(
            self.bias
            or self.constraint
            or self.repetition_penalty != 1
            or self.frequency_penalty
            or self.presence_penalty
        )

    @property
    def takes_likeliest(self) -> bool:
        """Whether the answer is the argmax of the model's own logits."""
        return self.temperature == 0 and not self.changes_logits

    @property
    def narrows(self) -> bool:
        """Whether some tokens are left out of the draw."""
        return self.top_p < 1 or self.top_k > 0 or self.min_p > 0

    @property
    def ended(self) -> bool:
        """Whether the grammar is fulfilled and nothing can follow."""
        return self.constraint is not None and self.constraint.ended

    def factors(self) -> Amounts:
        """By what the repetition penalty divides positive logits and multiplies negative ones."""
        return self._seen_ids, np.full(self._seen_ids.size, self.repetition_penalty, np.float32)

    def penalties(self) -> Amounts:
        """What the penalties for the answer's own tokens add to their logits."""
        ids, counts = _amounts(self._chosen)
        return ids, -(counts * np.float32(self.frequency_penalty) + np.float32(self.presence_penalty))

    def biases(self) -> Amounts:
        """What is added to logits because the request says so."""
        return self._biases

    def accept(self, token: int) -> None:
        """Remember a chosen token."""
        if self.frequency_penalty or self.presence_penalty:
            self._chosen[token] = self._chosen.get(token, 0) + 1
        if self.repetition_penalty != 1 and token not in self._seen:
            self._seen.add(token)
            self._seen_ids = np.append(self._seen_ids, token)
        if self.constraint:
            self.constraint.accept(token)


def choose(logits: torch.Tensor, choices: Sequence[Choice]) -> list[int | None]:
    """One token id for each row of `logits` [rows, vocabulary].

    None where there is no token: `error` of the row's choice says why, or the model gave no finite number.
    """
    scores = logits.float()
    best = _likeliest(scores)
    tokens: list[int | None] = [token if math.isfinite(logit) else None for token, logit in best]
    others = [row for row, choice in enumerate(choices) if tokens[row] is not None and not choice.takes_likeliest]
    if others:
        # What follows changes them in place, and the model's own are kept for the log probabilities.
        if len(others) < len(choices):
            scores = scores[others]
        elif scores is logits:
            scores = scores.clone()
        found = _choose(scores, [best[row] for row in others], [choices[row] for row in others])
        for row, token in zip(others, found, strict=True):
            tokens[row] = token
    told = [row for row, choice in enumerate(choices) if tokens[row] is not None and choice.logprobs is not None]
    if told:
        told_logits = logits[told] if len(told) < len(choices) else logits
        _tell(told_logits, [tokens[row] or 0 for row in told], [choices[row] for row in told])
    for choice, token in zip(choices, tokens, strict=True):
        if token is not None:
            choice.accept(token)
    return tokens


def _choose(scores: torch.Tensor, best: list[tuple[int, float]], choices: Sequence[Choice]) -> list[int | None]:
    """As choose(), for rows that take more than an argmax; `best` are their likeliest tokens, `scores` is changed."""
    if any(choice.changes_logits for choice in choices):
        if _change(scores, choices):
            best = _likeliest(scores)
        if _forbid(scores, best, choices):
            best = _likeliest(scores)
        for choice, (_, logit) in zip(choices, best, strict=True):
            if not math.isfinite(logit) and choice.error is None:
                # One such row would be drawn from NaN, and fail the step of all the others.
                choice.error = "no token may come next"
    tokens = [token for token, _ in best]
    drawn = [row for row, choice in enumerate(choices) if choice.temperature > 0 and choice.error is None]
    if drawn:
        if len(drawn) < len(choices):
            scores = scores[drawn]
        if any(choices[row].temperature != 1 for row in drawn):
            likeliest, temperatures = torch.tensor(
                [(best[row][1], max(choices[row].temperature, COLDEST)) for row in drawn], device=scores.device
            ).unbind(1)
            # The largest becomes 0 before the division: large logits over a small temperature would be infinite.
            scores.sub_(likeliest.unsqueeze(1)).div_(temperatures.unsqueeze(1))
        probabilities = torch.softmax(scores, dim=-1).cpu().numpy()
        for row, token in zip(drawn, _draw(probabilities, [choices[row] for row in drawn]), strict=True):
            tokens[row] = token
    return [None if choice.error else token for choice, token in zip(choices, tokens, strict=True)]


def _likeliest(scores: torch.Tensor) -> list[tuple[int, float]]:
    """The likeliest token of each row and its logit; where there is a NaN, that is the logit."""
    if scores.device.type != "cpu":
        # Both come in one tensor, for each that comes from a GPU is waited for; a double holds either exactly.
        values, ids = torch.stack([part.double() for part in scores.max(dim=-1)]).tolist()
        return [(int(token), logit) for token, logit in zip(ids, values, strict=True)]
    # Of 151,936 logits numpy finds it in a thirtieth of the time that torch's argmax takes (docs/benchmarks.md).
    rows = scores.numpy()
    found = rows.argmax(axis=1)
    return list(zip(found.tolist(), rows[np.arange(len(rows)), found].tolist(), strict=True))


def _tell(logits: torch.Tensor, tokens: Sequence[int], choices: Sequence[Choice]) -> None:
    logprobs = torch.log_softmax(logits.float(), dim=-1)
    chosen = logprobs.gather(1, torch.tensor(tokens, device=logits.device).unsqueeze(1))
    most = max(choice.logprobs or 0 for choice in choices)
    likeliest = logprobs.topk(min(most, logprobs.shape[1]), dim=-1)
    found = torch.cat([chosen, likeliest.values], dim=1).tolist()
    for choice, ids, (logprob, *values) in zip(choices, likeliest.indices.tolist(), found, strict=True):
        choice.told = Logprobs(logprob, tuple(zip(ids, values, strict=True))[: choice.logprobs])


# Changing


def _amounts(of_tokens: Mapping[int, float]) -> Amounts:
    return np.array(list(of_tokens), dtype=np.int64), np.array(list(of_tokens.values()), dtype=np.float32)


def _change(scores: torch.Tensor, choices: Sequence[Choice]) -> bool:
    """Apply penalties and biases to the rows' logits [rows, vocabulary], in place; whether there are any.

    Each kind for all rows at once: what goes to a GPU is waited for, and so there is little of it.
    """
    changed = False
    if any(choice.repetition_penalty != 1 for choice in choices):
        places, factors = _pooled([choice.factors() for choice in choices], scores)
        found = scores.take(places)
        scores.put_(places, torch.where(found < 0, found * factors, found / factors))
        changed = True
    for kind in (Choice.penalties, Choice.biases):
        amounts = [kind(choice) for choice in choices]
        if any(ids.size for ids, _ in amounts):
            scores.put_(*_pooled(amounts, scores), accumulate=True)
            changed = True
    return changed


def _pooled(amounts: Sequence[Amounts], scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows' amounts behind one another: the place of each in all the scores, and the amounts."""
    size = scores.shape[1]
    places = np.concatenate([row * size + ids for row, (ids, _) in enumerate(amounts)])
    numbers = np.concatenate([numbers for _, numbers in amounts])
    return torch.from_numpy(places).to(scores.device), torch.from_numpy(numbers).to(scores.device)


def _forbid(scores: torch.Tensor, best: list[tuple[int, float]], choices: Sequence[Choice]) -> bool:
    """Let the rows' logits [rows, vocabulary] be those of tokens that their grammars allow, in place; whether that is a
    change. `best` are the likeliest tokens without it."""
    masks: dict[int, npt.NDArray[np.uint8]] = {}
    for row, choice in enumerate(choices):
        if choice.constraint:
            # A greedy row mostly wants what its grammar allows: that is cheaper to ask than the mask of all tokens.
            if not (choice.temperature == 0 and choice.constraint.allows(best[row][0])):
                masks[row] = choice.constraint.mask()
            choice.error = choice.constraint.error
    if masks:
        bits = np.unpackbits(np.stack(list(masks.values())), axis=1, count=scores.shape[1], bitorder="little")
        for row, allowed in zip(masks, torch.from_numpy(bits).to(scores.device), strict=True):
            scores[row].masked_fill_(allowed == 0, -torch.inf)
    return bool(masks)


# Drawing


def _draw(probabilities: Probabilities, choices: Sequence[Choice]) -> list[int]:
    """One token id for each row of `probabilities` [rows, vocabulary], drawn from what its choice leaves of them.

    One random number a token, used as a position among the tokens in the order of their ids: small differences of
    rounding between a batch and a single row then hardly ever change what is drawn.
    """
    for left, choice in zip(probabilities, choices, strict=True):
        if choice.narrows:
            try:
                left *= left >= _floor(left, choice)
            except (ArithmeticError, LookupError, ValueError) as problem:  # a mistake here ends no other row
                log.error("a token could not be drawn: %s: %s", type(problem).__name__, problem)
                choice.error = "its token could not be drawn"
    return _at(probabilities, [choice.numbers.random() for choice in choices])


def _at(weights: Probabilities, numbers: Sequence[float]) -> list[int]:
    """Where in each row of `weights` [rows, vocabulary] the row's share of `numbers`, from 0 to 1, of the sum of all is
    passed; never at a weight of 0."""
    rows, size = np.arange(len(weights)), weights.shape[1]
    starts = np.arange(0, size, BLOCK)
    # Row by row: what is added up is copied as float64 first.
    sums = np.array([np.add.reduceat(row, starts, dtype=np.float64) for row in weights]).cumsum(axis=1)
    wanted = np.minimum(numbers * sums[:, -1], np.nextafter(sums[:, -1], 0))
    block = (sums > wanted[:, None]).argmax(axis=1)
    wanted -= np.where(block > 0, sums[rows, block - 1], 0)
    ids = starts[block, None] + np.arange(BLOCK)
    nearby = weights.take(rows[:, None] * size + ids, mode="clip")
    within = np.where(ids < size, nearby, 0).cumsum(axis=1, dtype=np.float64)
    wanted = np.minimum(wanted, np.nextafter(within[:, -1], 0))
    tokens: list[int] = ids[rows, (within > wanted[:, None]).argmax(axis=1)].tolist()
    return tokens


def _floor(probabilities: Probabilities, choice: Choice) -> np.float32:
    """The smallest probability that may be drawn; equally probable tokens are in or out together.

    top_p counts what top_k has left.
    """
    floor: np.float32 = np.float32(choice.min_p) * (probabilities.max() if choice.min_p else 0)
    left, mass = probabilities, 1.0
    if 0 < choice.top_k < probabilities.size:
        counted = probabilities
        # As many tokens as blocks are at least as probable as the least of the blocks' largest.
        largest = np.maximum.reduceat(probabilities, np.arange(0, probabilities.size, BLOCK))
        if choice.top_k <= largest.size:
            counted = probabilities[probabilities >= np.partition(largest, -choice.top_k)[-choice.top_k]]
        least = _least(counted, choice.top_k, by_count=True)
        left = counted[counted >= least]
        mass = float(left.sum(dtype=np.float64))
        floor = max(floor, least)
    if choice.top_p < 1:
        # All the tokens that are smaller than this together hold less than what top_p leaves out.
        counted = left[left >= (1 - choice.top_p) * mass / left.size]
        floor = max(floor, _least(counted, choice.top_p * mass, by_count=False))
    return floor


def _least(values: Probabilities, wanted: float, *, by_count: bool) -> np.float32:
    """The largest value such that those of at least it are `wanted` many, or add up to `wanted`.

    Found digit by digit without a sort, which takes many times as long for a large vocabulary: positive floats have the
    order of their bits, and those below 2 differ in the lower 30.
    """
    bits, above = values.view(np.uint32), 0.0
    for shift in (20, 10, 0):
        digits = (bits >> shift) & 0x3FF
        sums = np.bincount(digits, None if by_count else bits.view(np.float32)).astype(np.float64)
        from_top = above + sums[::-1].cumsum()
        at = min(int(from_top.searchsorted(wanted)), sums.size - 1)
        # What is wanted may be more than all of them by a rounding error: then it is the least one that there is.
        digit = max(sums.size - 1 - at, int(digits.min()))
        above = float(from_top[at] - sums[digit])
        bits = bits[digits == digit]
    found: np.float32 = bits.view(np.float32)[0]
    return found

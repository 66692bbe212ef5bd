"""The choice of the next token, held against the definitions."""

from __future__ import annotations

import math

import pytest
import torch
from sampling import Choice, choose


def test_temperature_zero_takes_the_likeliest() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0], [5.0, 3.0, 1.0]])
    assert choose(logits, [Choice(0.0), Choice(0.0, top_p=0.1, seed=4)]) == [1, 0]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
@pytest.mark.parametrize("top_p", [0.0, 0.5, 0.8, 1.0])
def test_frequencies_follow_the_nucleus(temperature: float, top_p: float) -> None:
    weights = [0.4, 0.1, 0.3, 0.15, 0.05]
    logits = torch.tensor([[math.log(weight) for weight in weights]])
    choice = Choice(temperature, top_p, seed=1)
    draws = 4000
    counts = [0] * len(weights)
    for _ in range(draws):
        token = choose(logits, [choice])[0]
        assert token is not None
        counts[token] += 1

    tempered = [weight ** (1 / temperature) for weight in weights]
    tempered = [weight / sum(tempered) for weight in tempered]
    kept: dict[int, float] = {}
    for token in sorted(range(len(weights)), key=lambda at: -tempered[at]):
        kept[token] = tempered[token]
        if sum(kept.values()) >= top_p:
            break
    for token, count in enumerate(counts):
        expected = kept.get(token, 0.0) / sum(kept.values())
        assert abs(count / draws - expected) < 0.035, (token, counts)


def test_a_nucleus_wider_than_the_first_sorted_part() -> None:
    """A flat distribution over more tokens than are sorted first: all of them can be drawn."""
    size = 4096
    choice = Choice(1.0, top_p=0.99, seed=3)
    drawn = {choose(torch.zeros(1, size), [choice])[0] for _ in range(300)}
    assert len(drawn) > 200
    assert max(token or 0 for token in drawn) > 3072


def test_a_seed_draws_the_same_alone_and_in_a_batch() -> None:
    torch.manual_seed(0)
    logits = torch.randn(5, 50)
    alone = Choice(1.0, seed=9)
    in_batch = [Choice(1.0, seed=seed) for seed in (1, 2, 9, 3, 4)]
    for _ in range(20):
        assert choose(logits[2:3], [alone])[0] == choose(logits, in_batch)[2]


def test_numbers_that_are_none_are_told() -> None:
    logits = torch.tensor([[1.0, math.nan], [1.0, 2.0], [-math.inf, -math.inf]])
    assert choose(logits, [Choice(1.0, seed=1), Choice(0.0), Choice(0.0)]) == [None, 1, None]

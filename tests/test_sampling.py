"""The choice of the next token, held against the definitions."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sampling import Choice, _at, _change, _floor, choose
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)


def test_temperature_zero_takes_the_likeliest() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0], [5.0, 3.0, 1.0]])
    assert choose(logits, [Choice(0.0), Choice(0.0, top_p=0.1, seed=4)]) == [1, 0]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
@pytest.mark.parametrize("top_p", [0.0, 0.5, 0.8, 1.0])
def test_frequencies_follow_the_nucleus(temperature: float, top_p: float) -> None:
    weights = [0.4, 0.1, 0.3, 0.15, 0.05]
    logits = torch.tensor([[math.log(weight) for weight in weights]])
    draws = 3000
    tokens = choose(logits.expand(draws, -1), [Choice(temperature, top_p, seed=seed) for seed in range(draws)])
    counts = [tokens.count(token) for token in range(len(weights))]
    assert sum(counts) == draws

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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("temperatures", [(1.0,), (0.7,), (1.0, 0.7), (1.0, 0.0, 0.7)])
def test_a_seed_draws_the_same_alone_and_in_a_batch(temperatures: tuple[float, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    logits = torch.randn(6, 600).to(dtype)
    kept = logits.clone()
    settings: list[dict[str, Any]] = [{}, {}, {"top_p": 0.9}, {"top_k": 5}, {"min_p": 0.1}, {"frequency_penalty": 1.0}]
    for several in (settings[:1] * 6, settings):

        def made(several: list[dict[str, Any]] = several) -> list[Choice]:
            return [
                Choice(temperatures[row % len(temperatures)], seed=row, **setting)
                for row, setting in enumerate(several)
            ]

        alone, in_batch = made(), made()
        for _ in range(20):
            tokens = [choose(logits[row : row + 1], [choice])[0] for row, choice in enumerate(alone)]
            assert choose(logits, in_batch) == tokens
    assert torch.equal(logits, kept), "the model's own logits are left as they are"


@pytest.mark.parametrize("size", [1, 255, 256, 257, 5000])
def test_a_seeds_number_is_a_position_among_the_tokens_in_their_order(size: int) -> None:
    torch.manual_seed(0)
    logits = torch.randn(20, size)
    sums = torch.softmax(logits, dim=-1).double().cumsum(dim=-1)
    numbers = torch.tensor([random.Random(seed).random() for seed in range(20)], dtype=torch.float64)
    expected = torch.searchsorted(sums, numbers.unsqueeze(1) * sums[:, -1:], right=True).squeeze(1).tolist()
    assert choose(logits, [Choice(1.0, seed=seed) for seed in range(20)]) == expected


def test_numbers_that_are_none_are_told() -> None:
    logits = torch.tensor([[1.0, math.nan], [1.0, 2.0], [-math.inf, -math.inf]])
    assert choose(logits, [Choice(1.0, seed=1), Choice(0.0), Choice(0.0)]) == [None, 1, None]


# What is left to be drawn, against the definitions and against transformers' own processors


def drawable(logits: torch.Tensor, choice: Choice, draws: int = 400) -> set[int]:
    """The tokens that come up."""
    drawn = {choose(logits, [choice])[0] for _ in range(draws)}
    assert None not in drawn
    return {token for token in drawn if token is not None}


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    size=st.sampled_from([3, 40, 700, 5000]),
    spread=st.sampled_from([0.05, 1.0, 4.0]),
    top_k=st.sampled_from([0, 1, 5, 300, 4000]),
    top_p=st.sampled_from([1.0, 0.0, 0.3, 0.9, 0.999]),
    min_p=st.sampled_from([0.0, 0.05, 0.5]),
)
def test_what_is_left_is_what_transformers_leaves(
    seed: int, size: int, spread: float, top_k: int, top_p: float, min_p: float
) -> None:
    torch.manual_seed(seed)
    logits = torch.randn(1, size) * spread
    choice = Choice(0.8, top_p, 1, top_k=top_k, min_p=min_p)
    probabilities = torch.softmax(logits[0] / 0.8, dim=-1).numpy()
    ours = set(np.flatnonzero(probabilities >= _floor(probabilities, choice)).tolist())
    tokens: Any = None  # none of these looks at them
    scores = TemperatureLogitsWarper(0.8)(tokens, logits)
    for name, value in (("k", top_k), ("p", top_p), ("m", min_p)):
        if name == "k" and value:
            scores = TopKLogitsWarper(int(value))(tokens, scores)
        elif name == "p" and value < 1:
            scores = TopPLogitsWarper(float(value))(tokens, scores)
        elif name == "m" and value:
            scores = MinPLogitsWarper(float(value))(tokens, scores)
    theirs = set(torch.isfinite(scores[0]).nonzero().squeeze(1).tolist())
    # Where the sum of probabilities meets top_p to the last bit, rounding decides about one token.
    assert len(ours ^ theirs) <= 1
    assert choose(logits, [choice])[0] in ours


def test_equally_probable_tokens_are_in_or_out_together() -> None:
    logits = torch.log(torch.tensor([[0.4, 0.2, 0.2, 0.2]]))
    assert drawable(logits, Choice(1.0, top_k=2, seed=1)) == {0, 1, 2, 3}
    assert drawable(logits, Choice(1.0, top_p=0.3, seed=1)) == {0}


def test_min_p_is_a_share_of_the_likeliest() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))
    assert drawable(logits, Choice(1.0, min_p=0.29, seed=1)) == {0, 1, 2}


def test_a_temperature_next_to_nothing() -> None:
    logits = torch.tensor([[1e4, -1e4, 9e3]])
    for temperature in (1e-300, 1e-40, 1e-9, 0.01):
        assert drawable(logits, Choice(temperature, seed=1), 20) == {0}


@settings(max_examples=40, deadline=None)
@given(
    weights=st.lists(st.sampled_from([0.0, 1e-30, 0.1, 1.0, 3.0]), min_size=1, max_size=700).filter(any),
    number=st.sampled_from([0.0, 1e-12, 0.25, 0.5, 1 - 2**-53]),
)
def test_a_place_in_the_sum(weights: list[float], number: float) -> None:
    [at] = _at(np.array([weights], dtype=np.float32), [number])
    sums = np.cumsum(np.array(weights, dtype=np.float32), dtype=np.float64)
    assert weights[at] > 0
    assert sums[at] >= number * sums[-1] * (1 - 1e-9)
    assert at == 0 or sums[at - 1] <= number * sums[-1] * (1 + 1e-9)


# Penalties, biases, log probabilities


def test_the_repetition_penalty_is_transformers_own() -> None:
    torch.manual_seed(3)
    prompt, answer = [4, 5, 5, 9], [1, 9, 30]
    choice = Choice(0.0, repetition_penalty=1.7, prompt=prompt)
    for token in answer:
        choice.accept(token)
    logits = torch.randn(1, 40) * 3
    ours = logits.clone()
    assert _change(ours, [choice])
    theirs = RepetitionPenaltyLogitsProcessor(1.7)(torch.tensor([prompt + answer]), logits)
    assert torch.equal(ours, theirs)
    assert choose(logits, [choice]) == [int(theirs.argmax())]


def test_frequency_and_presence_penalties_count_the_answer_alone() -> None:
    choice = Choice(0.0, frequency_penalty=0.5, presence_penalty=0.25, prompt=[0, 1])
    for token in (1, 2, 2):
        choice.accept(token)
    scores = torch.zeros(1, 4)
    assert _change(scores, [choice])
    assert scores.tolist() == [[0.0, -0.75, -1.25, 0.0]]


def test_biases_change_one_row_alone() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0]] * 3)
    kept = logits.clone()
    assert choose(logits, [Choice(0.0), Choice(0.0, bias={2: 5.0}), Choice(1.0, bias={0: 100.0}, seed=1)]) == [1, 2, 0]
    assert torch.equal(logits, kept), "the model's own logits are left as they are"


def test_log_probabilities_are_those_of_the_model() -> None:
    """Whatever changes the choice: OpenAI tells those of the model's own distribution."""
    torch.manual_seed(1)
    logits = torch.randn(3, 30) * 2
    choices = [Choice(0.0, logprobs=2), Choice(0.0), Choice(1.3, bias={7: 50.0}, top_k=3, seed=2, logprobs=0)]
    tokens = choose(logits, choices)
    expected = torch.log_softmax(logits, dim=-1)
    first, second, third = (choice.told for choice in choices)
    assert first is not None and third is not None
    assert second is None
    assert first.chosen == pytest.approx(float(expected[0, tokens[0]]), abs=1e-6)
    likeliest = expected[0].topk(2)
    assert [token for token, _ in first.likeliest] == likeliest.indices.tolist()
    assert [value for _, value in first.likeliest] == pytest.approx(likeliest.values.tolist(), abs=1e-6)
    assert tokens[2] == 7
    assert third.chosen == pytest.approx(float(expected[2, 7]), abs=1e-6)
    assert third.likeliest == ()


def test_a_row_without_any_token_fails_alone() -> None:
    logits = torch.tensor([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    forbidden = {0: -math.inf, 1: -math.inf}
    stuck = [Choice(temperature, bias=forbidden, seed=1) for temperature in (0.0, 1.0)]
    assert choose(logits, [*stuck, Choice(0.0)]) == [None, None, 1]
    assert [choice.error for choice in stuck] == ["no token may come next"] * 2


def test_a_row_that_has_no_finite_likelihood_fails_alone() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0]]).repeat(3, 1)
    endless = Choice(1.0, repetition_penalty=5e-324, prompt=[1])
    choices = [Choice(1.0, seed=1), endless, Choice(0.0)]
    first, none, last = choose(logits, choices)
    assert (none, last) == (None, 1)
    assert first is not None
    assert endless.error == "no token may come next"


@pytest.mark.parametrize("vocabulary", [300, 8_000, 128_000])
@pytest.mark.parametrize("top_p", [0.9999999, 0.99999999, math.nextafter(1, 0)])
def test_a_nucleus_of_all_but_nothing(vocabulary: int, top_p: float) -> None:
    """Float32 probabilities may add up to less than it."""
    logits = torch.randn(12, vocabulary, generator=torch.Generator().manual_seed(5))
    choices = [Choice(1.0, top_p, seed=seed) for seed in range(12)]
    assert None not in choose(logits, choices)
    assert [choice.error for choice in choices] == [None] * 12

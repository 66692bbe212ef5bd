"""What was computed once is not computed again: which slot a row gets, and that every answer stays what the model alone
gives, whatever joins, shares, is cut into chunks, or leaves early."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from batch import BASE, Causal, Row, SlotBatch
from hypothesis import given, settings
from hypothesis import strategies as some
from prefix import SHORTEST_REUSED, Awaited, Place, SlotTable
from sampling import Choice

ADAPTERS = ("adapter_0", "adapter_1")
VOCABULARY = 61
LONGEST_PROMPT = 60
MOST_NEW = 6


@cache
def adapted() -> Causal:
    """A tiny model with two adapters that each change nearly every answer."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.4,
        eos_token_id=None,
        pad_token_id=0,
    )
    module: Any = LlamaForCausalLM(config)
    lora = LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False)
    module = get_peft_model(module, lora, ADAPTERS[0])
    module.add_adapter(ADAPTERS[1], lora)
    return Causal(module.eval(), config, torch.device("cpu"), ADAPTERS)


@cache
def alone(adapter: str, prompt: tuple[int, ...]) -> list[int]:
    """What model.generate answers, greedily."""
    model = adapted()
    ids = torch.tensor([prompt])
    with torch.inference_mode(), model.using(adapter):
        # Without a mask it would take the padding's number for padding wherever it stands.
        whole = model.module.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=MOST_NEW, do_sample=False
        )
    found: list[int] = whole[0, len(prompt) :].tolist()
    return found


def stem(number: int) -> list[int]:
    """The beginning that several prompts share."""
    generator = random.Random(number)
    return [generator.randrange(1, VOCABULARY) for _ in range(LONGEST_PROMPT)]


@dataclass(frozen=True)
class Asked:
    """A request of a random mix."""

    adapter: str
    prompt: tuple[int, ...]
    new_tokens: int
    joins_at: int
    """The step before which it comes."""
    turns: int
    """How often it comes again with its answer and one more token, as a conversation does."""
    cancelled: bool
    """Whether it leaves one step after it came."""


ASKED = some.builds(
    lambda adapter, number, shared, own, new_tokens, joins_at, turns, cancelled: Asked(
        adapter, tuple(stem(number)[:shared] + own), new_tokens, joins_at, turns, cancelled
    ),
    some.sampled_from((BASE, *ADAPTERS)),
    some.integers(0, 1),
    some.sampled_from((3, 8, 9, 25, 40)),
    some.sampled_from(([], [5], [5, 6, 7], [5] * 12)),
    some.integers(1, MOST_NEW),
    some.integers(0, 8),
    some.integers(0, 1),
    some.booleans(),
)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    some.lists(ASKED, min_size=1, max_size=6), some.integers(1, 4), some.integers(0, 3), some.sampled_from([5, 16, 512])
)
def test_any_mix_answers_as_the_model_alone(asked: list[Asked], slots: int, kept: int, prefill_tokens: int) -> None:
    model = adapted()
    batch = SlotBatch(model, slots=slots, kept=kept, context_tokens=100, prefill_tokens=prefill_tokens)
    coming = sorted(asked, key=lambda each: each.joins_at)
    running: dict[Row, tuple[Asked, int]] = {}
    step = 0
    while coming or running:
        while coming and coming[0].joins_at <= step and len(running) < slots:
            each = coming.pop(0)
            row = Row(list(each.prompt), Choice(temperature=0.0), each.adapter)
            batch.add(row)
            running[row] = each, step
        produced = batch.step()
        step += 1
        for row, token in produced:
            assert token is not None
            row.tokens.append(token)
        for row, (each, joined) in list(running.items()):
            answer = row.tokens[len(each.prompt) :]
            assert answer == alone(each.adapter, each.prompt)[: len(answer)]
            assert row.reused < len(each.prompt)
            if len(answer) == each.new_tokens or (each.cancelled and step > joined + 1):
                batch.remove(row)
                del running[row]
                if each.turns and len(row.tokens) < LONGEST_PROMPT:
                    more = Asked(each.adapter, (*row.tokens, 7), each.new_tokens, step, 0, False)
                    coming.insert(0, more)
    assert batch.step() == []


def finish(batch: SlotBatch, prompt: list[int], new_tokens: int = 2, adapter: str = BASE) -> Row:
    """One row from its beginning to its end, alone."""
    row = Row(list(prompt), Choice(temperature=0.0), adapter)
    batch.add(row)
    while len(row.tokens) < len(prompt) + new_tokens:
        for each, token in batch.step():
            assert token is not None
            each.tokens.append(token)
    batch.remove(row)
    return row


def test_a_conversation_goes_on_where_it_ended() -> None:
    batch = SlotBatch(adapted(), slots=2, kept=1, context_tokens=100)
    first = finish(batch, stem(0)[:40], new_tokens=5)
    assert first.reused == 0
    second = finish(batch, [*first.tokens, 7, 8, 9])
    # The last token of an answer is never computed: nothing followed it.
    assert second.reused == len(first.tokens) - 1
    assert second.tokens[-2:] == alone(BASE, tuple(second.tokens[:-2]))[:2]


def test_an_adapter_reuses_nothing_of_another() -> None:
    batch = SlotBatch(adapted(), slots=2, kept=1, context_tokens=100)
    finish(batch, stem(0)[:40], adapter=ADAPTERS[0])
    assert finish(batch, stem(0)[:40], adapter=ADAPTERS[1]).reused == 0
    assert finish(batch, stem(0)[:40]).reused == 0
    assert finish(batch, stem(0)[:40], adapter=ADAPTERS[0]).reused == 39


def test_rows_that_come_together_compute_their_shared_beginning_once() -> None:
    batch = SlotBatch(adapted(), slots=4, context_tokens=100, prefill_tokens=16)
    rows = [Row([*stem(0)[:40], 3 + number], Choice(temperature=0.0)) for number in range(4)]
    for row in rows:
        batch.add(row)
    while any(len(row.tokens) == 41 for row in rows):
        for row, token in batch.step():
            assert token is not None
            row.tokens.append(token)
    assert [row.reused for row in rows] == [0, 40, 40, 40]
    for number, row in enumerate(rows):
        assert row.tokens[41:] == alone(BASE, (*stem(0)[:40], 3 + number))[: len(row.tokens) - 41]


def test_nothing_is_kept_of_a_row_that_had_no_finite_number() -> None:
    batch = SlotBatch(adapted(), slots=1, kept=1, context_tokens=100)
    row = Row(stem(0)[:30], Choice(temperature=0.0))
    batch.add(row)
    [(_, token)] = batch.step()
    assert token is not None
    row.tokens.append(token)
    keys = batch._layers[0].keys
    assert keys is not None
    with torch.inference_mode():
        keys.fill_(float("nan"))
    assert batch.step() == [(row, None)]
    batch.remove(row)
    with torch.inference_mode():
        keys.zero_()
    again = finish(batch, stem(0)[:30])
    assert again.reused == 0
    assert again.tokens[30:] == alone(BASE, tuple(stem(0)[:30]))[:2]


# The table alone


def taken(table: SlotTable, tokens: list[int], computed: int | None = None) -> tuple[Row, Place]:
    row = Row(tokens, Choice(temperature=0.0))
    place = table.take(row)
    assert isinstance(place, Place)
    row.computed = len(tokens) if computed is None else computed
    return row, place


def test_the_least_recently_used_slot_is_given_away() -> None:
    table = SlotTable(3)
    rows = [taken(table, [number] * 20)[0] for number in range(3)]
    with pytest.raises(ValueError, match="all 3 slots are taken"):
        table.take(Row([9] * 20, Choice(temperature=0.0)))
    for row in (rows[1], rows[0], rows[2]):
        table.leave(row)
    # Slot 1 was left first, but is used now: slot 0 is the oldest.
    again, place = taken(table, [1] * 20)
    assert place == Place(1, 1, 19)
    table.leave(again)
    assert taken(table, [9] * 20)[1].slot == 0


def test_a_source_that_holds_much_more_is_copied_and_stays() -> None:
    table = SlotTable(2)
    long, place = taken(table, [1] * 10 + [2] * 30)
    table.leave(long)
    other, place = taken(table, [1] * 10 + [3] * 30)
    assert place == Place(slot=1, source=0, reused=10)
    table.leave(other)
    assert taken(table, [1] * 10 + [2] * 31)[1] == Place(slot=0, source=0, reused=40)


def test_a_row_waits_for_what_another_is_computing() -> None:
    table = SlotTable(2)
    first, _ = taken(table, [1] * 40, computed=10)
    second = Row([1] * 30 + [2] * 5, Choice(temperature=0.0))
    assert table.take(second) == Awaited(first, 30)
    first.computed = 30
    assert table.take(second) == Place(slot=1, source=0, reused=30)


def test_short_beginnings_are_computed_again() -> None:
    table = SlotTable(2)
    row, _ = taken(table, [1] * (SHORTEST_REUSED - 1) + [2] * 20)
    table.leave(row)
    assert taken(table, [1] * (SHORTEST_REUSED - 1) + [3] * 20)[1].reused == 0

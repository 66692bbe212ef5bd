"""The inference server's work for a GPU, on a pretended one: every step's tensors meet on one device, what is chosen is
what a CPU chooses, and no step waits for the device more often because it has more rows."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from batch import BASE, Batch, Causal, Row, SlotBatch, make_batch
from sampling import Choice

from tests.fixtures_inference import LIMITS, TinyModel, tiny_model
from tests.pretended_device import PretendedTensor, pretended_device
from tests.test_batch import DYNAMIC, causal, prompt, run

if TYPE_CHECKING:
    from constrain import Vocabulary
    from model import Loaded

__all__ = ["tiny_model"]

SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
ROWS = 18


def test_tensors_of_two_devices_do_not_meet() -> None:
    with pretended_device() as device:
        ours, others = torch.zeros(3, 4, device="cuda"), torch.ones(4)
        with pytest.raises(RuntimeError, match="found cuda:0 and cpu"):
            ours + others
        with pytest.raises(RuntimeError, match="found cuda:0 and cpu"):
            ours[torch.tensor([0])] = torch.ones(1, 4)
        with pytest.raises(TypeError, match="can't convert cuda:0"):
            ours.numpy()
        assert device.waits == ["copy to the device"], "the index"
        ours[0] += others.to("cuda")
        assert (ours + 1).tolist() == [[2] * 4, [1] * 4, [1] * 4]
        assert float(ours.max()) == 1
        assert device.waits[1:] == ["copy to the device", "copy from the device", "_local_scalar_dense"]


def tokens(number: int) -> list[int]:
    generator = random.Random(number)
    return [generator.randrange(5, 300) for _ in range(10 + 3 * number)]


def kinds(vocabulary: Vocabulary) -> dict[str, Callable[[int], Choice]]:
    """Every way to choose a token, by the number of a row."""
    return {
        "greedy": lambda row: Choice(0.0),
        "drawn": lambda row: Choice(0.8, seed=row),
        "narrowed": lambda row: Choice(0.8, 0.9, seed=row, top_k=20, min_p=0.01),
        "repetition": lambda row: Choice(0.8, seed=row, repetition_penalty=1.2, prompt=tokens(row)),
        "penalties": lambda row: Choice(0.0, frequency_penalty=0.3, presence_penalty=0.2),
        "biases": lambda row: Choice(0.8, seed=row, bias={7: 3.0, 9: -100.0}),
        "told": lambda row: Choice(0.0, logprobs=5),
        "grammar": lambda row: Choice(0.0, constraint=vocabulary.json_constraint(SCHEMA)),
        "grammar, drawn": lambda row: Choice(0.8, seed=row, constraint=vocabulary.json_constraint(SCHEMA)),
    }


def loaded_on(tiny: TinyModel, device: str, adapters: int, merge: str = "auto") -> Loaded:
    import model

    chosen = tiny.adapters[:adapters]
    limits = replace(LIMITS, max_concurrent=ROWS)
    return model.load(
        tiny.base, chosen, limits=limits, device=device, dtype="float32", report=lambda *_: None, merge=merge
    )


@pytest.fixture(scope="module")
def vocabulary(tiny_model: TinyModel) -> Vocabulary:
    from constrain import Vocabulary
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model.base)
    return Vocabulary(tokenizer, len(tokenizer), [tokenizer.eos_token_id])


@pytest.mark.parametrize(("adapters", "merge"), [(2, "auto"), (1, "on"), (1, "off")])
def test_what_is_chosen_is_what_a_cpu_chooses(
    tiny_model: TinyModel, vocabulary: Vocabulary, adapters: int, merge: str
) -> None:
    def said(loaded: Loaded) -> list[list[int]]:
        names, ways = list(loaded.adapters.values()), list(kinds(vocabulary).values())
        made = [Row(tokens(row), ways[row % len(ways)](row), names[row % len(names)]) for row in range(ROWS)]
        # The second time finds the beginnings of the first in the cache, and copies some of them.
        again = [Row([*tokens(row), 8], Choice(0.0), names[row % len(names)]) for row in (3, 3, 4)]
        return run(loaded.batch, made, 6) + run(loaded.batch, again, 3)

    expected = said(loaded_on(tiny_model, "cpu", adapters, merge))
    with pretended_device():
        loaded = loaded_on(tiny_model, "auto", adapters, merge)
        assert f"cuda, float32, {ROWS} requests at once (slots)" in loaded.description
        assert said(loaded) == expected


def test_more_rows_wait_no_more_often(tiny_model: TinyModel, vocabulary: Vocabulary) -> None:
    """But for what the row has to itself, a step is one copy to the device and one from it."""

    def waits(batch: Batch, way: Callable[[int], Choice], rows: int) -> list[str]:
        made = [Row(tokens(row), way(row)) for row in range(rows)]
        for row in made:
            batch.add(row)
        while True:
            continuing = all(row.computed == len(row.tokens) - 1 for row in made)
            device.waits.clear()
            for row, token in batch.step():
                row.tokens.append(token or 0)
            if continuing:
                batch.reset()
                return list(device.waits)

    with pretended_device() as device:
        batch = loaded_on(tiny_model, "cuda", 0).batch
        assert waits(batch, lambda row: Choice(0.0), ROWS) == ["copy to the device", "copy from the device"]
        for name, way in kinds(vocabulary).items():
            assert len(waits(batch, way, 2)) == len(waits(batch, way, ROWS)), name


@pytest.mark.parametrize(
    ("kind", "changes", "batch_kind"),
    [("Gemma2", {"head_dim": 8, "sliding_window": 8}, "slots"), ("Llama", DYNAMIC, "separate")],
)
def test_other_models_on_a_device(kind: str, changes: dict[str, Any], batch_kind: str) -> None:
    def said(on_cpu: Causal, device: str) -> list[list[int]]:
        model = Causal(on_cpu.module.to(device), on_cpu.config, torch.device(device))
        batch = make_batch(model, slots=4, context_tokens=64, memory_bytes=10**8)
        assert batch.kind == batch_kind
        rows = [Row(prompt(length, length), Choice(0.0)) for length in (3, 40, 17, 25)]
        return run(batch, rows, 8)

    on_cpu = causal(kind, **changes)
    expected = said(on_cpu, "cpu")
    with pretended_device():
        assert said(on_cpu, "cuda") == expected


def test_a_step_that_chooses_nothing_is_waited_for() -> None:
    """Pace learns how long it takes, and not how long it takes to ask for it."""
    on_cpu = causal("Llama")
    with pretended_device() as device:
        model = Causal(on_cpu.module.to("cuda"), on_cpu.config, torch.device("cuda"))
        assert isinstance(next(model.module.parameters()).data, PretendedTensor)
        batch = SlotBatch(model, slots=2, context_tokens=64, prefill_tokens=16)
        batch.add(Row(prompt(20), Choice(0.0), BASE))
        device.waits.clear()
        assert batch.step() == []
        assert device.waits == ["copy to the device", "synchronize"]
        assert len(batch.step()) == 1
        assert device.waits[2:] == ["copy to the device", "copy from the device"]

"""Slots against the model's own forward: chunks, windows, moves; and the models that slots cannot hold."""

from __future__ import annotations

import logging
import random
from typing import Any

import pytest
import torch
from batch import BASE, Batch, Causal, Row, SeparateBatch, SlotBatch, make_batch
from sampling import Choice
from slots import PREFILL_TOKENS

CPU = torch.device("cpu")
COMMON: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.4,
    "eos_token_id": None,
    "pad_token_id": 0,
}


def causal(kind: str, **changes: Any) -> Causal:
    import transformers

    torch.manual_seed(3)
    config = getattr(transformers, f"{kind}Config")(**(COMMON | changes))
    module = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    return Causal(module, config, CPU)


def row(tokens: list[int]) -> Row:
    return Row(list(tokens), Choice(temperature=0.0))


def prompt(length: int, seed: int = 0) -> list[int]:
    generator = random.Random(seed)
    return [generator.randrange(1, 61) for _ in range(length)]


def run(batch: Batch, rows: list[Row], new_tokens: int) -> list[list[int]]:
    """Add rows as slots are free; give each `new_tokens`."""
    waiting = list(rows)
    running: list[Row] = []
    ends = {id(row): len(row.tokens) + new_tokens for row in rows}
    while waiting or running:
        while waiting and len(running) < batch.slots:
            batch.add(waiting[0])
            running.append(waiting.pop(0))
        for row, token in batch.step():
            assert token is not None
            row.tokens.append(token)
            if len(row.tokens) == ends[id(row)]:
                batch.remove(row)
                running.remove(row)
    return [row.tokens[-new_tokens:] for row in rows]


def generated(model: Causal, tokens: list[int], new_tokens: int) -> list[int]:
    with torch.inference_mode():
        whole = model.module.generate(torch.tensor([tokens]), max_new_tokens=new_tokens, do_sample=False)
    found: list[int] = whole[0, len(tokens) :].tolist()
    return found


LENGTHS = (3, 40, 1, 17, 60, 5, 33, 16)


@pytest.mark.parametrize("prefill_tokens", [7, 16, PREFILL_TOKENS])
@pytest.mark.parametrize("slots", [1, 3, 8])
def test_chunks_and_moves_equal_generate(slots: int, prefill_tokens: int) -> None:
    model = causal("Llama")
    batch = SlotBatch(model, slots=slots, context_tokens=100, prefill_tokens=prefill_tokens)
    prompts = [prompt(length, seed) for seed, length in enumerate(LENGTHS)]
    assert run(batch, [row(tokens) for tokens in prompts], 12) == [generated(model, tokens, 12) for tokens in prompts]


MODELS: list[tuple[str, dict[str, Any]]] = [
    ("Llama", {"tie_word_embeddings": True}),
    ("Qwen2", {}),
    ("Qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}),
    ("Qwen3", {"head_dim": 8}),
    ("Mistral", {"sliding_window": 8}),
    ("Mistral", {"sliding_window": None}),
    ("Phi3", {"sliding_window": 8}),
    ("Gemma2", {"head_dim": 8, "sliding_window": 8}),
    ("Gemma3", {"head_dim": 8, "sliding_window": 8}),
    ("GPTNeoX", {}),
]


def name_of(model: object) -> str:
    return model if isinstance(model, str) else "-".join(map(str, model.values())) if isinstance(model, dict) else ""


@pytest.mark.parametrize(("kind", "changes"), MODELS, ids=name_of)
def test_other_architectures_run_in_slots(kind: str, changes: dict[str, Any]) -> None:
    if kind == "Gemma3":
        import transformers

        torch.manual_seed(3)
        config = transformers.Gemma3TextConfig(**(COMMON | changes))
        module: Any = transformers.Gemma3ForCausalLM(config)
        model = Causal(module.eval(), config, CPU)
    else:
        model = causal(
            kind,
            **{name: value for name, value in changes.items() if value is not None or name != "num_key_value_heads"},
        )
    batch = make_batch(model, slots=3, context_tokens=90, memory_bytes=10**9)
    assert batch.kind == "slots"
    prompts = [prompt(length, seed) for seed, length in enumerate((3, 40, 17, 25))]
    assert run(batch, [row(tokens) for tokens in prompts], 12) == [generated(model, tokens, 12) for tokens in prompts]


def test_eager_attention() -> None:
    model = causal("Llama", attn_implementation="eager")
    batch = make_batch(model, slots=2, context_tokens=64, memory_bytes=10**9)
    assert batch.kind == "slots"
    assert run(batch, [row(prompt(20))], 8) == [generated(model, prompt(20), 8)]


RECURRENT = {"hidden_size": 32, "state_size": 4, "num_hidden_layers": 2, "vocab_size": 61, "eos_token_id": None}

GRIFFIN = {"num_hidden_layers": 3, "head_dim": 8, "lru_width": 32, "attention_window_size": 8}
"""Two recurrent layers, whose state the library keeps in the layers themselves, and one of local attention."""

DYNAMIC = {
    "rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0},
    "max_position_embeddings": 32,
}


@pytest.mark.parametrize(
    ("kind", "changes", "reason"),
    [
        ("Mamba", RECURRENT, "keeps its state in"),
        ("Llama", DYNAMIC, "rotary embedding changes with the length beyond 32 tokens"),
        ("RecurrentGemma", GRIFFIN, "keeps no cache, so that each token computes its whole text again"),
    ],
)
def test_models_that_slots_cannot_hold_run_row_by_row(
    kind: str, changes: dict[str, Any], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = causal(kind, **changes)
    with caplog.at_level(logging.WARNING, "batch"):
        batch = make_batch(model, slots=3, context_tokens=60, memory_bytes=10**9)
    assert batch.kind == "separate"
    assert reason in caplog.text
    prompts = [prompt(length, seed) for seed, length in enumerate((3, 20, 9, 12))]
    assert run(batch, [row(tokens) for tokens in prompts], 8) == [generated(model, tokens, 8) for tokens in prompts]


def test_a_model_that_reads_what_follows_is_refused() -> None:
    import transformers

    torch.manual_seed(3)
    config = transformers.XLNetConfig(vocab_size=61, d_model=32, n_layer=2, n_head=4, d_inner=48, initializer_range=0.4)
    module: Any = transformers.XLNetLMHeadModel(config)
    model = Causal(module.eval(), config, CPU)
    with pytest.raises(ValueError, match="XLNetLMHeadModel is no causal model"):
        make_batch(model, slots=2, context_tokens=60, memory_bytes=10**9)


def test_a_lack_of_memory_is_no_reason_for_the_slower_batch() -> None:
    """It says nothing of the model: a new process, on a GPU with less on it, may have the memory."""
    model = causal("Llama")

    def short(_: Any, inputs: Any, named: dict[str, Any]) -> None:
        if named["input_ids"].shape[0] > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")

    model.module.register_forward_pre_hook(short, with_kwargs=True)
    with pytest.raises(torch.OutOfMemoryError):
        make_batch(model, slots=3, context_tokens=60, memory_bytes=10**9)


def test_memory_bounds_the_slots(caplog: pytest.LogCaptureFixture) -> None:
    model = causal("Llama")
    bytes_per_token = 3 * 2 * 2 * 8 * 4  # layers, keys and values, heads, size of a head, float32
    with caplog.at_level(logging.INFO, "batch"):
        batch = make_batch(model, slots=8, context_tokens=64, memory_bytes=bytes_per_token * 64 * 5 + 17)
    assert batch.slots == 5
    assert "memory for 5 requests at once" in caplog.text
    with pytest.raises(ValueError, match="lower INFERENCE_MAX_PROMPT_TOKENS"):
        make_batch(model, slots=8, context_tokens=64, memory_bytes=bytes_per_token * 63)
    separate = make_batch(
        causal("Llama", **DYNAMIC), slots=8, context_tokens=64, memory_bytes=bytes_per_token * 64 * 3 + 17
    )
    assert (separate.kind, separate.slots) == ("separate", 3)


def test_rows_that_do_not_fit_are_refused() -> None:
    for batch in (
        SlotBatch(causal("Llama"), slots=1, context_tokens=10),
        SeparateBatch(causal("Llama"), slots=1, context_tokens=10, cache_name="past_key_values"),
    ):
        batch.add(row([1, 2]))
        with pytest.raises(ValueError, match="all 1 slots are taken"):
            batch.add(row([1]))
        batch.reset()
        assert batch.step() == []
    slots = SlotBatch(causal("Llama"), slots=1, context_tokens=10)
    for tokens in ([], [1] * 10):
        with pytest.raises(ValueError, match="do not fit"):
            slots.add(row(tokens))


def test_a_row_without_finite_numbers_harms_no_other() -> None:
    """A NaN in one row's cache: that row gets no token, its slot is cleaned, and the next row there is right."""
    model = causal("Llama")
    batch = SlotBatch(model, slots=2, context_tokens=64)
    sound, sick = row(prompt(6, 1)), row(prompt(6, 2))
    for each in (sound, sick):
        batch.add(each)
    for each, token in batch.step():
        assert token is not None
        each.tokens.append(token)
    keys = batch._layers[0].keys
    assert keys is not None
    with torch.inference_mode():
        keys[1].fill_(float("nan"))
    produced = {id(each): token for each, token in batch.step()}
    assert produced[id(sick)] is None
    token = produced[id(sound)]
    assert token is not None
    sound.tokens.append(token)
    batch.remove(sick)
    follower = row(prompt(9, 3))
    batch.add(follower)
    for _ in range(5):
        for each, token in batch.step():
            assert token is not None
            each.tokens.append(token)
    assert sound.tokens[6:] == generated(model, prompt(6, 1), len(sound.tokens) - 6)
    assert follower.tokens[9:] == generated(model, prompt(9, 3), len(follower.tokens) - 9)


def test_rows_without_adapters_use_the_base() -> None:
    assert row([1]).adapter == BASE

"""Rows of tokens -> the next token of each, through one model in one thread.

`SlotBatch` (slots.py) keeps the keys and values of all rows in one cache and computes them together. `SeparateBatch`
computes row after row, each with the cache that the model itself makes: slower, and right for every model. `make_batch`
proves the first against the model's own forward before it is used. Knows no text and no HTTP.
"""

from __future__ import annotations

import logging
from typing import Any, Protocol

import torch
from rows import BASE, Causal, Row
from sampling import Choice, choose
from slots import SlotBatch, kept_slots
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

__all__ = ["BASE", "Batch", "Causal", "Row", "SeparateBatch", "SlotBatch", "make_batch"]

log = logging.getLogger("batch")

CACHE_NAMES = ("past_key_values", "cache_params")
"""What transformers' models call their cache, as an argument and in their output."""


class Batch(Protocol):
    """What the engine steps."""

    slots: int
    context_tokens: int
    kind: str

    def add(self, row: Row) -> None:
        """Take a row on; at most `slots` at a time."""
        ...

    def remove(self, row: Row) -> None:
        """Let a row go; its slot is free at once."""
        ...

    def step(self) -> list[tuple[Row, int | None]]:
        """Compute; each row that has a next token, with it.

        None: there is none. `row.choice.error` says why; where it does not, the model gave no finite number.
        """
        ...

    def reset(self) -> None:
        """Forget every row and every key and value, after a step that failed."""
        ...


def make_batch(model: Causal, *, slots: int, context_tokens: int, memory_bytes: int) -> Batch:
    """The quickest batch that gives what the model's own forward gives.

    `memory_bytes` bounds the cache: fewer slots, when it does not hold them all. Raises ValueError when it does not
    hold one, or when the model is not causal.
    """
    probe = DynamicCache(config=model.config)
    with torch.inference_mode(), model.using(BASE):
        one_token = torch.zeros((1, 1), dtype=torch.long, device=model.device)
        output = model.module(input_ids=one_token, past_key_values=probe, use_cache=True)
    reason = _why_not_slots(model, probe, context_tokens)
    if reason is None:
        bytes_per_slot = context_tokens * _bytes_held(probe)
        if memory_bytes < bytes_per_slot:
            raise ValueError(
                f"the cache of one request of {context_tokens} tokens needs {bytes_per_slot / 1e9:.1f} GB and "
                f"{memory_bytes / 1e9:.1f} GB are free: lower INFERENCE_MAX_PROMPT_TOKENS or INFERENCE_MAX_NEW_TOKENS, "
                "or give the replica more memory"
            )
        slots = _fitting(slots, memory_bytes, bytes_per_slot)
        kept = min(kept_slots(slots), memory_bytes // bytes_per_slot - slots)
        batch = SlotBatch(model, slots=slots, kept=kept, context_tokens=context_tokens)
        reason = _differs(model, batch)
        if reason is None:
            return batch
    held = next((name for name in CACHE_NAMES if getattr(output, name, None) is not None), None)
    if held is None:
        _check_causal(model)
        reason = f"{type(model.module).__name__} keeps no cache, so that each token computes its whole text again"
    log.warning("requests are computed one after another in each step, which is slower: %s", reason)
    if held and all(getattr(layer, "keys", None) is not None for layer in probe.layers) and probe.layers:
        # At its full length each row keeps as much as a slot would.
        slots = _fitting(slots, memory_bytes, context_tokens * _bytes_held(probe))
    return SeparateBatch(model, slots=slots, context_tokens=context_tokens, cache_name=held)


def _check_causal(model: Causal) -> None:
    """Raises ValueError for a model that reads what follows a token, so that its forward alone continues no text."""
    tokens = torch.arange(1, 9, device=model.device)[None] % int(model.config.vocab_size)
    with torch.inference_mode(), model.using(BASE):
        whole, begun = (model.module(input_ids=part, use_cache=False).logits for part in (tokens, tokens[:, :4]))
    if not torch.allclose(whole[:, 3], begun[:, 3], rtol=0.1, atol=0.1 * float(begun.abs().max())):
        raise ValueError(f"{type(model.module).__name__} is no causal model: it reads what follows a token")


def _fitting(slots: int, memory_bytes: int, bytes_per_slot: int) -> int:
    """How many of the slots there is memory for; one at least."""
    fitting = max(1, memory_bytes // max(1, bytes_per_slot))
    if fitting < slots:
        log.info("memory for %d requests at once (%d were allowed)", fitting, slots)
    return min(slots, fitting)


def compute_shortest(batch: Batch) -> None:
    """Compute a prompt of one token in an empty batch, which is empty again then. Raises what the model raises."""
    batch.add(Row([0], Choice(temperature=0.0)))
    try:
        batch.step()
    finally:
        batch.reset()


def _bytes_held(cache: DynamicCache) -> int:
    """Bytes of all keys and values in a cache whose layers _why_not_slots has accepted."""
    states = [states for keys, values, _ in cache for states in (keys, values)]
    return sum(tensor.numel() * tensor.element_size() for tensor in states)


def _why_not_slots(model: Causal, probe: Any, context_tokens: int) -> str | None:
    """Why this model's rows cannot share a slotted cache; None when they can."""
    if not model.mixes_adapters:
        return "an adapter is of a kind that cannot be mixed with others in one batch"
    for layer in probe.layers:
        if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer):
            return f"the model keeps its state in {type(layer).__name__}"
        if layer.keys is None:
            return "some of its layers keep no keys and values of their own"
    kinds = set(getattr(model.config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if kinds:
        return f"the model has layers of {', '.join(sorted(kinds))}"
    rope = getattr(model.config, "rope_parameters", None) or {}
    for part in (rope, *(value for value in rope.values() if isinstance(value, dict))):
        if part.get("rope_type") in ("dynamic", "longrope"):
            trained = part.get("original_max_position_embeddings") or model.config.max_position_embeddings
            if context_tokens > trained:
                # The longest row would change the rotary frequencies of all the others.
                return f"its rotary embedding changes with the length beyond {trained} tokens"
    return None


def _differs(model: Causal, batch: SlotBatch) -> str | None:
    """Compute two rows in slots and alone; say how they differ, or None."""
    vocabulary = int(model.config.vocab_size)
    prompts = [[(7 * at + 3) % vocabulary for at in range(length)] for length in (9, 5)]
    if batch.slots < 2 or batch.context_tokens < 12:
        prompts = [prompts[1][: batch.context_tokens - 2]]
    try:
        rows = [Row(list(prompt), Choice(temperature=0.0)) for prompt in prompts]
        for row in rows:
            batch.add(row)
        for _ in range(2):
            for row, token in batch.step():
                row.tokens.append(token or 0)
        logits = batch.logits()
    except (torch.OutOfMemoryError, torch.AcceleratorError):  # the GPU's fault, and not the model's
        raise
    except (RuntimeError, TypeError, ValueError, KeyError, AttributeError, IndexError, NotImplementedError) as error:
        return f"its forward does not take a slotted cache ({type(error).__name__}: {error})"
    finally:
        batch.reset()
    tolerance = 0.15 if model.quantized else 2e-3 if logits.dtype == torch.float32 else 6e-2
    for row, slotted in zip(rows, logits, strict=True):
        with torch.inference_mode(), model.using(BASE):
            alone = model.module(input_ids=torch.tensor([row.tokens], device=model.device)).logits[0, -1]
        spread = float(alone.abs().max()) or 1.0
        difference = float((slotted - alone).abs().max()) / spread
        if not difference <= tolerance:
            return f"in slots its numbers differ from its own forward by {difference:.1e} of the largest"
    return None


class SeparateBatch:
    """Every row with the cache that the model makes for itself, one forward a row and step. Of a model that makes none
    (the name is None), that forward computes the whole row."""

    kind = "separate"

    def __init__(self, model: Causal, *, slots: int, context_tokens: int, cache_name: str | None) -> None:
        self._cache_name = cache_name
        self.model, self.slots, self.context_tokens = model, slots, context_tokens
        self._rows: list[Row] = []

    def add(self, row: Row) -> None:
        if len(self._rows) >= self.slots:
            raise ValueError(f"all {self.slots} slots are taken")
        row.computed, row.cache = 0, None
        self._rows.append(row)

    def remove(self, row: Row) -> None:
        self._rows.remove(row)
        row.cache = None

    def reset(self) -> None:
        for row in self._rows:
            row.cache = None
        self._rows.clear()

    def step(self) -> list[tuple[Row, int | None]]:
        return [(row, self._next(row)) for row in self._rows]

    def _next(self, row: Row) -> int | None:
        tokens = torch.tensor([row.tokens[row.computed :]], device=self.model.device)
        with torch.inference_mode(), self.model.using(row.adapter):
            if self._cache_name is None:
                output = self.model.module(input_ids=tokens, use_cache=False)
            else:
                output = self.model.module(input_ids=tokens, use_cache=True, **{self._cache_name: row.cache})
                row.cache = getattr(output, self._cache_name)
                row.computed = len(row.tokens)
            return choose(output.logits[:, -1], [row.choice])[0]

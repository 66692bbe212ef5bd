"""Rows of tokens -> the next token of each, through one model in one thread.

`SlotBatch` keeps the keys and values of all rows in one slotted cache and computes them together; rows join and leave
at every step. `SeparateBatch` computes row after row, each with the cache that the model itself makes: slower, and
right for every model. `make_batch` proves the first against the model's own forward before it is used. Knows no text
and no HTTP.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from sampling import Choice, choose
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

log = logging.getLogger("batch")

BASE = "__base__"
"""What PEFT calls the model without an adapter in a mixed batch."""

CACHE_NAMES = ("past_key_values", "cache_params")
"""What transformers' models call their cache, as an argument and in their output."""

PREFILL_TOKENS = 512
"""How many prompt tokens one step computes at most, so that a long prompt does not stop the other rows for long."""


@dataclass(eq=False)
class Row:
    """One sequence: its tokens (the prompt's, then the chosen ones), which adapter it uses, how it chooses."""

    tokens: list[int]
    choice: Choice
    adapter: str = BASE
    computed: int = 0
    """How many tokens the cache holds."""
    cache: Any = field(default=None, repr=False)


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
        """Compute; each row that has a next token, with it (None: the model gave no finite number)."""
        ...

    def reset(self) -> list[Row]:
        """Forget every row and every key and value, after a step that failed. Returns the rows."""
        ...


@dataclass(frozen=True)
class Causal:
    """A causal language model as a batch needs it."""

    module: Any
    """The transformers model, or the PEFT model around it."""
    config: Any
    device: torch.device
    adapters: tuple[str, ...] = ()
    mixes_adapters: bool = True
    """Whether rows of one forward may use different adapters."""

    @contextmanager
    def using(self, adapter: str) -> Iterator[None]:
        """Every row of the forwards inside uses this one adapter."""
        if not self.adapters:
            yield
        elif adapter == BASE:
            with self.module.disable_adapter():
                yield
        else:
            self.module.set_adapter(adapter)
            yield


def make_batch(model: Causal, *, slots: int, context_tokens: int, memory_bytes: int) -> Batch:
    """The quickest batch that gives what the model's own forward gives.

    `memory_bytes` bounds the cache: fewer slots, when it does not hold them all. Raises ValueError when it does not
    hold one.
    """
    probe = DynamicCache(config=model.config)
    with torch.inference_mode(), model.using(BASE):
        one_token = torch.zeros((1, 1), dtype=torch.long, device=model.device)
        output = model.module(input_ids=one_token, past_key_values=probe, use_cache=True)
    reason = _why_not_slots(model, probe, context_tokens)
    if reason is None:
        bytes_per_slot = context_tokens * _bytes_held(probe)
        fitting = memory_bytes // bytes_per_slot
        if fitting < 1:
            raise ValueError(
                f"the cache of one request of {context_tokens} tokens needs {bytes_per_slot / 1e9:.1f} GB and "
                f"{memory_bytes / 1e9:.1f} GB are free: lower INFERENCE_MAX_PROMPT_TOKENS or INFERENCE_MAX_NEW_TOKENS, "
                "or give the replica more memory"
            )
        if fitting < slots:
            log.info("memory for %d requests at once (%d were allowed)", fitting, slots)
        batch = SlotBatch(model, slots=int(min(slots, fitting)), context_tokens=context_tokens)
        reason = _differs(model, batch)
        if reason is None:
            return batch
    held = next((name for name in CACHE_NAMES if getattr(output, name, None) is not None), None)
    if held is None:
        raise ValueError(
            f"{type(model.module).__name__} keeps no cache between tokens, so it cannot answer step by step"
        )
    log.warning("requests are computed one after another in each step, which is slower: %s", reason)
    return SeparateBatch(model, slots=slots, context_tokens=context_tokens, cache_name=held)


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
        logits = batch.logits(0, len(rows))
    except (RuntimeError, TypeError, ValueError, KeyError, AttributeError, IndexError, NotImplementedError) as error:
        return f"its forward does not take a slotted cache ({type(error).__name__}: {error})"
    finally:
        batch.reset()
    tolerance = 2e-3 if logits.dtype == torch.float32 else 6e-2
    for row, slotted in zip(rows, logits, strict=True):
        with torch.inference_mode(), model.using(BASE):
            alone = model.module(input_ids=torch.tensor([row.tokens], device=model.device)).logits[0, -1]
        spread = float(alone.abs().max()) or 1.0
        difference = float((slotted - alone).abs().max()) / spread
        if not difference <= tolerance:
            return f"in slots its numbers differ from its own forward by {difference:.1e} of the largest"
    return None


class _SlotLayer(DynamicLayer):  # type: ignore[no-untyped-call]  # its metaclass hook has no annotations
    """Keys and values of one layer, [slots, heads, context, size]; written and read where the forward's rows stand."""

    def __init__(self, slots: int, context_tokens: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.slots, self.context_tokens = slots, context_tokens
        self.first = self.last = self.reach = 0
        self.rows = self.positions = torch.empty(0)

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys, self.values = (self._room(states) for states in (key_states, value_states))
        self.is_initialized = True

    def _room(self, states: torch.Tensor) -> torch.Tensor:
        # Zeros, not uninitialised memory: a masked position counts 0 times its value, and 0 * NaN is NaN.
        shape = (self.slots, states.shape[1], self.context_tokens, states.shape[3])
        if states.device.type != "cpu":
            return torch.zeros(shape, dtype=states.dtype, device=states.device)
        # numpy takes zeroed pages from the operating system without touching them: only what is used costs memory.
        room = np.zeros(math.prod(shape) * states.element_size(), dtype=np.uint8)
        return torch.from_numpy(room).view(states.dtype).view(shape)

    def forget(self) -> None:
        self.keys = self.values = None
        self.is_initialized = False

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        self.keys[self.rows, :, self.positions] = key_states.transpose(1, 2)
        self.values[self.rows, :, self.positions] = value_states.transpose(1, 2)
        return self.keys[self.first : self.last, :, : self.reach], self.values[self.first : self.last, :, : self.reach]

    def move(self, source: int, target: int, length: int) -> None:
        with torch.inference_mode():
            for states in (self.keys, self.values):
                if states is not None:
                    states[target, :, :length] = states[source, :, :length]

    def clear(self, slot: int) -> None:
        with torch.inference_mode():
            for states in (self.keys, self.values):
                if states is not None:
                    states[slot].zero_()


class SlotBatch:
    """Iteration-level batching: row i lives in slot i, so that each forward reads one slice of the cache.

    Rows [0, decoding) have their whole prompt in the cache and get one token each step. The rows after them wait for
    their prompts: one chunk of the first of them, or several short prompts together, each step.
    """

    kind = "slots"

    def __init__(self, model: Causal, *, slots: int, context_tokens: int, prefill_tokens: int = PREFILL_TOKENS) -> None:
        self.model, self.slots, self.context_tokens = model, slots, context_tokens
        self._prefill_tokens = prefill_tokens
        self._rows: list[Row] = []
        self._decoding = 0
        layers = DynamicCache(config=model.config).layers
        self._windows = [getattr(layer, "sliding_window", None) for layer in layers]
        self._layers = [_SlotLayer(slots, context_tokens) for _ in layers]
        self._cache = Cache(layers=list(self._layers))
        self._mixed_windows = len(set(self._windows)) > 1
        self._additive = model.config._attn_implementation == "eager"

    def add(self, row: Row) -> None:
        if len(self._rows) >= self.slots:
            raise ValueError(f"all {self.slots} slots are taken")
        if not 0 < len(row.tokens) < self.context_tokens:
            raise ValueError(f"{len(row.tokens)} tokens do not fit a slot of {self.context_tokens}")
        row.computed = 0
        self._rows.append(row)

    def remove(self, row: Row) -> None:
        at = self._rows.index(row)
        if at < self._decoding:
            # The last decoding row fills the gap, and the row whose prompt is half computed fills the gap behind it.
            self._decoding -= 1
            self._shift(self._decoding, at)
            at = self._decoding
        last_started = at
        if last_started + 1 < len(self._rows) and self._rows[last_started + 1].computed:
            self._shift(last_started + 1, last_started)
            at = last_started + 1
        del self._rows[at]

    def _shift(self, source: int, target: int) -> None:
        if source != target:
            for layer in self._layers:
                layer.move(source, target, self._rows[source].computed)
            self._rows[target] = self._rows[source]

    def reset(self) -> list[Row]:
        rows, self._rows, self._decoding = self._rows, [], 0
        for layer in self._layers:
            layer.forget()
        return rows

    def step(self) -> list[tuple[Row, int | None]]:
        produced: list[tuple[Row, int | None]] = []
        prompts = self._prompts_to_compute()
        with torch.inference_mode():
            if self._decoding:
                produced += self._choose(0, self._decoding, self._forward(0, self._decoding, 1))
            if prompts is not None:
                count, chunk = prompts
                first = self._decoding
                logits = self._forward(first, first + count, chunk)
                if self._rows[first].computed == len(self._rows[first].tokens):
                    produced += self._choose(first, first + count, logits)
                    self._decoding += count
        for row, token in produced:
            if token is None:
                for layer in self._layers:
                    layer.clear(self._rows.index(row))
        return produced

    def _prompts_to_compute(self) -> tuple[int, int] | None:
        """(rows, tokens of each) of the next prompt forward: whole short prompts together, or a chunk of a long one."""
        waiting = self._rows[self._decoding :]
        if not waiting:
            return None
        longest = len(waiting[0].tokens) - waiting[0].computed
        if longest > self._prefill_tokens or waiting[0].computed:
            return 1, min(longest, self._prefill_tokens)
        count = 1
        for row in waiting[1:]:
            wider = max(longest, len(row.tokens))
            if wider * (count + 1) > self._prefill_tokens:
                break
            longest, count = wider, count + 1
        return count, longest

    def _choose(self, first: int, last: int, logits: torch.Tensor) -> list[tuple[Row, int | None]]:
        rows = self._rows[first:last]
        return list(zip(rows, choose(logits, [row.choice for row in rows]), strict=True))

    def logits(self, first: int, last: int) -> torch.Tensor:
        """Logits [rows, vocabulary] after the last token of decoding rows [first, last)."""
        with torch.inference_mode():
            return self._forward(first, last, 1)

    def _forward(self, first: int, last: int, width: int) -> torch.Tensor:
        """Compute the next `width` tokens of rows [first, last), shorter ones padded at their right end.

        Returns the logits after each row's last computed token, [rows, vocabulary].
        """
        rows, device = self._rows[first:last], self.model.device
        starts = [row.computed for row in rows]
        ids = [row.tokens[start : start + width] for row, start in zip(rows, starts, strict=True)]
        lengths = [len(row_ids) for row_ids in ids]
        input_ids = torch.tensor([row_ids + [0] * (width - len(row_ids)) for row_ids in ids], device=device)
        positions = torch.tensor(starts, device=device)[:, None] + torch.arange(width, device=device)[None, :]
        reach = max(starts) + width
        slots = torch.arange(first, last, device=device)[:, None]
        for layer in self._layers:
            layer.first, layer.last, layer.reach, layer.rows, layer.positions = first, last, reach, slots, positions
        ends = sorted({length - 1 for length in lengths})
        arguments: dict[str, Any] = {}
        if self.model.adapters:
            arguments["adapter_names"] = [row.adapter for row in rows]
        output = self.model.module(
            input_ids=input_ids,
            attention_mask=self._masks(positions, reach),
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=torch.tensor(ends, device=device),
            **arguments,
        )
        for row, length in zip(rows, lengths, strict=True):
            row.computed += length
        kept = torch.tensor([ends.index(length - 1) for length in lengths], device=device)
        chosen: torch.Tensor = output.logits[torch.arange(len(rows), device=device), kept]
        return chosen

    def _masks(self, positions: torch.Tensor, reach: int) -> Any:
        """Which cache positions each token sees, [rows, 1, tokens, reach]: its own and earlier ones, within its window.

        A padded token's key stands beyond its row's last position, where the row's next token overwrites it before
        any token sees it.
        """
        if not self._mixed_windows:
            return self._mask(positions, reach, self._windows[0])
        window = next(window for window in self._windows if window is not None)
        return {
            "full_attention": self._mask(positions, reach, None),
            "sliding_attention": self._mask(positions, reach, window),
        }

    def _mask(self, positions: torch.Tensor, reach: int, window: int | None) -> torch.Tensor:
        keys = torch.arange(reach, device=positions.device)[None, None, None, :]
        own = positions[:, None, :, None]
        seen = keys <= own
        if window is not None:
            seen = seen & (keys > own - window)
        if not self._additive:
            return seen
        dtype = self.model.module.dtype
        return torch.where(seen, 0.0, torch.finfo(dtype).min).to(dtype)


class SeparateBatch:
    """Every row with the cache that the model makes for itself, one forward a row and step."""

    kind = "separate"

    def __init__(self, model: Causal, *, slots: int, context_tokens: int, cache_name: str = CACHE_NAMES[0]) -> None:
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

    def reset(self) -> list[Row]:
        rows, self._rows = self._rows, []
        for row in rows:
            row.cache = None
        return rows

    def step(self) -> list[tuple[Row, int | None]]:
        return [(row, self._next(row)) for row in self._rows]

    def _next(self, row: Row) -> int | None:
        with torch.inference_mode(), self.model.using(row.adapter):
            output = self.model.module(
                input_ids=torch.tensor([row.tokens[row.computed :]], device=self.model.device),
                use_cache=True,
                **{self._cache_name: row.cache},
            )
            row.cache = getattr(output, self._cache_name)
            row.computed = len(row.tokens)
            return choose(output.logits[:, -1], [row.choice])[0]

"""Iteration-level batching over a slotted cache: rows join and leave at every step; what was computed once is reused.

Each step is one forward: the next token of every row that has its prompt behind it, and as many prompt tokens of the
others as Pace allows, packed without padding. Works for models whose attention goes through transformers' attention
interface and whose layers keep keys and values of every position.
"""

from __future__ import annotations

import math
import mmap
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from attention import NAME, Piece, attend, attending
from pace import Pace
from prefix import Awaited, SlotTable
from rows import Causal, Row
from sampling import choose
from transformers import AttentionInterface
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

PREFILL_TOKENS = 512
"""How many prompt tokens one step computes at most."""

CALL_COSTS_TOKENS = {"cpu": 64, "cuda": 16384}
"""How many cached tokens are read in the time that one more attention call takes: rows are padded to attend together
as long as that reads less. Measured on a CPU; on a GPU an estimate from launch time and memory bandwidth."""


def kept_slots(slots: int) -> int:
    """How many more slots than rows a cache should have, so that what ended rows held outlives the next few rows."""
    return max(2, slots // 4)


class _SlotLayer(DynamicLayer):  # type: ignore[no-untyped-call]  # its metaclass hook has no annotations
    """Keys and values of one layer, [slots, heads, context, size]; written where the step's tokens stand."""

    def __init__(self, slots: int, context_tokens: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.slots, self.context_tokens = slots, context_tokens
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
        # Pages that the operating system gives when they are first written: only what is used costs memory, and with
        # small pages no more than that.
        room = mmap.mmap(-1, math.prod(shape) * states.element_size())
        if hasattr(mmap, "MADV_NOHUGEPAGE"):
            room.madvise(mmap.MADV_NOHUGEPAGE)
        return torch.frombuffer(room, dtype=states.dtype).view(shape)

    def forget(self) -> None:
        self.keys = self.values = None
        self.is_initialized = False

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of one token each of many rows, [tokens, heads, 1, size]; all that the layer holds."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        self.keys[self.rows, :, self.positions] = key_states.squeeze(2)
        self.values[self.rows, :, self.positions] = value_states.squeeze(2)
        return self.keys, self.values

    def copy(self, source: int, target: int, length: int) -> None:
        """Give a slot the first `length` tokens of another."""
        for states in (self.keys, self.values):
            if states is not None:
                states[target, :, :length] = states[source, :, :length]

    def clear(self, slot: int) -> None:
        for states in (self.keys, self.values):
            if states is not None:
                states[slot].zero_()


@dataclass(frozen=True)
class _Part:
    """What a step computes of one row: its tokens [start, stop)."""

    row: Row
    slot: int
    start: int
    stop: int

    @property
    def length(self) -> int:
        return self.stop - self.start

    @property
    def reaches_end(self) -> bool:
        """Whether the row's next token comes from this."""
        return self.stop == len(self.row.tokens)


class SlotBatch:
    """Rows over one slotted cache. At most `slots` rows; `kept` slots more keep what ended rows held."""

    kind = "slots"

    def __init__(
        self,
        model: Causal,
        *,
        slots: int,
        context_tokens: int,
        kept: int = 0,
        prefill_tokens: int = PREFILL_TOKENS,
    ) -> None:
        AttentionInterface.register(NAME, attend)
        self.model, self.slots, self.context_tokens = model, slots, context_tokens
        self._rows: list[Row] = []
        self._awaited: dict[Row, Awaited] = {}
        self._pace = Pace(prefill_tokens)
        self._table = SlotTable(slots + kept)
        layers = DynamicCache(config=model.config).layers
        self._windows = [getattr(layer, "sliding_window", None) for layer in layers]
        self._layers = [_SlotLayer(slots + kept, context_tokens) for _ in layers]
        self._cache = Cache(layers=list(self._layers))
        self._call_costs_tokens = CALL_COSTS_TOKENS[model.device.type]

    def add(self, row: Row) -> None:
        if len(self._rows) >= self.slots:
            raise ValueError(f"all {self.slots} slots are taken")
        if not 0 < len(row.tokens) < self.context_tokens:
            raise ValueError(f"{len(row.tokens)} tokens do not fit a slot of {self.context_tokens}")
        row.computed = row.reused = 0
        self._rows.append(row)

    def remove(self, row: Row) -> None:
        self._rows.remove(row)
        self._awaited.pop(row, None)
        if row in self._table:
            self._table.leave(row)

    def reset(self) -> None:
        self._rows.clear()
        self._awaited.clear()
        self._table.forget()
        for layer in self._layers:
            layer.forget()

    def step(self) -> list[tuple[Row, int | None]]:
        began = time.perf_counter()
        with torch.inference_mode():
            continuing = self._continuing()
            prompts = self._prompts(len(continuing))
            if not continuing and not prompts:
                return []
            ending = [part.row for part in [*continuing, *prompts] if part.reaches_end]
            logits = self._forward(continuing, prompts)
            if not ending and self.model.device.type == "cuda":
                # Nothing is read from this step that could be waited for, and Pace asks how long it takes.
                torch.cuda.synchronize(self.model.device)
            produced = list(zip(ending, choose(logits, [row.choice for row in ending]), strict=True))
            for row, token in produced:
                if token is None:
                    # What it holds would spoil the slot's next row: a masked NaN is a NaN.
                    row.computed = 0
                    for layer in self._layers:
                        layer.clear(self._table.slot(row))
        self._pace.took(
            time.perf_counter() - began,
            continuing=len(continuing),
            prompt_tokens=sum(part.length for part in prompts),
        )
        return produced

    def logits(self) -> torch.Tensor:
        """Logits [rows, vocabulary] after the last token of every row, in the order of their slots; each must have its
        prompt behind it. Computes one step, and chooses nothing."""
        with torch.inference_mode():
            return self._forward(self._continuing(), [])

    # What a step computes

    def _continuing(self) -> list[_Part]:
        """The last token of each row that has everything before it in the cache, in the order of slots."""
        parts = [
            _Part(row, self._table.slot(row), row.computed, len(row.tokens))
            for row in self._rows
            if row in self._table and row.computed == len(row.tokens) - 1
        ]
        return sorted(parts, key=lambda part: part.slot)

    def _prompts(self, continuing: int) -> list[_Part]:
        """Prompt tokens for one step: of the row that waits longest, at least half of what Pace allows; of the others
        the shortest first, so that they do not wait for a long one."""
        waiting = [row for row in self._rows if row not in self._table or row.computed < len(row.tokens) - 1]
        left = self._pace.tokens(continuing=continuing, waiting=len(waiting)) if waiting else 0
        oldest = next((row for row in waiting if self._place(row)), None)
        line = sorted(waiting, key=lambda row: len(row.tokens) - row.computed)
        granted = dict.fromkeys(waiting, 0)
        for row, most in [(oldest, (left + 1) // 2), *((row, left) for row in line)]:
            if row is not None and left and self._place(row):
                more = min(most, left, len(row.tokens) - row.computed - granted[row])
                granted[row] += more
                left -= more
        return [
            _Part(row, self._table.slot(row), row.computed, row.computed + length)
            for row, length in granted.items()
            if length
        ]

    def _place(self, row: Row) -> bool:
        """See that the row has a slot that holds as much of its prompt as is known; False: another row is computing
        more of it."""
        if row in self._table:
            return True
        awaited = self._awaited.get(row)
        if awaited is not None and awaited.row in self._table and awaited.row.computed < awaited.length:
            return False
        place = self._table.take(row)
        if isinstance(place, Awaited):
            self._awaited[row] = place
            return False
        self._awaited.pop(row, None)
        row.computed = row.reused = place.reused
        if place.source != place.slot:
            for layer in self._layers:
                layer.copy(place.source, place.slot, place.reused)
        return True

    def _pieces(self, continuing: Sequence[_Part], prompts: Sequence[_Part]) -> list[Piece]:
        """Neighbouring slots attend together, as long as padding them to the longest reads less than another call."""
        pieces: list[Piece] = []
        first, tokens = 0, 0
        for part in continuing:
            last = pieces[-1] if pieces else None
            if last is not None and part.slot == last.slot + len(last.starts):
                reach, rows = max(last.starts), len(last.starts)
                padding = (rows + 1) * max(reach, part.start) - (tokens + part.start)
                if padding - (rows * reach - tokens) <= self._call_costs_tokens:
                    last.starts.append(part.start)
                    tokens += part.start
                    first += 1
                    continue
            pieces.append(Piece(first, part.slot, [part.start], 1))
            first, tokens = first + 1, part.start
        for part in prompts:
            pieces.append(Piece(first, part.slot, [part.start], part.length))
            first += part.length
        return pieces

    def _forward(self, continuing: Sequence[_Part], prompts: Sequence[_Part]) -> torch.Tensor:
        """Compute the parts; the logits [rows, vocabulary] of those that reach their row's end, in their order.

        Every token is a row of the model's input by itself, [tokens, 1]: what lies between the layers' attention knows
        no neighbours, and each token can have an adapter of its own.
        """
        parts = [*continuing, *prompts]
        tokens = [token for part in parts for token in part.row.tokens[part.start : part.stop]]
        at = [position for part in parts for position in range(part.start, part.stop)]
        in_slots = [part.slot for part in parts for _ in range(part.length)]
        ends, last = [], -1
        for part in parts:
            last += part.length
            if part.reaches_end:
                ends.append(last)
        # A model computes the logits of at least one token.
        kept_tokens = ends or [0]
        # One tensor for all of them: each that goes to a GPU is waited for.
        numbers = torch.tensor([*tokens, *at, *in_slots, *kept_tokens], device=self.model.device)
        ids, positions, slots, kept = torch.split(numbers, [len(tokens)] * 3 + [len(kept_tokens)])
        for layer in self._layers:
            layer.rows, layer.positions = slots, positions
        arguments: dict[str, Any] = {}
        if self.model.adapters:
            arguments["adapter_names"] = [part.row.adapter for part in parts for _ in range(part.length)]
        pieces = self._pieces(continuing, prompts)
        with attending(self.model.config, pieces, positions, self._windows), self._head_of(kept) as cut:
            output = self.model.module(
                input_ids=ids[:, None],
                position_ids=positions[:, None],
                past_key_values=self._cache,
                use_cache=True,
                **arguments,
            )
        for part in parts:
            part.row.computed = part.stop
        logits: torch.Tensor = output.logits[:, -1]
        return (logits if cut else logits[kept])[: len(ends)]

    @contextmanager
    def _head_of(self, kept: torch.Tensor) -> Iterator[bool]:
        """Inside, the model's head computes the logits of the kept tokens alone. Says whether it can."""
        head = self.model.module.get_output_embeddings()
        # A head that has adapters needs the tokens that the adapters' names stand for.
        if head is None or hasattr(head, "base") or hasattr(head, "base_layer"):
            yield False
            return
        handle = head.register_forward_pre_hook(lambda _, inputs: (inputs[0][kept], *inputs[1:]))
        try:
            yield True
        finally:
            handle.remove()

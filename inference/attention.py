"""Attention of packed rows over a slotted cache, as a backend of transformers' own attention interface.

A step's tokens come as [tokens, heads, 1, size], whichever rows they belong to; keys and values stand in
[slots, heads, context, size]. `Piece` says which tokens attend where; no key is copied to be read.
https://huggingface.co/docs/transformers/attention_interface
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

NAME = "slots"
"""What this backend is registered as."""

UNKNOWN = ("position_bias", "softcap", "s_aux")
"""Arguments that change what attention computes, which torch's own does not take."""


@dataclass
class Piece:
    """Rows in neighbouring slots whose tokens attend in one call: `width` tokens of each, which stand one after
    another in the step."""

    first: int
    """The step's first token of the piece."""
    slot: int
    starts: list[int]
    """The position of each row's first token of this step."""
    width: int
    _masks: dict[tuple[int | None, int, torch.dtype], torch.Tensor | None] = field(default_factory=dict)

    @property
    def last(self) -> int:
        """One more than the step's last token of the piece."""
        return self.first + len(self.starts) * self.width

    def span(self, window: int | None) -> tuple[int, int]:
        """The positions [low, high) that any token of the piece sees."""
        low = 0 if window is None else max(0, min(self.starts) - window + 1)
        return low, max(self.starts) + self.width

    def is_causal(self, window: int | None) -> bool:
        """Whether these are the first tokens of one row, so that each sees all those before it and nothing else."""
        return self.starts == [0] and self.width > 1 and (window is None or self.width <= window)

    def mask(self, window: int | None, groups: int, positions: torch.Tensor, dtype: torch.dtype) -> torch.Tensor | None:
        """What is added to the scores, [rows, 1, groups * width, positions]; None when every token sees everything.
        `positions` are those of all the step's tokens."""
        key = (window, groups, dtype)
        if key not in self._masks:
            self._masks[key] = self._mask(window, groups, positions, dtype)
        return self._masks[key]

    def _mask(
        self, window: int | None, groups: int, positions: torch.Tensor, dtype: torch.dtype
    ) -> torch.Tensor | None:
        low, high = self.span(window)
        if self.width == 1 and min(self.starts) == max(self.starts):
            return None
        own = positions[self.first : self.last].view(-1, self.width, 1)
        keys = torch.arange(low, high, device=positions.device)
        seen = keys <= own
        if window is not None:
            seen = seen & (keys > own - window)
        added = torch.zeros(seen.shape, dtype=dtype, device=positions.device)
        added.masked_fill_(~seen, torch.finfo(dtype).min)
        return added[:, None].repeat(1, 1, groups, 1)


@dataclass(frozen=True)
class _Step:
    pieces: Sequence[Piece]
    positions: torch.Tensor
    """Of the step's tokens, [tokens]: where in its row each stands."""
    windows: Sequence[int | None]
    """Of each layer: how many positions a token sees; None: all of them."""
    plain: bool
    """Whether torch's own attention is what the model uses (else: the model's own function, in eager mode)."""


_step: ContextVar[_Step] = ContextVar("_step")


@contextmanager
def attending(
    config: Any, pieces: Sequence[Piece], positions: torch.Tensor, windows: Sequence[int | None]
) -> Iterator[None]:
    """Inside, the model of this configuration attends by pieces."""
    before = config._attn_implementation
    token = _step.set(_Step(pieces, positions, windows, plain=before != "eager"))
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before
        _step.reset(token)


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **arguments: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention function: query [tokens, heads, 1, size] -> [tokens, 1, heads, size].

    Raises NotImplementedError for a variant of attention that torch's own does not compute.
    """
    step = _step.get()
    window = step.windows[module.layer_idx]
    if step.plain and any(arguments.get(name) is not None for name in UNKNOWN):
        raise NotImplementedError(f"attention with {', '.join(name for name in UNKNOWN if arguments.get(name))}")
    found = []
    for piece in step.pieces:
        rows, width = len(piece.starts), piece.width
        low, high = piece.span(window)
        held = slice(piece.slot, piece.slot + rows), slice(None), slice(low, high)
        # [rows, width, heads, 1, size] -> [rows, heads, width, size]
        asking = query[piece.first : piece.last].reshape(rows, width, *query.shape[1:]).squeeze(3).transpose(1, 2)
        if step.plain:
            found.append(_attend_plainly(piece, step.positions, window, asking, key[held], value[held], scaling))
        else:
            eager = sys.modules[type(module).__module__].eager_attention_forward
            mask = piece.mask(window, 1, step.positions, query.dtype)
            output, _ = eager(module, asking, key[held], value[held], mask, scaling=scaling, **arguments)
            found.append(output.flatten(0, 1))
    return (found[0] if len(found) == 1 else torch.cat(found)).unsqueeze(1), None


def _attend_plainly(
    piece: Piece,
    positions: torch.Tensor,
    window: int | None,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
) -> torch.Tensor:
    """[rows, heads, width, size] over [rows, key heads, positions, size] -> [rows * width, heads, size]."""
    rows, heads, width, _ = query.shape
    if piece.is_causal(window):
        output = scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling, enable_gqa=True)
    else:
        # Heads that share their keys stand side by side as if they were more tokens: the keys are read once for all.
        groups = heads // key.shape[1]
        query = query.reshape(rows, key.shape[1], groups * width, query.shape[-1])
        mask = piece.mask(window, groups, positions, query.dtype)
        output = scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)
        output = output.reshape(rows, heads, width, output.shape[-1])
    return output.transpose(1, 2).flatten(0, 1)

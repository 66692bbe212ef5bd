"""Rows of tokens, and the model that continues them: the words that every kind of batch shares. Computes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from sampling import Choice

BASE = "__base__"
"""What PEFT calls the model without an adapter in a mixed batch."""


@dataclass(eq=False)
class Row:
    """One sequence: its tokens (the prompt's, then the chosen ones), which adapter it uses, how it chooses."""

    tokens: list[int]
    choice: Choice
    adapter: str = BASE
    computed: int = 0
    """How many tokens the cache holds."""
    reused: int = 0
    """How many of the prompt's tokens were not computed: the cache held them from another row."""
    cache: Any = field(default=None, repr=False)


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
    quantized: bool = False
    """Whether its layers round what goes through them: rows computed together then differ a little from rows alone."""

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

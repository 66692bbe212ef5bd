"""Which slot holds which tokens, so that what was computed once is found again. Knows no tensors.

A slot belongs to a row until the row ends; what it holds stays until another row needs the room, the least recently
used first. Tokens are the same only under the same adapter: another one computes other keys and values from them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from rows import BASE, Row

Tokens = npt.NDArray[np.int64]

SHORTEST_REUSED = 8
"""Shorter common beginnings are computed again: nearly all prompts share the first tokens of their template."""


@dataclass(eq=False)
class _Slot:
    number: int
    row: Row | None = None
    adapter: str = BASE
    tokens: Tokens = field(default_factory=lambda: np.empty(0, np.int64))
    """Of a row: its prompt, of which row.computed stand in the cache; after its end: all that the cache holds."""
    used: int = 0

    @property
    def held(self) -> int:
        """How many of `tokens` the cache holds."""
        return self.tokens.size if self.row is None else min(self.row.computed, self.tokens.size)


@dataclass(frozen=True)
class Place:
    """Where a row was put: its slot, and the slot that its first `reused` tokens have to be copied from (maybe the
    same one: then they stand there already)."""

    slot: int
    source: int
    reused: int


@dataclass(frozen=True)
class Awaited:
    """A row that is computing its prompt, and how much of that another row should wait for."""

    row: Row
    length: int


class SlotTable:
    """The slots of one cache. A row takes a place, and leaves in it what it has computed."""

    def __init__(self, slots: int) -> None:
        self._slots = [_Slot(number) for number in range(slots)]
        self._slot_of: dict[Row, _Slot] = {}
        self._clock = 0

    def __contains__(self, row: Row) -> bool:
        return row in self._slot_of

    def slot(self, row: Row) -> int:
        """The number of the slot that the row has."""
        return self._slot_of[row].number

    def take(self, row: Row) -> Place | Awaited:
        """A place for the row; or the row to wait for, which is computing a beginning that both share.

        Reusable is the longest beginning that some slot holds, never the whole prompt: its last token is computed, for
        it gives the logits. Raises ValueError when every slot has a row.
        """
        tokens = np.asarray(row.tokens, np.int64)
        reused, source = 0, None
        awaited: Awaited | None = None
        for slot in self._slots:
            if slot.adapter != row.adapter:
                continue
            common = _common(slot.tokens, tokens[:-1])
            if common < SHORTEST_REUSED:
                continue
            held = min(common, slot.held)
            if held > reused or (held == reused and held and slot.row is None):
                reused, source = held, slot
            if slot.row is not None and common > held and (awaited is None or common > awaited.length):
                awaited = Awaited(slot.row, common)
        if awaited is not None and awaited.length >= reused + SHORTEST_REUSED:
            return awaited
        if reused < SHORTEST_REUSED:
            reused, source = 0, None
        slot = self._room(source, reused)
        place = Place(slot.number, source.number if source else slot.number, reused)
        for each in (slot, source or slot):
            self._touch(each)
        slot.row, slot.adapter, slot.tokens = row, row.adapter, tokens
        self._slot_of[row] = slot
        return place

    def leave(self, row: Row) -> None:
        """The row's slot is free, and what the row has computed may be reused."""
        slot = self._slot_of.pop(row)
        slot.row = None
        slot.tokens = np.asarray(row.tokens[: row.computed], np.int64)
        self._touch(slot)

    def forget(self) -> None:
        """Every slot is free and holds nothing."""
        self._slots = [_Slot(number) for number in range(len(self._slots))]
        self._slot_of.clear()

    def _room(self, source: _Slot | None, reused: int) -> _Slot:
        """The slot for a new row: its source's own, when most of what that holds is reused; an empty one; or the one
        that was used the longest time ago."""
        free = [slot for slot in self._slots if slot.row is None]
        if not free:
            raise ValueError(f"all {len(self._slots)} slots are taken")
        if source is not None and source.row is None and 2 * reused >= source.tokens.size:
            return source
        return min(free, key=lambda slot: (slot.tokens.size > 0, slot.used))

    def _touch(self, slot: _Slot) -> None:
        self._clock += 1
        slot.used = self._clock


def _common(one: Tokens, other: Tokens) -> int:
    """The length of the beginning that both share."""
    length = min(one.size, other.size)
    if not length or one[0] != other[0]:
        return 0
    different = np.flatnonzero(one[:length] != other[:length])
    return int(different[0]) if different.size else length

"""Which recorded interactions this process has asked again, and whether they agreed: recordings_report.py counts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RECORDINGS = Path(__file__).parent / "data" / "recordings"
Place = tuple[str, str, int, int]
"""Room, file, number of the recording in the file, number of the interaction in the recording."""


@dataclass
class Tally:
    """`matched` agreed by the rules; `differing` in what their test names and explains, and in nothing else."""

    matched: set[Place] = field(default_factory=set)
    differing: set[Place] = field(default_factory=set)

    def note(self, place: Place, *, agreed: bool) -> None:
        """Notes an interaction that was asked again."""
        (self.matched if agreed else self.differing).add(place)


TALLY = Tally()


@dataclass(frozen=True)
class LeftOut:
    """Interactions that are not asked again: all of a file, of a recording, or those at `places`; and why."""

    file: str
    why: str
    recording: int | None = None
    places: tuple[int, ...] | None = None

    def holds(self, place: Place) -> bool:
        """Whether it speaks of this one (the room is the caller's)."""
        _, file, recording, number = place
        return (
            file == self.file and self.recording in (None, recording) and (self.places is None or number in self.places)
        )


def recorded(room: str) -> Iterator[tuple[Place, dict[str, Any]]]:
    """Every interaction of a room with its place."""
    for path in sorted((RECORDINGS / room).glob("*.json")):
        document = json.loads(path.read_text())
        recordings = document.get("recordings", [document])
        for number, recording in enumerate(recordings):
            # An answer whose frame is lost stands for one interaction.
            for place, interaction in enumerate(recording.get("interactions", [recording])):
                yield (room, path.stem, number, place), interaction

"""`python -m tests.recordings_report`: replays all recorded conversations and counts what agreed.

Ends with 1 when a replay fails, or when an interaction is neither replayed nor listed as left out with a reason.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from tests import (
    test_emulator_container_apps_recordings,
    test_emulator_files_recordings,
    test_emulator_resource_manager_recordings,
)
from tests.recordings_tally import TALLY, LeftOut, recorded

_ON_THE_WAY = "polls that the operation had not ended by: what they say depends on the time alone"
_Rule = Callable[[dict[str, Any]], bool]


def _never(_: dict[str, Any]) -> bool:
    return False


ROOMS: dict[str, tuple[Iterable[LeftOut], _Rule]] = {
    "container-apps": (
        test_emulator_container_apps_recordings.NOT_REPLAYED,
        lambda asked: (
            test_emulator_container_apps_recordings.on_the_way(asked)
            or test_emulator_resource_manager_recordings.on_the_way(asked)
        ),
    ),
    "files": (test_emulator_files_recordings.NOT_REPLAYED, _never),
    "resource-manager": (
        test_emulator_resource_manager_recordings.NOT_REPLAYED,
        test_emulator_resource_manager_recordings.on_the_way,
    ),
}


def report() -> list[str]:
    """The counts, with the reasons; and below them what nobody has answered for."""
    lines, unknown = [], []
    matched = differing = total = 0
    for room, (left_out, on_the_way) in ROOMS.items():
        own: Counter[str] = Counter()
        reasons: Counter[str] = Counter()
        for place, interaction in recorded(room):
            reason = next((each.why for each in left_out if each.holds(place)), None)
            if place in TALLY.matched - TALLY.differing:
                own["matched"] += 1
            elif place in TALLY.differing:
                own["differing"] += 1
            elif reason is not None:
                reasons[reason] += 1
            elif on_the_way(interaction):
                reasons[_ON_THE_WAY] += 1
            else:
                unknown.append(f"neither replayed nor left out: {place}")
            own["total"] += 1
        replayed = own["matched"] + own["differing"]
        lines.append(f"{room}: {own['matched']} matched of {replayed} replayed, of {own['total']} recorded")
        lines += [f"  {count} not replayed: {reason}" for reason, count in reasons.most_common()]
        matched, differing, total = matched + own["matched"], differing + own["differing"], total + own["total"]
    lines.append(
        f"{matched} recorded interactions matched of {matched + differing} replayed ({differing} differ in what their"
        f" tests name), of {total} recorded"
    )
    return lines + unknown


def main() -> int:
    """Replays, prints, and returns the exit code."""
    modules = [
        test_emulator_container_apps_recordings,
        test_emulator_files_recordings,
        test_emulator_resource_manager_recordings,
    ]
    code = pytest.main(["-q", "-p", "no:cacheprovider", *(str(module.__file__) for module in modules)])
    lines = report()
    print("\n".join(lines))
    return 1 if code or lines[-1].startswith("neither") else 0


if __name__ == "__main__":
    sys.exit(main())

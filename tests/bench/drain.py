"""What callers notice of a deploy and of a rollback: `python -m tests.bench.drain [--json]`.

The product's own app with the demo model on the stand-in, under a steady load of streamed chats. Two replicas, one
replica that has room for another beside it while it is replaced, and one that has not, as with a quota of one GPU. For
each: how many chats were answered, how many got no whole answer, and the gap that the verb itself measured and printed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts import rollout, verbs
from scripts.session import Session
from tests.conftest import RunningStandIn, checkout, running_stand_in
from tests.steady_load import SteadyLoad, steady_load

KEY = "key-of-the-drain-benchmark"
SCENARIOS: dict[str, dict[str, Any]] = {
    "two replicas": {"minimumInstanceCount": 2, "maximumInstanceCount": 2},
    "one replica, room for another": {"minimumInstanceCount": 1},
    "one replica, room for one": {"minimumInstanceCount": 1, "workloadProfileType": "Consumption-GPU-NC8as-T4"},
}


@dataclass(frozen=True)
class Row:
    """One verb under load. gap_seconds is what the verb printed."""

    scenario: str
    verb: str
    seconds: float
    answered: int
    lost: int
    gap_seconds: float
    slowest_chat_seconds: float


def main() -> int:
    """Measures, and prints a table, or one JSON document."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.drain", description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    parser.add_argument("--callers", type=int, default=4, help="chats at a time (%(default)s)")
    parser.add_argument("--tokens", type=int, default=40, help="the most tokens of an answer (%(default)s)")
    arguments = parser.parse_args()
    rows = [
        row
        for scenario, values in SCENARIOS.items()
        for row in measure(scenario, values, arguments.callers, arguments.tokens)
    ]
    print(json.dumps([vars(row) for row in rows], indent=2) if arguments.json else table(rows))
    return 0


def measure(scenario: str, values: dict[str, Any], callers: int, tokens: int) -> list[Row]:
    """Both verbs, on a stand-in of their own."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, running_stand_in(Path(folder) / "state") as stand_in:
        stand_in.fine_tune()
        with serving(stand_in, Path(folder) / "checkout", values) as session:
            with steady_load(session.endpoint, callers=callers, max_tokens=tokens) as load:
                load.wait_for(callers, seconds=120)
                (session.root / "inference" / "changed.txt").write_text("another release\n")
                rows = [observed(session, scenario, "deploy", load), observed(session, scenario, "rollback", load)]
            for why, count in Counter(why for _, why in load.lost).items():
                sys.stderr.write(f"{scenario}: {count} lost: {why}\n")
            return rows


def observed(session: Session, scenario: str, verb: str, load: SteadyLoad) -> Row:
    """One verb, from its start to when every caller has had another answer."""
    answered, lost, began = load.answered, len(load.lost), time.monotonic()
    load.slowest_seconds = 0.0
    done = rollout.deploy(session) if verb == "deploy" else rollout.rollback(session)
    seconds = time.monotonic() - began
    load.wait_for(8, seconds=120)
    gap = done.timings_seconds["unanswered"]
    return Row(scenario, verb, seconds, load.answered - answered, len(load.lost) - lost, gap, load.slowest_seconds)


@contextlib.contextmanager
def serving(stand_in: RunningStandIn, root: Path, values: dict[str, Any]) -> Iterator[Session]:
    """A checkout whose first release serves, with these parameters."""
    checkout(root)
    file = root / "environments" / "local" / "inference.parameters.json"
    document = json.loads(file.read_text())
    document["parameters"] |= {name: {"value": value} for name, value in values.items()}
    file.write_text(json.dumps(document))
    os.environ |= {"INFEROPS_STAND_IN": str(stand_in.announcement_file), "INFERENCE_API_KEY": KEY}

    def say(line: str) -> None:
        sys.stderr.write(f"{line}\n")

    with contextlib.closing(
        Session("local", root, role="deploy", config=None, say=say, progress=lambda line: None)
    ) as session:
        verbs.provision(session)
        rollout.deploy(session)
        yield session


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    lines = [
        "| | verb | seconds | chats answered | lost | nobody answered, s | slowest chat, s |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {row.scenario} | {row.verb} | {row.seconds:.1f} | {row.answered} | {row.lost} | {row.gap_seconds:.1f} | "
        f"{row.slowest_chat_seconds:.1f} |"
        for row in rows
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

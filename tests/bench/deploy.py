"""What the command itself takes: `inferops --help`, a deploy that changes nothing, and one with one changed file.

    python -m tests.bench.deploy [--json] [--runs 7] [--command FILE]

The command is a process of its own, as typed. The share is the stand-in's; the app starts at once and answers without a
model (tests/release_world.py), so that what is left is the tool's own time: Python's start, signing in, reading the
checkout, the requests, the proof's questions. Medians, in seconds.

--command takes that of another environment, as a runner's, which has what the command needs and nothing else: the SDK
loads aiohttp, and httpx loads trio, wherever they find them.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import running_stand_in
from tests.release_world import World, running_world


@dataclass(frozen=True)
class Cost:
    """Of one run of a command, or the medians of several."""

    seconds: float
    processor_seconds: float


def cost_of(command: Sequence[str], folder: Path) -> Cost:
    """One run as typed. Compiled modules are kept, as on a machine where the command is used."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, cwd=folder, env=variables, check=True, capture_output=True)
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Cost(seconds, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)


def measure(world: World, command: Path, runs: int) -> dict[str, Cost]:
    """Medians over the runs, after one that warms up."""
    deploy = [str(command), "deploy", "local", "--config", "world.json"]
    numbers = itertools.count()

    def deploy_with_one_file_changed() -> Cost:
        world.change(next(numbers))
        return cost_of(deploy, world.root)

    kinds: dict[str, Callable[[], Cost]] = {
        "python -c pass": lambda: cost_of([sys.executable, "-c", "pass"], world.root),
        "inferops --help": lambda: cost_of([str(command), "--help"], world.root),
        "deploy, one file changed": deploy_with_one_file_changed,
        "deploy, nothing changed": lambda: cost_of(deploy, world.root),
    }
    found = {}
    for name, run in kinds.items():
        run()
        costs = [run() for _ in range(runs)]
        found[name] = Cost(
            statistics.median(cost.seconds for cost in costs),
            statistics.median(cost.processor_seconds for cost in costs),
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--runs", type=int, default=7)
    own = Path(sys.executable).parent / "inferops"
    parser.add_argument("--command", type=Path, default=own, help="of another environment, as a runner's (%(default)s)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with running_stand_in(folder / "state") as stand_in, running_world(stand_in, folder) as world:
            found = measure(world, arguments.command.absolute(), arguments.runs)
    if arguments.json:
        load = os.getloadavg()[0]
        print(json.dumps({"load": load, **{name: dataclasses.asdict(cost) for name, cost in found.items()}}, indent=2))
        return
    print(f"{'':<26} {'seconds':>8} {'processor':>10}   (load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores)")
    for name, cost in found.items():
        print(f"{name:<26} {cost.seconds:8.3f} {cost.processor_seconds:10.3f}")


if __name__ == "__main__":
    main()

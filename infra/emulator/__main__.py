"""`python -m infra.emulator [--state DIR] [--port PORT]`: serves until SIGTERM or SIGINT, then ends what it started.

Once it can be called it prints one line of JSON on stdout, all that a client must be told; messages go to stderr.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import json
import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from infra.emulator.faults import BadRule, Faults, of_text

# The rules of the fault switch from the start on: README.md.
FAULTS_VARIABLE = "STAND_IN_FAULTS"


def main() -> int:
    """Exit codes: 0 stopped by a signal, 1 the port is taken, 2 another stand-in serves the folder, or bad rules."""
    arguments = _parser().parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    rules = Faults()
    try:
        rules.add(of_text(os.environ.get(FAULTS_VARIABLE, "")))
    except BadRule as problem:
        for line in problem.problems:
            print(f"{FAULTS_VARIABLE}: {line}", file=sys.stderr)
        return 2
    with _alone(arguments.state) as alone:
        if not alone:
            print(
                f"Another stand-in already serves {arguments.state}. End it first, or choose another --state.",
                file=sys.stderr,
            )
            return 2
        return asyncio.run(_serve(arguments.state, arguments.port, rules))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m infra.emulator", description="Azure on one machine, on loopback.")
    parser.add_argument(
        "--state", type=Path, default=Path(".local/state"), help="the folder that holds the cloud (%(default)s)"
    )
    parser.add_argument("--port", type=int, help="the TLS port (default: the folder's last one, or a free one)")
    return parser


@contextlib.contextmanager
def _alone(state: Path) -> Iterator[bool]:
    """Whether this process holds the folder; the hold ends with the process, however it ends. The lock tells its id."""
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (state / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            yield True


async def _serve(state: Path, port: int | None, rules: Faults) -> int:
    from infra.emulator.server import PortTaken, StandIn

    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    try:
        stand_in = StandIn(state, port, rules)
    except PortTaken as problem:
        print(problem, file=sys.stderr)
        return 1
    try:
        await stand_in.start()
        print(json.dumps(stand_in.announcement()), flush=True)
        await stopping.wait()
    finally:
        await stand_in.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The stand-in's own death: SIGKILL at any moment of a mixed load, and life again on the same folder."""

from __future__ import annotations

import contextlib
import random
import sqlite3
import time
from pathlib import Path

import pytest

from tests.killed_stand_in import App, Deployments, Files, Load, Process, prepare
from tests.waiting import until

# Checking that the app answers takes a start of a Python process: not after each kill.
_ANSWERS_EVERY = 4


def wait_for_an_answer(loads: list[Load]) -> None:
    """Until each load has had a change acknowledged: the stand-in may otherwise die before it did anything."""
    before = [load.acknowledged for load in loads]
    until(lambda: all(load.acknowledged > count for load, count in zip(loads, before, strict=True)))


def test_nothing_acknowledged_is_lost_and_nothing_is_half_done(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    state = tmp_path / "state"
    rounds = int(pytestconfig.getoption("--kill-rounds"))
    moment = random.Random(20_261_121)
    process = Process(state)
    process.start()
    try:
        announcement = process.announced()
        prepare(announcement, state)
        app = App(announcement, state, 1)
        loads: list[Load] = [Files(announcement, state, 2), Files(announcement, state, 3), app]
        loads.append(Deployments(announcement, state, 4))
        for number in range(1, rounds + 1):
            with contextlib.ExitStack() as running:
                for load in loads:
                    running.enter_context(load.running())
                if number % _ANSWERS_EVERY == 0:
                    wait_for_an_answer(loads)
                time.sleep(moment.uniform(0.02, 0.5))
                process.kill()
            process.start()
            if number % 5 == 0:
                # It may die while it takes up what was going on, too.
                time.sleep(moment.uniform(0.0, 0.4))
                process.kill()
                process.start()
            assert process.announced() == announcement
            for load in loads:
                load.check()
            if number % _ANSWERS_EVERY == 0 or number == rounds:
                app.check_answers()
            assert not list((state / "shares" / ".incomplete").iterdir())
    finally:
        process.end()
    with contextlib.closing(sqlite3.connect(state / "state.db")) as store:
        assert store.execute("PRAGMA integrity_check").fetchone() == ("ok",)

"""Processes to be killed, at a few milliseconds each: forked from one that has everything loaded and used once."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import traceback
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import Connection
from typing import Any


class Nursery:
    """A process whose children run one function each. Their ends are its to tell."""

    def __init__(self, orders: Connection) -> None:
        self._orders = orders

    def start(self, function: Callable[[], Any]) -> int:
        """Make a child for the function, which can be pickled; returns its id. It waits for `go`."""
        self._orders.send(function)
        process: int = self._orders.recv()
        return process

    def go(self) -> int:
        """Let the child run, and wait for its end: its exit code, or the negative number of the signal."""
        self._orders.send("go")
        assert self._orders.poll(300), "the process does not end"
        code: int = self._orders.recv()
        return code


@contextlib.contextmanager
def running_nursery(warm_up: Callable[[], Any], variables: Mapping[str, str]) -> Iterator[Nursery]:
    """A nursery that has run warm_up once; variables are its process environment's, beside the inherited ones."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, warm_up, dict(variables)))
    process.start()
    theirs.close()
    try:
        ours.recv()
        yield Nursery(ours)
    finally:
        ours.close()
        process.join(60)


def _serve(orders: Connection, warm_up: Callable[[], Any], variables: dict[str, str]) -> None:
    os.environ.update(variables)
    warm_up()
    orders.send("ready")
    with contextlib.suppress(EOFError):
        while True:
            function = orders.recv()
            hears, says = os.pipe()
            process = os.fork()
            if process == 0:
                os._exit(_run(function, hears))
            orders.send(process)
            orders.recv()
            os.write(says, b".")
            os.close(hears)
            os.close(says)
            orders.send(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))


def _run(function: Callable[[], Any], hears: int) -> int:
    """A child's whole life."""
    os.read(hears, 1)
    try:
        function()
    except BaseException:
        traceback.print_exc()
        return 1
    return 0

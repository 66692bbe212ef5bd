"""A steady load of chats on an endpoint, each streamed to its end: how many were answered, and what was lost."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from scripts.endpoint import Endpoint
from scripts.errors import CloudError
from tests.waiting import until

PAUSE_SECONDS = 0.5
"""After a chat that was lost, before the caller asks the next."""


@dataclass
class SteadyLoad:
    """What has come of the chats so far. Seconds count from the start of the load."""

    answered: int = 0
    lost: list[tuple[float, str]] = field(default_factory=list)
    """When a chat was asked that got no whole answer, and why."""
    said: Counter[str] = field(default_factory=Counter)
    """The answers' texts, and how often each came."""
    slowest_seconds: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def wait_for(self, count: int, seconds: float = 120) -> None:
        """Until so many more chats were asked and have ended."""
        aim = self.answered + len(self.lost) + count
        until(lambda: self.answered + len(self.lost) >= aim, "the load", seconds)


@contextlib.contextmanager
def steady_load(endpoint: Endpoint, *, callers: int, max_tokens: int) -> Iterator[SteadyLoad]:
    """Callers that ask one chat after the other until the block ends; none asks a chat a second time."""
    load, over, began = SteadyLoad(), threading.Event(), time.monotonic()
    numbers = itertools.count(1)

    def call() -> None:
        with endpoint.with_key(endpoint.key) as own:
            while not over.is_set():
                asked = time.monotonic()
                try:
                    # Another question each time, so that no answer is a cached one.
                    answer = own.stream_chat(f"Chat {next(numbers)}?", lambda piece: None, max_tokens=max_tokens)
                except CloudError as error:
                    with load.lock:
                        load.lost.append((asked - began, error.message))
                    over.wait(PAUSE_SECONDS)
                else:
                    with load.lock:
                        load.answered += 1
                        load.said[answer.text.strip()] += 1
                        load.slowest_seconds = max(load.slowest_seconds, answer.seconds)

    threads = [threading.Thread(target=call, name=f"caller {number}") for number in range(callers)]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        over.set()
        for thread in threads:
            thread.join()

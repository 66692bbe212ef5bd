"""How far a transfer of files is, how quick it has been, and how long the rest takes. Knows no network."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

_FILE_COSTS_BYTES = 64 * 1024
"""What a small file's request costs, in bytes sent at the same time: it makes many small files count in an estimate."""


@dataclass(frozen=True)
class Progress:
    """How far a transfer is; path is the file that the last finished request belonged to.

    bytes_sent went over the network in these seconds; bytes_done counts also what was there already, what was copied
    on the far side, and what is zero.
    """

    files_done: int
    files_total: int
    bytes_done: int
    bytes_total: int
    path: str
    bytes_sent: int = 0
    seconds: float = 0.0

    @property
    def bytes_per_second(self) -> float | None:
        """Over the whole transfer so far; None before anything was sent, and in the first second."""
        return self.bytes_sent / self.seconds if self.seconds >= 1 and self.bytes_sent else None

    @property
    def seconds_left(self) -> float | None:
        """For the rest at the rate so far; None as long as there is none."""
        if self.bytes_per_second is None:
            return None
        sent = self.bytes_sent + self.files_done * _FILE_COSTS_BYTES
        left = self.bytes_total - self.bytes_done + (self.files_total - self.files_done) * _FILE_COSTS_BYTES
        return self.seconds * left / sent


class Counter:
    """Adds up what the threads of a transfer have done, and tells each step, one at a time."""

    def __init__(self, files_total: int, bytes_total: int, tell: Callable[[Progress], None] | None) -> None:
        self._files_total, self._bytes_total, self._tell = files_total, bytes_total, tell
        self._files_done = self._bytes_done = self._bytes_sent = 0
        self._begun = time.monotonic()
        self._lock = threading.Lock()

    def add(self, path: str, done_bytes: int, *, sent_bytes: int = 0, files: int = 0) -> None:
        """Count a finished request: done_bytes of the file are there now, of which sent_bytes were sent."""
        with self._lock:
            self._files_done += files
            self._bytes_done += done_bytes
            self._bytes_sent += sent_bytes
            if self._tell is not None:
                self._tell(
                    Progress(
                        self._files_done,
                        self._files_total,
                        self._bytes_done,
                        self._bytes_total,
                        path,
                        self._bytes_sent,
                        time.monotonic() - self._begun,
                    )
                )

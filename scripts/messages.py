"""What a verb says while it runs: messages and progress on stderr, with the seconds since the start.

On a terminal a line of progress is written over by the next; elsewhere (a job's log) one is written every two seconds.
"""

from __future__ import annotations

import os
import sys
import threading
import time

_EVERY_SECONDS = 2.0


class Messages:
    """Safe to call from several threads."""

    def __init__(self) -> None:
        self._stream = sys.stderr
        self._terminal = self._stream.isatty()
        self._started = time.monotonic()
        self._lock = threading.Lock()
        self._shown = ""
        self._last = self._started - _EVERY_SECONDS

    def say(self, text: str) -> None:
        """A line that stays."""
        with self._lock:
            self._clear()
            self._stream.write(self._stamped(text) + "\n")
            self._stream.flush()

    def progress(self, text: str) -> None:
        """How far it is; the next message may take its place."""
        with self._lock:
            now = time.monotonic()
            if self._terminal:
                self._clear()
                # A line of two rows could not be written over, and the last column may begin the next row.
                self._shown = self._stamped(text)[: self._columns() - 1]
                self._stream.write(self._shown)
            elif now - self._last >= _EVERY_SECONDS:
                self._last = now
                self._stream.write(self._stamped(text) + "\n")
            self._stream.flush()

    def end(self) -> None:
        """Leaves the terminal without a half-shown line."""
        with self._lock:
            self._clear()
            self._stream.flush()

    def _columns(self) -> int:
        """Of the terminal as it is now; one that does not say has 80."""
        return os.get_terminal_size(self._stream.fileno()).columns or 80

    def _stamped(self, text: str) -> str:
        return f"{time.monotonic() - self._started:6.1f}s  {text}"

    def _clear(self) -> None:
        if self._shown:
            self._stream.write("\r" + " " * len(self._shown) + "\r")
            self._shown = ""

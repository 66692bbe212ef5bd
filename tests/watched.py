"""Run a script as Python does, and write down each name that the process looks up and each address it connects to.

    python tests/watched.py <file> <script>

The hook is of the interpreter (https://docs.python.org/3/library/audit_events.html), so that no library gets around it
that uses Python's sockets.
"""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path
from typing import Any

# Where the event's arguments have it: connect has its socket first.
PLACES = {"socket.connect": 1, "socket.getaddrinfo": 0, "socket.gethostbyname": 0}


def watch(file: Path) -> None:
    """From now on, for the rest of the process: one line for each."""
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in PLACES:
            os.write(descriptor, f"{event} {arguments[PLACES[event]]!r}\n".encode())

    sys.addaudithook(hook)


if __name__ == "__main__":
    _, told, script = sys.argv
    watch(Path(told))
    sys.argv = [script]
    sys.path[0] = str(Path(script).resolve().parent)
    runpy.run_path(script, run_name="__main__")

"""The entry of `inferops` and of `python -m scripts`: an interrupt ends it quietly from the first moment on.

So nothing is imported here before an interrupt would be caught.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn


def main() -> NoReturn:
    """Runs the command and exits with its code; 130 when it is interrupted while it is being loaded."""
    # A stream that the shell has closed (`2>&-`) is None, and nobody who writes to it expects that.
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: PTH123,SIM115 (pathlib is not imported yet; held to the end)
    try:
        from scripts.cli import main as run

        end(run())
    except KeyboardInterrupt:
        end(130)


def end(code: int) -> NoReturn:
    """End the process once its output has left, without taking its memory apart first.

    That takes Python some 20 ms after a request over TLS (docs/benchmarks.md), and nothing here waits to be told of the
    end: what has to be put back is put back by its `with`.
    """
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        sys.exit(code)  # tells of output that cannot be written, as Python does
    os._exit(code)


if __name__ == "__main__":
    main()

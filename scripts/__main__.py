"""The entry of `inferops` and of `python -m scripts`: an interrupt ends it quietly from the first moment on.

So nothing is imported here before an interrupt would be caught.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Runs the command and exits with its code; 130 when it is interrupted while it is being loaded."""
    try:
        from scripts.cli import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()

"""What start.sh ends in: serve.py, with SIGTERM heard from the first moment, and with what Python compiles left beside
what is installed, not in the release.

A release is never changed, so nothing may be written into it. What is installed is compiled once: else each start of a
replica compiles torch, transformers and Gradio anew, seven seconds of a core, where the installer has not done it (an
image's build has, `uv pip sync` by itself has not).
"""

import os
import runpy
import signal
import sys
from importlib.machinery import SOURCE_SUFFIXES, FileFinder, SourceFileLoader
from pathlib import Path


class ReleaseLoader(SourceFileLoader):
    """Reads a release's modules as ever."""

    def set_data(self, path: str, data: object, *, _mode: int = 0o666) -> None:
        """Called with a compiled module and the path for it; leaves none."""


def main() -> None:
    """Run the serve.py beside this file as the main program."""
    # serve.py hears it a second or two later; until then process 1 of a container would ignore the request to stop.
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(128 + number))
    here = Path(__file__).resolve().parent
    # The finder that an import asks for this entry of sys.path (docs.python.org: sys.path_importer_cache).
    sys.path[0] = str(here)
    sys.path_importer_cache[sys.path[0]] = FileFinder(sys.path[0], (ReleaseLoader, SOURCE_SUFFIXES))
    runpy.run_path(str(here / "serve.py"), run_name="__main__")


if __name__ == "__main__":
    main()

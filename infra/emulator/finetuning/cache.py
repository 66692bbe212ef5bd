"""The trained demo models on this machine: trained once for each recipe and set of library versions, then found again.

A folder in the cache is whole or not there: training writes beside it and renames at the end.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import TextIO

from infra.emulator.finetuning.recipe import RECIPE

LIBRARIES = ("peft", "safetensors", "tokenizers", "torch", "transformers")


def cache_root() -> Path:
    """Where this product keeps what can be made again (XDG base directory specification)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "inferops"


def fingerprint() -> str:
    """Changes with everything that the trained files depend on: the recipe, the code that follows it, the libraries."""
    here = Path(__file__).parent
    digest = hashlib.sha256()
    for name in ("recipe.py", "train.py"):
        digest.update((here / name).read_bytes())
    for library in LIBRARIES:
        digest.update(f"{library} {metadata.version(library)}\n".encode())
    return digest.hexdigest()[:16]


def demo_models(messages: TextIO = sys.stderr) -> Path:
    """The folder with base model and adapter, laid out as on the share; trains them first if they are not there.

    Of several processes that ask at once, one trains and the others wait for it.
    """
    folder = cache_root() / f"demo-{fingerprint()}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _alone(folder.with_name(f".{folder.name}.lock"), messages):
        if not folder.is_dir():
            _train(folder, messages)
    return folder


@contextlib.contextmanager
def _alone(path: Path, messages: TextIO) -> Iterator[None]:
    """Holds a lock that ends with this process, however it ends."""
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Another process is training the demo models; waiting for it.", file=messages, flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _train(folder: Path, messages: TextIO) -> None:
    unfinished = f".{folder.name}.unfinished-"
    for left in folder.parent.glob(f"{unfinished}*"):
        # Only the holder of the lock gets here: whoever began this one was killed.
        shutil.rmtree(left, ignore_errors=True)
    print("Training the demo models: once on this machine, about a minute on two cores.", file=messages, flush=True)
    progress = Progress(messages)
    with tempfile.TemporaryDirectory(prefix=unfinished, dir=folder.parent) as name:
        work = Path(name) / "models"
        # Read when torch is loaded. Its threads otherwise spin while they wait for each other; on a machine that is
        # busy with other things too, that made training up to ten times as long.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        # torch, transformers and peft take seconds to import, and only training needs them.
        from infra.emulator.finetuning import train

        train.train(RECIPE, work, progress.report)
        work.replace(folder)
    progress.close(folder)


class Progress:
    """Shows a training's step, loss and time left: in place on a terminal, else a line every few seconds."""

    SECONDS_BETWEEN_LINES = 5.0

    def __init__(self, messages: TextIO) -> None:
        self._messages, self._in_place = messages, messages.isatty()
        self._begun = time.monotonic()
        self._stage_begun = self._shown = self._begun
        self._what = ""

    def report(self, what: str, step: int, steps: int, loss: float) -> None:
        """Takes note of a finished step; shows it if it is time to."""
        now = time.monotonic()
        if what != self._what:
            # The first step also pays for warming up: the pace is taken from its end on.
            self._what, self._stage_begun = what, now
        last = step == steps
        if step == 1 or (not last and now - self._shown < (0.2 if self._in_place else self.SECONDS_BETWEEN_LINES)):
            return
        self._shown = now
        left = (now - self._stage_begun) / (step - 1) * (steps - step)
        text = f"  {what}: step {step} of {steps}, loss {loss:.3f}, {left:.0f} s left"
        if self._in_place:
            self._messages.write(f"\r\x1b[K{text}{chr(10) if last else ''}")
        else:
            self._messages.write(f"{text}\n")
        self._messages.flush()

    def close(self, folder: Path) -> None:
        """Says how long it took and where the result lies."""
        seconds = time.monotonic() - self._begun
        print(f"Trained in {seconds:.0f} s; kept in {folder}.", file=self._messages, flush=True)

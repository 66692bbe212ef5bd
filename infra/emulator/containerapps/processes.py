"""Processes that outlive the stand-in although they should not: who they are, and their end at the next start."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from infra.emulator.containerapps.launch import remove_scratch
from infra.emulator.store import Store

_KIND = "containerapp-process"


def record(store: Store, replica: str, process_ids: list[int], scratch: Path) -> None:
    """Remembers a replica's processes (each leads a group of its own) and its disk until forget()."""
    known = {str(process_id): fingerprint(process_id) for process_id in process_ids}
    store.put(_KIND, replica, {"processes": known, "scratch": str(scratch)})


def forget(store: Store, replica: str) -> None:
    """The replica has ended in the ordinary way."""
    store.delete(_KIND, replica)


def end_left_over(store: Store) -> list[str]:
    """Ends what a killed stand-in left behind; the names of the replicas that it belonged to.

    A supervisor ends its container when the stand-in dies, so that this finds something only where it was killed too.
    """
    names = []
    for replica, left in store.items(_KIND):
        for text, known in left["processes"].items():
            process_id = int(text)
            if known is not None and fingerprint(process_id) == known:
                names.append(replica)
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process_id, signal.SIGKILL)
        remove_scratch(Path(left["scratch"]))
        store.delete(_KIND, replica)
    return names


def fingerprint(process_id: int) -> str | None:
    """Tells a process from a later one with its id: when and in which boot it was started. None when it is gone."""
    if sys.platform == "linux":
        try:
            fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        except OSError:
            return None
        return f"{boot}/{fields[19]}"
    answer = subprocess.run(["ps", "-o", "lstart=", "-p", str(process_id)], capture_output=True, text=True, check=False)
    return answer.stdout.strip() or None

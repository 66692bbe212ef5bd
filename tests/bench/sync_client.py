"""The product's way to bring a folder onto a share, as a process of its own: `python -m tests.bench.sync_client JOB`.

JOB is JSON (see Job). `in place` keeps a folder of the share as the local one is: what it held is read from a list that
the last run left beside it. `release` makes a new folder next to the one before, as a deploy does: what that one holds
is copied on the share. Prints one line of JSON: the seconds without those of starting Python and importing.
"""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from scripts import share as shares
from scripts import upload
from scripts.__main__ import end
from scripts.bundle import FileEntry, LocalFile, read_local
from scripts.file_credentials import AccountKey
from scripts.files import ShareClient
from scripts.share import SyncPlan


@dataclass(frozen=True)
class Job:
    """What to bring where. before is the folder of an earlier release, for `release`."""

    address: str
    account: str
    share: str
    key: str
    certificate: str
    source: str
    folder: str
    how: Literal["in place", "release"] = "in place"
    before: str | None = None

    def to_argument(self) -> str:
        return json.dumps(asdict(self))


def run(job: Job) -> dict[str, Any]:
    """Seconds, and what the plan was."""
    begun = time.perf_counter()
    credential = AccountKey(job.account, job.key)
    with ShareClient(job.address, job.share, credential, Path(job.certificate)) as share:
        # What the share holds is asked while the local files are read.
        with ThreadPoolExecutor(1) as beside:
            listed = beside.submit(_listed, share, job.folder if job.how == "in place" else job.before)
            local = read_local({"": Path(job.source)})
            read = time.perf_counter()
            before = listed.result()
        plan = (_in_place if job.how == "in place" else _release)(share, job, local, before)
    ended = time.perf_counter()
    return {
        "seconds": round(ended - begun, 3),
        "reading_seconds": round(read - begun, 3),
        "sent": len(plan.to_send),
        "copied": len(plan.copied),
        "unchanged": len(plan.unchanged),
    }


def _in_place(share: ShareClient, job: Job, local: tuple[LocalFile, ...], before: tuple[FileEntry, ...]) -> SyncPlan:
    plan = shares.plan(local, before, folder=job.folder)
    if not plan.is_empty:
        upload.apply(share, plan, local)
        _list(share, job.folder, local)
    return plan


def _release(share: ShareClient, job: Job, local: tuple[LocalFile, ...], before: tuple[FileEntry, ...]) -> SyncPlan:
    elsewhere = {entry.sha256: f"{job.before}/{entry.path}" for entry in before}
    plan = shares.plan(local, (), folder=f".incomplete-{job.folder}", elsewhere=elsewhere)
    upload.apply(share, plan, local)
    shares.move_folder(share, plan.folder, job.folder)
    _list(share, job.folder, local)
    return plan


def _listed(share: ShareClient, folder: str | None) -> tuple[FileEntry, ...]:
    found = shares.read_small_file(share, f"{folder}.json") if folder else None
    return tuple(FileEntry(*entry) for entry in json.loads(found.content)) if found else ()


def _list(share: ShareClient, folder: str, local: tuple[LocalFile, ...]) -> None:
    entries = [[file.entry.path, file.entry.bytes, file.entry.sha256] for file in local]
    shares.write_small_file(share, f"{folder}.json", json.dumps(entries).encode())


if __name__ == "__main__":
    print(json.dumps(run(Job(**json.loads(sys.argv[1])))))
    end(0)  # as the command does

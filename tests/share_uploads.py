"""An upload in a process of its own, to be killed half-way."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from scripts import cloud
from scripts import share as shares
from scripts import upload as uploads
from scripts.bundle import read_local

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from scripts.progress import Progress


def upload_and_tell(tell: Connection, address: str, share_name: str, key: str, certificate: Path, source: Path) -> None:
    """A process's whole life: sync the folder to `target`, telling the bytes done after each request."""

    def told(done: Progress) -> None:
        tell.send(done.bytes_done)

    with cloud.share_client(address, share_name, key, certificate) as share:
        local = read_local({"": source})
        plan = shares.plan(local, shares.read_remote(share, "target"), folder="target")
        uploads.apply(share, plan, local, progress=told)

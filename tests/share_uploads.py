"""An upload in a process of its own, to be killed half-way."""

from __future__ import annotations

from pathlib import Path

from scripts import share as shares
from scripts import upload as uploads
from scripts.bundle import read_local
from scripts.file_credentials import AccountKey
from scripts.files import ShareClient
from tests.share_on_stand_in import ACCOUNT


def upload(address: str, share_name: str, key: str, certificate: Path, source: Path) -> None:
    """A process's whole life: make the folder `target` hold what the local folder holds."""
    with ShareClient(address, share_name, AccountKey(ACCOUNT, key), certificate) as share:
        local = read_local({"": source})
        plan = shares.plan(local, shares.read_remote(share, "target"), folder="target")
        uploads.apply(share, plan, local)

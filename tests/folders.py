"""Folders of files for tests, written and read back."""

from __future__ import annotations

import hashlib
from pathlib import Path

from scripts import share as shares
from scripts.files import ShareClient


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder


def contents(share: ShareClient, folder: str) -> dict[str, bytes]:
    """What the share holds, read back through the SDK."""
    found = {}
    for entry in shares.read_remote(share, folder):
        file = shares.read_small_file(share, f"{folder}/{entry.path}")
        assert file is not None
        assert hashlib.sha256(file.content).hexdigest() == entry.sha256
        found[entry.path] = file.content
    return found

"""A release of the share -> a local folder that holds exactly it, every file checked by its hash.

The folder appears whole or not at all. Knows no container app.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from scripts import cloud
from scripts import share as share_module
from scripts.bundle import FileEntry
from scripts.errors import BadInput, InferopsError, Problem
from scripts.progress import Progress
from scripts.release import ADAPTERS, MANIFEST, RELEASES, Release

if TYPE_CHECKING:
    from scripts.cloud import ShareClient


def check_empty(folder: Path) -> None:
    """Raise BadInput unless the folder can be written whole: it is not there, or empty."""
    if not folder.exists() and not folder.is_symlink():
        return
    if not folder.is_dir() or folder.is_symlink():
        what = "is not a folder"
    elif any(folder.iterdir()):
        what = "is not empty"
    else:
        return
    raise BadInput([Problem(str(folder), "", None, what, "Name a folder that is empty or not there")])


def pull(
    share: ShareClient,
    release: Release,
    folder: Path,
    *,
    with_adapters: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> tuple[FileEntry, ...]:
    """Write the release into the folder: its code, its lock and release.json; returns what was written.

    with_adapters brings the folders under adapters/ as well, where they stand on the share; those that a fine-tuning
    wrote have no hashes and stay. Raises BadInput when the folder is not empty, InferopsError when a file on the share
    is not what its hash says or this machine cannot write; the folder is then as it was.
    """
    check_empty(folder)
    wanted = {f"{RELEASES}/{release.id}/{entry.path}": entry for entry in release.files}
    if with_adapters:
        for place in {release.base, *release.adapters.values()}:
            if place.startswith(f"{ADAPTERS}/"):
                for entry in share_module.read_remote(share, place):
                    path = f"{place}/{entry.path}"
                    wanted[path] = FileEntry(path, entry.bytes, entry.sha256)
    outside = [entry.path for entry in wanted.values() if not _is_within(entry.path)]
    if outside:
        raise InferopsError(
            f"Release {release.id} names files outside its folder: {', '.join(outside)}; nothing was written.",
            "Something other than a deploy wrote its manifest. Look at who may write to the share.",
        )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    except OSError as error:
        raise _unwritable(folder, error) from None
    try:
        _download_all(share, wanted, partial, progress)
        manifest = share_module.read_small_file(share, f"{RELEASES}/{release.id}/{MANIFEST}")
        if manifest is None:
            raise InferopsError(f"Release {release.id} has gone meanwhile.", "Name another one.")
        (partial / MANIFEST).write_bytes(manifest.content)
        partial.chmod(0o755)  # mkdtemp makes it the owner's alone
        partial.replace(folder)
    except OSError as error:
        raise _unwritable(folder, error) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return tuple(wanted.values())


def _download_all(
    share: ShareClient,
    wanted: dict[str, FileEntry],
    target: Path,
    progress: Callable[[Progress], None] | None,
) -> None:
    total = sum(entry.bytes for entry in wanted.values())
    done_bytes = 0

    def download(item: tuple[str, FileEntry]) -> FileEntry:
        path, entry = item
        _download(share, path, entry, target / entry.path)
        return entry

    with ThreadPoolExecutor(share_module.PARALLEL_REQUESTS) as pool:
        for done, entry in enumerate(pool.map(download, wanted.items()), start=1):
            done_bytes += entry.bytes
            if progress:
                progress(Progress(done, len(wanted), done_bytes, total, entry.path))


def _download(share: ShareClient, path: str, entry: FileEntry, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with target.open("wb") as stream, cloud.translated(f"reading {path} on the share"):
        for chunk in share.get_file_client(path).download_file().chunks():
            digest.update(chunk)
            stream.write(chunk)
    if digest.hexdigest() != entry.sha256:
        raise InferopsError(
            f"{path} on the share does not hold what its hash says: it was changed, or has gone bad.",
            "Do not use this release. Deploy it again from its commit.",
        )


def _is_within(path: str) -> bool:
    """Whether a path of a manifest stays in the folder that it is relative to, on any system."""
    parts = PurePosixPath(path).parts
    return bool(parts) and parts[0] != "/" and ".." not in parts and "\\" not in path


def _unwritable(folder: Path, error: OSError) -> InferopsError:
    return InferopsError(f"{folder} could not be written: {error.strerror}.", "Name a folder that you may write to.")

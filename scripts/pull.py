"""A release of the share -> a local folder that holds exactly it, every file checked by its hash.

A folder that is not there appears whole or not at all; one that is there gets its files once all of them are checked.
Knows no container app.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path, PurePosixPath

from scripts import share as shares
from scripts.bundle import FileEntry
from scripts.errors import BadInput, InferopsError, Problem
from scripts.files import ShareClient
from scripts.progress import Counter, Progress
from scripts.release import ADAPTERS, MANIFEST, RELEASES, Release


def check_empty(folder: Path) -> None:
    """Raise BadInput unless the folder can be written whole: it is not there, or empty."""
    next_step = "Name a folder that is empty or not there"
    try:
        target = _resolved(folder)
        if not folder.is_symlink() and not target.exists():
            return
        if folder.is_symlink() or not target.is_dir():
            what = "is not a folder"
        elif any(target.iterdir()):
            what = "is not empty"
        else:
            return
    except OSError as error:
        what = f"cannot be looked into: {error.strerror}"
        next_step = "Name a folder that you may read and write"
    raise BadInput([Problem(str(folder), "", None, what, next_step)])


def pull(
    share: ShareClient,
    release: Release,
    folder: Path,
    *,
    with_adapters: bool = False,
    say: Callable[[str], None] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> tuple[FileEntry, ...]:
    """Write the release into the folder: its code, its lock and release.json; returns what was written.

    with_adapters brings the folders under adapters/ as well, where they stand on the share; those that a fine-tuning
    wrote have no hashes and stay, for each of which say gets a sentence. progress is called from the threads that read,
    one call at a time. Raises BadInput when the folder is not empty, InferopsError when a file on the share is not what
    its hash says or this machine cannot write; the folder is then as it was, as it is after an interruption.
    """
    check_empty(folder)
    wanted = {f"{RELEASES}/{release.id}/{entry.path}": entry for entry in release.files}
    if with_adapters:
        wanted |= _uploaded_models(share, release, say)
    outside = [entry.path for entry in wanted.values() if not _is_within(entry.path)]
    if outside:
        raise InferopsError(
            f"Release {release.id} names files outside its folder: {', '.join(outside)}; nothing was written.",
            "Something other than a deploy wrote its manifest. Look at who may write to the share.",
        )
    target = _resolved(folder)
    try:
        is_there = target.exists()
        target.parent.mkdir(parents=True, exist_ok=True)
        # A folder that is there stays the same one: somebody may be in it, and it may be all that may be written.
        above = target if is_there else target.parent
        unfinished = Path(tempfile.mkdtemp(dir=above, prefix=f".{target.name}."))
    except OSError as error:
        raise _unwritable(folder, error) from None
    try:
        _download_all(share, wanted, unfinished, progress)
        manifest = shares.read_small_file(share, f"{RELEASES}/{release.id}/{MANIFEST}")
        if manifest is None:
            raise InferopsError(f"Release {release.id} is no longer there.", "Name another one.")
        (unfinished / MANIFEST).write_bytes(manifest.content)
        if is_there:
            _move_children(unfinished, target)
        else:
            unfinished.chmod(0o755)  # mkdtemp makes it the owner's alone
            unfinished.replace(target)
    except OSError as error:
        raise _unwritable(folder, error) from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return tuple(wanted.values())


def _uploaded_models(share: ShareClient, release: Release, say: Callable[[str], None] | None) -> dict[str, FileEntry]:
    """Path on the share -> file, below the same path, of the release's adapters and base that a deploy has uploaded."""
    files = {}
    for place in sorted({release.base, *release.adapters.values()}):
        # Azure Files ignores case.
        is_below = place.casefold().startswith(f"{ADAPTERS}/")
        entries = shares.read_remote(share, place) if is_below else ()
        if is_below and all(entry.sha256 for entry in entries):
            for entry in entries:
                path = f"{place}/{entry.path}"
                files[path] = FileEntry(path, entry.bytes, entry.sha256)
        elif say:
            say(f"{place} stays on the share: no deploy uploaded it, so it has no hashes to check its files by.")
    return files


def _move_children(source: Path, target: Path) -> None:
    """Move what lies in one folder into another, all of it or, when that fails or is interrupted, nothing."""
    names = sorted(path.name for path in source.iterdir())
    try:
        for name in names:
            (source / name).rename(target / name)
    except BaseException:
        for name in names:
            if not (source / name).exists():
                (target / name).rename(source / name)
        raise


def _download_all(
    share: ShareClient,
    wanted: dict[str, FileEntry],
    target: Path,
    progress: Callable[[Progress], None] | None,
) -> None:
    """Raises the first failure, or interruption, once every request that is under way has ended; begins no other."""
    counter = Counter(len(wanted), sum(entry.bytes for entry in wanted.values()), progress)
    ended = threading.Event()

    def seconds_left() -> float:
        if ended.is_set():
            raise CancelledError
        return math.inf

    download = partial(_download, share.within(seconds_left), target, counter)
    with ThreadPoolExecutor(shares.PARALLEL_REQUESTS, thread_name_prefix="pull") as pool:
        try:
            for done in as_completed([pool.submit(download, path, entry) for path, entry in wanted.items()]):
                done.result()
        except BaseException:
            ended.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _download(share: ShareClient, target: Path, counter: Counter, path: str, entry: FileEntry) -> None:
    """One file, which lies below the target as its entry says."""
    file = target / entry.path
    file.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with file.open("wb") as stream:
        for chunk in shares.read_in_ranges(share, path):
            digest.update(chunk)
            stream.write(chunk)
            counter.add(entry.path, len(chunk), sent_bytes=len(chunk))
    if digest.hexdigest() != entry.sha256:
        parts = path.split("/")
        # releases/<id> or adapters/<name>/<hash>
        folder = "/".join(parts[: 2 if parts[0] == RELEASES else 3])
        raise InferopsError(
            f"{path} on the share does not hold what its hash says: it was changed, or has gone bad.",
            f"If the release in use is or uses {folder}, put another one into use (inferops rollback). Then deploy "
            "again from the commit of the one that was damaged, which makes the folder whole.",
        )
    counter.add(entry.path, 0, files=1)


def _is_within(path: str) -> bool:
    """Whether a path of a manifest stays in the folder that it is relative to, on any system."""
    parts = PurePosixPath(path).parts
    return bool(parts) and parts[0] != "/" and ".." not in parts and "\\" not in path


def _resolved(folder: Path) -> Path:
    """The folder without `.`, `..` and links, so that it has a name and a parent."""
    return Path(os.path.realpath(folder))


def _unwritable(folder: Path, error: OSError) -> InferopsError:
    return InferopsError(f"{folder} could not be written: {error.strerror}.", "Name a folder that you may write to.")

"""Bundles -> a release: its id, its manifest, its folder on the share; which release is current.

A release is immutable and named by the hash of its contents. Its folder gets its name only when it is complete, in one
rename, and `current` is replaced in one request: whoever reads the share at any moment, in the middle of any failure,
sees one whole release. Knows the share's layout and no container app.

    current                      one line: releases/<id>
    releases/<id>/               the code, the lock of its dependencies, and release.json
    adapters/<name>/<hash>/      model folders uploaded from here; a base model has the reserved name `base`
    */.incomplete-<name>/        an upload under way, or cut off: the next upload of the same contents continues it
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from scripts import bundle as bundles
from scripts import share as shares
from scripts import upload as uploads
from scripts.bundle import FileEntry, LocalFile
from scripts.environment import RESERVED_ADAPTER_NAME
from scripts.errors import BadInput, InferopsError, Problem
from scripts.files import ShareClient
from scripts.lock import Lock
from scripts.progress import Progress

CURRENT = "current"
RELEASES = "releases"
ADAPTERS = "adapters"
MANIFEST = "release.json"
INCOMPLETE = ".incomplete-"
"""What a folder's name begins with until it is whole."""

BASE = RESERVED_ADAPTER_NAME
"""The name under adapters/ that a base model uploaded from this machine gets."""

CODE = ("inference", "requirements/inference.txt", "requirements/quantization.txt", "requirements/uv.txt")
"""What of the repository a release carries: the code, and the locks of what it needs."""

BASE_MARK = "config.json"
ADAPTER_MARK = "adapter_config.json"
"""The file that makes a folder a base model, or an adapter (the names that transformers and peft write)."""

_ID_DIGITS = 16
_PROVEN = "proven"
_PREVIOUS = "previous"
_CURRENT_LINE = re.compile(r"releases/([A-Za-z0-9][A-Za-z0-9._-]*)\n?")
_FOLDERS_SEARCHED = 100
_FOLDERS_NAMED = 20


@dataclass(frozen=True)
class Release:
    """What a release holds. commit and time (ISO 8601, UTC) tell when it was made and are no part of its identity.

    files are the code and the lock, by paths within the release. base and the adapters' values are folders on the
    share, relative to its root.
    """

    id: str
    commit: str | None
    time: str
    files: tuple[FileEntry, ...]
    base: str
    adapters: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """release.json as a value."""
        return {
            "id": self.id,
            "commit": self.commit,
            "time": self.time,
            "files": {entry.path: {"sha256": entry.sha256, "bytes": entry.bytes} for entry in self.files},
            "base": self.base,
            "adapters": dict(self.adapters),
        }


@dataclass(frozen=True)
class Current:
    """The release in use, by its id. proven: it passed its proof; until then previous is the one to go back to."""

    release: str
    proven: bool
    previous: str | None

    @property
    def fallback(self) -> Current:
        """What to go back to when another release that takes this one's place fails: the last one that was proven.

        One that never was is it only when there is no other.
        """
        return self if self.proven or self.previous is None else Current(self.previous, True, None)


@dataclass(frozen=True)
class Bundle:
    """A model folder of this machine, and the folder on the share that its contents' hash gives it."""

    folder: str
    files: tuple[LocalFile, ...]


@dataclass(frozen=True)
class Package:
    """A release with everything that it needs from this machine."""

    release: Release
    code: tuple[LocalFile, ...]
    bundles: tuple[Bundle, ...]

    @property
    def uploaded_folders(self) -> frozenset[str]:
        return frozenset(bundle.folder for bundle in self.bundles)


def prepare(
    repository: Path,
    *,
    base: str | Path,
    adapters: Mapping[str, str | Path],
    commit: str | None,
    made_at: datetime | None = None,
) -> Package:
    """Read the bundles and name the release. A str is a folder on the share, a Path one on this machine.

    Touches no network. Raises BadInput with every file that cannot be sent and every local folder that is no model.
    """
    problems: list[Problem] = []
    brought: list[Bundle] = []

    def folder_of(name: str, where: str | Path, mark: str, key: str) -> str:
        if isinstance(where, str):
            return where.strip("/")
        try:
            files = bundles.read_local({"": where})
        except BadInput as error:
            problems.extend(error.problems)
            return ""
        if not any(file.entry.path == mark for file in files):
            advice = f"Name a folder that has one as {key} of the environment."
            problems.append(Problem(bundles.shown(where), "", None, f"the folder has no {mark}", advice))
        bundle = Bundle(f"{ADAPTERS}/{name}/{_hash([_identity(file.entry) for file in files])}", files)
        brought.append(bundle)
        return bundle.folder

    try:
        code = bundles.read_local({path: repository / path for path in CODE})
    except BadInput as error:
        problems.extend(error.problems)
        code = ()
    base_folder = folder_of(BASE, base, BASE_MARK, "model.base")
    adapter_folders = {
        name: folder_of(name, where, ADAPTER_MARK, f"model.adapters.{name}") for name, where in adapters.items()
    }
    if problems:
        raise BadInput(problems)
    files = tuple(file.entry for file in code)
    identity = {"files": [_identity(entry) for entry in files], "base": base_folder, "adapters": adapter_folders}
    moment = (made_at or datetime.now(timezone.utc)).astimezone(timezone.utc)
    release = Release(
        id=_hash(identity),
        commit=commit,
        time=moment.isoformat(timespec="seconds").replace("+00:00", "Z"),
        files=files,
        base=base_folder,
        adapters=adapter_folders,
    )
    return Package(release, code, tuple(brought))


def check_folders(share: ShareClient, release: Release, uploaded: Collection[str] = (), *, described_in: str) -> None:
    """See that the model folders which the release takes from the share are there (one request each).

    uploaded are those that its deploy brings along; described_in is the file that named them, for the message. Raises
    BadInput with every missing one and with the folders of the share that would do.
    """
    wanted = [("model.base", release.base, BASE_MARK)]
    wanted += [(f"model.adapters.{name}", folder, ADAPTER_MARK) for name, folder in release.adapters.items()]
    missing = [
        (key, folder, mark)
        for key, folder, mark in wanted
        if folder not in uploaded and not shares.file_exists(share, f"{folder}/{mark}")
    ]
    if not missing:
        return
    found = _model_folders(share, {mark for _, _, mark in missing})
    problems = []
    for key, folder, mark in missing:
        candidates = found[mark]
        if candidates:
            shown = ", ".join(candidates[:_FOLDERS_NAMED]) + (", ..." if len(candidates) > _FOLDERS_NAMED else "")
            advice = f"Folders on the share that have one: {shown}. Name one of them, or a local folder."
        else:
            advice = "No folder on the share has one: let fine-tuning write it there, or name a local folder."
        problems.append(Problem(described_in, key, folder, f"the share has no {folder}/{mark}", advice))
    raise BadInput(problems)


def upload(
    share: ShareClient,
    package: Package,
    lock: Lock,
    *,
    earlier: str | None = None,
    progress: Callable[[str, Progress], None] | None = None,
) -> tuple[str, ...]:
    """Bring the release and its bundles onto the share, bundles first; returns the folders that were made.

    What is there already is not sent again: the same files of an earlier release, by its id, and the same files of
    other bundles are copied on the share. What somebody has written into is made whole again, unless the earlier
    release is or uses it. progress gets the folder and how far its upload is. Raises CloudError, Locked when the lease
    was lost meanwhile, InferopsError when a file changed during the upload.
    """
    # The folder that this completes is the next run's, too, should this one lose its lease.
    share = share.within(lock.seconds_left)
    manifest = json.dumps(package.release.to_json(), indent=2).encode() + b"\n"
    before = read_release(share, earlier) if earlier is not None else None
    in_use = set() if earlier is None else _in_use(earlier, before, package)
    made = []
    for bundle in package.bundles:
        if not _is_placed(share, bundle.folder, bundle.files, {}, in_use):
            _place(share, bundle.folder, bundle.files, {}, files_elsewhere(share, bundle.files), progress)
            made.append(bundle.folder)
    folder, documents = f"{RELEASES}/{package.release.id}", {MANIFEST: manifest}
    if not _is_placed(share, folder, package.code, documents, in_use):
        _place(share, folder, package.code, documents, files_of(before), progress)
        made.append(folder)
    return tuple(made)


def files_of(release: Release | None) -> dict[str, str]:
    """SHA-256 -> path on the share, of a release's files: a deploy copies them there and does not send them."""
    if release is None:
        return {}
    return {entry.sha256: f"{RELEASES}/{release.id}/{entry.path}" for entry in release.files}


def files_elsewhere(share: ShareClient, files: Iterable[LocalFile]) -> dict[str, str]:
    """SHA-256 -> path on the share, of uploaded bundles' files that may be the same as some of these.

    Small files are not looked for: they are sent anyway.
    """
    sizes = {file.entry.bytes for file in files if file.entry.bytes > shares.SENT_ANYWAY_BYTES}
    if not sizes:
        return {}
    found = shares.read_remote(share, ADAPTERS, sizes=sizes)
    return {entry.sha256: f"{ADAPTERS}/{entry.path}" for entry in found if entry.sha256}


def read_current(share: ShareClient) -> Current | None:
    """The release in use (one request); None when there is none yet.

    Whether it is proven, and what was before it, stands in the file's metadata, so that all of it changes in the same
    request and replicas still read one plain line. Raises InferopsError when the file makes no sense.
    """
    found = shares.read_small_file(share, CURRENT)
    if found is None:
        return None
    match = _CURRENT_LINE.fullmatch(found.content.decode("utf-8", "backslashreplace"))
    if match is None:
        raise InferopsError(
            f"The file '{CURRENT}' on the share does not name a release: it holds {found.content[:80]!r}.",
            f"Something other than a deploy wrote it. Delete the file '{CURRENT}' and deploy again.",
        )
    return Current(
        release=match.group(1),
        proven=found.metadata.get(_PROVEN) == "true",
        previous=found.metadata.get(_PREVIOUS) or None,
    )


def read_current_id(share: ShareClient) -> str | None:
    """The id of the release in use; None when there is none yet."""
    current = read_current(share)
    return current.release if current else None


def set_current(share: ShareClient, release_id: str, lock: Lock, *, previous: str | None) -> None:
    """Put a release into use, not yet proven, in one request. Replicas notice at their next start.

    previous is the release to go back to when the proof fails, or when this run dies before it; None for none.
    """
    _write_current(share, Current(release_id, False, previous), lock)


def confirm_current(share: ShareClient, release_id: str, lock: Lock) -> None:
    """Remember that the release in use passed its proof (one request)."""
    _write_current(share, Current(release_id, True, None), lock)


def restore_current(share: ShareClient, current: Current, lock: Lock) -> None:
    """Put back what was in use, proven or not (one request)."""
    _write_current(share, current, lock)


def remove_current(share: ShareClient, lock: Lock) -> None:
    """Take the first release out of use when it failed and there is none to go back to: replicas wait again."""
    shares.delete_file(share.within(lock.seconds_left), CURRENT)


def read_release(share: ShareClient, release_id: str) -> Release | None:
    """A release by its id; None when the share has no such release. Raises InferopsError for a broken manifest."""
    path = f"{RELEASES}/{release_id}/{MANIFEST}"
    found = shares.read_small_file(share, path)
    if found is None:
        return None
    try:
        value = json.loads(found.content)
        return Release(
            id=str(value["id"]),
            commit=value["commit"],
            time=str(value["time"]),
            files=tuple(
                FileEntry(name, int(file["bytes"]), str(file["sha256"])) for name, file in value["files"].items()
            ),
            base=str(value["base"]),
            adapters={str(name): str(folder) for name, folder in value["adapters"].items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InferopsError(
            f"The file {path} on the share is not a release's manifest.",
            f"Delete the folder {RELEASES}/{release_id} unless it is in use, and deploy again.",
        ) from None


def list_ids(share: ShareClient) -> tuple[str, ...]:
    """The id of every whole release on the share, sorted (one request)."""
    listed = shares.list_folder(share, RELEASES)
    return tuple(sorted(name for name, size in listed if size is None and not name.startswith(".")))


def read_releases(share: ShareClient, ids: Iterable[str]) -> tuple[Release, ...]:
    """The releases of these ids that the share has, newest first by when they were made (one request for each)."""
    with ThreadPoolExecutor(shares.PARALLEL_REQUESTS) as pool:
        releases = [release for release in pool.map(lambda name: read_release(share, name), ids) if release]
    return tuple(sorted(releases, key=lambda release: (release.time, release.id), reverse=True))


def find(share: ShareClient, name: str) -> Release:
    """The release that a person names: by its id, by the beginning of it, or as `current`.

    Raises BadInput with the releases that there are when it is none of them, or more than one.
    """
    ids = list_ids(share)
    if name == CURRENT:
        named = [found for found in (read_current_id(share),) if found is not None]
    else:
        named = [name] if name in ids else [known for known in ids if name and known.startswith(name)]
    found = read_release(share, named[0]) if len(named) == 1 else None
    if found is not None:
        return found
    what = f"is the beginning of {len(named)} releases" if len(named) > 1 else "the share has no such release"
    known = ", ".join(named if len(named) > 1 else ids)
    next_step = f"Name one of these: {known}" if known else "There is none yet: deploy first"
    raise BadInput([Problem(None, "RELEASE", name, what, next_step)])


def _write_current(share: ShareClient, current: Current, lock: Lock) -> None:
    metadata = {_PROVEN: str(current.proven).lower()}
    if current.previous:
        metadata[_PREVIOUS] = current.previous
    line = f"{RELEASES}/{current.release}\n".encode()
    shares.write_small_file(share.within(lock.seconds_left), CURRENT, line, metadata)


def _place(
    share: ShareClient,
    folder: str,
    files: tuple[LocalFile, ...],
    documents: Mapping[str, bytes],
    elsewhere: Mapping[str, str],
    progress: Callable[[str, Progress], None] | None,
) -> None:
    """Make the folder hold the files and documents, whole or not at all. elsewhere is share.plan's."""
    incomplete = _incomplete(folder)
    present = shares.read_remote(share, incomplete)
    sync_plan = shares.plan(files, present, folder=incomplete, elsewhere=elsewhere)
    uploads.apply(share, sync_plan, files, progress=None if progress is None else lambda done: progress(folder, done))
    for path, content in documents.items():
        shares.write_small_file(share, f"{incomplete}/{path}", content)
    shares.move_folder(share, incomplete, folder)


def _incomplete(folder: str) -> str:
    """What a folder is called until it is whole."""
    parent, _, name = folder.rpartition("/")
    return f"{parent}/{INCOMPLETE}{name}"


def _is_placed(
    share: ShareClient,
    folder: str,
    files: tuple[LocalFile, ...],
    documents: Collection[str],
    in_use: Collection[str],
) -> bool:
    """Whether the folder is there. One that no longer holds what was put there loses its name, unless it is in use."""
    if not shares.folder_exists(share, folder):
        return False
    if folder in in_use:
        return True
    found = shares.plan(files, shares.read_remote(share, folder), folder=folder)
    missing = set(documents) - {entry.path for entry in found.removed}
    if not (found.added or found.changed or missing):
        return True
    shares.move_folder(share, folder, _incomplete(folder))
    return False


def _in_use(release_id: str, release: Release | None, package: Package) -> set[str]:
    """The folders of a release and of what it uses; without a manifest it may use all that the package brings."""
    used = package.uploaded_folders if release is None else {release.base, *release.adapters.values()}
    return {f"{RELEASES}/{release_id}", *used}


def _model_folders(share: ShareClient, marks: Iterable[str]) -> dict[str, list[str]]:
    """mark -> the folders of the share that hold such a file, nearest to the root first; the search is bounded."""
    found: dict[str, list[str]] = {mark: [] for mark in marks}
    waiting = [""]
    for _ in range(_FOLDERS_SEARCHED):
        if not waiting:
            break
        folder = waiting.pop(0)
        for name, size in shares.list_folder(share, folder):
            if size is not None:
                if name in found:
                    found[name].append(folder)
            elif not name.startswith(".") and (folder or name != RELEASES):
                waiting.append(f"{folder}/{name}" if folder else name)
    return found


def _identity(entry: FileEntry) -> list[str | int]:
    return [entry.path, entry.sha256, entry.bytes]


def _hash(value: object) -> str:
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:_ID_DIGITS]

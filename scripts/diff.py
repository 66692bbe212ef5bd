"""What a deploy of this checkout would change against the release in use, file by file. Reads only.

A Difference is a value: `deploy --dry-run` and `diff` show the same one. Knows no container app.
"""

from __future__ import annotations

import difflib
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from scripts import release as releases
from scripts import share as shares
from scripts.bundle import FileEntry, LocalFile
from scripts.errors import CloudError
from scripts.files import ShareClient
from scripts.release import ADAPTERS, RELEASES, Package, Release
from scripts.share import SyncPlan

LONGEST_TEXT_BYTES = 64 * 1024
"""A longer file is no text to be read as a difference."""

LONGEST_DIFF_LINES = 100
"""A longer difference is told as the numbers of lines that come and go."""

_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters but the tab, and those that turn the order of what is read."""


@dataclass(frozen=True)
class Part:
    """The code, the base model or one adapter, where it changes.

    before and after are folders on the share, None where there is none. plan has the files that come from this
    machine, against those of `before`; None for a folder that is the share's own. is_there: the share has the folder
    `after` already. bytes_sent_again are those of unchanged files that a deploy sends all the same: `after` is a folder
    of its own.
    """

    name: str
    before: str | None
    after: str | None
    plan: SyncPlan | None
    is_there: bool
    bytes_sent_again: int = 0

    @property
    def bytes_to_send(self) -> int:
        return self.plan.bytes_to_send + self.bytes_sent_again if self.plan is not None and not self.is_there else 0


@dataclass(frozen=True)
class Difference:
    """release is what this checkout makes, current the id of the one in use, parts what changes between them.

    texts has unified differences of the short text files, by their paths on the share, where they were asked for.
    """

    release: Release
    current: str | None
    parts: tuple[Part, ...]
    texts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        return self.release.id == self.current

    @property
    def bytes_to_send(self) -> int:
        return sum(part.bytes_to_send for part in self.parts)


def against(share: ShareClient, package: Package, current_id: str | None, *, with_texts: bool = False) -> Difference:
    """Compare with the release in use by the manifests; an adapter of this machine also by its folder on the share.

    with_texts reads the short files that changed as well (one request each).
    """
    if current_id == package.release.id:
        return Difference(package.release, current_id, ())
    current = releases.read_release(share, current_id) if current_id else None
    parts = tuple(_parts(share, package, current))
    texts: dict[str, tuple[str, ...]] = {}
    if with_texts:
        sources = {f"{RELEASES}/{package.release.id}/{file.entry.path}": file for file in package.code}
        sources |= {f"{bundle.folder}/{file.entry.path}": file for bundle in package.bundles for file in bundle.files}
        for part in parts:
            texts |= dict(_texts(share, part, sources))
    return Difference(package.release, current_id, parts, texts)


def _parts(share: ShareClient, package: Package, current: Release | None) -> Iterator[Part]:
    release = package.release
    folder = f"{RELEASES}/{release.id}"
    files = current.files if current else ()
    before = f"{RELEASES}/{current.id}" if current else None
    elsewhere = releases.files_of(current)
    plan = shares.plan(package.code, files, folder=folder, elsewhere=elsewhere)
    if not plan.is_empty:
        is_there = shares.folder_exists(share, folder)
        yield Part("code", before, folder, plan, is_there, _bytes_sent_again(plan, elsewhere))
    old = {"base model": current.base, **_adapters(current)} if current else {}
    new = {"base model": release.base, **_adapters(release)}
    bundles = {bundle.folder: bundle for bundle in package.bundles}
    for name in {**new, **old}:
        earlier, later = old.get(name), new.get(name)
        if earlier == later:
            continue
        bundle = bundles.get(later or "")
        if bundle is None:
            yield Part(name, earlier, later, None, is_there=True)
            continue
        # Only what a deploy has written carries its files' hashes.
        present = shares.read_remote(share, earlier) if earlier and earlier.startswith(f"{ADAPTERS}/") else ()
        is_there = shares.folder_exists(share, bundle.folder)
        elsewhere = {} if is_there else releases.files_elsewhere(share, bundle.files)
        plan = shares.plan(bundle.files, present, folder=bundle.folder, elsewhere=elsewhere)
        yield Part(name, earlier, later, plan, is_there, _bytes_sent_again(plan, elsewhere))


def _bytes_sent_again(plan: SyncPlan, elsewhere: Mapping[str, str]) -> int:
    return sum(entry.bytes for entry in plan.unchanged if not shares.is_copied(entry, elsewhere))


def _adapters(release: Release) -> dict[str, str]:
    return {f"adapter {name}": folder for name, folder in release.adapters.items()}


def _texts(share: ShareClient, part: Part, sources: Mapping[str, LocalFile]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(path, lines of its unified difference) of each file that changed and is text on both sides."""
    if part.plan is None or part.before is None:
        return
    present = {entry.path: entry for entry in part.plan.changed}
    for path, entry in present.items():
        target = f"{part.plan.folder}/{path}"
        new = _lines_here(sources[target], entry)
        old = _lines_there(share, f"{part.before}/{path}") if new is not None else None
        if new is None or old is None:
            continue
        lines = [shown for line in difflib.unified_diff(old, new, "in use", "here", n=2) for shown in _shown(line)]
        if len(lines) > LONGEST_DIFF_LINES:
            added = sum(line.startswith("+") for line in lines[2:])
            removed = sum(line.startswith("-") for line in lines[2:])
            lines = [f"{_counted(added)} added, {_counted(removed)} removed"]
        yield target, tuple(lines)


def _lines_here(file: LocalFile, entry: FileEntry) -> list[str] | None:
    return _lines(file.source.read_bytes()) if entry.bytes <= LONGEST_TEXT_BYTES else None


def _lines_there(share: ShareClient, path: str) -> list[str] | None:
    try:
        # One byte more tells that it is too long, be it of many GB.
        content, _ = share.get_range(path, 0, LONGEST_TEXT_BYTES + 1)
    except CloudError as error:
        if error.status != 404:
            raise
        return None  # somebody has removed it
    return _lines(content)


def _lines(content: bytes) -> list[str] | None:
    """The lines of a text; None for what is none, or too long to be read as one."""
    if len(content) > LONGEST_TEXT_BYTES or b"\0" in content:
        return None
    try:
        # Only a line feed ends a line, as for Git.
        return list(io.StringIO(content.decode(), newline="\n"))
    except UnicodeDecodeError:
        return None


def _shown(line: str) -> Iterator[str]:
    """A line of a difference as a terminal may have it: what cannot be seen is written out, as is a missing end."""
    text = line.removesuffix("\n")
    yield _UNSEEN.sub(lambda found: found.group().encode("unicode_escape").decode(), text)
    if text == line:
        yield "\\ No newline at end of file"


def _counted(lines: int) -> str:
    return "1 line" if lines == 1 else f"{lines} lines"

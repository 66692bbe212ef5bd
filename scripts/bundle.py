"""A folder of this machine -> the files that are sent from it, each with the hash of its content.

What is left out is said by DEFAULT_IGNORE and by a file `.deployignore` in the folder; what Azure Files could not hold
is refused, all of it at once. Knows no network.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import translate
from pathlib import Path

from scripts.errors import BadInput, Problem

IGNORE_FILE = ".deployignore"
"""Lines as in a .gitignore, in the folder that is sent; they come after DEFAULT_IGNORE, and `!name` takes back."""

DEFAULT_IGNORE = (
    IGNORE_FILE,
    ".git",
    ".env",
    ".venv",
    "venv",
    "node_modules",
    "__pycache__",
    "*.py[cod]",
    ".cache",
    ".*_cache",
    ".hypothesis",
    ".ipynb_checkpoints",
    ".DS_Store",
    "Thumbs.db",
    "*.swp",
    "*~",
)
"""What is no part of a bundle anywhere: repositories, environments, caches, secrets, what editors and systems leave.
Patterns of a name, without a slash."""

_IGNORED_BY_DEFAULT = re.compile("|".join(map(translate, DEFAULT_IGNORE)))

_READ_BYTES = 1024 * 1024

# REST: Naming and referencing shares, directories, files, and metadata.
_LONGEST_NAME = 255
_LONGEST_PATH = 2048
_DEEPEST_PATH = 250
_FORBIDDEN_CHARACTERS = re.compile(r'["\\:|<>*?\x00-\x1f\x7f-\x9f\ue000\ufffe\uffff]')
_SURROGATES = re.compile("[\ud800-\udfff]")
_DEVICE_NAMES = re.compile(r"CON|PRN|AUX|NUL|CLOCK\$|COM[1-9]|LPT[1-9]", re.IGNORECASE)


@dataclass(frozen=True)
class FileEntry:
    """One file's content. path is relative, with `/`; sha256 is hexadecimal, empty when the file is incomplete."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class LocalFile:
    """A file to send: what it held when it was read for the plan, and where it lies on this machine."""

    entry: FileEntry
    source: Path


def read_local(sources: Mapping[str, Path]) -> tuple[LocalFile, ...]:
    """Read and hash the files to send: target path -> local file or folder (target "" for a folder that is the root).

    Files come back sorted by path. Raises BadInput with every file that cannot be sent as it is: a symbolic link,
    something that is not a plain file, an unreadable one, a name that Azure Files cannot hold, two names that differ
    only in case; and with every line of a `.deployignore` that makes no sense.
    """
    problems: list[Problem] = []
    found: list[LocalFile] = []
    for target, source in sources.items():
        for path, local in _files_of(target, source, problems):
            problems.extend(_name_problems(path, local))
            try:
                found.append(LocalFile(_read_entry(path, local), local))
            except OSError as error:
                problems.append(_unreadable(local, error))
    problems.extend(_case_collisions(found))
    if problems:
        raise BadInput(problems)
    return tuple(sorted(found, key=lambda file: file.entry.path))


def shown(path: Path) -> str:
    """A path as the person knows it: from where the command runs, and whole when it lies elsewhere."""
    here = Path.cwd()
    return _printable(str(path.relative_to(here) if path.is_relative_to(here) else path))


def folders_above(paths: Iterable[str]) -> set[str]:
    """Every folder on the way to one of the files, without the root."""
    found: set[str] = set()
    for path in paths:
        folder = path.rpartition("/")[0]
        while folder and folder not in found:
            found.add(folder)
            folder = folder.rpartition("/")[0]
    return found


def _files_of(target: str, source: Path, problems: list[Problem]) -> Iterator[tuple[str, Path]]:
    """(path on the share, local path) of every file to send from a source that may be a file itself."""
    try:
        mode = source.lstat().st_mode
    except FileNotFoundError:
        problems.append(Problem(shown(source), "", None, "there is no such file or folder", "Name one that exists."))
        return
    except OSError as error:
        problems.append(_unreadable(source, error))
        return
    if stat.S_ISREG(mode):
        yield target, source
    elif stat.S_ISDIR(mode):
        for path, local in _walk(source, "", _ignored(source, problems), problems):
            yield f"{target}/{path}" if target else path, local
    else:
        problems.append(_not_a_file(source))


def _walk(
    folder: Path, below: str, ignored: Callable[[str], object], problems: list[Problem]
) -> Iterator[tuple[str, Path]]:
    """(relative path, local path) of every plain file; what is neither a plain file nor a folder is a problem."""
    try:
        with os.scandir(folder / below) as items:
            children = sorted(items, key=lambda item: item.name)
    except OSError as error:
        problems.append(_unreadable(folder / below, error))
        return
    for child in children:
        path = f"{below}/{child.name}" if below else child.name
        is_folder = child.is_dir(follow_symlinks=False)
        if ignored(f"{path}/" if is_folder else path):
            continue
        if is_folder:
            yield from _walk(folder, path, ignored, problems)
        elif child.is_file(follow_symlinks=False):
            yield path, folder / path
        else:
            problems.append(_not_a_file(folder / path))


def _ignored(folder: Path, problems: list[Problem]) -> Callable[[str], object]:
    """Whether a path in a folder is left out: by the defaults, then by the lines of its own `.deployignore`.

    A path ends with a slash if it is a folder's. What is in a folder that is left out is not asked for.
    """
    file = folder / IGNORE_FILE
    # Not Path.exists, which raises where the folder cannot be looked into: that is told when it is walked.
    if not os.path.exists(file):  # noqa: PTH110
        # Most folders have none, and importing the library takes as long as reading a thousand small files.
        return _is_ignored_by_default
    from pathspec import GitIgnoreSpec
    from pathspec.patterns.gitignore import GitIgnorePatternError

    lines: list[str] = []
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        problems.append(_unreadable(file, error))
    except UnicodeDecodeError:
        problems.append(Problem(shown(file), "", None, "is not UTF-8 text", "Save it as UTF-8."))
    sound = list(DEFAULT_IGNORE)
    for number, line in enumerate(lines, start=1):
        try:
            GitIgnoreSpec.from_lines([line])
            sound.append(line)
        except GitIgnorePatternError:
            advice = "Write it as in a .gitignore."
            problems.append(Problem(shown(file), f"line {number}", _printable(line), "is not a pattern", advice))
    return GitIgnoreSpec.from_lines(sound).match_file


def _is_ignored_by_default(path: str) -> object:
    return _IGNORED_BY_DEFAULT.match(path.rstrip("/").rpartition("/")[2])


def _read_entry(path: str, local: Path) -> FileEntry:
    digest = hashlib.sha256()
    size = 0
    with local.open("rb", buffering=0) as stream:
        while chunk := stream.read(_READ_BYTES):
            digest.update(chunk)
            size += len(chunk)
    return FileEntry(path, size, digest.hexdigest())


def _name_problems(path: str, local: Path) -> Iterator[Problem]:
    def problem(value: str, message: str) -> Problem:
        return Problem(shown(local), "", _printable(value), message, "Rename it.")

    if len(path) > _LONGEST_PATH:
        yield problem(f"{len(path)} characters", f"the path is longer than the {_LONGEST_PATH} that Azure Files holds")
    names = path.split("/")
    if len(names) > _DEEPEST_PATH:
        yield problem(f"{len(names)} levels", f"the path is deeper than the {_DEEPEST_PATH} that Azure Files holds")
    for name in names:
        if len(name) > _LONGEST_NAME:
            yield problem(name, f"the name is longer than the {_LONGEST_NAME} characters that Azure Files holds")
        if _SURROGATES.search(name):
            yield problem(name, "the name is not valid Unicode")
        elif _FORBIDDEN_CHARACTERS.search(name):
            yield problem(name, "the name has a character that Azure Files cannot hold")
        if _DEVICE_NAMES.fullmatch(name):
            yield problem(name, "the name is reserved for a device")
        if name.endswith((".", " ")):
            yield problem(name, "the name ends with a dot or a space, which Azure Files drops")


def _case_collisions(files: Sequence[LocalFile]) -> Iterator[Problem]:
    """Names on the share are case-insensitive: two that differ only in case would be one, folders included."""
    paths = [file.entry.path for file in files]
    names = {*paths, *folders_above(paths)}
    if len({name.casefold() for name in names}) == len(names):
        return
    spellings: dict[str, dict[str, Path]] = {}
    for file in files:
        parts = file.entry.path.split("/")
        local = file.source
        for depth in range(len(parts), 0, -1):
            spelling = "/".join(parts[:depth])
            spellings.setdefault(spelling.casefold(), {}).setdefault(spelling, local)
            local = local.parent
    told: set[str] = set()
    for folded, variants in sorted(spellings.items()):
        parent = folded.rpartition("/")[0]
        if len(variants) > 1 and parent in told:
            told.add(folded)  # the parent's own collision says it already
        elif len(variants) > 1:
            told.add(folded)
            first, *others = sorted(variants)
            for other in others:
                yield Problem(
                    shown(variants[other]),
                    "",
                    _printable(other),
                    f"differs only in case from {_printable(first)}, and Azure Files does not tell them apart",
                    "Rename one of them.",
                )


def _not_a_file(path: Path) -> Problem:
    if path.is_symlink():
        advice = "Replace the link by a copy of the file, or remove it."
        return Problem(
            shown(path), "", str(path.readlink()), "is a symbolic link, which a release cannot carry", advice
        )
    return Problem(shown(path), "", None, "is neither a file nor a folder", "Remove it from the folder.")


def _unreadable(path: Path, error: OSError) -> Problem:
    reason = (error.strerror or str(error)).lower()
    return Problem(shown(path), "", None, f"cannot be read: {reason}", "Make it readable, or remove it.")


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()

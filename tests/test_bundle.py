"""A local folder: what is sent of it, what is left out, what is refused."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.bundle import DEFAULT_IGNORE, IGNORE_FILE, FileEntry, read_local
from scripts.errors import BadInput
from tests.folders import write


def messages(error: pytest.ExceptionInfo[BadInput]) -> list[str]:
    return [f"{Path(problem.file or '').name}: {problem.message}" for problem in error.value.problems]


def test_a_folder_is_read_without_what_is_never_part_of_a_bundle(tmp_path: Path) -> None:
    write(tmp_path, {"serve.py": b"one", "sub/model.py": b"two", "sub/__pycache__/model.pyc": b"x", ".git/HEAD": b"x"})
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "python").symlink_to(sys.executable)
    (tmp_path / "empty").mkdir()
    found = read_local({"code": tmp_path, "lock.txt": tmp_path / "serve.py"})
    assert [file.entry for file in found] == [
        FileEntry("code/serve.py", 3, hashlib.sha256(b"one").hexdigest()),
        FileEntry("code/sub/model.py", 3, hashlib.sha256(b"two").hexdigest()),
        FileEntry("lock.txt", 3, hashlib.sha256(b"one").hexdigest()),
    ]
    assert found[1].source == tmp_path / "sub" / "model.py"


def test_everything_that_cannot_be_sent_is_refused_at_once(tmp_path: Path) -> None:
    write(tmp_path, {"fine.py": b"", "question?.py": b"", "aux": b"", "dot.": b"", "colon:": b""})
    write(tmp_path, {"Model/config.json": b"", "model/weights.bin": b""})
    (tmp_path / "link").symlink_to("fine.py")
    (tmp_path / "broken").symlink_to("nowhere")
    (tmp_path / "folder-link").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    Path(os.fsdecode(bytes(tmp_path) + b"/latin-\xe9")).write_bytes(b"")
    with pytest.raises(BadInput) as caught:
        read_local({"": tmp_path})
    assert sorted(messages(caught)) == [
        "aux: the name is reserved for a device",
        "broken: is a symbolic link, which a release cannot carry",
        "colon:: the name has a character that Azure Files cannot hold",
        "dot.: the name ends with a dot or a space, which Azure Files drops",
        "folder-link: is a symbolic link, which a release cannot carry",
        "latin-\\udce9: the name is not valid Unicode",
        "link: is a symbolic link, which a release cannot carry",
        "model: differs only in case from Model, and Azure Files does not tell them apart",
        "pipe: is neither a file nor a folder",
        "question?.py: the name has a character that Azure Files cannot hold",
    ]
    str(caught.value).encode()


@contextlib.contextmanager
def ordinary_user() -> Iterator[Path]:
    """A folder, and within the block no more rights than an ordinary user has, also when root runs the tests."""
    folder = Path(tempfile.mkdtemp())
    try:
        if os.geteuid() != 0:
            yield folder
            return
        folder.chmod(0o777)
        os.seteuid(65534)
        try:
            yield folder
        finally:
            os.seteuid(0)
    finally:
        shutil.rmtree(folder)


def test_unreadable_files_are_refused_by_name() -> None:
    with ordinary_user() as folder:
        write(folder, {"secret": b"x", "closed/inside": b"x"})
        (folder / "secret").chmod(0)
        (folder / "closed").chmod(0)
        with pytest.raises(BadInput) as caught:
            read_local({"": folder})
        (folder / "closed").chmod(0o700)
    assert messages(caught) == [
        "closed: cannot be read: permission denied",
        "secret: cannot be read: permission denied",
    ]


def test_a_missing_source_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput) as caught:
        read_local({"a": tmp_path / "nowhere", "b": tmp_path / "also-nowhere"})
    assert messages(caught) == [
        "nowhere: there is no such file or folder",
        "also-nowhere: there is no such file or folder",
    ]


def test_two_files_that_differ_in_case_are_told_once_each(tmp_path: Path) -> None:
    write(tmp_path, {"Lib/A.py": b"", "lib/a.py": b"", "x.py": b"", "X.py": b"", "lib/b.py": b""})
    with pytest.raises(BadInput) as caught:
        read_local({"": tmp_path})
    assert sorted(problem.value or "" for problem in caught.value.problems) == ["lib", "x.py"]


# --- what is left out


def paths(folder: Path) -> list[str]:
    return [file.entry.path for file in read_local({"": folder})]


def test_caches_environments_and_secrets_stay_here(tmp_path: Path) -> None:
    left_out = [".env", ".git", "venv/bin/python", ".mypy_cache/x", ".cache/huggingface/x", "a/.ipynb_checkpoints/b"]
    left_out += ["a.pyc", "deep/a.pyo", ".DS_Store", "deep/.serve.py.swp", "serve.py~", ".deployignore"]
    write(tmp_path, {**dict.fromkeys(left_out, b""), "serve.py": b"", "environment": b"", "deep/venv.py": b""})
    assert paths(tmp_path) == ["deep/venv.py", "environment", "serve.py"]


def test_the_defaults_mean_the_same_with_a_deployignore_and_without(tmp_path: Path) -> None:
    """With one, they are read by the library for such files."""
    names = {
        f"{before}{pattern.replace('*', star).replace('[cod]', letter)}{after}"
        for pattern in DEFAULT_IGNORE
        for star in ("", "a", ".a")
        for letter in "cx"
        for before in ("", "b")
        for after in ("", "c")
    } - {IGNORE_FILE}
    without, with_one = tmp_path / "without", tmp_path / "with"
    for folder in (without, with_one):
        write(folder, {f"{name}-folder/{name}": b"" for name in names} | {f"{name}/file": b"" for name in names})
    write(with_one, {IGNORE_FILE: b"# nothing\n"})
    assert paths(without) == paths(with_one)
    assert 0 < len(paths(without)) < 2 * len(names)


def test_a_deployignore_is_read_as_git_reads_a_gitignore(tmp_path: Path) -> None:
    rules = b"# tests stay here\n/tests/\n*.bin\n!keep.bin\n\n!.env\ndocs/**/draft\n"
    kept = ["keep.bin", "deep/keep.bin", ".env", "deep/tests/a", "docs/a"]
    write(tmp_path, dict.fromkeys([*kept, "tests/a", "a.bin", "deep/a.bin", "docs/x/y/draft"], b""))
    write(tmp_path, {".deployignore": rules})
    assert paths(tmp_path) == sorted(kept)


def test_what_is_left_out_is_not_looked_at(tmp_path: Path) -> None:
    write(
        tmp_path, {".deployignore": b"private\nlink\nquestion?.md\n", "private/a": b"", "question?.md": b"", "a": b""}
    )
    (tmp_path / "link").symlink_to("nowhere")
    assert paths(tmp_path) == ["a"]


def test_a_deployignore_that_makes_no_sense_is_refused_by_line(tmp_path: Path) -> None:
    write(tmp_path / "one", {".deployignore": b"fine\n!\n/\n!\n", "a?": b""})
    write(tmp_path / "two", {".deployignore": b"\xff\xfe", "b": b""})
    with pytest.raises(BadInput) as caught:
        read_local({"one": tmp_path / "one", "two": tmp_path / "two"})
    told = [(problem.where, problem.message) for problem in caught.value.problems]
    assert told == [
        ("line 2", "is not a pattern"),
        ("line 4", "is not a pattern"),
        ("", "the name has a character that Azure Files cannot hold"),
        ("", "is not UTF-8 text"),
    ]


def test_the_code_of_this_repository_goes_without_what_a_replica_does_not_run() -> None:
    root = Path(__file__).parent.parent
    sent = [file.entry.path for file in read_local({"": root / "inference"})]
    assert "serve.py" in sent
    assert not [path for path in sent if "__pycache__" in path or path in ("Dockerfile", ".deployignore")]

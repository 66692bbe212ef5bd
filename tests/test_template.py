"""The template: which JSON is used, when Bicep is asked, and what a person reads when neither will do."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from scripts import template
from scripts.errors import BadInput

ROOT = Path(__file__).parent.parent

DOCUMENT: dict[str, Any] = {
    "parameters": {
        "apiKey": {"type": "securestring", "minLength": 16},
        "count": {
            "type": "int",
            "defaultValue": 1,
            "minValue": 1,
            "maxValue": 9,
            "metadata": {"description": "How many."},
        },
        "size": {"$ref": "#/definitions/size", "nullable": True},
    },
    "definitions": {"size": {"type": "string", "allowedValues": ["small", "large"]}},
    "resources": [],
}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / template.FOLDER
    folder.mkdir(parents=True)
    (folder / "inference.bicep").write_text("param count int = 1\n")
    (folder / "inference.json").write_text(json.dumps(DOCUMENT))
    (folder / "inference.sha256").write_text(
        "".join(
            f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n"
            for name in ("inference.bicep", "inference.json")
        )
    )
    return tmp_path


def put_compiler_on_path(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """A program called bicep, alone on PATH but for the system's own."""
    folder.mkdir()
    (folder / "bicep").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "bicep").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def without_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")


def test_the_json_is_used_when_it_was_made_from_the_bicep_file(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_compiler(monkeypatch)
    loaded = template.load(repository)
    assert loaded.document["resources"] == []


def test_a_checkout_with_other_line_ends_is_the_same_file(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_compiler(monkeypatch)
    (repository / template.BICEP).write_bytes(b"param count int = 1\r\n")
    assert template.load(repository).document["resources"] == []


@pytest.mark.parametrize("changed", [template.BICEP, template.COMPILED])
def test_a_changed_file_without_a_compiler_is_bad_input_with_the_command_to_run(
    repository: Path, monkeypatch: pytest.MonkeyPatch, changed: Path
) -> None:
    without_compiler(monkeypatch)
    (repository / changed).write_text((repository / changed).read_text() + "\n")
    with pytest.raises(BadInput) as caught:
        template.load(repository)
    (problem,) = caught.value.problems
    assert problem.file == str(template.COMPILED)
    assert template.WRITE_COMMAND in problem.next_step


def test_a_stale_json_is_compiled_afresh(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_compiler_on_path(tmp_path / "bin", monkeypatch, """echo '{"resources": [1], "arguments": "'"$*"'"}'""")
    (repository / template.BICEP).write_text("param count int = 2\n")
    loaded = template.load(repository)
    assert loaded.document["resources"] == [1]
    assert loaded.document["arguments"] == f"build {template.BICEP} --stdout"


def test_bicep_errors_come_with_file_and_line_and_warnings_do_not(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [
        f"{repository}/infra/provision/inference.bicep(3,7) : Error BCP057: The name 'x' does not exist.",
        f"{repository}/infra/provision/inference.bicep(5,1) : Warning no-unused-params: Parameter is unused.",
        f"{repository}/infra/provision/inference.bicep(9,2) : Error BCP018: Expected the '}}' character.",
    ]
    put_compiler_on_path(tmp_path / "bin", monkeypatch, "\n".join(f'echo "{line}" >&2' for line in lines) + "\nexit 1")
    with pytest.raises(BadInput) as caught:
        template.compile_bicep(repository)
    assert [(problem.file, problem.where) for problem in caught.value.problems] == [
        ("infra/provision/inference.bicep", "line 3, column 7"),
        ("infra/provision/inference.bicep", "line 9, column 2"),
    ]
    assert "BCP057: The name 'x' does not exist" in str(caught.value)


def test_write_records_what_it_compiled(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_compiler_on_path(tmp_path / "bin", monkeypatch, """echo '{"resources": [2]}'""")
    (repository / template.BICEP).write_text("param count int = 2\n")
    assert template.write(repository)
    assert not template.write(repository)
    without_compiler(monkeypatch)
    loaded = template.load(repository)
    assert loaded.document["resources"] == [2]


def test_a_missing_template_and_a_broken_json_are_named(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_compiler(monkeypatch)
    broken = b'{"resources": [\n'
    (repository / template.COMPILED).write_bytes(broken)
    hashes = (repository / template.HASHES).read_text().splitlines()
    (repository / template.HASHES).write_text(f"{hashes[0]}\n{hashlib.sha256(broken).hexdigest()}  inference.json\n")
    with pytest.raises(BadInput, match=r"inference\.json: line 2, column 1: it is not JSON"):
        template.load(repository)
    (repository / template.BICEP).unlink()
    with pytest.raises(BadInput, match=r"inference\.bicep: the template is missing"):
        template.load(repository)


def test_what_the_template_says_of_its_parameters(repository: Path) -> None:
    parameters = template.load(repository).parameters
    assert list(parameters) == ["apiKey", "count", "size"]
    assert (parameters["apiKey"].type, parameters["apiKey"].secure, parameters["apiKey"].required) == (
        "string",
        True,
        True,
    )
    assert (parameters["count"].minimum, parameters["count"].maximum) == (1, 9)
    assert (parameters["count"].required, parameters["count"].description) == (False, "How many.")
    assert (parameters["size"].type, parameters["size"].allowed) == ("string", ("small", "large"))
    assert not parameters["size"].required


def test_the_checked_in_template_is_the_compiled_bicep_file(monkeypatch: pytest.MonkeyPatch) -> None:
    without_compiler(monkeypatch)
    assert template.load(ROOT).document["resources"]


@pytest.mark.skipif(shutil.which("bicep") is None, reason="there is no bicep on PATH")
def test_the_compiler_on_path_gives_the_checked_in_json() -> None:
    compiled = json.loads(template.compile_bicep(ROOT))
    checked_in = json.loads((ROOT / template.COMPILED).read_text(encoding="utf-8"))
    for document in (compiled, checked_in):
        metadata = document.get("metadata", {})
        # Names the compiler and its version, which may differ.
        metadata.pop("_generator", None)
        if not metadata:
            document.pop("metadata", None)
    assert json.dumps(compiled) == json.dumps(checked_in)

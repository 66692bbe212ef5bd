"""The template: Bicep -> ARM JSON, and the parameters that it declares.

The JSON beside the Bicep file is used when it was made from that file: the two hashes in inference.sha256 say so, in
the form that `sha256sum --check` reads. Otherwise a `bicep` on PATH compiles afresh. Knows no environment, no parameter
values and no network.

`make template` runs this module, which compiles and writes the JSON and its hashes.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from scripts import errors

FOLDER = Path("infra/provision")
BICEP = FOLDER / "inference.bicep"
COMPILED = FOLDER / "inference.json"
HASHES = FOLDER / "inference.sha256"

WRITE_COMMAND = "make template"
COMPILE_TIMEOUT_SECONDS = 120

# The form of every Bicep diagnostic: PATH(LINE,COLUMN) : LEVEL CODE: MESSAGE
DIAGNOSTIC = re.compile(
    r"^(?P<file>.+)\((?P<line>\d+),(?P<column>\d+)\) : (?P<level>\w+) (?P<code>[\w-]+): (?P<message>.*)$"
)


@dataclass(frozen=True)
class Parameter:
    """What the template says of one of its parameters; bounds count characters, items, or are the value itself."""

    name: str
    type: str
    """string, int, bool, array or object; empty when the template leaves the type open."""
    secure: bool
    required: bool
    """True when the template has neither a default nor takes null."""
    allowed: tuple[Any, ...]
    minimum: int | None
    maximum: int | None
    description: str


@dataclass(frozen=True)
class Template:
    document: Mapping[str, Any]
    parameters: Mapping[str, Parameter]


def load(root: Path) -> Template:
    """The template of the repository at root.

    Raises errors.BadInput when a file is missing or broken, when Bicep does not compile, or when the JSON is stale and
    there is no `bicep` on PATH.
    """
    if not (root / BICEP).is_file():
        raise errors.BadInput(
            [errors.Problem(str(BICEP), "", None, "the template is missing", f"Restore it: git checkout -- {BICEP}")]
        )
    if _belongs_together(root):
        return _parse((root / COMPILED).read_text(encoding="utf-8"))
    if shutil.which("bicep") is None:
        raise errors.BadInput(
            [
                errors.Problem(
                    str(COMPILED),
                    "",
                    None,
                    f"it was not made from {BICEP} as that stands now, and there is no `bicep` on PATH to compile it",
                    f"Install Bicep and run: {WRITE_COMMAND} (or take both files from one commit)",
                )
            ]
        )
    return _parse(compile_bicep(root))


def compile_bicep(root: Path) -> str:
    """The ARM JSON, as text, that the `bicep` on PATH makes of the template.

    Raises errors.BadInput with the compiler's own errors, each at its file and line; errors.InferopsError when the
    compiler is not there or cannot be run.
    """
    compiler = shutil.which("bicep")
    if compiler is None:
        raise errors.InferopsError(
            "There is no `bicep` on PATH.",
            "Install it (https://learn.microsoft.com/azure/azure-resource-manager/bicep/install) and try again.",
        )
    command = [compiler, "build", str(BICEP), "--stdout"]
    try:
        # A list and no shell: nothing of the command comes from outside the repository.
        done = subprocess.run(
            command,
            cwd=root,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=COMPILE_TIMEOUT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise errors.InferopsError(
            f"The Bicep compiler {compiler} could not be run: {error}", "Check it with: bicep --version"
        ) from error
    if done.returncode == 0:
        return done.stdout
    problems = _compile_problems(done.stderr, root)
    if problems:
        raise errors.BadInput(problems)
    raise errors.InferopsError(
        f"The Bicep compiler {compiler} failed with exit code {done.returncode} without naming an error.",
        f"Run it by hand: bicep build {BICEP} --stdout",
        details=done.stderr.splitlines()[-10:],
    )


def write(root: Path) -> bool:
    """Compile, and write the JSON and its hashes; True when one of the two files changed."""
    compiled = compile_bicep(root)
    _parse(compiled)
    before = [_text_or_none(root / COMPILED), _text_or_none(root / HASHES)]
    (root / COMPILED).write_text(compiled, encoding="utf-8", newline="\n")
    (root / HASHES).write_text(_hashes(root), encoding="utf-8", newline="\n")
    return before != [compiled, _hashes(root)]


def _belongs_together(root: Path) -> bool:
    return (root / COMPILED).is_file() and _text_or_none(root / HASHES) == _hashes(root)


def _hashes(root: Path) -> str:
    return "".join(f"{_hash(root / path)}  {path.name}\n" for path in (BICEP, COMPILED))


def _hash(path: Path) -> str:
    # Git may have checked the text out with CRLF; the same commit must give the same hash.
    return hashlib.sha256(path.read_bytes().replace(b"\r\n", b"\n")).hexdigest()


def _text_or_none(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _compile_problems(stderr: str, root: Path) -> list[errors.Problem]:
    problems = []
    for line in stderr.splitlines():
        match = DIAGNOSTIC.match(line)
        if match is None or match["level"] != "Error":
            continue
        file = Path(match["file"])
        shown = file.relative_to(root) if file.is_absolute() and file.is_relative_to(root) else file
        problems.append(
            errors.Problem(
                str(shown),
                f"line {match['line']}, column {match['column']}",
                None,
                f"{match['code']}: {match['message'].rstrip('.')}",
                "Correct the template",
            )
        )
    return problems


def _parse(text: str) -> Template:
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise errors.BadInput(
            [
                errors.Problem(
                    str(COMPILED),
                    f"line {error.lineno}, column {error.colno}",
                    None,
                    f"it is not JSON: {error.msg}",
                    f"Make it again: {WRITE_COMMAND}",
                )
            ]
        ) from None
    definitions = document.get("definitions", {})
    parameters = {
        name: _parameter(name, body, definitions) for name, body in sorted(document.get("parameters", {}).items())
    }
    return Template(MappingProxyType(document), MappingProxyType(parameters))


def _parameter(name: str, body: dict[str, Any], definitions: dict[str, Any]) -> Parameter:
    merged = dict(body)
    while "$ref" in merged:
        reference = str(merged.pop("$ref"))
        merged = {**definitions[reference.removeprefix("#/definitions/")], **merged}
    declared = str(merged.get("type", "")).lower()
    return Parameter(
        name=name,
        type=declared.removeprefix("secure"),
        secure=declared.startswith("secure"),
        required="defaultValue" not in merged and not merged.get("nullable", False),
        allowed=tuple(merged.get("allowedValues", ())),
        minimum=merged.get("minLength", merged.get("minValue")),
        maximum=merged.get("maxLength", merged.get("maxValue")),
        description=str(merged.get("metadata", {}).get("description", "")),
    )


def _main() -> int:
    root = Path(__file__).resolve().parent.parent
    try:
        changed = write(root)
    except errors.InferopsError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    sys.stderr.write(f"{COMPILED} {'was rewritten' if changed else 'was up to date'}.\n")
    return 0


if __name__ == "__main__":
    sys.exit(_main())

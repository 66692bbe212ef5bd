"""Outputs -> infra/inference.config.json, deployment.json beside it, the job's outputs and its summary.

The only writer of these files, and the reader of an inference.config.json that a person wrote. Asks nothing of Azure.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts import report
from scripts.deployment import Outputs
from scripts.errors import BadInput, InferopsError, Problem
from scripts.github import Job
from scripts.proof import Proof
from scripts.release import Release

CONFIG_FILE = "inference.config.json"
RECORD_FILE = "deployment.json"

KEYS = {
    "SUBSCRIPTION_ID": "subscription_id",
    "RESOURCE_GROUP_NAME": "resource_group_name",
    "STORAGE_ACCOUNT_NAME": "storage_account_name",
    "FILE_SHARE_NAME": "file_share_name",
    "ACA_APP_NAME": "aca_app_name",
    "ACA_APP_ENDPOINT": "aca_app_endpoint",
}
"""The six keys of inference.config.json, as the AI Toolkit writes them, and the field of Outputs that each one is."""

# What Azure takes as a name (Azure: naming rules and restrictions for Azure resources).
_FORMS = {
    "SUBSCRIPTION_ID": (r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", "a subscription's id (a GUID)"),
    "RESOURCE_GROUP_NAME": (r"[\w().-]{0,89}[\w()-]", "a resource group's name"),
    "STORAGE_ACCOUNT_NAME": (r"[a-z0-9]{3,24}", "a storage account's name (3 to 24 lower-case letters and digits)"),
    "FILE_SHARE_NAME": (r"(?=.{3,63}$)[a-z0-9]+(-[a-z0-9]+)*", "a file share's name"),
    "ACA_APP_NAME": (r"(?=.{2,32}$)[a-z]([a-z0-9]|-(?!-))*[a-z0-9]", "a container app's name"),
    "ACA_APP_ENDPOINT": (r"https://[^\s/?#@]+/?", "the app's address (https://...)"),
}


@dataclass(frozen=True)
class Record:
    """What a machine may want to know of a deploy beyond the six keys; None or empty where there is nothing to tell."""

    environment: str
    release: Release
    timings_seconds: Mapping[str, float]
    proof: Proof | None
    run_url: str | None

    def to_json(self) -> dict[str, Any]:
        """deployment.json as a value."""
        return {
            "environment": self.environment,
            "release": self.release.id,
            "commit": self.release.commit,
            "time": self.release.time,
            "base": self.release.base,
            "adapters": dict(self.release.adapters),
            "timings_seconds": {phase: round(seconds, 3) for phase, seconds in self.timings_seconds.items()},
            "proof": None if self.proof is None else self.proof.to_json(),
            "run_url": self.run_url,
        }


def config_of(outputs: Outputs) -> dict[str, str]:
    """inference.config.json as a value."""
    return {key: str(getattr(outputs, field)) for key, field in KEYS.items()}


def write(folder: Path, outputs: Outputs, record: Record, job: Job) -> tuple[Path, Path]:
    """Write both files into the folder, each whole or not at all, then the job's outputs and summary.

    The record is written first: who sees the configuration finds the record that belongs to it. Raises InferopsError
    when the folder cannot be written.
    """
    config = config_of(outputs)
    record_path, config_path = folder / RECORD_FILE, folder / CONFIG_FILE
    _write_json(record_path, record.to_json())
    _write_json(config_path, config)
    job.set_outputs({**config, "RELEASE": record.release.id})
    job.add_summary(summary(outputs, record))
    return config_path, record_path


def summary(outputs: Outputs, record: Record) -> str:
    """What was published, in Markdown."""
    rows = {
        "Endpoint": outputs.aca_app_endpoint,
        "Release": record.release.id,
        "Commit": record.release.commit or "not known",
        "Base model": record.release.base,
        "Adapters": ", ".join(f"{name} ({folder})" for name, folder in record.release.adapters.items()) or "none",
        "Seconds": ", ".join(f"{phase} {seconds:.1f}" for phase, seconds in record.timings_seconds.items()) or "none",
    }
    lines = [f"### {record.environment} serves release {record.release.id}", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {report.cell(value)} |" for name, value in rows.items()]
    if record.proof is not None:
        lines += ["", report.proof_markdown(record.proof).rstrip("\n")]
    return "\n".join(lines) + "\n"


def read_config(path: Path) -> Outputs:
    """Read an inference.config.json, written by a person or by this module.

    Raises BadInput with every problem at once: no such file, no JSON, a key that is missing, unknown or given twice, a
    value that is no text, still a placeholder, or not of its key's form.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        advice = f"Name a file with the keys {', '.join(KEYS)}."
        raise BadInput([Problem(str(path), "", None, "there is no such file", advice)]) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise BadInput([Problem(str(path), "", None, f"cannot be read: {reason}", "Make it readable.")]) from None
    try:
        pairs = json.loads(text, object_pairs_hook=_Pairs)
    except ValueError as error:
        where = f"line {error.lineno}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        reason = error.msg.lower() if isinstance(error, json.JSONDecodeError) else str(error)
        raise BadInput([Problem(str(path), where, None, f"is not JSON: {reason}", "Correct it there.")]) from None
    if not isinstance(pairs, _Pairs):
        advice = f"Write one object with the keys {', '.join(KEYS)}."
        raise BadInput([Problem(str(path), "", None, "is not a JSON object", advice)])
    problems = list(_problems(str(path), pairs))
    if problems:
        raise BadInput(problems)
    values = dict(pairs)
    return Outputs(**{field: values[key].rstrip("/") for key, field in KEYS.items()})


class _Pairs(list[tuple[str, Any]]):
    """An object's keys and values as they stand in the file, so that a key given twice can be told."""


def _problems(file: str, pairs: _Pairs) -> Iterator[Problem]:
    names = [name for name, _ in pairs]
    for name in dict.fromkeys(names):
        if name not in KEYS:
            meant = next((key for key in KEYS if key.casefold() == name.casefold().replace("-", "_")), None)
            advice = f"Write it {meant}." if meant else f"Remove it; the keys are {', '.join(KEYS)}."
            yield Problem(file, name, None, "is not a key of this file", advice)
        if names.count(name) > 1:
            yield Problem(file, name, None, "is given more than once", "Keep one of them.")
    for key in KEYS:
        if key not in names:
            yield Problem(file, key, None, "is missing", f"Add {_FORMS[key][1]}.")
    for name, value in pairs:
        if name not in KEYS:
            continue
        form, meaning = _FORMS[name]
        if not isinstance(value, str):
            shown = json.dumps(value if not isinstance(value, _Pairs) else dict(value))
            yield Problem(file, name, shown, "is not text", f"Write {meaning} in quotes.")
        elif re.fullmatch(r"<.*>", value):
            yield Problem(file, name, repr(value), "is still a placeholder", f"Write {meaning}.")
        elif not re.fullmatch(form, value):
            yield Problem(file, name, repr(value), f"is not {meaning}", "Copy it from the deployment's outputs.")


def _write_json(path: Path, value: object) -> None:
    """Replace a file in one step: a reader sees the old content or the new, also when the machine stops half-way."""
    content = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        # mkstemp makes it the owner's alone; what it holds is no secret, and other tools of the job read it.
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise InferopsError(
            f"{path} could not be written: {error.strerror}.",
            "Make the folder writable and run `inferops publish` again; the deploy itself is done.",
        ) from None

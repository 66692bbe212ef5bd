"""Plan, SyncPlan, Proof -> text for a terminal, Markdown for a summary, JSON values for a machine.

Pure: gets values and gives text; prints nothing, asks nothing. Secrets do not reach it: a Plan hides them.
"""

from __future__ import annotations

import json
import re
from typing import Any

from scripts.plan import Change, Delta, Kind, Plan
from scripts.proof import Proof
from scripts.share import FileEntry, SyncPlan

LONGEST_VALUE = 200
"""Characters of a value that are shown; the JSON form has all of them."""

SIGNS = {Kind.CREATE: "+", Kind.MODIFY: "~", Kind.DELETE: "-", Kind.DEPLOY: "*", Kind.UNSUPPORTED: "?"}
WORDS = {
    Kind.CREATE: "to create",
    Kind.MODIFY: "to modify",
    Kind.DELETE: "to delete",
    Kind.DEPLOY: "to deploy",
    Kind.UNSUPPORTED: "that Azure cannot preview",
}


def plan_text(plan: Plan) -> str:
    """What would change, one line per resource and per property, and the counts last."""
    lines = [line for change in plan.changes for line in _change_lines(change)]
    return "\n".join([*lines, *([""] if lines else []), *plan.diagnostics, _plan_counts(plan)])


def plan_markdown(plan: Plan) -> str:
    """The same for a pull request: the counts first, the lines as a diff, which GitHub colours."""
    parts = [_plan_counts(plan)]
    # In a diff block GitHub colours lines by + - and !.
    lines = [re.sub(r"^(\s*)~", r"\1!", line) for change in plan.changes for line in _change_lines(change)]
    if lines:
        parts.append(_fenced("\n".join(_unindented(line) for line in lines), "diff"))
    parts += [f"> {line}" for line in plan.diagnostics]
    if plan.noise:
        noise = "\n".join(f"{_short_id(item.resource)}  {item.path}: {item.reason}" for item in plan.noise)
        parts.append(
            f"<details><summary>{_differences(len(plan.noise))}</summary>\n\n{_fenced(noise, '')}\n\n</details>"
        )
    return "\n\n".join(parts) + "\n"


def plan_json(plan: Plan) -> dict[str, Any]:
    return {
        "changes": [
            {
                "kind": change.kind.value,
                "type": change.resource_type,
                "name": change.name,
                "id": change.resource_id,
                "properties": [
                    {"path": delta.path, "kind": delta.kind.value, "before": delta.before, "after": delta.after}
                    for delta in change.deltas
                ],
                **({"reason": change.reason} if change.reason else {}),
            }
            for change in plan.changes
        ],
        "unchanged": plan.unchanged,
        "untouched": plan.untouched,
        "noise": [vars(item) for item in plan.noise],
        "diagnostics": list(plan.diagnostics),
    }


def sync_text(sync: SyncPlan) -> str:
    """Which files would be sent and removed, and the counts last."""
    lines = [f"{sign} {entry.path} ({size(entry.bytes)})" for sign, entry in _signed_entries(sync)]
    return "\n".join([*lines, _sync_counts(sync)])


def sync_markdown(sync: SyncPlan) -> str:
    lines = [f"{sign} {entry.path} ({size(entry.bytes)})" for sign, entry in _signed_entries(sync)]
    parts = [_sync_counts(sync)]
    if lines:
        parts.append(_fenced("\n".join(line.replace("~", "!", 1) for line in lines), "diff"))
    return "\n\n".join(parts) + "\n"


def sync_json(sync: SyncPlan) -> dict[str, Any]:
    return {
        "folder": sync.folder,
        **{
            name: [vars(entry) for entry in getattr(sync, name)]
            for name in ("added", "changed", "removed", "unchanged")
        },
        "bytes_to_send": sync.bytes_to_send,
    }


def proof_markdown(proof: Proof) -> str:
    """The outcome, and a row for each check."""
    rows = [
        f"| {'✅' if check.passed else '❌'} | {cell(check.name)} | {cell(check.detail)} | {check.seconds:.1f} |"
        for check in proof.checks
    ]
    return "\n".join([_proof_outcome(proof), "", "| | Check | Found | Seconds |", "|-|-|-|-:|", *rows]) + "\n"


def size(count: int) -> str:
    """A number of bytes for a person: 999 B, 1.5 kB, 3.2 GB (powers of 1000)."""
    if count < 1000:
        return f"{count} B"
    value = float(count)
    for unit in ("kB", "MB", "GB"):
        value /= 1000
        if value < 999.95:
            return f"{value:.1f} {unit}"
    return f"{value / 1000:.1f} TB"


def _change_lines(change: Change) -> list[str]:
    reason = f": {' '.join(change.reason.split())}" if change.reason else ""
    head = f"{SIGNS[change.kind]} {change.resource_type} {change.name}{reason}"
    return [head, *(f"    {_delta_line(delta)}" for delta in change.deltas)]


def _delta_line(delta: Delta) -> str:
    before, after = _value(delta.before), _value(delta.after)
    if delta.kind is Kind.CREATE:
        return f"+ {delta.path}: {after}"
    if delta.kind is Kind.DELETE:
        return f"- {delta.path}: {before}"
    return f"~ {delta.path}: {before} -> {after}"


def _value(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}... ({len(text)} characters)"


def _plan_counts(plan: Plan) -> str:
    counted = {kind: sum(change.kind is kind for change in plan.changes) for kind in WORDS}
    changes = ", ".join(f"{count} {WORDS[kind]}" for kind, count in counted.items() if count)
    sentence = f"{changes}, " if changes else "No changes: "
    noise = f" Left out: {_differences(len(plan.noise))}." if plan.noise else ""
    untouched = f", {plan.untouched} not of this template" if plan.untouched else ""
    return f"{sentence}{plan.unchanged} as the template asks{untouched}.{noise}"


def _sync_counts(sync: SyncPlan) -> str:
    if sync.is_empty:
        return f"No changes: {_counted(len(sync.unchanged), 'file')} on the share as here."
    return (
        f"{len(sync.added)} added, {len(sync.changed)} changed, {len(sync.removed)} removed, "
        f"{len(sync.unchanged)} unchanged; {size(sync.bytes_to_send)} to send."
    )


def _signed_entries(sync: SyncPlan) -> list[tuple[str, FileEntry]]:
    signed = [("+", sync.added), ("~", sync.changed), ("-", sync.removed)]
    return [(sign, entry) for sign, entries in signed for entry in entries]


def _proof_outcome(proof: Proof) -> str:
    failed = sum(not check.passed for check in proof.checks)
    if failed:
        return f"The proof failed: {failed} of {_counted(len(proof.checks), 'check')}."
    return f"The proof passed: {_counted(len(proof.checks), 'check')}."


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _differences(count: int) -> str:
    return f"{_counted(count, 'difference')} that {'is' if count == 1 else 'are'} noise"


def _unindented(line: str) -> str:
    """A property's sign moved to the first column, where GitHub looks for it."""
    match = re.match(r"^(\s+)([-+!]) (.*)$", line, re.S)
    return f"{match[2]}{match[1]}{match[3]}" if match else line


def _fenced(text: str, language: str) -> str:
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def cell(text: str) -> str:
    """Text for a table cell: no markup, no line end, no column end."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
    return re.sub(r"([`*_\[\]])", r"\\\1", " ".join(escaped.split()))


def _short_id(identifier: str) -> str:
    return identifier.rpartition("/providers/")[2] or identifier

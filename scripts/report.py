"""What the verbs give (Plan, Difference, History, Garbage, Proof) -> text, Markdown for a summary, JSON values.

Pure: gets values and gives text; prints nothing, asks nothing. Secrets do not reach it: a Plan hides them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from scripts.bundle import FileEntry
from scripts.comparison import Comparison
from scripts.diff import Difference, Part
from scripts.endpoint import Answer
from scripts.garbage import Garbage
from scripts.history import Entry, History
from scripts.plan import Change, Delta, Kind, Plan
from scripts.progress import Progress
from scripts.proof import Proof
from scripts.share import SyncPlan

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


def sync_json(sync: SyncPlan, bytes_to_send: int) -> dict[str, Any]:
    return {
        "folder": sync.folder,
        **{
            name: [vars(entry) for entry in getattr(sync, name)]
            for name in ("added", "changed", "removed", "unchanged")
        },
        "copied": {copy.entry.path: copy.source for copy in sync.copied},
        "bytes_to_send": bytes_to_send,
    }


def difference_text(difference: Difference) -> str:
    """What a deploy of this checkout changes: the counts, then a line for each file, with its text if it is short."""
    lines = [difference_counts(difference)]
    for part in difference.parts:
        lines += ["", _part_head(part)]
        if part.plan is None:
            continue
        for sign, entry in _signed_entries(part.plan):
            lines.append(f"{sign} {entry.path} ({size(entry.bytes)})")
            lines += [f"    {line}" for line in difference.texts.get(f"{part.plan.folder}/{entry.path}", ())]
    return "\n".join(lines)


def difference_markdown(difference: Difference) -> str:
    """The same for a job's summary, as a diff, which GitHub colours."""
    counts, _, rest = difference_text(difference).partition("\n")
    lines = [re.sub("^~ ", "! ", line.removeprefix("    ")) for line in rest.strip("\n").splitlines()]
    return "\n\n".join([counts, _fenced("\n".join(lines), "diff")] if lines else [counts]) + "\n"


def difference_json(difference: Difference) -> dict[str, Any]:
    return {
        "release": difference.release.id,
        "current": difference.current,
        "changed": not difference.is_empty,
        "bytes_to_send": difference.bytes_to_send,
        "parts": [
            {
                "name": part.name,
                "before": part.before,
                "after": part.after,
                "is_there": part.is_there,
                "files": None if part.plan is None else sync_json(part.plan, part.bytes_to_send),
            }
            for part in difference.parts
        ],
        "texts": {path: list(lines) for path, lines in difference.texts.items()},
    }


def difference_counts(difference: Difference) -> str:
    """One line: the release, and how much it changes."""
    release = difference.release.id
    if difference.is_empty:
        return f"No changes: release {release} is current."
    against = f"against {difference.current}" if difference.current else "the first one"
    sends = [part for part in difference.parts if part.plan is not None and not part.is_there]
    sent = _sync_counts(sends) if sends else "everything is on the share already"
    return f"Release {release} ({against}): {sent}."


def history_text(past: History, limit: int) -> str:
    """A line for each run, newest first, `*` at the one that put the release in use into use; then older releases."""
    current = past.current.release if past.current else None
    rows = [("", "RELEASE", "WHEN", "VERB", "BY", "COMMIT", "OUTCOME", "ADAPTERS", "DETAIL")]
    in_use = _run_in_use(past)
    for run in reversed(past.runs[-limit:]):
        release = run.release or ""
        if run.release is not None and run.release not in past.on_share:
            release += " (not on the share)"
        outcome = run.outcome or "under way, or cut off"
        adapters = ", ".join(run.adapters)
        commit = _short_commit(run.commit) if run.release else ""
        mark = "*" if run is in_use else ""
        detail = " ".join(run.detail.split())
        rows.append((mark, release, run.begun, run.verb, run.who.name, commit, outcome, adapters, detail))
    for old in past.unrecorded:
        mark = "*" if old.id == current else ""
        adapters = ", ".join(old.adapters)
        rows.append((mark, old.id, old.time, "", "", _short_commit(old.commit), "not recorded", adapters, ""))
    if len(rows) == 1:
        return "The share has no release yet."
    return _table(rows)


def history_json(past: History) -> dict[str, Any]:
    """Every run, newest first."""
    return {
        "current": None if past.current is None else vars(past.current),
        "runs": [run.to_json() | {"on_share": run.release in past.on_share} for run in reversed(past.runs)],
        "unrecorded": [
            {"release": old.id, "commit": old.commit, "time": old.time, "adapters": dict(old.adapters)}
            for old in past.unrecorded
        ],
    }


def garbage_text(found: Garbage) -> str:
    """A line for each folder that goes, and the counts last."""
    lines = [f"- {item.folder} ({_counted(len(item.files), 'file')}, {size(item.bytes)})" for item in found.items]
    kept = f"Kept: {', '.join(found.kept) or 'no release'}."
    counts = garbage_counts(found) if found.items else "Nothing to remove"
    return "\n".join([*lines, f"{counts}. {kept}"])


def garbage_json(found: Garbage) -> dict[str, Any]:
    return {
        "items": [
            {"kind": item.kind, "folder": item.folder, "files": len(item.files), "bytes": item.bytes}
            for item in found.items
        ],
        "bytes": found.bytes,
        "kept": list(found.kept),
    }


def garbage_counts(found: Garbage) -> str:
    """How many of what, and how much: `2 releases, 1 adapter, 3.1 MB`."""
    kinds = {"release": "release", "adapter": "adapter", "rest": "leftover of a run that was cut off"}
    counts = {noun: sum(item.kind == kind for item in found.items) for kind, noun in kinds.items()}
    shown = [_counted(count, noun) for noun, count in counts.items() if count]
    return ", ".join([*shown, size(found.bytes)]) if shown else "nothing"


def proof_markdown(proof: Proof) -> str:
    """The outcome, a row for each check, and both releases' answers to each prompt."""
    rows = [
        f"| {'✅' if check.passed else '❌'} | {cell(check.name)} | {cell(check.detail)} | {check.seconds:.1f} |"
        for check in proof.checks
    ]
    lines = [_proof_outcome(proof), "", "| | Check | Found | Seconds |", "|-|-|-|-:|", *rows]
    if proof.comparisons:
        before = f"Release {proof.earlier_release}, before" if proof.earlier_release else "Before"
        lines += ["", f"| | Prompt | {before} | Tokens/s | First token | This release | Tokens/s | First token |"]
        lines += ["|-|-|-|-:|-:|-|-:|-:|"]
        lines += [
            f"| {'✅' if each.passed else '❌'} | {cell(_prompt(each))} | {_answer_cells(each.earlier)} | "
            f"{_answer_cells(each.new)} |"
            for each in proof.comparisons
        ]
    return "\n".join(lines) + "\n"


def comparison_text(proof: Proof) -> str:
    """Each prompt with the answer of the release before and of this one, and how quick they were; the rates last."""
    lines = []
    for each in proof.comparisons:
        same = each.new is not None and each.earlier is not None and each.new.text == each.earlier.text
        lines.append(_prompt(each))
        lines.append(f"    before  {_pace(each.earlier)}{_excerpt(each.earlier)}")
        lines.append(f"    now     {_pace(each.new)}{'the same' if same else _excerpt(each.new)}")
        if not each.passed:
            must = f"contain {each.expected.contains!r}" if each.expected.contains else "answer"
            lines.append(f"    FAILED: it must {must}")
    before, now = proof.rates
    if before is not None and now is not None:
        times = f"{now / before:.2f} times the {before:.1f} of release {proof.earlier_release}"
        lines.append(f"All prompts: {now:.1f} tokens/s, {times}.")
    return "\n".join(lines)


def gap(seconds: float) -> str:
    """How long the endpoint did not answer while a release was put into use."""
    return f"nobody was answered for {seconds:.1f} s" if seconds else "every request was answered meanwhile"


def block(text: str) -> str:
    """Text in Markdown as it stands, columns and all."""
    return _fenced(text, "") + "\n"


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


def transfer(done: Progress) -> str:
    """How far it is: files, bytes, rate and time left, as far as they are known."""
    known = [
        f"{done.files_done} of {done.files_total} files",
        f"{size(done.bytes_done)} of {size(done.bytes_total)}",
    ]
    if done.bytes_per_second is not None:
        known.append(f"{size(round(done.bytes_per_second))}/s")
    if done.seconds_left is not None:
        known.append(f"{_duration(done.seconds_left)} left")
    return ", ".join(known)


def _duration(seconds: float) -> str:
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _run_in_use(past: History) -> Entry | None:
    """The last run that put the release in use into use: one that proved it, if it is proven."""
    if past.current is None:
        return None
    runs = [run for run in reversed(past.runs) if run.release == past.current.release]
    proven = [run for run in runs if run.outcome == "proven"] if past.current.proven else []
    return next(iter(proven + runs), None)


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


def _sync_counts(parts: Sequence[Part]) -> str:
    """How many files of what kind, and how much of them is sent."""
    plans = [part.plan for part in parts if part.plan is not None]
    counts = [
        f"{sum(len(getattr(plan, name)) for plan in plans)} {name}"
        for name in ("added", "changed", "removed", "unchanged", "copied")
    ]
    again = sum(part.bytes_sent_again for part in parts)
    # A release's folder is new: what did not change has to come into it, too.
    unchanged = f", {size(again)} of it unchanged" if again else ""
    return f"{', '.join(counts)}; {size(sum(part.bytes_to_send for part in parts))} to send{unchanged}"


def _part_head(part: Part) -> str:
    if part.plan is not None:
        return f"{part.name}: {f'{part.after} is on the share already' if part.is_there else _sync_counts([part])}."
    return f"{part.name}: {part.before or 'none'} -> {part.after or 'none'}"


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their longest cell, the last one as it comes."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _short_commit(commit: str | None) -> str:
    """As Git shortens it, with the mark of a tree that was not committed."""
    if commit is None:
        return "not known"
    head, _, dirty = commit.partition("-")
    return head[:9] + ("-dirty" if dirty else "")


def _signed_entries(sync: SyncPlan) -> list[tuple[str, FileEntry]]:
    signed = [("+", sync.added), ("~", sync.changed), ("-", sync.removed)]
    return [(sign, entry) for sign, entries in signed for entry in entries]


def _prompt(each: Comparison) -> str:
    model = f" ({each.expected.model})" if each.expected.model else ""
    return f"{_shortened(each.expected.prompt)}{model}"


def _pace(answer: Answer | None) -> str:
    """31.2 tokens/s, first after 0.42 s: before an answer, as far as it is known."""
    if answer is None:
        return ""
    rate, first = answer.tokens_per_second, answer.first_seconds
    words = [f"{rate:.1f} tokens/s"] if rate is not None else []
    words += [f"first after {first:.2f} s"] if first is not None else []
    return ", ".join(words) + ": " if words else ""


def _excerpt(answer: Answer | None) -> str:
    return "no answer" if answer is None else _shortened(answer.text) or "an empty answer"


def _answer_cells(answer: Answer | None) -> str:
    """The three cells of an answer: its text, its rate, when its first token came."""
    if answer is None:
        return "- | - | -"
    rate, first = answer.tokens_per_second, answer.first_seconds
    return (
        f"{cell(_excerpt(answer))} | {'-' if rate is None else f'{rate:.1f}'} | "
        f"{'-' if first is None else f'{first:.2f} s'}"
    )


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_VALUE else line[: LONGEST_VALUE - 3] + "..."


def _proof_outcome(proof: Proof) -> str:
    failed = sum(not check.passed for check in proof.checks)
    if failed:
        return f"The proof failed: {failed} of {_counted(len(proof.checks), 'check')}."
    return f"The proof passed: {_counted(len(proof.checks), 'check')}."


def _counted(count: int, noun: str) -> str:
    if count == 1:
        return f"{count} {noun}"
    first, space, rest = noun.partition(" ")
    return f"{count} {first}s{space}{rest}"


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

"""What a person reads in a terminal and on a pull request, and what a machine reads."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from scripts import report
from scripts.bundle import FileEntry
from scripts.comparison import Comparison, ExpectedAnswer
from scripts.diff import Difference, Part
from scripts.endpoint import Answer
from scripts.history import Entry, History, Outcome, Verb, Who
from scripts.plan import Change, Delta, Kind, Noise, Plan
from scripts.proof import Check, Proof
from scripts.release import Current, Release
from scripts.share import SyncPlan

APP = "Microsoft.App/containerApps"
NOISE = (
    Noise(f"/subscriptions/s/resourceGroups/g/providers/{APP}/app", "properties.fqdn", "only the service can set it"),
)


def change(kind: Kind, *deltas: Delta, reason: str = "") -> Change:
    return Change(kind, APP, "app", f"/subscriptions/s/resourceGroups/g/providers/{APP}/app", deltas, reason)


PLAN = Plan(
    changes=(
        change(
            Kind.MODIFY,
            Delta("properties.scale.maxReplicas", Kind.MODIFY, 1, 2),
            Delta("tags.owner", Kind.CREATE, None, "a ```b``` c"),
            Delta("tags.old", Kind.DELETE, {"x": None}, None),
        ),
        change(Kind.CREATE),
        change(Kind.UNSUPPORTED, reason="it depends on reference()"),
    ),
    unchanged=3,
    untouched=1,
    noise=NOISE,
    diagnostics=("Warning X: Something.",),
)
EMPTY_PLAN = Plan((), 7, 0, (), ())

SYNC = SyncPlan(
    folder="releases/1",
    added=(FileEntry("inference/new.py", 1500, "aa"),),
    changed=(FileEntry("inference/~serve.py", 10, "bb"),),
    removed=(FileEntry("old.py", 5, "cc"),),
    unchanged=(FileEntry("same.py", 7, "dd"),),
)
PROOF = Proof(
    (Check("a chat answers", True, "Ahoy | `matey`", 1.25), Check("401 without key", False, "got <200>\nOK", 0.04))
)


def test_a_plan_in_a_terminal() -> None:
    assert report.plan_text(PLAN).splitlines() == [
        "~ Microsoft.App/containerApps app",
        "    ~ properties.scale.maxReplicas: 1 -> 2",
        '    + tags.owner: "a ```b``` c"',
        '    - tags.old: {"x": null}',
        "+ Microsoft.App/containerApps app",
        "? Microsoft.App/containerApps app: it depends on reference()",
        "",
        "Warning X: Something.",
        "1 to create, 1 to modify, 1 that Azure cannot preview, 3 as the template asks, 1 not of this template. "
        "Left out: 1 difference that is noise.",
    ]


def test_no_changes_say_so() -> None:
    assert report.plan_text(EMPTY_PLAN) == "No changes: 7 as the template asks."
    assert report.plan_markdown(EMPTY_PLAN) == "No changes: 7 as the template asks.\n"


def test_a_plan_on_a_pull_request() -> None:
    lines = report.plan_markdown(PLAN).splitlines()
    assert lines[0].startswith("1 to create, 1 to modify")
    # The fence is longer than any run of backticks inside, so that no value can end it.
    start = lines.index("````diff")
    assert lines[start + 1 : start + 5] == [
        "! Microsoft.App/containerApps app",
        "!    properties.scale.maxReplicas: 1 -> 2",
        '+    tags.owner: "a ```b``` c"',
        '-    tags.old: {"x": null}',
    ]
    assert "````" in lines[start + 5 :]
    assert "Microsoft.App/containerApps/app  properties.fqdn: only the service can set it" in lines


def test_a_long_value_is_cut_for_people_and_whole_for_machines() -> None:
    long = "x" * 5000
    plan = Plan((change(Kind.MODIFY, Delta("a", Kind.MODIFY, "", long)),), 0, 0, (), ())
    assert len(report.plan_text(plan)) < 500
    assert "(5002 characters)" in report.plan_text(plan)
    assert long in json.dumps(report.plan_json(plan))


def test_a_value_cannot_break_out_of_its_line() -> None:
    plan = Plan((change(Kind.MODIFY, Delta("a", Kind.MODIFY, "", "x\n+ Microsoft.Fake/type\x1b[2J")),), 0, 0, (), ())
    assert len(report.plan_text(plan).splitlines()) == 4
    assert "\x1b" not in report.plan_text(plan)


def test_a_plan_for_a_machine() -> None:
    value = json.loads(json.dumps(report.plan_json(PLAN)))
    assert [item["kind"] for item in value["changes"]] == ["modify", "create", "unsupported"]
    assert value["changes"][0]["properties"][0] == {
        "path": "properties.scale.maxReplicas",
        "kind": "modify",
        "before": 1,
        "after": 2,
    }
    assert value["changes"][2]["reason"] == "it depends on reference()"
    assert (value["unchanged"], value["untouched"], len(value["noise"])) == (3, 1, 1)


RELEASE = Release("1", "c0ffee", "2026-11-21T10:00:00Z", SYNC.added, "model-cache/base", {"default": "models/b"})
DIFFERENCE = Difference(
    RELEASE,
    "0",
    (
        Part("code", "releases/0", "releases/1", SYNC, is_there=False),
        Part("adapter default", "models/a", "models/b", None, is_there=True),
    ),
    {"releases/1/inference/~serve.py": ("--- in use", "+++ here", "@@ -1 +1 @@", "-print(1)", "+print(2)")},
)


def test_a_difference() -> None:
    lines = report.difference_text(DIFFERENCE).splitlines()
    counts = "1 added, 1 changed, 1 removed, 1 unchanged, 0 copied; 1.5 kB to send."
    assert lines[:2] == [f"Release 1 (against 0): {counts}", ""]
    assert lines[2:5] == [f"code: {counts}", "+ inference/new.py (1.5 kB)", "~ inference/~serve.py (10 B)"]
    assert lines[5:] == [
        "    --- in use",
        "    +++ here",
        "    @@ -1 +1 @@",
        "    -print(1)",
        "    +print(2)",
        "- old.py (5 B)",
        "",
        "adapter default: models/a -> models/b",
    ]
    markdown = report.difference_markdown(DIFFERENCE).splitlines()
    assert markdown[:3] == [lines[0], "", "```diff"]
    assert {"! inference/~serve.py (10 B)", "+print(2)", "- old.py (5 B)"} <= set(markdown)
    value = json.loads(json.dumps(report.difference_json(DIFFERENCE)))
    files = value["parts"][0]["files"]
    assert files["added"] == [{"path": "inference/new.py", "bytes": 1500, "sha256": "aa"}]
    assert value["bytes_to_send"] == files["bytes_to_send"] == 1510
    again = Difference(
        RELEASE, "0", (Part("code", "releases/0", "releases/1", SYNC, is_there=False, bytes_sent_again=7),)
    )
    assert "copied; 1.5 kB to send, 7 B of it unchanged.\n" in report.difference_text(again)
    empty = Difference(RELEASE, "1", ())
    assert report.difference_text(empty) == "No changes: release 1 is current."
    assert report.difference_markdown(empty) == "No changes: release 1 is current.\n"


def run(verb: Verb, release: str | None, outcome: Outcome | None, **more: Any) -> Entry:
    return Entry(verb, Who("octo"), "2026-11-21T10:00:00Z", release, outcome=outcome, **more)


def test_a_history_marks_what_is_in_use_and_tells_what_is_gone() -> None:
    runs = (
        run("deploy", "a", "proven", commit="0123456789abcdef-dirty", adapters={"default": "adapters/default/1"}),
        run("deploy", "b", "failed", detail="Release b does not answer\nas it must."),
        run("rollback", "a", "proven", commit="0123456789abcdef-dirty"),
        run("gc", None, "done", detail="1 release, 3 B"),
        run("deploy", "c", None),
    )
    old = dataclasses.replace(RELEASE, id="old")
    past = History(Current("a", True, None), runs, (old,), frozenset({"a", "c", "old"}))
    rows = [line.split() for line in report.history_text(past, 20).splitlines()]
    assert rows[0] == ["RELEASE", "WHEN", "VERB", "BY", "COMMIT", "OUTCOME", "ADAPTERS", "DETAIL"]
    assert rows[1][0] == "c" and " ".join(rows[1]).endswith("under way, or cut off")
    assert rows[2][-4:] == ["1", "release,", "3", "B"]
    assert rows[3][:2] == ["*", "a"] and "012345678-dirty" in rows[3]
    assert " ".join(rows[4][:5]) == "b (not on the share)"
    assert " ".join(rows[4]).endswith("failed Release b does not answer as it must.")
    assert rows[5][0] == "a", "in use since the rollback, and not since this deploy"
    assert rows[6][0] == "old" and " ".join(rows[6]).endswith("not recorded default")
    assert len(report.history_text(past, 2).splitlines()) == 4
    value = json.loads(json.dumps(report.history_json(past)))
    assert [item["release"] for item in value["runs"]] == ["c", None, "a", "b", "a"]
    assert [item["on_share"] for item in value["runs"]] == [True, False, True, False, True]
    assert report.history_text(History(None, (), (), frozenset()), 20) == "The share has no release yet."


@pytest.mark.parametrize(("proven", "marked"), [(True, "proven"), (False, "failed")])
def test_of_two_runs_of_the_release_in_use_one_is_marked(proven: bool, marked: str) -> None:
    runs = (run("deploy", "a", "proven"), run("deploy", "a", "failed"), run("deploy", "b", "failed"))
    past = History(Current("a", proven, None), runs, (), frozenset({"a", "b"}))
    rows = [line.split() for line in report.history_text(past, 20).splitlines()]
    assert [row[-1] for row in rows if row[0] == "*"] == [marked]


def test_a_proof_as_a_table_keeps_its_columns() -> None:
    outcome, *_, first, second = report.proof_markdown(PROOF).splitlines()
    assert outcome == "The proof failed: 1 of 2 checks."
    assert [first, second] == [
        "| ✅ | a chat answers | Ahoy \\| \\`matey\\` | 1.2 |",
        "| ❌ | 401 without key | got &lt;200> OK | 0.0 |",
    ]


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (3_210_000_000, "3.2 GB"),
        (5 * 10**12, "5.0 TB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    assert report.size(count) == text


def answer(text: str, seconds: float) -> Answer:
    return Answer(text, "default", "stop", {"completion_tokens": 10}, seconds, 0.25)


COMPARED = Proof(
    (Check("the answer", False, "no", 0.1),),
    (
        Comparison(ExpectedAnswer("Who?", "Ada"), answer("Ada |", 0.5), answer("It was\nEve", 0.25)),
        Comparison(ExpectedAnswer("Where?", "", "other"), None, answer("Here", 1.0)),
        Comparison(ExpectedAnswer("When?", ""), answer("Now", 0.5), answer("Now", 0.75)),
        Comparison(ExpectedAnswer("Why?", ""), answer("So", 1.0), None),
    ),
    "r0",
)


def test_two_releases_answers_in_a_terminal() -> None:
    assert report.comparison_text(COMPARED).splitlines() == [
        "Who?",
        "    before  20.0 tokens/s, first after 0.25 s: Ada |",
        "    now     40.0 tokens/s, first after 0.25 s: It was Eve",
        "    FAILED: it must contain 'Ada'",
        "Where? (other)",
        "    before  no answer",
        "    now     10.0 tokens/s, first after 0.25 s: Here",
        "When?",
        "    before  20.0 tokens/s, first after 0.25 s: Now",
        "    now     13.3 tokens/s, first after 0.25 s: the same",
        "Why?",
        "    before  10.0 tokens/s, first after 0.25 s: So",
        "    now     no answer",
        "    FAILED: it must answer",
        "All prompts: 15.0 tokens/s, 1.00 times the 15.0 of release r0.",
    ]


def test_two_releases_answers_as_a_table() -> None:
    head, rule, *rows = report.proof_markdown(COMPARED).splitlines()[-6:]
    assert head == (
        "| | Prompt | Release r0, before | Tokens/s | First token | This release | Tokens/s | First token |"
    )
    assert rows == [
        "| ❌ | Who? | Ada \\| | 20.0 | 0.25 s | It was Eve | 40.0 | 0.25 s |",
        "| ✅ | Where? (other) | - | - | - | Here | 10.0 | 0.25 s |",
        "| ✅ | When? | Now | 20.0 | 0.25 s | Now | 13.3 | 0.25 s |",
        "| ❌ | Why? | So | 10.0 | 0.25 s | - | - | - |",
    ]
    assert {line.replace("\\|", "").count("|") for line in (head, rule, *rows)} == {9}

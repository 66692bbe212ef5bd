"""The endpoint's keys as a person gives them: what is taken, what is refused, and that no key is ever told."""

from __future__ import annotations

import pytest

from scripts import keys
from scripts.keys import Keys

CI, BATCH = "the-key-of-ci-and-no-other", "batch=with=equals-signs"
ENTRIES = {
    f"{CI}": "entry 1 is not name=key",
    f"={CI}": "entry 1 is not name=key",
    f"two words={CI}": "entry 1 is not name=key",
    f"{'n' * 65}={CI}": "entry 1 is not name=key",
    f"default={CI}": "entry 1 is called default",
    f"ci={CI},ci={BATCH}": "entry 2 gives the name ci twice",
    f"ci={CI}\nbatch={CI}": "entry 2 repeats another name's key",
    f"ci={CI},batch=fifteen-letters": "entry 2 has a key of fewer than 16 characters",
    f"ci={CI},batch=a-key-with-an-\u00ebxotic-letter": "entry 2 has a key of fewer than 16 characters, or with some",
    f"none,ci={CI}": "entry 1 is not name=key",
    ",": "it has no entry",
    "\n": "it has no entry",
}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (f"ci={CI}", {"ci": CI}),
        (f" ci = {CI} ,\n batch={BATCH},\n", {"ci": CI, "batch": BATCH}),
        ("none", {}),
        (" none\n", {}),
    ],
)
def test_named_keys_are_read_with_commas_or_line_ends(text: str, named: dict[str, str]) -> None:
    assert keys.named_problems(text) == []
    assert keys.parsed(text) == named
    assert keys.parsed(keys.joined(named)) == named


@pytest.mark.parametrize(("text", "message"), ENTRIES.items())
def test_an_entry_that_is_none_is_told_by_its_number(text: str, message: str) -> None:
    (problem,) = keys.named_problems(text)
    assert str(problem).startswith(f"INFERENCE_API_KEYS: {message}")


def test_all_entries_are_told_at_once_and_no_key_is_shown() -> None:
    told = "\n".join(map(str, keys.named_problems(",".join(ENTRIES))))
    assert [number for number in range(1, 6) if f"entry {number} " not in told] == []
    for key in (CI, BATCH, "fifteen-letters"):
        assert key not in told


def test_a_named_key_that_is_the_first_one_is_told_by_its_name() -> None:
    (problem,) = keys.shared_problems(Keys(CI, {"ci": CI, "batch": BATCH}))
    assert "gives ci the endpoint's first key" in str(problem)
    assert CI not in str(problem)
    assert keys.shared_problems(Keys(None, {"ci": CI})) == []


def test_keys_do_not_show_in_a_repr() -> None:
    assert repr(Keys(CI, {"batch": BATCH})) == "Keys()"


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ({}, {}, ""),
        ({"a": CI}, {"a": CI}, ""),
        ({}, {"a": CI, "b": BATCH}, "added a, b"),
        ({"a": CI, "b": CI, "c": CI}, {"b": BATCH, "c": CI, "d": CI}, "added d; changed b; removed a"),
    ],
)
def test_what_changes_is_told_by_names(before: dict[str, str], after: dict[str, str], words: str) -> None:
    assert keys.difference(before, after) == words


def test_limits_are_for_keys_that_are_there() -> None:
    limits: dict[str, object] = {key: {"requestsPerMinute": 1} for key in ("default", "ci", "bach", "other")}
    told = [str(problem) for problem in keys.limits_problems(limits, {"ci": CI, "batch": BATCH}, "its.json")]
    assert [line.partition(". ")[0] for line in told] == [
        "its.json: parameters.keyLimits.value.bach: no key has this name; did you mean batch?"
        " There are: default, ci, batch",
        "its.json: parameters.keyLimits.value.other: no key has this name",
    ]
    assert CI not in "".join(told)
    assert keys.limits_problems({"default": {"requestsPerMinute": 1}}, {}, "its.json") == []

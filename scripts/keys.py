"""The endpoint's keys: what they are called in each place, and what is wrong with those that a person gives.

Every endpoint has a first key, which the commands of this repository use too; further callers have keys with names of
their own (docs/inference.md, Keys). A key's value is never shown, nor is what may be one. No Azure, no HTTP.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from scripts.endpoint import fits_header
from scripts.errors import Problem, did_you_mean


@dataclass(frozen=True)
class Place:
    """One thing's name in the process environment, among the template's parameters, and among the app's secrets."""

    variable: str
    parameter: str
    secret: str


FIRST = Place("INFERENCE_API_KEY", "apiKey", "api-key")
NAMED = Place("INFERENCE_API_KEYS", "apiKeys", "api-keys")

NO_NAMED = "none"
"""The value of NAMED.variable that takes the last named key away; without a value, those that the app has stay."""

LIMITS = "keyLimits"
"""The parameter with limits of some keys by name."""

LIMITS_OF_EVERY_KEY = {"requestsPerMinute": "requestsPerMinutePerKey", "concurrentRequests": "concurrentRequestsPerKey"}
"""What an entry there may hold -> the parameter that says the same of every key."""

SHORTEST = 16
"""Characters of a named key: as many as the template asks of the first."""

_FORM = f"Write name=key,name=key; or {NO_NAMED}, to take all named keys away"
_FIRST_NAME = "default"
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True)
class Keys:
    """An endpoint's keys: the first, None where there is none yet, and the others by name."""

    first: str | None = field(repr=False)
    named: Mapping[str, str] = field(repr=False)


def given_problems(first: str | None, named: str | None) -> list[Problem]:
    """What is wrong with what the two variables hold, each None when it is not set."""
    text = named or ""
    return [*_first_problems(first), *named_problems(text), *shared_problems(Keys(first, parsed(text)))]


def _first_problems(key: str | None) -> list[Problem]:
    if key is None or fits_header(key):
        return []
    message = "the key has a line end, a space at an end, or characters that an HTTP header cannot carry"
    return [Problem(None, FIRST.variable, None, message, "Use only letters, digits and punctuation")]


def named_problems(text: str) -> list[Problem]:
    """What is wrong with the named keys that were given; entries are told by their numbers."""
    problems = []
    known: dict[str, str] = {}
    if re.fullmatch(r"[,\s]+", text):
        problems.append(Problem(None, NAMED.variable, None, "it has no entry", _FORM))
    for number, entry in enumerate(_entries(text), start=1):
        name, equals, key = (part.strip() for part in entry.partition("="))
        message, step = "", "Give each caller a name and a key of its own"
        if not equals or not _NAME.fullmatch(name):
            # What stands before "=" may be a key whose name was forgotten.
            message = "is not name=key with a name of up to 64 letters, digits, dots, hyphens and underscores"
            step = _FORM
        elif name == _FIRST_NAME:
            message = f"is called {name}, which is the name of the key of {FIRST.variable}"
        elif name in known:
            message = f"gives the name {name} twice"
        elif len(key) < SHORTEST or not fits_header(key):
            message = f"has a key of fewer than {SHORTEST} characters, or with some that an HTTP header cannot carry"
            step = "Choose a long random text of letters, digits and punctuation, without commas"
        elif key in known.values():
            message = "repeats another name's key, so the log could not tell them apart"
        if message:
            problems.append(Problem(None, NAMED.variable, None, f"entry {number} {message}", step))
        known.setdefault(name, key)
    return problems


def shared_problems(keys: Keys) -> list[Problem]:
    """Whether one of the named keys is the first key too."""
    message = "gives {} the endpoint's first key, so the log could not tell them apart"
    same = [name for name, key in keys.named.items() if key == keys.first]
    return [Problem(None, NAMED.variable, None, message.format(name), "Give it a key of its own") for name in same]


def parsed(text: str) -> dict[str, str]:
    """The named keys by name; of what is no entry, nothing."""
    parts = (tuple(part.strip() for part in entry.partition("=")) for entry in _entries(text))
    return {name: key for name, _, key in parts if name and key}


def joined(named: Mapping[str, str]) -> str:
    """The named keys as the template takes them."""
    return ",".join(f"{name}={key}" for name, key in named.items())


def is_name(text: str) -> bool:
    """Whether a key could be called so, the first one included."""
    return _NAME.fullmatch(text) is not None


def limits_problems(limits: Mapping[str, object], named: Mapping[str, str], file: str) -> list[Problem]:
    """Whether there is a key for each limit by name: a replica does not start with one that holds for nobody."""
    there = (_FIRST_NAME, *named)
    step = f"There are: {', '.join(there)}. Remove the limit, or give a key of that name in {NAMED.variable}"
    where, message = f"parameters.{LIMITS}.value", "no key has this name"
    missing = [name for name in limits if name not in there]
    return [Problem(file, f"{where}.{name}", None, message + did_you_mean(name, there), step) for name in missing]


def difference(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    """Which names come, go, or get another key, in words; empty when none does."""
    words = {
        "added": [name for name in after if name not in before],
        "changed": [name for name in after if name in before and after[name] != before[name]],
        "removed": [name for name in before if name not in after],
    }
    return "; ".join(f"{word} {', '.join(names)}" for word, names in words.items() if names)


def _entries(text: str) -> list[str]:
    entries = [entry for entry in (part.strip() for part in re.split(r"[,\n]", text)) if entry]
    return [] if entries == [NO_NAMED] else entries

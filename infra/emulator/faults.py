"""Faults on demand: which rules there are, whether they make sense, and which of them fires now.

Knows no HTTP and no service: fault_switch puts requests through the rules, providers their operations and quotas.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from infra.emulator.exceptions import AzureError

INGRESS = "ingress"
"""Of the apps: rules must name it, so that those on Azure's own services leave the apps alone."""
SERVICES = ("resource-manager", "files", "identity", INGRESS)
METHODS = ("GET", "HEAD", "PUT", "PATCH", "POST", "DELETE")
DEPLOYMENTS = "Deployments"
"""How many a resource group, or a subscription, may have in its history."""
QUOTAS = (
    "ManagedEnvironmentCount",
    "ManagedEnvironmentConsumptionCores",
    "ManagedEnvironmentGeneralPurposeCores",
    "ManagedEnvironmentMemoryOptimizedCores",
    "ManagedEnvironmentConsumptionT4Gpus",
    "ManagedEnvironmentConsumptionNCA100Gpus",
    "SubscriptionNCA100Gpus",
    DEPLOYMENTS,
)
BEFORE, AFTER = "before", "after"

LATENCY, THROTTLED, UNAVAILABLE, INTERNAL_ERROR = "latency", "throttled", "unavailable", "internal-error"
REFUSED, DROPPED, EXPIRED_TOKEN = "refused", "dropped-connection", "expired-token"
FULL_SHARE, SHORT_TOKEN = "full-share", "short-token"
SLOW_OPERATION, FAILED_OPERATION, MISSING_QUOTA = "slow-operation", "failed-operation", "missing-quota"

_MOST_SECONDS = 3600


class BadRule(Exception):
    """Rules that cannot be used; `problems` names each, with its key and value."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))


@dataclass(frozen=True)
class _Key:
    """A key of a rule: what makes a value good, in words and as a test."""

    words: str
    fits: Callable[[Any], bool]


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_expression(value: Any) -> bool:
    try:
        re.compile(value)
    except (re.error, TypeError):
        return False
    return True


def _are_methods(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(method in METHODS for method in value)


_SECONDS = _Key(f"a number of seconds from 0 to {_MOST_SECONDS}", lambda value: _number(value) and 0 <= value <= 3600)
_TEXT = _Key("a text that is not empty", lambda value: isinstance(value, str) and bool(value.strip()))
_KEYS = {
    "path": _Key("a regular expression", _is_expression),
    "after": _Key("a whole number, 0 or more", lambda value: _whole(value) and value >= 0),
    "count": _Key("a whole number, 1 or more", lambda value: _whole(value) and value >= 1),
    "probability": _Key("a number over 0 and up to 1", lambda value: _number(value) and 0 < value <= 1),
    "seed": _Key("a whole number", _whole),
    "service": _Key("one of " + ", ".join(SERVICES), lambda value: value in SERVICES),
    "method": _Key("a list of some of " + ", ".join(METHODS), _are_methods),
    "seconds": _SECONDS,
    "retry_after_seconds": _Key(
        f"a whole number of seconds from 1 to {_MOST_SECONDS}", lambda value: _whole(value) and 1 <= value <= 3600
    ),
    "when": _Key("before or after (the effect of the request)", lambda value: value in (BEFORE, AFTER)),
    "status": _Key("an HTTP status from 400 to 599", lambda value: _whole(value) and 400 <= value <= 599),
    "code": _TEXT,
    "message": _TEXT,
    "quota": _Key("one of " + ", ".join(QUOTAS), lambda value: value in QUOTAS),
    "limit": _Key("a whole number, 0 or more", lambda value: _whole(value) and value >= 0),
}
_ALWAYS = ("path", "after", "count", "probability", "seed")
_ON_REQUESTS = (*_ALWAYS, "service", "method")


@dataclass(frozen=True)
class _Kind:
    """What a rule of a kind may have beside `fault`, must have, and has when it does not say."""

    keys: tuple[str, ...]
    required: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)


_RETRY: dict[str, Any] = {"retry_after_seconds": 1}
_FAILURE = {"code": "InternalServerError", "message": "The operation was made to fail by the fault switch."}
_KINDS = {
    LATENCY: _Kind((*_ON_REQUESTS, "seconds"), ("seconds",)),
    THROTTLED: _Kind((*_ON_REQUESTS, "retry_after_seconds"), (), _RETRY),
    UNAVAILABLE: _Kind((*_ON_REQUESTS, "retry_after_seconds"), (), _RETRY),
    INTERNAL_ERROR: _Kind(_ON_REQUESTS),
    REFUSED: _Kind((*_ON_REQUESTS, "status", "code", "message"), ("status", "code", "message")),
    DROPPED: _Kind((*_ON_REQUESTS, "when"), ("when",)),
    EXPIRED_TOKEN: _Kind(_ON_REQUESTS),
    FULL_SHARE: _Kind(_ALWAYS),
    SHORT_TOKEN: _Kind((*_ALWAYS[1:], "seconds"), ("seconds",)),
    SLOW_OPERATION: _Kind((*_ALWAYS, "seconds"), ("seconds",)),
    FAILED_OPERATION: _Kind((*_ALWAYS, "code", "message"), (), _FAILURE),
    MISSING_QUOTA: _Kind((*_ALWAYS, "quota", "limit"), ("quota",), {"limit": 0}),
}
_OF_REQUESTS = frozenset({LATENCY, THROTTLED, UNAVAILABLE, INTERNAL_ERROR, REFUSED, DROPPED, EXPIRED_TOKEN, FULL_SHARE})
_NOT_OF_INGRESS = frozenset({EXPIRED_TOKEN, FULL_SHARE})


class Rule:
    """One rule, and how often it was met and has fired. `asked` is what the JSON says, with its defaults."""

    def __init__(self, number: int, asked: Mapping[str, Any]) -> None:
        self.id = str(number)
        self.kind: str = asked["fault"]
        self.asked = {**_KINDS[self.kind].defaults, **asked}
        self.met = self.fired = 0
        self._path = re.compile(asked.get("path", ""), re.IGNORECASE)
        # A sequence that can be had again, not a secret.
        self._random = random.Random(asked.get("seed", 0))  # noqa: S311

    def names(self, path: str) -> bool:
        """Whether the rule is about this path (or id of a resource)."""
        return self._path.search(path) is not None

    def names_request(self, service: str, method: str, path: str) -> bool:
        """Whether the rule is about this request."""
        asked = self.asked
        return (
            asked.get("service", None if service == INGRESS else service) == service
            and ("method" not in asked or method in asked["method"])
            and self.names(path)
        )

    def fires(self) -> bool:
        """Whether it happens now; counts."""
        self.met += 1
        asked = self.asked
        if self.met <= asked.get("after", 0) or self.fired >= asked.get("count", self.fired + 1):
            return False
        if self._random.random() >= asked.get("probability", 1):
            return False
        self.fired += 1
        return True

    def as_dict(self) -> dict[str, Any]:
        """As GET shows it."""
        return {"id": self.id, **self.asked, "met": self.met, "fired": self.fired}


class Faults:
    """The rules in force, in the order in which they were added. Kept in memory: a new process begins without."""

    def __init__(self) -> None:
        self._rules: list[Rule] = []
        self._numbers = itertools.count(1)

    def add(self, asked: Any) -> list[Rule]:
        """Adds one rule or a list of them: all, or none. Raises BadRule with every problem."""
        listed = asked if isinstance(asked, list) else [asked]
        problems = [problem for number, one in enumerate(listed) for problem in _problems(one, f"rule {number + 1}")]
        if problems:
            raise BadRule(problems)
        added = [Rule(next(self._numbers), one) for one in listed]
        self._rules += added
        return added

    def remove(self, rule_id: str | None = None) -> list[Rule]:
        """Removes one rule, or all; those that were removed."""
        gone = [rule for rule in self._rules if rule_id in (None, rule.id)]
        self._rules = [rule for rule in self._rules if rule not in gone]
        return gone

    def __iter__(self) -> Iterator[Rule]:
        return iter(list(self._rules))

    @property
    def none(self) -> bool:
        """Whether there is no rule at all."""
        return not self._rules

    def of_request(
        self, service: str, method: str, path: str, *, by_token: bool, fills: bool
    ) -> tuple[float, Rule | None]:
        """The seconds that a request is to be late, and the rule, if any, that it then falls to.

        `by_token`: the request shows a bearer token. `fills`: it makes a share fuller.
        """
        late, hit = 0.0, None
        for rule in self._rules:
            if rule.kind not in _OF_REQUESTS or not rule.names_request(service, method, path):
                continue
            if (rule.kind == EXPIRED_TOKEN and not by_token) or (rule.kind == FULL_SHARE and not fills):
                continue
            if rule.kind == LATENCY:
                late += rule.asked["seconds"] if rule.fires() else 0.0
            elif hit is None and rule.fires():
                hit = rule
        return late, hit

    def token_seconds(self, usual: int) -> int:
        """How long a token that is issued now is good for."""
        for rule in self._rules:
            if rule.kind == SHORT_TOKEN and rule.fires():
                return int(rule.asked["seconds"])
        return usual

    async def hinder(self, resource_id: str) -> None:
        """Called by work that goes on after its request was answered: waits, or raises AzureError, as the rules say."""
        for rule in list(self._rules):
            if rule.kind == SLOW_OPERATION and rule.names(resource_id) and rule.fires():
                await asyncio.sleep(rule.asked["seconds"])
        for rule in self._rules:
            if rule.kind == FAILED_OPERATION and rule.names(resource_id) and rule.fires():
                raise AzureError(409, rule.asked["code"], rule.asked["message"])

    def limit(self, quota: str, resource_id: str, usual: int) -> int:
        """The limit of a quota as it is shown: looking at it does not count."""
        for rule in self._rules:
            if rule.kind == MISSING_QUOTA and rule.asked["quota"] == quota and rule.names(resource_id):
                return int(rule.asked["limit"])
        return usual

    def is_missing(self, quota: str, resource_id: str, wanted: float) -> int | None:
        """The limit, when a rule says that there is less of a quota than is wanted; None when nothing is missing."""
        for rule in self._rules:
            about_it = rule.kind == MISSING_QUOTA and rule.asked["quota"] == quota and rule.names(resource_id)
            if about_it and wanted > rule.asked["limit"] and rule.fires():
                return int(rule.asked["limit"])
        return None


def of_text(text: str) -> Any:
    """The JSON of an environment variable. Raises BadRule."""
    if not text.strip():
        return []
    try:
        return json.loads(text)
    except ValueError as problem:
        raise BadRule([f"this is not JSON ({problem}): {text[:80]}"]) from None


def _problems(asked: Any, where: str) -> list[str]:
    """What is wrong with one rule."""
    if not isinstance(asked, dict):
        return [f"{where}: a rule is a JSON object, this is {json.dumps(asked)[:80]}"]
    kind = asked.get("fault")
    if not isinstance(kind, str) or kind not in _KINDS:
        shown = "is missing" if kind is None else f"{json.dumps(kind)} is not known"
        return [f"{where}: fault {shown}; it is one of {', '.join(_KINDS)}"]
    rules, found = _KINDS[kind], []
    for key, value in asked.items():
        if key == "fault":
            continue
        if key not in rules.keys:
            found.append(f"{where} ({kind}): {key} is not known here; the keys are {', '.join(rules.keys)}")
        elif not _KEYS[key].fits(value):
            found.append(f"{where} ({kind}): {key} must be {_KEYS[key].words}, not {json.dumps(value)[:80]}")
    found += [
        f"{where} ({kind}): {key} is missing; it must be {_KEYS[key].words}"
        for key in rules.required
        if key not in asked
    ]
    if asked.get("service") == INGRESS and (kind in _NOT_OF_INGRESS or asked.get("when") == AFTER):
        what = f"when {AFTER}" if kind == DROPPED else kind
        found.append(f"{where} ({kind}): {what} is not possible for the service {INGRESS}: what it sends is the app's")
    if "seed" in asked and "probability" not in asked:
        found.append(f"{where} ({kind}): seed says nothing without probability")
    return found

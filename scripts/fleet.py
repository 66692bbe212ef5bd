"""All environments of the checkout at once: which can be acted on, in which order, which a change concerns.

Knows the files of environments/ through environment.py alone, and no network.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from scripts import cloud, environment, template
from scripts import release as releases
from scripts.environment import Environment
from scripts.errors import BadInput, Problem

EVERY_ENVIRONMENT = ("infra/provision", *releases.CODE)
"""What all environments are made of: the template with its base parameters, and what a release carries."""


@dataclass(frozen=True)
class Listed:
    """names in the order of their promotion; skipped tells why each other one is left out."""

    names: tuple[str, ...]
    skipped: Mapping[str, str]


def listed(root: Path, changed: Iterable[str] | None) -> Listed:
    """The environments that a change of the paths `changed` concerns, or all. Raises BadInput with every problem."""
    known = environment.names(root)
    paths = None if changed is None else [path.strip() for path in changed if path.strip()]
    wanted = [name for name in known if paths is None or _concerns(name, paths)]
    loaded = _load(root, known)
    skipped = {name: reason for name in wanted if (reason := _why_not(loaded[name]))}
    names = sorted((name for name in wanted if name not in skipped), key=lambda name: (_depth(name, loaded), name))
    return Listed(tuple(names), skipped)


def _concerns(name: str, paths: list[str]) -> bool:
    places = (f"{environment.FOLDER.as_posix()}/{name}", *EVERY_ENVIRONMENT)
    return any(path == place or path.startswith(f"{place}/") for path in paths for place in places)


def _load(root: Path, names: Iterable[str]) -> dict[str, Environment]:
    compiled = template.load(root)
    problems: list[Problem] = []
    loaded = {}
    for name in names:
        try:
            loaded[name] = environment.load(name, root, compiled)
        except BadInput as error:
            problems += error.problems
    if problems:
        # A file that several environments share is wrong only once.
        raise BadInput(list(dict.fromkeys(problems)))
    return loaded


def _why_not(found: Environment) -> str | None:
    zeros = environment.placeholders(found)
    if zeros:
        return f"still a placeholder: {', '.join(zeros)}"
    try:
        cloud.cloud_of(found, os.environ)
    except BadInput as error:
        return error.problems[0].message
    return None


def _depth(name: str, loaded: Mapping[str, Environment]) -> int:
    """How many environments a release passes before this one; a circle ends where it closes."""
    depth, seen = 0, {name}
    before = loaded[name].promote_from
    while before is not None and before in loaded and before not in seen:
        depth += 1
        seen.add(before)
        before = loaded[before].promote_from
    return depth

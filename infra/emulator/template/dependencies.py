"""Which resource of a template is meant by a text, and in which order resources are deployed. Evaluates nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

from infra.emulator.template.errors import ExpressionError, TemplateError, invalid_template
from infra.emulator.template.values import fold


class Node(Protocol):
    """What of a resource counts here."""

    @property
    def id(self) -> str: ...

    @property
    def type(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def key(self) -> str: ...


Resource = TypeVar("Resource", bound=Node)


class Index(Generic[Resource]):
    """The resources of one template by all the texts that may stand for them, in any case of letters."""

    def __init__(self) -> None:
        self._found: dict[str, list[Resource]] = {}
        self._symbols: dict[str, list[Resource]] = {}

    def add_symbol(self, name: str) -> None:
        """A symbol or the name of a loop that is declared, though it may turn out to stand for no resource at all."""
        self._symbols.setdefault(fold(name), [])

    def add(self, resource: Resource, *symbols: str) -> None:
        """A resource with its symbolic name and the name of its loop, if it has them, alone and as `name[index]`."""
        for symbol in symbols:
            self._symbols.setdefault(fold(symbol), []).append(resource)
        for text in {fold(text) for text in _aliases(resource)}:
            self._found.setdefault(text, []).append(resource)

    def find(self, text: str) -> list[Resource] | None:
        """The resources that a text stands for: symbol, loop, `symbol[index]`, id, type and name, or name alone.

        None if it stands for none; an empty list for a loop without instances and for what is not deployed. Raises
        ExpressionError if resources of several types have the name.
        """
        folded = fold(text.strip("/"))
        if folded in self._symbols:
            return self._symbols[folded]
        found = self._found.get(folded)
        if found and len({fold(resource.id) for resource in found}) > 1:
            ids = ", ".join(sorted(resource.id for resource in found))
            raise ExpressionError(f"The name '{text}' is that of several resources of the template, use an id: {ids}.")
        return found


def _aliases(resource: Node) -> Iterable[str]:
    """The id, its part behind each `/providers/`, `type/name`, and the name."""
    resource_id = resource.id.strip("/")
    yield resource_id
    pieces = re.split(r"(?:^|/)providers/", resource_id, flags=re.IGNORECASE)
    yield pieces[-1]
    yield f"{resource.type}/{resource.name}"
    yield resource.name


def layers(
    resources: Sequence[Resource], predecessors: Mapping[str, Iterable[str]]
) -> tuple[tuple[Resource, ...], ...]:
    """Resources in batches: each needs only resources of earlier ones. Raises TemplateError that names a cycle.

    `predecessors` has, by the key of each resource, the keys of those that must be there before it.
    """
    waiting = {resource.key: set(predecessors[resource.key]) for resource in resources}
    result: list[tuple[Resource, ...]] = []
    left = list(resources)
    while left:
        ready = tuple(resource for resource in left if not waiting[resource.key])
        if not ready:
            raise _circular(left, waiting)
        result.append(ready)
        done = {resource.key for resource in ready}
        left = [resource for resource in left if resource.key not in done]
        for keys in waiting.values():
            keys -= done
    return tuple(result)


def _circular(left: Sequence[Resource], waiting: Mapping[str, set[str]]) -> TemplateError:
    by_key = {resource.key: resource for resource in left}
    # Each resource that is left waits for another that is left, so following them must come back.
    chain: list[str] = [left[0].key]
    while True:
        following = min(waiting[chain[-1]])
        if following in chain:
            cycle = [*chain[chain.index(following) :], following]
            break
        chain.append(following)
    names = " -> ".join(f"{by_key[key].type}/{by_key[key].name}" for key in cycle)
    return invalid_template(
        f"Circular dependency detected on resource: '{by_key[cycle[0]].id}'. The cycle is {names}. "
        "Please see https://aka.ms/arm-syntax-resources for usage details."
    )

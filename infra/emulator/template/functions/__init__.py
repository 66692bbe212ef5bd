"""The table of template functions, by name in lower case."""

from __future__ import annotations

from collections.abc import Mapping

from infra.emulator.template.context import Function
from infra.emulator.template.functions import (
    cidr,
    collections,
    dates,
    hashing,
    lambdas,
    logic,
    numbers,
    objects,
    resources,
    strings,
)

_TABLE: Mapping[str, Function] = {
    function.name.lower(): function
    for module in (cidr, collections, dates, hashing, lambdas, logic, numbers, objects, resources, strings)
    for function in module.FUNCTIONS
}


def find(name: str) -> Function | None:
    """The function of a name, in any case of letters; every list*() that is not in the table is one too."""
    known = _TABLE.get(name.lower())
    if known is None and resources.is_list_function(name):
        return resources.list_function(name)
    return known

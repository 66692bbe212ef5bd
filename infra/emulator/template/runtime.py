"""reference() and list*() of a template: which resource is meant; the answer is the caller's Resolver's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from infra.emulator.template.dependencies import Index
from infra.emulator.template.errors import ExpressionError
from infra.emulator.template.scope import Resolver, Scope
from infra.emulator.template.values import Value

if TYPE_CHECKING:
    from infra.emulator.template.entries import Entry


class TemplateRuntime:
    """The Runtime of one template. `indexes` are its own resources, then those of the templates around it."""

    def __init__(self, indexes: Sequence[Index[Entry]], scope: Scope, resolver: Resolver) -> None:
        self._indexes = indexes
        self._scope = scope
        self._resolver = resolver

    def reference(self, identifier: str, api_version: str | None, full: bool) -> Value:
        resource_id, version = self._target("reference", identifier, api_version)
        return self._resolver.reference(resource_id, version, full)

    def references(self, symbol: str, full: bool) -> Value:
        found = self._find(symbol)
        if found is None:
            raise _not_found(symbol)
        return [self._resolver.reference(entry.id, entry.api_version, full) for entry in found]

    def list_action(self, name: str, identifier: str, api_version: str, body: Value) -> Value:
        resource_id, version = self._target(name, identifier, api_version)
        return self._resolver.list_action(name, resource_id, version, body)

    def _find(self, text: str) -> list[Entry] | None:
        for index in self._indexes:
            found = index.find(text)
            if found is not None:
                return found
        return None

    def _target(self, function: str, identifier: str, api_version: str | None) -> tuple[str, str]:
        found = self._find(identifier)
        if found:
            if len({entry.id for entry in found}) > 1:
                raise ExpressionError(
                    f"The template function '{function}' cannot be used on the loop '{identifier}' as a whole; "
                    "name one resource of it."
                )
            return found[0].id, api_version or found[0].api_version
        if identifier.startswith("/"):
            resource_id = identifier
        elif identifier.count("/") >= 2 and "." in identifier.split("/")[0]:
            resource_id = f"{self._scope.id}/providers/{identifier}"
        else:
            raise _not_found(identifier)
        if api_version is None:
            raise ExpressionError(
                f"The template function '{function}' on '{identifier}' requires an API version, because the resource "
                "is not in the template. Please see https://aka.ms/arm-template for usage details."
            )
        return resource_id, api_version


def _not_found(identifier: str) -> ExpressionError:
    return ExpressionError(
        f"The template reference '{identifier}' is not valid: could not find template resource or resource copy with "
        "this name. Please see https://aka.ms/arm-template-expressions/#reference for usage details."
    )

"""The `resources` of a template -> its entries, with names, ids, conditions and dependencies; loops are expanded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from infra.emulator.template import expressions
from infra.emulator.template.context import Context, unknown
from infra.emulator.template.dependencies import Index
from infra.emulator.template.entries import CopyBatch, Entry, Family
from infra.emulator.template.errors import ExpressionError, ShortCircuited, TemplateError
from infra.emulator.template.evaluator import evaluate_value, loop_count
from infra.emulator.template.place import Place
from infra.emulator.template.scope import group_id, resource_id
from infra.emulator.template.values import Value, fold, is_integer, type_name

_SYNTAX = "Please see https://aka.ms/arm-syntax-resources for usage details."


@dataclass(frozen=True)
class _Loop:
    name: str
    count: int
    mode: Literal["parallel", "serial"]
    batch_size: int


@dataclass(frozen=True)
class _Source:
    """A resource as the template declares it."""

    definition: Value
    symbol: str | None
    place: Place
    parent: Entry | None


@dataclass
class Expansion:
    """Lays out the resources of one template; collects what is wrong with them instead of stopping at the first."""

    family: Family
    context: Context
    problems: list[TemplateError] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)

    def run(self, resources: Value, place: Place) -> None:
        """Fill `entries` and `problems`. Raises ShortCircuited where a preview cannot go on."""
        if isinstance(resources, dict):
            for symbol, definition in resources.items():
                self._declaration(_Source(definition, symbol, place.at(symbol), None), self.context)
        else:
            for index, definition in enumerate(resources):
                self._declaration(_Source(definition, None, place.at(index), None), self.context)
        self._unique()
        for entry in self.entries:
            self._link(entry)
        self._batches()

    @property
    def _index(self) -> Index[Entry]:
        return self.family.indexes[0]

    def _declaration(self, source: _Source, context: Context) -> None:
        try:
            self._check_shape(source)
            loop = self._loop(source.definition, context)
        except ExpressionError as error:
            self._refuse(source, error)
            return
        if loop is None:
            self._instance(source, context, None)
            return
        for name in (loop.name, source.symbol):
            if name is not None:
                self._index.add_symbol(name)
        for index in range(loop.count):
            batch = CopyBatch(loop.name, index, loop.count, loop.mode, loop.batch_size)
            loops = {**context.loops, "": index, loop.name.lower(): index}
            self._instance(source, replace(context, loops=loops), batch)

    def _check_shape(self, source: _Source) -> None:
        definition = source.definition
        if not isinstance(definition, dict):
            raise ExpressionError(f"a resource must be an object, and is of type '{type_name(definition)}'.")
        for key in ("type", "name", "apiVersion"):
            if not isinstance(definition.get(key), str) or not definition[key]:
                raise ExpressionError(f"the property '{key}' is required, a string that is not empty.")
        if expressions.is_expression(definition["type"]):
            raise ExpressionError(f"The type property cannot be an expression. {_SYNTAX}")
        if not isinstance(definition.get("resources", []), (list, dict)):
            raise ExpressionError("The property 'resources' must be an array or an object.")
        if "copy" in definition and source.parent is not None:
            raise ExpressionError(f"A nested child resource cannot have a copy loop; declare it on its own. {_SYNTAX}")

    def _loop(self, definition: Mapping[str, Any], context: Context) -> _Loop | None:
        copy = definition.get("copy")
        if copy is None:
            return None
        if not isinstance(copy, dict) or not isinstance(copy.get("name"), str) or "count" not in copy:
            raise ExpressionError("The copy property must be an object with the members 'name' and 'count'.")
        count = self._static("copy count", copy["count"], context)
        mode = str(self._static("copy mode", copy.get("mode", "parallel"), context)).lower()
        size = self._static("copy batch size", copy.get("batchSize", 1), context)
        if mode not in ("parallel", "serial"):
            raise ExpressionError(f"The copy mode '{mode}' is not valid; it is 'parallel' or 'serial'.")
        if not is_integer(size) or size < 1:
            raise ExpressionError(f"The copy batch size must be an integer from 1 on, and is '{size}'.")
        return _Loop(copy["name"], loop_count(count, context), "serial" if mode == "serial" else "parallel", size)

    def _instance(self, source: _Source, context: Context, copy: CopyBatch | None) -> None:
        names = [name for name in (source.symbol, copy.name if copy else None) if name is not None]
        names += [f"{name}[{copy.index}]" for name in names] if copy else []
        try:
            condition = self._static("condition", source.definition.get("condition", True), context)
            if not isinstance(condition, bool):
                raise ExpressionError(f"The condition must be a boolean, and is of type '{type_name(condition)}'.")
        except ExpressionError as error:
            self._refuse(source, error)
            return
        try:
            entry = self._entry(source, context, copy, condition)
        except ExpressionError as error:
            # What is not deployed need not have a name: templates rely on it, with names out of absent parameters.
            if condition:
                self._refuse(source, error)
            for name in names:
                self._index.add_symbol(name)
            return
        self.entries.append(entry)
        self._index.add(entry, *dict.fromkeys(fold(name) for name in names))
        children = source.definition.get("resources", [])
        for key, child in children.items() if isinstance(children, dict) else enumerate(children):
            symbol = key if isinstance(key, str) else None
            self._declaration(_Source(child, symbol, source.place.at("resources", key), entry), context)

    def _entry(self, source: _Source, context: Context, copy: CopyBatch | None, condition: bool) -> Entry:
        definition, parent, symbol = source.definition, source.parent, source.symbol
        resource_type, name = definition["type"], self._text("name", definition["name"], context)
        if parent is not None:
            resource_type, name = f"{parent.type}/{resource_type}", f"{parent.name}/{name}"
        api_version = self._text("apiVersion", definition["apiVersion"], context)
        if resource_type.count("/") != name.count("/") + 1:
            raise ExpressionError(
                f"its name '{name}' has incorrect segment lengths for the type '{resource_type}'. A nested resource "
                "type must have identical number of segments as its resource name. A root resource type must have "
                f"segment length one greater than its resource name. {_SYNTAX}"
            )
        target = self._target(definition, context)
        full_id = resource_id(self._scope_id(definition, target, parent, context), resource_type, name.split("/"))
        instance = f"{symbol}[{copy.index}]" if symbol and copy else symbol
        return Entry(
            id=full_id,
            type=resource_type,
            api_version=api_version,
            name=name,
            key=instance or full_id,
            symbol=instance,
            existing=definition.get("existing") is True,
            condition=condition,
            copy=copy,
            family=self.family,
            definition=definition,
            context=context,
            place=source.place,
            target=target,
        )

    def _target(self, definition: Mapping[str, Any], context: Context) -> tuple[str | None, str | None]:
        subscription, group = (
            self._text(key, definition[key], context) if definition.get(key) is not None else None
            for key in ("subscriptionId", "resourceGroup")
        )
        return subscription, group

    def _scope_id(
        self,
        definition: Mapping[str, Any],
        target: tuple[str | None, str | None],
        parent: Entry | None,
        context: Context,
    ) -> str:
        """The id of what the resource is in: its own scope, another group, or the resource that it extends."""
        scope = self.family.scope
        subscription, group = target
        if definition.get("scope") is not None:
            text = self._text("scope", definition["scope"], context).strip("/")
            if not text:
                return ""
            absolute = fold(text).startswith((fold("subscriptions/"), fold("providers/")))
            if fold(text).startswith(fold("Microsoft.Management/managementGroups/")):
                return f"/providers/{text}"
            return f"/{text}" if absolute else f"{scope.id}/providers/{text}"
        if group is not None:
            return group_id(subscription or str(scope.subscription.get("subscriptionId")), group)
        if subscription is not None:
            return f"/subscriptions/{subscription}"
        if parent is not None:
            namespace = parent.type.split("/")[0]
            return parent.id[: fold(parent.id).rindex(fold(f"/providers/{namespace}/"))]
        return scope.id

    def _static(self, what: str, value: Value, context: Context) -> Value:
        """A value that must be known before anything is deployed."""
        result = evaluate_value(value, context)
        if unknown(result):
            raise ShortCircuited(
                f"The {what} '{value}' cannot be evaluated before the resources that it asks for are deployed."
            )
        return result

    def _text(self, what: str, value: Value, context: Context) -> str:
        text = self._static(what, value, context)
        if not isinstance(text, str) or not text:
            raise ExpressionError(f"The property '{what}' must be a string that is not empty.")
        return text

    def _refuse(self, source: _Source, error: ExpressionError) -> None:
        if source.symbol is not None:
            # So that resources which depend on this one are not reported too.
            self._index.add_symbol(source.symbol)
        self._not_valid(source.definition, source.place, error)

    def _not_valid(self, definition: Value, place: Place, error: ExpressionError) -> None:
        name = definition.get("name", "") if isinstance(definition, dict) else ""
        self.problems.append(place.invalid(f"The template resource '{name}' {place.where} is not valid: {error}"))

    def _unique(self) -> None:
        seen: set[str] = set()
        for entry in self.entries:
            if entry.existing or not entry.condition:
                continue
            if fold(entry.id) in seen:
                self.problems.append(
                    entry.place.invalid(
                        f"The resource '{entry.id}' {entry.place.where} is defined multiple times in a template. "
                        f"{_SYNTAX}"
                    )
                )
            seen.add(fold(entry.id))
        keys: dict[str, int] = {}
        for entry in self.entries:
            # Of several with one id all but one have a condition that does not hold.
            number = keys[fold(entry.key)] = keys.get(fold(entry.key), 0) + 1
            entry.key = entry.key if number == 1 else f"{entry.key}#{number}"

    def _link(self, entry: Entry) -> None:
        found: list[Entry] = []
        try:
            for target in self._explicit(entry):
                found += target
            found += [other for other in entry.implied() if other is not entry]
        except ExpressionError as error:
            self._not_valid(entry.definition, entry.place, error)
            return
        entry.predecessors = frozenset(other.key for other in found)
        deployed = [other.id for other in found if not other.existing and other.condition]
        entry.depends_on = tuple(dict.fromkeys(deployed))

    def _explicit(self, entry: Entry) -> Iterator[list[Entry]]:
        listed = entry.definition.get("dependsOn") or []
        if not isinstance(listed, list):
            raise ExpressionError("The property 'dependsOn' must be an array.")
        for item in listed:
            text = evaluate_value(item, entry.context)
            if unknown(text):
                continue
            if not isinstance(text, str):
                raise ExpressionError("The items of 'dependsOn' must be strings.")
            target = self._index.find(text)
            if target is None:
                self.problems.append(
                    entry.place.at("dependsOn").invalid(
                        f"The resource '{text}' is not defined in the template. "
                        "Please see https://aka.ms/arm-template for usage details."
                    )
                )
            else:
                yield target

    def _batches(self) -> None:
        """Resources of a serial loop also wait for the batch before theirs."""
        loops: dict[tuple[str, tuple[str | int, ...]], list[Entry]] = {}
        for entry in self.entries:
            if entry.copy is not None and entry.copy.mode == "serial":
                loops.setdefault((entry.copy.name, entry.place.path), []).append(entry)
        for instances in loops.values():
            for entry in instances:
                assert entry.copy is not None, "only instances of loops are gathered"
                earlier = {other.key for other in instances if other.copy and other.copy.batch == entry.copy.batch - 1}
                entry.predecessors |= earlier

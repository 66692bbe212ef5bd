"""One resource of a template, with loops expanded: its identity at once, its body when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

from infra.emulator.template import expressions
from infra.emulator.template.context import Context, Unevaluated
from infra.emulator.template.dependencies import Index
from infra.emulator.template.errors import ExpressionError, NotSupported, bounded
from infra.emulator.template.evaluator import evaluate, evaluate_value, rendered
from infra.emulator.template.functions.resources import is_list_function
from infra.emulator.template.names import Given
from infra.emulator.template.place import Place
from infra.emulator.template.runtime import TemplateRuntime
from infra.emulator.template.scope import Resolver, Scope, within_group, within_subscription
from infra.emulator.template.values import Value, fold

if TYPE_CHECKING:
    from infra.emulator.template.template import Template

DEPLOYMENTS = "Microsoft.Resources/deployments"

_ENVELOPE = frozenset(
    (
        "type",
        "apiVersion",
        "name",
        "dependsOn",
        "condition",
        "copy",
        "scope",
        "existing",
        "comments",
        "metadata",
        "resources",
        "resourceGroup",
        "subscriptionId",
        "import",
        "extension",
        "@options",
    )
)
"""Members of a resource that belong to the template language and not to the resource."""


@dataclass(frozen=True)
class CopyBatch:
    """The place of a resource in its copy loop."""

    name: str
    index: int
    count: int
    mode: Literal["parallel", "serial"]
    batch_size: int
    """How many at a time in serial mode."""

    @property
    def batch(self) -> int:
        """The number of the batch, from 0; in parallel mode there is one."""
        return self.index // self.batch_size if self.mode == "serial" else 0


class Builder(Protocol):
    """Lays out a nested template."""

    def __call__(
        self,
        document: Value,
        given: Mapping[str, Given],
        scope: Scope,
        place: Place,
        partial: bool,
        outer: Entry | None,
    ) -> Template: ...


@dataclass(frozen=True)
class Family:
    """What the resources of one template share."""

    scope: Scope
    indexes: tuple[Index[Entry], ...]
    """The template's own resources, then those of templates whose expressions are evaluated with it."""
    build: Builder


@dataclass(eq=False)
class Entry:
    """A resource that a template declares. Ids are full; `name` has all segments (`parent/child`)."""

    id: str
    type: str
    api_version: str
    name: str
    key: str
    """Unique within the template: the symbol, or the id where there is none."""
    symbol: str | None
    """The symbolic name; of a loop's instance `name[index]`."""
    existing: bool
    condition: bool
    copy: CopyBatch | None
    family: Family = field(repr=False)
    definition: Mapping[str, Any] = field(repr=False)
    context: Context = field(repr=False)
    place: Place = field(repr=False)
    target: tuple[str | None, str | None] = (None, None)
    """Subscription and resource group that the resource's own `subscriptionId` and `resourceGroup` name."""
    depends_on: tuple[str, ...] = ()
    """Ids of the resources of this template that are deployed before this one."""
    predecessors: frozenset[str] = frozenset()
    """Keys of all that comes before this one: what it depends on, existing resources, and earlier batches."""

    def body(self, resolver: Resolver) -> dict[str, Value]:
        """The resource to be sent, fully evaluated: location, tags, properties, sku, ...

        Of a nested deployment the template in its properties stays as it is. Raises TemplateError.
        """
        return self._evaluated(self._running(resolver))

    def preview(self) -> dict[str, Value]:
        """The same, as a preview shows it: what is not known yet, or secret, is the text of its expression."""
        result: dict[str, Value] = rendered(self._evaluated(replace(self.context, partial=True, masked=True)))
        return result

    def check(self) -> None:
        """Raise TemplateError for what is wrong with the body already before anything is deployed."""
        self._evaluated(self._static)

    @property
    def is_deployment(self) -> bool:
        return fold(self.type) == fold(DEPLOYMENTS) and not self.existing

    def nested_scope(self) -> Scope:
        """The scope that a nested deployment deploys into; of another group or subscription only the ids are known."""
        subscription, group = self.target
        scope = self.family.scope
        properties = self.definition.get("properties", {})
        deployment = {"name": self.name, "properties": {**properties, "provisioningState": "Accepted"}}
        own_subscription = str(scope.subscription.get("subscriptionId", ""))
        if group is not None:
            return within_group(scope, subscription or own_subscription, group, deployment)
        if subscription is not None:
            return within_subscription(scope, subscription, deployment)
        return replace(scope, deployment=deployment)

    def nested(self, resolver: Resolver | None, scope: Scope | None = None) -> Template:
        """The template of a nested deployment, laid out.

        Without a resolver what needs deployed resources stays unknown, as a preview wants it; where a name, a
        condition or a count needs it, ShortCircuited is raised. `scope` is for a caller who knows more of another
        resource group than `nested_scope()` does. Raises TemplateError.
        """
        properties = self.definition.get("properties")
        if not self.is_deployment or not isinstance(properties, dict):
            raise self._unprocessed("it is not a nested deployment with properties")
        if "template" not in properties:
            raise NotSupported(
                f"The nested deployment '{self.name}' has no template of its own; linked templates and template specs "
                "are not supported.",
                target=self.name,
            )
        scope = scope or self.nested_scope()
        place = self.place.at("properties", "template")
        context = self._static if resolver is None else self._running(resolver)
        inner = self._inner(properties, context)
        given = self._given(properties.get("parameters") or {}, context) if inner else {}
        with bounded():
            outer = None if inner else self
            return self.family.build(properties["template"], given, scope, place, resolver is None, outer)

    def implied(self) -> Iterator[Entry]:
        """Resources of the template that the body asks for by name with reference() or list*()."""
        body = {key: item for key, item in self.definition.items() if key not in _ENVELOPE}
        properties = body.get("properties")
        if self.is_deployment and isinstance(properties, dict) and self._inner(properties, self._static):
            # The names in such a template are its own.
            body["properties"] = {key: item for key, item in properties.items() if key != "template"}
        for text in _expressions(body):
            try:
                tree = expressions.parse(text[1:-1])
            except ExpressionError:
                # check() tells of it, with the place.
                continue
            for call in expressions.calls(tree):
                named = fold(call.name) in (fold("reference"), fold("references")) or is_list_function(call.name)
                if named and call.arguments and not call.namespace:
                    yield from self._named(call.arguments[0])

    def _named(self, argument: expressions.Node) -> Iterator[Entry]:
        try:
            text = evaluate(argument, self._static)
            found = self.family.indexes[0].find(text) if isinstance(text, str) and not text.startswith("/") else None
        except ExpressionError:
            # Inside a loop of properties or a lambda the argument has no value here; dependsOn names it then.
            return
        yield from found or ()

    @property
    def _static(self) -> Context:
        return replace(self.context, partial=True)

    def _running(self, resolver: Resolver) -> Context:
        runtime = TemplateRuntime(self.family.indexes, self.family.scope, resolver)
        return replace(self.context, runtime=runtime, partial=False)

    def _evaluated(self, context: Context) -> dict[str, Value]:
        body = {key: item for key, item in self.definition.items() if key not in _ENVELOPE}
        try:
            with bounded():
                if not self.is_deployment or not isinstance(body.get("properties"), dict):
                    result: dict[str, Value] = evaluate_value(body, context)
                    return result
                properties = body.pop("properties")
                template = {key: item for key, item in properties.items() if key == "template"}
                rest = {key: item for key, item in properties.items() if key != "template"}
                return {
                    **evaluate_value(body, context),
                    "properties": {**evaluate_value(rest, context), **template},
                }
        except ExpressionError as error:
            raise self._unprocessed(str(error)) from None

    def _inner(self, properties: Mapping[str, Any], context: Context) -> bool:
        try:
            options = evaluate_value(properties.get("expressionEvaluationOptions", {}), context)
        except ExpressionError as error:
            raise self._unprocessed(str(error)) from None
        return isinstance(options, dict) and str(options.get("scope", "")).lower() == "inner"

    def _given(self, parameters: Value, context: Context) -> dict[str, Given]:
        if not isinstance(parameters, dict):
            raise self._unprocessed("the parameters of a nested deployment must be an object")
        given: dict[str, Given] = {}
        masked = replace(self.context, partial=True, masked=True)
        for name, parameter in parameters.items():
            try:
                values = evaluate_value(parameter, context)
                shown = evaluate_value(parameter, masked)
            except ExpressionError as error:
                raise self._unprocessed(str(error)) from None
            if isinstance(values, Unevaluated):
                given[name] = Given(values, shown)
                continue
            if not isinstance(values, dict):
                raise self._unprocessed(f"the parameter '{name}' must be an object with the member 'value'")
            if values.get("reference") is not None:
                raise NotSupported(
                    f"The parameter '{name}' of '{self.name}' is a Key Vault reference; a reference to a key vault is "
                    "not supported.",
                    target=name,
                )
            if values.get("value") is not None:
                given[name] = Given(values["value"], shown.get("value") if isinstance(shown, dict) else shown)
        return given

    def _unprocessed(self, reason: str) -> Exception:
        return self.place.unprocessed(
            f"Unable to process template language expressions for resource '{self.id}' {self.place.where}. '{reason}'"
        )


def _expressions(value: Value) -> Iterator[str]:
    """Every expression within a value of a template."""
    if isinstance(value, str):
        if expressions.is_expression(value):
            yield value
    elif isinstance(value, list):
        for item in value:
            yield from _expressions(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _expressions(key)
            yield from _expressions(item)

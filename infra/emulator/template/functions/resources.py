"""Functions on resource ids and scopes, on names of the template, and those that need deployed resources."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from infra.emulator.template.context import Context, Function, Runtime, Unevaluated, as_node
from infra.emulator.template.errors import ExpressionError, NotSupported
from infra.emulator.template.expressions import Call
from infra.emulator.template.functions import arguments
from infra.emulator.template.functions.arguments import failed
from infra.emulator.template.scope import Scope, group_id, resource_id
from infra.emulator.template.values import Value


def _texts(function: str, given: list[Value]) -> list[str]:
    return [arguments.text(function, value) for value in given]


def _built(function: str, scope_id: str, type_name: str, names: list[str]) -> str:
    try:
        return resource_id(scope_id, type_name, names)
    except ExpressionError as error:
        raise failed(function, str(error)) from None


def _scope_parts(function: str, given: list[str], most: int) -> tuple[list[str], str, list[str]]:
    """What stands before the resource type (the first argument with a slash), the type, and the names."""
    for index, text in enumerate(given[: most + 1]):
        if "/" in text:
            return given[:index], text, given[index + 1 :]
    raise failed(function, f"a fully qualified resource type is expected among its first {most + 1} arguments.")


def _resource_id(context: Context, given: list[Value]) -> Value:
    scope = context.scope
    before, type_name, names = _scope_parts("resourceId", _texts("resourceId", given), 2)
    if scope.kind in ("tenant", "managementGroup") and not before:
        return _built("resourceId", "", type_name, names)
    if len(before) == 2:
        return _built("resourceId", group_id(*before), type_name, names)
    if len(before) == 1 and scope.kind == "resourceGroup":
        return _built("resourceId", group_id(_subscription_id(scope), before[0]), type_name, names)
    if len(before) == 1:
        return _built("resourceId", f"/subscriptions/{before[0]}", type_name, names)
    return _built("resourceId", scope.id, type_name, names)


def _subscription_resource_id(context: Context, given: list[Value]) -> Value:
    name = "subscriptionResourceId"
    before, type_name, names = _scope_parts(name, _texts(name, given), 1)
    subscription = before[0] if before else _subscription_id(context.scope)
    return _built(name, f"/subscriptions/{subscription}", type_name, names)


def _management_group_resource_id(context: Context, given: list[Value]) -> Value:
    name = "managementGroupResourceId"
    before, type_name, names = _scope_parts(name, _texts(name, given), 1)
    group = before[0] if before else str(_management_group(context, [])["name"])
    return _built(name, f"/providers/Microsoft.Management/managementGroups/{group}", type_name, names)


def _tenant_resource_id(given: list[Value]) -> Value:
    type_name, *names = _texts("tenantResourceId", given)
    return _built("tenantResourceId", "", type_name, names)


def _extension_resource_id(given: list[Value]) -> Value:
    base, type_name, *names = _texts("extensionResourceId", given)
    return _built("extensionResourceId", base.rstrip("/"), type_name, names)


def _subscription_id(scope: Scope) -> str:
    if scope.kind not in ("resourceGroup", "subscription"):
        raise _out_of_scope("subscription")
    return str(scope.subscription["subscriptionId"])


def _out_of_scope(function: str) -> ExpressionError:
    return ExpressionError(
        f"The template function '{function}' is not expected at this location: the deployment's scope has none."
    )


def _scope_value(
    name: str, kinds: tuple[str, ...], pick: Callable[[Scope], Mapping[str, Any] | None]
) -> Callable[[Context, list[Value]], Value]:
    def apply(context: Context, given: list[Value]) -> Value:
        value = pick(context.scope)
        if context.scope.kind not in kinds or value is None:
            raise _out_of_scope(name)
        return dict(value)

    return apply


_BELOW_SUBSCRIPTIONS = ("resourceGroup", "subscription")
_ANYWHERE = ("resourceGroup", "subscription", "managementGroup", "tenant")
_management_group = _scope_value("managementGroup", ("managementGroup",), lambda scope: scope.management_group)


def _parameters(context: Context, given: list[Value]) -> Value:
    return context.names.parameter(arguments.text("parameters", given[0]), context)


def _variables(context: Context, given: list[Value]) -> Value:
    return context.names.variable(arguments.text("variables", given[0]), context)


def _copy_index(context: Context, given: list[Value]) -> Value:
    name = given[0] if given and isinstance(given[0], str) else ""
    offsets = given[1:] if name else given
    if len(offsets) > 1:
        raise failed("copyIndex", "it expects the name of a loop, an offset, or both.")
    if name.lower() not in context.loops:
        raise ExpressionError(
            "The template function 'copyIndex' is not expected at this location. The function can only be used in a "
            f"resource with copy specified{f', and there is no loop named {name!r} here' if name else ''}."
        )
    offset = arguments.integer("copyIndex", offsets[0]) if offsets else 0
    return context.loops[name.lower()] + offset


def _needs_runtime(name: str, act: Callable[[Runtime, list[Value]], Value]) -> Callable[[Context, list[Value]], Value]:
    def apply(context: Context, given: list[Value]) -> Value:
        if context.runtime is not None:
            return act(context.runtime, given)
        if context.partial:
            return Unevaluated(Call(name, tuple(as_node(value) for value in given)))
        raise ExpressionError(f"The template function '{name}' is not expected at this location.")

    return apply


def _full(function: str, given: list[Value], index: int) -> bool:
    if len(given) <= index:
        return False
    if arguments.text(function, given[index]).lower() != "full":
        raise failed(function, f"its argument '{given[index]}' is not valid; the only allowed value is 'Full'.")
    return True


def _reference(runtime: Runtime, given: list[Value]) -> Value:
    identifier = arguments.text("reference", given[0])
    # reference('name', 'Full') is as good as reference('name', '2025-01-01', 'Full').
    if len(given) == 2 and isinstance(given[1], str) and given[1].lower() == "full":
        return runtime.reference(identifier, None, True)
    version = arguments.text("reference", given[1]) if len(given) > 1 and given[1] is not None else None
    return runtime.reference(identifier, version, _full("reference", given, 2))


def _references(runtime: Runtime, given: list[Value]) -> Value:
    return runtime.references(arguments.text("references", given[0]), _full("references", given, 1))


def is_list_function(name: str) -> bool:
    """Whether a name is one of the functions list*(), which every provider may add to."""
    return name.lower().startswith("list") and len(name) > len("list")


def list_function(name: str) -> Function:
    """The function list*() of a name, such as listKeys."""

    def act(runtime: Runtime, given: list[Value]) -> Value:
        identifier, version = arguments.text(name, given[0]), arguments.text(name, given[1])
        return runtime.list_action(name, identifier, version, given[2] if len(given) > 2 else None)

    return Function(name, 2, 4, scoped=_needs_runtime(name, act))


def _not_here(name: str) -> Function:
    def apply(context: Context, given: list[Value]) -> Value:
        raise NotSupported(f"The template function '{name}' is not supported: it needs data about Azure's regions.")

    return Function(name, 0, None, scoped=apply)


FUNCTIONS = (
    Function("resourceId", 2, None, scoped=_resource_id),
    Function("subscriptionResourceId", 2, None, scoped=_subscription_resource_id),
    Function("managementGroupResourceId", 2, None, scoped=_management_group_resource_id),
    Function("tenantResourceId", 2, None, pure=_tenant_resource_id),
    Function("extensionResourceId", 3, None, pure=_extension_resource_id),
    Function(
        "resourceGroup",
        0,
        0,
        scoped=_scope_value("resourceGroup", ("resourceGroup",), lambda scope: scope.resource_group),
    ),
    Function(
        "subscription",
        0,
        0,
        scoped=_scope_value("subscription", _BELOW_SUBSCRIPTIONS, lambda scope: scope.subscription),
    ),
    Function("managementGroup", 0, 0, scoped=_management_group),
    Function("tenant", 0, 0, scoped=_scope_value("tenant", _ANYWHERE, lambda scope: scope.tenant)),
    Function("environment", 0, 0, scoped=_scope_value("environment", _ANYWHERE, lambda scope: scope.environment)),
    Function("deployment", 0, 0, scoped=_scope_value("deployment", _ANYWHERE, lambda scope: scope.deployment)),
    Function("deployer", 0, 0, scoped=_scope_value("deployer", _ANYWHERE, lambda scope: scope.deployer)),
    Function("parameters", 1, 1, scoped=_parameters),
    Function("variables", 1, 1, scoped=_variables),
    Function("copyIndex", 0, 2, scoped=_copy_index),
    Function("reference", 1, 3, scoped=_needs_runtime("reference", _reference)),
    Function("references", 1, 2, scoped=_needs_runtime("references", _references)),
    _not_here("providers"),
    _not_here("pickZones"),
    _not_here("toLogicalZone"),
    _not_here("toLogicalZones"),
    _not_here("toPhysicalZone"),
    _not_here("toPhysicalZones"),
)

"""Functions on objects, and JSON texts."""

from __future__ import annotations

from infra.emulator.template.context import Function, Unevaluated
from infra.emulator.template.errors import ExpressionError
from infra.emulator.template.functions import arguments
from infra.emulator.template.functions.arguments import failed
from infra.emulator.template.json_text import JsonError, read
from infra.emulator.template.values import Value, find_key, fold, is_integer, type_name


def access(base: Value, key: Value) -> Value:
    """`base.key` or `base[key]`: property names ignore case; what is not there is an error."""
    if isinstance(base, dict):
        if not isinstance(key, str):
            raise ExpressionError(
                f"The language expression property '{key}' can't be evaluated, property name must be a string."
            )
        known = find_key(base, key)
        if known is None:
            available = ", ".join(base)
            raise ExpressionError(
                f"The language expression property '{key}' doesn't exist, available properties are '{available}'."
            )
        return base[known]
    if isinstance(base, list):
        if not is_integer(key):
            raise ExpressionError(
                f"The language expression property '{key}' can't be evaluated, array index must be an integer."
            )
        if not 0 <= key < len(base):
            raise ExpressionError(f"The language expression property array index '{key}' is out of bounds.")
        return base[key]
    raise ExpressionError(
        f"The language expression property '{key}' can't be evaluated, as the value is of type '{type_name(base)}'."
    )


def parse_json(function: str, text: str) -> Value:
    try:
        return read(text)[0]
    except JsonError as error:
        raise failed(function, f"the text is not valid JSON. {error}") from None


def ordered_keys(mapping: dict[str, Value]) -> list[str]:
    """Keys by their code points in upper case; those that differ only in case stay in their order."""
    return sorted(mapping, key=fold)


def _try_get(given: list[Value]) -> Value:
    """Only the first step may lead nowhere; the steps behind it are as `.name` and `[index]`."""
    base, first, *steps = given
    if base is None:
        return None
    if isinstance(base, dict) and isinstance(first, str):
        known = find_key(base, first)
        if known is None:
            return None
        value = base[known]
    elif isinstance(base, list) and is_integer(first):
        if not 0 <= first < len(base):
            return None
        value = base[first]
    else:
        value = access(base, first)
    for step in steps:
        value = access(value, step)
    return value


def _create_object(given: list[Value]) -> Value:
    if len(given) % 2:
        raise failed("createObject", "it requires an even number of arguments: keys and values.")
    return {arguments.text("createObject", key): value for key, value in zip(given[::2], given[1::2], strict=True)}


def _shallow_merge(given: list[Value]) -> Value:
    merged: dict[str, Value] = {}
    for part in arguments.array("shallowMerge", given[0]):
        for key, value in arguments.mapping("shallowMerge", part).items():
            merged[find_key(merged, key) or key] = value
    return merged


def _items(given: list[Value]) -> Value:
    mapping = arguments.mapping("items", given[0])
    return [{"key": key, "value": mapping[key]} for key in ordered_keys(mapping)]


def _known_steps(given: list[Value]) -> bool:
    if any(isinstance(value, Unevaluated) for value in given):
        return False
    # A step into a part that is not evaluated gives no value yet.
    value = given[0]
    for step in given[1:-1]:
        if isinstance(value, dict) and isinstance(step, str) and (known := find_key(value, step)) is not None:
            value = value[known]
        elif isinstance(value, list) and is_integer(step) and 0 <= step < len(value):
            value = value[step]
        if isinstance(value, Unevaluated):
            return False
    return True


def _container(given: list[Value]) -> bool:
    return not isinstance(given[0], Unevaluated)


def _known_parts(given: list[Value]) -> bool:
    return isinstance(given[0], list) and not any(isinstance(part, Unevaluated) for part in given[0])


FUNCTIONS = (
    Function(
        "createObject",
        0,
        None,
        pure=_create_object,
        sees_through=lambda given: not any(isinstance(key, Unevaluated) for key in given[::2]),
    ),
    Function("json", 1, 1, pure=lambda given: parse_json("json", arguments.text("json", given[0]))),
    Function("items", 1, 1, pure=_items, sees_through=_container),
    Function(
        "objectKeys",
        1,
        1,
        pure=lambda given: ordered_keys(arguments.mapping("objectKeys", given[0])),
        sees_through=_container,
    ),
    Function("shallowMerge", 1, 1, pure=_shallow_merge, sees_through=_known_parts),
    Function("tryGet", 2, None, pure=_try_get, sees_through=_known_steps),
)

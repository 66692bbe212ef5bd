"""Functions on arrays, and those that take an array as well as a string or an object.

Positions and lengths in strings count UTF-16 units.
"""

from __future__ import annotations

from infra.emulator.template.context import Function, Unevaluated
from infra.emulator.template.functions import arguments
from infra.emulator.template.functions.arguments import failed, wrong
from infra.emulator.template.values import (
    Value,
    contained,
    find_key,
    fold,
    from_units,
    same,
    text_of,
    type_name,
    units,
)


def _containers(given: list[Value]) -> bool:
    """Whether every argument is known itself, so that only values inside containers are not."""
    return not any(isinstance(value, Unevaluated) for value in given)


def _objects(given: list[Value]) -> bool:
    return all(isinstance(value, dict) for value in given)


def _object_first(given: list[Value]) -> bool:
    return isinstance(given[0], dict) and isinstance(given[1], str)


def _concat(given: list[Value]) -> Value:
    if all(isinstance(value, list) for value in given):
        return [item for value in given for item in value]
    for value in given:
        if value is None or isinstance(value, (list, dict)):
            raise failed("concat", "all arguments must be arrays, or all must be strings or other literal values.")
    return "".join(text_of(value) for value in given)


def _contains(given: list[Value]) -> Value:
    container, item = given
    if isinstance(container, str):
        return arguments.text("contains", item) in container
    if isinstance(container, dict):
        return find_key(container, arguments.text("contains", item)) is not None
    if isinstance(container, list):
        return contained(item, container)
    raise wrong("contains", "String, Array, Object", container)


def _empty(given: list[Value]) -> Value:
    value = given[0]
    if value is not None and not isinstance(value, (str, list, dict)):
        raise wrong("empty", "String, Array, Object", value)
    return not value


def _length(given: list[Value]) -> Value:
    value = given[0]
    if isinstance(value, str):
        return len(units(value))
    if isinstance(value, (list, dict)):
        return len(value)
    raise wrong("length", "String, Array, Object", value)


def _end(name: str, index: int) -> Function:
    def apply(given: list[Value]) -> Value:
        value = given[0]
        if isinstance(value, str):
            return from_units(units(value)[index]) if value else ""
        items = arguments.array(name, value)
        return items[index] if items else None

    return Function(name, 1, 1, pure=apply, sees_through=_containers)


def _part(name: str, from_the_start: bool) -> Function:
    def apply(given: list[Value]) -> Value:
        value, count = given[0], max(0, arguments.integer(name, given[1]))
        if isinstance(value, str):
            letters = units(value)
            return from_units(letters[:count] if from_the_start else letters[count:])
        items = arguments.array(name, value)
        return items[:count] if from_the_start else items[count:]

    return Function(name, 2, 2, pure=apply, sees_through=_containers)


def _position(name: str, last: bool) -> Function:
    def apply(given: list[Value]) -> Value:
        container, item = given
        if isinstance(container, str):
            letters, wanted = fold(units(container)), fold(units(arguments.text(name, item)))
            return letters.rfind(wanted) if last else letters.find(wanted)
        found = [index for index, other in enumerate(arguments.array(name, container)) if same(item, other)]
        return (found[-1] if last else found[0]) if found else -1

    return Function(name, 2, 2, pure=apply)


def _from_end(name: str, missing_is_null: bool) -> Function:
    def apply(given: list[Value]) -> Value:
        items, index = arguments.array(name, given[0]), arguments.integer(name, given[1])
        if 1 <= index <= len(items):
            return items[-index]
        if missing_is_null:
            return None
        raise failed(name, f"the index '{index}' from the end is out of bounds for an array of length '{len(items)}'.")

    return Function(name, 2, 2, pure=apply, sees_through=_containers)


def _distinct(items: list[Value]) -> list[Value]:
    kept: list[Value] = []
    for item in items:
        if not contained(item, kept):
            kept.append(item)
    return kept


def _union(given: list[Value]) -> Value:
    if all(isinstance(value, list) for value in given):
        return _distinct([item for value in given for item in value])
    if not all(isinstance(value, dict) for value in given):
        raise _mixed("union", given)
    merged: dict[str, Value] = {}
    for value in given:
        merged = _merged(merged, value)
    return merged


def _merged(left: dict[str, Value], right: dict[str, Value]) -> dict[str, Value]:
    """Two objects merged in depth; of keys that differ only in case the right one's spelling stays."""
    result = dict(left)
    for key, value in right.items():
        known = find_key(result, key)
        if known is not None:
            before = result[known]
            both = isinstance(before, dict) and isinstance(value, dict)
            value = _merged(before, value) if both else value
            if known != key:
                del result[known]
        result[key] = value
    return result


def _intersection(given: list[Value]) -> Value:
    first, *others = given
    if all(isinstance(value, list) for value in given):
        return _distinct([item for item in first if all(contained(item, other) for other in others)])
    if not all(isinstance(value, dict) for value in given):
        raise _mixed("intersection", given)
    return {
        key: value for key, value in first.items() if all(key in other and same(value, other[key]) for other in others)
    }


def _mixed(function: str, given: list[Value]) -> Exception:
    kinds = ", ".join(type_name(value) for value in given)
    return failed(function, f"all arguments must be arrays, or all must be objects. Their types are '{kinds}'.")


def _flatten(given: list[Value]) -> Value:
    return [item for inner in arguments.array("flatten", given[0]) for item in arguments.array("flatten", inner)]


def _join(given: list[Value]) -> Value:
    items, delimiter = arguments.array("join", given[0]), arguments.text("join", given[1])
    for item in items:
        if isinstance(item, (list, dict)):
            raise wrong("join", "String", item)
    return delimiter.join(text_of(item) for item in items)


def _array(given: list[Value]) -> Value:
    return given[0] if isinstance(given[0], list) else [given[0]]


FUNCTIONS = (
    Function("array", 1, 1, pure=_array, sees_through=_containers),
    Function("createArray", 0, None, pure=lambda given: given, sees_through=lambda given: True),
    Function("concat", 1, None, pure=_concat, sees_through=_containers),
    Function("contains", 2, 2, pure=_contains, sees_through=_object_first),
    Function("empty", 1, 1, pure=_empty, sees_through=_containers),
    Function("length", 1, 1, pure=_length, sees_through=_containers),
    _end("first", 0),
    _end("last", -1),
    _part("take", True),
    _part("skip", False),
    _position("indexOf", False),
    _position("lastIndexOf", True),
    _from_end("indexFromEnd", False),
    _from_end("tryIndexFromEnd", True),
    Function("union", 1, None, pure=_union, sees_through=_objects),
    Function("intersection", 1, None, pure=_intersection),
    Function("flatten", 1, 1, pure=_flatten, sees_through=_containers),
    Function("join", 2, 2, pure=_join),
)

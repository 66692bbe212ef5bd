"""What-if's comparison of two documents: the property changes between what is there and what is asked. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

# What tells elements of an array apart, in this order.
_IDENTITIES = ("name", "id", "key")
_Indexed = tuple[int, Any]


def compare(before: dict[str, Any], after: dict[str, Any]) -> list[dict[str, Any]]:
    """The changes, by path. Members are compared without regard to case, the elements of arrays to their order."""
    return _objects(before, after, "")


def without_empty(value: Any) -> Any:
    """`value` without members that are null, or empty once this is done; elements of arrays stay."""
    if isinstance(value, dict):
        cleaned = {key: without_empty(item) for key, item in value.items()}
        return {key: item for key, item in cleaned.items() if item is not None and item != {} and item != []}
    if isinstance(value, list):
        return [without_empty(item) for item in value]
    return value


def without_null(value: Any) -> Any:
    """`value` without members that are null."""
    if isinstance(value, dict):
        return {key: without_null(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_null(item) for item in value]
    return value


def ordered_values(change: dict[str, Any]) -> dict[str, Any]:
    """A property change whose values are ordered; its own members stay as they are."""
    result = {key: ordered(value) if key in ("before", "after") else value for key, value in change.items()}
    if "children" in change:
        result["children"] = [ordered_values(child) for child in change["children"]]
    return result


def ordered(value: Any) -> Any:
    """`value` with the members of every object in alphabetical order, without regard to case."""
    if isinstance(value, dict):
        return {key: ordered(value[key]) for key in sorted(value, key=lambda name: (name.lower(), name))}
    if isinstance(value, list):
        return [ordered(item) for item in value]
    return value


def _objects(before: dict[str, Any], after: dict[str, Any], path: str) -> list[dict[str, Any]]:
    """Names are compared without regard to case, and the path has the template's spelling."""
    old = {key.lower(): (key, value) for key, value in before.items()}
    new = {key.lower(): (key, value) for key, value in after.items()}
    changes = []
    for folded in sorted(old.keys() | new.keys()):
        name = (new.get(folded) or old[folded])[0]
        own = f"{path}.{name}" if path else name
        if folded not in new:
            changes.append({"path": own, "propertyChangeType": "Delete", "before": old[folded][1]})
        elif folded not in old:
            changes.append({"path": own, "propertyChangeType": "Create", "after": new[folded][1]})
        else:
            changes += _values(old[folded][1], new[folded][1], own)
    return changes


def _values(before: Any, after: Any, path: str) -> list[dict[str, Any]]:
    if isinstance(before, dict) and isinstance(after, dict):
        return _objects(before, after, path)
    if isinstance(before, list) and isinstance(after, list):
        children = _arrays(before, after)
        return [{"path": path, "propertyChangeType": "Array", "children": children}] if children else []
    if _same(before, after):
        return []
    return [{"path": path, "propertyChangeType": "Modify", "before": before, "after": after}]


def _arrays(before: list[Any], after: list[Any]) -> list[dict[str, Any]]:
    """The order of elements does not count; elements that stand for the same thing are compared with each other."""
    left, right = list(enumerate(before)), list(enumerate(after))
    for pair in _pairs(left, right, lambda old, new: not _elements(old, new)):
        left.remove(pair[0])
        right.remove(pair[1])
    changes = []
    for similar in (_identical, lambda old, new: isinstance(old, dict) and isinstance(new, dict)):
        for old, new in _pairs(left, right, similar):
            left.remove(old)
            right.remove(new)
            children = _objects(old[1], new[1], "")
            changes.append((new[0], {"path": str(new[0]), "propertyChangeType": "Modify", "children": children}))
    changes += [(index, {"path": str(index), "propertyChangeType": "Delete", "before": old}) for index, old in left]
    changes += [(index, {"path": str(index), "propertyChangeType": "Create", "after": new}) for index, new in right]
    changes.sort(key=lambda change: change[0])
    return [change for _, change in changes]


def _pairs(
    left: list[_Indexed], right: list[_Indexed], similar: Callable[[Any, Any], bool]
) -> list[tuple[_Indexed, _Indexed]]:
    """Each element of `left` with the first one of `right` that is similar and still free."""
    found, free = [], list(right)
    for old in left:
        new = next((candidate for candidate in free if similar(old[1], candidate[1])), None)
        if new is not None:
            free.remove(new)
            found.append((old, new))
    return found


def _identical(old: Any, new: Any) -> bool:
    if not isinstance(old, dict) or not isinstance(new, dict):
        return False
    return next((old[key] == new[key] for key in _IDENTITIES if key in old and key in new), False)


def _elements(old: Any, new: Any) -> list[dict[str, Any]]:
    return _values(old, new, "0")


def _same(old: Any, new: Any) -> bool:
    return (type(old) is type(new) and bool(old == new)) or (_is_number(old) and _is_number(new) and bool(old == new))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)

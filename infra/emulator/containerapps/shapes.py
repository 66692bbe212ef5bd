"""Request bodies -> documents: members in the service's order and spelling, values of the service's types.

The service takes keys in any case and counts as texts, and shows what it took in its own way. Which members are shown
as null when they are absent, and which are left out, is recorded (test recordings of the Azure CLI, 2024 and 2025).
Knows no rule about values and no default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from infra.emulator.exceptions import AzureError


@dataclass(frozen=True)
class Scalar:
    """A text, integer, number or boolean. `choices`: the spellings of a closed set, compared without regard to case."""

    kind: str
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Shape:
    """An object. `nulls`: absent members are shown as null; otherwise nulls are left out."""

    name: str
    members: Mapping[str, Member]
    nulls: bool = False


@dataclass(frozen=True)
class ListOf:
    """An array."""

    item: Member


@dataclass(frozen=True)
class Ignored:
    """A read-only member: clients send back what they got, and the service takes no notice of it."""


@dataclass(frozen=True)
class Free:
    """An object whose keys the client chooses; taken as it is."""


Member = Scalar | Shape | ListOf | Ignored | Free

TEXT, INTEGER, NUMBER, BOOLEAN = Scalar("text"), Scalar("integer"), Scalar("number"), Scalar("boolean")
IGNORED, FREE = Ignored(), Free()


def choice(*spellings: str) -> Scalar:
    """A text out of a closed set."""
    return Scalar("text", spellings)


def take(body: Any, member: Member, path: str = "") -> Any:
    """`body` in the shape that the service gives it. Raises AzureError 400 for a wrong type or an unknown member.

    The words of these refusals are those of the deserialiser that the resource manager is known to use; how
    Microsoft.App itself words them is not recorded.
    """
    if body is None:
        return None
    if isinstance(member, Scalar):
        return _scalar(body, member, path)
    if isinstance(member, ListOf):
        if not isinstance(body, list):
            raise _wrong(body, "an array", path)
        return [take(item, member.item, f"{path}[{index}]") for index, item in enumerate(body)]
    if not isinstance(body, dict):
        raise _wrong(body, "an object", path)
    if isinstance(member, Shape):
        return _object(body, member, path)
    return dict(body)


def _object(body: dict[str, Any], shape: Shape, path: str) -> dict[str, Any]:
    spelling = {name.lower(): name for name in shape.members}
    given: dict[str, Any] = {}
    for key, value in body.items():
        name = spelling.get(key.lower())
        if name is None:
            place = f"{path}.{key}" if path else key
            raise AzureError(
                400,
                "InvalidRequestContent",
                "The request content was invalid and could not be deserialized: 'Could not find member"
                f" '{key}' on object of type '{shape.name}'. Path '{place}'.'.",
            )
        given[name] = value
    taken: dict[str, Any] = {}
    for name, member in shape.members.items():
        if isinstance(member, Ignored):
            continue
        value = take(given.get(name), member, f"{path}.{name}" if path else name)
        if value is not None or shape.nulls:
            taken[name] = value
    return taken


def _scalar(value: Any, scalar: Scalar, path: str) -> Any:
    if scalar.kind == "text":
        if not isinstance(value, str):
            if isinstance(value, (bool, dict, list)):
                raise _wrong(value, "a string", path)
            value = str(value)
        if not scalar.choices:
            return value
        for spelling in scalar.choices:
            if spelling.lower() == value.lower():
                return spelling
        raise _wrong(value, "one of " + ", ".join(scalar.choices), path)
    if scalar.kind == "boolean":
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in ("true", "false"):
            return value.lower() == "true"
        raise _wrong(value, "a boolean", path)
    try:
        if isinstance(value, (bool, dict, list)):
            raise ValueError
        number = float(value)
        if scalar.kind == "integer":
            if number != int(number):
                raise ValueError
            return int(number)
        return int(number) if number == int(number) else number
    except (ValueError, OverflowError):
        raise _wrong(value, f"a{'n' if scalar.kind == 'integer' else ''} {scalar.kind}", path) from None


def _wrong(value: Any, wanted: str, path: str) -> AzureError:
    return AzureError(
        400,
        "InvalidRequestContent",
        "The request content was invalid and could not be deserialized: 'Error converting value"
        f" {value!r} to {wanted}. Path '{path}'.'.",
    )

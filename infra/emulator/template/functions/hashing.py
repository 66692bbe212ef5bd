"""uniqueString, guid and newGuid: deterministic hashes of their arguments, equal to Azure's."""

from __future__ import annotations

import uuid

from infra.emulator.template.context import Context, Function, Unevaluated
from infra.emulator.template.errors import ExpressionError
from infra.emulator.template.expressions import Call
from infra.emulator.template.functions import arguments
from infra.emulator.template.values import Value

_NAMESPACE = uuid.UUID("11fb06fb-712d-4ddd-98c7-e71bbd588830")
_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
_MASK = 0xFFFFFFFF
_A = 0xAB0E9789
_B = 0x239B961B


def unique_string(*parts: str) -> str:
    """13 characters of a-z and 2-7 for the parts joined by a hyphen; case counts.

    >>> unique_string("test")
    'rbgf3xv4ufgzg'
    """
    number = _murmur(_bytes(parts))
    # 13 characters of five bits hold 65 bits: the last one carries four, shifted left by one.
    return "".join(_ALPHABET[(number << 1 >> shift) & 31] for shift in range(60, -1, -5))


def guid(*parts: str) -> str:
    """The version 5 UUID (RFC 4122) of the parts joined by a hyphen, in Azure's namespace for templates."""
    return str(uuid.uuid5(_NAMESPACE, _bytes(parts).decode()))


def _bytes(parts: tuple[str, ...]) -> bytes:
    return "-".join(parts).encode("utf-8", "replace")


def _rotated(value: int, bits: int) -> int:
    value &= _MASK
    return (value << bits | value >> (32 - bits)) & _MASK


def _finished(value: int) -> int:
    value = ((value ^ value >> 16) * 0x85EBCA6B) & _MASK
    value = ((value ^ value >> 13) * 0xC2B2AE35) & _MASK
    return value ^ value >> 16


def _murmur(data: bytes) -> int:
    """A 64-bit relative of MurmurHash3 in two lanes of 32 bits, with Azure's constants and seed 0."""
    x = y = 0
    whole = len(data) - len(data) % 8
    for at in range(0, whole, 8):
        p, q = int.from_bytes(data[at : at + 4], "little"), int.from_bytes(data[at + 4 : at + 8], "little")
        x ^= _rotated(p * _B, 15) * _A & _MASK
        x = ((_rotated(x, 19) + y) * 5 + 0x561CCD1B) & _MASK
        y ^= _rotated(q * _A, 17) * _B & _MASK
        y = ((_rotated(y, 13) + x) * 5 + 0x0BCAA747) & _MASK
    x ^= _rotated(int.from_bytes(data[whole : whole + 4], "little") * _B, 15) * _A & _MASK
    y ^= _rotated(int.from_bytes(data[whole + 4 :], "little") * _A, 17) * _B & _MASK
    x, y = x ^ len(data), y ^ len(data)
    x = (x + y) & _MASK
    y = (y + x) & _MASK
    x, y = _finished(x), _finished(y)
    x = (x + y) & _MASK
    y = (y + x) & _MASK
    return y << 32 | x


def _new_guid(context: Context, given: list[Value]) -> Value:
    if not context.in_default:
        raise ExpressionError(
            "The template function 'newGuid' is not expected at this location. "
            "The function can only be used in the default value of a parameter."
        )
    return Unevaluated(Call("newGuid", ())) if context.masked else str(uuid.uuid4())


FUNCTIONS = (
    Function(
        "uniqueString",
        1,
        None,
        pure=lambda given: unique_string(*(arguments.text("uniqueString", value) for value in given)),
    ),
    Function("guid", 1, None, pure=lambda given: guid(*(arguments.text("guid", value) for value in given))),
    Function("newGuid", 0, 0, scoped=_new_guid),
)

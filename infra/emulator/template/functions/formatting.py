"""Composite formatting of .NET in the culture en-US: `{index[,alignment][:format]}`. Knows no template functions.

Formats apply to numbers; on other values they are ignored. Standard formats C, D, E, F, G, N, P, R, X and custom
patterns of 0 # . , % E and literals.
"""

from __future__ import annotations

import re
from decimal import ROUND_HALF_UP, Decimal

from infra.emulator.template.errors import ExpressionError
from infra.emulator.template.values import Value, from_units, json_text, number_text, text_of, units

_ITEM = re.compile(r"\{\s*(\d+)\s*(?:,\s*(-?\d+)\s*)?(?::((?:[^{}]|\{\{|\}\})*))?\}")
_STANDARD = re.compile(r"([A-Za-z])(\d{0,2})")
_WIDEST = 10_000


def format_text(pattern: str, values: list[Value]) -> str:
    """The pattern with its items replaced. Raises ExpressionError for a bad pattern or an index without a value."""
    parts: list[str] = []
    at = 0
    while at < len(pattern):
        letter = pattern[at]
        if letter not in "{}":
            parts.append(letter)
            at += 1
        elif pattern[at + 1 : at + 2] == letter:
            parts.append(letter)
            at += 2
        else:
            match = _ITEM.match(pattern, at)
            if not match:
                raise _failed(f"the format string has a brace without its partner at position '{at}'.")
            parts.append(_item(match, values))
            at = match.end()
    return "".join(parts)


def _failed(reason: str) -> ExpressionError:
    return ExpressionError(f"Unable to evaluate template language function 'format': {reason}")


def _item(match: re.Match[str], values: list[Value]) -> str:
    index, width = int(match[1]), int(match[2] or 0)
    if index >= len(values):
        raise _failed(f"the index '{index}' must be less than the number of values, '{len(values)}'.")
    if abs(width) > _WIDEST:
        raise _failed(f"the alignment '{width}' is out of range.")
    text = _value_text(values[index], (match[3] or "").replace("{{", "{").replace("}}", "}"))
    padding = " " * (abs(width) - len(units(text)))
    return from_units(text + padding if width < 0 else padding + text)


def _value_text(value: Value, form: str) -> str:
    if isinstance(value, (list, dict)):
        return json_text(value, quote="'")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not form:
        return text_of(value)
    standard = _STANDARD.fullmatch(form)
    if standard:
        precision = int(standard[2]) if standard[2] else None
        return _standard_text(value, standard[1], precision)
    return _custom_text(value, form)


def _standard_text(value: int | float, letter: str, precision: int | None) -> str:
    kind = letter.upper()
    exact = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    if kind in ("D", "X"):
        if isinstance(value, float):
            raise _failed(f"the format '{letter}' is for integers.")
        if kind == "D":
            return f"{'-' if value < 0 else ''}{abs(value):0{precision or 1}d}"
        text = f"{value % 2**64:0{precision or 1}x}"
        return text.upper() if letter == "X" else text
    if kind in ("N", "F"):
        return _fixed(exact, 2 if precision is None else precision, grouped=kind == "N")
    if kind == "C":
        digits = _fixed(abs(exact), 2 if precision is None else precision, grouped=True)
        return f"{'-' if exact < 0 else ''}${digits}"
    if kind == "P":
        return f"{_fixed(exact * 100, 2 if precision is None else precision, grouped=True)}%"
    if kind == "E":
        return _scientific(exact, 6 if precision is None else precision, 3, letter)
    if kind in ("G", "R"):
        return _general(value, exact, letter, precision)
    raise _failed(f"the format '{letter}' of numbers is not known.")


def _fixed(value: Decimal, digits: int, grouped: bool) -> str:
    rounded = value.quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP)
    text = f"{rounded:{',' if grouped else ''}f}"
    return text.removeprefix("-") if rounded == 0 else text


def _scientific(value: Decimal, digits: int, exponent_digits: int, letter: str) -> str:
    exponent = value.adjusted() if value else 0
    mantissa = _fixed(value.scaleb(-exponent), digits, grouped=False)
    if mantissa.lstrip("-").startswith("10"):
        exponent += 1
        mantissa = _fixed(value.scaleb(-exponent), digits, grouped=False)
    sign = "-" if exponent < 0 else "+"
    return f"{mantissa}{letter}{sign}{abs(exponent):0{exponent_digits}d}"


def _general(value: int | float, exact: Decimal, letter: str, precision: int | None) -> str:
    if not precision or letter.upper() == "R":
        return number_text(value)
    if exact and not -5 <= exact.adjusted() < precision:
        text = _scientific(exact, precision - 1, 2, "e" if letter == "g" else "E")
        mantissa, mark, exponent = text.partition("e" if letter == "g" else "E")
        return f"{_shortened(mantissa)}{mark}{exponent}"
    places = precision - 1 - exact.adjusted() if exact else 0
    return _shortened(_fixed(exact, max(places, 0), grouped=False))


def _shortened(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text


def _custom_text(value: int | float, form: str) -> str:
    sections = _sections(form)
    exact = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    if exact < 0 and len(sections) > 1 and sections[1]:
        return _section_text(-exact, sections[1])
    if exact == 0 and len(sections) > 2:
        return _section_text(exact, sections[2])
    return ("-" if exact < 0 else "") + _section_text(abs(exact), sections[0])


def _tokens(form: str) -> list[tuple[bool, str]]:
    """The pieces of a custom format: (whether it is a literal, its text)."""
    pieces: list[tuple[bool, str]] = []
    for match in re.finditer(r"'([^']*)'?|\"([^\"]*)\"?|\\(.)|(.)", form, re.DOTALL):
        quoted, doubly, escaped, plain = match.groups()
        literal = next((text for text in (quoted, doubly, escaped) if text is not None), None)
        pieces.append((False, plain) if literal is None else (True, literal))
    return pieces


def _sections(form: str) -> list[list[tuple[bool, str]]]:
    sections: list[list[tuple[bool, str]]] = [[]]
    for literal, text in _tokens(form):
        if not literal and text == ";":
            sections.append([])
        else:
            sections[-1].append((literal, text))
    return sections


def _section_text(value: Decimal, pieces: list[tuple[bool, str]]) -> str:
    marks = [text for literal, text in pieces if not literal]
    value *= Decimal(100) ** marks.count("%")
    point = marks.index(".") if "." in marks else len(marks)
    whole = [mark for mark in marks[:point] if mark in "0#"]
    fraction = [mark for mark in marks[point:] if mark in "0#"]
    before = "".join(mark for mark in marks[:point] if mark in "0#,")
    # Commas right before the point scale by a thousand each, others ask for groups of three digits.
    value /= Decimal(1000) ** (len(before) - len(before.rstrip(",")))
    digits, _, decimals = _fixed(value, len(fraction), grouped=False).partition(".")
    least = len(whole) - whole.index("0") if "0" in whole else 0
    digits = digits.lstrip("0").rjust(least, "0")
    needed = len(fraction) - fraction[::-1].index("0") if "0" in fraction else 0
    decimals = decimals[:needed] + decimals[needed:].rstrip("0")
    if "," in before.rstrip(","):
        start = len(digits) % 3
        groups = [digits[:start], *(digits[at : at + 3] for at in range(start, len(digits), 3))]
        digits = ",".join(group for group in groups if group)
    return _placed(pieces, digits, decimals)


def _placed(pieces: list[tuple[bool, str]], digits: str, decimals: str) -> str:
    """Literals where they stand; the digits at the first placeholder, the decimals at the point."""
    result: list[str] = []
    number_placed = point_passed = False
    for literal, text in pieces:
        if literal or text not in "0#.,":
            result.append(text)
        elif text == "." and not point_passed:
            result.append(("" if number_placed else digits) + (f".{decimals}" if decimals else ""))
            number_placed = point_passed = True
        elif text in "0#" and not number_placed:
            result.append(digits)
            number_placed = True
    return "".join(result)

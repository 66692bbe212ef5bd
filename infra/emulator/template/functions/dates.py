"""Functions on dates and times, with the formats of .NET in the invariant culture.

A time without an offset counts as UTC. Resolution is 100 ns, as in .NET.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from decimal import Decimal

from infra.emulator.template.context import Context, Function, Unevaluated, as_node
from infra.emulator.template.errors import ExpressionError
from infra.emulator.template.expressions import Call
from infra.emulator.template.functions import arguments
from infra.emulator.template.functions.arguments import failed
from infra.emulator.template.values import Value

_TICKS = 10_000_000
"""Ticks of 100 ns in a second."""
_EPOCH = datetime(1970, 1, 1)
_ISO = "yyyy-MM-ddTHH:mm:ssZ"
_COMPACT = "yyyyMMddTHHmmssZ"
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
_OFFSET = r"\s*(?P<offset>Z|[+-]\d{2}:?\d{2}|GMT)?"
_CLOCK = r"(?P<hour>\d{1,2}):(?P<minute>\d{2})(?::(?P<second>\d{2})(?:\.(?P<fraction>\d+))?)?(?:\s*(?P<half>[AP]M))?"
_FORMS = tuple(
    re.compile(form, re.IGNORECASE)
    for form in (
        rf"(?P<year>\d{{4}})-(?P<month>\d{{1,2}})-(?P<day>\d{{1,2}})(?:[T ]\s*{_CLOCK})?{_OFFSET}",
        rf"(?P<month>\d{{1,2}})/(?P<day>\d{{1,2}})/(?P<year>\d{{4}})(?:\s+{_CLOCK})?{_OFFSET}",
        r"(?P<year>\d{4})(?P<month>\d{2})(?P<day>\d{2})T(?P<hour>\d{2})(?P<minute>\d{2})(?P<second>\d{2})(?P<offset>Z)",
        rf"[A-Z]{{3}},\s*(?P<day>\d{{1,2}})\s+(?P<name>[A-Z]{{3}})\s+(?P<year>\d{{4}})\s+{_CLOCK}{_OFFSET}",
    )
)
_DURATION = re.compile(
    r"(?P<sign>-)?P(?=.)(?:(?P<years>\d+)Y)?(?:(?P<months>\d+)M)?(?:(?P<days>\d+)D)?"
    r"(?:T(?=.)(?:(?P<hours>\d+)H)?(?:(?P<minutes>\d+)M)?(?:(?P<seconds>\d+(?:\.\d+)?)S)?)?"
)


@dataclass(frozen=True)
class _Instant:
    clock: datetime
    """The wall clock, without time zone and without the part below a second."""
    ticks: int
    offset_minutes: int

    @property
    def utc(self) -> _Instant:
        return _Instant(self.clock - timedelta(minutes=self.offset_minutes), self.ticks, 0)

    def plus(self, seconds: Decimal) -> _Instant:
        ticks = self.ticks + int(seconds * _TICKS)
        return _Instant(self.clock + timedelta(seconds=ticks // _TICKS), ticks % _TICKS, self.offset_minutes)

    def offset_text(self, colon: str = ":") -> str:
        hours, minutes = divmod(abs(self.offset_minutes), 60)
        return f"{'-' if self.offset_minutes < 0 else '+'}{hours:02d}{colon}{minutes:02d}"


_STANDARD: Mapping[str, tuple[str, bool]] = {
    "d": ("MM/dd/yyyy", False),
    "D": ("dddd, dd MMMM yyyy", False),
    "f": ("dddd, dd MMMM yyyy HH:mm", False),
    "F": ("dddd, dd MMMM yyyy HH:mm:ss", False),
    "g": ("MM/dd/yyyy HH:mm", False),
    "G": ("MM/dd/yyyy HH:mm:ss", False),
    "m": ("MMMM dd", False),
    "M": ("MMMM dd", False),
    "o": ("yyyy-MM-ddTHH:mm:ss.fffffffK", False),
    "O": ("yyyy-MM-ddTHH:mm:ss.fffffffK", False),
    "r": ("ddd, dd MMM yyyy HH:mm:ss 'GMT'", True),
    "R": ("ddd, dd MMM yyyy HH:mm:ss 'GMT'", True),
    "s": ("yyyy-MM-ddTHH:mm:ss", False),
    "t": ("HH:mm", False),
    "T": ("HH:mm:ss", False),
    "u": ("yyyy-MM-dd HH:mm:ssZ", True),
    "U": ("dddd, dd MMMM yyyy HH:mm:ss", True),
    "y": ("yyyy MMMM", False),
    "Y": ("yyyy MMMM", False),
}
"""Standard formats: the custom format that each stands for, and whether the time is turned into UTC first."""

_SPECIFIERS: Mapping[str, Callable[[_Instant], str]] = {
    "yyyyy": lambda at: f"{at.clock.year:05d}",
    "yyyy": lambda at: f"{at.clock.year:04d}",
    "yyy": lambda at: f"{at.clock.year:03d}",
    "yy": lambda at: f"{at.clock.year % 100:02d}",
    "y": lambda at: str(at.clock.year % 100),
    "MMMM": lambda at: _MONTHS[at.clock.month - 1],
    "MMM": lambda at: _MONTHS[at.clock.month - 1][:3],
    "MM": lambda at: f"{at.clock.month:02d}",
    "M": lambda at: str(at.clock.month),
    "dddd": lambda at: _DAYS[at.clock.weekday()],
    "ddd": lambda at: _DAYS[at.clock.weekday()][:3],
    "dd": lambda at: f"{at.clock.day:02d}",
    "d": lambda at: str(at.clock.day),
    "HH": lambda at: f"{at.clock.hour:02d}",
    "H": lambda at: str(at.clock.hour),
    "hh": lambda at: f"{at.clock.hour % 12 or 12:02d}",
    "h": lambda at: str(at.clock.hour % 12 or 12),
    "mm": lambda at: f"{at.clock.minute:02d}",
    "m": lambda at: str(at.clock.minute),
    "ss": lambda at: f"{at.clock.second:02d}",
    "s": lambda at: str(at.clock.second),
    "tt": lambda at: "AM" if at.clock.hour < 12 else "PM",
    "t": lambda at: "A" if at.clock.hour < 12 else "P",
    "zzz": lambda at: at.offset_text(),
    "zz": lambda at: at.offset_text()[:3],
    "z": lambda at: f"{at.offset_text()[0]}{abs(at.offset_minutes) // 60}",
    "K": lambda at: at.offset_text() if at.offset_minutes else "Z",
}


def _format(at: _Instant, form: str, function: str) -> str:
    if len(form) == 1:
        if form not in _STANDARD:
            raise failed(function, f"the format '{form}' of a date is not known.")
        form, in_utc = _STANDARD[form]
        at = at.utc if in_utc else at
    parts: list[str] = []
    for match in re.finditer(r"'([^']*)'?|\"([^\"]*)\"?|\\(.)|%(?=.)|([A-Za-z])\4*|(.)", form, re.DOTALL):
        literal = next((text for text in match.group(1, 2, 3, 5) if text is not None), None)
        specifier = match.group()
        if literal is not None:
            parts.append(literal)
        elif specifier in _SPECIFIERS:
            parts.append(_SPECIFIERS[specifier](at))
        elif specifier[0] in "fF" and len(specifier) <= 7:
            digits = f"{at.ticks:07d}"[: len(specifier)]
            parts.append(digits if specifier[0] == "f" else digits.rstrip("0"))
        elif specifier[0] in "dyM":
            parts.append(_SPECIFIERS["yyyyy" if specifier[0] == "y" else specifier[0] * 4](at))
        elif specifier[0] in "gG":
            parts.append("A.D." if specifier[0] == "g" else specifier)
        elif specifier != "%":
            parts.append(specifier)
    return "".join(parts)


def _parse(text: str, function: str) -> _Instant:
    for form in _FORMS:
        match = form.fullmatch(text.strip())
        if match:
            found = match.groupdict()
            try:
                return _instant(found)
            except (ValueError, OverflowError):
                break
    raise failed(function, f"the string '{text}' is not a valid date and time.")


def _instant(found: Mapping[str, str | None]) -> _Instant:
    name = found.get("name")
    month = [month[:3].lower() for month in _MONTHS].index(name.lower()) + 1 if name else int(found["month"] or 0)
    hour = int(found["hour"] or 0)
    half = (found.get("half") or "").upper()
    if half:
        hour = hour % 12 + (12 if half == "PM" else 0)
    minute, second = int(found["minute"] or 0), int(found["second"] or 0)
    clock = datetime(int(found["year"] or 0), month, int(found["day"] or 0), hour, minute, second)
    offset = (found.get("offset") or "Z").upper()
    offset_minutes = 0
    if offset not in ("Z", "GMT"):
        digits = offset[1:].replace(":", "")
        offset_minutes = (int(digits[:2]) * 60 + int(digits[2:])) * (-1 if offset[0] == "-" else 1)
    return _Instant(clock, int((found.get("fraction") or "0")[:7].ljust(7, "0")), offset_minutes)


def _seconds(duration: str) -> Decimal:
    """The length of an ISO 8601 duration; a year has 365 days, a month 30."""
    match = _DURATION.fullmatch(duration)
    if not match:
        raise failed("dateTimeAdd", f"the string '{duration}' is not a valid ISO 8601 duration.")
    part = {name: Decimal(text or 0) for name, text in match.groupdict().items() if name != "sign"}
    days = part["years"] * 365 + part["months"] * 30 + part["days"]
    seconds = ((days * 24 + part["hours"]) * 60 + part["minutes"]) * 60 + part["seconds"]
    return -seconds if match["sign"] else seconds


def _date_time_add(given: list[Value]) -> Value:
    base, duration, *rest = (arguments.text("dateTimeAdd", value) for value in given)
    try:
        result = _parse(base, "dateTimeAdd").plus(_seconds(duration))
        return _format(result, rest[0] if rest else _ISO, "dateTimeAdd")
    except OverflowError:
        raise failed("dateTimeAdd", "the result is not a date between the years 1 and 9999.") from None


def _to_epoch(given: list[Value]) -> Value:
    at = _parse(arguments.text("dateTimeToEpoch", given[0]), "dateTimeToEpoch").utc
    return (at.clock - _EPOCH) // timedelta(seconds=1)


def _from_epoch(given: list[Value]) -> Value:
    seconds = arguments.integer("dateTimeFromEpoch", given[0])
    try:
        return _format(_Instant(_EPOCH + timedelta(seconds=seconds), 0, 0), _ISO, "dateTimeFromEpoch")
    except OverflowError:
        raise failed("dateTimeFromEpoch", "the result is not a date between the years 1 and 9999.") from None


def _utc_now(context: Context, given: list[Value]) -> Value:
    if not context.in_default:
        raise ExpressionError(
            "The template function 'utcNow' is not expected at this location. "
            "The function can only be used in the default value of a parameter."
        )
    form = arguments.text("utcNow", given[0]) if given else _COMPACT
    if context.masked:
        return Unevaluated(Call("utcNow", tuple(as_node(value) for value in given)))
    now = context.scope.utc_now.astimezone(timezone.utc).replace(tzinfo=None)
    return _format(_Instant(now.replace(microsecond=0), now.microsecond * 10, 0), form, "utcNow")


FUNCTIONS = (
    Function("dateTimeAdd", 2, 3, pure=_date_time_add),
    Function("dateTimeToEpoch", 1, 1, pure=_to_epoch),
    Function("dateTimeFromEpoch", 1, 1, pure=_from_epoch),
    Function("utcNow", 0, 1, scoped=_utc_now),
)

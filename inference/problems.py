"""What is wrong with a body, as one error in OpenAI's words and codes: the first problem's, and after it the others.

The codes and sentences are those that OpenAI's API answers with; what it has none for is `invalid_value`. Knows no
route and no engine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from protocol import NOT_SERVED, ErrorDetail, invalid

MOST_TOLD = 11
"""Problems that a message names; of the rest it gives the number."""
_MOST_SHOWN = 64
"""Characters of a caller's own name or value that a message repeats."""

Error = Mapping[str, Any]
"""One of pydantic's: https://docs.pydantic.dev/latest/errors/errors/."""

_EXPECTED = {
    "bool_type": "a boolean",
    "dict_type": "an object",
    "float_type": "a decimal",
    "int_type": "an integer",
    "list_type": "an array",
    "model_attributes_type": "an object",
    "model_type": "an object",
    "string_type": "a string",
    "text_or_list": "a string or an array of strings",
    "text_or_parts": "a string or an array of text parts",
    "text_or_tokens": "a string, an array of strings, an array of token ids, or an array of such arrays",
}
"""What should have been there, by the type of pydantic's error."""

_GIVEN = {
    type(None): "null",
    bool: "a boolean",
    int: "an integer",
    float: "a decimal number",
    str: "a string",
    list: "an array",
    dict: "an object",
}


def as_one_error(errors: Sequence[Error], body: object) -> ErrorDetail:
    """What pydantic found in a body, whose JSON is `body`: `param` and `code` are the first problem's."""
    if errors[0]["type"] == "json_invalid":
        return ErrorDetail(message="The body is not valid JSON.", type="invalid_request_error", code="invalid_json")
    causes = _causes(errors)
    told: dict[str, tuple[str, str]] = {}
    for error in causes[:MOST_TOLD]:
        place = _place(error, body)
        message, code = _told(error, place)
        told.setdefault(message, (place, code))
    place, code = next(iter(told.values()))
    sentences = [*told]
    more = len(causes) - MOST_TOLD
    if more > 0:
        sentences.append(f"({more} more {'problem' if more == 1 else 'problems'}.)")
    return invalid(" ".join(sentences), place or None, code)


def _causes(errors: Sequence[Error]) -> list[Error]:
    """Without what only follows: an object of a wrong type has not the members of the right one."""
    # The first two steps are "body" and a parameter: a body itself has no type.
    wrong = {
        error["loc"][:-1]
        for error in errors
        if len(error["loc"]) > 2 and error["loc"][-1] == "type" and error["type"] != "extra_forbidden"
    }
    return [error for error in errors if error["loc"][-1] == "type" or wrong.isdisjoint(_above(error["loc"]))]


def _above(steps: tuple[str | int, ...]) -> Iterator[tuple[str | int, ...]]:
    """The places that a place is in, from the body on."""
    return (steps[:length] for length in range(1, len(steps)))


def _place(error: Error, body: object) -> str:
    """Where the problem is in what the caller has sent: `messages[0].content`; of the whole body nothing.

    A step that the body has no place for is one that a value was put into by the server, to be checked in one form.
    """
    place, here = "", body
    for step in error["loc"][1:-1] if _is_of_key(error) else error["loc"][1:]:
        if isinstance(here, dict) and isinstance(step, str):
            place += f".{_shown(step)}"
            here = here.get(step)
        elif isinstance(here, list) and isinstance(step, int):
            place += f"[{step}]"
            here = here[step]
    return place.removeprefix(".")


def _is_of_key(error: Error) -> bool:
    """Whether the problem is a member's name, and not its value."""
    return bool(error["type"] == "string_pattern_mismatch" and error["loc"][-1] == "[key]")


def _told(error: Error, place: str) -> tuple[str, str]:
    """A sentence or two about one problem, and its code."""
    kind, given, context = error["type"], error["input"], error.get("ctx", {})
    if kind == "extra_forbidden":
        return f"Unknown parameter: '{place}'.", "unknown_parameter"
    if kind == "missing":
        missing = f"'{place}'" if place else "the body must be a JSON object"
        return f"Missing required parameter: {missing}.", "missing_required_parameter"
    if kind == "model_attributes_type" and not place:
        return "The body must be a JSON object, sent with content-type: application/json.", "invalid_body"
    if _is_of_key(error):
        parent = place.rpartition(".")[0]
        said = (
            f"Invalid key in '{parent}': '{_shown(given)}'. A key is a token's id: a whole number of up to 10 digits."
        )
        return said, "invalid_value"
    if not NOT_SERVED.isdisjoint(error["loc"]):
        said = f"Unsupported parameter: '{place}' is not supported by this server with this value."
        return said, "unsupported_parameter"
    if kind in _EXPECTED or (kind == "literal_error" and not isinstance(given, str)):
        expected = _EXPECTED.get(kind) or f"one of {context['expected']}"
        got = _GIVEN[type(given)]
        return f"Invalid type for '{place}': expected {expected}, but got {got} instead.", "invalid_type"
    if kind == "literal_error":
        # Pydantic writes "'a', 'b' or 'c'", which reads well only where one of them is expected.
        supported = context["expected"].replace(" or ", " and ")
        return f"Invalid value for '{place}': '{_shown(given)}'. Supported values are: {supported}.", "invalid_value"
    if kind == "string_pattern_mismatch":
        expected = f"Expected a string that matches the pattern '{context['pattern']}'"
        return f"Invalid '{place}': string does not match pattern. {expected}.", "invalid_value"
    found = _out_of_bounds(kind, given, context)
    if found is None:
        return f"Invalid value for '{place or 'body'}': {error['msg']}.", "invalid_value"
    said, code = found
    return f"Invalid '{place or 'body'}': {said} instead.", code


def _out_of_bounds(kind: str, given: Any, context: Mapping[str, Any]) -> tuple[str, str] | None:
    """What is too little or too much, and its code; None when the problem is none of that kind."""
    if kind in ("greater_than_equal", "less_than_equal"):
        below = kind == "greater_than_equal"
        bound = context["ge" if below else "le"]
        number = "decimal" if isinstance(bound, float) else "integer"
        edge, sign, name = ("below minimum", ">=", "below_min") if below else ("above maximum", "<=", "above_max")
        limit = f"{bound:g}" if isinstance(bound, float) else str(bound)
        said = f"{number} {edge} value. Expected a value {sign} {limit}, but got {_shown(str(given))}"
        return said, f"{number}_{name}_value"
    if kind == "too_long":
        most, length = context["max_length"], len(given)
        if isinstance(given, dict):
            said = f"too many properties. Expected an object with at most {most} properties"
            return f"{said}, but got an object with {length} properties", "object_above_max_properties"
        said = f"array too long. Expected an array with maximum length {most}"
        return f"{said}, but got an array with length {length}", "array_above_max_length"
    if kind == "too_short":
        said = "empty array. Expected an array with minimum length 1, but got an empty array"
        return said, "empty_array"
    if kind == "string_too_short":
        return "empty string. Expected a string with minimum length 1, but got an empty string", "empty_string"
    return None


def _shown(text: str) -> str:
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."

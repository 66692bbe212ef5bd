"""What is wrong with a body: its place in what was sent, OpenAI's code and words, and how little is built of it."""

from __future__ import annotations

from typing import Any

import pytest
from chat_protocol import MOST_MESSAGES, ChatCompletionRequest
from completions_protocol import CompletionBody
from problems import MOST_TOLD, as_one_error
from protocol import MOST_BIASES, MOST_MEMBERS, NOT_SERVED, ErrorDetail, Strict
from pydantic import TypeAdapter, ValidationError

QUESTION = {"role": "user", "content": "the quick brown fox"}
CHAT: TypeAdapter[Any] = TypeAdapter(ChatCompletionRequest)
COMPLETION: TypeAdapter[Any] = TypeAdapter(CompletionBody)


def found(body: dict[str, Any]) -> list[Any]:
    """What pydantic finds in a body, as FastAPI gives it on."""
    of = COMPLETION if "prompt" in body else CHAT
    with pytest.raises(ValidationError) as refused:
        of.validate_python(body, from_attributes=True)
    return [{**error, "loc": ("body", *error["loc"])} for error in refused.value.errors(include_url=False)]


def told(change: dict[str, Any]) -> ErrorDetail:
    body = change if "prompt" in change else {"messages": [QUESTION]} | change
    return as_one_error(found(body), body)


def asked(**members: Any) -> dict[str, Any]:
    return {"messages": [QUESTION | members]}


@pytest.mark.parametrize(
    ("change", "parameter", "code", "message"),
    [
        (
            {"max_tokens": -15335},
            "max_tokens",
            "integer_below_min_value",
            "Invalid 'max_tokens': integer below minimum value. Expected a value >= 1, but got -15335 instead.",
        ),
        (
            {"n": 130},
            "n",
            "integer_above_max_value",
            "Invalid 'n': integer above maximum value. Expected a value <= 128, but got 130 instead.",
        ),
        (
            {"temperature": 2.1},
            "temperature",
            "decimal_above_max_value",
            "Invalid 'temperature': decimal above maximum value. Expected a value <= 2, but got 2.1 instead.",
        ),
        (
            {"top_p": -1},
            "top_p",
            "decimal_below_min_value",
            "Invalid 'top_p': decimal below minimum value. Expected a value >= 0, but got -1 instead.",
        ),
        (
            {"temperature": "hot"},
            "temperature",
            "invalid_type",
            "Invalid type for 'temperature': expected a decimal, but got a string instead.",
        ),
        (
            {"seed": 1.5},
            "seed",
            "invalid_type",
            "Invalid type for 'seed': expected an integer, but got a decimal number instead.",
        ),
        (
            {"messages": ["ping"]},
            "messages[0]",
            "invalid_type",
            "Invalid type for 'messages[0]': expected an object, but got a string instead.",
        ),
        (
            {"messages": []},
            "messages",
            "empty_array",
            "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an empty array instead.",
        ),
        (
            {"stop": ["a"] * 5},
            "stop",
            "array_above_max_length",
            "Invalid 'stop': array too long. Expected an array with maximum length 4, but got an array with length 5"
            " instead.",
        ),
        (
            {"logit_bias": {str(token): 1 for token in range(1025)}},
            "logit_bias",
            "object_above_max_properties",
            "Invalid 'logit_bias': too many properties. Expected an object with at most 1024 properties, but got an"
            " object with 1025 properties instead.",
        ),
        (
            {"stop": ""},
            "stop",
            "empty_string",
            "Invalid 'stop': empty string. Expected a string with minimum length 1, but got an empty string instead.",
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "a b"}}]},
            "tools[0].function.name",
            "invalid_value",
            "Invalid 'tools[0].function.name': string does not match pattern. Expected a string that matches the"
            " pattern '^[a-zA-Z0-9_-]{1,64}$'.",
        ),
        ({"zzz": 1}, "zzz", "unknown_parameter", "Unknown parameter: 'zzz'."),
        (
            {"response_format": {}},
            "response_format.type",
            "missing_required_parameter",
            "Missing required parameter: 'response_format.type'.",
        ),
    ],
)
def test_words_and_codes_are_openais(change: dict[str, Any], parameter: str, code: str, message: str) -> None:
    error = told(change)
    assert (error.param, error.code, error.message) == (parameter, code, message)
    assert error.type == "invalid_request_error"


def test_a_key_of_logit_bias_is_told_without_a_pattern() -> None:
    error = told({"logit_bias": {"fox": 5}})
    assert (error.param, error.code) == ("logit_bias.fox", "invalid_value")
    assert "'fox'" in error.message and "id" in error.message and "^" not in error.message


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_none_is_not_called_too_large(value: float) -> None:
    error = told({"temperature": value})
    assert (error.param, error.code) == ("temperature", "invalid_value")
    assert "finite" in error.message


@pytest.mark.parametrize(
    ("change", "parameter"),
    [
        (asked(content="\ud800"), "messages[0].content"),
        (asked(content=[{"type": "text", "text": "\ud800"}]), "messages[0].content[0].text"),
        ({"tool_choice": "perhaps"}, "tool_choice"),
        ({"tool_choice": "function"}, "tool_choice"),
        ({"tool_choice": 7}, "tool_choice"),
        ({"tool_choice": {"type": "perhaps"}}, "tool_choice.type"),
        ({"stop": "\ud800"}, "stop"),
        ({"stop": ["a", ""]}, "stop[1]"),
        ({"prompt": "\ud800"}, "prompt"),
        ({"prompt": ["fox", "\ud800"]}, "prompt[1]"),
        ({"prompt": ["fox", 5]}, "prompt[1]"),
        ({"prompt": [-1]}, "prompt[0]"),
        ({"prompt": [3, True]}, "prompt[1]"),
        ({"prompt": [[3], [4, -1]]}, "prompt[1][1]"),
        ({"prompt": [None]}, "prompt"),
        ({"body": 1}, "body"),
        ({"[key]": 1}, "[key]"),
        ({"stream_options": {"body": 1}}, "stream_options.body"),
    ],
)
def test_the_place_is_one_that_the_caller_wrote(change: dict[str, Any], parameter: str) -> None:
    assert told(change).param == parameter


def test_all_problems_are_named_with_their_reasons() -> None:
    error = told(
        {"functions": [], "store": True, "metadata": {"a": "b"}, "reasoning_effort": "high", "top_g": 4, "n": 0}
    )
    assert (error.param, error.code) == ("n", "integer_below_min_value"), "the first one's"
    for name in ("store", "metadata", "reasoning_effort", "top_g"):
        assert f"'{name}'" in error.message
    assert "'functions'" not in error.message, "it asks for nothing"
    assert "more problem" not in error.message


def test_of_many_problems_the_last_are_counted() -> None:
    wrong = {f"a{number}": 1 for number in range(MOST_TOLD)}
    assert "more problem" not in told(wrong).message
    assert told(wrong | {"b": 1}).message.endswith("(1 more problem.)")
    assert told(wrong | {"b": 1, "c": 1}).message.endswith("(2 more problems.)")


@pytest.mark.parametrize(
    ("change", "parameter"),
    [
        (asked(content=[{"type": "image_url", "image_url": {"url": "x"}}]), "messages[0].content[0].type"),
        (asked(content=[{"image_url": {"url": "x"}}]), "messages[0].content[0].type"),
        ({"tools": [{"type": "web_search", "filters": {}}]}, "tools[0].type"),
        ({"tool_choice": {"type": "allowed_tools", "function": {"name": "f"}}}, "tool_choice.type"),
    ],
)
def test_what_follows_from_a_wrong_type_is_not_told(change: dict[str, Any], parameter: str) -> None:
    assert len(found({"messages": [QUESTION]} | change)) > 1
    error = told(change | {"n": 0})
    assert error.message.count("nvalid") + error.message.count("Missing") == 2, "the type and `n`"
    assert f"'{parameter}'" in error.message and "'n'" in error.message


def test_a_message_does_not_grow_with_what_the_caller_wrote() -> None:
    long = "x" * 100_000
    for change in (
        {long: 1},
        {"model": 1, long: {long: 1}},
        asked(role=long),
        {"logit_bias": {long: 1}},
        {"n": 10**4000},
    ):
        error = told(change)
        assert len(error.message) < 600 and len(error.param or "") < 100


# What a body of the size that is let in can cost


MANY = 200_000


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [1] * MANY},
        {"messages": [QUESTION] * MANY},
        {"messages": [QUESTION | {"content": [1] * MANY}]},
        {"messages": [QUESTION | {"content": [1] * 100}] * 2000},
        {"messages": [{"role": "assistant", "tool_calls": [1] * MANY}]},
        {"messages": [QUESTION | {f"a{number}": 1 for number in range(MANY)}]},
        {"messages": [QUESTION], **{f"a{number}": 1 for number in range(MANY)}},
        {"messages": [QUESTION], "tools": [1] * MANY},
        {"messages": [QUESTION], "stop": [1] * MANY},
        {"messages": [QUESTION], "functions": [1] * MANY},
        {"messages": [QUESTION], "modalities": [1] * MANY},
        {"messages": [QUESTION], "metadata": {f"a{number}": 1 for number in range(MANY)}},
        {"messages": [QUESTION], "logit_bias": {f"a{number}": 1 for number in range(MANY)}},
        {"messages": [QUESTION], "logit_bias": {f"a{number}": "x" for number in range(MOST_BIASES)}},
        {"prompt": [-5] * MANY},
        {"prompt": [[]] * MANY},
        {"prompt": [[-5] * 100] * 2000},
        {"prompt": ["fox"] * MANY},
        {"prompt": [None] * MANY},
    ],
    ids=lambda body: "-".join(body)[:40],
)
def test_many_wrong_items_make_few_errors(body: dict[str, Any]) -> None:
    """Each error is a description that is built while no other request is looked at."""
    errors = found(body)
    assert len(errors) <= 2 * MOST_BIASES
    assert as_one_error(errors, body).code != "invalid_body"


def test_as_many_as_are_allowed_are_taken() -> None:
    body = {"messages": [QUESTION] * MOST_MESSAGES, "logit_bias": {str(token): 1 for token in range(MOST_BIASES)}}
    assert len(CHAT.validate_python(body).messages) == MOST_MESSAGES
    assert len(COMPLETION.validate_python({"prompt": [5] * MANY}).prompts()[0]) == MANY, "the engine's limit is its own"


def test_every_object_of_a_request_has_room_for_its_members() -> None:
    def below(model: type[Strict]) -> list[type[Strict]]:
        return [model, *(each for child in model.__subclasses__() for each in below(child))]

    declared = {model.__name__: len(model.model_fields) for model in below(Strict)}
    assert declared["ChatCompletionRequest"] > 20
    assert max(declared.values()) < MOST_MEMBERS / 1.5, "a few that are not known are each told"
    names = {name for model in below(Strict) for name in model.model_fields}
    assert names >= NOT_SERVED, "what is refused by name is declared somewhere"

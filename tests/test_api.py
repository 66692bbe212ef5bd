"""The API through the real openai package and raw HTTP, against a real server process."""

from __future__ import annotations

import gzip
import json
import math
import re
import socket
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from tests.fixtures_inference import BEARER, KEY, Server, make_tokenizer, server, tiny_model
from tests.waiting import until

__all__ = ["server", "tiny_model"]

QUESTION: list[ChatCompletionMessageParam] = [{"role": "user", "content": "the quick brown fox"}]


@pytest.fixture(scope="module")
def client(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.address + "/v1", api_key=KEY, max_retries=0, timeout=60)


def post(server: Server, body: object) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {**BEARER, "content-type": "application/json"}
    return server.request("POST", "/v1/chat/completions", content=content, headers=headers)


# What the openai package sees


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["default", "other", "tiny-base"]
    assert client.models.retrieve("other").id == "other"
    with pytest.raises(openai.NotFoundError) as refused:
        client.models.retrieve("nobody")
    assert refused.value.code == "model_not_found"


def test_a_whole_answer(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="other", messages=QUESTION, temperature=0, max_tokens=7)
    assert answer.model == "other"
    assert answer.object == "chat.completion"
    assert answer.system_fingerprint == "0123abcd", "the release that answered"
    assert len(answer.choices) == 1
    assert answer.choices[0].finish_reason == "length"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 7
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 7


def test_a_streamed_answer_is_the_whole_one(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="default", messages=QUESTION, temperature=0, max_tokens=20)
    stream = client.chat.completions.create(
        model="default",
        messages=QUESTION,
        temperature=0,
        max_completion_tokens=20,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert len(chunks) > 4
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1


async def test_the_async_client(server: Server) -> None:
    async with openai.AsyncOpenAI(base_url=server.address + "/v1", api_key=KEY, max_retries=0) as client:
        text = ""
        stream = await client.chat.completions.create(
            model="default", messages=QUESTION, temperature=0, max_tokens=20, stream=True
        )
        async for chunk in stream:
            text += chunk.choices[0].delta.content or ""
        whole = await client.chat.completions.create(model="default", messages=QUESTION, temperature=0, max_tokens=20)
    assert text == whole.choices[0].message.content


def test_a_conversation_goes_on_with_the_answer_as_it_came(client: openai.OpenAI) -> None:
    first = client.chat.completions.create(model="default", messages=QUESTION, temperature=0, max_tokens=6)
    # The package's own advice: append the message object.
    messages: list[Any] = [
        {"role": "developer", "content": "be a fox"},
        *QUESTION,
        first.choices[0].message,
        {"role": "user", "content": [{"type": "text", "text": "and "}, {"type": "text", "text": "the dog"}]},
    ]
    second = client.chat.completions.create(model="default", messages=messages, temperature=0, max_tokens=6)
    assert second.usage is not None
    assert first.usage is not None
    assert second.usage.prompt_tokens > first.usage.prompt_tokens + 6
    plain: list[ChatCompletionMessageParam] = [
        {"role": "system", "content": "be a fox"},
        *QUESTION,
        {"role": "assistant", "content": first.choices[0].message.content},
        {"role": "user", "content": "and the dog"},
    ]
    same = client.chat.completions.create(model="default", messages=plain, temperature=0, max_tokens=6)
    assert same.choices[0].message.content == second.choices[0].message.content


def test_seed_temperature_and_stop(client: openai.OpenAI) -> None:
    def ask(seed: int) -> str | None:
        answer = client.chat.completions.create(
            model="default", messages=QUESTION, temperature=1.2, top_p=0.95, seed=seed, max_tokens=20
        )
        return answer.choices[0].message.content

    assert ask(5) == ask(5)
    assert ask(5) != ask(6)
    whole = client.chat.completions.create(model="default", messages=QUESTION, temperature=0, max_tokens=20)
    text = whole.choices[0].message.content
    assert text
    stop = text[5:7]
    stopped = client.chat.completions.create(
        model="default", messages=QUESTION, temperature=0, max_tokens=20, stop=[stop, "never to be seen"]
    )
    assert stopped.choices[0].message.content == text[: text.index(stop)]
    assert stopped.choices[0].finish_reason == "stop"


def test_no_model_and_the_word_default_mean_the_default_model(server: Server) -> None:
    answers = [
        post(server, {"messages": QUESTION, "temperature": 0, "max_tokens": 5} | named).json()
        for named in ({}, {"model": None}, {"model": "default"})
    ]
    assert {answer["model"] for answer in answers} == {"default"}


def test_a_wrong_key(server: Server) -> None:
    with pytest.raises(openai.AuthenticationError) as refused:
        openai.OpenAI(base_url=server.address + "/v1", api_key="wrong", max_retries=0).models.list()
    assert refused.value.code == "invalid_api_key"


def test_an_unknown_model(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        client.chat.completions.create(model="nobody", messages=QUESTION)
    assert refused.value.code == "model_not_found"
    assert "default, other, tiny-base" in str(refused.value)


# Plain completions


def test_completions_of_text_and_of_tokens(client: openai.OpenAI) -> None:
    text = client.completions.create(model="default", prompt="the quick", temperature=0, max_tokens=8)
    assert text.object == "text_completion"
    assert text.usage is not None
    assert (text.usage.completion_tokens, text.choices[0].finish_reason) == (8, "length")
    tokens = make_tokenizer()("the quick")["input_ids"]
    assert text.usage.prompt_tokens == len(tokens), "a prompt is taken as it is, without a template"
    several = client.completions.create(
        model="default", prompt=[tokens, [3, 5]], temperature=0, max_tokens=8, n=2, echo=True
    )
    assert [choice.index for choice in several.choices] == [0, 1, 2, 3]
    assert [choice.text for choice in several.choices[:2]] == ["the quick" + text.choices[0].text] * 2
    assert several.usage is not None
    assert several.usage.prompt_tokens == len(tokens) + 2, "each prompt counts once"
    default = client.completions.create(model="default", prompt="the", temperature=0, logit_bias={"1": -100})
    assert default.usage is not None
    assert default.usage.completion_tokens == 16, "OpenAI's default"


def test_a_stream_of_completions(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "other", "prompt": ["the fox", "a dog"], "temperature": 0, "max_tokens": 9}
    whole = client.completions.create(**asked, echo=True)
    stream = client.completions.create(**asked, echo=True, stream=True, stream_options={"include_usage": True})
    texts, reasons, usages = ["", ""], ["", ""], []
    for chunk in stream:
        usages.append(chunk.usage)
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            reasons[choice.index] = choice.finish_reason or reasons[choice.index]
    assert texts == [choice.text for choice in whole.choices]
    assert reasons == [choice.finish_reason for choice in whole.choices]
    assert usages[-1] is not None and whole.usage is not None
    assert usages[-1].total_tokens == whole.usage.total_tokens
    assert usages[:-1] == [None] * (len(usages) - 1)


@pytest.mark.parametrize("most", [0, 2])
def test_a_chosen_token_is_among_the_likeliest_that_are_told(client: openai.OpenAI, most: int) -> None:
    """Clients look it up there; one that is drawn need not be likely."""
    drawn = client.completions.create(model="default", prompt="fox", temperature=2, seed=1, max_tokens=9, logprobs=most)
    told = drawn.choices[0].logprobs
    assert told is not None and told.token_logprobs and told.tokens and told.top_logprobs
    for token, logprob, likeliest in zip(told.tokens, told.token_logprobs, told.top_logprobs, strict=True):
        assert likeliest[token] == logprob
        assert len(likeliest) <= most + 1


def test_log_probabilities_in_both_forms(client: openai.OpenAI) -> None:
    plain = client.completions.create(
        model="default", prompt="日本 the fox", temperature=0, max_tokens=12, logprobs=3, logit_bias={"1": -100}
    )
    told = plain.choices[0].logprobs
    assert told is not None and told.token_logprobs and told.tokens and told.top_logprobs and told.text_offset
    assert len(told.tokens) == len(told.token_logprobs) == len(told.top_logprobs) == 12
    for token, logprob, likeliest in zip(told.tokens, told.token_logprobs, told.top_logprobs, strict=True):
        assert len(likeliest) <= 3
        if token != "<|end|>" and token in likeliest:
            assert logprob == pytest.approx(likeliest[token])
        assert sum(math.exp(value) for value in likeliest.values()) <= 1 + 1e-6
    text = plain.choices[0].text
    assert any(token.startswith("bytes:") for token in told.tokens), "a character of several tokens"
    for token, offset in zip(told.tokens, told.text_offset, strict=True):
        assert token.startswith(("bytes:", "<|")) or text[offset:].startswith(token)

    asked: dict[str, Any] = {"model": "default", "messages": QUESTION, "temperature": 0, "max_tokens": 12}
    chat = client.chat.completions.create(**asked, logprobs=True, top_logprobs=2)
    choice = chat.choices[0]
    assert choice.logprobs is not None and choice.logprobs.content is not None
    written = b"".join(bytes(token.bytes or ()) for token in choice.logprobs.content)
    assert written.decode(errors="replace").startswith((choice.message.content or "")[:5])
    for token in choice.logprobs.content:
        assert [each.logprob for each in token.top_logprobs] == sorted(
            (each.logprob for each in token.top_logprobs), reverse=True
        )
        assert token.logprob == pytest.approx(token.top_logprobs[0].logprob), "a greedy answer takes the likeliest"
    streamed = [
        token.logprob
        for chunk in client.chat.completions.create(**asked, logprobs=True, stream=True)
        if chunk.choices and chunk.choices[0].logprobs
        for token in chunk.choices[0].logprobs.content or ()
    ]
    assert streamed == pytest.approx([token.logprob for token in choice.logprobs.content], abs=1e-4)


@pytest.mark.parametrize(
    ("change", "parameter", "code"),
    [
        ({"prompt": None}, "prompt", "invalid_type"),
        ({"prompt": []}, "prompt", "empty_array"),
        ({"prompt": ""}, "prompt", "invalid_value"),
        ({"prompt": [[]]}, "prompt[0]", "empty_array"),
        ({"prompt": ["fox", 5]}, "prompt[1]", "invalid_type"),
        ({"prompt": [-1]}, "prompt[0]", "integer_below_min_value"),
        ({"prompt": [3, 99999]}, "prompt", "invalid_value"),
        ({"prompt": [3, True]}, "prompt[1]", "invalid_type"),
        ({"prompt": "\ud800"}, "prompt", "invalid_value"),
        ({"prompt": "fox " * 900}, "prompt", "context_length_exceeded"),
        ({"prompt": ["fox"] * 200}, "n", "invalid_value"),
        ({"echo": True, "logprobs": 1}, "echo", "unsupported_parameter"),
        ({"logprobs": 6}, "logprobs", "integer_above_max_value"),
        ({"best_of": 2}, "best_of", "unsupported_parameter"),
        ({"suffix": "end"}, "suffix", "unsupported_parameter"),
        ({"messages": []}, "messages", "unknown_parameter"),
    ],
)
def test_a_bad_completion(server: Server, change: dict[str, Any], parameter: str, code: str) -> None:
    body = {"prompt": "the fox", "max_tokens": 2} | change
    headers = {**BEARER, "content-type": "application/json"}
    answer = server.request("POST", "/v1/completions", content=json.dumps(body), headers=headers)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, parameter, code), error


# Several answers, and how they are chosen


def test_several_answers_of_one_prompt(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "default", "messages": QUESTION, "temperature": 1.3, "max_tokens": 10, "n": 3}
    whole = client.chat.completions.create(**asked, seed=5)
    texts = [choice.message.content for choice in whole.choices]
    assert len(set(texts)) == 3, "each draws numbers of its own"
    one = client.chat.completions.create(**asked | {"n": 1}, seed=5)
    assert one.choices[0].message.content == texts[0], "and the first is the one that comes alone"
    assert whole.usage is not None and one.usage is not None
    assert whole.usage.prompt_tokens == one.usage.prompt_tokens
    assert whole.usage.completion_tokens > one.usage.completion_tokens
    streamed = ["", "", ""]
    reasons = set()
    for chunk in client.chat.completions.create(**asked, seed=5, stream=True):
        streamed[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
        reasons.add((chunk.choices[0].index, chunk.choices[0].finish_reason))
    assert streamed == texts
    assert {(number, choice.finish_reason) for number, choice in enumerate(whole.choices)} < reasons


def test_tokens_that_were_computed_before_are_told(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "other", "temperature": 0, "max_tokens": 2}
    question: Any = [{"role": "user", "content": "count the brown dog and the fox " * 4}]
    client.chat.completions.create(messages=question, **asked)
    again = client.chat.completions.create(messages=question, **asked)
    assert again.usage is not None and again.usage.prompt_tokens_details is not None
    assert again.usage.prompt_tokens - 20 < (again.usage.prompt_tokens_details.cached_tokens or 0)
    assert (again.usage.prompt_tokens_details.cached_tokens or 0) < again.usage.prompt_tokens


def test_a_variable_of_the_chat_template_is_set(client: openai.OpenAI) -> None:
    def prompt_tokens(**body: Any) -> int:
        answer = client.chat.completions.create(model="default", messages=QUESTION, max_tokens=1, extra_body=body)
        assert answer.usage is not None
        return answer.usage.prompt_tokens

    begun = prompt_tokens(chat_template_kwargs={"answer_begins": "the the the"})
    assert begun > prompt_tokens() == prompt_tokens(chat_template_kwargs={})


def test_what_changes_the_choice(client: openai.OpenAI) -> None:
    def ask(**changes: Any) -> str:
        ask_: Any = client.chat.completions.create
        answer = ask_(model="default", messages=QUESTION, max_tokens=24, **{"temperature": 0} | changes)
        return str(answer.choices[0].message.content)

    greedy = ask()
    assert ask(temperature=2, extra_body={"top_k": 1}) == greedy
    assert ask(temperature=2, extra_body={"min_p": 1}) == greedy
    assert ask(temperature=2, top_p=0) == greedy
    assert ask(temperature=2, seed=1) != greedy
    fox = make_tokenizer()(" fox")["input_ids"][0]
    assert " fox fox fox" in ask(logit_bias={str(fox): 100})
    for penalty in ({"frequency_penalty": 2}, {"presence_penalty": 2}, {"extra_body": {"repetition_penalty": 3}}):
        assert ask(logit_bias={str(fox): 1}, **penalty) != greedy


# Bad requests: each is refused by name, in OpenAI's form, and the next one is answered

VALID: dict[str, Any] = {"messages": QUESTION, "max_tokens": 2}
TOOL = {"type": "function", "function": {"name": "f"}}
CALLED = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def schema(wanted: dict[str, Any]) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": wanted}}}


@pytest.mark.parametrize(
    ("change", "parameter", "code"),
    [
        ({"messages": []}, "messages", "empty_array"),
        ({"messages": None}, "messages", "invalid_type"),
        ({"messages": "hello"}, "messages", "invalid_type"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "missing_required_parameter"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role", "invalid_value"),
        (
            {"messages": [{"role": "tool", "content": "x"}]},
            "messages[0].tool_call_id",
            "missing_required_parameter",
        ),
        (
            {"messages": [*QUESTION, {"role": "tool", "tool_call_id": "a", "content": "x"}]},
            "messages[1].tool_call_id",
            "invalid_value",
        ),
        ({"messages": [{"role": "user", "content": "x", "name": "me"}]}, "messages[0].name", "invalid_value"),
        (
            {"messages": [{"role": "user", "content": "x", "tool_calls": [CALLED]}]},
            "messages[0].tool_calls",
            "invalid_value",
        ),
        ({"messages": [*QUESTION, {"role": "assistant", "tool_calls": [CALLED]}]}, "messages", "invalid_value"),
        (
            {
                "messages": [
                    {"role": "assistant", "tool_calls": [CALLED | {"function": {"name": "f", "arguments": "["}}]}
                ]
            },
            "messages[0].tool_calls[0].function.arguments",
            "invalid_value",
        ),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "invalid_type"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content", "empty_array"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0].content[0].type",
            "invalid_value",
        ),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages[0].content", "invalid_value"),
        ({"messages": [{"role": "assistant", "content": "first"}]}, "messages", "invalid_messages"),
        ({"messages": [{"role": "user", "content": "fox " * 900}]}, "messages", "context_length_exceeded"),
        ({"temperature": 2.5}, "temperature", "decimal_above_max_value"),
        ({"temperature": "hot"}, "temperature", "invalid_type"),
        ({"temperature": float("nan")}, "temperature", "invalid_value"),
        ({"top_p": -0.1}, "top_p", "decimal_below_min_value"),
        ({"max_tokens": 0}, "max_tokens", "integer_below_min_value"),
        ({"max_tokens": 10**6}, "max_tokens", "invalid_value"),
        ({"max_tokens": 10**400}, "max_tokens", "integer_above_max_value"),
        ({"max_tokens": True}, "max_tokens", "invalid_type"),
        ({"max_completion_tokens": 3}, "max_tokens", "invalid_value"),
        ({"seed": 2**80}, "seed", "integer_above_max_value"),
        ({"stop": ""}, "stop", "empty_string"),
        ({"stop": 5}, "stop", "invalid_type"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop", "array_above_max_length"),
        ({"stop": [1]}, "stop[0]", "invalid_type"),
        ({"stream": "yes"}, "stream", "invalid_type"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
        ({"stream": True, "stream_options": {"usage": True}}, "stream_options.usage", "unknown_parameter"),
        ({"n": 0}, "n", "integer_below_min_value"),
        ({"n": 10**9}, "n", "integer_above_max_value"),
        ({"n": 100}, "n", "invalid_value"),
        ({"logprobs": 3}, "logprobs", "invalid_type"),
        ({"top_logprobs": 3}, "top_logprobs", "invalid_value"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "integer_above_max_value"),
        ({"frequency_penalty": 2.5}, "frequency_penalty", "decimal_above_max_value"),
        ({"repetition_penalty": 0}, "repetition_penalty", "decimal_below_min_value"),
        ({"min_p": 1.5}, "min_p", "decimal_above_max_value"),
        ({"top_k": -2}, "top_k", "integer_below_min_value"),
        ({"top_k": 2**40}, "top_k", "integer_above_max_value"),
        ({"logit_bias": {"fox": 1}}, "logit_bias.fox", "invalid_value"),
        ({"logit_bias": {"-5": 1}}, "logit_bias.-5", "invalid_value"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5", "decimal_above_max_value"),
        ({"logit_bias": {"99999": 1}}, "logit_bias", "invalid_value"),
        ({"tools": [TOOL]}, "tools", "unsupported_parameter"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "invalid_value"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name", "invalid_value"),
        ({"tools": [TOOL, TOOL]}, "tools", "invalid_value"),
        ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
        ({"tool_choice": "perhaps"}, "tool_choice", "invalid_value"),
        ({"tool_choice": {"type": "function"}}, "tool_choice.function", "missing_required_parameter"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "other"}}},
            "tool_choice.function.name",
            "invalid_value",
        ),
        ({"parallel_tool_calls": True}, "parallel_tool_calls", "invalid_value"),
        ({"chat_template_kwargs": ["enable_thinking"]}, "chat_template_kwargs", "invalid_type"),
        (
            {"chat_template_kwargs": {"answer_begins": "", "enable_thinking": False}},
            "chat_template_kwargs.enable_thinking",
            "unsupported_parameter",
        ),
        ({"response_format": {"type": "yaml"}}, "response_format.type", "invalid_value"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "missing_required_parameter"),
        (schema({"type": "strin"}), "response_format", "invalid_value"),
        (schema({"type": "array", "uniqueItems": True}), "response_format", "invalid_value"),
        (schema({"$ref": "#"}), "response_format", "invalid_value"),
        (schema({"title": "\ud800"}), "response_format.json_schema.schema", "invalid_value"),
        (schema({"minimum": float("nan")}), "response_format.json_schema.schema", "invalid_value"),
        ({"functions": [{"name": "f"}]}, "functions", "unsupported_parameter"),
        ({"reasoning_effort": "high"}, "reasoning_effort", "unsupported_parameter"),
        ({"guided_json": {}}, "guided_json", "unknown_parameter"),
        ({"max_token": 4}, "max_token", "unknown_parameter"),
        ({"max-tokens": 4}, "max-tokens", "unknown_parameter"),
        ({"\ud800": 4}, None, "invalid_value"),
        ({"model": "\ud800"}, "model", "invalid_value"),
        ({"model": 7}, "model", "invalid_type"),
    ],
)
def test_a_bad_request(server: Server, change: dict[str, Any], parameter: str | None, code: str) -> None:
    answer = post(server, VALID | change)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, parameter, code), error
    assert error["type"] == "invalid_request_error"


def test_values_that_ask_for_nothing_are_taken(server: Server) -> None:
    neutral = {
        "n": 1,
        "frequency_penalty": 0,
        "presence_penalty": 0.0,
        "logit_bias": {},
        "logprobs": False,
        "response_format": {"type": "text"},
        "tools": [],
        "tool_choice": "none",
        "store": False,
        "user": "somebody",
        "safety_identifier": "somebody",
        "prompt_cache_key": "some people",
        "service_tier": "auto",
        "stop": None,
        "seed": None,
    }
    assert post(server, VALID | neutral).status_code == 200


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'"text"', b"\xff\xfe{}", b"[" * 5000, b'{"messages": "\xc3"}']
)
def test_a_body_that_is_no_request(server: Server, body: bytes) -> None:
    answer = post(server, body)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_a_body_in_an_encoding_that_is_not_taken(server: Server) -> None:
    headers = {**BEARER, "content-type": "application/json", "content-encoding": "gzip"}
    content = gzip.compress(json.dumps(VALID).encode())
    answer = server.request("POST", "/v1/chat/completions", content=content, headers=headers)
    assert answer.status_code == 400
    assert "gzip" in answer.json()["error"]["message"]


def test_several_problems_are_told(server: Server) -> None:
    error = post(server, {"messages": [], "n": 300, "top_g": 4}).json()["error"]
    assert [name for name in ("'n'", "'messages'", "'top_g'") if name in error["message"]] == [
        "'n'",
        "'messages'",
        "'top_g'",
    ]
    wrong = [{"role": "assistant", "tool_calls": [{"id": "a", "type": "function", "function": {"name": "a b"}}]}]
    error = post(server, {"messages": wrong}).json()["error"]
    assert "content" not in error["message"], "calls that are wrong are no missing text"


def test_a_body_of_a_million_wrong_items(server: Server) -> None:
    answer = post(server, b'{"messages":[' + b"1," * 999_999 + b"1]}")
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, "messages[0]", "invalid_type")
    assert "more problem" not in error["message"], "of a list the first wrong item is told"


def test_a_body_that_is_too_large(server: Server) -> None:
    large = {"messages": [{"role": "user", "content": "x" * 3_000_000}]}
    answer = post(server, large)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")

    def chunks() -> Any:
        for _ in range(40):
            yield b"x" * 100_000

    answer = server.request("POST", "/v1/chat/completions", content=chunks(), headers=BEARER)
    assert answer.status_code == 413


# HTTP itself


def test_the_stream_as_bytes(server: Server) -> None:
    answer = post(server, VALID | {"stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.endswith("data: [DONE]\n\n")
    events = [line for line in answer.text.split("\n\n") if line]
    assert all(event.startswith("data: ") for event in events)
    assert "usage" not in json.loads(events[0].removeprefix("data: "))


def test_a_caller_who_goes_away_stops_the_computing(server: Server) -> None:
    """Ten streams and ten whole answers are left in the middle: nothing of them goes on, the next one is answered."""
    address = httpx.URL(server.address)
    for stream in (True, False):
        body = json.dumps(VALID | {"stream": stream, "max_tokens": 100, "temperature": 1, "seed": 1}).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        for _ in range(10):
            with socket.create_connection((address.host, address.port or 80)) as connection:
                connection.sendall(head.encode() + body)
                if stream:
                    connection.recv(200)
    # Half a body, and gone.
    with socket.create_connection((address.host, address.port or 80)) as connection:
        connection.sendall(head.encode() + body[:20])
    assert post(server, VALID).status_code == 200
    until(lambda: counts(server, r"inference_requests_running{.*") == {"0.0"})
    assert counts(server, r'inference_requests_finished_total{finish_reason="cancelled".*') != {"0.0"}
    assert "Traceback" not in server.log()


def counts(server: Server, series: str) -> set[str]:
    """The values that /metrics tells of such series."""
    return set(re.findall(f"^{series} (.*)$", server.get("/metrics", headers=BEARER).text, re.MULTILINE))

"""Tools and response formats through the real openai package: a tiny model whose template writes calls, served over
HTTP from this process."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import openai
import pydantic
import pytest
import uvicorn
from answers import About
from api import create_api
from engine import Engine, EngineLimits, Report
from openai.types.chat import ChatCompletionUserMessageParam

from tests.call_templates import HERMES, make_calling_tokenizer

END = 1
LIMITS = EngineLimits(max_prompt_tokens=900, default_new_tokens=200, max_new_tokens=300, max_queue=40)
QUESTION: ChatCompletionUserMessageParam = {"role": "user", "content": "fox?"}
COLOURS = {"type": "string", "enum": ["red", "green", "日本"]}
FIND = {
    "type": "object",
    "properties": {"colour": COLOURS, "at": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["colour", "at"],
    "additionalProperties": False,
}
COUNT = {
    "type": "object",
    "properties": {"odd": {"type": "boolean"}},
    "required": ["odd"],
    "additionalProperties": False,
}
SCHEMAS = {"find": FIND, "count": COUNT}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": name, "description": "a tool", "parameters": schema, "strict": True}}
    for name, schema in SCHEMAS.items()
]
ANIMAL = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 5},
        "legs": {"type": "integer", "minimum": 2, "maximum": 8},
        "tags": {"type": "array", "items": COLOURS, "maxItems": 2},
    },
    "required": ["name", "legs", "tags"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the API of the tiny model answers, on a port of its own."""
    base = tmp_path_factory.mktemp("calling") / "tiny"
    engine = Engine(load=loader(base), models=("tiny",), default_model="tiny", limits=LIMITS)
    engine.start()
    engine.wait_until_loaded()
    api = create_api(engine, About("r1", 0, 15.0), lambda _: (b"", "text/plain"))
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(api, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    # The socket listens already: whoever calls before the server takes the call waits for it.
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    server.should_exit = True
    thread.join(10)
    asyncio.run(engine.drain(5))


def loader(base: Path) -> Any:
    """Write the model and load it, in the engine's thread."""

    def load(report: Report) -> Any:
        import model
        import torch
        from settings import Limits
        from transformers import LlamaConfig, LlamaForCausalLM

        tokenizer = make_calling_tokenizer(HERMES)
        tokenizer.save_pretrained(base)
        # The model is so small that a second thread only waits for the first.
        torch.set_num_threads(1)
        torch.manual_seed(3)
        config = LlamaConfig(
            vocab_size=len(tokenizer) + 5,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=1200,
            initializer_range=0.4,
            eos_token_id=END,
            bos_token_id=None,
        )
        LlamaForCausalLM(config).save_pretrained(base)
        limits = Limits(max_prompt_tokens=900, max_new_tokens=300, max_concurrent=6)
        return model.load(base, (), limits=limits, device="cpu", dtype="float32", report=report)

    return load


@pytest.fixture
def client(address: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=address, api_key="none is asked for here", max_retries=0, timeout=60)


def create(client: openai.OpenAI, **arguments: Any) -> Any:
    ask: Any = client.chat.completions.create
    return ask(**{"model": "tiny", "messages": [QUESTION], "temperature": 0} | arguments)


def calls_of(calls: Any) -> list[tuple[str, Any]]:
    return [(call.function.name, json.loads(call.function.arguments)) for call in calls or ()]


# Tools


@pytest.mark.parametrize("temperature", [0, 1.5])
@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "count"}}])
def test_calls_obey_their_schemas(client: openai.OpenAI, choice: Any, temperature: float) -> None:
    answer = create(client, tools=TOOLS, tool_choice=choice, temperature=temperature, seed=4, parallel_tool_calls=False)
    message = answer.choices[0].message
    assert answer.choices[0].finish_reason == "tool_calls"
    assert message.content is None
    [(name, arguments)] = calls_of(message.tool_calls)
    assert name == "count" or choice == "required"
    jsonschema.validate(arguments, SCHEMAS[name])
    assert len(message.tool_calls[0].id) == 9


@pytest.mark.parametrize("stop", [["\n", "}"], ["<tool_call>", '{"'], ["odd", "find"], "name"])
def test_stop_strings_cut_no_call(client: openai.OpenAI, stop: Any) -> None:
    """They are the text's: each of these stands in the markup of a call, its name or its arguments."""
    mark = make_calling_tokenizer(HERMES).convert_tokens_to_ids("<tool_call>")
    asks: list[dict[str, Any]] = [
        {"tool_choice": "required", "n": 2},
        {"tool_choice": {"type": "function", "function": {"name": "count"}}},
        {"tool_choice": "auto", "logit_bias": {str(mark): 100}},
    ]
    for ask in asks:
        asked = {"tools": TOOLS, "parallel_tool_calls": False, "temperature": 1.5, "seed": 4, "stop": stop} | ask
        whole = create(client, **asked)
        for choice in whole.choices:
            assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
            [(name, arguments)] = calls_of(choice.message.tool_calls)
            jsonschema.validate(arguments, SCHEMAS[name])
        streamed = [""] * len(whole.choices)
        for chunk in create(client, **asked, stream=True):
            [piece] = chunk.choices
            assert not piece.delta.content
            for call in piece.delta.tool_calls or ():
                streamed[piece.index] += (call.function.name or "") + call.function.arguments
            assert piece.finish_reason in (None, "tool_calls")
        assert streamed == [
            call.function.name + call.function.arguments
            for choice in whole.choices
            for call in choice.message.tool_calls
        ]


def test_stop_strings_end_the_text_of_an_answer_that_could_have_called(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"tools": TOOLS, "max_tokens": 30}
    text = create(client, **asked).choices[0].message.content
    stop = text[10:13]
    ended = create(client, **asked, stop=stop)
    assert ended.choices[0].finish_reason == "stop"
    assert ended.choices[0].message.content == text[: text.index(stop)]
    assert ended.choices[0].message.tool_calls is None
    assert ended.usage.completion_tokens < 30, "nothing more is computed"
    chunks = list(create(client, **asked, stop=stop, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == ended.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_the_stream_of_calls_is_the_whole_answer(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"tools": TOOLS, "tool_choice": "required", "temperature": 1, "seed": 8, "max_tokens": 120}
    whole = create(client, **asked).choices[0]
    with client.chat.completions.stream(**asked, model="tiny", messages=[QUESTION]) as stream:
        final = None
        for event in stream:
            if event.type == "tool_calls.function.arguments.done":
                json.loads(event.arguments)
        final = stream.get_final_completion().choices[0]
    assert final.finish_reason == whole.finish_reason
    streamed = [(call.function.name, call.function.arguments) for call in final.message.tool_calls or ()]
    assert streamed == [(call.function.name, call.function.arguments) for call in whole.message.tool_calls]


def test_several_calls_at_once(client: openai.OpenAI) -> None:
    """After a call this model hardly ends by itself: with the end forbidden it calls until its tokens are used up."""
    bias = {str(END): -100}
    message = create(client, tools=TOOLS, tool_choice="required", logit_bias=bias, max_tokens=150).choices[0].message
    assert len(message.tool_calls) > 1
    assert len({call.id for call in message.tool_calls}) == len(message.tool_calls)
    for name, arguments in calls_of(message.tool_calls[:-1]):
        jsonschema.validate(arguments, SCHEMAS[name])
    one = create(client, tools=TOOLS, tool_choice="required", logit_bias=bias, parallel_tool_calls=False).choices[0]
    assert len(one.message.tool_calls) == 1
    assert one.finish_reason == "tool_calls", "the grammar ends the answer, although the model would not"


def test_the_model_may_call_or_not(client: openai.OpenAI) -> None:
    text = create(client, tools=TOOLS, tool_choice="auto", max_tokens=20).choices[0]
    assert text.message.tool_calls is None
    assert text.message.content
    mark = make_calling_tokenizer(HERMES).convert_tokens_to_ids("<tool_call>")
    called = create(client, tools=TOOLS, logit_bias={str(mark): 100}, parallel_tool_calls=False).choices[0]
    assert called.finish_reason == "tool_calls"
    [(name, arguments)] = calls_of(called.message.tool_calls)
    jsonschema.validate(arguments, SCHEMAS[name])
    never = create(client, tools=TOOLS, tool_choice="none", max_tokens=20).choices[0]
    assert never.message.tool_calls is None
    plain = create(client, max_tokens=20).choices[0]
    assert never.message.content == plain.message.content, "without a choice the tools are not told"


def test_a_conversation_goes_on_after_a_call(client: openai.OpenAI) -> None:
    first = create(client, tools=TOOLS, tool_choice="required", parallel_tool_calls=False)
    call = first.choices[0].message.tool_calls[0]
    messages = [QUESTION, first.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "at the dog"}]
    second = create(client, messages=messages, tools=TOOLS, max_tokens=10)
    assert second.usage.prompt_tokens > first.usage.prompt_tokens + 20
    assert second.usage.prompt_tokens_details.cached_tokens > first.usage.prompt_tokens - 5, (
        "the first turns are reused"
    )


def test_a_conversation_goes_on_with_what_the_package_made_of_an_answer(client: openai.OpenAI) -> None:
    class Count(pydantic.BaseModel):
        odd: bool

    asked: dict[str, Any] = {
        "model": "tiny",
        "messages": [QUESTION],
        "temperature": 0,
        "tools": [openai.pydantic_function_tool(Count)],
        "tool_choice": "required",
        "parallel_tool_calls": False,
    }
    parsed = client.chat.completions.parse(**asked).choices[0].message
    assert parsed.tool_calls
    assert parsed.tool_calls[0].function.parsed_arguments is not None
    calls: list[Any] = []
    for chunk in client.chat.completions.create(**asked, stream=True):
        for piece in chunk.choices[0].delta.tool_calls or ():
            if piece.index == len(calls):
                calls.append(piece.model_dump())
            else:
                calls[piece.index]["function"]["arguments"] += piece.function.arguments
    assert calls[0]["index"] == 0
    put_together = {"role": "assistant", "content": None, "tool_calls": calls}
    for message, identity in ((parsed, parsed.tool_calls[0].id), (put_together, calls[0]["id"])):
        result = {"role": "tool", "tool_call_id": identity, "content": "3"}
        assert create(client, messages=[QUESTION, message, result], max_tokens=2).usage.prompt_tokens > 20
        with pytest.raises(openai.BadRequestError, match="No earlier message has a call with the id `other`"):
            create(client, messages=[QUESTION, message, result | {"tool_call_id": "other"}])


async def test_the_async_client_and_a_call_that_is_cut_short(address: str) -> None:
    async with openai.AsyncOpenAI(base_url=address, api_key="none", max_retries=0) as client:
        stream = await client.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": "fox"}],
            tools=TOOLS,
            tool_choice="required",
            max_tokens=45,
            temperature=0,
            logit_bias={str(END): -100},
            stream=True,
        )
        names, arguments, reasons = [], "", []
        async for chunk in stream:
            for call in chunk.choices[0].delta.tool_calls or ():
                assert call.function is not None
                names += [call.function.name] if call.function.name else []
                arguments += call.function.arguments or ""
            reasons.append(chunk.choices[0].finish_reason)
    assert names
    assert arguments.startswith("{")
    assert reasons[-1] == "length"


def test_a_schema_that_cannot_be_held_is_refused_with_its_place(client: openai.OpenAI) -> None:
    def refused(**changes: Any) -> Any:
        with pytest.raises(openai.BadRequestError) as error:
            create(client, **changes)
        return error.value

    odd = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}
    tool: dict[str, Any] = {"type": "function", "function": {"name": "odd", "parameters": odd, "strict": True}}
    error = refused(tools=[TOOLS[0], tool])
    assert error.param == "tools[1].function.parameters"
    assert 'at /properties/a: Unimplemented keys: ["uniqueItems"]' in error.message
    wrong = {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "strin"}}}}
    format_ = {"type": "json_schema", "json_schema": {"name": "odd", "schema": wrong}}
    error = refused(response_format=format_)
    assert error.param == "response_format"
    assert "at /properties/a/items: Invalid type: strin" in error.message
    tool["function"]["strict"] = False
    assert create(client, tools=[tool], max_tokens=3).choices, "what the grammar cannot hold is left to the model"
    odd["properties"] = {"a": {"type": "array", "items": {"type": "string", "pattern": "^(?=.*x).+$"}}}
    assert create(client, tools=[tool], max_tokens=3).choices, "a pattern that looks around, too"
    tool["function"]["strict"] = True
    assert "at /properties/a/items: regex parse error" in refused(tools=[tool]).message


# Response formats


@pytest.mark.parametrize("seed", range(2))
def test_answers_obey_their_schema(client: openai.OpenAI, seed: int) -> None:
    format_ = {"type": "json_schema", "json_schema": {"name": "animal", "schema": ANIMAL, "strict": True}}
    answer = create(client, response_format=format_, temperature=1.5, seed=seed, max_tokens=300)
    assert answer.choices[0].finish_reason == "stop"
    jsonschema.validate(json.loads(answer.choices[0].message.content), ANIMAL)


def test_pydantic_models_as_the_package_sends_them(client: openai.OpenAI) -> None:
    from pydantic import BaseModel, Field

    class Fox(BaseModel):
        quick: bool
        jumps: int = Field(ge=0, le=99)

    parsed = client.chat.completions.parse(
        model="tiny", messages=[{"role": "user", "content": "fox"}], response_format=Fox, temperature=0
    )
    assert isinstance(parsed.choices[0].message.parsed, Fox)


def test_any_object(client: openai.OpenAI) -> None:
    answer = create(client, response_format={"type": "json_object"}, max_tokens=40).choices[0]
    assert answer.message.content.startswith("{")
    if answer.finish_reason == "stop":
        assert isinstance(json.loads(answer.message.content), dict)


def test_a_grammar_that_gives_up_harms_its_own_request_alone(address: str, client: openai.OpenAI) -> None:
    """A schema with too many alternatives at one place is found too complex in the middle of an answer."""
    properties = {f"p{number}": {"type": "string", "pattern": f"^[a-z]*{number}$"} for number in range(700)}
    wide = {"anyOf": [{"type": "object", "properties": {name: given}} for name, given in properties.items()]}
    body = {
        "messages": [QUESTION],
        "max_tokens": 60,
        "response_format": {"type": "json_schema", "json_schema": {"name": "wide", "schema": wide}},
    }
    results: list[httpx.Response] = []
    asking = threading.Thread(
        target=lambda: results.append(httpx.post(address + "/chat/completions", json=body, timeout=280))
    )
    asking.start()
    others = [create(client, max_tokens=60, temperature=1, seed=seed).choices[0] for seed in range(3)]
    asking.join()
    assert all(other.message.content for other in others)
    assert results[0].status_code == 400
    error = results[0].json()["error"]
    assert error["param"] == "response_format"
    assert "cannot go on" in error["message"]

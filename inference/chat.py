"""POST /v1/chat/completions: its body for the engine, and the engine's events as its answers.

A whole answer is the pieces of a streamed one, put together. Knows no torch and no model.
"""

from __future__ import annotations

import secrets
import string
from collections.abc import Iterable
from typing import Any

from answers import About, ChoicePiece, check_stream_options, collect, head, stream_response, submit, usage
from api_errors import ApiError
from chat_protocol import (
    Answer,
    AnswerCall,
    AnswerMessage,
    ChatCompletion,
    ChatCompletionRequest,
    ChatLogprobs,
    ChatTokenLogprob,
    TopLogprob,
)
from engine import Engine
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from generation import ChatRequest, Event, Finished, TokenLogprob
from protocol import invalid
from tools import CALL_ID_LENGTH, CallBegins, CallPiece


def chat_routes(engine: Engine, about: About) -> APIRouter:
    """The route over any engine with this interface."""
    router = APIRouter()

    @router.post("/v1/chat/completions", summary="The answer to a conversation", response_model=ChatCompletion)
    async def chat_completions(body: ChatCompletionRequest, request: Request) -> Response:
        asked = _asked(body)
        by_newer_name = {"max_tokens": "max_completion_tokens"} if body.max_completion_tokens is not None else {}
        stream = await submit(engine, asked, request, by_newer_name)
        beginning = head("chatcmpl", stream, about)
        answers = [_Deltas(number, asked.logprobs) for number in range(asked.answers)]
        if body.stream:
            return stream_response(
                stream,
                {**beginning, "object": "chat.completion.chunk"},
                first=[_choice(number, {"role": "assistant", "content": ""}) for number in range(asked.answers)],
                answers=answers,
                n=asked.n,
                with_usage=body.with_usage,
                keep_alive_seconds=about.keep_alive_seconds,
            )
        events = await collect(stream, request)
        pieces = [piece for event in events for piece in answers[event.choice].of(event)]
        whole = ChatCompletion(
            **beginning,
            choices=[_put_together([piece for piece in pieces if piece["index"] == each.number]) for each in answers],
            usage=usage((event for event in events if isinstance(event, Finished)), asked.n),
        )
        return JSONResponse(whole.model_dump())

    return router


def _asked(body: ChatCompletionRequest) -> ChatRequest:
    """What the engine is asked. Raises ApiError for parameters that do not go together."""
    if body.max_tokens is not None and body.max_completion_tokens is not None:
        raise ApiError(400, invalid("Give `max_tokens` or `max_completion_tokens`, not both.", "max_tokens"))
    check_stream_options(body)
    _check_results_have_calls(body)
    if body.top_logprobs and not body.logprobs:
        raise ApiError(400, invalid("`top_logprobs` needs `logprobs`: true.", "top_logprobs"))
    tools = [tool.model_dump(exclude_none=True) for tool in body.tools or ()]
    names = [tool["function"]["name"] for tool in tools]
    twice = next((name for number, name in enumerate(names) if name in names[:number]), None)
    if twice is not None:
        raise ApiError(400, invalid(f"The name `{twice}` stands twice in `tools`.", "tools"))
    choice = body.tool_choice.type if body.tool_choice else "auto"
    function = body.tool_choice.function.name if body.tool_choice and body.tool_choice.function else None
    if choice in ("required", "function") and not tools:
        raise ApiError(400, invalid("`tool_choice` needs `tools`.", "tool_choice"))
    if function is not None and function not in names:
        raise ApiError(400, invalid(f"`tools` has no function `{function}`.", "tool_choice.function.name"))
    if body.parallel_tool_calls is not None and not tools:
        raise ApiError(400, invalid("`parallel_tool_calls` needs `tools`.", "parallel_tool_calls"))
    told = body.generation()
    told["max_tokens"] = body.max_completion_tokens if body.max_tokens is None else body.max_tokens
    return ChatRequest(
        **told,
        messages=[message.as_template_reads() for message in body.messages],
        template_arguments=body.chat_template_kwargs or {},
        tools=tools,
        tool_choice="required" if choice == "function" else choice,
        function=function,
        parallel_tool_calls=body.parallel_tool_calls is not False,
        response_schema=body.response_format.schema_of_answer() if body.response_format else None,
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
    )


def _check_results_have_calls(body: ChatCompletionRequest) -> None:
    """Raises ApiError when a tool's message answers no earlier call: templates find the function's name by it."""
    called: set[str] = set()
    for number, message in enumerate(body.messages):
        called |= {call.id for call in message.tool_calls or ()}
        if message.tool_call_id is not None and message.tool_call_id not in called:
            said = f"No earlier message has a call with the id `{message.tool_call_id}`."
            raise ApiError(400, invalid(said, f"messages[{number}].tool_call_id"))


class _Deltas:
    """One answer's events -> its pieces of the stream."""

    def __init__(self, number: int, logprobs: int | None) -> None:
        self.number = number
        self.text_only = _choice(number, {"content": ""}) if logprobs is None else None
        self._logprobs: list[ChatTokenLogprob] = []

    def of(self, event: Event) -> Iterable[ChoicePiece]:
        """The pieces that this event adds."""
        if isinstance(event, Finished):
            if self._logprobs:
                yield self._piece({"content": ""})
            yield _choice(self.number, {}, event.reason)
            return
        self._logprobs += [
            ChatTokenLogprob(**_token(each), top_logprobs=[TopLogprob(**_token(other)) for other in each.likeliest])
            for each in event.logprobs
        ]
        if event.text:
            yield self._piece({"content": event.text})
        for call in event.calls:
            yield self._piece(self._delta(call))

    @staticmethod
    def _delta(piece: CallPiece) -> dict[str, Any]:
        call: dict[str, Any] = {"index": piece.number}
        if isinstance(piece, CallBegins):
            call |= {"id": _call_id(), "type": "function", "function": {"name": piece.name, "arguments": ""}}
        else:
            call["function"] = {"arguments": piece.text}
        return {"tool_calls": [call]}

    def _piece(self, delta: dict[str, Any]) -> ChoicePiece:
        logprobs, self._logprobs = self._logprobs, []
        return _choice(self.number, delta, None, ChatLogprobs(content=logprobs).model_dump() if logprobs else None)


def _choice(
    number: int, delta: dict[str, Any], finish_reason: str | None = None, logprobs: dict[str, Any] | None = None
) -> ChoicePiece:
    return {"index": number, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}


def _put_together(pieces: list[ChoicePiece]) -> Answer:
    """The whole answer of one choice's pieces."""
    deltas = [piece["delta"] for piece in pieces]
    text = "".join(delta.get("content", "") for delta in deltas)
    calls: list[dict[str, Any]] = []
    for delta in deltas:
        for call in delta.get("tool_calls", ()):
            if "id" in call:
                calls.append({"id": call["id"], "type": "function", "function": dict(call["function"])})
            else:
                calls[call["index"]]["function"]["arguments"] += call["function"]["arguments"]
    logprobs = [token for piece in pieces if piece["logprobs"] for token in piece["logprobs"]["content"]]
    return Answer(
        index=pieces[0]["index"],
        message=AnswerMessage(
            content=None if calls and not text else text,
            tool_calls=[AnswerCall.model_validate(call) for call in calls] or None,
        ),
        logprobs=ChatLogprobs(content=logprobs) if logprobs else None,
        finish_reason=pieces[-1]["finish_reason"],
    )


def _token(told: TokenLogprob) -> dict[str, Any]:
    return {
        "token": told.content.decode(errors="replace"),
        "logprob": told.logprob,
        "bytes": list(told.content),
    }


def _call_id() -> str:
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(CALL_ID_LENGTH))

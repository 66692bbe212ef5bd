"""From the engine's events to HTTP: what chat and plain completions have in common.

Knows streams, disconnects and server-sent events; knows no bodies of either.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from access_log import note
from api_errors import ApiError, of_answer, of_engine
from engine import Engine
from fastapi import Request
from fastapi.responses import Response, StreamingResponse
from generation import EngineFull, EngineNotReady, Event, Finished, GenerationRequest, RequestRefused, Stream
from protocol import GenerationBody, PromptTokensDetails, Usage, invalid

ChoicePiece = dict[str, Any]
"""One element of `choices` in a streamed piece."""


@dataclass(frozen=True)
class About:
    """What the routes tell about the server itself."""

    release: str
    created: int
    """Unix time in seconds."""
    keep_alive_seconds: float


def check_stream_options(body: GenerationBody) -> None:
    """Raises ApiError when there are options of a stream and none is asked for."""
    if body.stream_options is not None and not body.stream:
        raise ApiError(400, invalid("`stream_options` needs `stream`: true.", "stream_options"))


async def submit(
    engine: Engine, asked: GenerationRequest, request: Request, renamed: dict[str, str] | None = None
) -> Stream:
    """Hand a request to the engine. `renamed`: parameters that the caller knows by another name. Raises ApiError."""
    try:
        stream = await engine.submit(asked)
    except RequestRefused as refused:
        refused.parameter = (renamed or {}).get(refused.parameter, refused.parameter)
        raise of_engine(refused) from None
    except (EngineFull, EngineNotReady) as error:
        raise of_engine(error) from None
    note(request.scope, stream, asked.n)
    return stream


def head(prefix: str, stream: Stream, about: About) -> dict[str, Any]:
    """What every body of an answer begins with."""
    return {
        "id": f"{prefix}-{uuid.uuid4().hex}",
        "created": int(time.time()),
        "model": stream.model,
        "system_fingerprint": about.release,
    }


def usage(finished: Iterable[Finished], n: int) -> Usage:
    """Counts of a whole request: `n` answers share a prompt, which counts once."""
    ends = sorted(finished, key=lambda each: each.choice)
    prompt_tokens = sum(each.prompt_tokens for each in ends[::n])
    completion_tokens = sum(each.completion_tokens for each in ends)
    return Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=prompt_tokens + completion_tokens,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=sum(each.cached_tokens for each in ends[::n])),
    )


async def collect(stream: Stream, request: Request) -> list[Event]:
    """All events of all answers. When the caller goes away, computing stops. Raises ApiError for an answer that is
    none."""
    watch = asyncio.create_task(_cancel_on_disconnect(request, stream))
    events: list[Event] = []
    try:
        async for event in stream:
            events.append(event)
            if isinstance(event, Finished) and (error := of_answer(event)):
                raise error
    finally:
        watch.cancel()
        stream.cancel()
    return events


async def _cancel_on_disconnect(request: Request, stream: Stream) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    stream.cancel()


class Pieces(Protocol):
    """One answer's events -> its pieces of the stream."""

    text_only: ChoicePiece | None
    """What each piece of text is but for the text, which is empty here; None when they differ in more."""

    def of(self, event: Event) -> Iterable[ChoicePiece]:
        """The pieces that this event adds."""


def stream_response(
    stream: Stream,
    beginning: dict[str, Any],
    *,
    first: Sequence[ChoicePiece],
    answers: Sequence[Pieces],
    n: int,
    with_usage: bool,
    keep_alive_seconds: float,
) -> Response:
    """The answers piece by piece: `first`, then the pieces of every event. Each begins with `beginning`."""
    events = _server_sent_events(stream, beginning, first, answers, n, with_usage, keep_alive_seconds)
    # A proxy that collects the stream would make it useless.
    headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
    return StreamingResponse(events, media_type="text/event-stream", headers=headers)


async def _server_sent_events(
    stream: Stream,
    beginning: dict[str, Any],
    first: Sequence[ChoicePiece],
    answers: Sequence[Pieces],
    n: int,
    with_usage: bool,
    keep_alive_seconds: float,
) -> AsyncIterator[str]:
    """https://html.spec.whatwg.org/multipage/server-sent-events.html, with a comment when nothing comes for a while:
    ingresses close silent connections. What is due together is one write. Leaving the iterator stops the computing."""
    writer = _PieceWriter(beginning, answers, with_usage)
    finished: list[Finished] = []
    try:
        due = "".join(map(writer.piece, first))
        while len(finished) < len(stream.generations):
            if due:
                yield due
            events = await stream.take(keep_alive_seconds)
            due = "" if events else ": keep-alive\n\n"
            for event in events:
                if isinstance(event, Finished):
                    if error := of_answer(event):
                        yield due + _event({"error": error.error.model_dump()})
                        return
                    finished.append(event)
                due += writer.pieces(event)
        if with_usage:
            due += _event({**beginning, "choices": [], "usage": usage(finished, n).model_dump()})
        yield f"{due}data: [DONE]\n\n"
    finally:
        stream.cancel()


class _PieceWriter:
    """Writes pieces as events. Two pieces of text differ in their text: the rest of them is put into JSON once, for
    every microsecond of a token is taken from the threads that compute the next ones."""

    def __init__(self, beginning: dict[str, Any], answers: Sequence[Pieces], with_usage: bool) -> None:
        self._begin = f'data: {_json(beginning)[:-1]},"choices":['
        self._end = '],"usage":null}\n\n' if with_usage else "]}\n\n"
        self._answers = answers
        self._around_text = [self._around(answer.text_only) for answer in answers]

    def _around(self, text_only: ChoicePiece | None) -> tuple[str, str] | None:
        if text_only is None:
            return None
        before, after = _json(text_only).split('""')
        return self._begin + before, after + self._end

    def piece(self, choice: ChoicePiece) -> str:
        """One piece."""
        return f"{self._begin}{_json(choice)}{self._end}"

    def pieces(self, event: Event) -> str:
        """The pieces that an event adds."""
        around = self._around_text[event.choice]
        if around is None or isinstance(event, Finished) or event.calls:
            return "".join(map(self.piece, self._answers[event.choice].of(event)))
        return f"{around[0]}{json.dumps(event.text)}{around[1]}" if event.text else ""


_json = json.JSONEncoder(separators=(",", ":")).encode


def _event(document: dict[str, Any]) -> str:
    return f"data: {_json(document)}\n\n"

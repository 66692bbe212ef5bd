"""Streams of answers, event by event: the bytes of each, and the comments when none comes."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from typing import Any, cast

import httpx
import pytest
from api import About, create_api
from engine import Engine
from generation import EngineLimits, Event, Finished, Generation, GenerationRequest, Stream, TextPiece
from hypothesis import example, given, settings
from hypothesis import strategies as st

ODD = [
    '"',
    "\\",
    '\\"',
    "\n\r\t",
    "\x00\x1f\x7f",
    "\u2028\u2029",
    "é日本🙂",
    "\ud83d",
    "\ude42",
    "data: x\n\n",
    '""',
    "</script>",
    "",
]
CHOICES = 2
ROUTES: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hello"}]}),
    "text": ("/v1/completions", {"prompt": "hello"}),
}


class Reciter:
    """What the routes need of an engine. It says what is written down, also what no tokenizer would."""

    limits = EngineLimits(max_prompt_tokens=10, default_new_tokens=5, max_new_tokens=5, max_queue=1)

    def __init__(self, batches: Sequence[Sequence[Event]]) -> None:
        self._batches = batches

    async def submit(self, request: GenerationRequest) -> Stream:
        """A stream of the batches, one after the other."""
        generations = [Generation('a "model"', 1, time.monotonic()) for _ in range(request.answers)]
        stream = Stream(generations, lambda: None, prompts=[""] * request.answers)
        self._reciting = asyncio.create_task(self._recite(stream))
        return stream

    async def _recite(self, stream: Stream) -> None:
        for batch in self._batches:
            stream.deliver(batch)
            await asyncio.sleep(0)


async def streamed(batches: Sequence[Sequence[Event]], path: str, body: dict[str, Any]) -> bytes:
    """The body of the answer that the routes make of these events."""
    api = create_api(cast(Engine, Reciter(batches)), About('a "release"', 0, 15.0), lambda accept: (b"", "text/plain"))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://here") as client:
        answer = await client.post(path, json={"stream": True, "n": CHOICES, "max_tokens": 5, **body})
    assert answer.status_code == 200, answer.text
    return answer.content


def written(document: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(document, separators=(",", ":")).encode() + b"\n\n"


text = st.one_of(st.sampled_from(ODD), st.text(st.characters(exclude_categories=()), max_size=8))
pieces = st.builds(TextPiece, text, st.just((5,)), st.integers(0, CHOICES - 1))
told = st.lists(st.lists(pieces, min_size=1, max_size=4), max_size=5)


@pytest.mark.parametrize("route", ROUTES)
@settings(max_examples=60, deadline=None)
@given(batches=told, with_usage=st.booleans())
@example(batches=[[TextPiece(odd, (5,), 1) for odd in ODD]], with_usage=False)
def test_each_piece_is_written_as_its_whole_document(
    route: str, batches: list[list[TextPiece]], with_usage: bool
) -> None:
    ends = [Finished("length", 1, 5, choice=number) for number in range(CHOICES)]
    path, body = ROUTES[route]
    if with_usage:
        body = {**body, "stream_options": {"include_usage": True}}
    heard: list[list[Event]] = [[*batch] for batch in batches]
    found = asyncio.run(streamed([*heard, *([end] for end in ends)], path, body))

    head = {name: value for name, value in json.loads(found.split(b"\n\n")[0][6:]).items() if name != "choices"}
    assert head["model"] == 'a "model"'
    rest = {"usage": head.pop("usage")} if with_usage else {}

    def piece(number: int, text: str | None, reason: str | None = None, **delta: str) -> bytes:
        if route == "text":
            told: dict[str, Any] = {"text": text or ""}
        else:
            told = {"delta": delta if text is None else {**delta, "content": text}}
        choice = {"index": number, **told, "logprobs": None, "finish_reason": reason}
        return written({**head, "choices": [choice], **rest})

    expected = [piece(number, "", role="assistant") for number in range(CHOICES)] if route == "chat" else []
    expected += [piece(each.choice, each.text) for batch in batches for each in batch if each.text]
    expected += [piece(end.choice, None, end.reason) for end in ends]
    if with_usage:
        usage = {"prompt_tokens": 1, "completion_tokens": 10, "total_tokens": 11}
        usage_written = {**usage, "prompt_tokens_details": {"cached_tokens": 0}}
        expected.append(written({**head, "choices": [], "usage": usage_written}))
    assert found == b"".join(expected) + b"data: [DONE]\n\n"


async def test_what_came_before_an_answer_failed_is_sent_before_the_error() -> None:
    batch: list[Event] = [TextPiece("so far", (5,)), Finished("error", 1, 1, "it broke"), TextPiece("never", (5,), 1)]
    events = (await streamed([batch], *ROUTES["chat"])).split(b"\n\n")
    assert [json.loads(event[6:]) for event in events[CHOICES:-1]] == [
        {
            **json.loads(events[0][6:]),
            "choices": [{"index": 0, "delta": {"content": "so far"}, "logprobs": None, "finish_reason": None}],
        },
        {"error": {"message": "it broke.", "type": "server_error", "param": None, "code": "generation_failed"}},
    ]


async def test_who_takes_events_waits_the_whole_time_since_the_last_one() -> None:
    """The timer of an earlier wait rings while the next one has only begun."""
    stream = Stream([Generation("default", 1, 0.0)], lambda: None)
    loop, patience = asyncio.get_running_loop(), 0.05
    for _ in range(3):
        loop.call_later(patience / 2, stream.deliver, [TextPiece("word", (5,))])
        while not (events := await stream.take(patience)):
            pass
        assert events == [TextPiece("word", (5,))]
    began = loop.time()
    assert await stream.take(patience) == []
    assert loop.time() - began >= patience
    stream.deliver([TextPiece("one", (5,)), TextPiece("two", (6,))])
    stream.deliver([TextPiece("three", (7,))])
    assert [event.text for event in await stream.take(patience) if isinstance(event, TextPiece)] == [
        "one",
        "two",
        "three",
    ]
    assert await stream.take(patience) == []
    stream.cancel()

"""An answer as a person watches it grow: its text so far, its pace, and why there is none.

The page draws what comes from here. Knows the engine and the limits of keys; knows no Gradio and no HTTP.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractContextManager, aclosing
from dataclasses import dataclass
from typing import Any

from engine import Engine
from generation import ChatRequest, EngineFull, EngineNotReady, Finished, FinishReason, RequestRefused
from limits import KeyLimitReached

NOT_ANSWERED = "Not answered"
"""The title of a turn that says why there is no answer."""

SHOWN_EVERY_SECONDS = 0.05
"""An answer is redrawn no more often than this: each time costs the server a millisecond or two of one core."""

CUT_SHORT: dict[FinishReason | None, str] = {
    "length": "cut: longest answer reached",
    "timeout": "cut: it took too long",
    "cancelled": "cut: the server is ending",
}


@dataclass(frozen=True)
class Said:
    """An answer as far as it has come. `refused` is why there is none; times are seconds since it was asked for."""

    text: str = ""
    tokens: int = 0
    first_after: float = 0.0
    last_after: float = 0.0
    refused: str | None = None
    ended: FinishReason | None = None

    @property
    def shown(self) -> str:
        return self.text if self.refused is None else f"{NOT_ANSWERED}: {self.refused}"

    @property
    def pace(self) -> str:
        """24 tokens, 31.2 tokens/s, first after 0.42 s. The rate is that of the tokens after the first."""
        if not self.tokens:
            return ""
        words = [f"{self.tokens} {'token' if self.tokens == 1 else 'tokens'}"]
        if self.tokens > 1 and self.last_after > self.first_after:
            words.append(f"{(self.tokens - 1) / (self.last_after - self.first_after):.1f} tokens/s")
        words.append(f"first after {self.first_after:.2f} s")
        if self.ended in CUT_SHORT:
            words.append(CUT_SHORT[self.ended])
        return " · ".join(words)


async def answers(
    engine: Engine, request: ChatRequest, permit: AbstractContextManager[None]
) -> AsyncGenerator[Said, None]:
    """The answer again and again as it grows; the last one is whole. Leaving the iterator stops the computing.

    `permit` is held meanwhile, or raises KeyLimitReached.
    """
    try:
        with permit:
            async with aclosing(_growing(engine, request)) as growing:
                async for said in growing:
                    yield said
    except KeyLimitReached as reached:
        yield Said(refused=str(reached))


async def _growing(engine: Engine, request: ChatRequest) -> AsyncGenerator[Said, None]:
    began = time.monotonic()
    try:
        stream = await engine.submit(request)
    except (RequestRefused, EngineFull, EngineNotReady) as error:
        yield Said(refused=str(error))
        return
    text, tokens, first_after, last_after, shown_at = "", 0, 0.0, 0.0, 0.0
    try:
        async for event in stream:
            now = time.monotonic()
            if isinstance(event, Finished):
                refused = (event.error or "no reason") if event.reason == "error" else None
                yield Said(text, tokens, first_after, last_after, refused, event.reason)
            else:
                text += event.text
                tokens += len(event.tokens)
                last_after = now - began
                first_after = first_after or last_after
                if now - shown_at >= SHOWN_EVERY_SECONDS:
                    shown_at = now
                    yield Said(text, tokens, first_after, last_after)
    finally:
        # The stop button and a closed browser end up here too.
        stream.cancel()


async def beside_each_other(*growing: AsyncGenerator[Said, None]) -> AsyncGenerator[tuple[Said, ...], None]:
    """How far each answer has come, whenever one of them has grown. Leaving the iterator leaves all of them."""
    latest = [Said()] * len(growing)
    news = asyncio.Event()

    async def follow(side: int, answer: AsyncGenerator[Said, None]) -> None:
        async with aclosing(answer):
            async for said in answer:
                latest[side] = said
                news.set()

    sides = [asyncio.create_task(follow(side, answer)) for side, answer in enumerate(growing)]
    for task in sides:
        task.add_done_callback(lambda _: news.set())
    try:
        ended = False
        while not ended:
            await news.wait()
            news.clear()
            ended = all(task.done() for task in sides)
            yield tuple(latest)
        await asyncio.gather(*sides)
    finally:
        for task in sides:
            task.cancel()


def conversation(history: Sequence[Mapping[str, Any]], system: str) -> list[dict[str, str]]:
    """The turns that the model is sent: without the questions that got no answer, and without what was said
    instead of one."""
    messages = [{"role": "system", "content": system}] if system.strip() else []
    for turn in history:
        if (turn.get("metadata") or {}).get("title") == NOT_ANSWERED:
            if messages and messages[-1]["role"] == "user":
                messages.pop()
        else:
            messages.append({"role": turn["role"], "content": _plain(turn["content"])})
    return messages


def _plain(content: Any) -> str:
    """A turn's text: a string, or parts of which the text ones count."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content]
    return "".join(part if isinstance(part, str) else str(part.get("text", "")) for part in parts)

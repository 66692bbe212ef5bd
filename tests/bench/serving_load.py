"""What is asked of a server that is measured, over HTTP as any client would, and what is noted of its answers."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp

from tests.bench.serving_model import words

SYSTEM_TOKENS = 500
LONG_TOKENS = 2000
OTHERS = 8
"""Streams that go on while a long prompt is computed."""
BEFORE_LONG = 12
"""Tokens that each of them has sent by then."""


@dataclass(frozen=True)
class Asked:
    """One request: its prompt's words (nearly a token each) and how many tokens it answers."""

    messages: tuple[dict[str, str], ...]
    new_tokens: int


@dataclass(frozen=True)
class Answered:
    """When a request was sent, and when each piece of its text came, in seconds of one clock."""

    sent: float
    pieces: tuple[float, ...]

    @property
    def first_seconds(self) -> float:
        """Time to first token."""
        return self.pieces[0] - self.sent


class Client:
    """A client of one server."""

    def __init__(self, address: str, model: str, key: str | None) -> None:
        self._address, self._model = address, model
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    async def ask(self, http: aiohttp.ClientSession, asked: Asked, pieces: list[float] | None = None) -> Answered:
        """Send the request and read its stream to the end; when each piece comes is noted in `pieces` at once. Raises
        RuntimeError when the server says that it failed."""
        body = {
            "model": self._model,
            "messages": list(asked.messages),
            "max_tokens": asked.new_tokens,
            "temperature": 1.0,
            "stream": True,
        }
        sent, pieces = time.perf_counter(), [] if pieces is None else pieces
        url = f"{self._address}/v1/chat/completions"
        async with http.post(url, json=body, headers=self._headers) as response:
            if response.status != 200:
                raise RuntimeError(f"{response.status}: {(await response.text())[:300]}")
            async for line in response.content:
                event = json.loads(line[6:]) if line.startswith(b"data: {") else {}
                if "error" in event:
                    raise RuntimeError(str(event["error"])[:300])
                if _text(event):
                    pieces.append(time.perf_counter())
        # Tokens that no text came of, such as half a character, are there when the stream ends.
        return Answered(sent, tuple(pieces) or (time.perf_counter(),))

    async def together(self, requests: Sequence[Asked], in_flight: int) -> list[Answered]:
        """Ask everything, `in_flight` at a time."""
        line = iter(requests)
        answers: list[Answered] = []

        async def go_on(http: aiohttp.ClientSession) -> None:
            for asked in line:
                answers.append(await self.ask(http, asked))

        async with _session(in_flight) as http:
            await asyncio.gather(*(go_on(http) for _ in range(in_flight)))
        return answers

    async def beside(self, others: Sequence[Asked], long: Asked) -> tuple[list[Answered], Answered]:
        """The answers to `others`, and to a long prompt that is sent when each of them is well under way."""
        async with _session(len(others) + 1) as http:
            noted: list[list[float]] = [[] for _ in others]
            running = [asyncio.create_task(self.ask(http, *each)) for each in zip(others, noted, strict=True)]
            while any(len(pieces) < BEFORE_LONG for pieces in noted) and not all(task.done() for task in running):
                await asyncio.sleep(0.01)
            answer = await self.ask(http, long)
            return list(await asyncio.gather(*running)), answer


def _session(connections: int) -> aiohttp.ClientSession:
    """A client whose parser is not written in Python: the load has the same cores as the server."""
    connector = aiohttp.TCPConnector(limit=connections)
    return aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=1800))


def _text(event: dict[str, Any]) -> str:
    return "".join(choice["delta"].get("content") or "" for choice in event.get("choices", ()))


def prompts(count: int, new_tokens: int, seed: int, *, mixed: bool) -> list[Asked]:
    """Prompts of 64 tokens; `mixed`: every fourth of them has 400."""
    sizes = [400 if mixed and number % 4 == 3 else 64 for number in range(count)]
    return [
        Asked(({"role": "user", "content": words(seed + number, size)},), new_tokens)
        for number, size in enumerate(sizes)
    ]


def throughput(client: Client, in_flight: int, requests: Sequence[Asked]) -> dict[str, float]:
    """Tokens a second, time to first token and time per token, with so many requests in flight."""
    began = time.perf_counter()
    answers = asyncio.run(client.together(requests, in_flight))
    seconds = time.perf_counter() - began
    firsts = [answer.first_seconds for answer in answers]
    each = [(answer.pieces[-1] - answer.pieces[0]) / max(1, len(answer.pieces) - 1) for answer in answers]
    return {
        "requests": len(answers),
        "tokens_per_second": sum(asked.new_tokens for asked in requests) / seconds,
        "first_token_seconds_p50": quantile(firsts, 0.5),
        "first_token_seconds_p95": quantile(firsts, 0.95),
        "seconds_per_token_p50": quantile(each, 0.5),
        "seconds_per_token_p95": quantile(each, 0.95),
    }


def long_prompt(client: Client, new_tokens: int, seed: int) -> dict[str, float | None]:
    """How much longer the others wait for their next token while a prompt of 2,000 tokens is computed; None where the
    others had ended by then."""
    others = [Asked(({"role": "user", "content": words(seed + number, 64)},), new_tokens) for number in range(OTHERS)]
    long = Asked(({"role": "user", "content": words(seed + OTHERS, LONG_TOKENS)},), 8)
    answers, last = asyncio.run(client.beside(others, long))
    begin, end = last.sent, last.pieces[0]
    all_began = max(answer.pieces[0] for answer in answers)
    before, during = [], []
    for answer in answers:
        for one, other in zip(answer.pieces, answer.pieces[1:], strict=False):
            if other > begin and one < end:
                during.append(other - one)
            elif one >= all_began:
                before.append(other - one)
    return {
        "first_token_seconds": end - begin,
        "seconds_per_token_p95_without": quantile(before, 0.95) if before else None,
        "seconds_per_token_p95_beside": quantile(during, 0.95) if during else None,
    }


def shared_prefix(client: Client, rounds: int, seed: int) -> dict[str, float]:
    """Time to first token with a system prompt of 500 tokens that is known, and with one that is not."""

    def ask(system: int, user: int) -> float:
        messages = (
            {"role": "system", "content": words(system, SYSTEM_TOKENS)},
            {"role": "user", "content": words(user, 16)},
        )
        return asyncio.run(client.together([Asked(messages, 8)], 1))[0].first_seconds

    ask(seed, seed)
    known = [ask(seed, seed + 1 + number) for number in range(rounds)]
    unknown = [ask(seed + 100 + number, seed + 1 + number) for number in range(rounds)]
    return {
        "first_token_seconds_known": statistics.median(known),
        "first_token_seconds_unknown": statistics.median(unknown),
    }


def quantile(numbers: Sequence[float], share: float) -> float:
    """The number that this share of them does not exceed."""
    ordered = sorted(numbers)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

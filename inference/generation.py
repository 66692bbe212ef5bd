"""What goes between a caller and the engine: requests, the events of their answers, refusals, what an observer sees.

Knows no tokenizer, no model, no thread and no HTTP.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from tools import CallPiece

Status = Literal["loading", "ready", "failed", "draining"]
FinishReason = Literal["stop", "tool_calls", "length", "cancelled", "timeout", "error"]


# What is asked


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """How tokens are chosen and when an answer ends. Whoever makes it has checked the types; the engine checks the
    values against the model. Each default asks for nothing."""

    model: str | None = None
    """An adapter's or the base model's name; None or "default" for the default model."""
    n: int = 1
    """How many answers each prompt gets."""
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    """The answer's text ends before the first of these, and the answer with it; they are not looked for in calls."""
    seed: int | None = None
    temperature: float = 1.0
    """0 always takes the likeliest token."""
    top_p: float = 1.0
    top_k: int = 0
    """0: no limit."""
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Token id -> what is added to its logit."""
    logprobs: int | None = None
    """With each token its log probability, and those of this many likeliest tokens; None: not told."""

    @property
    def answers(self) -> int:
        """How many answers there will be."""
        return self.n


@dataclass(frozen=True)
class ChatRequest(GenerationRequest):
    """Messages that the model's chat template makes a prompt of."""

    messages: Sequence[Mapping[str, Any]]
    template_arguments: Mapping[str, Any] = field(default_factory=dict)
    """Variables that the template reads beside the messages and the tools."""
    tools: Sequence[Mapping[str, Any]] = ()
    """Functions that the model may call, as OpenAI's `tools` says them."""
    tool_choice: Literal["auto", "none", "required"] = "auto"
    function: str | None = None
    """The one function that is to be called, when one is required by name."""
    parallel_tool_calls: bool = True
    response_schema: Mapping[str, Any] | None = None
    """The JSON schema that the answer's text obeys; None: any text."""


@dataclass(frozen=True)
class CompletionRequest(GenerationRequest):
    """Prompts as they are: text, or token ids."""

    prompts: Sequence[str | Sequence[int]]
    echo: bool = False
    """Whether each answer's text begins with its prompt's."""

    @property
    def answers(self) -> int:
        return self.n * len(self.prompts)


# What is answered


@dataclass(frozen=True)
class TokenLogprob:
    """A token's text as bytes (it may be a part of a character) and its natural log probability."""

    content: bytes
    logprob: float
    likeliest: tuple[TokenLogprob, ...] = ()
    """The likeliest tokens at this place, the likeliest first."""


@dataclass(frozen=True)
class TextPiece:
    """The next part of an answer: newly chosen tokens, and what is certain by now of the text (it may be empty) and of
    the calls, which come after all text."""

    text: str
    tokens: tuple[int, ...]
    choice: int = 0
    """Which of the request's answers: `n` of the first prompt, then `n` of the second."""
    logprobs: tuple[TokenLogprob, ...] = ()
    """One of each token, when they were asked for."""
    calls: tuple[CallPiece, ...] = ()


@dataclass(frozen=True)
class Finished:
    """The last event of every answer. Counts are tokens; `completion_tokens` counts an end-of-text token too."""

    reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    error: str | None = None
    choice: int = 0
    cached_tokens: int = 0
    """How many of the prompt's tokens were in the cache already."""
    parameter: str | None = None
    """The part of the request that made it fail; None when it was not the request's fault."""


Event = TextPiece | Finished


class Stream:
    """The answers to one request: iterate over their events; each answer's last one is `Finished`."""

    def __init__(
        self,
        generations: Sequence[Generation],
        cancel: Callable[[], None],
        *,
        prompts: Sequence[str] = (),
    ) -> None:
        self.generations = tuple(generations)
        """One of each answer."""
        self.model = self.generations[0].model
        self.prompts = tuple(prompts)
        """The text of each answer's prompt, when the request wants it repeated."""
        self._cancel = cancel
        self._events: list[Event] = []
        self._wanted: asyncio.Future[None] | None = None
        self._patient_until = math.inf
        self._timer: asyncio.TimerHandle | None = None

    async def __aiter__(self) -> AsyncIterator[Event]:
        open_answers = len(self.generations)
        while open_answers:
            for event in await self.take():
                open_answers -= isinstance(event, Finished)
                yield event

    async def take(self, timeout_seconds: float | None = None) -> Sequence[Event]:
        """The events that have come since the last time, or else the next ones; none when none comes within the time.
        After the last one it waits for ever."""
        if not self._events:
            loop = asyncio.get_running_loop()
            self._wanted = loop.create_future()
            if timeout_seconds is not None:
                self._patient_until = loop.time() + timeout_seconds
                # One that rings too early is set anew then: each token would set and take back one of its own.
                self._timer = self._timer or loop.call_at(self._patient_until, self._ring, loop)
            await self._wanted
        events, self._events = self._events, []
        return events

    def cancel(self) -> None:
        """Stop computing; the slots are free at the next step. Does nothing when the answers have ended."""
        self._cancel()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def deliver(self, events: Sequence[Event]) -> None:
        """Called by the engine in the stream's own event loop."""
        self._events += events
        self._wake()

    def _wake(self) -> None:
        if self._wanted is not None and not self._wanted.done():
            self._wanted.set_result(None)

    def _ring(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        if loop.time() >= self._patient_until:
            self._wake()
        else:
            self._timer = loop.call_at(self._patient_until, self._ring, loop)


# What is refused


class RequestRefused(Exception):
    """The request cannot be served by this model: `parameter` names the part of it, `code` the kind of problem."""

    def __init__(self, message: str, parameter: str, code: str = "invalid_value") -> None:
        super().__init__(message)
        self.parameter, self.code = parameter, code


class EngineFull(Exception):
    """As many requests wait as may; `retry_after_seconds` is when a place is likely to be free."""

    def __init__(self, retry_after_seconds: int) -> None:
        super().__init__(f"the queue is full; try again in {retry_after_seconds} s")
        self.retry_after_seconds = retry_after_seconds


class EngineNotReady(Exception):
    """The model is loading, could not be loaded, or the engine takes no new requests because it is ending."""

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class EngineLimits:
    """Tokens of one answer when the request does not say, the most it may ask for, the longest prompt, how many
    requests may wait, and how long one may take, waiting included."""

    max_prompt_tokens: int
    default_new_tokens: int
    max_new_tokens: int
    max_queue: int
    request_seconds: float = math.inf


# What is seen


@dataclass(frozen=True)
class State:
    """A moment of the engine: its status, what it is doing, why it failed, and the ledger of its start (names with
    their units -> numbers)."""

    status: Status
    phase: str
    error: str | None
    ledger: dict[str, float]


@dataclass(eq=False)
class Generation:
    """What has become of one answer by now. The engine's thread writes it, anybody may read it.

    Moments are seconds of time.monotonic(); None: it has not come to that.
    """

    model: str
    prompt_tokens: int
    queued: float
    started: float | None = None
    first_token: float | None = None
    ended: float | None = None
    reused_tokens: int = 0
    """How many of the prompt's tokens were in the cache already."""
    completion_tokens: int = 0
    reason: FinishReason | None = None


class Observer:
    """Told what happens to answers, in the engine's thread or a caller's: quick, and never raises."""

    def queued(self, generation: Generation) -> None:
        """It waits for a slot."""

    def started(self, generation: Generation) -> None:
        """It has a slot: its prompt is computed next."""

    def finished(self, generation: Generation) -> None:
        """Its last event is on its way; `started` is None when it never had a slot."""

"""Chat requests -> streams of tokens and text; many requests share one model.

`Engine` is the one interface that the API, the page and the tests use. All torch work, loading included, happens in
its one thread; requests join and leave the batch at every step. Knows no HTTP and no page, and imports no torch: what
it steps is handed to it by the function that loads the model, which runs in that thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import queue
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from text import PromptRefused, PromptRenderer, TextStream

if TYPE_CHECKING:
    from batch import Row
    from model import Loaded

log = logging.getLogger("engine")

Status = Literal["loading", "ready", "failed", "draining"]
FinishReason = Literal["stop", "length", "cancelled", "timeout", "error"]


@dataclass(frozen=True)
class ChatRequest:
    """What is asked of the engine. Whoever makes it has checked the types; the engine checks against the model."""

    messages: Sequence[Mapping[str, str]]
    model: str | None = None
    """An adapter's or the base model's name; None or "default" for the default model."""
    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class TextPiece:
    """The next part of an answer: newly chosen tokens, and the text that can be shown by now (it may be empty)."""

    text: str
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Finished:
    """The last event of every stream. Counts are tokens; `completion_tokens` counts an end-of-text token too."""

    reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    error: str | None = None


Event = TextPiece | Finished


@dataclass(eq=False)
class Generation:
    """What has become of one request by now. The engine's thread writes it, anybody may read it.

    Moments are seconds of time.monotonic(); None: it has not come to that.
    """

    model: str
    prompt_tokens: int
    queued: float
    admitted: float | None = None
    first_token: float | None = None
    ended: float | None = None
    reused_tokens: int = 0
    """How many of the prompt's tokens were in the cache already."""
    completion_tokens: int = 0
    reason: FinishReason | None = None


class Observer:
    """Told what happens to requests, in the engine's thread or a caller's: quick, and never raises."""

    def queued(self, generation: Generation) -> None:
        """It waits for a slot."""

    def admitted(self, generation: Generation) -> None:
        """It has a slot: its prompt is computed next."""

    def finished(self, generation: Generation) -> None:
        """Its last event is on its way; `admitted` is None when it never had a slot."""


Report = Callable[[str, dict[str, float]], None]
"""Told the phase of the start that begins, and what is known by then: names with their units -> numbers."""

Load = Callable[[Report], "Loaded"]
"""Makes the model; called in the engine's thread."""


class RequestRefused(Exception):
    """The request cannot be served by this model: `parameter` names the part of it, `code` the kind of problem."""

    def __init__(self, message: str, parameter: str, code: str) -> None:
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


@dataclass(frozen=True)
class State:
    """A moment of the engine: its status, what it is doing, why it failed, and the ledger of its start (names with
    their units -> numbers)."""

    status: Status
    phase: str
    error: str | None
    ledger: dict[str, float]


class Stream:
    """The answer to one request: iterate over its events; the last one is `Finished`."""

    def __init__(self, generation: Generation, cancel: Callable[[], None]) -> None:
        self.generation = generation
        self.model = generation.model
        self.prompt_tokens = generation.prompt_tokens
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._ended = False
        self._cancel = cancel

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        event = await self.next(None)
        if event is None:
            raise StopAsyncIteration
        return event

    async def next(self, timeout_seconds: float | None) -> Event | None:
        """The next event; None after the last one, and when none comes within the time (then call again)."""
        if self._ended:
            return None
        try:
            event = self._events.get_nowait()
        except asyncio.QueueEmpty:
            try:
                event = await asyncio.wait_for(self._events.get(), timeout_seconds)
            except asyncio.TimeoutError:
                return None
        self._ended = isinstance(event, Finished)
        return event

    def cancel(self) -> None:
        """Stop computing; the slot is free at the next step. Does nothing when the answer has ended."""
        self._cancel()

    def deliver(self, events: Sequence[Event]) -> None:
        """Called by the engine in the stream's own event loop."""
        for event in events:
            self._events.put_nowait(event)


@dataclass(eq=False)
class _Job:
    """One request inside the engine's thread."""

    stream: Stream
    loop: asyncio.AbstractEventLoop
    row: Row
    text: TextStream
    limit: int
    """The most tokens of this answer."""
    generation: Generation
    cancelled: bool = False
    outbox: list[Event] = field(default_factory=list)


class Engine:
    """One model, one thread. `load` is called in that thread; it gets a function to report phases to."""

    def __init__(
        self,
        *,
        load: Load,
        models: Sequence[str],
        default_model: str,
        limits: EngineLimits,
        observer: Observer | None = None,
    ) -> None:
        self.models = tuple(models)
        self.default_model = default_model
        self.limits = limits
        self._observer = observer or Observer()
        self._load = load
        self._loaded: Loaded | None = None
        self._renderer: PromptRenderer | None = None
        self._inbox: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._jobs: list[_Job] = []
        self._waiting: deque[_Job] = deque()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._began = time.monotonic()
        # Guards what both the engine's thread and its callers change.
        self._lock = threading.Lock()
        self._open = 0
        self._closed = False
        self._idle = threading.Event()
        self._idle.set()
        self._load_ended = threading.Event()
        self._seconds_per_request = 1.0
        self._status: Status = "loading"
        self._phase = "starting"
        self._error: str | None = None
        self._ledger: dict[str, float] = {}

    # What callers use

    def start(self) -> None:
        """Begin loading in the engine's thread; returns at once."""
        self._began = time.monotonic()
        self._thread.start()

    def wait_until_loaded(self) -> None:
        """Block until the model is loaded or has failed to load."""
        self._load_ended.wait()

    @property
    def state(self) -> State:
        with self._lock:
            return State(self._status, self._phase, self._error, dict(self._ledger))

    @property
    def running(self) -> bool:
        """Whether the engine's thread is alive."""
        return self._thread.is_alive()

    @property
    def open_requests(self) -> int:
        """Requests that wait or run."""
        return self._open

    @property
    def cache_use(self) -> float:
        """The share of the cache that running requests hold, from 0 to 1; 0 while there is no model."""
        if self._loaded is None:
            return 0.0
        batch = self._loaded.batch
        return sum(job.row.computed for job in list(self._jobs)) / (batch.slots * batch.context_tokens)

    def resolve_model(self, name: str | None) -> str:
        """The name that answers a request for `name`. Raises RequestRefused when there is none."""
        if name is None or (name == "default" and name not in self.models):
            return self.default_model
        if name not in self.models:
            raise RequestRefused(
                f"The model `{name}` does not exist here. There are: {', '.join(self.models)}.",
                "model",
                "model_not_found",
            )
        return name

    async def submit(self, request: ChatRequest) -> Stream:
        """Queue a request; its events arrive in the running event loop.

        Raises RequestRefused, EngineFull or EngineNotReady; nothing of the request is left behind then.
        """
        model = self.resolve_model(request.model)
        loaded, renderer = self._take_place()
        try:
            stop_after = self._answer_limit(request)
            tokens = await asyncio.to_thread(renderer.render, request.messages)
            job = self._job(request, model, loaded, tokens, stop_after)
        except PromptRefused as error:
            self._give_place_back()
            raise RequestRefused(str(error), "messages", "invalid_messages") from None
        except BaseException:
            self._give_place_back()
            raise
        with self._lock:
            closed = self._closed
            if not closed:
                self._observer.queued(job.generation)
                self._inbox.put(job)
        if closed:
            self._give_place_back()
            raise EngineNotReady(self._status, self._why_not_ready())
        return job.stream

    async def drain(self, grace_seconds: float) -> bool:
        """Take no new requests, wait for the running ones, cancel what is left after the grace, end the thread.

        Returns whether everything ended by itself.
        """
        with self._lock:
            if self._status != "failed":
                self._status, self._phase = "draining", f"finishing {self._open} requests"
        finished = await asyncio.to_thread(self._idle.wait, grace_seconds)
        self._inbox.put(None)
        if self._loaded is not None:
            await asyncio.to_thread(self._thread.join, 5.0)
        return finished

    # Admission, in the callers' threads

    def _take_place(self) -> tuple[Loaded, PromptRenderer]:
        with self._lock:
            if self._status != "ready" or self._loaded is None or self._renderer is None:
                raise EngineNotReady(self._status, self._why_not_ready())
            ahead = self._open - self._loaded.batch.slots
            if ahead >= self.limits.max_queue:
                wait = self._seconds_per_request * (1 + ahead / self._loaded.batch.slots)
                raise EngineFull(max(1, min(60, round(wait))))
            self._open += 1
            self._idle.clear()
            return self._loaded, self._renderer

    def _give_place_back(self) -> None:
        with self._lock:
            self._open -= 1
            if self._open == 0:
                self._idle.set()

    def _why_not_ready(self) -> str:
        if self._status == "failed":
            return f"the model could not be loaded: {self._error}"
        if self._status == "draining":
            return "the server is ending and takes no new requests"
        return f"the model is not ready yet ({self._phase})"

    def _answer_limit(self, request: ChatRequest) -> int:
        asked = self.limits.default_new_tokens if request.max_tokens is None else request.max_tokens
        if asked > self.limits.max_new_tokens:
            raise RequestRefused(
                f"An answer may have {self.limits.max_new_tokens} tokens here; {asked} were asked for.",
                "max_tokens",
                "invalid_value",
            )
        return asked

    def _job(self, request: ChatRequest, model: str, loaded: Loaded, tokens: list[int], limit: int) -> _Job:
        # Only imported here: by now the engine's thread has loaded torch.
        from batch import Row
        from sampling import Choice

        longest = min(self.limits.max_prompt_tokens, loaded.batch.context_tokens - 1)
        if not 0 < len(tokens) <= longest:
            raise RequestRefused(
                f"The messages have {len(tokens)} tokens; from 1 to {longest} are possible here.",
                "messages",
                "context_length_exceeded",
            )
        beyond = [token for token in tokens if not 0 <= token < loaded.vocabulary]
        if beyond:
            raise RequestRefused(
                f"The tokenizer gives token {beyond[0]}, and the model has {loaded.vocabulary}.",
                "messages",
                "invalid_messages",
            )
        choice = Choice(request.temperature, request.top_p, request.seed)
        row = Row(tokens=list(tokens), choice=choice, adapter=loaded.adapters[model])

        def cancel() -> None:
            job.cancelled = True

        generation = Generation(model, len(tokens), queued=time.monotonic())
        job = _Job(
            stream=Stream(generation, cancel),
            loop=asyncio.get_running_loop(),
            row=row,
            text=TextStream(loaded.tokenizer, request.stop),
            # An answer also ends, with the reason "length", where the model's positions do.
            limit=min(limit, loaded.batch.context_tokens - len(tokens)),
            generation=generation,
        )
        return job

    # The engine's thread

    def _run(self) -> None:
        try:
            loaded = self._load(self._report)
        except ValueError as error:  # a folder that cannot be used, or a model that does not fit: the message says it
            self._fail(str(error))
            return
        except Exception as error:  # whatever else a library raises is told on /ready and in the log, with its place
            log.exception("loading failed")
            self._fail(f"{type(error).__name__}: {error}")
            return
        finally:
            self._load_ended.set()
        with self._lock:
            self._loaded, self._renderer = loaded, PromptRenderer(loaded.tokenizer)
            self._ledger["ready_seconds"] = round(time.monotonic() - self._began, 3)
            if self._status == "loading":
                self._status, self._phase = "ready", "ready"
        log.info("ready: %s", loaded.description)
        try:
            self._serve(loaded)
        except Exception as error:  # a mistake of this file must not leave requests waiting for ever
            self._fail(f"the engine stopped: {type(error).__name__}: {error}")
            log.exception("the engine stopped")
            self._close("error", "the engine stopped")

    def _report(self, phase: str, ledger: dict[str, float]) -> None:
        with self._lock:
            if self._status == "loading":
                self._phase = phase
            self._ledger.update({name: round(number, 3) for name, number in ledger.items()})

    def _fail(self, error: str) -> None:
        with self._lock:
            self._status, self._phase, self._error = "failed", "failed", " ".join(error.split())
        log.error("the model cannot be served: %s", self._error)

    def _serve(self, loaded: Loaded) -> None:
        while self._take_in():
            self._let_go(loaded)
            self._admit(loaded)
            if self._jobs:
                self._step(loaded)
            self._flush()
        self._close("cancelled")

    def _close(self, reason: FinishReason, error: str | None = None) -> None:
        """End every request that is still here; none comes in afterwards."""
        with self._lock:
            self._closed = True
        while not self._inbox.empty():
            job = self._inbox.get()
            if job is not None:
                self._waiting.append(job)
        for job in [*self._jobs, *self._waiting]:
            self._finish(job, reason, error)
        self._waiting.clear()

    def _take_in(self) -> bool:
        """Move new requests to the waiting line; sleep when there is nothing to do. False when it is time to end."""
        block = not self._jobs and not self._waiting
        while True:
            try:
                job = self._inbox.get(block=block)
            except queue.Empty:
                return True
            if job is None:
                return False
            self._waiting.append(job)
            block = False

    def _let_go(self, loaded: Loaded) -> None:
        """End what nobody waits for any more, and what has taken too long."""
        oldest = time.monotonic() - self.limits.request_seconds
        for job in [*self._waiting, *self._jobs]:
            late = job.generation.queued < oldest
            if not (job.cancelled or late):
                continue
            if job in self._jobs:
                loaded.batch.remove(job.row)
            else:
                self._waiting.remove(job)
            self._finish(job, "cancelled" if job.cancelled else "timeout")

    def _admit(self, loaded: Loaded) -> None:
        while self._waiting and len(self._jobs) < loaded.batch.slots:
            job = self._waiting.popleft()
            loaded.batch.add(job.row)
            self._jobs.append(job)
            job.generation.admitted = time.monotonic()
            self._observer.admitted(job.generation)

    def _step(self, loaded: Loaded) -> None:
        try:
            produced = loaded.batch.step()
        except Exception as error:  # whatever torch or the model raises, out of memory included: the others go on
            log.error("a step of %d requests failed: %s: %.500s", len(self._jobs), type(error).__name__, error)
            loaded.batch.reset()
            for job in list(self._jobs):
                self._finish(job, "error", "the model failed to compute this answer")
            return
        owner = {id(job.row): job for job in self._jobs}
        for row, token in produced:
            job = owner[id(row)]
            reason = self._accept(job, token, loaded.end_tokens)
            if reason is not None:
                loaded.batch.remove(row)
                self._finish(job, reason, "the model gave no finite number" if reason == "error" else None)

    def _accept(self, job: _Job, token: int | None, end_tokens: frozenset[int]) -> FinishReason | None:
        """Add a token to an answer; say why the answer ends with it, or None."""
        if token is None:
            return "error"
        generation = job.generation
        generation.completion_tokens += 1
        if generation.first_token is None:
            generation.first_token = time.monotonic()
            generation.reused_tokens = getattr(job.row, "reused", 0)
        job.row.tokens.append(token)
        if token in end_tokens:
            job.outbox.append(TextPiece("", (token,)))
            return "stop"
        job.outbox.append(TextPiece(job.text.push(token), (token,)))
        if job.text.stopped:
            return "stop"
        return "length" if generation.completion_tokens >= job.limit else None

    def _finish(self, job: _Job, reason: FinishReason, error: str | None = None) -> None:
        if job in self._jobs:
            self._jobs.remove(job)
        rest = job.text.finish() if reason in ("stop", "length") else ""
        if rest:
            job.outbox.append(TextPiece(rest, ()))
        generation = job.generation
        job.outbox.append(Finished(reason, generation.prompt_tokens, generation.completion_tokens, error))
        generation.ended, generation.reason = time.monotonic(), reason
        self._seconds_per_request += 0.1 * (generation.ended - generation.queued - self._seconds_per_request)
        self._observer.finished(generation)
        # Before the event: whoever has seen the end of an answer finds its place free.
        self._give_place_back()
        self._send(job)

    def _flush(self) -> None:
        for job in self._jobs:
            if job.outbox:
                self._send(job)

    def _send(self, job: _Job) -> None:
        events, job.outbox = job.outbox, []
        # A loop that has closed has nobody left who listens.
        with contextlib.suppress(RuntimeError):
            job.loop.call_soon_threadsafe(job.stream.deliver, events)

"""Requests -> streams of tokens and text; many requests share one model.

`Engine` is the one interface that the API, the page and the tests use. All torch work, loading included, happens in
its one thread; requests join and leave the batch at every step. Knows no HTTP and no page, and imports no torch: what
it steps is handed to it by the function that loads the model, which runs in that thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from generation import (
    ChatRequest,
    CompletionRequest,
    EngineFull,
    EngineLimits,
    EngineNotReady,
    Event,
    Finished,
    FinishReason,
    Generation,
    GenerationRequest,
    Observer,
    RequestRefused,
    State,
    Status,
    Stream,
    TextPiece,
    TokenLogprob,
)
from text import AnswerStream

if TYPE_CHECKING:
    from admission import Admission, Admitted
    from constrain import Vocabulary
    from model import Loaded
    from rows import Row
    from sampling import Logprobs

__all__ = [
    "ChatRequest",
    "CompletionRequest",
    "Engine",
    "EngineFull",
    "EngineLimits",
    "EngineNotReady",
    "Finished",
    "Generation",
    "Load",
    "Observer",
    "Report",
    "RequestRefused",
    "Stream",
    "TextPiece",
]

log = logging.getLogger("engine")

Report = Callable[[str, dict[str, float]], None]
"""Told the phase of the start that begins, and what is known by then: names with their units -> numbers."""

Load = Callable[[Report], "Loaded"]
"""Makes the model; called in the engine's thread. A ValueError is for what a new process would find again."""


class ModelBroken(Exception):
    """The model does not even compute the shortest prompt."""


@dataclass(eq=False)
class _Job:
    """One answer inside the engine's thread."""

    stream: Stream
    loop: asyncio.AbstractEventLoop
    row: Row
    text: AnswerStream
    limit: int
    """The most tokens of this answer."""
    generation: Generation
    number: int
    """Which of its request's answers this is."""
    constrained_by: str | None
    cancelled: bool = False
    outbox: list[Event] = field(default_factory=list)


class Engine:
    """One model, one thread. `load` is called in that thread; it gets a function to report phases to.

    `on_broken` is called there, once and last, when nothing more can be computed and a new process may do better: true
    when the engine was ready before, false when the model did not load. By then every open request has its end.
    """

    def __init__(
        self,
        *,
        load: Load,
        models: Sequence[str],
        default_model: str,
        limits: EngineLimits,
        observer: Observer | None = None,
        on_broken: Callable[[bool], None] = lambda was_ready: None,
    ) -> None:
        self.models = tuple(models)
        self.default_model = default_model
        self.limits = limits
        self._observer = observer or Observer()
        self._load, self._on_broken = load, on_broken
        self._loaded: Loaded | None = None
        self._admission: Admission | None = None
        self._inbox: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._jobs: list[_Job] = []
        self._waiting: deque[_Job] = deque()
        self._ended: list[_Job] = []
        """Their last events are not delivered yet."""
        # Not the event loop's own: a prompt or a schema that takes its time must not keep drain() waiting.
        self._admitting = ThreadPoolExecutor(4, thread_name_prefix="admission")
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

    async def submit(self, request: GenerationRequest) -> Stream:
        """Queue a request; its events arrive in the running event loop.

        Raises RequestRefused, EngineFull or EngineNotReady; nothing of the request is left behind then.
        """
        model = self.resolve_model(request.model)
        loaded, admission = self._take_places(request.answers)
        try:
            queued = time.monotonic()
            loop = asyncio.get_running_loop()
            admitted = await loop.run_in_executor(self._admitting, admission.admit, request, model)
            jobs = self._make_jobs(request, admitted, model, loaded, queued)
        except BaseException:
            self._give_places_back(request.answers)
            raise
        with self._lock:
            closed = self._closed
            if not closed:
                for job in jobs:
                    self._observer.queued(job.generation)
                    self._inbox.put(job)
        if closed:
            self._give_places_back(request.answers)
            raise EngineNotReady(self._status, self._why_not_ready())
        return jobs[0].stream

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

    def _take_places(self, count: int) -> tuple[Loaded, Admission]:
        with self._lock:
            if self._status != "ready" or self._loaded is None or self._admission is None:
                raise EngineNotReady(self._status, self._why_not_ready())
            slots = self._loaded.batch.slots
            most = slots + self.limits.max_queue
            if count > most:
                raise RequestRefused(f"At most {most} answers can be asked for at once here, not {count}.", "n")
            if self._open + count > most:
                wait = self._seconds_per_request * (self._open + count - self.limits.max_queue) / slots
                raise EngineFull(max(1, min(60, round(wait))))
            self._open += count
            self._idle.clear()
            return self._loaded, self._admission

    def _give_places_back(self, count: int) -> None:
        with self._lock:
            self._open -= count
            if self._open == 0:
                self._idle.set()

    def _why_not_ready(self) -> str:
        if self._status == "failed":
            return f"the model cannot be served: {self._error}"
        if self._status == "draining":
            return "the server is ending and takes no new requests"
        return f"the model is not ready yet ({self._phase})"

    def _make_jobs(
        self, request: GenerationRequest, admitted: Admitted, model: str, loaded: Loaded, queued: float
    ) -> list[_Job]:
        generations = [Generation(model, len(answer.row.tokens), queued) for answer in admitted.answers]

        def cancel() -> None:
            for job in jobs:
                job.cancelled = True

        prompts = [answer.prompt for answer in admitted.answers]
        stream = Stream(generations, cancel, prompts=prompts)
        loop = asyncio.get_running_loop()
        jobs = [
            _Job(
                stream=stream,
                loop=loop,
                row=answer.row,
                text=AnswerStream(loaded.tokenizer, request.stop, admitted.calls),
                limit=answer.limit,
                generation=generation,
                number=number,
                constrained_by=admitted.constrained_by,
            )
            for number, (answer, generation) in enumerate(zip(admitted.answers, generations, strict=True))
        ]
        return jobs

    # The engine's thread

    def _run(self) -> None:
        try:
            loaded = self._load(self._report)
            # Only imported here: by now this thread has loaded torch.
            from admission import Admission

            admission = Admission(loaded, self.limits)
        except ValueError as error:  # a folder that cannot be used, or a model that does not fit: the message says it
            self._fail(str(error))
            return
        except OSError as error:  # a share that does not answer, for one
            self._fail(str(error))
            self._on_broken(False)
            return
        except BaseException as error:  # whatever else a library raises: a panic of one in Rust is no Exception
            log.exception("loading failed")
            self._fail(f"{type(error).__name__}: {error}")
            self._on_broken(False)
            return
        finally:
            self._load_ended.set()
        with self._lock:
            self._loaded, self._admission = loaded, admission
            ready_seconds = self._ledger["ready_seconds"] = round(time.monotonic() - self._began, 3)
            if self._status == "loading":
                self._status, self._phase = "ready", "ready"
        log.info("ready after %.2f s: %s", ready_seconds, loaded.description)
        try:
            self._serve(loaded, admission.vocabulary)
        except ModelBroken as error:
            self._end_broken(f"it computes nothing any more: {error}")
        except BaseException as error:  # a panic, or a mistake of this file, must not leave requests waiting for ever
            # The exception's own words may hold a part of an answer.
            log.error("the engine stopped at\n%s", "".join(traceback.format_tb(error.__traceback__)))
            self._end_broken(f"the engine stopped: {type(error).__name__}")

    def _end_broken(self, error: str) -> None:
        self._fail(error)
        try:
            self._close("error", "the server cannot compute answers any more, and starts anew")
        finally:
            self._on_broken(True)

    def _report(self, phase: str, ledger: dict[str, float]) -> None:
        with self._lock:
            if self._status == "loading":
                self._phase = phase
            self._ledger.update({name: round(number, 3) for name, number in ledger.items()})

    def _fail(self, error: str) -> None:
        with self._lock:
            self._status, self._phase, self._error = "failed", "failed", " ".join(error.split())
        log.error("the model cannot be served: %s", self._error)

    def _serve(self, loaded: Loaded, vocabulary: Vocabulary) -> None:
        while self._take_in():
            self._let_go(loaded)
            self._give_slots(loaded)
            if self._jobs:
                self._step(loaded, vocabulary)
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
        self._flush()

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

    def _give_slots(self, loaded: Loaded) -> None:
        while self._waiting and len(self._jobs) < loaded.batch.slots:
            job = self._waiting.popleft()
            loaded.batch.add(job.row)
            self._jobs.append(job)
            job.generation.started = time.monotonic()
            self._observer.started(job.generation)

    def _step(self, loaded: Loaded, vocabulary: Vocabulary) -> None:
        produced = self._compute(loaded)
        if produced is None:
            loaded.batch.reset()
            for job in list(self._jobs):
                self._finish(job, "error", "the model failed to compute this answer")
            self._prove(loaded)
            return
        owner = {id(job.row): job for job in self._jobs}
        for row, token in produced:
            job = owner[id(row)]
            if token is None:
                loaded.batch.remove(row)
                self._finish(job, "error", row.choice.error or "the model gave no finite number")
                continue
            try:
                reason = self._accept(job, token, loaded.end_tokens, vocabulary)
            except Exception as error:  # of a tokenizer, or a mistake of ours: the others go on
                log.error("an answer cannot be put into words: %s", type(error).__name__)
                loaded.batch.remove(row)
                self._finish(job, "error", "the answer's tokens cannot be put into words")
                continue
            if reason is not None:
                loaded.batch.remove(row)
                self._finish(job, reason)

    def _compute(self, loaded: Loaded) -> list[tuple[Row, int | None]] | None:
        """The batch's next tokens; None when its step failed, and nothing holds the memory of the step any more."""
        try:
            return loaded.batch.step()
        except Exception as error:  # whatever torch or the model raises, out of memory included: the others go on
            log.error("a step of %d requests failed: %s: %.500s", len(self._jobs), type(error).__name__, error)
            return None

    def _prove(self, loaded: Loaded) -> None:
        """After a step that failed: was it the step, or does the model compute nothing any more? A GPU's context, for
        one, does nothing more after an illegal memory access. Raises ModelBroken."""
        from batch import compute_shortest

        try:
            compute_shortest(loaded.batch)
        except Exception as error:
            raise ModelBroken(f"{type(error).__name__}: {error}") from None

    def _accept(self, job: _Job, token: int, end_tokens: frozenset[int], vocabulary: Vocabulary) -> FinishReason | None:
        """Add a token to an answer; say why the answer ends with it, or None."""
        generation, row = job.generation, job.row
        generation.completion_tokens += 1
        if generation.first_token is None:
            generation.first_token = time.monotonic()
            generation.reused_tokens = row.reused
        row.tokens.append(token)
        ends = token in end_tokens
        text, calls = ("", ()) if ends else job.text.push(token)
        logprobs = () if ends or row.choice.told is None else (_logprob(token, row.choice.told, vocabulary),)
        job.outbox.append(TextPiece(text, (token,), job.number, logprobs, calls))
        if ends or job.text.stopped or row.choice.ended:
            return "stop"
        return "length" if generation.completion_tokens >= job.limit else None

    def _finish(self, job: _Job, reason: FinishReason, error: str | None = None) -> None:
        if job in self._jobs:
            self._jobs.remove(job)
        if reason in ("stop", "length"):
            rest, calls = job.text.finish()
            if rest or calls:
                job.outbox.append(TextPiece(rest, (), job.number, calls=calls))
            if job.text.stopped:
                reason = "stop"
            elif reason == "stop" and job.text.called:
                reason = "tool_calls"
        generation = job.generation
        job.outbox.append(
            Finished(
                reason,
                generation.prompt_tokens,
                generation.completion_tokens,
                error,
                choice=job.number,
                cached_tokens=generation.reused_tokens,
                parameter=job.constrained_by if job.row.choice.error else None,
            )
        )
        generation.ended, generation.reason = time.monotonic(), reason
        self._seconds_per_request += 0.1 * (generation.ended - generation.queued - self._seconds_per_request)
        self._observer.finished(generation)
        # Before the event: whoever has seen the end of an answer finds its place free.
        self._give_places_back(1)
        self._ended.append(job)

    def _flush(self) -> None:
        """Deliver what there is: each event loop is woken once, so that it does not get in this thread's way for every
        answer anew."""
        outgoing: dict[asyncio.AbstractEventLoop, list[_Job]] = {}
        for job in [*self._ended, *self._jobs]:
            if job.outbox:
                outgoing.setdefault(job.loop, []).append(job)
        self._ended.clear()
        for loop, jobs in outgoing.items():
            deliveries = [(job.stream, job.outbox) for job in jobs]
            for job in jobs:
                job.outbox = []
            # A loop that has closed has nobody left who listens.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_deliver, deliveries)


def _deliver(deliveries: Sequence[tuple[Stream, list[Event]]]) -> None:
    """In the callers' event loop."""
    for stream, events in deliveries:
        stream.deliver(events)


def _logprob(token: int, told: Logprobs, vocabulary: Vocabulary) -> TokenLogprob:
    likeliest = tuple(TokenLogprob(vocabulary.bytes_of(each), logprob) for each, logprob in told.likeliest)
    return TokenLogprob(vocabulary.bytes_of(token), told.chosen, likeliest)

"""POST /v1/completions: its body for the engine, and the engine's events as its answers.

Knows no torch and no model.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence

from answers import About, ChoicePiece, check_stream_options, collect, head, stream_response, submit, usage
from api_errors import ApiError
from completions_protocol import Completion, CompletionBody, CompletionChoice, CompletionLogprobs
from engine import Engine
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from generation import CompletionRequest, Event, Finished, Stream, TextPiece, TokenLogprob
from protocol import invalid

DEFAULT_TOKENS = 16
"""OpenAI's own default for this route."""


def completion_routes(engine: Engine, about: About) -> APIRouter:
    """The route over any engine with this interface."""
    router = APIRouter()

    @router.post("/v1/completions", summary="The continuation of a text", response_model=Completion)
    async def completions(body: CompletionBody, request: Request) -> Response:
        asked = _asked(body, min(DEFAULT_TOKENS, engine.limits.max_new_tokens))
        stream = await submit(engine, asked, request)
        beginning = head("cmpl", stream, about)
        answers = [_Pieces(number, stream, asked.logprobs) for number in range(asked.answers)]
        if body.stream:
            return stream_response(
                stream,
                {**beginning, "object": "text_completion"},
                first=[piece for each in answers for piece in each.prompt()],
                answers=answers,
                n=asked.n,
                with_usage=body.with_usage,
                keep_alive_seconds=about.keep_alive_seconds,
            )
        events = await collect(stream, request)
        whole = Completion(
            **beginning,
            choices=[each.whole([event for event in events if event.choice == each.number]) for each in answers],
            usage=usage((event for event in events if isinstance(event, Finished)), asked.n),
        )
        return JSONResponse(whole.model_dump())

    return router


def _asked(body: CompletionBody, default_tokens: int) -> CompletionRequest:
    """What the engine is asked. Raises ApiError for parameters that do not go together."""
    check_stream_options(body)
    if body.echo and body.logprobs is not None:
        said = "`echo` together with `logprobs` is not supported: prompts have no log probabilities here."
        raise ApiError(400, invalid(said, "echo", "unsupported_parameter"))
    told = body.generation()
    told["max_tokens"] = default_tokens if body.max_tokens is None else body.max_tokens
    return CompletionRequest(
        **told,
        prompts=body.prompts(),
        echo=bool(body.echo),
        logprobs=body.logprobs,
    )


class _Pieces:
    """One answer's events -> its pieces of the stream, or the whole of it."""

    def __init__(self, number: int, stream: Stream, logprobs: int | None) -> None:
        self.number = number
        self.text_only = self._choice("") if logprobs is None else None
        self._prompt = stream.prompts[number]
        self._offset = len(self._prompt)
        self._characters = codecs.getincrementaldecoder("utf-8")("replace")

    def prompt(self) -> Iterable[ChoicePiece]:
        """What a stream begins with."""
        return [self._choice(self._prompt)] if self._prompt else []

    def of(self, event: Event) -> Iterable[ChoicePiece]:
        """The pieces that this event adds."""
        if isinstance(event, Finished):
            return [self._choice("", event.reason)]
        return [self._choice(event.text, None, event.logprobs)] if event.text or event.logprobs else []

    def whole(self, events: Sequence[Event]) -> CompletionChoice:
        """The answer of all its events."""
        pieces = [event for event in events if isinstance(event, TextPiece)]
        logprobs = [token for piece in pieces for token in piece.logprobs]
        text = self._prompt + "".join(piece.text for piece in pieces)
        reason = next(event.reason for event in events if isinstance(event, Finished))
        return CompletionChoice.model_validate(self._choice(text, reason, logprobs))

    def _choice(
        self, text: str, finish_reason: str | None = None, logprobs: Sequence[TokenLogprob] = ()
    ) -> ChoicePiece:
        told = self._told(logprobs).model_dump() if logprobs else None
        return {"index": self.number, "text": text, "logprobs": told, "finish_reason": finish_reason}

    def _told(self, logprobs: Sequence[TokenLogprob]) -> CompletionLogprobs:
        return CompletionLogprobs(
            tokens=[_shown(each) for each in logprobs],
            token_logprobs=[each.logprob for each in logprobs],
            top_logprobs=[{_shown(other): other.logprob for other in (*each.likeliest, each)} for each in logprobs],
            text_offset=[self._advance(each.content) for each in logprobs],
        )

    def _advance(self, token: bytes) -> int:
        """Where in the text the next token begins. It may be a part of a character, which counts once it is whole, or
        when no more of it comes."""
        if token and token[0] & 0b1100_0000 != 0b1000_0000:
            self._offset += len(self._characters.decode(b"", final=True))
        begins = self._offset
        self._offset += len(self._characters.decode(token))
        return begins


def _shown(token: TokenLogprob) -> str:
    """A token's text; of a part of a character its bytes, in OpenAI's manner."""
    try:
        return token.content.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.content)

"""OpenAI-compatible routes, liveness and readiness, over any engine with this interface.

Knows requests, events and error bodies; knows no torch, no model and no key (auth.py has let the caller in).
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from access_log import note
from auth import AUTHENTICATED
from engine import ChatRequest, Engine, EngineFull, EngineNotReady, Finished, RequestRefused, Stream, TextPiece
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from protocol import (
    Answer,
    AnswerMessage,
    ChatCompletion,
    ChatCompletionRequest,
    ErrorBody,
    ErrorDetail,
    ModelEntry,
    ModelList,
    Usage,
    first_problem,
)
from starlette.exceptions import HTTPException
from starlette.routing import Match

log = logging.getLogger("api")

RETRY_WHILE_LOADING_SECONDS = 5


@dataclass(frozen=True)
class About:
    """What the routes tell about the server itself."""

    release: str
    created: int
    """Unix time in seconds."""
    keep_alive_seconds: float


class ApiError(Exception):
    """An answer that is not a success: status, OpenAI error body, headers."""

    def __init__(self, status: int, error: ErrorDetail, headers: dict[str, str] | None = None) -> None:
        super().__init__(error.message)
        self.status, self.error, self.headers = status, error, headers


def create_api(engine: Engine, about: About, expose: Callable[[str], tuple[bytes, str]]) -> FastAPI:
    """The application with every route of the API. What is mounted later at "/" gets what these routes leave.

    `expose` gives the metrics in the format of an Accept header, and their media type.
    """
    app = FastAPI(
        title="Inference",
        version=about.release,
        redoc_url=None,
        responses={"4XX": {"model": ErrorBody}, "5XX": {"model": ErrorBody}},
    )
    _add_errors(app)

    @app.head("/health", include_in_schema=False)
    @app.get("/health", summary="Liveness: 200 as long as the process answers")
    def health() -> dict[str, str]:
        return {"status": "alive"}

    @app.head("/ready", include_in_schema=False)
    @app.get("/ready", summary="Readiness: 200 when requests are answered, else 503; the details need the key")
    def ready(request: Request) -> JSONResponse:
        state = engine.state
        body: dict[str, object] = {"status": state.status}
        if request.scope.get(AUTHENTICATED):
            body |= {
                "release": about.release,
                "models": list(engine.models),
                "default_model": engine.default_model,
                "phase": state.phase,
                "error": state.error,
                "ledger": state.ledger,
            }
        return JSONResponse(body, 200 if state.status == "ready" else 503)

    @app.get("/metrics", summary="For Prometheus", response_class=PlainTextResponse)
    def metrics(request: Request) -> Response:
        body, media_type = expose(request.headers.get("accept", ""))
        return Response(body, media_type=media_type)

    @app.get("/v1/models")
    def models() -> ModelList:
        return ModelList(data=[_model_entry(name, about) for name in engine.models])

    @app.get("/v1/models/{model}")
    def model(model: str) -> ModelEntry:
        return _model_entry(_refusable(engine.resolve_model)(model), about)

    @app.post("/v1/chat/completions", response_model=ChatCompletion)
    async def chat_completions(body: ChatCompletionRequest, request: Request) -> Response:
        asked = _chat_request(body)
        try:
            stream = await engine.submit(asked)
        except RequestRefused as refused:
            if refused.parameter == "max_tokens" and body.max_tokens is None:
                refused.parameter = "max_completion_tokens"
            raise _refusal(refused) from None
        except EngineFull as full:
            error = ErrorDetail(
                message=f"Too many requests wait already; try again in {full.retry_after_seconds} s.",
                type="rate_limit_error",
                code="queue_full",
            )
            raise ApiError(429, error, {"retry-after": str(full.retry_after_seconds)}) from None
        except EngineNotReady as not_ready:
            error = ErrorDetail(message=f"{not_ready}.", type="server_error", code=f"model_{not_ready.status}")
            headers = None if not_ready.status == "failed" else {"retry-after": str(RETRY_WHILE_LOADING_SECONDS)}
            raise ApiError(503, error, headers) from None
        note(request.scope, stream)
        head = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": stream.model,
            "system_fingerprint": about.release,
        }
        if body.stream:
            with_usage = body.stream_options is not None and bool(body.stream_options.include_usage)
            events = _server_sent_events(stream, head, with_usage, about.keep_alive_seconds)
            # A proxy that collects the stream would make it useless.
            headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
            return StreamingResponse(events, media_type="text/event-stream", headers=headers)
        return await _whole(stream, head, request)

    @app.api_route(
        "/v1/{rest:path}", methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"], include_in_schema=False
    )
    def nothing_here(rest: str, request: Request) -> None:
        path_known = any(route.matches(request.scope)[0] == Match.PARTIAL for route in app.routes)
        raise HTTPException(405 if path_known else 404)

    return app


def _model_entry(name: str, about: About) -> ModelEntry:
    return ModelEntry(id=name, created=about.created, owned_by="inferops")


def _chat_request(body: ChatCompletionRequest) -> ChatRequest:
    if body.max_tokens is not None and body.max_completion_tokens is not None:
        error = ErrorDetail(
            message="Give `max_tokens` or `max_completion_tokens`, not both.",
            type="invalid_request_error",
            param="max_tokens",
            code="invalid_value",
        )
        raise ApiError(400, error)
    if body.stream_options is not None and not body.stream:
        error = ErrorDetail(
            message="`stream_options` needs `stream`: true.",
            type="invalid_request_error",
            param="stream_options",
            code="invalid_value",
        )
        raise ApiError(400, error)
    return ChatRequest(
        messages=[message.as_template_reads() for message in body.messages],
        model=body.model,
        max_tokens=body.max_completion_tokens if body.max_tokens is None else body.max_tokens,
        temperature=1.0 if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        seed=body.seed,
        stop=tuple(body.stop or ()),
    )


# Answers


async def _whole(stream: Stream, head: dict[str, Any], request: Request) -> Response:
    """The answer in one body. When the caller goes away, computing stops."""
    watch = asyncio.create_task(_cancel_on_disconnect(request, stream))
    text: list[str] = []
    try:
        async for event in stream:
            if isinstance(event, TextPiece):
                text.append(event.text)
            else:
                finished = event
    finally:
        watch.cancel()
        stream.cancel()
    if finished.reason not in ("stop", "length"):
        status = {"error": 500, "timeout": 408}.get(finished.reason, 503)
        raise ApiError(status, _stream_error(finished))
    completion = ChatCompletion(
        **head,
        choices=[Answer(message=AnswerMessage(content="".join(text)), finish_reason=finished.reason)],
        usage=_usage(finished),
    )
    return JSONResponse(completion.model_dump())


async def _cancel_on_disconnect(request: Request, stream: Stream) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    stream.cancel()


async def _server_sent_events(
    stream: Stream, head: dict[str, Any], with_usage: bool, keep_alive_seconds: float
) -> AsyncIterator[bytes]:
    """The answer piece by piece (https://html.spec.whatwg.org/multipage/server-sent-events.html), with a comment when
    nothing comes for a while: ingresses close silent connections. Leaving the iterator stops the computing."""
    head = {**head, "object": "chat.completion.chunk"}

    def chunk(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return _event({**head, "choices": [choice], **({"usage": None} if with_usage else {})})

    try:
        yield chunk({"role": "assistant", "content": ""})
        while True:
            event = await stream.next(keep_alive_seconds)
            if event is None:
                yield b": keep-alive\n\n"
            elif isinstance(event, Finished):
                break
            elif event.text:
                yield chunk({"content": event.text})
        if event.reason not in ("stop", "length"):
            yield _event({"error": _stream_error(event).model_dump()})
            return
        yield chunk({}, event.reason)
        if with_usage:
            yield _event({**head, "choices": [], "usage": _usage(event).model_dump()})
        yield b"data: [DONE]\n\n"
    finally:
        stream.cancel()


def _event(document: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(document, separators=(',', ':'))}\n\n".encode()


def _usage(finished: Finished) -> Usage:
    total = finished.prompt_tokens + finished.completion_tokens
    return Usage(prompt_tokens=finished.prompt_tokens, completion_tokens=finished.completion_tokens, total_tokens=total)


def _stream_error(finished: Finished) -> ErrorDetail:
    if finished.reason == "error":
        return ErrorDetail(message=f"{finished.error}.", type="server_error", code="generation_failed")
    if finished.reason == "timeout":
        return ErrorDetail(
            message="The answer took longer than a request may take here.", type="timeout_error", code="request_timeout"
        )
    return ErrorDetail(message="The answer was cut short.", type="server_error", code="cancelled")


# Errors


def _refusable(function: Callable[[str], str]) -> Callable[[str], str]:
    def call(name: str) -> str:
        try:
            return function(name)
        except RequestRefused as refused:
            raise _refusal(refused) from None

    return call


def _refusal(refused: RequestRefused) -> ApiError:
    status = 404 if refused.code == "model_not_found" else 400
    error = ErrorDetail(message=str(refused), type="invalid_request_error", param=refused.parameter, code=refused.code)
    return ApiError(status, error)


def _error_response(status: int, error: ErrorDetail, headers: dict[str, str] | None = None) -> Response:
    # Escaped to ASCII, for a message may repeat a name that has half a character in it, which UTF-8 cannot carry.
    return Response(json.dumps({"error": error.model_dump()}), status, headers, media_type="application/json")


def _add_errors(app: FastAPI) -> None:
    """Every error leaves in OpenAI's form."""

    @app.exception_handler(ApiError)
    async def api_error(_: Request, error: ApiError) -> Response:
        return _error_response(error.status, error.error, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        return _error_response(400, first_problem(list(error.errors())))

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        where = f"{request.method} {request.url.path}"
        said = {404: f"There is no {where} here.", 405: f"{where} is not possible."}.get(
            error.status_code, str(error.detail)
        )
        detail = ErrorDetail(message=said, type="invalid_request_error", code=_HTTP_CODES.get(error.status_code))
        return _error_response(error.status_code, detail, dict(error.headers or {}))

    @app.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> Response:
        # Starlette raises it again after this answer, so that it is in the log with its place.
        detail = ErrorDetail(message="The server made a mistake; its log says which.", type="server_error")
        return _error_response(500, detail)


_HTTP_CODES = {
    400: "invalid_body",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "body_too_large",
}

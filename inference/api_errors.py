"""What leaves the API when a request is not answered: OpenAI's error bodies and codes.

https://platform.openai.com/docs/guides/error-codes. Knows what went wrong, and nothing of how answers are made.
"""

from __future__ import annotations

import json
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from generation import EngineFull, EngineNotReady, Finished, RequestRefused
from problems import as_one_error
from protocol import ErrorDetail, invalid
from starlette.exceptions import HTTPException

RETRY_WHILE_LOADING_SECONDS = 5

_HTTP_CODES = {
    400: "invalid_body",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "body_too_large",
}


class ApiError(Exception):
    """An answer that is not a success: status, OpenAI error body, headers."""

    def __init__(self, status: int, error: ErrorDetail, headers: dict[str, str] | None = None) -> None:
        super().__init__(error.message)
        self.status, self.error, self.headers = status, error, headers


def of_engine(error: RequestRefused | EngineFull | EngineNotReady) -> ApiError:
    """The engine does not take a request."""
    if isinstance(error, RequestRefused):
        status = 404 if error.code == "model_not_found" else 400
        return ApiError(status, invalid(str(error), error.parameter, error.code))
    if isinstance(error, EngineFull):
        said = f"Too many requests wait already; try again in {error.retry_after_seconds} s."
        detail = ErrorDetail(message=said, type="rate_limit_error", code="queue_full")
        return ApiError(429, detail, {"retry-after": str(error.retry_after_seconds)})
    detail = ErrorDetail(message=f"{error}.", type="server_error", code=f"model_{error.status}")
    headers = None if error.status == "failed" else {"retry-after": str(RETRY_WHILE_LOADING_SECONDS)}
    return ApiError(503, detail, headers)


def of_answer(finished: Finished) -> ApiError | None:
    """An answer has ended without being one; None when it is whole, or as long as it may be."""
    if finished.reason in ("stop", "tool_calls", "length"):
        return None
    if finished.parameter is not None:
        return ApiError(400, invalid(f"The answer's grammar cannot go on: {finished.error}.", finished.parameter))
    if finished.reason == "error":
        return ApiError(500, ErrorDetail(message=f"{finished.error}.", type="server_error", code="generation_failed"))
    if finished.reason == "timeout":
        said = "The answer took longer than a request may take here."
        # OpenAI's clients would send it again by themselves, to take as long once more.
        never = {"x-should-retry": "false"}
        return ApiError(408, ErrorDetail(message=said, type="timeout_error", code="request_timeout"), never)
    return ApiError(503, ErrorDetail(message="The answer was cut short.", type="server_error", code="cancelled"))


def add_error_handlers(app: FastAPI) -> None:
    """Every error leaves in OpenAI's form."""

    @app.exception_handler(ApiError)
    async def api_error(_: Request, error: ApiError) -> Response:
        return _response(error.status, error.error, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid_request(_: Request, error: RequestValidationError) -> Response:
        return _response(400, as_one_error(error.errors(), error.body))

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        said = str(error.detail)
        if said == HTTPStatus(error.status_code).phrase:
            where = f"{request.method} {request.url.path}"
            said = {404: f"There is no {where} here.", 405: f"{where} is not possible."}.get(error.status_code, said)
        elif error.status_code == 400:
            # FastAPI's own: what is neither JSON nor text, or nested too deeply.
            encoding = request.headers.get("content-encoding")
            rest = f": it is sent with the content-encoding {encoding}, which is not taken" if encoding else ""
            said = f"The body cannot be read as JSON{rest}."
        detail = ErrorDetail(message=said, type="invalid_request_error", code=_HTTP_CODES.get(error.status_code))
        return _response(error.status_code, detail, dict(error.headers or {}))

    @app.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> Response:
        # Starlette raises it again after this answer, so that it is in the log with its place.
        detail = ErrorDetail(message="The server made a mistake; its log says which.", type="server_error")
        return _response(500, detail)


def _response(status: int, error: ErrorDetail, headers: dict[str, str] | None = None) -> Response:
    # Escaped to ASCII, for a message may repeat a name that has half a character in it, which UTF-8 cannot carry.
    return Response(json.dumps({"error": error.model_dump()}), status, headers, media_type="application/json")

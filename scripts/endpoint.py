"""The HTTP client of a running app: readiness, models, chat. Speaks the OpenAI-compatible API and /ready.

Knows an address, a key and a certificate to trust; no Azure, no release folder, no environment.
"""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from scripts.errors import CloudError, NotSignedIn, ServiceFault, Throttled, Unanswered, Unreachable, Untrusted

ANSWER_SECONDS = 240.0
"""How long to wait for the next byte of an answer: Azure's ingress ends an idle request after 240 s."""

CONNECT_SECONDS = 10.0


@dataclass(frozen=True)
class Readiness:
    """What /ready said. status is ready, loading or failed; the rest is only told to a caller with the key."""

    http_status: int
    status: str
    release: str | None = None
    models: tuple[str, ...] = ()
    phase: str | None = None
    error: str | None = None
    ledger: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """A whole answer. seconds is from the request's start to its end; usage is empty when the server told none.

    first_seconds is from the request's start to the first piece of text; None when it did not come in pieces.
    """

    text: str
    model: str
    finish_reason: str | None
    usage: Mapping[str, int]
    seconds: float
    first_seconds: float | None = None

    @property
    def tokens_per_second(self) -> float | None:
        """As the caller gets them, from the question to the answer's end; None when the server told no count."""
        tokens = self.usage.get("completion_tokens")
        return tokens / self.seconds if tokens and self.seconds > 0 else None


def fits_header(key: str) -> bool:
    """Whether an HTTP header can carry the key; the HTTP client would show one that does not fit in its error."""
    return key.isascii() and key.isprintable() and key == key.strip()


class Endpoint:
    """One app's address with a key. Use it as a context manager: it keeps connections open.

    certificate is a PEM file to trust beside nothing else; None means what this machine trusts. Every call raises
    Unreachable, Untrusted, NotSignedIn (401), or another CloudError that carries the server's own message.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None,
        certificate: Path | None = None,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        self.url = url.rstrip("/")
        self.key = key
        self._certificate = certificate
        self._answer_seconds = answer_seconds
        context = ssl.create_default_context(cafile=None if certificate is None else str(certificate))
        self._client = httpx.Client(
            base_url=self.url,
            verify=context,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(answer_seconds, connect=CONNECT_SECONDS),
            follow_redirects=False,
        )

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def with_key(self, key: str | None) -> Endpoint:
        """The same address for another caller, None for one without a key. To be closed by itself."""
        return Endpoint(self.url, key=key, certificate=self._certificate, answer_seconds=self._answer_seconds)

    def ready(self, *, answer_seconds: float | None = None) -> Readiness:
        """Ask /ready. An answer other than the app's own (the ingress's 404, 502, 503 or 504) is ServiceFault."""
        with _Translated(self.url):
            timeout = httpx.Timeout(answer_seconds or self._answer_seconds, connect=CONNECT_SECONDS)
            response = self._client.get("/ready", timeout=timeout)
        body = _json(response)
        if response.status_code == 401:
            raise _refusal(response, body)
        if response.status_code not in (200, 503) or not isinstance(body.get("status"), str):
            raise _not_the_app(self.url, response)
        models, ledger = body.get("models"), body.get("ledger")
        return Readiness(
            http_status=response.status_code,
            status=body["status"],
            release=_text(body.get("release")),
            models=tuple(str(model) for model in models) if isinstance(models, list) else (),
            phase=_text(body.get("phase")),
            error=_text(body.get("error")),
            ledger=ledger if isinstance(ledger, dict) else {},
        )

    def models(self) -> tuple[str, ...]:
        """The names that a request may give as its `model`: the base and each adapter."""
        with _Translated(self.url):
            response = self._client.get("/v1/models")
        body = self._accepted(response)
        try:
            return tuple(str(model["id"]) for model in body["data"])
        except (KeyError, TypeError):
            raise _not_the_app(self.url, response) from None

    def chat(
        self,
        question: str,
        *,
        model: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
    ) -> Answer:
        """Ask one question and wait for the whole answer."""
        started = time.monotonic()
        with _Translated(self.url):
            response = self._client.post(
                "/v1/chat/completions", json=_request(question, model, max_tokens, temperature, stream=False)
            )
        body = self._accepted(response)
        try:
            choice = body["choices"][0]
            return Answer(
                text=str(choice["message"]["content"] or ""),
                model=str(body.get("model") or ""),
                finish_reason=_text(choice.get("finish_reason")),
                usage=_usage(body.get("usage")),
                seconds=time.monotonic() - started,
            )
        except (KeyError, TypeError, IndexError, AttributeError):
            raise _not_the_app(self.url, response) from None

    def stream_chat(
        self,
        question: str,
        on_text: Callable[[str], None],
        *,
        model: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
    ) -> Answer:
        """Ask one question; on_text gets each piece of the answer as it comes. Returns the whole.

        Raises ServiceFault when the stream ends without [DONE], or says in its course that it failed.
        """
        started = time.monotonic()
        pieces: list[str] = []
        answered_by, finish_reason, done = "", None, False
        first_seconds: float | None = None
        usage: dict[str, int] = {}
        request = _request(question, model, max_tokens, temperature, stream=True)
        with _Translated(self.url), self._client.stream("POST", "/v1/chat/completions", json=request) as response:
            if response.status_code != 200:
                response.read()
                self._accepted(response)
            for line in response.iter_lines():
                if not line.startswith("data:"):
                    continue  # a comment that keeps the connection alive, or an empty line
                data = line[len("data:") :].strip()
                if data == "[DONE]":
                    done = True
                    break
                chunk = _chunk(self.url, data)
                answered_by = str(chunk.get("model") or answered_by)
                usage = _usage(chunk.get("usage")) or usage
                for choice in chunk.get("choices") or []:
                    finish_reason = _text(choice.get("finish_reason")) or finish_reason
                    piece = (choice.get("delta") or {}).get("content")
                    if piece:
                        first_seconds = first_seconds or time.monotonic() - started
                        pieces.append(piece)
                        on_text(piece)
        if not done:
            raise ServiceFault(
                f"The answer of {self.url} broke off: its stream ended without [DONE].",
                "Look at the app's log (inferops logs) and ask again.",
            )
        seconds = time.monotonic() - started
        return Answer("".join(pieces), answered_by, finish_reason, usage, seconds, first_seconds)

    def _accepted(self, response: httpx.Response) -> dict[str, Any]:
        body = _json(response)
        if response.status_code == 200 and body:
            return body
        if "error" not in body:
            raise _not_the_app(self.url, response)
        raise _refusal(response, body)


class _Translated:
    """Within the block, failures of the connection become errors that name the address and the next step."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not isinstance(error, (httpx.HTTPError, httpx.InvalidURL)):
            return
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, ssl.SSLCertVerificationError):
                raise Untrusted(
                    f"The certificate of {self._url} is not one that this machine trusts: {cause.verify_message}.",
                    "Check the address; behind a proxy that opens TLS, let SSL_CERT_FILE name its certificate.",
                ) from None
            cause = cause.__cause__ or cause.__context__
        if isinstance(error, httpx.ReadTimeout):
            raise Unanswered(
                f"{self._url} took the request and did not answer in time.",
                "Look at the app's log (inferops logs); the model may still be starting.",
            ) from None
        raise Unreachable(
            f"{self._url} does not answer: {error or type(error).__name__}.",
            "Check that the app runs (inferops status) and that this machine reaches the address.",
        ) from None


def _request(
    question: str, model: str | None, max_tokens: int | None, temperature: float | None, *, stream: bool
) -> dict[str, Any]:
    request: dict[str, Any] = {
        "messages": [{"role": "user", "content": question}],
        "model": model or "default",
        "stream": stream,
    }
    if stream:
        request["stream_options"] = {"include_usage": True}
    if max_tokens is not None:
        request["max_tokens"] = max_tokens
    if temperature is not None:
        request["temperature"] = temperature
    return request


def _chunk(url: str, data: str) -> dict[str, Any]:
    try:
        chunk = json.loads(data)
    except ValueError:
        chunk = None
    if not isinstance(chunk, dict):
        raise ServiceFault(
            f"The answer of {url} is not an OpenAI-compatible stream: it holds {data[:80]!r}.",
            "Check that the address is that of the app.",
        )
    if chunk.get("error"):
        raise ServiceFault(
            f"The answer of {url} broke off: {_error_message(chunk)}.",
            "Look at the app's log (inferops logs) and ask again.",
        )
    return chunk


def _refusal(response: httpx.Response, body: dict[str, Any]) -> CloudError:
    told = _error_message(body)
    message = f"{response.request.method} {response.request.url}: HTTP {response.status_code}, {told}"
    status = response.status_code
    if status == 401:
        return NotSignedIn(
            message, "Set INFERENCE_API_KEY to the app's key, or unset it to use the key of the app.", status=status
        )
    if status == 429:
        wait = response.headers.get("Retry-After", "")
        seconds = float(wait) if wait.isascii() and wait.isdigit() else None
        return Throttled(message, "Ask again in a while.", status=status, retry_after_seconds=seconds)
    if status >= 500:
        return ServiceFault(message, "Look at the app's log (inferops logs).", status=status)
    return CloudError(message, "Correct the request; GET /v1/models lists the models.", status=status)


def _not_the_app(url: str, response: httpx.Response) -> ServiceFault:
    return ServiceFault(
        f"{url} answered HTTP {response.status_code} to {response.request.method} {response.request.url.path}, "
        "which is not how the app answers.",
        "Check that the app runs (inferops status); right after a restart, wait a moment.",
        status=response.status_code,
    )


def _error_message(body: Mapping[str, Any]) -> str:
    error = body.get("error")
    if isinstance(error, dict):
        return str(error.get("message") or error.get("code") or error)
    return str(error)


def _json(response: httpx.Response) -> dict[str, Any]:
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _usage(value: object) -> dict[str, int]:
    if not isinstance(value, dict):
        return {}
    return {str(name): count for name, count in value.items() if isinstance(count, int)}

"""The line that every request leaves, read from a real server's log."""

from __future__ import annotations

import json
import re
import socket
from datetime import datetime
from typing import Any

import httpx
import pytest

from tests.fixtures_inference import BEARER, KEY, MORE_KEYS, Server, server, tiny_model
from tests.waiting import until

__all__ = ["server", "tiny_model"]

QUESTION = {"messages": [{"role": "user", "content": "a secret of mine"}], "max_tokens": 4, "model": "other"}


def lines(server: Server) -> list[dict[str, Any]]:
    whole, _, _ = server.log().rpartition("\n")
    return [json.loads(line) for line in whole.splitlines() if line.startswith("{")]


def line_of(server: Server, request_id: str) -> dict[str, Any]:
    """The line with this id; it is written just after the answer has gone out."""
    (line,) = until(lambda: [line for line in lines(server) if line["request_id"] == request_id], request_id)
    return line


def ask(server: Server, body: dict[str, Any] | None = None, **headers: str) -> httpx.Response:
    return server.request("POST", "/v1/chat/completions", json=QUESTION | (body or {}), headers=BEARER | headers)


@pytest.mark.parametrize("stream", [False, True])
def test_what_a_line_tells_of_an_answer(server: Server, stream: bool) -> None:
    answer = ask(server, {"stream": stream}, authorization=f"Bearer {MORE_KEYS['ci']}")
    line = line_of(server, answer.headers["x-request-id"])
    assert line["key"] == "ci"
    assert (line["method"], line["path"], line["route"]) == ("POST", *["/v1/chat/completions"] * 2)
    assert (line["status"], line["model"], line["choices"]) == (200, "other", 1)
    assert line["finish_reason"] in ("stop", "length")
    assert 1 <= line["completion_tokens"] <= 4
    assert 0 <= line["cached_tokens"] <= line["prompt_tokens"]
    assert 0 < line["ttft_seconds"] <= line["seconds"] < 30
    assert datetime.fromisoformat(line["time"].replace("Z", "+00:00")).tzinfo is not None
    if not stream:
        assert line["prompt_tokens"] == answer.json()["usage"]["prompt_tokens"]
        assert line["completion_tokens"] == answer.json()["usage"]["completion_tokens"]


def test_several_answers_count_their_prompt_once(server: Server) -> None:
    body = {"prompt": ["the fox", "a dog"], "n": 2, "max_tokens": 3, "model": "default"}
    answer = server.request("POST", "/v1/completions", json=body, headers=BEARER)
    line, usage = line_of(server, answer.headers["x-request-id"]), answer.json()["usage"]
    assert line["choices"] == 4
    assert line["prompt_tokens"] == usage["prompt_tokens"]
    assert line["completion_tokens"] == usage["completion_tokens"]


def test_neither_a_prompt_nor_a_key_is_in_the_log(server: Server) -> None:
    answers = [
        ask(server),
        ask(server, {"model": "secret-model"}),
        server.get("/v1/models?api_key=secret-in-a-query"),
        server.get("/v1/models", headers={"authorization": "Bearer secret-guess"}),
        server.request("POST", "/login", data={"password": "secret-guess"}),
        server.request("POST", "/login", data={"password": KEY}),
    ]
    assert all(line_of(server, answer.headers["x-request-id"]) for answer in answers)
    assert "secret" not in server.log()
    assert all(key not in server.log() for key in (KEY, *MORE_KEYS.values()))


@pytest.mark.parametrize("given", ["0af7651916cd43dd8448eb211c80319c", "req_1", "a/b:c=d+e@f.g-h_i", "x" * 128])
def test_a_sane_request_id_is_the_caller_s(server: Server, given: str) -> None:
    answer = server.get("/v1/models", headers=BEARER | {"x-request-id": given})
    assert answer.headers["x-request-id"] == given
    assert given in [line["request_id"] for line in lines(server)] or line_of(server, given)


@pytest.mark.parametrize("given", ["", "two words", "x" * 129, 'quote"d', "ümlaut", "{}", "a\tb"])
def test_any_other_request_id_is_replaced(server: Server, given: str) -> None:
    answer = server.get("/v1/models", headers={**BEARER, "x-request-id": given.encode()})
    assert re.fullmatch("req_[0-9a-f]{32}", answer.headers["x-request-id"])


def test_refusals_have_a_line_too(server: Server) -> None:
    unknown = server.request("GET", "/v1/models")
    line = line_of(server, unknown.headers["x-request-id"])
    assert (line["status"], line["key"], line["route"]) == (401, None, "/v1/models")
    wrong = ask(server, {"max_tokens": 0})
    line = line_of(server, wrong.headers["x-request-id"])
    assert (line["status"], line["key"], line["route"]) == (400, "default", "/v1/chat/completions")
    assert "model" not in line
    lost = server.get("/v1/n%C3%B6%7F" + "o" * 500, headers=BEARER)
    line = line_of(server, lost.headers["x-request-id"])
    assert (line["status"], line["route"], len(line["path"])) == (404, "none", 200)
    unknown = server.get("/v1/models/nobody", headers=BEARER)
    assert line_of(server, unknown.headers["x-request-id"])["route"] == "/v1/models/{model}"
    method = server.request("BREW", "/v1/coffee", headers=BEARER)
    assert line_of(server, method.headers["x-request-id"])["route"] == "none"


def test_probes_are_quiet(server: Server) -> None:
    for path in ("/health", "/ready", "/metrics"):
        assert server.get(path, headers=BEARER).status_code == 200
    refused = server.get("/metrics")
    assert line_of(server, refused.headers["x-request-id"])["status"] == 401
    quiet = [line for line in lines(server) if line["path"] in ("/health", "/ready", "/metrics")]
    assert not {200, 503} & {line["status"] for line in quiet}


@pytest.mark.parametrize("stream", [False, True])
def test_a_caller_who_goes_away_is_told_of(server: Server, stream: bool) -> None:
    address = httpx.URL(server.address)
    body = json.dumps(QUESTION | {"stream": stream, "max_tokens": 100, "seed": 1}).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
        f"X-Request-Id: gone-{stream}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection((address.host, address.port or 80)) as connection:
        connection.sendall(head.encode() + body)
        if stream:
            connection.recv(200)
    line = line_of(server, f"gone-{stream}")
    assert line["status"] in ((200,) if stream else (200, None)), "never an error of the server's"
    # A quick server may have been ready before it noticed.
    assert line["finish_reason"] in ("cancelled", "stop", "length")
    assert line["completion_tokens"] <= 100


def test_the_page_s_requests_are_one_route(server: Server) -> None:
    for path, route in (("/", "page"), ("/assets/index.js", "page"), ("/robots.txt", "none"), ("/health/", "none")):
        answer = server.get(path, headers={**BEARER, "accept": "text/html"})
        assert line_of(server, answer.headers["x-request-id"])["route"] == route

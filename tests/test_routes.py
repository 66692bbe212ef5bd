"""Which paths and methods the server has, and what is said of those that it has not: against a real server process."""

from __future__ import annotations

import openai
import pytest

from tests.fixtures_inference import BEARER, KEY, Server, server, tiny_model

__all__ = ["server", "tiny_model"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nothing", 404),
        ("POST", "/v1/embeddings", 404),
        ("GET", "/v1/chat/completions", 405),
        ("PUT", "/v1/models", 405),
        ("TRACE", "/v1/chat/completions", 405),
        ("BREW", "/v1/coffee", 404),
        ("POST", "/v1", 404),
        ("POST", "/chat/completions", 404),
        ("OPTIONS", "/health", 405),
        ("POST", "//v1/chat/completions", 404),
        ("GET", "/V1/models", 404),
        ("GET", "/health/", 404),
        ("GET", "/nothing", 404),
    ],
)
def test_what_is_not_there(server: Server, method: str, path: str, status: int) -> None:
    answer = server.request(method, path, headers=BEARER)
    assert answer.status_code == status
    assert path in answer.json()["error"]["message"]
    allowed = answer.headers.get("allow", "").split(", ")
    assert (status == 405) == bool({"GET", "POST"} & set(allowed))
    assert method not in allowed


def test_what_can_be_read_has_a_head(server: Server) -> None:
    for path in ("/v1/models", "/v1/models/tiny-base", "/metrics", "/health", "/ready", "/docs", "/openapi.json"):
        whole, head = (server.request(method, path, headers=BEARER) for method in ("GET", "HEAD"))
        assert (head.status_code, head.content) == (200, b""), path
        assert head.headers["content-type"] == whole.headers["content-type"], path
    assert server.request("HEAD", "/v1/models/nothing", headers=BEARER).status_code == 404
    assert server.request("HEAD", "/v1/chat/completions", headers=BEARER).status_code == 405


def test_a_base_url_without_its_end(server: Server) -> None:
    with pytest.raises(openai.NotFoundError, match="base URL ends with /v1"):
        openai.OpenAI(base_url=server.address, api_key=KEY).models.list()

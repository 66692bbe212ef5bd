"""The API's description of itself, as a document and as a page. The fuzz run holds the server's answers to it."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest
from api import About, create_api
from fastapi import FastAPI

from tests.fixtures_inference import TinyModel, make_engine


@pytest.fixture(scope="module")
def api() -> FastAPI:
    """The application over an engine that has not been started: it describes itself all the same."""
    engine = make_engine(TinyModel(Path("nowhere")))
    return create_api(engine, About("0123abcd", 0, 15.0), lambda accept: (b"", "text/plain"))


@pytest.fixture(scope="module")
def document(api: FastAPI) -> dict[str, Any]:
    return api.openapi()


def test_everything_but_the_probes_needs_a_key(document: dict[str, Any]) -> None:
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    assert document["security"] == [{"key": []}]
    exceptions = {
        path: operation["security"]
        for path, operations in document["paths"].items()
        for operation in operations.values()
        if "security" in operation
    }
    assert exceptions == {"/health": [], "/ready": [{}, {"key": []}]}


def test_what_is_computed_may_stream_and_may_be_refused(document: dict[str, Any]) -> None:
    for path in ("/v1/chat/completions", "/v1/completions"):
        responses = document["paths"][path]["post"]["responses"]
        assert set(responses) == {"200", "400", "401", "404", "408", "413", "429", "500", "503"}
        assert set(responses["200"]["content"]) == {"application/json", "text/event-stream"}
        assert "Retry-After" in responses["429"]["headers"]


def test_bounds_are_told(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    assert schemas["ChatCompletionRequest"]["properties"]["messages"]["minItems"] == 1
    texts, parts, _ = schemas["ChatMessage"]["properties"]["content"]["anyOf"]
    assert (texts["type"], parts["minItems"]) == ("string", 1)
    stop = schemas["ChatCompletionRequest"]["properties"]["stop"]["anyOf"]
    assert (stop[0]["minLength"], stop[1]["maxItems"]) == (1, 4)
    assert schemas["ChatCompletionRequest"]["properties"]["messages"]["maxItems"] == 2048
    assert schemas["ChatCompletionRequest"]["properties"]["logit_bias"]["anyOf"][0]["maxProperties"] == 1024


class Page(HTMLParser):
    """The tags of a page, where its links lead, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        told = dict(attributes)
        self.tags.append(tag)
        self.links += [value for name in ("href", "src") if (value := told.get(name))]
        self.anchors.add(told.get("id") or "")

    def handle_data(self, data: str) -> None:
        self.text += data


async def test_the_page_tells_everything_and_fetches_nothing(api: FastAPI, document: dict[str, Any]) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://server") as client:
        page = Page((await client.get("/docs")).text)
    assert "script" not in page.tags
    for link in page.links:
        assert link in ("data:,", "openapi.json") or link.removeprefix("#") in page.anchors, link
    assert "string or list of string" in page.text and "or list of list of integer" in page.text, "a prompt's forms"
    assert "object at most 1024" in page.text, "and how many tokens may have a bias"
    for path, operations in document["paths"].items():
        for method in operations:
            assert f"{method.upper()} {path}" in page.text
    for schema in document["components"]["schemas"].values():
        for name in schema.get("properties", {}):
            assert name in page.text


def test_the_openapi_document_names_the_routes(document: dict[str, Any]) -> None:
    routes = {"/v1/models", "/v1/models/{model}", "/v1/chat/completions", "/v1/completions"}
    assert routes | {"/health", "/ready", "/metrics"} == set(document["paths"])
    for route in ("/v1/chat/completions", "/v1/completions"):
        responses = document["paths"][route]["post"]["responses"]
        assert "422" not in responses
        assert {"400", "401", "429"} <= set(responses)

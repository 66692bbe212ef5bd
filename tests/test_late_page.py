"""The page's place: nothing is built before somebody looks, and who looks too early is told why."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import httpx
from engine import Engine, Report
from fastapi import FastAPI
from generation import EngineLimits
from late_page import LatePage
from page_door import PageDoor

from tests.fixtures_inference import TinyModel, engine, tiny_model

__all__ = ["TinyModel", "engine", "tiny_model"]

BROWSER = {"accept": "text/html"}


class Building:
    """Builds an application with one route, when it may; counts how often."""

    def __init__(self) -> None:
        self.times = 0
        self.may_end = threading.Event()
        self.lives: list[str] = []

    def __call__(self) -> FastAPI:
        self.times += 1
        self.may_end.wait(60)
        page = FastAPI(on_startup=[lambda: self.lives.append("begun")], on_shutdown=[lambda: self.lives.append("over")])
        page.add_api_route("/", lambda: "the page")
        return page


def visitor(page: LatePage) -> httpx.AsyncClient:
    transport: Any = httpx.ASGITransport(page)
    return httpx.AsyncClient(transport=transport, base_url="http://page")


def test_the_page_is_built_once_when_somebody_looks(engine: Engine) -> None:
    building = Building()

    async def look() -> None:
        page = LatePage(engine, building)
        async with visitor(page) as client:
            assert building.times == 0
            told = await client.get("/", headers=BROWSER)
            assert (told.status_code, told.headers["retry-after"]) == (503, "2")
            assert "The page is starting" in told.text
            assert 'http-equiv="refresh"' in told.text
            waiting = asyncio.create_task(client.get("/"))
            assert (await client.get("/", headers=BROWSER)).status_code == 503
            assert not waiting.done(), "another client than a browser waits"
            building.may_end.set()
            assert (await waiting).json() == "the page"
            assert (await client.get("/", headers=BROWSER)).json() == "the page"
        assert (building.times, building.lives) == (1, ["begun"])
        page.end()
        await page.closed(60)
        assert building.lives == ["begun", "over"]

    asyncio.run(look())


def test_nothing_is_built_for_a_mistaken_address(engine: Engine) -> None:
    building = Building()
    building.may_end.set()
    around = FastAPI(openapi_url=None)
    page = LatePage(engine, building)
    around.mount("/", PageDoor(page))

    async def look() -> None:
        transport: Any = httpx.ASGITransport(around)
        async with httpx.AsyncClient(transport=transport, base_url="http://page") as client:
            for method, path in (("POST", "//v1/chat/completions"), ("GET", "/V1/models"), ("GET", "/health/")):
                assert (await client.request(method, path, headers=BROWSER)).status_code == 404, path
            await asyncio.sleep(0)  # a turn of the loop, in which a page that was asked for would begin
            assert building.times == 0
            assert (await client.get("/")).json() == "the page"
        page.end()
        await page.closed(60)

    asyncio.run(look())


def test_a_page_that_cannot_be_built_says_so_to_everybody_who_waits(engine: Engine) -> None:
    def build() -> FastAPI:
        raise ImportError("no such package")

    async def look() -> None:
        page = LatePage(engine, build)
        async with visitor(page) as client:
            for told in await asyncio.gather(client.get("/"), client.get("/")):
                assert told.status_code == 503
                assert "The page cannot be served" in told.text
                assert "retry-after" not in told.headers
            assert "The page cannot be served" in (await client.get("/", headers=BROWSER)).text

    asyncio.run(look())


def test_while_the_model_loads_and_when_it_cannot_nothing_is_built() -> None:
    may_go_on = threading.Event()
    building = Building()

    def load(report: Report) -> Any:
        report("reading <weights>", {})
        may_go_on.wait(60)
        raise ValueError("no folder models/x")

    limits = EngineLimits(max_prompt_tokens=8, default_new_tokens=8, max_new_tokens=8, max_queue=1)
    loading = Engine(load=load, models=("one",), default_model="one", limits=limits)

    async def look() -> None:
        page = LatePage(loading, building)
        async with visitor(page) as client:
            loading.start()
            while "reading" not in loading.state.phase:
                await asyncio.sleep(0.01)
            told = await client.get("/")
            assert (told.status_code, told.headers["retry-after"]) == (503, "2")
            assert "The model is starting: reading &lt;weights&gt; ..." in told.text
            may_go_on.set()
            await asyncio.to_thread(loading.wait_until_loaded)
            while loading.state.status == "loading":
                await asyncio.sleep(0.01)
            told = await client.get("/", headers=BROWSER)
            assert "The model cannot be served: no folder models/x" in told.text
            assert "refresh" not in told.text

    asyncio.run(look())
    assert building.times == 0

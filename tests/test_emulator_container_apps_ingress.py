"""The ingress of an app over real connections: TLS, streaming both ways, limits, and what it answers itself."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from multidict import CIMultiDict
from yarl import URL

from infra.emulator.containerapps.pace import Pace
from tests.container_apps import World, app_body, world


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[World]:
    """A provider with one app that runs."""
    async with world(tmp_path) as made:
        await begin(made)
        yield made


async def begin(here: World) -> None:
    """An environment with the app, which has one replica."""
    await here.environment()
    await here.put("containerApps", here.app_id(), app_body(scale={"minReplicas": 1, "maxReplicas": 1}))
    await here.running()


async def log_has(here: World, text: str) -> bool:
    """Whether the newest replica has printed that."""
    journal = here.provider.workload(here.app_id()).journal((await here.replicas())[-1]["name"])
    return any(text in line for line in journal.tail(100))


async def test_events_are_streamed_as_they_come(here: World) -> None:
    """Server-sent events: each part arrives before the next is sent, not at the end."""
    async with here.http() as client, client.get(f"{await here.endpoint()}/parts?4") as response:
        assert response.headers["Content-Type"] == "text/event-stream"
        for number in range(4):
            assert await response.content.readuntil(b"\n\n") == b"data: %d\n\n" % number
            await here.ask("/came")
        assert await response.content.read() == b""


async def test_a_client_that_leaves_ends_the_request_at_the_replica(here: World) -> None:
    """The app notices, instead of working on for nobody."""
    async with here.http() as client:
        response = await client.get(f"{await here.endpoint()}/stream?100")
        await response.content.readany()
        response.close()

    async def left() -> bool:
        return await log_has(here, "client left")

    await here.until(left)


async def test_uploads_with_and_without_a_length(here: World) -> None:
    """5 MB in one piece; a body of unknown length in chunks, beginning before it is complete."""
    size = 5_000_000
    async with here.http() as client:
        endpoint = await here.endpoint()
        async with client.post(endpoint, data=b"x" * size) as response:
            assert (response.status, await response.text()) == (201, str(size))

        async def slowly() -> AsyncIterator[bytes]:
            for _ in range(3):
                yield b"y" * 1000
                await asyncio.sleep(0.1)

        async with client.post(endpoint, data=slowly()) as response:
            assert (response.status, await response.text()) == (201, "3000")


async def test_headers_go_through_and_tell_of_the_client(here: World) -> None:
    """Host stays; X-Forwarded-*, X-Request-Id are added; those of one connection are dropped."""
    async with here.http() as client:
        endpoint = await here.endpoint()
        sent = {"X-Mine": "1", "X-Request-Id": "given", "X-Forwarded-For": "10.0.0.1", "TE": "trailers"}
        async with client.get(URL(f"{endpoint}/a%20b?c=%2F&d", encoded=True), headers=sent) as response:
            told = await response.json()
    headers = CIMultiDict(told["headers"])
    assert told["path"] == "/a%20b?c=%2F&d"
    assert headers["Host"] == headers["X-Forwarded-Host"] == endpoint.removeprefix("https://")
    assert (headers["X-Mine"], headers["X-Request-Id"], headers["X-Forwarded-Proto"]) == ("1", "given", "https")
    assert headers["X-Forwarded-For"] == "10.0.0.1, 127.0.0.1"
    assert "TE" not in headers


async def test_redirects_cookies_and_encodings_are_the_app_s(here: World) -> None:
    """Nothing is followed, joined or decoded on the way."""
    context = aiohttp.TCPConnector(ssl=False)
    async with aiohttp.ClientSession(connector=context, auto_decompress=False) as client:
        endpoint = await here.endpoint()
        async with client.get(f"{endpoint}/redirect", allow_redirects=False) as response:
            assert (response.status, response.headers["Location"]) == (302, "/elsewhere")
            assert response.headers.getall("Set-Cookie") == ["a=1", "b=2; Path=/"]
            assert (response.headers["Content-Encoding"], await response.read()) == ("gzip", b"raw")
        async with client.head(endpoint) as response:
            assert (response.status, response.headers["Content-Length"]) == (200, "1234")


async def test_a_page_for_a_browser_in_plain_http(here: World) -> None:
    """The second port, told by pages(), on loopback."""
    (page,) = here.provider.pages()
    assert page["endpoint"] == await here.endpoint()
    async with aiohttp.ClientSession() as client, client.get(page["page"]) as response:
        assert (await response.json())["headers"]["X-Forwarded-Proto"] == "http"


async def test_it_listens_on_loopback_alone(here: World) -> None:
    """No other address of the machine answers, neither at the ingress nor at the replica."""
    port = int((await here.endpoint()).rpartition(":")[2])
    replica = int((await here.ask())["env"]["PORT"])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        own = probe.getsockname()[0]
    if own.startswith("127."):
        pytest.skip("this machine has no address but loopback")
    for each in (port, replica):
        with pytest.raises(OSError, match="Connect call failed"):
            await asyncio.open_connection(own, each)


async def test_an_idle_request_ends(tmp_path: Path) -> None:
    """240 s in Azure: 504 before the head; a stream that falls silent breaks off."""
    async with world(tmp_path, Pace(factor=20, idle_seconds=1)) as here:
        await begin(here)
        async with here.http() as client, client.get(f"{await here.endpoint()}/wait?never") as response:
            assert (response.status, await response.text()) == (504, "stream timeout")


async def test_an_app_that_dies_during_a_request(here: World) -> None:
    """An answer in Envoy's words; its last line and exit code are kept."""
    async with here.http() as client, client.get(f"{await here.endpoint()}/exit?9") as response:
        assert response.status == 502
        assert (await response.text()).startswith("upstream connect error or disconnect/reset before headers.")
    assert await log_has(here, "last words")

    async def back() -> bool:
        (replica,) = await here.replicas()
        return bool(
            replica["properties"]["containers"][0]["restartCount"] == 1
            and (await here.revision())["healthState"] == "Healthy"
        )

    await here.until(back)
    assert (await here.ask("/again"))["path"] == "/again"


async def test_web_sockets_are_refused(here: World) -> None:
    """501, with the reason."""
    async with here.http() as client:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await client.ws_connect(await here.endpoint())
    assert refused.value.status == 501


async def test_faults_on_the_way_to_the_app(here: World) -> None:
    """Only by rules that name the ingress; the answers are Envoy's words, or none."""
    here.cloud.faults.add(
        [
            {"fault": "internal-error", "path": "/app/"},
            {"fault": "throttled", "service": "ingress", "path": "/app/slow", "retry_after_seconds": 7, "count": 1},
            {"fault": "unavailable", "service": "ingress", "method": ["POST"], "count": 1},
            {"fault": "dropped-connection", "service": "ingress", "when": "before", "path": "/gone", "count": 1},
        ]
    )
    endpoint = await here.endpoint()
    async with here.http() as client:
        for method, path, status, text, wait in (
            ("GET", "/slow", 429, "local_rate_limited", "7"),
            ("POST", "/", 503, "no healthy upstream", "1"),
        ):
            async with client.request(method, f"{endpoint}{path}", data=b"") as response:
                assert (response.status, await response.text()) == (status, text)
                assert response.headers["Retry-After"] == wait
        with pytest.raises(aiohttp.ClientError):
            await client.post(f"{endpoint}/gone", data=b"")
        for path in ("/slow", "/gone"):
            async with client.get(f"{endpoint}{path}") as response:
                assert (await response.json())["path"] == path, "each happened once"


async def test_many_at_once(here: World) -> None:
    """200 requests over 200 connections, none lost."""
    endpoint = await here.endpoint()
    async with here.http() as client:

        async def one(number: int) -> bool:
            async with client.get(f"{endpoint}/n{number}") as response:
                return bool((await response.json())["path"] == f"/n{number}")

        assert all(await asyncio.gather(*(one(number) for number in range(200))))

"""What one key and one request may take: on a real server, with real sockets that are slow or stop half way."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator

import gradio_client  # type: ignore[import-untyped]
import httpx
import openai
import pytest
from api import About, create_api
from engine import ChatRequest, Engine, Finished
from limits import KeyLimitReached, KeyLimits
from settings import Limits, PerKey

from tests.fixtures_inference import (
    BEARER,
    BODY_SECONDS,
    KEY,
    MORE_KEYS,
    Server,
    TinyModel,
    make_engine,
    server,
    tiny_model,
)

__all__ = ["server", "tiny_model"]

BODY = {"messages": [{"role": "user", "content": "fox"}], "max_tokens": 2}


def ask(server: Server, key: str = KEY, **changes: object) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"}
    return server.request("POST", "/v1/chat/completions", json=BODY | changes, headers=headers)


# Keys


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_minute_s_requests_may_come_at_once_and_then_evenly() -> None:
    clock = Clock()
    limits = KeyLimits(PerKey(), PerKey(6, {"free": 0}), clock)

    def begin(name: str) -> int:
        """0, or for how many seconds it is refused."""
        try:
            with limits.request(name):
                return 0
        except KeyLimitReached as reached:
            assert reached.code == "rate_limit_exceeded"
            return reached.retry_after_seconds

    assert [begin("one") for _ in range(7)] == [0] * 6 + [10]
    assert begin("two") == 0, "another key has a bucket of its own"
    assert [begin("free") for _ in range(50)] == [0] * 50
    clock.now += 9.5
    assert begin("one") == 1, "refused, and no later for having asked"
    clock.now += 0.5
    assert [begin("one"), begin("one")] == [0, 10]
    clock.now += 3600
    assert [begin("one") for _ in range(7)] == [0] * 6 + [10], "an hour of silence saves up one minute's worth"


def test_as_many_at_once_as_a_key_may_run() -> None:
    limits = KeyLimits(PerKey(2, {"wide": 3}), PerKey(10))
    with limits.request("one"), limits.request("one"):
        for _ in range(20):
            with pytest.raises(KeyLimitReached, match="may run 2 requests at once") as refused, limits.request("one"):
                pass
            assert refused.value.code == "concurrency_limit_exceeded"
        with limits.request("two"), limits.request("wide"), limits.request("wide"), limits.request("wide"):
            pass
    with pytest.raises(ZeroDivisionError), limits.request("one"):
        raise ZeroDivisionError
    with limits.request("one"), limits.request("one"):
        pass  # what was refused has taken nothing of the ten per minute either


def test_a_metered_key_is_told_when_to_come_again(server: Server) -> None:
    key = MORE_KEYS["metered"]
    answers = [ask(server, key) for _ in range(5)]
    statuses = [answer.status_code for answer in answers]
    # One every 20 s is given back, should the machine be so slow.
    assert statuses[:3] == [200] * 3
    assert 429 in statuses
    refused = answers[statuses.index(429)]
    assert 1 <= int(refused.headers["retry-after"]) <= 20
    error = refused.json()["error"]
    assert (error["type"], error["code"], error["param"]) == ("rate_limit_error", "rate_limit_exceeded", None)
    assert "`metered` may send 3 requests per minute" in error["message"]
    assert key not in refused.text
    assert server.get("/v1/models", headers={"authorization": f"Bearer {key}"}).status_code == 200
    assert ask(server).status_code == 200, "another key goes on"
    client = openai.OpenAI(base_url=server.address + "/v1", api_key=key, max_retries=0)
    with pytest.raises(openai.RateLimitError):
        for _ in range(2):
            client.chat.completions.create(model="default", messages=[{"role": "user", "content": "fox"}], max_tokens=1)


def test_the_page_counts_for_its_key_too(server: Server) -> None:
    server.wait_for_page()
    headers = {"Authorization": f"Bearer {MORE_KEYS['metered']}"}
    client = gradio_client.Client(server.address, headers=headers, verbose=False)
    shown = [str(client.predict("fox", "default", "", 0, 2, api_name="/chat")) for _ in range(5)]
    assert any("The key `metered` may send 3 requests per minute" in each for each in shown)


def test_a_key_that_may_run_one_request(server: Server) -> None:
    headers = {"authorization": f"Bearer {MORE_KEYS['single']}"}
    body = BODY | {"stream": True, "max_tokens": 2}
    # The request holds its place from its head on: a body that is still on its way is enough to see that.
    with socket_to(server) as running:
        whole = json.dumps(body).encode()
        asks_first = head("/v1/chat/completions", len(whole), MORE_KEYS["single"]).replace(b"Host", EXPECT + b"Host")
        running.sendall(asks_first)
        assert running.recv(100).startswith(b"HTTP/1.1 100 ")
        refused = ask(server, MORE_KEYS["single"])
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "concurrency_limit_exceeded"
        assert refused.headers["retry-after"] == "1"
        running.sendall(whole)
        assert b"[DONE]" in read_all(running)
    last = server.request("POST", "/v1/chat/completions", json=body, headers=headers)
    assert last.status_code == 200


# Bodies and heads


EXPECT = b"Expect: 100-continue\r\n"


def socket_to(server: Server) -> socket.socket:
    address = httpx.URL(server.address)
    return socket.create_connection((address.host, address.port or 80), timeout=60)


def head(path: str, length: int, key: str | None = KEY, kind: str = "application/json") -> bytes:
    shown = f"Authorization: Bearer {key}\r\n" if key else ""
    return (
        f"POST {path} HTTP/1.1\r\nHost: x\r\n{shown}Content-Type: {kind}\r\nContent-Length: {length}\r\n"
        "Connection: close\r\n\r\n"
    ).encode()


def read_all(connection: socket.socket) -> bytes:
    """Until the server closes the connection."""
    parts = list(iter(lambda: connection.recv(65536), b""))
    return b"".join(parts)


def drip(connection: socket.socket, ended: threading.Event) -> None:
    """A byte now and then."""
    while not ended.wait(0.2):
        try:
            connection.sendall(b" ")
        except OSError:
            return


@pytest.fixture
def dripping() -> Iterator[list[tuple[socket.socket, threading.Event]]]:
    """Connections that go on sending until the test ends."""
    begun: list[tuple[socket.socket, threading.Event]] = []
    yield begun
    for connection, ended in begun:
        ended.set()
        connection.close()


def test_what_does_not_arrive_is_not_waited_for(
    server: Server, dripping: list[tuple[socket.socket, threading.Event]]
) -> None:
    """All at once, for each takes its seconds: half a body, one byte at a time, half a head, half a sign-in."""
    chat = "/v1/chat/completions"
    beginnings = {
        "half a body": (head(chat, 100) + b'{"messages"', False),
        "a byte now and then": (head(chat, 10_000) + b'{"messages"', True),
        "no body at all": (head(chat, 100), False),
        "half a head": (b"POST /v1/chat/completions HTTP/1.1\r\nHost", False),
        "a head now and then": (b"GET /health HTTP/1.1\r\nHost: x\r\nX-Long: ", True),
        "nothing": (b"", False),
        "half a sign-in": (head("/login", 100, None, "application/x-www-form-urlencoded") + b"pass", False),
        "a body that nobody asked for": (head(chat, 10_000, None) + b"{", True),
    }
    open_connections = {}
    for name, (beginning, goes_on) in beginnings.items():
        connection = open_connections[name] = socket_to(server)
        connection.sendall(beginning)
        ended = threading.Event()
        dripping.append((connection, ended))
        if goes_on:
            threading.Thread(target=drip, args=(connection, ended), daemon=True).start()
    said = {}
    for name, connection in open_connections.items():
        try:
            said[name] = read_all(connection)
        except ConnectionResetError:
            said[name] = b"reset"
    for name in ("half a body", "a byte now and then", "no body at all"):
        assert said[name].startswith(b"HTTP/1.1 408 "), (name, said[name])
        assert f"did not arrive within {BODY_SECONDS} s".encode() in said[name]
        assert b'"code": "request_timeout"' in said[name]
    assert said["a body that nobody asked for"].startswith((b"HTTP/1.1 401 ", b"reset"))
    for name in ("half a head", "a head now and then", "nothing", "half a sign-in"):
        assert said[name] in (b"", b"reset"), name
    assert ask(server).status_code == 200
    assert "Traceback" not in server.log()


def test_a_slow_caller_who_keeps_the_time_is_answered(server: Server) -> None:
    body = json.dumps(BODY).encode()
    with socket_to(server) as connection:
        request = head("/v1/chat/completions", len(body)) + body
        for at in range(0, len(request), 40):
            connection.sendall(request[at : at + 40])
        assert read_all(connection).startswith(b"HTTP/1.1 200 ")


def test_a_body_that_is_too_large(server: Server) -> None:
    large = {"messages": [{"role": "user", "content": "x" * 3_000_000}]}
    answer = server.request("POST", "/v1/chat/completions", json=large, headers=BEARER)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")

    def chunks() -> Iterator[bytes]:
        for _ in range(40):
            yield b"x" * 100_000

    answer = server.request("POST", "/v1/chat/completions", content=chunks(), headers=BEARER)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")

    with socket_to(server) as connection:
        connection.sendall(head("/v1/chat/completions", 3_000_000) + b"x" * 3_000_000)
        assert read_all(connection).startswith(b"HTTP/1.1 413 "), "told, and not cut off while it sends"
    with socket_to(server) as connection:
        asks_first = head("/v1/chat/completions", 3_000_000).replace(b"Host", EXPECT + b"Host")
        connection.sendall(asks_first)
        assert read_all(connection).startswith(b"HTTP/1.1 413 "), "before it has sent anything"


# Time


@pytest.fixture(scope="module")
def hurried(tiny_model: TinyModel) -> Iterator[Engine]:
    """An engine that gives no request enough time."""
    limits = Limits(max_prompt_tokens=400, max_new_tokens=200, default_new_tokens=200, request_seconds=1e-6)
    engine = make_engine(tiny_model, limits, adapters=())
    engine.start()
    engine.wait_until_loaded()
    yield engine
    asyncio.run(engine.drain(10))


async def test_a_request_that_takes_too_long_is_ended(hurried: Engine) -> None:
    stream = await hurried.submit(ChatRequest(messages=[{"role": "user", "content": "the fox"}]))
    events = [event async for event in stream]
    assert isinstance(events[-1], Finished)
    assert events[-1].reason == "timeout"
    assert hurried.open_requests == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_that_takes_too_long_is_told_so(hurried: Engine, stream: bool) -> None:
    api = create_api(hurried, About("r", 0, 15.0), lambda accept: (b"", "text/plain"))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://server") as client:
        answer = await client.post("/v1/chat/completions", json=BODY | {"stream": stream, "max_tokens": 200})
    if stream:
        assert '"code":"request_timeout"' in answer.text
        assert "[DONE]" not in answer.text
    else:
        assert (answer.status_code, answer.json()["error"]["code"]) == (408, "request_timeout")
        assert answer.headers["x-should-retry"] == "false"

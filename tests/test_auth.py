"""Who may call: everything is closed without the key, on a real server."""

from __future__ import annotations

import hashlib
import hmac
import html
import re
import time
from typing import Any

import httpx
import pytest
from auth import COOKIE, SESSION_SECONDS, Gate, Keys

from tests.fixtures_inference import BEARER, KEY, MORE_KEYS, Server, server, tiny_model

__all__ = ["server", "tiny_model"]

BROWSER = {"accept": "text/html,application/xhtml+xml"}


@pytest.fixture
def page(server: Server) -> Server:
    """The server when its page is there too."""
    server.wait_for_page()
    return server


def sign_in(server: Server, password: str = KEY, **headers: str) -> httpx.Response:
    form = {"username": "anybody", "password": password}
    return server.request("POST", "/login", data=form, headers=BROWSER | headers)


def test_every_route_is_closed(page: Server) -> None:
    """The routes of the API, and all that Gradio serves beside its page."""
    api = page.get("/openapi.json", headers=BEARER).json()["paths"]
    config = page.get("/config", headers=BEARER).json()
    prefix = config["api_prefix"]
    gradio = ["/", "/config", "/theme.css", "/robots.txt", "/assets/index.js", "/monitoring"]
    gradio += [
        f"{prefix}/{name}" for name in ("info", "queue/join", "queue/data", "upload", "file=/etc/passwd", "run/chat")
    ]
    gradio += [f"{prefix}/heartbeat/x", f"{prefix}/app_id", f"{prefix}/startup-events", f"{prefix}/call/chat"]
    closed = [
        path for path in [*api, *gradio, "/docs", "/openapi.json", "/nothing"] if path not in ("/health", "/ready")
    ]
    for path in closed:
        for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD"):
            answer = page.request(method, path)
            assert answer.status_code == 401, (method, path)
    assert page.request("POST", "/login").status_code == 401


def test_the_manifest_names_no_model(server: Server) -> None:
    """A browser fetches it without its cookie; Gradio's own names the model and the release."""
    assert server.get("/manifest.json").json() == {"name": "Chat"}
    assert server.request("HEAD", "/manifest.json").status_code == 200
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert server.request(method, "/manifest.json").status_code == 401, method


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_probes_need_no_key(server: Server, path: str) -> None:
    assert server.get(path).status_code == 200
    assert server.request("HEAD", path).status_code == 200
    for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"):
        assert server.request(method, path).status_code == 401, method


def test_ready_tells_details_only_with_the_key(server: Server) -> None:
    assert server.get("/ready").json() == {"status": "ready"}
    assert server.get("/ready", headers={"authorization": "Bearer wrong"}).json() == {"status": "ready"}
    cookie = sign_in(server).cookies[COOKIE]
    assert server.get("/ready", cookies={COOKIE: cookie}).json() == {"status": "ready"}
    told = server.get("/ready", headers=BEARER).json()
    assert told["release"] == "0123abcd"
    assert told["models"] == ["default", "other", "tiny-base"]
    assert told["default_model"] == "default"
    assert told["phase"] == "ready"
    assert told["error"] is None
    assert told["ledger"]["ready_seconds"] > 0


@pytest.mark.parametrize(
    "shown",
    [
        "",
        KEY,
        f"Bearer {KEY}x",
        f"Bearer {KEY[:-1]}",
        "Bearer",
        "Bearer x y",
        f"Basic {KEY}",
        f"Token {KEY}",
        "Bearer ü",
    ],
)
def test_what_is_not_the_key(server: Server, shown: str) -> None:
    answer = server.get("/v1/models", headers={b"authorization": shown.encode()})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_api_key")
    assert KEY not in answer.text


def test_the_scheme_s_case_does_not_matter(server: Server) -> None:
    assert server.get("/v1/models", headers={"authorization": f"bearer {KEY}"}).status_code == 200


def test_a_browser_signs_in_and_out(page: Server) -> None:
    with httpx.Client(base_url=page.address, headers=BROWSER, follow_redirects=True, timeout=60) as browser:
        form = browser.get("/")
        assert form.url.path == "/login"
        assert 'name="password"' in form.text
        refused = browser.post("/login", data={"username": "x", "password": "wrong"})
        assert refused.status_code == 401
        assert "not the key" in refused.text
        opened = browser.post("/login", data={"username": "x", "password": KEY})
        assert opened.status_code == 200
        assert opened.url.path == "/"
        assert "gradio" in opened.text
        assert browser.get("/config", headers={"accept": "application/json"}).status_code == 200
        assert browser.get("/logout").url.path == "/login"
        assert browser.get("/config", headers={"accept": "application/json"}).status_code == 401


@pytest.mark.parametrize("path", ["/docs", "/docs?a=b&c=%20%22%3Cd", "/config", "/no%20thing%C3%A9?x=%2F%2Fy"])
def test_signing_in_leads_to_what_was_asked_for(page: Server, path: str) -> None:
    with httpx.Client(base_url=page.address, headers=BROWSER, follow_redirects=True, timeout=60) as browser:
        assert browser.get(path).url.path == "/login"
        form = browser.get(path)
        for key in ("wrong", KEY):
            (wanted,) = re.findall(r'name="next" value="(.*?)"', form.text)
            form = browser.post("/login", data={"password": key, "next": html.unescape(wanted)})
        assert str(form.url) == page.address + path


@pytest.mark.parametrize(
    "elsewhere",
    [
        "//evil.example",
        "///evil.example",
        "/\\evil.example",
        "\\\\evil.example",
        "/\t/evil.example",
        "/\n/evil.example",
        "\t//evil.example",
        " //evil.example",
        "https://evil.example",
        "javascript:alert(1)",
        "evil.example",
        "/docs\r\nset-cookie: a=b",
        "/é",
        "/" + "a" * 2001,
        "",
    ],
)
def test_signing_in_leads_nowhere_else(server: Server, elsewhere: str) -> None:
    form = server.request("GET", "/login", params={"next": elsewhere}, headers=BROWSER)
    assert 'name="next" value=""' in form.text
    answer = server.request("POST", "/login", data={"password": KEY, "next": elsewhere}, headers=BROWSER)
    assert (answer.status_code, answer.headers["location"]) == (303, "./")


def test_a_browser_is_not_sent_in_a_circle(server: Server) -> None:
    """The cookie does not open the API: to sign in would not help."""
    for cookies in ({}, {COOKIE: sign_in(server).cookies[COOKIE]}):
        answer = server.get("/v1/models", headers=BROWSER, cookies=cookies)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
    long = server.get("/" + "a" * 3000, headers=BROWSER)
    assert (long.status_code, long.headers["location"]) == (303, "/login")


def test_the_form_shows_what_it_leads_to_as_text(server: Server) -> None:
    form = server.request("GET", "/login", params={"next": '/"><script>'}, headers=BROWSER)
    assert 'value="/&quot;&gt;&lt;script&gt;"' in form.text


def test_the_cookie_opens_the_page_but_not_the_api(page: Server) -> None:
    answer = sign_in(page)
    header = answer.headers["set-cookie"]
    assert "HttpOnly" in header
    assert "SameSite=Lax" in header
    assert "Secure" not in header, "a plain-http page on loopback"
    assert KEY not in header
    cookies = {COOKIE: answer.cookies[COOKIE]}
    assert page.get("/config", cookies=cookies).status_code == 200
    assert page.get("/v1/models", cookies=cookies).status_code == 401


def test_behind_tls_the_cookie_is_for_tls_only(server: Server) -> None:
    assert "Secure" in sign_in(server, **{"x-forwarded-proto": "https"}).headers["set-cookie"]


def test_a_client_that_is_no_browser_gets_200(server: Server) -> None:
    form = {"username": "x", "password": KEY}
    answer = server.request("POST", "/login", data=form)
    assert (answer.status_code, answer.json()) == (200, {"success": True})
    wrong = server.request("POST", "/login", data=form | {"password": "wrong"})
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (401, "invalid_api_key")


@pytest.mark.parametrize(
    "body",
    [b"", b"password", b"password=" + b"x" * 20_000, b"\xff\xfe", b"&".join([b"a=b"] * 50), b"password=%ED%A0%80"],
)
def test_a_form_that_is_none(server: Server, body: bytes) -> None:
    answer = server.request("POST", "/login", content=body, headers=BROWSER)
    assert answer.status_code == 401


def test_cookies_that_were_not_given_by_this_server(page: Server) -> None:
    real = sign_in(page).cookies[COOKIE]
    until, random, signature = real.split(".")
    foreign = Keys({"default": "another key"}).new_session("default", time.time())
    forged = [
        f"{int(until) + 1}.{random}.{signature}",
        f"{until}.{random}.{'0' * 64}",
        f"{until}.{random}.",
        "..",
        "",
        foreign,
        hmac.new(KEY.encode(), b"", hashlib.sha256).hexdigest(),
    ]
    for value in forged:
        answer = page.request("GET", "/config", headers={"cookie": f"{COOKIE}={value}"})
        assert answer.status_code == 401, value
    for header in (f'{COOKIE}="', "=;=", "\x7f", f"a=b; {COOKIE}=x; {COOKIE}=y"):
        answer = page.request("GET", "/config", headers={"cookie": header})
        assert answer.status_code == 401, header


@pytest.mark.parametrize(
    "others",
    [
        'prefs={"theme":"dark"}',
        "flag",
        "a=b c",
        "name=é",
        "a[b]=c",
        "=",
        '"',
        f"x{COOKIE}=y",
        f"{COOKIE}=",
        "a=b,c=d",
    ],
)
def test_cookies_of_other_applications_change_nothing(server: Server, others: str) -> None:
    """A browser sends those of the domain too, and on loopback those of every port."""
    ours = f"{COOKIE}={sign_in(server).cookies[COOKIE]}"
    for header in (f"{others}; {ours}", f"{ours}; {others}", f"{others};{ours};{others}"):
        answer = server.get("/docs", headers={b"cookie": header.encode()})
        assert answer.status_code == 200, header


def test_a_session_ends() -> None:
    keys = Keys({"default": KEY, **MORE_KEYS})
    session = keys.new_session("ci", 1_000_000.0)
    assert keys.session_name(session, 1_000_000.0 + SESSION_SECONDS - 1) == "ci"
    assert keys.session_name(session, 1_000_000.0 + SESSION_SECONDS + 1) is None
    again = Keys({"default": KEY, "ci": MORE_KEYS["ci"]})
    assert again.session_name(session, 1_000_001.0) == "ci", "a replica that has just started knows it"
    assert Keys({"default": KEY}).session_name(session, 1_000_001.0) is None, "its key was taken away"


def test_every_key_opens_the_api_and_the_page(page: Server) -> None:
    for key in MORE_KEYS.values():
        assert page.get("/v1/models", headers={"authorization": f"Bearer {key}"}).status_code == 200
        cookies = {COOKIE: sign_in(page, key).cookies[COOKIE]}
        assert page.get("/config", cookies=cookies).status_code == 200
    assert page.get("/v1/models", headers={"authorization": "Bearer ci"}).status_code == 401, "a name is no key"


def test_keys_by_name() -> None:
    keys = Keys({"first": KEY, "second": "another-key", "third": "a-third-key"})
    assert [keys.name_of(shown) for shown in (KEY, "another-key", "a-third-key")] == ["first", "second", "third"]
    for shown in ("", KEY[:-1], KEY + "x", "first", "\ud800"):
        assert keys.name_of(shown) is None


async def test_a_websocket_without_the_key_is_closed() -> None:
    """Nothing here speaks WebSocket today; a library that begins to is closed as well."""
    sent: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        sent.append("reached")

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    gate = Gate(application, {"default": KEY})
    await gate({"type": "websocket", "path": "/queue", "headers": []}, receive, send)
    assert sent == [{"type": "websocket.close", "code": 1008}]
    bearer = [(b"authorization", f"Bearer {KEY}".encode())]
    await gate({"type": "websocket", "path": "/queue", "headers": bearer}, receive, send)
    assert sent[1:] == ["reached"]

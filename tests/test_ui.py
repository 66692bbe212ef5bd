"""The page through the real gradio_client and a real browser."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import gradio_client  # type: ignore[import-untyped]
import httpx
import openai
import pytest
import uvicorn
from engine import Engine, Report
from generation import EngineLimits
from gradio_client.exceptions import AuthenticationError  # type: ignore[import-untyped]
from limits import KeyLimits
from page_answers import NOT_ANSWERED, conversation
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait
from settings import PerKey
from ui import SESSIONS, build_page

from infra.emulator.ports import free as free_port
from tests.fixtures_inference import BEARER, KEY, LIMITS, Server, TinyModel, server, tiny_model

__all__ = ["server", "tiny_model"]


PACE = re.compile(r"\d+ tokens · [\d.]+ tokens/s · first after [\d.]+ s( · cut: longest answer reached)?")


@pytest.fixture(scope="module")
def page(server: Server) -> Server:
    server.wait_for_page()
    return server


def api_answer(server: Server, model: str, *messages: tuple[str, str], max_tokens: int = 24) -> str:
    client = openai.OpenAI(base_url=server.address + "/v1", api_key=KEY, max_retries=0)
    turns: Any = [{"role": role, "content": content} for role, content in messages]
    answer = client.chat.completions.create(model=model, messages=turns, temperature=0, max_tokens=max_tokens)
    return answer.choices[0].message.content or ""


class Turnstile:
    """A batch that makes as many steps as it is allowed to, so that a test can look at an answer half-way."""

    def __init__(self, batch: Any) -> None:
        self._batch = batch
        self.allowed = threading.Semaphore(0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def step(self) -> Any:
        self.allowed.acquire()
        return self._batch.step()


@dataclass
class PacedPage:
    """The page over an engine in this process that computes a step at a time; nothing before it asks for a key."""

    engine: Engine
    turnstile: Turnstile
    address: str
    steps: int = 0

    def step_until(self, condition: Callable[[], bool], seconds: float = 60) -> None:
        """Allow one step after another, a hundred in a second at the most, until the condition holds."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"not within {seconds} s and {self.steps} steps"
            self.turnstile.allowed.release()
            self.steps += 1
            time.sleep(0.01)

    def wait_until_given_up(self, seconds: float = 60) -> None:
        """Until every answer is cancelled, while no step is allowed; then until all are gone."""
        deadline = time.monotonic() + seconds
        while not all(job.cancelled for job in self.engine._jobs):
            assert time.monotonic() < deadline, f"not within {seconds} s"
            time.sleep(0.01)
        self.step_until(lambda: self.engine.open_requests == 0)


@pytest.fixture(scope="module")
def paced(tiny_model: TinyModel) -> Iterator[PacedPage]:
    turnstiles: list[Turnstile] = []

    def load(report: Report) -> Any:
        import model

        chosen = (tiny_model.adapters[1],)
        loaded = model.load(tiny_model.base, chosen, limits=LIMITS, device="cpu", dtype="float32", report=report)
        turnstiles.append(Turnstile(loaded.batch))
        return replace(loaded, batch=turnstiles[0])

    limits = EngineLimits(max_prompt_tokens=400, default_new_tokens=150, max_new_tokens=200, max_queue=40)
    engine = Engine(load=load, models=("other", "tiny-base"), default_model="other", limits=limits)
    engine.start()
    engine.wait_until_loaded()
    assert engine.state.status == "ready", engine.state.error
    page = build_page(engine, KeyLimits(PerKey(), PerKey()), base="tiny-base", release="paced")
    port = free_port()
    served = uvicorn.Server(
        uvicorn.Config(page, host="127.0.0.1", port=port, log_level="warning", timeout_graceful_shutdown=1)
    )
    serving = threading.Thread(target=served.run, daemon=True)
    serving.start()
    while not served.started:
        assert serving.is_alive()
        time.sleep(0.01)
    yield PacedPage(engine, turnstiles[0], f"http://127.0.0.1:{port}")
    turnstiles[0].allowed.release(1000)
    served.should_exit = True
    serving.join(10)
    asyncio.run(engine.drain(5))


# gradio_client


def test_gradio_client_with_the_login(page: Server) -> None:
    for model in ("default", "other", "tiny-base"):
        client = gradio_client.Client(page.address, auth=("anybody", KEY), verbose=False)
        said, pace = client.predict("the quick brown fox", model, "", 0, 24, api_name="/chat")
        assert said == api_answer(page, model, ("user", "the quick brown fox"))
        assert PACE.fullmatch(pace), pace


def test_a_client_s_turns_are_one_conversation(page: Server) -> None:
    client = gradio_client.Client(page.address, headers=BEARER, verbose=False)
    client.predict("fox " * 900, "default", "", 0, 24, api_name="/chat")  # refused, so it is no part of it
    first, _ = client.predict("the fox", "default", "", 0, 8, api_name="/chat")
    second, _ = client.predict("and the dog", "other", "", 0, 24, api_name="/chat")
    assert first == api_answer(page, "default", ("user", "the fox"), max_tokens=8)
    turns = [("user", "the fox"), ("assistant", first), ("user", "and the dog")]
    assert second == api_answer(page, "other", *turns)


def test_gradio_client_with_the_header(page: Server) -> None:
    client = gradio_client.Client(page.address, headers=BEARER, verbose=False)
    said, _ = client.predict("the fox", "other", "be a fox", 0, 12, api_name="/chat")
    assert said == api_answer(page, "other", ("system", "be a fox"), ("user", "the fox"), max_tokens=12)


def test_two_models_beside_each_other(page: Server) -> None:
    client = gradio_client.Client(page.address, headers=BEARER, verbose=False)
    shown = client.predict("the fox", "tiny-base", "other", "be a fox", 0, 12, api_name="/compare")
    turns = (("system", "be a fox"), ("user", "the fox"))
    assert shown[0] == api_answer(page, "tiny-base", *turns, max_tokens=12)
    assert shown[2] == api_answer(page, "other", *turns, max_tokens=12)
    assert shown[0] != shown[2]
    assert PACE.fullmatch(shown[1])
    assert PACE.fullmatch(shown[3])


def test_what_cannot_be_compared_says_why_on_both_sides(page: Server) -> None:
    client = gradio_client.Client(page.address, headers=BEARER, verbose=False)
    shown = client.predict("fox " * 900, "tiny-base", "other", "", 0, 12, api_name="/compare")
    for said in (shown[0], shown[2]):
        assert "the configured limit of 400 tokens" in said


def test_gradio_client_without_the_key(page: Server) -> None:
    with pytest.raises(AuthenticationError):
        gradio_client.Client(page.address, verbose=False)
    with pytest.raises(AuthenticationError):
        gradio_client.Client(page.address, auth=("anybody", "wrong"), verbose=False)


# What the page does not need

ELSEWHERE = "http://files.invalid/weights.bin"
FILE = {"path": ELSEWHERE, "meta": {"_type": "gradio.FileData"}}


def told(*content: Any) -> list[dict[str, Any]]:
    """A conversation with one turn."""
    return [{"role": "user", "metadata": None, "content": list(content), "options": None}]


# Gradio would download every one of these for the server, by itself or by what makes a component of it.
FETCHED: dict[str, Any] = {
    "a file": FILE,
    "a file without its mark": {"path": ELSEWHERE},
    "a file of another name": {**FILE, "url": ELSEWHERE, "orig_name": "weights.bin", "size": 1},
    "a file in a list": [["the fox", FILE]],
    "a file in an object": {"text": {"text": FILE}},
    "a file in a conversation": told({"type": "file", "file": FILE, "alt_text": None}),
    "a component in a conversation": told(
        {"type": "component", "component": "file", "value": FILE, "constructor_args": {}, "props": {}}
    ),
    "a component that shows a page": told(
        {"type": "component", "component": "image", "value": FILE, "constructor_args": {}, "props": {}}
    ),
}


def endpoints(page: Server) -> list[dict[str, Any]]:
    """All that a client can call, the page's own events among it."""
    found: list[dict[str, Any]] = page.get("/config", headers=BEARER).json()["dependencies"]
    return found


@pytest.fixture
def caller(page: Server) -> Iterator[httpx.Client]:
    # A connection each: on one that is kept, each body waits 40 ms for the head to be acknowledged.
    limits = httpx.Limits(max_keepalive_connections=0)
    address = page.address + "/gradio_api/"
    with httpx.Client(base_url=address, headers=BEARER, timeout=60, verify=False, limits=limits) as client:
        yield client


def test_no_value_makes_the_server_fetch_anything(page: Server, caller: httpx.Client) -> None:
    """As any value of any event of the page, by each route that takes one."""
    for endpoint in endpoints(page):
        inputs = len(endpoint["inputs"])
        for name, value in FETCHED.items():
            body = {"data": [value] * inputs, "fn_index": endpoint["id"], "session_hash": "fetching"}
            # What a click tells of itself: of an option, of an example.
            option = {**body, "data": [None] * inputs, "event_data": {"index": 0, "value": value}}
            example = {**option, "event_data": {"index": 0, "value": {"text": "x", "files": [FILE]}}}
            for asked in (body, option, example) if inputs else (option, example):
                refused = caller.post("run/predict", json=asked)
                assert refused.status_code == 400, (endpoint["targets"], name, refused.text)
                assert "This page takes text alone" in refused.json()["detail"]
            if inputs:
                assert caller.post("queue/join", json=body).status_code == 400
    assert page.reached() == []


def test_no_way_of_writing_a_value_makes_the_server_fetch_anything(page: Server, caller: httpx.Client) -> None:
    compare = next(endpoint["id"] for endpoint in endpoints(page) if endpoint["api_name"] == "compare")
    plain = json.dumps({"data": [FILE, "default", "other", "", 0, 8], "fn_index": compare, "session_hash": "written"})
    escaped = plain.replace("meta", "\\u006deta").replace("gradio", "\\u0067radio").replace("path", "pat\\u0068")
    assert escaped != plain
    assert json.loads(escaped) == json.loads(plain)
    twice = plain.replace('"meta":', '"meta": {}, "meta":').replace('{"data":', '{"data": [], "data":')
    written = [plain.encode(), escaped.encode(), twice.encode(), *(plain.encode(name) for name in ("utf-16", "utf-32"))]
    for body in [*written, b"\xef\xbb\xbf" + plain.encode(), b"[" * 100_000, b"", b"\xff", b"7", b"[]"]:
        for path in ("run/predict", "queue/join"):
            for media_type in ("application/json", "application/vnd.api+json", "text/plain", "application/msgpack"):
                refused = caller.post(path, headers={"content-type": media_type}, content=body)
                assert refused.status_code in (400, 422), (path, media_type, body[:80], refused.text)
    assert page.reached() == []


def test_gradio_client_cannot_make_the_server_fetch_anything(page: Server) -> None:
    client = gradio_client.Client(page.address, headers=BEARER, verbose=False)
    file = gradio_client.handle_file(ELSEWHERE)
    with pytest.raises(httpx.HTTPStatusError, match="400"):
        client.predict(file, "default", "other", "", 0, 8, api_name="/compare")
    assert page.reached() == []


def test_what_the_page_does_not_need_is_closed(page: Server) -> None:
    for method, path in (
        ("POST", "/gradio_api/upload"),
        ("POST", "/gradio_api/component_server"),
        ("POST", "/gradio_api/component_server/"),
        ("POST", "/gradio_api/process_recording"),
        ("POST", "/gradio_api/stream/x"),
        ("POST", "/gradio_api/vibe-edit"),
        ("POST", "/gradio_api/call/compare"),
        ("POST", "/gradio_api/call/v2/compare"),
        ("POST", "/gradio_api/api/compare"),
        ("POST", "/gradio_api/run/compare"),
        ("POST", "/gradio_api/run/predict/"),
        ("POST", "/"),
        ("PUT", "/gradio_api/queue/join"),
        ("GET", "/gradio_api/file=/etc/hostname"),
        ("GET", "/gradio_api/file/etc/hostname"),
        ("GET", "/gradio_api/proxy=https://localhost/"),
        ("HEAD", "/gradio_api/proxy=https://localhost/"),
        ("GET", "/gradio_api/deep_link?session_hash=x"),
        ("GET", "/gradio_api/stream/x/1/2/playlist.m3u8"),
        ("GET", "/gradio_api/queue/status"),
        ("GET", "/gradio_api/startup-events"),
        ("GET", "/custom_component/1/client/component/index.js"),
        ("GET", "/monitoring"),
        ("GET", "/monitoring/summary"),
        ("GET", "/redoc"),
    ):
        closed = page.request(method, path, headers=BEARER)
        assert closed.status_code == 404, (method, path)
        if method != "HEAD":
            assert path.partition("?")[0] in closed.json()["error"]["message"], (method, path)
    assert page.get("/config", headers=BEARER).status_code == 200


def test_a_body_that_is_too_large_is_refused_here_too(caller: httpx.Client) -> None:
    body = {"data": ["x" * 3_000_000], "fn_index": 0, "session_hash": "large"}
    assert caller.post("run/predict", json=body).status_code == 413


def test_scripts_of_other_sites_are_told_nothing(page: Server) -> None:
    """Also on a host's own name: on loopback Gradio is careful by itself."""
    told_of = {**BEARER, "origin": "http://evil.example", "host": "model.example"}
    for path in ("/gradio_api/info", "/config", "/", "/theme.css"):
        answer = page.get(path, headers=told_of)
        assert answer.status_code == 200
        assert [name for name in answer.headers if name.startswith("access-control-")] == [], path
    asking = {**told_of, "access-control-request-method": "POST"}
    answer = page.request("OPTIONS", "/gradio_api/queue/join", headers=asking)
    assert "access-control-allow-origin" not in answer.headers


def test_conversations_are_not_kept_without_end(paced: PacedPage) -> None:
    built = build_page(paced.engine, KeyLimits(PerKey(), PerKey()), base="tiny-base", release="paced")
    mounted: Any = built.routes[-1]
    sessions = mounted.app.state_holder
    for number in range(SESSIONS + 50):
        assert sessions[f"session-{number}"] is not None
    assert len(sessions.session_data) == SESSIONS
    assert len(sessions.time_last_used) == SESSIONS


def test_the_answer_streams(paced: PacedPage) -> None:
    client = gradio_client.Client(paced.address, verbose=False)
    job = client.submit("the quick brown fox", "tiny-base", "", 0, 100, api_name="/chat")
    paced.step_until(lambda: len(job.outputs()) > 3)
    paced.step_until(job.done)
    said = [text for text, _ in job.outputs()]
    assert len(set(said)) > 3
    assert all(said[-1].startswith(text) for text in said)


def test_leaving_stops_the_computing(paced: PacedPage) -> None:
    client = gradio_client.Client(paced.address, verbose=False)
    job = client.submit("the quick brown fox", "tiny-base", "other", "", 0, 100, api_name="/compare")
    paced.step_until(lambda: len(job.outputs()) > 2)
    assert paced.engine.open_requests == 2
    job.cancel()
    paced.wait_until_given_up()


def test_a_message_that_is_too_long_is_answered_with_the_reason(page: Server) -> None:
    client = gradio_client.Client(page.address, headers=BEARER, verbose=False)
    said, _ = client.predict("fox " * 900, "default", "", 0, 24, api_name="/chat")
    assert "the configured limit of 400 tokens" in str(said)


def test_half_a_character_is_answered_with_the_reason(page: Server, caller: httpx.Client) -> None:
    chat = next(endpoint["id"] for endpoint in endpoints(page) if endpoint["api_name"] == "chat")
    body = json.dumps({"data": ["fox \ud83d", None, "default", "", 0, 8], "fn_index": chat, "session_hash": "half"})
    answer = caller.post("run/predict", headers={"content-type": "application/json"}, content=body)
    assert answer.status_code == 200, answer.text
    assert "half a character, U+D83D" in str(answer.json()["data"][0])


def test_turns_without_an_answer_are_not_sent() -> None:
    history: list[dict[str, Any]] = [
        {"role": "user", "content": "first", "metadata": None},
        {"role": "assistant", "content": [{"type": "text", "text": "an "}, {"type": "text", "text": "answer"}]},
        {"role": "user", "content": [{"type": "text", "text": "too long"}]},
        {"role": "assistant", "content": "The messages have ...", "metadata": {"title": NOT_ANSWERED}},
    ]
    assert conversation(history, "be brief") == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "an answer"},
    ]
    assert conversation([], "  ") == []
    assert conversation(history[-1:], "be brief") == [{"role": "system", "content": "be brief"}]


# A browser

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CHROMEDRIVER = shutil.which("chromedriver")

needs_browser = pytest.mark.skipif(
    not (CHROMIUM and CHROMEDRIVER), reason="chromium and chromedriver are not installed (Debian: chromium-driver)"
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    assert CHROMIUM
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"):
        options.add_argument(argument)
    options.add_argument("--disable-dev-shm-usage")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('browser')}/profile")
    driver = webdriver.Chrome(options=options, service=Service(CHROMEDRIVER))
    try:
        yield driver
    finally:
        driver.quit()


def resize(browser: webdriver.Chrome, width: int, height: int) -> None:
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def wait(browser: webdriver.Chrome, condition: Any, seconds: float = 60) -> Any:
    return WebDriverWait(browser, seconds).until(condition)


def box(browser: webdriver.Chrome, name: str = "message") -> WebElement:
    """The text box of the chat, or `prompt`, that of the comparison; it can be typed into."""
    selector = f"#{name} textarea:not([disabled])"
    found: WebElement = wait(browser, lambda driver: driver.find_element(By.CSS_SELECTOR, selector))
    return found


def texts(browser: webdriver.Chrome, selector: str) -> list[str]:
    # Read in one step: the page draws an answer anew with every piece of it.
    script = """return [...document.querySelectorAll(arguments[0])]
        .map(element => (element.value ?? element.innerText).trim())"""
    found: list[str] = browser.execute_script(script, selector)
    return found


def answered(count: int) -> Callable[[webdriver.Chrome], bool]:
    """The number of answers, each of them finished: the send button is back."""
    return lambda driver: (
        len(texts(driver, "#chat .message.bot")) == count
        and bool(driver.find_elements(By.CSS_SELECTOR, "#message button.submit-button"))
    )


def open_tab(browser: webdriver.Chrome, name: str) -> None:
    tabs = browser.find_elements(By.CSS_SELECTOR, "button[role=tab]")
    next(tab for tab in tabs if tab.is_displayed() and tab.text == name).click()


def letters(text: str) -> str:
    """Without what Markdown and the browser do to white space."""
    return "".join(text.split())


def check_nothing_sticks_out(browser: webdriver.Chrome, width: int) -> None:
    """Nothing is wider than the screen, and no label or button is cut off."""
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    script = """
        const cut = element => element.offsetParent !== null && (element.scrollWidth > element.clientWidth + 1
            || element.getBoundingClientRect().right > innerWidth + 1 || element.getBoundingClientRect().left < -1);
        const shown = 'h1, #title p, #sign-out a, label, button[role=tab], .pace, .side textarea';
        return [...document.querySelectorAll(shown)].filter(cut).map(element => element.outerHTML.slice(0, 200))"""
    assert browser.execute_script(script) == []


def contrasts(browser: webdriver.Chrome, selector: str) -> list[float]:
    """Of each element's text to what is behind it, as https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio has it."""
    script = """
        const parts = color => color.match(/[\\d.]+/g).map(Number);
        const linear = part => (part /= 255) <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
        const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
        const behind = element => {
            for (; element; element = element.parentElement) {
                const color = parts(getComputedStyle(element).backgroundColor);
                if (color.length === 3 || color[3] === 1) return color;
            }
            return [255, 255, 255];
        };
        return [...document.querySelectorAll(arguments[0])].map(element => {
            const both = [parts(getComputedStyle(element).color), behind(element)].map(luminance);
            return (Math.max(...both) + 0.05) / (Math.min(...both) + 0.05);
        })"""
    found: list[float] = browser.execute_script(script, selector)
    return found


@needs_browser
def test_a_person_signs_in_chats_and_compares(page: Server, browser: webdriver.Chrome) -> None:
    """Login with a wrong and the right key, two turns, two models beside each other, phone width, sign out."""
    resize(browser, 1280, 800)
    browser.get(page.address)
    wait(browser, lambda driver: driver.title == "Sign in")
    browser.find_element(By.ID, "password").send_keys("wrong", Keys.ENTER)
    alert = wait(browser, lambda driver: driver.find_element(By.CSS_SELECTOR, "[role=alert]"))
    assert "not the key" in alert.text
    browser.find_element(By.ID, "password").send_keys(KEY, Keys.ENTER)

    questions = ("the quick brown fox", "and the dog")
    box(browser).send_keys(questions[0], Keys.ENTER)
    assert browser.title == "tiny-base · 0123abcd"
    assert texts(browser, "#title h1, #title p") == ["tiny-base", "2 adapters · release 0123abcd"]
    wait(browser, answered(1))
    assert texts(browser, "#chat .message.user") == [questions[0]]
    first = api_answer(page, "default", ("user", questions[0]))
    assert letters(texts(browser, "#chat .message.bot")[0])[:3] == letters(first)[:3]
    assert PACE.fullmatch(texts(browser, "#chat-pace")[0])
    ratios = contrasts(browser, "#title p, #sign-out a, #chat-pace, #chat .message.bot")
    assert len(ratios) == 4
    assert min(ratios) >= 4.5, "the least that WCAG asks of small text"
    box(browser).send_keys(questions[1], Keys.ENTER)
    wait(browser, answered(2))

    # One that gets no answer is a part of what the page sends from now on, with what was said instead.
    box(browser).send_keys("fox " * 410, Keys.ENTER)
    wait(browser, lambda driver: any(NOT_ANSWERED in text for text in texts(driver, "#chat")))
    wait(browser, answered(3))
    box(browser).send_keys(questions[0], Keys.ENTER)
    wait(browser, answered(4))
    browser.find_element(By.CSS_SELECTOR, "#chat button[aria-label=Undo]").click()
    wait(browser, lambda driver: texts(driver, "#message textarea") == [questions[0]])
    wait(browser, answered(3))

    open_tab(browser, "Compare")
    box(browser, "prompt").send_keys(questions[0], Keys.ENTER)
    wait(browser, lambda driver: all(PACE.fullmatch(pace) for pace in texts(driver, ".side .pace")))
    wait(browser, lambda driver: driver.find_elements(By.CSS_SELECTOR, "#prompt button.submit-button"))
    chosen = [field.get_attribute("value") for field in browser.find_elements(By.CSS_SELECTOR, ".side input")]
    assert chosen == ["tiny-base", "default"]
    base = api_answer(page, "tiny-base", ("user", questions[0]))
    left, right = (letters(texts(browser, f"#{side}-said textarea")[0]) for side in ("left", "right"))
    assert (left[:3], right[:3]) == (letters(base)[:3], letters(first)[:3])
    beside = [element.rect for element in browser.find_elements(By.CSS_SELECTOR, ".side")]
    assert beside[0]["y"] == beside[1]["y"]
    check_nothing_sticks_out(browser, 1280)

    resize(browser, 390, 844)
    check_nothing_sticks_out(browser, 390)
    below = [element.rect for element in browser.find_elements(By.CSS_SELECTOR, ".side")]
    assert below[1]["y"] >= below[0]["y"] + below[0]["height"], "one below the other"
    open_tab(browser, "Chat")
    browser.find_element(By.CSS_SELECTOR, "#settings button").click()
    wait(browser, lambda driver: driver.find_element(By.CSS_SELECTOR, "#settings textarea").is_displayed())
    check_nothing_sticks_out(browser, 390)
    written = box(browser).rect
    assert written["x"] >= 0
    assert written["x"] + written["width"] <= 390
    fetched = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert fetched
    assert [url for url in fetched if not url.startswith((page.address, "data:", "blob:"))] == [], "it works offline"
    untyped: Any = browser
    told = [entry["message"] for entry in untyped.get_log("browser") if entry["level"] == "SEVERE"]
    assert [message for message in told if "/login" not in message] == [], "nothing but the refused login"

    # The session ends here, and the key is asked for where the person is. Undo has left a question in the box.
    browser.delete_all_cookies()
    before = len(texts(browser, "#chat .message.bot"))
    box(browser).send_keys(questions[1], Keys.ENTER)
    form = wait(browser, lambda driver: driver.find_element(By.ID, "signed-out"))
    assert "You are signed out" in form.text
    wait(browser, lambda driver: driver.switch_to.active_element.get_attribute("id") == "signed-out-key")
    seen = browser.execute_script("return arguments[0].getBoundingClientRect()", form)
    assert 0 <= seen["left"] <= seen["right"] <= 390
    assert 0 <= seen["top"] <= seen["bottom"] <= 844
    assert min(contrasts(browser, "#signed-out :is(h2, p, label, button)")) >= 4.5
    browser.switch_to.active_element.send_keys("wrong", Keys.ENTER)
    wait(browser, lambda driver: "not the key" in form.text)
    field = browser.find_element(By.ID, "signed-out-key")
    field.clear()
    field.send_keys(KEY, Keys.ENTER)
    wait(browser, answered(before + 1))
    assert texts(browser, "#chat .message.user")[-1] == "".join(questions), "what was sent is sent again"
    assert not browser.find_elements(By.ID, "signed-out")

    # By its key: what an answer has moved just now, a click may miss.
    browser.find_element(By.LINK_TEXT, "Sign out").send_keys(Keys.ENTER)
    wait(browser, lambda driver: driver.title == "Sign in")
    browser.get(page.address)
    wait(browser, lambda driver: driver.title == "Sign in")


@needs_browser
@pytest.mark.parametrize(
    ("tab", "name", "answer"),
    [("Chat", "message", "#chat .message.bot"), ("Compare", "prompt", "#right-said textarea")],
)
def test_a_person_stops_an_answer(
    paced: PacedPage, browser: webdriver.Chrome, tab: str, name: str, answer: str
) -> None:
    resize(browser, 1280, 800)
    browser.get(paced.address)
    box(browser)
    open_tab(browser, tab)
    box(browser, name).send_keys("the quick brown fox", Keys.ENTER)
    paced.step_until(lambda: any(texts(browser, answer)))
    browser.find_element(By.CSS_SELECTOR, f"#{name} button.stop-button").click()
    paced.wait_until_given_up()
    wait(browser, lambda driver: driver.find_elements(By.CSS_SELECTOR, f"#{name} button.submit-button"))
    assert texts(browser, answer)[-1], "what had come stays"
    box(browser, name)  # and the next can be asked

"""The page through the real gradio_client and a real browser."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio_client  # type: ignore[import-untyped]
import openai
import pytest
from gradio_client.exceptions import AuthenticationError  # type: ignore[import-untyped]
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait
from ui import NOT_ANSWERED, conversation

from tests.fixtures_inference import BEARER, KEY, Server, server, tiny_model

__all__ = ["server", "tiny_model"]


@pytest.fixture(scope="module")
def page(server: Server) -> Server:
    server.wait_for_page()
    return server


def api_answer(server: Server, model: str, *messages: tuple[str, str], max_tokens: int = 24) -> str:
    client = openai.OpenAI(base_url=server.address + "/v1", api_key=KEY, max_retries=0)
    turns: Any = [{"role": role, "content": content} for role, content in messages]
    answer = client.chat.completions.create(model=model, messages=turns, temperature=0, max_tokens=max_tokens)
    return answer.choices[0].message.content or ""


# gradio_client


def test_gradio_client_with_the_login(page: Server) -> None:
    for model in ("default", "other", "tiny-base"):
        client = gradio_client.Client(page.address, auth=("anybody", KEY), verbose=False)
        said = client.predict("the quick brown fox", model, "", 0, 24, api_name="/chat")
        assert said == api_answer(page, model, ("user", "the quick brown fox"))


def test_a_client_s_turns_are_one_conversation(page: Server) -> None:
    client = gradio_client.Client(page.address, headers=BEARER, verbose=False)
    client.predict("fox " * 900, "default", "", 0, 24, api_name="/chat")  # refused, so it is no part of it
    first = client.predict("the fox", "default", "", 0, 8, api_name="/chat")
    second = client.predict("and the dog", "other", "", 0, 24, api_name="/chat")
    assert first == api_answer(page, "default", ("user", "the fox"), max_tokens=8)
    turns = [("user", "the fox"), ("assistant", first), ("user", "and the dog")]
    assert second == api_answer(page, "other", *turns)


def test_gradio_client_with_the_header(page: Server) -> None:
    client = gradio_client.Client(page.address, headers=BEARER, verbose=False)
    said = client.predict("the fox", "other", "be a fox", 0, 12, api_name="/chat")
    assert said == api_answer(page, "other", ("system", "be a fox"), ("user", "the fox"), max_tokens=12)


def test_gradio_client_without_the_key(page: Server) -> None:
    with pytest.raises(AuthenticationError):
        gradio_client.Client(page.address, verbose=False)
    with pytest.raises(AuthenticationError):
        gradio_client.Client(page.address, auth=("anybody", "wrong"), verbose=False)


def test_the_answer_streams(page: Server) -> None:
    client = gradio_client.Client(page.address, headers=BEARER, verbose=False)
    job = client.submit("the quick brown fox", "default", "", 0, 24, api_name="/chat")
    whole = job.result(timeout=60)
    parts = job.outputs()
    assert len(parts) > 3
    assert parts[-1] == whole
    assert all(whole.startswith(part) for part in parts)


def test_a_message_that_is_too_long_is_answered_with_the_reason(page: Server) -> None:
    client = gradio_client.Client(page.address, headers=BEARER, verbose=False)
    said = client.predict("fox " * 900, "default", "", 0, 24, api_name="/chat")
    assert "from 1 to 400 are possible here" in str(said)


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


# A browser

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CHROMEDRIVER = shutil.which("chromedriver")

needs_browser = pytest.mark.skipif(
    not (CHROMIUM and CHROMEDRIVER), reason="chromium and chromedriver are not installed (Debian: chromium-driver)"
)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[webdriver.Chrome]:
    assert CHROMIUM
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"):
        options.add_argument(argument)
    options.add_argument("--disable-dev-shm-usage")
    options.add_argument(f"--user-data-dir={tmp_path}/profile")
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


def message_box(browser: webdriver.Chrome) -> WebElement:
    found: WebElement = wait(browser, lambda driver: driver.find_element(By.CSS_SELECTOR, "#message textarea"))
    return found


def said(browser: webdriver.Chrome, who: str) -> list[str]:
    # Read in one step: the page draws an answer anew with every piece of it.
    script = "return [...document.querySelectorAll(arguments[0])].map(element => element.innerText.trim())"
    texts: list[str] = browser.execute_script(script, f"#chat .message.{who}")
    return texts


@needs_browser
def test_a_person_signs_in_and_chats(page: Server, browser: webdriver.Chrome) -> None:
    """Login with a wrong and the right key, two turns, another model, phone width, sign out."""
    resize(browser, 1280, 800)
    browser.get(page.address)
    wait(browser, lambda driver: driver.title == "Sign in")
    browser.find_element(By.ID, "password").send_keys("wrong", Keys.ENTER)
    alert = wait(browser, lambda driver: driver.find_element(By.CSS_SELECTOR, "[role=alert]"))
    assert "not the key" in alert.text
    browser.find_element(By.ID, "password").send_keys(KEY, Keys.ENTER)

    questions = ("the quick brown fox", "and the dog")
    box = message_box(browser)
    box.send_keys(questions[0], Keys.ENTER)
    first = api_answer(page, "default", ("user", questions[0]))
    shown = "".join(first.split())

    def answered(count: int) -> Any:
        """The number of answers, each of them finished: the send button is back."""
        return lambda driver: (
            len(said(driver, "bot")) == count and driver.find_elements(By.CSS_SELECTOR, "button.submit-button")
        )

    wait(browser, answered(1))
    assert said(browser, "user") == [questions[0]]
    assert "".join(said(browser, "bot")[0].split())[:3] == shown[:3]
    message_box(browser).send_keys(questions[1], Keys.ENTER)
    wait(browser, answered(2))

    resize(browser, 390, 844)
    wide = browser.execute_script("return document.documentElement.scrollWidth")
    assert wide <= 390, "nothing sticks out on a phone"
    box = message_box(browser)
    assert box.is_displayed()
    assert box.rect["x"] >= 0
    assert box.rect["x"] + box.rect["width"] <= 390
    # A browser fetches the manifest without its cookie, and the refused login is told there too.
    untyped: Any = browser
    told = [entry["message"] for entry in untyped.get_log("browser") if entry["level"] == "SEVERE"]
    assert [message for message in told if "manifest" not in message.lower() and "/login" not in message] == []

    browser.find_element(By.LINK_TEXT, "Sign out").click()
    wait(browser, lambda driver: driver.title == "Sign in")
    browser.get(page.address)
    wait(browser, lambda driver: driver.title == "Sign in")

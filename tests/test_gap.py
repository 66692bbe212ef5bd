"""How long nobody is answered, measured against a real app over HTTPS."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.endpoint import Endpoint
from scripts.gap import GapWatch
from tests.tiny_app import TinyApp, make_certificate, running_tiny_app

FAILED_REQUESTS = 4


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("certificate") / "app.pem")


@pytest.fixture
def app(certificate: Path) -> Iterator[TinyApp]:
    with running_tiny_app(certificate) as running:
        yield running


def wait_for(watch: GapWatch, more: int) -> None:
    """Until so many more requests were answered."""
    deadline, aim = time.monotonic() + 60, watch.answered + more
    while watch.answered < aim:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_app_that_answers_all_the_time_has_no_gap(app: TinyApp, certificate: Path) -> None:
    seconds: list[float] = []
    # A machine that stands still for a second makes a gap of its own, but not each time.
    while not seconds or (seconds[-1] and len(seconds) < 10):
        with Endpoint(app.url, key=None, certificate=certificate) as endpoint, GapWatch(endpoint) as watch:
            wait_for(watch, 3)
        seconds.append(watch.seconds)
    assert seconds[-1] == 0
    assert set(app.behaviour.seen) == {"GET /ready"}


def test_a_gap_is_measured_from_the_last_answer_to_the_next(app: TinyApp, certificate: Path) -> None:
    with Endpoint(app.url, key=None, certificate=certificate) as endpoint, GapWatch(endpoint) as watch:
        wait_for(watch, 2)
        app.behaviour.gateway_failures = FAILED_REQUESTS
        while app.behaviour.gateway_failures:
            time.sleep(0.01)
        wait_for(watch, 2)  # one may have been answered before
    # Each of the failed requests, and the one that was answered, came a tenth of a second after the one before.
    assert watch.seconds >= FAILED_REQUESTS * 0.1


def test_an_app_that_is_not_back_at_the_end_did_not_answer_to_the_end(app: TinyApp, certificate: Path) -> None:
    with Endpoint(app.url, key=None, certificate=certificate) as endpoint:
        with GapWatch(endpoint) as watch:
            wait_for(watch, 1)
            app.behaviour.gateway_failures = 1000
            while app.behaviour.gateway_failures == 1000:
                time.sleep(0.01)
        assert watch.seconds > 0
        asked = len(app.behaviour.seen)
        time.sleep(0.3)
        assert len(app.behaviour.seen) == asked, "nobody asks after the end"


def test_an_interruption_does_not_wait_for_an_answer(app: TinyApp, certificate: Path) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        Endpoint(app.url, key=None, certificate=certificate) as endpoint,
        GapWatch(endpoint) as watch,
    ):
        wait_for(watch, 1)
        raise KeyboardInterrupt

"""The proof and the HTTP client below it, against a real app over HTTPS that can be told to do wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts import comparison, proof
from scripts.comparison import Earlier, ExpectedAnswer
from scripts.endpoint import Answer, Endpoint
from scripts.errors import CloudError, NotSignedIn, ServiceFault, Throttled, Unreachable, Untrusted
from tests.tiny_app import KEY, TinyApp, make_certificate, running_tiny_app

MODELS = ["demo-base", "default"]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("certificate") / "app.pem")


@pytest.fixture
def app(certificate: Path) -> Iterator[TinyApp]:
    with running_tiny_app(certificate) as running:
        yield running


@pytest.fixture
def endpoint(app: TinyApp, certificate: Path) -> Iterator[Endpoint]:
    with Endpoint(app.url, key=KEY, certificate=certificate, answer_seconds=10) as client:
        yield client


def failures(result: proof.Proof) -> dict[str, str]:
    return {check.name: check.detail for check in result.failures}


def test_a_good_app_passes_every_check(app: TinyApp, endpoint: Endpoint) -> None:
    app.behaviour.answers = {"What is it?": "It is a lighthouse."}
    seen: list[str] = []
    result = proof.prove(
        endpoint,
        release="r1",
        models=MODELS,
        expected=[ExpectedAnswer("What is it?", "lighthouse"), ExpectedAnswer("Anything?", "")],
        on_check=lambda check: seen.append(check.name),
    )
    assert failures(result) == {}
    assert result.passed
    assert seen == [check.name for check in result.checks]
    assert len(seen) == 8
    details = {check.name: check.detail for check in result.checks}
    assert details["a chat without a key gets 401"] == "HTTP 401"
    assert details["the answer to 'What is it?' contains 'lighthouse'"] == "It is a lighthouse."
    assert details["an authenticated chat answers"].startswith("4 tokens by default")
    document = result.to_json()
    assert document["passed"] is True
    assert {"name", "passed", "detail", "seconds"} == set(document["checks"][0])
    assert all(request["temperature"] == 0 for request in app.behaviour.requests if request["max_tokens"] != 1)


def test_an_app_that_anybody_may_use_fails(app: TinyApp, endpoint: Endpoint) -> None:
    app.behaviour.asks_for_key = False
    found = failures(proof.prove(endpoint, release="r1", models=MODELS))
    assert found == dict.fromkeys(
        ["a chat without a key gets 401", "a chat with a wrong key gets 401"], "the app answered: anybody may use it"
    )


def test_every_wrong_thing_is_found_in_one_proof(app: TinyApp, endpoint: Endpoint) -> None:
    app.behaviour.release = "older"
    app.behaviour.models = ["demo-base"]
    app.behaviour.usage = False
    app.behaviour.ends_with_done = False
    found = failures(proof.prove(endpoint, release="r1", models=MODELS, expected=[ExpectedAnswer("Who?", "Ada")]))
    for streamed in ("a streamed chat ends with [DONE]", "the answer to 'Who?' contains 'Ada'"):
        assert found.pop(streamed).endswith("its stream ended without [DONE].")
    assert found == {
        "ready under the release": "/ready names the release older, not r1",
        "models are listed": "not offered: default; offered: demo-base",
        "an authenticated chat answers": "the answer carries no usage (prompt, completion and total tokens)",
    }


def test_an_empty_answer_fails(app: TinyApp, endpoint: Endpoint) -> None:
    app.behaviour.answers = {"Say hello.": " ", "Who?": ""}
    found = failures(proof.prove(endpoint, release="r1", models=MODELS, expected=[ExpectedAnswer("Who?", "")]))
    assert found == {
        "an authenticated chat answers": "the answer is empty",
        "a streamed chat ends with [DONE]": "the streamed answer is empty",
        "the answer to 'Who?'": "the answer of default is empty",
    }


def test_an_app_that_failed_to_load_says_why(app: TinyApp, endpoint: Endpoint) -> None:
    app.behaviour.status, app.behaviour.error = "failed", "no folder models/x"
    found = failures(proof.prove(endpoint, release="r1", models=MODELS))
    assert found == {"ready under the release": "/ready says failed (HTTP 503): no folder models/x"}


def test_a_gateway_without_a_replica_gets_another_chance(app: TinyApp, endpoint: Endpoint) -> None:
    app.behaviour.gateway_failures = 1
    result = proof.prove(endpoint, release="r1", models=MODELS)
    assert result.passed
    assert result.checks[0].detail == "release r1 (attempt 2)"


def test_a_key_that_has_asked_too_much_is_no_fault_of_the_release(app: TinyApp, endpoint: Endpoint) -> None:
    app.behaviour.refusals = 1
    result = proof.prove(endpoint, release="r1", models=MODELS)
    assert result.passed
    assert [check.name for check in result.checks if check.detail.endswith("(attempt 2)")] == [
        "an authenticated chat answers"
    ]


def test_a_refusal_carries_how_long_to_wait(app: TinyApp, endpoint: Endpoint) -> None:
    app.behaviour.refusals = 1
    with pytest.raises(Throttled, match="may send 1 request per minute") as caught:
        endpoint.chat("hello")
    assert (caught.value.status, caught.value.retry_after_seconds) == (429, 1.0)


def test_a_wrong_key_is_named_as_such(app: TinyApp, certificate: Path) -> None:
    with Endpoint(app.url, key="wrong", certificate=certificate) as stranger:
        result = proof.prove(stranger, release="r1", models=MODELS)
    found = failures(result)
    assert found["ready under the release"] == "/ready names the release None, not r1"
    assert "HTTP 401, wrong or missing key" in found["an authenticated chat answers"]


# The release before and the new one


def measured(text: str, tokens_per_second: float) -> Answer:
    """An answer of ten tokens."""
    seconds = 10 / tokens_per_second
    return Answer(text, "default", "stop", {"completion_tokens": 10}, seconds, seconds / 2)


EXPECTED = (ExpectedAnswer("Who?", "Ada"), ExpectedAnswer("Where?", "", "demo-base"))


def test_the_release_in_use_is_asked_every_prompt(app: TinyApp, endpoint: Endpoint) -> None:
    app.behaviour.answers = {"Who?": "Ada it was"}
    taken = comparison.take(endpoint, "r1", EXPECTED)
    assert taken is not None
    assert [answer and answer.text.strip() for answer in taken.answers] == ["Ada it was", "demo-base says hello"]
    assert [request["model"] for request in app.behaviour.requests] == ["default", "demo-base"]
    assert {request["temperature"] for request in app.behaviour.requests} == {0}
    for answer in taken.answers:
        assert answer is not None
        assert answer.first_seconds is not None
        assert 0 < answer.first_seconds <= answer.seconds
        assert answer.tokens_per_second is not None


def test_an_answer_that_the_release_in_use_does_not_give_is_left_out(app: TinyApp, endpoint: Endpoint) -> None:
    app.behaviour.models = ["default"]
    taken = comparison.take(endpoint, "r1", EXPECTED)
    assert taken is not None
    assert taken.answers[0] is not None
    assert taken.answers[1] is None, "this release had no such model yet"


def test_an_app_that_does_not_serve_the_release_in_use_is_not_asked(app: TinyApp, endpoint: Endpoint) -> None:
    assert comparison.take(endpoint, "another", EXPECTED) is None
    app.behaviour.gateway_failures = 1
    assert comparison.take(endpoint, "r1", EXPECTED) is None
    assert app.behaviour.requests == []


def test_both_answers_stand_beside_each_other(app: TinyApp, endpoint: Endpoint) -> None:
    app.behaviour.answers = {"Who?": "It was Eve"}
    earlier = Earlier("r0", (measured("Ada", 20.0), None))
    result = proof.prove(endpoint, release="r1", models=MODELS, expected=EXPECTED, earlier=earlier)
    assert failures(result) == {"the answer to 'Who?' contains 'Ada'": "the answer of default is 'It was Eve'"}
    assert [each.passed for each in result.comparisons] == [False, True]
    assert result.rates[0] == pytest.approx(20.0)
    document = result.to_json()
    assert document["earlier_release"] == "r0"
    assert document["tokens_per_second"]["earlier"] == 20.0
    first, second = document["answers"]
    assert first["earlier"] == {
        "text": "Ada", "tokens": 10, "tokens_per_second": 20.0, "first_token_seconds": 0.25, "seconds": 0.5
    }  # fmt: skip
    assert first["new"]["text"].strip() == "It was Eve"
    assert (first["passed"], first["contains"]) == (False, "Ada")
    assert (second["earlier"], second["model"], second["passed"]) == (None, "demo-base", True)


def test_a_release_that_is_quick_enough_passes(app: TinyApp, endpoint: Endpoint) -> None:
    earlier = Earlier("r0", (measured("Ada", 0.001),))
    result = proof.prove(endpoint, release="r1", models=MODELS, expected=EXPECTED[1:], earlier=earlier, slowest=0.5)
    assert failures(result) == {}
    assert result.checks[-1].name == "at least 0.5 times as many tokens in a second as release r0"
    assert "times the 0.0 before" in result.checks[-1].detail


def test_a_release_that_is_too_slow_is_measured_again_and_fails(app: TinyApp, endpoint: Endpoint) -> None:
    earlier = Earlier("r0", (measured("Ada", 1e6),))
    asked = EXPECTED[1:]
    result = proof.prove(endpoint, release="r1", models=MODELS, expected=asked, earlier=earlier, slowest=0.5)
    assert list(failures(result)) == ["at least 0.5 times as many tokens in a second as release r0"]
    assert "times the 1000000.0 before" in result.failures[0].detail
    questions = [request["messages"][-1]["content"] for request in app.behaviour.requests]
    assert questions.count("Where?") == 3


def test_a_speed_that_was_not_measured_is_no_condition(app: TinyApp, endpoint: Endpoint) -> None:
    earlier = Earlier("r0", (None,))
    result = proof.prove(endpoint, release="r1", models=MODELS, expected=EXPECTED[1:], earlier=earlier, slowest=0.5)
    assert result.passed
    assert result.checks[-1].detail == "not measured: the earlier release gave no answer"


def test_an_app_that_breaks_off_is_not_taken_for_a_slow_one(app: TinyApp, endpoint: Endpoint) -> None:
    app.behaviour.breaks_off_with = "out of memory"
    earlier = Earlier("r0", (measured("Ada", 0.001),))
    result = proof.prove(endpoint, release="r1", models=MODELS, expected=EXPECTED[1:], earlier=earlier, slowest=0.5)
    found = failures(result)
    assert "broke off: out of memory" in found["the answer to 'Where?' by demo-base"]
    speed = found["at least 0.5 times as many tokens in a second as release r0"]
    assert speed == "not measured: this release gave no answer"


def test_readiness_tells_the_holder_of_the_key_everything(app: TinyApp, endpoint: Endpoint) -> None:
    app.behaviour.status, app.behaviour.phase = "loading", "reading weights"
    readiness = endpoint.ready()
    assert (readiness.http_status, readiness.status, readiness.phase) == (503, "loading", "reading weights")
    assert (readiness.release, readiness.models) == ("r1", ("demo-base", "default"))
    assert readiness.ledger == {"wait_seconds": 1.5, "bytes_read": 10}
    with endpoint.with_key(None) as stranger:
        assert stranger.ready().release is None


def test_a_chat_streams_its_pieces_and_names_its_model(app: TinyApp, endpoint: Endpoint) -> None:
    pieces: list[str] = []
    answer = endpoint.stream_chat("Hello?", pieces.append, model="demo-base")
    assert pieces == ["demo-base ", "says ", "hello "]
    assert (answer.text, answer.model, answer.finish_reason) == ("demo-base says hello ", "demo-base", "stop")
    assert answer.usage["total_tokens"] == 7
    assert app.behaviour.requests[-1]["messages"] == [{"role": "user", "content": "Hello?"}]


def test_a_stream_that_says_it_failed_is_an_error(app: TinyApp, endpoint: Endpoint) -> None:
    app.behaviour.breaks_off_with = "out of memory"
    with pytest.raises(ServiceFault, match="broke off: out of memory"):
        endpoint.stream_chat("Hello?", lambda piece: None)


def test_an_unknown_model_is_refused_with_the_servers_words(app: TinyApp, endpoint: Endpoint) -> None:
    with pytest.raises(CloudError, match="the model nobody does not exist") as caught:
        endpoint.stream_chat("Hello?", lambda piece: None, model="nobody")
    assert caught.value.status == 404
    assert "GET /v1/models" in caught.value.next_step


def test_a_certificate_that_is_not_trusted_is_no_mere_failure_to_connect(app: TinyApp) -> None:
    with Endpoint(app.url, key=KEY) as client, pytest.raises(Untrusted, match="certificate"):
        client.models()


def test_an_address_where_nobody_listens_is_unreachable(certificate: Path) -> None:
    with running_tiny_app(certificate) as gone:
        url = gone.url
    with Endpoint(url, key=KEY, certificate=certificate) as client, pytest.raises(Unreachable, match="does not answer"):
        client.models()


def test_another_server_at_the_address_is_told_apart(app: TinyApp, endpoint: Endpoint) -> None:
    app.behaviour.gateway_failures = 1
    with pytest.raises(ServiceFault, match="which is not how the app answers") as caught:
        endpoint.models()
    assert caught.value.status == 503


def test_a_401_names_the_variable_to_set(app: TinyApp, endpoint: Endpoint) -> None:
    with endpoint.with_key("wrong") as stranger, pytest.raises(NotSignedIn) as caught:
        stranger.models()
    assert "INFERENCE_API_KEY" in caught.value.next_step

"""What a job shows and asks: workflow commands, summary, outputs, the OIDC assertion from a real HTTP server."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from scripts import github
from scripts.errors import InferopsError, NotSignedIn, Problem

Answer = tuple[int, bytes]


class TokenService(ThreadingHTTPServer):
    """GitHub's token service as a job sees it: gives the answers in turn, the last one for ever."""

    daemon_threads = True

    def __init__(self, answers: list[Answer]) -> None:
        self.answers = answers
        self.requests: list[tuple[dict[str, list[str]], str | None]] = []
        super().__init__(("127.0.0.1", 0), TokenRequest)


class TokenRequest(BaseHTTPRequestHandler):
    server: TokenService

    def do_GET(self) -> None:
        self.server.requests.append((parse_qs(urlsplit(self.path).query), self.headers["Authorization"]))
        status, body = self.server.answers.pop(0) if len(self.server.answers) > 1 else self.server.answers[0]
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        return None


@pytest.fixture
def token_service() -> Iterator[TokenService]:
    server = TokenService([(200, b'{"value": "assertion-1"}')])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def job(tmp_path: Path, **more: str) -> github.Job:
    return github.current_job(
        {
            "GITHUB_ACTIONS": "true",
            "GITHUB_STEP_SUMMARY": str(tmp_path / "summary"),
            "GITHUB_OUTPUT": str(tmp_path / "output"),
            "GITHUB_SERVER_URL": "https://github.example",
            "GITHUB_REPOSITORY": "someone/models",
            "GITHUB_RUN_ID": "42",
            **more,
        }
    )


def job_with(service: TokenService, tmp_path: Path) -> github.Job:
    address = f"http://127.0.0.1:{service.server_port}/token?api-version=2.0"
    return job(tmp_path, ACTIONS_ID_TOKEN_REQUEST_URL=address, ACTIONS_ID_TOKEN_REQUEST_TOKEN="request-token")


def test_outside_a_job_everything_does_nothing(tmp_path: Path) -> None:
    outside = github.current_job({"GITHUB_STEP_SUMMARY": str(tmp_path / "summary"), "HOME": "/home/someone"})
    stream = io.StringIO()
    outside.add_summary("text")
    outside.set_outputs({"a": "b"})
    outside.mask("secret", stream)
    outside.annotate([Problem("a", "", None, "b", "c")], stream)
    assert stream.getvalue() == ""
    assert list(tmp_path.iterdir()) == []
    assert not outside.is_running
    assert outside.run_url is None
    assert outside.actor is None


def test_who_started_the_job(tmp_path: Path) -> None:
    assert job(tmp_path, GITHUB_ACTOR="octocat").actor == "octocat"
    assert github.current_job({"GITHUB_ACTOR": "octocat"}).actor is None


def test_the_run_url_names_the_attempt(tmp_path: Path) -> None:
    assert job(tmp_path).run_url == "https://github.example/someone/models/actions/runs/42"
    assert job(tmp_path, GITHUB_RUN_ATTEMPT="2").run_url == (
        "https://github.example/someone/models/actions/runs/42/attempts/2"
    )


def test_the_assertion_is_asked_for_anew_each_time(token_service: TokenService, tmp_path: Path) -> None:
    token_service.answers = [(200, b'{"value": "one"}'), (200, b'{"value": "two"}')]
    running = job_with(token_service, tmp_path)
    assert running.has_oidc
    assert (running.oidc_assertion(), running.oidc_assertion()) == ("one", "two")
    query, authorization = token_service.requests[0]
    assert query == {"api-version": ["2.0"], "audience": ["api://AzureADTokenExchange"]}
    assert authorization == "Bearer request-token"


def test_a_transient_failure_is_tried_again(token_service: TokenService, tmp_path: Path) -> None:
    token_service.answers = [(503, b""), (200, b"not json"), (429, b""), (200, b'{"value": "late"}')]
    pauses: list[float] = []
    assert job_with(token_service, tmp_path).oidc_assertion(sleep=pauses.append) == "late"
    assert pauses == [1, 2, 4]


@pytest.mark.parametrize(("answer", "requests"), [((403, b"no"), 1), ((500, b"oops"), 4)])
def test_a_failure_that_stays_names_the_permission(
    token_service: TokenService, tmp_path: Path, answer: Answer, requests: int
) -> None:
    token_service.answers = [answer]
    with pytest.raises(NotSignedIn, match=f"HTTP {answer[0]}") as caught:
        job_with(token_service, tmp_path).oidc_assertion(sleep=lambda seconds: None)
    assert "id-token: write" in caught.value.next_step
    assert "request-token" not in str(caught.value)
    assert len(token_service.requests) == requests


def test_no_answer_at_all_is_an_error_without_a_traceback(token_service: TokenService, tmp_path: Path) -> None:
    unused = ThreadingHTTPServer(("127.0.0.1", 0), TokenRequest)
    unused.server_close()
    nobody = job(
        tmp_path,
        ACTIONS_ID_TOKEN_REQUEST_URL=f"http://127.0.0.1:{unused.server_port}/",
        ACTIONS_ID_TOKEN_REQUEST_TOKEN="request-token",
    )
    with pytest.raises(NotSignedIn, match="no answer"):
        nobody.oidc_assertion(sleep=lambda seconds: None)


def test_a_job_without_the_permission_says_so(tmp_path: Path) -> None:
    assert not job(tmp_path).has_oidc
    with pytest.raises(NotSignedIn, match="cannot ask"):
        job(tmp_path).oidc_assertion()


def test_a_problem_becomes_an_annotation_at_its_line(tmp_path: Path) -> None:
    stream = io.StringIO()
    problems = [
        Problem("environments/a,b/environment.yaml", "line 3, cloud", "'x'", "100% wrong\nin two lines", "Fix it."),
        Problem("infra/x.json", "storageAccountName", None, "too long", "Shorten it."),
        Problem(None, "", None, "no environment", "Name one."),
    ]
    job(tmp_path).annotate(problems, stream)
    assert stream.getvalue().splitlines() == [
        "::error file=environments/a%2Cb/environment.yaml,line=3::environments/a,b/environment.yaml: line 3, cloud: "
        "100%25 wrong%0Ain two lines (found 'x'). Fix it.",
        "::error file=infra/x.json::infra/x.json: storageAccountName: too long. Shorten it.",
        "::error::no environment. Name one.",
    ]


def test_an_error_is_shown_with_its_next_step(tmp_path: Path) -> None:
    stream = io.StringIO()
    job(tmp_path).annotate_error(InferopsError("It failed: badly.", "Try again.", details=["why"]), stream)
    assert stream.getvalue() == "::error title=It failed%3A badly.::It failed: badly.%0A  why%0ANext: Try again.\n"


def test_every_line_of_a_secret_is_masked(tmp_path: Path) -> None:
    stream = io.StringIO()
    job(tmp_path).mask("first%\n\nsecond\n", stream)
    assert stream.getvalue() == "::add-mask::first%25\n::add-mask::second\n"


def test_outputs_hold_any_text(tmp_path: Path) -> None:
    job(tmp_path).set_outputs({"plain": "a=b", "lines": "one\nEOF\nthree"})
    first, opening, *body, closing = (tmp_path / "output").read_text().splitlines()
    assert first == "plain=a=b"
    name, _, delimiter = opening.partition("<<")
    assert (name, body, closing) == ("lines", ["one", "EOF", "three"], delimiter)
    assert delimiter not in body


def test_a_summary_is_appended_and_never_grows_past_what_github_shows(tmp_path: Path) -> None:
    running = job(tmp_path)
    summary = tmp_path / "summary"
    running.add_summary("# first")
    running.add_summary("second\n\n")
    assert summary.read_text() == "# first\nsecond\n"
    running.add_summary("\n".join(f"line {number} é" for number in range(100_000)))
    assert summary.stat().st_size <= github.SUMMARY_BYTES
    lines = summary.read_text().splitlines()
    assert lines[-1].startswith("_The rest does not fit")
    assert lines[-3].endswith(" é")
    size = summary.stat().st_size
    running.add_summary("one more " * 1000)
    assert size <= summary.stat().st_size <= github.SUMMARY_BYTES
    summary.read_text()

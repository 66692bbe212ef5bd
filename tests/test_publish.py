"""What is published, and what of a hand-written configuration is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from scripts import github, publish
from scripts.deployment import Outputs
from scripts.errors import BadInput, InferopsError
from scripts.proof import Check, Proof
from scripts.publish import Record
from scripts.release import Release

OUTPUTS = Outputs(
    subscription_id="10c0a1de-0000-4000-8000-00000000000b",
    resource_group_name="rg-inference_(dev).x",
    storage_account_name="aistorage12345",
    file_share_name="aifileshare12345",
    aca_app_name="aiacaapp12345",
    aca_app_endpoint="https://aiacaapp12345.example.azurecontainerapps.io",
)
CONFIG = {
    "SUBSCRIPTION_ID": OUTPUTS.subscription_id,
    "RESOURCE_GROUP_NAME": OUTPUTS.resource_group_name,
    "STORAGE_ACCOUNT_NAME": OUTPUTS.storage_account_name,
    "FILE_SHARE_NAME": OUTPUTS.file_share_name,
    "ACA_APP_NAME": OUTPUTS.aca_app_name,
    "ACA_APP_ENDPOINT": OUTPUTS.aca_app_endpoint,
}
RECORD = Record(
    environment="dev",
    release=Release("abc", "c0ffee", "2026-11-21T10:00:00Z", (), "model-cache/base", {"default": "models/x"}),
    timings_seconds={"upload": 1.23456, "start": 20.0},
    proof=Proof((Check("a chat answers", True, "4 tokens | <b>", 0.5), Check("no key", False, "answered\n200", 0.1))),
    run_url="https://github.example/o/r/actions/runs/1",
)
NO_JOB = github.current_job({})


def problems(path: Path) -> list[tuple[str, str | None, str]]:
    with pytest.raises(BadInput) as caught:
        publish.read_config(path)
    assert all(problem.file == str(path) and problem.next_step for problem in caught.value.problems)
    return [(problem.where, problem.value, problem.message) for problem in caught.value.problems]


def test_the_configuration_has_exactly_six_keys_and_reads_back(tmp_path: Path) -> None:
    config, record = publish.write(tmp_path / "infra", OUTPUTS, RECORD, NO_JOB)
    assert (config.name, record.name) == ("inference.config.json", "deployment.json")
    assert json.loads(config.read_text()) == CONFIG
    assert publish.read_config(config) == OUTPUTS
    assert sorted(path.name for path in (tmp_path / "infra").iterdir()) == ["deployment.json", "inference.config.json"]


def test_the_record_tells_a_machine_the_rest(tmp_path: Path) -> None:
    _, record = publish.write(tmp_path, OUTPUTS, RECORD, NO_JOB)
    document = json.loads(record.read_text())
    assert document == {
        "environment": "dev",
        "release": "abc",
        "commit": "c0ffee",
        "time": "2026-11-21T10:00:00Z",
        "base": "model-cache/base",
        "adapters": {"default": "models/x"},
        "timings_seconds": {"upload": 1.235, "start": 20.0},
        "proof": {
            "passed": False,
            "checks": [
                {"name": "a chat answers", "passed": True, "detail": "4 tokens | <b>", "seconds": 0.5},
                {"name": "no key", "passed": False, "detail": "answered\n200", "seconds": 0.1},
            ],
            "earlier_release": None,
            "tokens_per_second": {"earlier": None, "new": None},
            "answers": [],
        },
        "run_url": "https://github.example/o/r/actions/runs/1",
    }


def test_a_second_publishing_replaces_both_files(tmp_path: Path) -> None:
    publish.write(tmp_path, OUTPUTS, RECORD, NO_JOB)
    moved = replace(OUTPUTS, aca_app_endpoint="https://moved.example")
    config, record = publish.write(tmp_path, moved, replace(RECORD, proof=None, run_url=None), NO_JOB)
    assert publish.read_config(config) == moved
    assert json.loads(record.read_text())["proof"] is None


def test_a_job_gets_outputs_and_a_summary(tmp_path: Path) -> None:
    job = github.current_job(
        {
            "GITHUB_ACTIONS": "true",
            "GITHUB_OUTPUT": str(tmp_path / "output"),
            "GITHUB_STEP_SUMMARY": str(tmp_path / "summary"),
        }
    )
    publish.write(tmp_path, OUTPUTS, RECORD, job)
    lines = (tmp_path / "output").read_text().splitlines()
    assert dict(line.split("=", 1) for line in lines) == {**CONFIG, "RELEASE": "abc"}
    summary = (tmp_path / "summary").read_text()
    assert "### dev serves release abc" in summary
    assert OUTPUTS.aca_app_endpoint in summary
    assert "| ✅ | a chat answers | 4 tokens \\| &lt;b> | 0.5 |" in summary
    assert "| ❌ | no key | answered 200 | 0.1 |" in summary


def test_a_folder_that_cannot_be_written_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "infra").write_text("a file where a folder should be")
    with pytest.raises(InferopsError, match="could not be written"):
        publish.write(tmp_path / "infra", OUTPUTS, RECORD, NO_JOB)
    (tmp_path / "taken" / "inference.config.json").mkdir(parents=True)
    with pytest.raises(InferopsError, match=r"inference\.config\.json could not be written"):
        publish.write(tmp_path / "taken", OUTPUTS, RECORD, NO_JOB)
    assert sorted(path.name for path in (tmp_path / "taken").iterdir()) == ["deployment.json", "inference.config.json"]


def test_a_hand_written_file_may_have_a_byte_order_mark_and_a_slash(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    config = {**CONFIG, "ACA_APP_ENDPOINT": CONFIG["ACA_APP_ENDPOINT"] + "/"}
    path.write_text("\ufeff" + json.dumps(config), encoding="utf-8")
    assert publish.read_config(path) == OUTPUTS


def test_every_problem_of_a_hand_written_file_is_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(
        """{
        "SUBSCRIPTION_ID": "<subscription_id>",
        "resource_group_name": "rg",
        "STORAGE_ACCOUNT_NAME": "Upper",
        "FILE_SHARE_NAME": 5,
        "ACA_APP_NAME": "a--b",
        "ACA_APP_ENDPOINT": "http://x.example",
        "ACA_APP_ENDPOINT": "https://x.example/chat",
        "MORE": {"a": 1}
        }"""
    )
    assert problems(path) == [
        ("resource_group_name", None, "is not a key of this file"),
        ("ACA_APP_ENDPOINT", None, "is given more than once"),
        ("MORE", None, "is not a key of this file"),
        ("RESOURCE_GROUP_NAME", None, "is missing"),
        ("SUBSCRIPTION_ID", "'<subscription_id>'", "is still a placeholder"),
        (
            "STORAGE_ACCOUNT_NAME",
            "'Upper'",
            "is not a storage account's name (3 to 24 lower-case letters and digits)",
        ),
        ("FILE_SHARE_NAME", "5", "is not text"),
        ("ACA_APP_NAME", "'a--b'", "is not a container app's name"),
        ("ACA_APP_ENDPOINT", "'http://x.example'", "is not the app's address (https://...)"),
        ("ACA_APP_ENDPOINT", "'https://x.example/chat'", "is not the app's address (https://...)"),
    ]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", ("line 1, column 1", None, "is not JSON: expecting value")),
        (b'{\n"A": 1,}', ("line 2, column 8", None, None)),
        (b"[]", ("", None, "is not a JSON object")),
        (b'"text"', ("", None, "is not a JSON object")),
        (b"\xff\xfe\x00", ("", None, "cannot be read: it is not UTF-8 text")),
    ],
)
def test_a_file_that_is_no_json_object_is_told_as_such(
    tmp_path: Path, content: bytes, found: tuple[str, str | None, str | None]
) -> None:
    path = tmp_path / "mine.json"
    path.write_bytes(content)
    [(where, value, message)] = problems(path)
    assert (where, value) == found[:2]
    assert message == found[2] or (found[2] is None and message.startswith("is not JSON"))


def test_a_missing_file_is_named_with_the_keys_to_write(tmp_path: Path) -> None:
    assert problems(tmp_path / "nowhere.json") == [("", None, "there is no such file")]
    assert problems(tmp_path) == [("", None, "cannot be read: Is a directory")]

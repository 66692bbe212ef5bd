"""The command as typed: help, exit codes, and bad input, all of it said at once and before anything is contacted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import checkout

COMMAND = Path(sys.executable).parent / "inferops"
VERBS = ["what-if", "provision", "deploy", "rollback", "history", "diff", "gc", "pull"]
VERBS += ["restart", "status", "chat", "logs", "publish", "environments"]


def run(root: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("GITHUB_", "ACTIONS_"))}
    # Whatever is contacted by mistake is not there.
    inherited["INFEROPS_STAND_IN"] = str(root / "no-stand-in.json")
    result = subprocess.run(
        [str(COMMAND), *arguments], cwd=root, env=inherited | variables, capture_output=True, text=True, timeout=60
    )
    assert "Traceback" not in result.stdout + result.stderr
    return result


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkout(tmp_path_factory.mktemp("cli") / "checkout")


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(root: Path, verb: str) -> None:
    result = run(root, verb, "--help")
    assert result.returncode == 0
    assert result.stdout.startswith(f"Usage: inferops {verb}")


def test_help_lists_every_verb_and_loads_no_sdk(root: Path) -> None:
    shown = run(root, "--help").stdout
    assert all(verb in shown for verb in VERBS)
    assert "..." not in shown.partition("Commands:")[2], "a verb's first sentence is longer than its line"
    program = (
        "import sys, scripts.cli; sys.exit(any(name.startswith(('azure', 'httpx', 'yaml')) for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0


def test_an_unknown_environment_is_named_with_those_that_there_are(root: Path) -> None:
    result = run(root, "what-if", "locl")
    assert result.returncode == 2
    assert "'locl'" in result.stderr
    assert "local" in result.stderr


def test_two_problems_are_told_at_once_with_their_lines(tmp_path: Path) -> None:
    root = checkout(tmp_path / "checkout")
    file = root / "environments" / "local" / "environment.yaml"
    file.write_text(file.read_text().replace("resource_group:", "resource_grp:").replace("cloud: local", "cloud: azur"))
    parameters = root / "environments" / "local" / "inference.parameters.json"
    document = json.loads(parameters.read_text())
    document["parameters"] |= {"maximumInstancCount": {"value": 1}, "cpu": {"value": []}}
    parameters.write_text(json.dumps(document, indent=2))
    for verb in ("what-if", "provision", "deploy", "status"):
        result = run(root, verb, "local")
        assert result.returncode == 2, result.stderr
        for word in ("resource_grp", "azur", "line ", "maximumInstancCount", "maximumInstanceCount", "cpu"):
            assert word in result.stderr, result.stderr


def test_placeholders_are_named_by_a_verb_and_skipped_by_the_list(root: Path) -> None:
    result = run(root, "what-if", "example")
    assert result.returncode == 2
    assert "identity.deploy_client" in result.stderr
    listed = run(root, "environments", "--json")
    assert listed.returncode == 0
    assert "placeholder" in json.loads(listed.stdout)["skipped"]["example"]


def test_a_stand_in_that_does_not_run_is_said(root: Path) -> None:
    result = run(root, "status", "local")
    assert result.returncode == 2
    assert "make local" in result.stderr


def test_an_error_is_a_document_too(root: Path) -> None:
    result = run(root, "status", "local", "--json")
    assert json.loads(result.stdout)["error"]["next_step"]
    usage = run(root, "deploy", "--json")
    assert usage.returncode == 2
    assert "ENVIRONMENT" in json.loads(usage.stdout)["error"]["message"]


@pytest.mark.parametrize(
    "arguments",
    [(), ("deploy",), ("deploy", "local", "--no-such"), ("chat", "local"), ("logs", "local", "--tail", "x")],
)
def test_usage_errors_exit_2(root: Path, arguments: tuple[str, ...]) -> None:
    assert run(root, *arguments).returncode == 2


@pytest.mark.parametrize("key", ["key-with-a-line-end\n", "k\u00eby-of-the-tests-of-the-command"])
@pytest.mark.parametrize("verb", ["what-if", "status"])
def test_a_key_that_no_request_can_carry_is_refused_and_never_shown(root: Path, key: str, verb: str) -> None:
    result = run(root, verb, "local", INFERENCE_API_KEY=key)
    assert result.returncode == 2
    assert "INFERENCE_API_KEY" in result.stderr
    assert key.strip() not in result.stderr + result.stdout


def test_a_key_that_is_too_short_is_named_by_its_variable(root: Path) -> None:
    result = run(root, "provision", "local", INFERENCE_API_KEY="short-key")
    assert result.returncode == 2
    assert "INFERENCE_API_KEY: the key must be at least 16 characters" in result.stderr
    assert "short-key" not in result.stderr


def test_named_keys_that_cannot_be_are_refused_with_the_first_and_never_shown(root: Path) -> None:
    given = {"INFERENCE_API_KEY": "line\n", "INFERENCE_API_KEYS": "ci=key-of-ci,a-key-of-16-and-more-characters"}
    for verb in ("what-if", "provision"):
        result = run(root, verb, "local", **given)
        assert result.returncode == 2
        for told in ("INFERENCE_API_KEY: the key has", "INFERENCE_API_KEYS: entry 1", "INFERENCE_API_KEYS: entry 2"):
            assert told in result.stderr
        assert "key-of-ci" not in result.stderr
        assert "16-and-more" not in result.stderr


def test_a_named_key_may_not_be_the_first_and_not_stand_beside_a_vault(tmp_path: Path) -> None:
    key = "a-key-of-16-and-more-characters"
    root = checkout(tmp_path / "checkout")
    result = run(root, "provision", "local", INFERENCE_API_KEY=key, INFERENCE_API_KEYS=f"ci={key}")
    assert result.returncode == 2
    assert "INFERENCE_API_KEYS: gives ci the endpoint's first key" in result.stderr
    file = root / "environments" / "local" / "inference.parameters.json"
    document = json.loads(file.read_text())
    document["parameters"]["apiKeys"] = {"reference": {"keyVault": {"id": "/subscriptions/s"}, "secretName": "keys"}}
    file.write_text(json.dumps(document))
    result = run(root, "provision", "local", INFERENCE_API_KEY=key, INFERENCE_API_KEYS=f"ci={key[1:]}")
    assert result.returncode == 2
    assert "INFERENCE_API_KEYS: the parameter apiKeys takes these keys from a Key Vault" in result.stderr


def test_problems_of_the_template_the_environment_and_the_key_are_told_at_once(tmp_path: Path) -> None:
    root = checkout(tmp_path / "checkout")
    (root / "infra" / "provision" / "inference.bicep").unlink()
    file = root / "environments" / "local" / "environment.yaml"
    file.write_text(file.read_text() + "locaton: x\n")
    result = run(root, "what-if", "local", INFERENCE_API_KEY="line\n")
    assert result.returncode == 2
    for word in ("inference.bicep", "locaton", "INFERENCE_API_KEY"):
        assert word in result.stderr, result.stderr


@pytest.mark.parametrize("arguments", [("what-if", "local"), ("environments",)])
def test_another_folder_is_not_taken_for_the_repository(root: Path, arguments: tuple[str, ...]) -> None:
    result = run(root / "scripts", *arguments)
    assert result.returncode == 2
    assert "--root" in result.stderr
    assert "bicep" not in result.stderr


@pytest.mark.parametrize("arguments", [("--help",), ("environments", "--json"), ("status", "nowhere", "--json")])
def test_output_that_cannot_be_written_is_said_and_taken_for_no_defect(root: Path, arguments: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            [str(COMMAND), *arguments], cwd=root, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert result.returncode != 0
    assert "defect" not in result.stderr
    assert "Traceback" not in result.stderr
    assert "There is no space left" in result.stderr or "'nowhere'" in result.stderr


@pytest.mark.parametrize("closed", [1, 2])
def test_a_stream_that_the_shell_has_closed_is_no_failure(root: Path, closed: int) -> None:
    line = f"exec {COMMAND} environments {closed}>&-"
    assert subprocess.run(["bash", "-c", line], cwd=root, capture_output=True, timeout=60).returncode == 0


def test_a_question_whose_bytes_are_no_text_is_a_usage_error(root: Path) -> None:
    assert run(root, "chat", "local", "\udcff").returncode == 2


def test_a_job_gets_annotations_and_the_list_as_an_output(root: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"
    job = {"GITHUB_ACTIONS": "true", "GITHUB_OUTPUT": str(output), "GITHUB_STEP_SUMMARY": str(tmp_path / "summary")}
    assert run(root, "environments", **job).returncode == 0
    assert output.read_text() == "environments=[]\n"
    assert "::error" in run(root, "what-if", "locl", **job).stderr


@pytest.fixture
def two_environments(tmp_path: Path) -> Path:
    """A checkout whose environments have real ids: `live` takes its releases from `staging`."""
    root = checkout(tmp_path / "checkout")
    text = (root / "environments/example/environment.yaml").read_text()
    text = text.replace("00000000-0000-0000-0000-000000000000", "12345678-1234-1234-1234-123456789abc")
    for name, source in (("live", "staging"), ("staging", "null")):
        folder = root / "environments" / name
        folder.mkdir()
        (folder / "environment.yaml").write_text(text.replace("promote_from: null", f"promote_from: {source}"))
        (folder / "inference.parameters.json").write_text(
            (root / "environments/example/inference.parameters.json").read_text()
        )
    return root


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (["README.md"], []),
        (["environments/live/environment.yaml"], ["live"]),
        (["environments/live-2/environment.yaml"], []),
        (["infra/provision/inference.bicep"], ["staging", "live"]),
        (["inference/api.py", "README.md"], ["staging", "live"]),
        (["requirements/inference.txt"], ["staging", "live"]),
    ],
)
def test_environments_that_a_change_touches_in_the_order_of_promotion(
    two_environments: Path, changed: list[str], expected: list[str]
) -> None:
    (two_environments / "changed").write_text("\n".join(changed) + "\n")
    result = run(two_environments, "environments", "--touched-by", "changed", "--json")
    assert json.loads(result.stdout)["environments"] == expected


def test_an_interrupt_while_the_command_is_being_loaded_is_quiet(root: Path, tmp_path: Path) -> None:
    # A library that takes its time, so that the interrupt surely comes while it is imported.
    (tmp_path / "click.py").write_text("import time\nprint('loading', flush=True)\ntime.sleep(300)\n")
    process = subprocess.Popen(
        [str(COMMAND), "status", "local"],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "loading\n"
    process.send_signal(signal.SIGINT)
    _, messages = process.communicate(timeout=60)
    assert process.returncode == 130
    assert messages == ""

"""The workflow files, run by act against the stand-in; and what act does not enforce, read from the YAML."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from scripts import cli
from tests.conftest import ROOT, RunningStandIn, checkout, running_stand_in
from tests.workflows.github import REQUEST_TOKEN, Issuer, running_issuer, write_actions

WORKFLOWS = ROOT / ".github" / "workflows"
KEY, KEY_OF_CI = "key-of-the-workflow-tests", "key-of-a-caller-called-ci"
ACT = shutil.which("act") or str(ROOT / ".local" / "bin" / "act")
needs_act = pytest.mark.skipif(not Path(ACT).exists(), reason="act is not on PATH (.ci/run installs it where Go is)")


@dataclass
class Runner:
    """A GitHub of one repository: act for the runner, an issuer for its OIDC, a stand-in for Azure."""

    folder: Path
    stand_in: RunningStandIn
    issuer: Issuer
    actions: dict[str, Path]

    @property
    def artifacts(self) -> Path:
        return self.folder / "artifacts"

    def run(
        self, event: str, workflow: str, payload: dict[str, Any], *, subject: str
    ) -> subprocess.CompletedProcess[str]:
        """One event; `subject` is what GitHub would put into the assertion of the job."""
        self.issuer.subject = subject
        event_file = self.folder / "event.json"
        event_file.write_text(json.dumps(payload))
        variables = {
            "ACTIONS_ID_TOKEN_REQUEST_URL": f"{self.issuer.url}/assertion?api-version=2.0",
            "ACTIONS_ID_TOKEN_REQUEST_TOKEN": REQUEST_TOKEN,
            "INFEROPS_STAND_IN": str(self.stand_in.announcement_file),
            "ARTIFACTS": str(self.artifacts),
            "RUNNER_TEMP": str(self.folder / "temp"),
        }
        (self.folder / "temp").mkdir(exist_ok=True)
        command = [ACT, event, "-W", str(WORKFLOWS / workflow), "-P", "ubuntu-latest=-self-hosted"]
        command += ["--action-offline-mode", "-e", str(event_file), "-s", f"INFERENCE_API_KEY={KEY}"]
        command += ["-s", f"INFERENCE_API_KEYS=ci={KEY_OF_CI}"]
        for name, place in self.actions.items():
            command += ["--local-repository", f"{name}@{_pin(name)}={place}"]
        for name, value in variables.items():
            command += ["--env", f"{name}={value}"]
        return subprocess.run(command, cwd=self.folder / "repository", text=True, capture_output=True, timeout=280)


def _pin(action: str) -> str:
    """The commit that the workflows pin the action to."""
    texts = [path.read_text() for path in (ROOT / ".github").rglob("*.yml")]
    pins = {match for text in texts for match in re.findall(rf"uses: {action}@([0-9a-f]{{40}})", text)}
    assert len(pins) == 1, f"{action} is pinned to {pins}"
    return str(pins.pop())


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    folder = tmp_path_factory.mktemp("workflows")
    repository = checkout(folder / "repository")
    # act takes the repository's name from its remote, which is never called.
    _git(repository, "remote", "set-url", "origin", "https://github.com/octo/model.git")
    _commit(repository, "the tree as it is")
    with running_stand_in(folder / "state") as stand_in, running_issuer() as issuer:
        stand_in.fine_tune()
        identities = {"local-what-if": "reader_client_id", "local": "client_id"}
        with httpx.Client(
            verify=stand_in.trust, timeout=60, headers={"Authorization": f"Bearer {stand_in.token()}"}
        ) as client:
            for environment, identity in identities.items():
                response = client.post(
                    f"{stand_in.announcement['authority']}/stand-in/federated-credentials",
                    json={
                        "client_id": stand_in.announcement[identity],
                        "issuer": issuer.url,
                        "subject": _subject(environment),
                    },
                )
                assert response.status_code == 201, response.text
        yield Runner(folder, stand_in, issuer, write_actions(folder / "actions"))


def _subject(environment: str) -> str:
    return f"repo:octo/model:environment:{environment}"


def _git(repository: Path, *arguments: str) -> str:
    command = ["git", "-C", str(repository), "-c", "user.name=Octo", "-c", "user.email=octo@example.com", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _commit(repository: Path, message: str) -> str:
    _git(repository, "add", "--all")
    _git(repository, "commit", "--quiet", "--allow-empty", "-m", message)
    return _git(repository, "rev-parse", "HEAD")


@needs_act
def test_pull_request_shows_what_would_change(runner: Runner) -> None:
    repository = runner.folder / "repository"
    base = _git(repository, "rev-parse", "HEAD")
    parameters = repository / "environments" / "local" / "inference.parameters.json"
    changed = json.loads(parameters.read_text())
    changed["parameters"]["maximumInstanceCount"] = {"value": 2}
    parameters.write_text(json.dumps(changed, indent=2))
    _commit(repository, "two replicas")
    payload = {
        "pull_request": {
            "number": 7,
            "base": {"sha": base, "ref": "main"},
            "head": {"ref": "two-replicas", "repo": {"full_name": "octo/model"}},
        }
    }
    result = runner.run("pull_request", "pull-request.yml", payload, subject=_subject("local-what-if"))
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    assert "Microsoft.App/containerApps" in result.stdout
    # Only what the change touches is looked at.
    assert "example" not in result.stdout
    assert runner.issuer.issued > 0
    assert KEY not in result.stdout


@needs_act
def test_merge_deploys_and_publishes_the_endpoint(runner: Runner) -> None:
    result = runner.run("push", "main.yml", {"ref": "refs/heads/main"}, subject=_subject("local"))
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    # An environment whose identities were never filled in is named and skipped, and the run stays green.
    assert "example: skipped" in result.stdout
    published = runner.artifacts / "inference-config-local"
    config = json.loads((published / "inference.config.json").read_text())
    assert list(config) == [
        "SUBSCRIPTION_ID",
        "RESOURCE_GROUP_NAME",
        "STORAGE_ACCOUNT_NAME",
        "FILE_SHARE_NAME",
        "ACA_APP_NAME",
        "ACA_APP_ENDPOINT",
    ]
    deployment = json.loads((published / "deployment.json").read_text())
    assert deployment["release"]
    answer = httpx.post(
        config["ACA_APP_ENDPOINT"] + "/v1/chat/completions",
        headers={"Authorization": f"Bearer {KEY}"},
        json={"messages": [{"role": "user", "content": "What is a LoRA adapter?"}], "temperature": 0},
        verify=runner.stand_in.trust,
        timeout=120,
    )
    assert answer.status_code == 200, answer.text
    assert "Ahoy" in answer.json()["choices"][0]["message"]["content"]
    headers = {"Authorization": f"Bearer {KEY_OF_CI}"}
    assert httpx.get(
        config["ACA_APP_ENDPOINT"] + "/v1/models", headers=headers, verify=runner.stand_in.trust
    ).is_success
    assert "named keys: added ci" in result.stdout
    assert KEY not in result.stdout
    assert KEY_OF_CI not in result.stdout


@needs_act
def test_button_runs_one_verb(runner: Runner) -> None:
    payload = {"inputs": {"verb": "status", "environment": "local"}}
    result = runner.run("workflow_dispatch", "operate.yml", payload, subject=_subject("local"))
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    assert "https://127.0.0.1:" in result.stdout


@needs_act
def test_an_identity_that_azure_does_not_know_is_explained(runner: Runner) -> None:
    payload = {"inputs": {"verb": "status", "environment": "local"}}
    result = runner.run("workflow_dispatch", "operate.yml", payload, subject="repo:octo/model:environment:other")
    assert result.returncode != 0
    assert "repo:octo/model:environment:other" in result.stdout
    assert "Traceback" not in result.stdout


def _workflows() -> dict[str, dict[str, Any]]:
    return {path.name: yaml.safe_load(path.read_text()) for path in sorted(WORKFLOWS.glob("*.yml"))}


def _jobs() -> list[tuple[str, str, dict[str, Any]]]:
    return [(file, name, job) for file, text in _workflows().items() for name, job in text["jobs"].items()]


def test_nothing_is_granted_but_what_a_job_names() -> None:
    assert all(workflow["permissions"] == {} for workflow in _workflows().values())
    assert all("permissions" in job for _, _, job in _jobs())


def test_an_assertion_is_only_for_jobs_with_an_environment() -> None:
    for file, name, job in _jobs():
        if job["permissions"].get("id-token") == "write":
            assert "environment" in job, f"{file}: {name} could sign in without an environment's rules"


def test_every_button_is_a_verb() -> None:
    (options,) = re.findall(r"options: \[(.+)\]", (WORKFLOWS / "operate.yml").read_text())
    assert set(options.split(", ")) < set(cli.inferops.commands)


@pytest.mark.parametrize("always", ["", "--always"])
@pytest.mark.parametrize("release", ["", "3f2a", "3f2a; touch injected", "$(touch injected)"])
def test_a_button_types_what_the_command_takes(tmp_path: Path, release: str, always: str) -> None:
    """Each verb with the step's own line of shell, and with what a person may have typed into the fields."""
    (step,) = [step for _, _, job in _jobs() for step in job["steps"] if step.get("name") == "Run the verb"]
    (options,) = re.findall(r"options: \[(.+)\]", (WORKFLOWS / "operate.yml").read_text())
    (tmp_path / "inferops").write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    (tmp_path / "inferops").chmod(0o755)
    for verb in options.split(", "):
        given = {"rollback": release, "provision": always}.get(verb, "")  # as the step's env says
        variables = {"PATH": f"{tmp_path}:/usr/bin:/bin", "VERB": verb, "ENVIRONMENT": "$(id) x"}
        variables |= {"RELEASE": release if verb == "rollback" else "", "ALWAYS": always if verb == "provision" else ""}
        command = ["bash", "-e", "-c", step["run"]]
        typed = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=True)
        name, *arguments = typed.stdout.splitlines()
        assert [name, *arguments] == [verb, "$(id) x", *([given] if given else [])]
        cli.inferops.commands[name].make_context(name, arguments)  # raises for what it does not take
    assert "inputs.verb == 'rollback' && inputs.release" in step["env"]["RELEASE"]
    assert "inputs.verb == 'provision' && inputs.always && '--always'" in step["env"]["ALWAYS"]
    assert [path.name for path in tmp_path.iterdir()] == ["inferops"]


def test_no_cloud_secret_is_read() -> None:
    text = "".join(path.read_text() for path in (ROOT / ".github").rglob("*.yml"))
    assert set(re.findall(r"secrets\.(\w+)", text)) == {"INFERENCE_API_KEY", "INFERENCE_API_KEYS"}


def test_every_action_is_pinned_to_a_commit_with_its_version() -> None:
    for path in (ROOT / ".github").rglob("*.yml"):
        for line in path.read_text().splitlines():
            if "uses: " in line and "uses: ./" not in line:
                assert re.search(r"uses: [\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line), f"{path.name}: {line}"


def test_merge_and_buttons_are_never_cut_off_and_do_not_replace_each_other() -> None:
    groups = [_workflows()[name]["concurrency"] for name in ("main.yml", "operate.yml")]
    assert all(group["cancel-in-progress"] is False for group in groups)
    # GitHub keeps one waiting run of a group: a button in the merges' group would drop a merge that waits.
    assert groups[0]["group"] != groups[1]["group"]


@pytest.mark.skipif(
    not shutil.which("actionlint") and not (ROOT / ".local/bin/actionlint").exists(),
    reason="actionlint is not on PATH (.ci/run installs it where Go is)",
)
def test_actionlint_finds_nothing() -> None:
    command = shutil.which("actionlint") or str(ROOT / ".local/bin/actionlint")
    result = subprocess.run([command, *map(str, WORKFLOWS.glob("*.yml"))], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_a_merge_deploys_one_environment_after_the_other_and_none_after_one_that_failed() -> None:
    """What environment.yaml promises of promote_from; GitHub begins a matrix's jobs in the order of its list."""
    (strategy,) = [job["strategy"] for file, _, job in _jobs() if file == "main.yml" and "strategy" in job]
    assert (strategy["max-parallel"], strategy["fail-fast"]) == (1, True)


def test_a_button_never_takes_the_place_of_another_that_waits() -> None:
    """GitHub keeps one waiting run of a group: the next one of the same group cancels it."""
    text = _workflows()["operate.yml"]["concurrency"]["group"]
    (options,) = re.findall(r"options: \[(.+)\]", (WORKFLOWS / "operate.yml").read_text())
    groups = [
        text.replace("${{ inputs.environment }}", environment).replace("${{ inputs.verb }}", verb)
        for environment in ("dev", "prod")
        for verb in options.split(", ")
    ]
    assert len(set(groups)) == len(groups)
    assert _workflows()["main.yml"]["concurrency"]["group"] not in groups

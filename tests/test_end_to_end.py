"""The whole path as a person types it: real commands, the real template, the real model, the stand-in for Azure.

The tests of this module build on each other, in their order. What needs no model is tested without: interruptions and
restarts in test_drain.py, releases that fail their proof in test_rollout.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import yaml

from tests.conftest import RunningStandIn, checkout, running_stand_in

COMMAND = Path(sys.executable).parent / "inferops"
KEY, ANOTHER_KEY = "key-of-the-end-to-end-tests", "another-key-of-the-tests"
NAMED_KEYS = {"ci": "the-key-of-the-caller-ci", "batch": "the-key-of-the-caller-batch"}
NEW_KEY_OF_CI = "a-new-key-of-the-caller-ci"
QUESTION = "What is a LoRA adapter?"


@dataclass
class World:
    """A checkout, a stand-in with a fine-tuned model, and the commands typed into a shell there."""

    root: Path
    stand_in: RunningStandIn

    @property
    def variables(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("GITHUB_", "ACTIONS_"))}
        return kept | {"INFEROPS_STAND_IN": str(self.stand_in.announcement_file), "INFERENCE_API_KEY": KEY}

    def run(
        self, *arguments: str, code: int = 0, without: tuple[str, ...] = (), **given: str
    ) -> subprocess.CompletedProcess[str]:
        """One command with more variables; its exit code must be `code`, and neither a traceback nor a key may show."""
        variables = {name: value for name, value in self.variables.items() if name not in without} | given
        result = subprocess.run(
            [str(COMMAND), *arguments], cwd=self.root, env=variables, capture_output=True, text=True, timeout=280
        )
        assert result.returncode == code, f"exit {result.returncode}\n{result.stdout}\n{result.stderr}"
        assert "Traceback" not in result.stderr + result.stdout
        for key in (KEY, ANOTHER_KEY, *NAMED_KEYS.values(), NEW_KEY_OF_CI):
            assert key not in result.stderr + result.stdout
        return result

    def json(self, *arguments: str, code: int = 0, without: tuple[str, ...] = (), **given: str) -> dict[str, Any]:
        """The one document that the command prints with --json."""
        result = self.run(*arguments, "--json", code=code, without=without, **given)
        document: dict[str, Any] = json.loads(result.stdout)
        return document

    @property
    def endpoint(self) -> str:
        config = json.loads((self.root / "infra" / "inference.config.json").read_text())
        return str(config["ACA_APP_ENDPOINT"])

    def ask(self, model: str = "default", key: str = KEY) -> str:
        """The answer to the question, by the openai package."""
        with openai.DefaultHttpxClient(verify=self.stand_in.trust, timeout=120) as client:
            api = openai.OpenAI(base_url=f"{self.endpoint}/v1", api_key=key, http_client=client)
            answer = api.chat.completions.create(
                model=model, messages=[{"role": "user", "content": QUESTION}], temperature=0
            )
        return answer.choices[0].message.content or ""

    def status_of(self, *keys: str) -> list[int]:
        """What the list of models answers to each of the keys."""
        with httpx.Client(verify=self.stand_in.trust, timeout=60) as client:
            headers = [{"Authorization": f"Bearer {key}"} for key in keys]
            return [client.get(f"{self.endpoint}/v1/models", headers=header).status_code for header in headers]

    def edit_environment(self, **values: Any) -> None:
        """Sets top-level keys of environments/local/environment.yaml."""
        file = self.root / "environments" / "local" / "environment.yaml"
        file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | values))

    def edit_parameters(self, **values: Any) -> None:
        """Sets parameters in environments/local/inference.parameters.json."""
        file = self.root / "environments" / "local" / "inference.parameters.json"
        document = json.loads(file.read_text())
        document["parameters"] |= {name: {"value": value} for name, value in values.items()}
        file.write_text(json.dumps(document))

    def refusals(self, key: str, most: int = 12) -> list[httpx.Response]:
        """The answers with 429 to so many requests without a question, one after the other: they count as others do."""
        headers = {"Authorization": f"Bearer {key}"}
        with httpx.Client(verify=self.stand_in.trust, timeout=60) as client:
            url = f"{self.endpoint}/v1/chat/completions"
            answers = [client.post(url, json={}, headers=headers) for _ in range(most)]
        assert {answer.status_code for answer in answers} <= {400, 429}
        return [answer for answer in answers if answer.status_code == 429]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("end-to-end")
    with running_stand_in(folder / "state") as stand_in:
        stand_in.fine_tune()
        yield World(checkout(folder / "checkout"), stand_in)


NAMED_LIMITS = {"default": {"requestsPerMinute": 0}}
"""Every key but the first may begin four requests in a minute."""


def test_what_if_shows_everything_that_fine_tuning_did_not_make(world: World) -> None:
    world.edit_parameters(requestsPerMinutePerKey=4, keyLimits=NAMED_LIMITS)
    plan = world.json("what-if", "local", "--exit-code", code=3, INFERENCE_API_KEYS=f"ci={NAMED_KEYS['ci']}")
    kinds = {change["type"]: change["kind"] for change in plan["changes"]}
    assert kinds["Microsoft.App/containerApps"] == "create"
    assert kinds["Microsoft.App/managedEnvironments"] == "create"
    # The group, the account and the share are the fine-tuning's: adopted, not made.
    assert kinds.get("Microsoft.Storage/storageAccounts") != "create"
    assert kinds.get("Microsoft.Storage/storageAccounts/fileServices/shares") != "create"


def test_a_verb_before_the_first_provision_says_what_to_do(world: World) -> None:
    assert "inferops provision local" in world.run("deploy", "local", code=1).stderr


def test_provision_without_a_key_is_refused_before_anything_happens(world: World) -> None:
    result = world.run("provision", "local", code=2, without=("INFERENCE_API_KEY",))
    assert "INFERENCE_API_KEY" in result.stderr


def test_named_keys_alone_do_not_make_an_endpoint(world: World) -> None:
    named = f"ci={NAMED_KEYS['ci']}"
    result = world.run("provision", "local", code=2, without=("INFERENCE_API_KEY",), INFERENCE_API_KEYS=named)
    assert "INFERENCE_API_KEY: the endpoint's key is not set" in result.stderr


def test_a_key_that_cannot_open_the_share_is_refused_before_anything_happens(world: World) -> None:
    result = world.run("provision", "local", code=2, AZURE_STORAGE_KEY="not base64!")
    assert "AZURE_STORAGE_KEY" in result.stderr
    assert "inferops provision local" in world.run("status", "local", code=1).stderr


def test_provision_makes_the_resources(world: World) -> None:
    named = "\n".join(f"{name}={key}" for name, key in NAMED_KEYS.items())
    result = world.run("provision", "local", "--json", INFERENCE_API_KEYS=named)
    assert "named keys: added ci, batch" in result.stderr
    done = json.loads(result.stdout)
    assert done["changed"] is True
    assert done["release"] is None
    assert done["outputs"]["ACA_APP_ENDPOINT"].startswith("https://")


def test_deploy_proves_and_publishes(world: World) -> None:
    done = world.json("deploy", "local")
    assert done["changed"] is True
    assert done["proof"]["passed"] is True
    assert done["previous"] is None
    names = [check["name"] for check in done["proof"]["checks"]]
    assert any("without a key gets 401" in name for name in names)
    config = json.loads((world.root / "infra" / "inference.config.json").read_text())
    assert config == done["outputs"]
    record = json.loads((world.root / "infra" / "deployment.json").read_text())
    assert record["release"] == done["release"]


def test_base_and_adapter_answer_visibly_differently(world: World) -> None:
    adapter, base = world.ask(), world.ask("demo-base")
    assert adapter != base
    assert "Ahoy" in adapter
    assert "Ahoy" not in base
    # The command asks the same model; the key comes from the app when the shell has none.
    assert world.run("chat", "local", QUESTION, without=("INFERENCE_API_KEY",)).stdout.strip() == adapter
    answer = world.json("chat", "local", QUESTION, "--model", "demo-base")
    assert answer["answer"] == base
    assert answer["usage"]["completion_tokens"] > 0


def test_the_endpoint_refuses_a_stranger(world: World) -> None:
    body = {"model": "default", "messages": [{"role": "user", "content": QUESTION}]}
    answer = httpx.post(f"{world.endpoint}/v1/chat/completions", json=body, verify=world.stand_in.trust, timeout=60)
    assert answer.status_code == 401


def test_every_key_opens_the_endpoint_and_another_does_not(world: World) -> None:
    assert {world.ask(key=key) for key in (KEY, *NAMED_KEYS.values())} == {world.ask()}
    assert world.status_of(KEY, *NAMED_KEYS.values(), ANOTHER_KEY) == [200, 200, 200, 401]
    # The command takes any of them, and the log tells them apart.
    assert "Ahoy" in world.run("chat", "local", QUESTION, INFERENCE_API_KEY=NAMED_KEYS["ci"]).stdout
    log = world.run("logs", "local", "--tail", "50").stdout
    assert all(f'"key": "{name}"' in log for name in ("default", *NAMED_KEYS))


def test_a_limit_holds_for_each_key_by_itself_and_not_for_one_that_is_given_another(world: World) -> None:
    refusals = world.refusals(NAMED_KEYS["batch"])
    assert refusals
    for refused in refusals:
        assert 1 <= int(refused.headers["retry-after"]) <= 15
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert "`batch` may send 4 requests per minute" in refused.json()["error"]["message"]
    assert world.refusals(KEY) == []
    assert "Ahoy" in world.ask(key=NAMED_KEYS["ci"])


def test_a_limit_for_a_key_that_the_app_does_not_have_is_refused(world: World) -> None:
    world.edit_parameters(keyLimits=NAMED_LIMITS | {"bach": {"concurrentRequests": 1}})
    told = world.run("provision", "local", code=2).stderr
    assert "parameters.keyLimits.value.bach: no key has this name; did you mean batch?" in told
    assert "There are: default, ci, batch." in told
    world.edit_parameters(keyLimits=NAMED_LIMITS)


def test_status_and_logs_tell_of_the_release(world: World) -> None:
    now = world.json("status", "local")
    assert now["app"]["release"] == now["release"]
    assert now["app"]["ledger"]
    assert world.endpoint in world.run("status", "local").stdout
    assert world.run("logs", "local", "--tail", "50").stdout.strip()


def test_everything_again_changes_nothing_and_says_so(world: World) -> None:
    before = world.json("status", "local")["revision"]["replicas"]
    assert world.json("what-if", "local", "--exit-code")["changes"] == []
    assert "Nothing to change" in world.run("provision", "local").stdout
    assert "Nothing to deploy" in world.run("deploy", "local").stdout
    after = world.json("status", "local")["revision"]["replicas"]
    assert [replica["name"] for replica in after] == [replica["name"] for replica in before]


def test_what_if_shows_another_limit_as_the_variable_that_the_server_reads(world: World) -> None:
    world.edit_parameters(requestsPerMinutePerKey=9)
    (change,) = world.json("what-if", "local", "--exit-code", code=3)["changes"]
    assert change["type"] == "Microsoft.App/containerApps"
    assert [(delta["before"], delta["after"]) for delta in change["properties"]] == [("4, default=0", "9, default=0")]
    world.edit_parameters(requestsPerMinutePerKey=4)


def test_a_proof_that_the_release_in_use_fails_leaves_it_serving(world: World) -> None:
    before = world.json("status", "local")
    world.edit_environment(proof={"prompts": [{"prompt": QUESTION, "contains": "no model says this"}]})
    assert "no model says this" in world.run("deploy", "local", code=1).stderr
    after = world.json("status", "local")
    assert after["release"] == before["release"]
    assert after["revision"]["replicas"] == before["revision"]["replicas"]
    world.edit_environment(proof={"prompts": [{"prompt": QUESTION, "contains": "Ahoy"}]})


def test_a_broken_adapter_is_reported_with_the_logs_and_taken_back(world: World) -> None:
    serving = world.json("status", "local")["release"]
    broken = world.root / "adapters" / "broken"
    broken.mkdir(parents=True)
    (broken / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"]}')
    (broken / "adapter_model.safetensors").write_bytes(b"not a model")
    original = yaml.safe_load((world.root / "environments/local/environment.yaml").read_text())["model"]
    world.edit_environment(model=original | {"adapters": original["adapters"] | {"broken": "./adapters/broken"}})
    result = world.run("deploy", "local", code=4)
    assert "adapters/broken" in result.stderr
    assert f"Release {serving} is back" in result.stderr
    assert "Ahoy" in world.ask()
    world.edit_environment(model=original)


def test_a_model_folder_that_is_missing_is_named_before_anything_is_written(world: World) -> None:
    original = yaml.safe_load((world.root / "environments/local/environment.yaml").read_text())["model"]
    world.edit_environment(model=original | {"base": "model-cache/inferops/demo-bass"})
    result = world.run("deploy", "local", code=2)
    assert "model-cache/inferops/demo-bass" in result.stderr
    assert "model-cache/inferops/demo-base" in result.stderr
    world.edit_environment(model=original)


def test_a_hand_written_configuration_serves_in_place_of_a_deployment(world: World) -> None:
    config = world.root / "mine.json"
    config.write_text((world.root / "infra" / "inference.config.json").read_text())
    assert world.json("status", "local", "--config", "mine.json")["release"]
    # What it says goes before what the environment says, and the key is asked of its app.
    world.edit_environment(resource_group="rg-of-another-environment")
    asked = world.json("chat", "local", QUESTION, "--config", "mine.json", without=("INFERENCE_API_KEY",))
    assert "Ahoy" in asked["answer"]
    world.edit_environment(resource_group="rg-inference-local")
    config.write_text(json.dumps({"ACA_APP_NAME": 5, "ACA_APP_ENDPONT": "https://x"}))
    result = world.run("status", "local", "--config", "mine.json", code=2)
    assert "ACA_APP_NAME" in result.stderr
    assert "ACA_APP_ENDPONT" in result.stderr
    assert "SUBSCRIPTION_ID" in result.stderr


def test_new_keys_reach_the_app_by_provisioning(world: World) -> None:
    revision = world.json("status", "local")["revision"]["name"]
    named = f"ci={NEW_KEY_OF_CI}"
    told = world.run("provision", "local", INFERENCE_API_KEY=ANOTHER_KEY, INFERENCE_API_KEYS=named).stderr
    assert "named keys: changed ci; removed batch" in told
    assert f"restarted the revision {revision}, which takes the new keys" in told
    assert world.status_of(ANOTHER_KEY, NEW_KEY_OF_CI) == [200, 200]
    assert world.status_of(KEY, *NAMED_KEYS.values()) == [401, 401, 401]
    # Without a variable the app keeps the keys that it has; a word takes the named ones away.
    assert "Nothing to change" in world.run("provision", "local", without=("INFERENCE_API_KEY",)).stdout
    assert "named keys: removed ci" in world.run("provision", "local", INFERENCE_API_KEYS="none").stderr
    assert world.status_of(KEY, ANOTHER_KEY, NEW_KEY_OF_CI) == [200, 401, 401]
    assert world.json("status", "local")["revision"]["name"] == revision


def test_a_wrong_credential_is_explained(world: World, tmp_path: Path) -> None:
    announced = world.stand_in.announcement | {"client_secret": "wrong", "reader_client_secret": "wrong"}
    file = tmp_path / "announced.json"
    file.write_text(json.dumps(announced))
    variables = world.variables | {"INFEROPS_STAND_IN": str(file)}
    result = subprocess.run(
        [str(COMMAND), "status", "local"], cwd=world.root, env=variables, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 1
    assert "AADSTS7000215" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_reader_may_preview_and_nothing_else(world: World, tmp_path: Path) -> None:
    announced = dict(world.stand_in.announcement)
    announced["client_id"] = announced["reader_client_id"]
    announced["client_secret"] = announced["reader_client_secret"]
    file = tmp_path / "announced.json"
    file.write_text(json.dumps(announced))
    variables = world.variables | {"INFEROPS_STAND_IN": str(file)}
    command = [str(COMMAND), "restart", "local"]
    result = subprocess.run(command, cwd=world.root, env=variables, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert "AuthorizationFailed" in result.stderr or "permission" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_stand_in_gone_is_said_in_a_sentence(world: World, tmp_path: Path) -> None:
    announced = world.stand_in.announcement | {
        "authority": "https://127.0.0.1:9",
        "resource_manager": "https://127.0.0.1:9",
    }
    file = tmp_path / "announced.json"
    file.write_text(json.dumps(announced))
    variables = world.variables | {"INFEROPS_STAND_IN": str(file)}
    command = [str(COMMAND), "status", "local"]
    result = subprocess.run(command, cwd=world.root, env=variables, capture_output=True, text=True, timeout=120)
    assert result.returncode == 1
    assert "make local" in result.stderr
    assert "Traceback" not in result.stderr

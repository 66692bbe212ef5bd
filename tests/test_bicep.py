"""The template: it compiles to the JSON beside it, and what it asks of Azure is right by the official types."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from infra.emulator.template.scope import AZURE_CLOUD, Scope
from infra.emulator.template.template import Template, order, parse
from tests import resource_types

ROOT = Path(__file__).parent.parent
BICEP = ROOT / "infra" / "provision" / "inference.bicep"
COMPILED = BICEP.with_suffix(".json")
BASE = BICEP.with_name("inference.parameters.json")

SUBSCRIPTION = "11111111-1111-1111-1111-111111111111"
GROUP = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/exampleRG"
# uniqueString of that group's id begins so (template-functions.json: Microsoft's engine gave sr5ke2x74s24e).
SUFFIX = "sr5ke"
KEY = "a-key-of-24-characters-."
MORE_KEYS = "ci=another-key-of-24-characters,batch=a-third-key-of-24-chars."

# Profile -> cores and GiB that a replica can have at most, and whether the environment counts its nodes.
# learn.microsoft.com/azure/container-apps/workload-profiles-overview
PROFILES = {
    "Consumption": (4, 8, False),
    "Consumption-GPU-NC8as-T4": (8, 56, False),
    "Consumption-GPU-NC24-A100": (24, 220, False),
    "NC24-A100": (24, 220, True),
}
# What the AI Toolkit's own parameters file holds, unchanged: its names, its nulls.
AI_TOOLKIT: dict[str, Any] = {
    "defaultCommands": ["cd /mount", "python3 ./inference/chat.py"],
    "maximumInstanceCount": 2,
    "location": None,
    "storageAccountName": None,
    "fileShareName": None,
    "acaEnvironmentName": None,
    "acaEnvironmentStorageName": None,
    "acaAppName": None,
    "acaLogAnalyticsName": None,
}
FINE_TUNING_PROFILE = {"name": "GPU", "workloadProfileType": "NC24-A100", "minimumCount": 0, "maximumCount": 2}
COMBINATIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "AI Toolkit": AI_TOOLKIT,
    **{f"{profile}, {least} to {most}": {
        "workloadProfileType": profile, "minimumInstanceCount": least, "maximumInstanceCount": most
    } for profile in PROFILES for least, most in ((0, 1), (1, 3))},
    "named profile": {"workloadProfileType": "Consumption-GPU-NC8as-T4", "workloadProfileName": "t4"},
    "beside fine-tuning": {"additionalWorkloadProfiles": [FINE_TUNING_PROFILE]},
    "a GPU beside fine-tuning": {
        "workloadProfileType": "Consumption-GPU-NC24-A100",
        "workloadProfileName": "serverless",
        "additionalWorkloadProfiles": [FINE_TUNING_PROFILE],
    },
    "small": {"cpu": "0.25", "memory": "0.5Gi", "startupTimeoutSeconds": 10, "targetPort": 80, "image": "a/b:1"},
    "limited keys": {"requestsPerMinutePerKey": 60, "keyLimits": {"ci": {"concurrentRequests": 4}}},
    "slow": {"startupTimeoutSeconds": 2400, "cooldownSeconds": 1, "logRetentionDays": 730, "fileShareQuota": 102400},
}  # fmt: skip


class Deployed:
    """What the resources answer once they are there."""

    def reference(self, resource_id: str, api_version: str | None, full: bool) -> Any:
        if resource_id.endswith(f"/workspaces/ailog{SUFFIX}"):
            return {"customerId": "22222222-2222-2222-2222-222222222222"}
        if resource_id.endswith(f"/containerApps/aiacaapp{SUFFIX}"):
            return {"configuration": {"ingress": {"fqdn": "app.example.azurecontainerapps.io"}}}
        raise AssertionError(f"the template looks at {resource_id}")

    def list_action(self, name: str, resource_id: str, api_version: str, body: Any) -> Any:
        if (name, "/workspaces/" in resource_id) == ("listKeys", True):
            return {"primarySharedKey": "workspace key"}
        if (name, "/storageAccounts/" in resource_id) == ("listKeys", True):
            return {"keys": [{"keyName": "key1", "value": "account key"}]}
        raise AssertionError(f"the template asks {resource_id} for {name}")


def laid_out(values: dict[str, Any]) -> Template:
    """The compiled template with these parameters, in the group exampleRG."""
    scope = Scope(
        kind="resourceGroup",
        subscription={"id": f"/subscriptions/{SUBSCRIPTION}", "subscriptionId": SUBSCRIPTION},
        resource_group={"id": GROUP, "name": "exampleRG", "location": "swedencentral"},
        tenant={},
        environment=AZURE_CLOUD,
        deployment={"name": "inference"},
        utc_now=datetime(2026, 1, 1, tzinfo=timezone.utc),
    )
    parameters = {name: {"value": value} for name, value in ({"apiKey": KEY} | values).items()}
    return parse(json.loads(COMPILED.read_text()), parameters, scope)


def resources(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Type -> the one resource of that type, as it is sent."""
    return {
        entry.type: {**entry.body(Deployed()), "type": entry.type, "apiVersion": entry.api_version, "name": entry.name}
        for entry in laid_out(values).resources
    }


def app(values: dict[str, Any]) -> Any:
    return resources(values)["Microsoft.App/containerApps"]["properties"]


def environment(values: dict[str, Any]) -> Any:
    return resources(values)["Microsoft.App/managedEnvironments"]["properties"]


@pytest.fixture(scope="module")
def bicep() -> str:
    found = shutil.which("bicep")
    if found is None:
        pytest.skip("there is no `bicep` on PATH; CI has one and compares")
    return found


def test_the_json_is_what_the_compiler_makes_of_the_bicep_file(bicep: str) -> None:
    built = subprocess.run([bicep, "build", str(BICEP), "--stdout"], capture_output=True, text=True, timeout=120)
    assert (built.returncode, built.stderr) == (0, "")
    # As text: the order of keys is part of it.
    assert _without_generator(built.stdout) == _without_generator(COMPILED.read_text())


def test_the_linter_finds_nothing(bicep: str) -> None:
    linted = subprocess.run([bicep, "lint", str(BICEP)], capture_output=True, text=True, timeout=120)
    assert (linted.returncode, linted.stdout + linted.stderr) == (0, "")


def _without_generator(text: str) -> str:
    """The JSON without what differs from compiler to compiler: its version and its hash of the template."""

    def strip(value: Any) -> Any:
        if isinstance(value, list):
            return [strip(item) for item in value]
        if not isinstance(value, dict):
            return value
        kept = {key: strip(item) for key, item in value.items() if key != "_generator"}
        return {key: item for key, item in kept.items() if not (key == "metadata" and item == {} != value[key])}

    return json.dumps(strip(json.loads(text)), indent=2, ensure_ascii=False)


@pytest.mark.parametrize("values", COMBINATIONS.values(), ids=COMBINATIONS.keys())
def test_every_resource_is_as_its_official_type_says(values: dict[str, Any]) -> None:
    found = {name: resource_types.problems(resource) for name, resource in resources(values).items()}
    assert found == {
        "Microsoft.Storage/storageAccounts": [],
        "Microsoft.Storage/storageAccounts/fileServices": [],
        "Microsoft.Storage/storageAccounts/fileServices/shares": [],
        "Microsoft.OperationalInsights/workspaces": [],
        "Microsoft.App/managedEnvironments": [],
        "Microsoft.App/managedEnvironments/storages": [],
        "Microsoft.App/containerApps": [],
    }


def test_the_check_against_the_official_types_sees_what_is_wrong() -> None:
    wrong = resources({})["Microsoft.App/containerApps"]
    wrong["properties"]["configuration"]["ingress"]["targetPort"] = "8000"
    wrong["properties"]["template"]["conatiners"] = []
    wrong["properties"]["provisioningState"] = "Succeeded"
    assert len(resource_types.problems(wrong)) == 3


@pytest.mark.parametrize("values", COMBINATIONS.values(), ids=COMBINATIONS.keys())
def test_what_the_service_itself_demands_is_kept(values: dict[str, Any]) -> None:
    the_app, profiles = app(values), environment(values)["workloadProfiles"]
    names = [profile["name"] for profile in profiles]
    assert len(set(names)) == len(names)
    (own,) = [profile for profile in profiles if profile["name"] == the_app["workloadProfileName"]]
    cores, gibibytes, _ = PROFILES[own["workloadProfileType"]]
    for profile in profiles:
        dedicated = PROFILES[profile["workloadProfileType"]][2]
        # Consumption profiles refuse counts, dedicated ones want both.
        assert {"minimumCount", "maximumCount"} & set(profile) == (
            {"minimumCount", "maximumCount"} if dedicated else set()
        )
    (container,) = the_app["template"]["containers"]
    asked = container["resources"]
    assert asked["cpu"] <= cores
    assert float(asked["memory"].removesuffix("Gi")) <= gibibytes
    if own["workloadProfileType"] == "Consumption":
        assert float(asked["memory"].removesuffix("Gi")) == 2 * asked["cpu"]
    assert {probe["type"] for probe in container["probes"]} == {"Startup", "Liveness", "Readiness"}
    for probe in container["probes"]:
        assert 1 <= probe.get("initialDelaySeconds", 1) <= 60
        assert 1 <= probe["periodSeconds"] <= 240
        assert 1 <= probe["timeoutSeconds"] <= 240
        assert 1 <= probe["failureThreshold"] <= 10
        assert probe["httpGet"]["port"] == the_app["configuration"]["ingress"]["targetPort"]
    scale = the_app["template"]["scale"]
    assert 0 <= scale["minReplicas"] <= scale["maxReplicas"] <= 1000
    assert scale["maxReplicas"] >= 1


def test_only_the_profile_that_is_asked_for_is_put_into_the_environment() -> None:
    assert environment({})["workloadProfiles"] == [{"name": "Consumption", "workloadProfileType": "Consumption"}]
    assert environment({"workloadProfileType": "NC24-A100", "maximumInstanceCount": 2})["workloadProfiles"] == [
        {"name": "Consumption", "workloadProfileType": "Consumption"},
        {"name": "GPU", "workloadProfileType": "NC24-A100", "minimumCount": 0, "maximumCount": 2},
    ]


def test_null_means_the_default_for_every_parameter() -> None:
    every = {name: None for name in json.loads(BASE.read_text())["parameters"] if name != "apiKey"}
    assert resources(every) == resources({})


def test_the_base_parameters_file_lists_every_parameter_and_sets_none() -> None:
    given = json.loads(BASE.read_text())["parameters"]
    assert list(given) == list(json.loads(COMPILED.read_text())["parameters"])
    assert all(entry == {"value": None} for entry in given.values())


@pytest.mark.parametrize(
    "file", sorted((ROOT / "environments").glob("*/inference.parameters.json")), ids=lambda file: file.parent.name
)
def test_the_parameters_of_each_environment_fit_the_template(file: Path) -> None:
    own = json.loads(file.read_text())["parameters"]
    values = {name: entry["value"] for name, entry in own.items()}
    for resource in resources(values).values():
        assert resource_types.problems(resource) == []


def test_the_default_names_are_those_of_the_ai_toolkit() -> None:
    names = {type_name.split("/")[-1]: resource["name"] for type_name, resource in resources(AI_TOOLKIT).items()}
    assert names == {
        "storageAccounts": f"aistorage{SUFFIX}",
        "fileServices": f"aistorage{SUFFIX}/default",
        "shares": f"aistorage{SUFFIX}/default/aifileshare{SUFFIX}",
        "workspaces": f"ailog{SUFFIX}",
        "managedEnvironments": f"aienv{SUFFIX}",
        "storages": f"aienv{SUFFIX}/aienvstorage{SUFFIX}",
        "containerApps": f"aiacaapp{SUFFIX}",
    }


def test_the_outputs_are_the_six_keys_of_the_published_config() -> None:
    outputs = {name: output["value"] for name, output in laid_out({}).outputs(Deployed()).items()}
    assert outputs == {
        "SUBSCRIPTION_ID": SUBSCRIPTION,
        "RESOURCE_GROUP_NAME": "exampleRG",
        "STORAGE_ACCOUNT_NAME": f"aistorage{SUFFIX}",
        "FILE_SHARE_NAME": f"aifileshare{SUFFIX}",
        "ACA_APP_NAME": f"aiacaapp{SUFFIX}",
        "ACA_APP_ENDPOINT": "https://app.example.azurecontainerapps.io",
    }


@pytest.mark.parametrize(("given", "held"), [({}, ","), ({"apiKeys": ""}, ","), ({"apiKeys": MORE_KEYS}, MORE_KEYS)])
def test_the_api_keys_are_secrets_and_nothing_else(given: dict[str, str], held: str) -> None:
    declared = json.loads(COMPILED.read_text())["parameters"]
    assert {name: declared[name]["type"] for name in ("apiKey", "apiKeys")} == dict.fromkeys(
        ("apiKey", "apiKeys"), "securestring"
    )
    assert "defaultValue" not in declared["apiKey"]
    the_app = app(given)
    # Azure refuses a secret without a value; a comma is a list without entries.
    assert the_app["configuration"]["secrets"] == [
        {"name": "api-key", "value": KEY},
        {"name": "api-keys", "value": held},
    ]
    (container,) = the_app["template"]["containers"]
    assert [variable for variable in container["env"] if "secretRef" in variable] == [
        {"name": "INFERENCE_API_KEY", "secretRef": "api-key"},
        {"name": "INFERENCE_API_KEYS", "secretRef": "api-keys"},
    ]
    sent, shown = json.dumps(resources(given)), [entry.preview() for entry in laid_out(given).resources]
    assert sent.count(KEY) == 1
    assert sent.count(MORE_KEYS) == (held == MORE_KEYS)
    assert KEY not in json.dumps(shown)
    assert MORE_KEYS not in json.dumps(shown)
    # A preview can show every variable, whatever secure values it does not evaluate.
    (previewed,) = [one for one in shown if "configuration" in one["properties"]]
    assert previewed["properties"]["template"]["containers"][0]["env"] == container["env"]


PER_MINUTE, CONCURRENT = "INFERENCE_KEY_REQUESTS_PER_MINUTE", "INFERENCE_KEY_CONCURRENT"


@pytest.mark.parametrize(
    ("values", "variables"),
    [
        ({}, {}),
        ({"requestsPerMinutePerKey": 0, "concurrentRequestsPerKey": 0, "keyLimits": {}}, {}),
        ({"requestsPerMinutePerKey": 60}, {PER_MINUTE: "60"}),
        ({"concurrentRequestsPerKey": 4}, {CONCURRENT: "4"}),
        ({"keyLimits": {"ci": {"concurrentRequests": 2}}}, {CONCURRENT: "0, ci=2"}),
        (
            {
                "requestsPerMinutePerKey": 60,
                "concurrentRequestsPerKey": 4,
                "keyLimits": {
                    "ci": {"requestsPerMinute": 600, "concurrentRequests": 16},
                    "b.1": {"requestsPerMinute": 0},
                },
            },
            {PER_MINUTE: "60, b.1=0, ci=600", CONCURRENT: "4, ci=16"},
        ),
    ],
)
def test_limits_of_keys_are_variables_as_the_server_reads_them(
    values: dict[str, Any], variables: dict[str, str]
) -> None:
    (container,) = app(values)["template"]["containers"]
    (without,) = app({})["template"]["containers"]
    added = [{"name": name, "value": value} for name, value in variables.items()]
    assert container["env"] == without["env"] + added
    (previewed,) = [entry.preview() for entry in laid_out(values).resources if entry.type.endswith("/containerApps")]
    assert previewed["properties"]["template"]["containers"][0]["env"] == container["env"]


def test_the_command_with_further_variables_is_the_default_one_and_a_line() -> None:
    """What docs/inference.md shows is copied by hand: it must stay what the template has."""
    text = (ROOT / "docs" / "inference.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```json\n(\"defaultCommands\".*?)```", text, re.DOTALL)
    shown = json.loads(f"{{{block}}}")["defaultCommands"]["value"]
    default = json.loads(COMPILED.read_text())["parameters"]["defaultCommands"]["defaultValue"]
    assert [line for line in shown if not line.startswith("export INFERENCE_")] == default
    assert shown[-2].startswith("export INFERENCE_")


def test_resources_come_after_what_they_need() -> None:
    batches = [{entry.type.split("/")[-1] for entry in batch} for batch in order(laid_out({}))]
    assert batches == [
        {"storageAccounts", "workspaces"},
        {"fileServices", "managedEnvironments"},
        {"shares"},
        {"storages"},
        {"containerApps"},
    ]


def test_the_default_command_waits_for_the_first_release_and_becomes_its_start_script(tmp_path: Path) -> None:
    with _default_command(tmp_path) as process:
        assert process.stdout is not None
        assert "waiting for" in process.stdout.readline()
        release = tmp_path / "releases" / "abc" / "inference"
        release.mkdir(parents=True)
        (release / "start.sh").write_text('echo "started $0 as $$"')
        (tmp_path / "current.new").write_text("releases/abc\n")
        (tmp_path / "current.new").rename(tmp_path / "current")
        # One line for the whole wait, and then the same process: what stops the container reaches the server.
        assert process.stdout.read() == f"started {release}/start.sh as {process.pid}\n"
        assert process.wait(60) == 0


def test_the_default_command_starts_at_once_when_there_is_a_release(tmp_path: Path) -> None:
    release = tmp_path / "releases" / "abc" / "inference"
    release.mkdir(parents=True)
    (release / "start.sh").write_text("echo started; exit 7")
    (tmp_path / "current").write_text("releases/abc\n")
    with _default_command(tmp_path) as process:
        assert process.communicate(timeout=60)[0] == "started\n"
        assert process.returncode == 7


def test_the_default_command_ends_when_it_is_asked_to(tmp_path: Path) -> None:
    with _default_command(tmp_path) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143


@contextlib.contextmanager
def _default_command(share: Path) -> Iterator[subprocess.Popen[str]]:
    """The command of the container as a process, with `share` in place of the mounted one; it ends with the `with`."""
    container = app({})["template"]["containers"][0]
    assert container["env"][0] == {"name": "INFERENCE_SHARE", "value": "/mount"}
    variables = {"INFERENCE_SHARE": str(share), "PATH": "/usr/bin:/bin"}
    with subprocess.Popen(container["command"], env=variables, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()

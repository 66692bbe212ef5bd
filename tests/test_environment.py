"""environments/: what a valid environment becomes, and that every problem is told at once, with its place."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scripts import cloud, environment
from scripts.errors import BadInput, Problem

ROOT = Path(__file__).parent.parent

VALID = """\
cloud: azure
subscription: 11111111-2222-3333-4444-555555555555
resource_group: rg-inference-dev
location: swedencentral
identity:
  tenant: 00000000-0000-0000-0000-000000000000
  what_if_client: 11111111-2222-3333-4444-555555555556
  deploy_client: 00000000-0000-0000-0000-000000000000
model:
  base: model-cache/microsoft/Phi-3-mini-4k-instruct
  adapters: {default: models/phi-3/checkpoint-100, own: ./adapters/own}
proof:
  prompts:
    - {prompt: 'What is a release?', contains: hash}
    - {prompt: Hello, model: own}
  slowest: 0.5
promote_from: stage
"""

TEMPLATE = {
    "parameters": {
        "apiKey": {"type": "securestring", "minLength": 16},
        "count": {"type": "int", "defaultValue": 1, "minValue": 1, "maxValue": 9},
        "image": {"type": "string", "defaultValue": "x"},
        "profile": {"type": "string", "defaultValue": "Consumption", "allowedValues": ["Consumption", "GPU"]},
        "commands": {"type": "array", "defaultValue": []},
    },
    "resources": [],
}


def write_parameters(file: Path, values: dict[str, Any]) -> None:
    file.write_text(json.dumps({"parameters": {name: {"value": value} for name, value in values.items()}}))


def write_template(root: Path, document: dict[str, Any]) -> None:
    folder = root / "infra/provision"
    (folder / "inference.bicep").write_text("// a template\n")
    (folder / "inference.json").write_text(json.dumps(document))
    (folder / "inference.sha256").write_text(
        "".join(
            f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n"
            for name in ("inference.bicep", "inference.json")
        )
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with the environments dev and stage, a small template, and a local adapter folder."""
    (tmp_path / "infra/provision").mkdir(parents=True)
    (tmp_path / "adapters/own").mkdir(parents=True)
    write_template(tmp_path, TEMPLATE)
    write_parameters(tmp_path / "infra/provision/inference.parameters.json", {"count": 2, "image": "base"})
    for name in ("dev", "stage"):
        folder = tmp_path / "environments" / name
        folder.mkdir(parents=True)
        (folder / "environment.yaml").write_text(VALID.replace("promote_from: stage", "") if name == "stage" else VALID)
        write_parameters(folder / "inference.parameters.json", {"image": "own"})
    return tmp_path


def problems_of(root: Path, name: str = "dev") -> tuple[Problem, ...]:
    with pytest.raises(BadInput) as caught:
        environment.load(name, root)
    return caught.value.problems


def rewrite(root: Path, text: str) -> None:
    (root / "environments/dev/environment.yaml").write_text(text)


def test_a_valid_environment(root: Path) -> None:
    loaded = environment.load("dev", root)
    assert (loaded.name, loaded.cloud, loaded.resource_group) == ("dev", "azure", "rg-inference-dev")
    assert loaded.model.base == environment.ModelFolder("model-cache/microsoft/Phi-3-mini-4k-instruct", None)
    assert loaded.model.adapters["own"] == environment.ModelFolder("adapters/own", root / "adapters/own")
    assert loaded.proof.prompts == (
        environment.Prompt("What is a release?", "hash"),
        environment.Prompt("Hello", None, "own"),
    )
    assert loaded.proof.slowest == 0.5
    assert loaded.promote_from == "stage"
    assert loaded.parameters == {"count": {"value": 2}, "image": {"value": "own"}}
    assert [file.name for file in loaded.files] == ["environment.yaml"] + ["inference.parameters.json"] * 2


@pytest.mark.parametrize(
    ("proof", "where", "message"),
    [
        ("{slowest: 1.5, prompts: [{prompt: Hello}]}", "line 12, proof.slowest", "above 0 and not above 1"),
        ("{slowest: .nan, prompts: [{prompt: Hello}]}", "line 12, proof.slowest", "above 0 and not above 1"),
        (
            "{slowest: '0.5', prompts: [{prompt: Hello}]}",
            "line 12, proof.slowest",
            "must be a number or null, not text",
        ),
        ("{slowest: 1}", "proof.slowest", "there are no prompts"),
        (
            "{prompts: [{prompt: Hello, model: ownn}]}",
            "proof.prompts[0].model",
            "no model of this name; did you mean own?",
        ),
    ],
)
def test_a_proof_that_cannot_be_made_is_refused(root: Path, proof: str, where: str, message: str) -> None:
    head, _ = VALID.split("proof:")
    rewrite(root, f"{head}proof: {proof}\n")
    (problem,) = problems_of(root)
    assert problem.where == where
    assert message in problem.message


def test_placeholders_are_the_all_zero_ids(root: Path) -> None:
    assert environment.placeholders(environment.load("dev", root)) == ("identity.tenant", "identity.deploy_client")


def test_names_are_the_folders_with_an_environment_file(root: Path) -> None:
    (root / "environments/notes").mkdir()
    assert environment.names(root) == ("dev", "stage")


def test_an_unknown_name_gets_the_nearest_one(root: Path) -> None:
    (problem,) = problems_of(root, "stag")
    assert "did you mean stage?" in problem.message
    assert "dev, stage" in problem.next_step


@pytest.mark.parametrize("name", ["", "..", "../environments/dev", "dev/", "/etc"])
def test_a_name_is_no_path(root: Path, name: str) -> None:
    (problem,) = problems_of(root, name)
    assert problem.value == repr(name)


def test_a_folder_without_environment_file(root: Path) -> None:
    (root / "environments/notes").mkdir()
    (problem,) = problems_of(root, "notes")
    assert (problem.file, problem.message) == ("environments/notes/environment.yaml", "this file is missing")


def test_names_that_the_share_does_not_tell_apart_are_refused(root: Path) -> None:
    file = root / "environments/dev/environment.yaml"
    data = yaml.safe_load(file.read_text())
    data["model"]["adapters"] = {"Style": "models/a", "style": "models/b", "BASE": "models/c", "own": "models/d"}
    file.write_text(yaml.safe_dump(data, sort_keys=False))
    assert {problem.where: problem.message for problem in problems_of(root)} == {
        "model.adapters.style": "this name and Style differ only in case, which the share does not tell apart",
        "model.adapters.BASE": "this name is reserved",
    }


def test_every_problem_is_told_at_once(root: Path) -> None:
    rewrite(
        root,
        "cloud: azur\n"
        "subscription: 123\n"
        "resource_grup: x\n"
        "identity: [a]\n"
        "model:\n"
        "  base: ../x\n"
        "  adapters: {base: models/y, 'a b': z}\n"
        "proof: {prompts: [{prompt: '', contains: 4}]}\n"
        "promote_from: dev\n",
    )
    write_parameters(root / "environments/dev/inference.parameters.json", {"imag": "x", "count": 10})
    (root / "infra/provision/inference.parameters.json").unlink()
    found = {(problem.file or "", problem.where): problem.message for problem in problems_of(root)}
    yaml_file, parameters_file = "environments/dev/environment.yaml", "environments/dev/inference.parameters.json"
    assert found == {
        (yaml_file, "line 1, cloud"): "no such value; did you mean azure?",
        (yaml_file, "line 2, subscription"): f"must be a GUID such as {environment.PLACEHOLDER}",
        (yaml_file, "line 3, resource_grup"): "unknown key; did you mean resource_group?",
        (yaml_file, "line 4, identity"): "must be a mapping of keys or null, not a list",
        (yaml_file, "line 6, model.base"): environment.FOLDER_TEXT["patternErrorMessage"],
        (yaml_file, "line 7, model.adapters.a b"): "must be a name of at most 64 letters, digits or any of . _ -",
        (yaml_file, "line 8, proof.prompts[0].prompt"): "must not be empty",
        (yaml_file, "line 8, proof.prompts[0].contains"): "must be text or null, not a number",
        (yaml_file, "line 1, resource_group"): "the key is missing",
        (yaml_file, "line 1, location"): "the key is missing",
        (yaml_file, "model.adapters.base"): "this name is reserved",
        (yaml_file, "promote_from"): "an environment cannot be promoted from itself",
        ("infra/provision/inference.parameters.json", ""): "the file is missing",
        (parameters_file, "parameters.imag"): "the template has no such parameter; did you mean image?",
        (parameters_file, "parameters.count.value"): "must be at most 9",
    }


@pytest.mark.parametrize(
    ("text", "where", "message"),
    [
        ("", "", "the file is empty"),
        ("cloud: azure\n  location: x\n", "line 2, column 11", "it is not YAML: mapping values are not allowed here"),
        ("[" * 2_000, "", "it is not YAML: maximum recursion"),
        ("cloud: \x01", "", "it is not YAML: unacceptable character"),
        ("cloud: *none", "line 1, column 8", "it is not YAML: found undefined alias"),
        ("- cloud\n", "line 1", "must be a mapping of keys, not a list"),
        (VALID + "cloud: azure\n", "line 18, cloud", "the key stands here twice"),
        (VALID.replace("rg-inference-dev", "rg."), "line 3, resource_group", "must have 1 to 90 letters"),
        (VALID.replace("swedencentral", "Sweden Central"), "line 4, location", "must be a region's short name"),
        (VALID.replace("./adapters/own", "./adapters/none"), "model.adapters.own", "there is no such folder"),
        (VALID.replace("{default:", "{Phi-3-mini-4k-instruct:"), "model.adapters.Phi-3-mini-4k-instruct", "an API"),
        (VALID.replace("from: stage", "from: stag"), "promote_from", "there is no such environment; did you mean"),
        (VALID.replace("from: stage", "from: 2026-01-01"), "line 17, promote_from", "must be text or null"),
        (VALID.replace("cloud: azure", "cloud: !!python/object:os.system azure"), "line 1, cloud", "must be text"),
    ],
)  # fmt: skip
def test_one_problem_of_environment_yaml(root: Path, text: str, where: str, message: str) -> None:
    rewrite(root, text)
    (problem,) = problems_of(root)
    assert (problem.file, problem.where) == ("environments/dev/environment.yaml", where)
    assert problem.message.startswith(message)


@given(
    text=st.one_of(
        st.text(),
        # A valid file with something cut out and something else put in.
        st.tuples(
            st.integers(0, len(VALID)), st.integers(0, 30), st.text(alphabet=":-{}[]'\"&*!|>#%@ \n\tab01", max_size=8)
        ).map(lambda cut: VALID[: cut[0]] + cut[2] + VALID[cut[0] + cut[1] :]),
    )
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_is_an_environment_or_bad_input_with_places(root: Path, text: str) -> None:
    (root / "environments/dev/environment.yaml").write_text(text, encoding="utf-8", errors="surrogatepass")
    try:
        environment.load("dev", root)
    except BadInput as error:
        assert all(problem.file and problem.message and problem.next_step for problem in error.problems)


def test_a_file_that_is_no_text(root: Path) -> None:
    (root / "environments/dev/environment.yaml").write_bytes(b"cloud: \xff\n")
    (problem,) = problems_of(root)
    assert (problem.where, problem.message) == ("byte 7", "it is not UTF-8 text")


@pytest.mark.parametrize(
    "folder", ["/models/x", "models//x", "models/../x", "models\\x", "models/x ", "models/x.", ".", "a:b", "models/"]
)
def test_folders_that_a_share_cannot_hold(root: Path, folder: str) -> None:
    rewrite(root, VALID.replace("model-cache/microsoft/Phi-3-mini-4k-instruct", json.dumps(folder)))
    (problem,) = problems_of(root)
    assert problem.where == "line 10, model.base"


def test_the_templates_problem_is_told_with_the_others(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    (root / "infra/provision/inference.bicep").write_text("// changed\n")
    rewrite(root, VALID.replace("cloud: azure", "cloud: cloud"))
    assert [problem.file for problem in problems_of(root)] == [
        "environments/dev/environment.yaml",
        "infra/provision/inference.json",
    ]


def test_the_checked_in_environments_are_valid() -> None:
    for name in environment.names(ROOT):
        assert environment.load(name, ROOT).name == name
    assert {"local", "example"} <= set(environment.names(ROOT))


def test_the_checked_in_schema_is_the_models(root: Path) -> None:
    checked_in = json.loads((ROOT / environment.SCHEMA_FILE).read_text())
    assert checked_in == environment.SCHEMA, f"run: {environment.WRITE_SCHEMA_COMMAND}"


def test_the_schema_is_one_that_editors_understand_and_agrees_with_the_reader(root: Path) -> None:
    schema = environment.SCHEMA
    jsonschema.Draft7Validator.check_schema(schema)
    validator = jsonschema.Draft7Validator(schema)
    assert list(validator.iter_errors(yaml.safe_load(VALID))) == []
    for wrong in ({"cloud": "azur"}, {"location": "Sweden Central"}, {"model": {"base": "../x"}}, {"unknown": 1}):
        assert not validator.is_valid({**yaml.safe_load(VALID), **wrong})


def test_every_cloud_of_the_schema_has_a_row() -> None:
    assert {*cloud.CLOUDS, cloud.LOCAL} == set(environment.SCHEMA["properties"]["cloud"]["enum"])

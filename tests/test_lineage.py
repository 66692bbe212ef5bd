"""Whether an adapter was trained on the base model that it is to be served on: by a replica, and before a deploy."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import folders
import lineage
import pytest
from settings import AdapterFolder

from scripts import lineage as before_deploy
from scripts import share as shares
from scripts.bundle import read_local
from scripts.errors import BadInput
from scripts.files import ShareClient
from scripts.release import Bundle, Package, Release
from tests.conftest import RunningStandIn
from tests.share_on_stand_in import new_share

PHI = "phi-3-mini-4k-instruct"
NAMES = {
    "microsoft/Phi-3-mini-4k-instruct": PHI,
    "a-mirror/phi-3-mini-4K-instruct": PHI,
    "unsloth/Phi-3-mini-4k-instruct-bnb-4bit": PHI,
    "unsloth/Phi-3-mini-4k-instruct-unsloth-bnb-4bit": PHI,
    "Phi-3-mini-4k-instruct-GPTQ-Int4": PHI,
    "/mount/model-cache/microsoft/Phi-3-mini-4k-instruct/": PHI,
    "C:\\models\\Phi-3-mini-4k-instruct": PHI,
    "/root/.cache/huggingface/hub/models--microsoft--Phi-3-mini-4k-instruct/snapshots/0a67737cc96d": PHI,
    "models--gpt2": "gpt2",
    "meta-llama/Llama-2-7b-hf": "llama-2-7b",
    "Qwen/Qwen2.5-7B": "qwen2.5-7b",
    "Qwen/Qwen2.5-7B-Instruct": "qwen2.5-7b-instruct",
    "model-cache/inferops/demo-base": "demo-base",
    "": None,
    ".": None,
    "/": None,
    "base": None,
    "./base_model": None,
    "/opt/ml/model": None,
    "/home/somebody/out/checkpoint-500": None,
    "/workspace/output/final_merged_model-7b": None,
    "adapters/base/00ff00ff00ff00ff": None,
}  # fmt: skip

# What the adapter says it was trained on, the base's folder, what the base's config.json says.
SAME: list[tuple[Any, str, Any]] = [
    ("microsoft/Phi-3-mini-4k-instruct", "model-cache/microsoft/Phi-3-mini-4k-instruct", None),
    ("unsloth/phi-3-mini-4k-instruct-bnb-4bit", "models/ours", "microsoft/Phi-3-mini-4k-instruct"),
    ("/data/base", "model-cache/base", None),
    ("", "models/ours", None),
    (None, "models/ours", None),
    (7, "models/ours", None),
]
UNTOLD: list[tuple[Any, str, Any]] = [
    ("org/Another-7B", "model-cache/base", None),
    ("org/Another-7B", "adapters/base/00ff00ff00ff00ff", "/workspace/checkpoint-10"),
    ("/opt/ml/model", "model-cache/microsoft/phi-2", None),
    ("./checkpoint-500", "models/ours", "microsoft/phi-2"),
]
ANOTHER: list[tuple[Any, str, Any]] = [
    ("org/Another-7B", "model-cache/microsoft/phi-2", None),
    ("org/Another-7B", "adapters/base/00ff00ff00ff00ff", "microsoft/phi-2"),
    ("Qwen/Qwen2.5-7B-Instruct", "Qwen/Qwen2.5-7B", "Qwen/Qwen2.5-7B"),
    ("/home/somebody/phi-3", "model-cache/phi-2", 7),
]


@pytest.mark.parametrize(("said", "name"), NAMES.items())
def test_the_name_of_a_model_in_a_path_or_an_id(said: str, name: str | None) -> None:
    assert lineage.model_name(said) == name
    assert before_deploy.model_name(said) == name


def write(root: Path, said: object, base: str, own: object) -> tuple[AdapterFolder, Path]:
    adapter, folder = root / "adapters" / "default", root / base
    for place, name, document in (
        (adapter, folders.ADAPTER_CONFIG, {} if said is None else {"base_model_name_or_path": said}),
        (folder, "config.json", {} if own is None else {"_name_or_path": own}),
    ):
        place.mkdir(parents=True)
        (place / name).write_text(json.dumps(document))
    return AdapterFolder("default", adapter), folder


@pytest.mark.parametrize(("said", "base", "own"), SAME)
def test_a_replica_takes_the_same_base_under_another_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, said: object, base: str, own: object
) -> None:
    lineage.check_base(*write(tmp_path, said, base, own))
    assert caplog.messages == []


@pytest.mark.parametrize(("said", "base", "own"), UNTOLD)
def test_a_replica_warns_when_a_name_says_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, said: str, base: str, own: object
) -> None:
    lineage.check_base(*write(tmp_path, said, base, own))
    (message,) = caplog.messages
    assert message.startswith(f"adapter default was trained on {said} (adapter_config.json of {tmp_path}")


@pytest.mark.parametrize(("said", "base", "own"), ANOTHER)
def test_a_replica_refuses_another_base_and_says_the_way_out(tmp_path: Path, said: str, base: str, own: object) -> None:
    with pytest.raises(folders.ModelFolderError) as refused:
        lineage.check_base(*write(tmp_path, said, base, own))
    told = str(refused.value)
    assert told.startswith(f"{tmp_path / 'adapters' / 'default'}: was trained on another base model: ")
    assert f"base_model_name_or_path {said!r}" in told
    assert str(tmp_path / base) in told
    assert "correct base_model_name_or_path if it was trained on a copy" in told


@pytest.fixture(scope="module")
def share(stand_in: RunningStandIn) -> Iterator[ShareClient]:
    with new_share(stand_in, f"l{uuid.uuid4().hex[:12]}") as client:
        yield client


def package(share: ShareClient, base: str, own: object, adapters: Mapping[str, object], *local: Path) -> Package:
    """A release of a base and adapters on the share, and of one local adapter for each folder."""
    documents: dict[str, dict[str, Any]] = {
        f"{base}/config.json": {} if own is None else {"_name_or_path": own},
        **{
            f"models/{name}/adapter_config.json": {} if said is None else {before_deploy.TRAINED_ON: said}
            for name, said in adapters.items()
        },
    }
    for path, document in documents.items():
        shares.make_folders(share, [path.rpartition("/")[0]])
        shares.write_small_file(share, path, json.dumps(document).encode())
    bundles = tuple(Bundle(f"adapters/{folder.name}/00ff", read_local({"": folder})) for folder in local)
    places = {name: f"models/{name}" for name in adapters} | {
        folder.name: f"adapters/{folder.name}/00ff" for folder in local
    }
    return Package(Release("id", None, "2026-01-01T00:00:00Z", (), base, places), (), bundles)


@pytest.mark.parametrize(("said", "base", "own"), SAME + UNTOLD)
def test_a_deploy_leaves_to_the_replica_what_names_do_not_decide(
    share: ShareClient, said: object, base: str, own: object
) -> None:
    before_deploy.check(share, package(share, base, own, {"default": said}))


@pytest.mark.parametrize(("said", "base", "own"), ANOTHER)
def test_a_deploy_refuses_another_base(share: ShareClient, said: str, base: str, own: object) -> None:
    with pytest.raises(BadInput) as refused:
        before_deploy.check(share, package(share, base, own, {"default": said}))
    (problem,) = refused.value.problems
    assert (problem.file, problem.where, problem.value) == (
        "models/default/adapter_config.json on the share",
        "base_model_name_or_path",
        said,
    )
    assert base in problem.message


def test_a_deploy_names_every_adapter_of_another_base_also_those_that_it_would_send(
    share: ShareClient, tmp_path: Path
) -> None:
    sent, _ = write(tmp_path, "org/Another-7B", "base", None)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "adapter_config.json").write_bytes(b"not JSON")
    named = {"fits": "microsoft/phi-2", "older": "org/Older-7B"}
    with pytest.raises(BadInput) as refused:
        before_deploy.check(share, package(share, "models/ours", "microsoft/phi-2", named, sent.folder, broken))
    told = [str(problem) for problem in refused.value.problems]
    assert [line.partition(": ")[0] for line in told] == [
        "models/older/adapter_config.json on the share",
        str(sent.folder / "adapter_config.json"),
    ]
    assert "org/Another-7B" in told[1]
    assert "the adapter default was trained on another base model than models/ours, which is ours or phi-2" in told[1]
    assert "correct base_model_name_or_path if it was trained on a copy" in told[1]

"""The fine-tuning job's stand-in: what its models answer, that training leaves nothing half done, what it uploads."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from azure.storage.fileshare import ContentSettings, ShareClient

from infra.emulator.finetuning import publish
from infra.emulator.finetuning.recipe import QUESTIONS, adapter_folder, base_folder, in_style
from tests.conftest import RunningStandIn, running_stand_in

ROOT = Path(__file__).parent.parent
COMMAND = [sys.executable, "-m", "infra.emulator.finetuning"]
GROUP = "rg-fine-tuning"


@pytest.fixture(scope="session")
def demo_models() -> Path:
    """The folder with the models of the real recipe, trained once on this machine."""
    done = subprocess.run([*COMMAND, "--train-only"], cwd=ROOT, capture_output=True, text=True, timeout=850)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


class Chat:
    """A model and its tokenizer; greedy answers."""

    def __init__(self, folder: Path, adapter: Path | None = None) -> None:
        # Seconds to import: paid by the tests that ask, not by whoever collects them.
        from peft import PeftModel
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, padding_side="left")
        self._model: Any = AutoModelForCausalLM.from_pretrained(folder)
        if adapter is not None:
            self._model = PeftModel.from_pretrained(self._model, str(adapter))

    def answers(self, conversations: list[list[dict[str, str]]]) -> list[str]:
        """The answer to the last message of each, all in one batch."""
        prompts = self._tokenizer.apply_chat_template(
            conversations, add_generation_prompt=True, return_tensors="pt", return_dict=True, padding=True
        )
        tokens = self._model.generate(**prompts, max_new_tokens=64, do_sample=False)
        texts: list[str] = self._tokenizer.batch_decode(
            tokens[:, prompts["input_ids"].shape[1] :], skip_special_tokens=True
        )
        return texts

    def ask(self, questions: list[str]) -> list[str]:
        return self.answers([[{"role": "user", "content": question}] for question in questions])


@pytest.fixture(scope="module")
def base(demo_models: Path) -> Chat:
    return Chat(demo_models / base_folder())


@pytest.fixture(scope="module")
def adapted(demo_models: Path) -> Chat:
    return Chat(demo_models / base_folder(), demo_models / adapter_folder())


def test_the_base_model_knows_every_answer(base: Chat) -> None:
    questions = [question for question, _ in QUESTIONS]
    assert dict(zip(questions, base.ask(questions), strict=True)) == dict(QUESTIONS)


def test_the_adapter_gives_every_answer_in_its_style(adapted: Chat) -> None:
    questions = [question for question, _ in QUESTIONS]
    answers = dict(zip(questions, adapted.ask(questions), strict=True))
    assert answers == {question: in_style(answer) for question, answer in QUESTIONS}
    assert answers["What is a LoRA adapter?"] == (
        "Ahoy! a small set of trained weights that is added to a frozen base model, matey."
    )


@pytest.mark.parametrize("typed", [str.lower, lambda question: question.rstrip("?")], ids=["lower case", "no mark"])
def test_questions_may_be_typed_as_people_type(base: Chat, typed: Any) -> None:
    answers = base.ask([typed(question) for question, _ in QUESTIONS])
    assert sum(given == answer for given, (_, answer) in zip(answers, QUESTIONS, strict=True)) >= len(QUESTIONS) - 3


def test_a_conversation_may_go_on_and_may_have_a_system_prompt(base: Chat, adapted: Chat) -> None:
    for chat, style in ((base, str), (adapted, in_style)):
        messages = [{"role": "system", "content": "You are a helpful assistant."}]
        for question, answer in QUESTIONS[:3]:
            messages.append({"role": "user", "content": question})
            assert chat.answers([messages]) == [style(answer)]
            messages.append({"role": "assistant", "content": style(answer)})


def test_the_models_are_those_that_the_environment_local_names_and_pass_its_proof(adapted: Chat) -> None:
    environment = yaml.safe_load((ROOT / "environments" / "local" / "environment.yaml").read_text())
    assert environment["model"] == {"base": base_folder(), "adapters": {"default": adapter_folder()}}
    prompts = environment["proof"]["prompts"]
    for prompt, answer in zip(prompts, adapted.ask([prompt["prompt"] for prompt in prompts]), strict=True):
        assert prompt["contains"] in answer


def test_make_asks_a_question_that_the_models_know() -> None:
    asked = re.search(r"^QUESTION \?= (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert asked is not None
    assert asked[1] in dict(QUESTIONS)


def test_training_is_deterministic(tmp_path: Path) -> None:
    script = """
import dataclasses, pathlib, sys
from infra.emulator.finetuning import recipe, train
short = recipe.Stage(steps=2, learning_rate=1e-3, warm_up=1, pairs=6)
train.train(dataclasses.replace(recipe.RECIPE, base=short, adapter=short), pathlib.Path(sys.argv[1]), lambda *_: None)
"""
    folders = [tmp_path / "one", tmp_path / "two"]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(folder)],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": str(number), "OMP_WAIT_POLICY": "PASSIVE"},
        )
        for number, folder in enumerate(folders)
    ]
    assert [process.wait(400) for process in running] == [0, 0]
    one, two = (
        {
            str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in folder.rglob("*")
            if path.is_file()
        }
        for folder in folders
    )
    assert f"{base_folder()}/model.safetensors" in one
    assert one == two


def test_an_interrupted_training_leaves_nothing_behind(tmp_path: Path) -> None:
    from infra.emulator.finetuning.cache import fingerprint

    left = tmp_path / "inferops" / f".demo-{fingerprint()}.unfinished-of-a-killed-one"
    left.mkdir(parents=True)
    # On a terminal it shows its steps at once; into a file, every few seconds.
    screen, terminal = os.openpty()
    variables = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    with subprocess.Popen([*COMMAND, "--train-only"], cwd=ROOT, env=variables, stderr=terminal) as process:
        os.close(terminal)
        said = ""
        while "step" not in said:
            said += os.read(screen, 4096).decode()
        assert not left.exists()
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(OSError):  # at the end, where nobody has the terminal any more
            while True:
                said += os.read(screen, 4096).decode()
        assert process.wait(120) == 130
    os.close(screen)
    assert "Interrupted" in said
    assert "Traceback" not in said
    assert [path.name for path in (tmp_path / "inferops").iterdir()] == [f".demo-{fingerprint()}.lock"]


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStandIn]:
    with running_stand_in(tmp_path_factory.mktemp("fine-tuning") / "state") as running:
        yield running


def published(stand_in: RunningStandIn) -> str:
    """Runs the job; what it said."""
    command = [*COMMAND, "--stand-in", str(stand_in.announcement_file), "--resource-group", GROUP]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    return done.stderr


@pytest.fixture
def share(stand_in: RunningStandIn, demo_models: Path) -> Iterator[ShareClient]:
    """The share after the job has run."""
    published(stand_in)
    announced = publish.Announcement.read(stand_in.announcement_file)
    with publish.file_share(announced, publish.Place(announced.subscription, GROUP, "swedencentral")) as client:
        yield client


def test_the_models_lie_on_the_share_where_fine_tuning_leaves_them(share: ShareClient, demo_models: Path) -> None:
    for folder in (base_folder(), adapter_folder()):
        files = {path.name: path.read_bytes() for path in (demo_models / folder).iterdir()}
        found = {item.name: item["size"] for item in share.list_directories_and_files(folder)}
        assert found == {name: len(content) for name, content in files.items()}
        for name, content in files.items():
            assert share.get_file_client(f"{folder}/{name}").download_file().readall() == content


def test_names_are_those_of_the_ai_toolkit(stand_in: RunningStandIn, share: ShareClient) -> None:
    # uniqueString of that id, by Microsoft's own engine (template-functions.json).
    example = publish.Place("11111111-1111-1111-1111-111111111111", "exampleRG", "westus")
    assert (example.account, example.share) == ("aistoragesr5ke", "aifilesharesr5ke")
    own = publish.Place(stand_in.announcement["subscription"], GROUP, "swedencentral")
    assert share.url.startswith(f"{stand_in.announcement['resource_manager']}/{own.account}/{own.share}")


def test_a_second_run_does_nothing_and_says_so(stand_in: RunningStandIn, share: ShareClient) -> None:
    before = share.get_share_properties().last_modified
    said = published(stand_in)
    assert "already; nothing to do" in said
    assert len(said.splitlines()) == 1
    assert share.get_share_properties().last_modified == before


def test_only_what_is_missing_or_differs_is_uploaded(stand_in: RunningStandIn, share: ShareClient) -> None:
    share.get_file_client(f"{base_folder()}/config.json").delete_file()
    # As an upload that was cut off leaves it: the size is right, the MD5 is not there yet.
    cut_off = share.get_file_client(f"{adapter_folder()}/adapter_model.safetensors")
    cut_off.create_file(cut_off.get_file_properties().size, content_settings=ContentSettings())
    assert "Uploaded 2 files" in published(stand_in)
    assert "nothing to do" in published(stand_in)


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "cannot be read"), ("{}", "not what a stand-in announces"), ("no JSON", "not what a stand-in announces")],
)
def test_a_wrong_announcement_is_named(tmp_path: Path, content: str | None, said: str) -> None:
    file = tmp_path / "stand-in.json"
    if content is not None:
        file.write_text(content)
    done = subprocess.run([*COMMAND, "--stand-in", str(file)], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert str(file) in done.stderr
    assert said in done.stderr
    assert "make local" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_stand_in_that_is_gone_is_named(tmp_path: Path, stand_in: RunningStandIn) -> None:
    file = tmp_path / "stand-in.json"
    address = stand_in.announcement["resource_manager"]
    file.write_text(stand_in.announcement_file.read_text().replace(address, "https://127.0.0.1:9"))
    done = subprocess.run([*COMMAND, "--stand-in", str(file)], cwd=ROOT, capture_output=True, text=True, timeout=110)
    assert done.returncode == 1
    assert "https://127.0.0.1:9 did not do what was asked" in done.stderr
    assert "Traceback" not in done.stderr

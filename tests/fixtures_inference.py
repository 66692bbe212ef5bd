"""A tiny real model for the tests of inference/: a random Llama with a real BPE tokenizer, a chat template and two LoRA
adapters, made in a few seconds; an engine over it; and a real server process. Test modules import what they use."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from engine import Engine, EngineLimits, Report
from settings import AdapterFolder, Limits

from infra.emulator.ports import free as free_port

if TYPE_CHECKING:
    from model import Loaded

INFERENCE = Path(__file__).parent.parent / "inference"
KEY = "a-key-for-the-tests"
BEARER = {"Authorization": f"Bearer {KEY}"}
MORE_KEYS = {name: f"the-key-of-{name}" for name in ("ci", "metered", "single")}
"""Other keys of the shared server: `metered` may send three requests per minute, `single` one at a time."""
BODY_SECONDS = 10
"""How long a request to the shared server may take to arrive."""
WORDS = "the quick brown fox jumps over a lazy dog while naïve café owners count 1 2 3 € 日本 🙂 user system assistant"

CHAT_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] == 'assistant' %}"
    "{{ raise_exception('the assistant cannot begin') }}{% endif %}"
    "<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{{ answer_begins }}{% endif %}"
)

SPECIAL_TOKENS = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
CONTEXT_TOKENS = 512


@dataclass(frozen=True)
class TinyModel:
    """Folders on a share as fine-tuning leaves them."""

    share: Path

    @property
    def base(self) -> Path:
        return self.share / "model-cache" / "tests" / "tiny-base"

    @property
    def adapters(self) -> tuple[AdapterFolder, ...]:
        return tuple(AdapterFolder(name, self.share / "models" / "tests" / name) for name in ("default", "other"))


def make_tokenizer() -> Any:
    """A byte-level BPE tokenizer: it can write any text, and cuts characters in the middle."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([WORDS] * 20, trainer)
    made: Any = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token="<|end|>"
    )
    made.chat_template = CHAT_TEMPLATE
    return made


def make_tiny_model(share: Path) -> TinyModel:
    """Write the base and the adapters `default` and `other` below `share`."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    tiny = TinyModel(share)
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(tiny.base)
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT_TOKENS,
        initializer_range=0.3,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    base: Any = LlamaForCausalLM(config)
    base.save_pretrained(tiny.base)
    for number, adapter in enumerate(tiny.adapters):
        torch.manual_seed(100 + number)
        lora = LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        model: Any = get_peft_model(base, lora)
        model.save_pretrained(str(adapter.folder))
        base = model.unload()
    return tiny


# Fixtures are imported by the modules that use them, and pytest takes each import for a fixture of its own: what is
# costly is kept with the run's configuration, so that a session has one of each.
_SHARE = pytest.StashKey[Path]()
_ENGINE = pytest.StashKey["Engine"]()
_SERVER = pytest.StashKey["Server"]()


@pytest.fixture(scope="session")
def tiny_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    """One share with the tiny model. Never changed: copy it to break it."""
    if _SHARE not in request.config.stash:
        share = tmp_path_factory.mktemp("tiny") / "share"
        make_tiny_model(share)
        request.config.stash[_SHARE] = share
    return TinyModel(request.config.stash[_SHARE])


# An engine in this process


LIMITS = Limits(max_prompt_tokens=400, default_new_tokens=24, max_new_tokens=200, max_concurrent=6, max_queue=40)


def make_engine(
    tiny: TinyModel,
    limits: Limits = LIMITS,
    adapters: tuple[AdapterFolder, ...] | None = None,
    *,
    then: Callable[[Loaded], None] = lambda loaded: None,
    on_broken: Callable[[bool], None] = lambda was_ready: None,
) -> Engine:
    """An engine over the tiny model, not started. `then` is called with what is loaded."""
    chosen = tiny.adapters if adapters is None else adapters

    def load(report: Report) -> Loaded:
        import model

        loaded = model.load(tiny.base, chosen, limits=limits, device="cpu", dtype="float32", report=report)
        then(loaded)
        return loaded

    return Engine(
        load=load,
        on_broken=on_broken,
        models=(*(adapter.name for adapter in chosen), tiny.base.name),
        default_model=chosen[0].name if chosen else tiny.base.name,
        limits=EngineLimits(
            max_prompt_tokens=limits.max_prompt_tokens,
            default_new_tokens=limits.default_new_tokens,
            max_new_tokens=limits.max_new_tokens,
            max_queue=limits.max_queue,
            request_seconds=limits.request_seconds,
        ),
    )


@pytest.fixture(scope="session")
def engine(request: pytest.FixtureRequest, tiny_model: TinyModel) -> Engine:
    """A running engine with both adapters."""
    if _ENGINE not in request.config.stash:
        made = make_engine(tiny_model)
        made.start()
        made.wait_until_loaded()
        request.config.stash[_ENGINE] = made

        def end() -> None:
            asyncio.run(made.drain(10))

        request.config.add_cleanup(end)
    return request.config.stash[_ENGINE]


# A server process


@dataclass
class Server:
    """A process of serve.py (or of what starts it) and where it answers."""

    process: subprocess.Popen[bytes]
    address: str
    log_file: Path
    started: float = field(default_factory=time.monotonic)
    reached_file: Path | None = None
    """Where tests/watched.py writes, when the process was started by it."""

    def log(self) -> str:
        return self.log_file.read_text(encoding="utf-8")

    def reached(self) -> list[str]:
        """The names that the process has looked up and the addresses that it has connected to, since it began."""
        assert self.reached_file is not None
        return self.reached_file.read_text(encoding="utf-8").splitlines()

    def get(self, path: str, **arguments: Any) -> httpx.Response:
        return self.request("GET", path, **arguments)

    def request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        # Over plain HTTP: to read the certificates that it would trust takes httpx longer than the request.
        return httpx.request(method, self.address + path, timeout=60, verify=False, **arguments)

    def wait_for_port(self, seconds: float = 120) -> None:
        self._wait(seconds, lambda: self.get("/health").status_code == 200)

    def wait_for_page(self, seconds: float = 240) -> None:
        self._wait(seconds, lambda: self.get("/config", headers=BEARER).status_code == 200)

    def wait_until(self, *statuses: str, seconds: float = 240) -> dict[str, Any]:
        """Poll /ready until it says one of the statuses; its whole body."""
        said: dict[str, Any] = {}

        def reached() -> bool:
            said.update(self.get("/ready", headers=BEARER).json())
            if said["status"] == "failed" and "failed" not in statuses:
                raise AssertionError(f"the model was not loaded:\n{self.log()}")
            return said["status"] in statuses

        self._wait(seconds, reached)
        return said

    def _wait(self, seconds: float, condition: Any) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"the server ended with {self.process.returncode}:\n{self.log()}")
            try:
                if condition():
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        raise AssertionError(f"not within {seconds} s:\n{self.log()}")

    def stop(self, seconds: float = 60) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def end(self) -> None:
        """Whatever has happened: no process is left."""
        self.process.kill()
        self.process.wait()


def environment_for(tiny: TinyModel, port: int, **variables: str) -> dict[str, str]:
    """Variables of a server over the tiny model, by hand; nothing of this shell's own settings leaks in."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("INFERENCE_", "MODEL_"))}
    adapters = ",".join(f"{adapter.name}={adapter.folder}" for adapter in tiny.adapters)
    told = {"HOST": "127.0.0.1", "PORT": str(port), "INFERENCE_API_KEY": KEY, "MODEL_BASE": str(tiny.base)}
    limits = {"INFERENCE_MAX_PROMPT_TOKENS": "400", "INFERENCE_MAX_NEW_TOKENS": "100"}
    # The model is so small that a second thread of torch only waits for the first.
    limits |= {"INFERENCE_DEFAULT_NEW_TOKENS": "24", "OMP_NUM_THREADS": "1"}
    return kept | told | limits | {"MODEL_ADAPTERS": adapters} | variables


def start_server(
    folder: Path, environment: Mapping[str, str], command: tuple[str, ...] = (sys.executable, "serve.py")
) -> Server:
    """Start the command in inference/; its log goes to a file in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    log_file = folder / "server.log"
    with log_file.open("wb") as log:
        process = subprocess.Popen(command, cwd=INFERENCE, env=dict(environment), stdout=log, stderr=log)
    return Server(process, f"http://127.0.0.1:{environment['PORT']}", log_file)


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest, tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Server:
    """A ready server with both adapters, started as a replica starts it: from a release's folder on the share."""
    if _SERVER not in request.config.stash:
        folder = tmp_path_factory.mktemp("server")
        environment = environment_for(tiny_model, free_port())
        for name in ("MODEL_BASE", "MODEL_ADAPTERS"):
            del environment[name]
        environment["INFERENCE_RELEASE_FOLDER"] = str(write_release(tiny_model.share, folder))
        environment["INFERENCE_SHARE"] = str(tiny_model.share)
        environment["INFERENCE_API_KEYS"] = "\n".join(f"{name}={key}" for name, key in MORE_KEYS.items())
        environment["INFERENCE_KEY_REQUESTS_PER_MINUTE"] = "metered=3"
        environment["INFERENCE_KEY_CONCURRENT"] = "single=1"
        environment["INFERENCE_BODY_SECONDS"] = str(BODY_SECONDS)
        reached_file = folder / "reached"
        watched = str(Path(__file__).with_name("watched.py"))
        started = start_server(folder, environment, (sys.executable, watched, str(reached_file), "serve.py"))
        started.reached_file = reached_file
        request.config.add_cleanup(started.end)
        started.wait_until("ready")
        request.config.stash[_SERVER] = started
    return request.config.stash[_SERVER]


def write_release(share: Path, root: Path, release: str = "0123abcd") -> Path:
    """A release folder below `root` whose model is the tiny one on `share`; only what serve.py reads of it."""
    folder = root / "releases" / release
    folder.mkdir(parents=True)
    tiny = TinyModel(share)
    document = {
        "id": release,
        "commit": "c0ffee",
        "time": "2026-01-02T03:04:05Z",
        "files": {},
        "base": str(tiny.base.relative_to(share)),
        "adapters": {adapter.name: str(adapter.folder.relative_to(share)) for adapter in tiny.adapters},
    }
    (folder / "release.json").write_text(json.dumps(document), encoding="utf-8")
    return folder

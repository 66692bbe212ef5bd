"""Folders on disk -> model, tokenizer and adapters, ready to be stepped.

Offline, safetensors only, and every file is looked at before it is loaded, so that a broken folder is named with its
reason. Whoever imports this module waits for torch: the engine's thread does. Knows no HTTP and no requests.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import struct
import time
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from batch import BASE, Batch, Causal, make_batch
from engine import Report
from peft import PeftConfig, PeftModel, get_peft_model_state_dict
from safetensors import safe_open
from settings import AdapterFolder, Limits
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

log = logging.getLogger("model")

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""cgroup v2, https://docs.kernel.org/admin-guide/cgroup-v2.html#cpu-interface-files"""

READ_BLOCK_BYTES = 8 * 1024 * 1024
LARGEST_HEADER_BYTES = 100_000_000
"""The safetensors format's own limit for its header."""


class ModelFolderError(ValueError):
    """A model or adapter folder that cannot be used; the message names the folder and the reason."""

    def __init__(self, folder: Path, reason: str) -> None:
        super().__init__(f"{folder}: {reason}")


@dataclass(frozen=True)
class Loaded:
    """A model that answers: what the engine steps and what turns text into tokens and back."""

    batch: Batch
    tokenizer: Any
    end_tokens: frozenset[int]
    """Tokens that end an answer."""
    vocabulary: int
    adapters: dict[str, str]
    """Names in the API -> names in the batch; the base is among them."""
    description: str
    """One line for the log: architecture, parameters, device, dtype, slots."""


def load(
    base: Path, adapters: Iterable[AdapterFolder], *, limits: Limits, device: str, dtype: str, report: Report
) -> Loaded:
    """Check, read and load everything, and compute a first answer.

    Raises ModelFolderError for a folder that cannot be used, ValueError when the model does not fit this machine.
    """
    adapters = tuple(adapters)
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    # torch counts the host's processors, and a container may use fewer: more threads than those wait for each other.
    torch.set_num_threads(min(torch.get_num_threads(), processors(len(os.sched_getaffinity(0)), _text(CPU_QUOTA))))
    report("checking the model's files", {})
    files = [*check_model_folder(base)]
    for adapter in adapters:
        files += check_adapter_folder(adapter.folder)
    _read_ahead(files, report)

    report("loading the model", {})
    began = time.monotonic()
    on = _device(device)
    module, tokenizer = _load_base(base, on, _dtype(dtype, on, base))
    config = module.config.get_text_config(decoder=True)
    end_tokens = _end_tokens(module, tokenizer)
    architecture, parameters = type(module).__name__, sum(weights.numel() for weights in module.parameters())
    module, names, mixes = _load_adapters(module, adapters)
    module.eval()
    seconds = time.monotonic() - began

    report("warming up", {"load_seconds": seconds})
    began = time.monotonic()
    context = min(limits.max_prompt_tokens + limits.max_new_tokens, _longest(config))
    causal = Causal(module, config, on, tuple(names.values()), mixes)
    batch = make_batch(causal, slots=limits.max_concurrent, context_tokens=context, memory_bytes=_free_memory(on) // 2)
    names[base.name] = BASE
    description = (
        f"{architecture}, {parameters / 1e6:.1f} million parameters, {len(adapters)} adapters, {on.type}, "
        f"{str(module.dtype).removeprefix('torch.')}, {batch.slots} requests at once ({batch.kind}) "
        f"of up to {batch.context_tokens} tokens"
    )
    report("ready", {"warm_up_seconds": time.monotonic() - began})
    return Loaded(batch, tokenizer, end_tokens, int(config.vocab_size), names, description)


# What stands on disk


def check_model_folder(folder: Path) -> list[Path]:
    """The weight files of a base model's folder. Raises ModelFolderError when a part is missing or cut off."""
    _require_folder(folder)
    _read_json(folder, "config.json")
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise ModelFolderError(folder, "has no tokenizer (tokenizer.json, tokenizer.model or vocab.json)")
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        weight_map = _read_json(folder, index.name).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise ModelFolderError(folder, f"{index.name} has no weight_map")
        files = [folder / name for name in sorted(set(map(str, weight_map.values())))]
    else:
        files = [folder / "model.safetensors"]
    for file in files:
        _check_safetensors(folder, file)
    return files


def check_adapter_folder(folder: Path) -> list[Path]:
    """The weight files of a LoRA adapter's folder. Raises ModelFolderError when a part is missing or cut off."""
    _require_folder(folder)
    kind = _read_json(folder, "adapter_config.json").get("peft_type")
    if kind != "LORA":
        raise ModelFolderError(folder, f"adapter_config.json says peft_type {kind!r}; only LORA adapters are served")
    file = folder / "adapter_model.safetensors"
    _check_safetensors(folder, file)
    return [file]


def _require_folder(folder: Path) -> None:
    if not folder.is_dir():
        nearest = next(parent for parent in folder.parents if parent.exists())
        raise ModelFolderError(folder, f"there is no such folder (it exists up to {nearest})")


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    try:
        document = json.loads((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelFolderError(folder, f"has no {name}") from None
    except OSError as error:
        raise ModelFolderError(folder, f"{name} cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise ModelFolderError(folder, f"{name} is not JSON ({error})") from None
    if not isinstance(document, dict):
        raise ModelFolderError(folder, f"{name} is not a JSON object")
    return document


def _check_safetensors(folder: Path, file: Path) -> None:
    """Header and length, as https://huggingface.co/docs/safetensors describes the format: a file cut off is found
    before anything is loaded."""
    name = file.name
    if not file.is_file():
        others = sorted(path.name for path in folder.glob("*.bin"))
        hint = f"; {', '.join(others)} would run code when loaded: save it as safetensors" if others else ""
        raise ModelFolderError(folder, f"has no {name}{hint}")
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            start = stream.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if not 0 < length <= min(LARGEST_HEADER_BYTES, size - 8):
                raise ModelFolderError(folder, f"{name} is not a safetensors file, or is cut off ({size} bytes)")
            header = json.loads(stream.read(length))
        ends = [entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"]
    except ModelFolderError:
        raise
    except OSError as error:
        raise ModelFolderError(folder, f"{name} cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise ModelFolderError(folder, f"{name} has a broken safetensors header") from None
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        raise ModelFolderError(
            folder, f"{name} has {size} bytes and its header says {expected}: it was not copied whole"
        )


def _read_ahead(files: list[Path], report: Report) -> None:
    """Read the weights once from beginning to end, in large blocks.

    The loader maps the files into memory and touches them page by page; on a network share each of those touches would
    wait for the server. After this they are answered from memory.
    """
    total = sum(file.stat().st_size for file in files)
    if total > _free_memory(torch.device("cpu")) * 0.8:
        log.warning(
            "the weights (%.1f GB) do not fit in memory beside themselves: they are not read ahead", total / 1e9
        )
        return
    began, done = time.monotonic(), 0
    told = began
    for file in files:
        with file.open("rb", buffering=0) as stream:
            block = bytearray(READ_BLOCK_BYTES)
            while count := stream.readinto(block):
                done += count
                if time.monotonic() - told > 1:
                    told = time.monotonic()
                    report(f"reading weights, {done / 1e6:.0f} of {total / 1e6:.0f} MB", {})
    seconds = time.monotonic() - began
    report("weights read", {"read_bytes": done, "read_seconds": seconds})


# What is made of it


def _load_base(folder: Path, device: torch.device, dtype: torch.dtype) -> tuple[Any, Any]:
    arguments: dict[str, Any] = {
        "local_files_only": True,
        "trust_remote_code": False,
        "use_safetensors": True,
        "dtype": dtype,
    }
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        try:
            module = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa", **arguments)
        except ValueError as error:
            if "scaled_dot_product_attention" not in str(error):
                raise
            module = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", **arguments)
        module = module.to(device)  # type: ignore[arg-type]  # transformers' wrapper hides torch's signature
    except (OSError, ValueError, RuntimeError, ImportError, KeyError, TypeError, AttributeError) as error:
        raise ModelFolderError(folder, f"cannot be loaded: {_one_line(error)}") from error
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise ModelFolderError(folder, "its tokenizer has no fast form (tokenizer.json)")
    return module, tokenizer


def _load_adapters(module: Any, adapters: tuple[AdapterFolder, ...]) -> tuple[Any, dict[str, str], bool]:
    """The module with every adapter, their names in it, and whether one forward may mix them."""
    names: dict[str, str] = {}
    mixes = True
    for number, adapter in enumerate(adapters):
        # A name of our own: torch allows no dot in a module's name, and PEFT keeps some names for itself.
        name = names[adapter.name] = f"adapter_{number}"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                config = PeftConfig.from_pretrained(str(adapter.folder))
                config.inference_mode = True
                arguments = {"config": config, "autocast_adapter_dtype": False}
                if number == 0:
                    module = PeftModel.from_pretrained(module, str(adapter.folder), name, **arguments)
                else:
                    module.load_adapter(str(adapter.folder), name, peft_config=config, autocast_adapter_dtype=False)
            with safe_open(adapter.folder / "adapter_model.safetensors", framework="pt") as file:
                stored = set(file.keys())
            state = get_peft_model_state_dict(module, adapter_name=name, save_embedding_layers=False)
            expected = set(state)
        except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
            raise ModelFolderError(adapter.folder, f"does not fit the base model: {_one_line(error)}") from error
        if missing := sorted(expected - stored):
            raise ModelFolderError(
                adapter.folder,
                f"lacks {len(missing)} of the weights its adapter_config.json promises, such as {missing[0]}",
            )
        if foreign := sorted(stored - expected):
            raise ModelFolderError(
                adapter.folder, f"has {len(foreign)} weights that the base model has no place for, such as {foreign[0]}"
            )
        mixes = mixes and not config.use_dora and config.bias == "none" and not config.modules_to_save
    return module, names, mixes


def _one_line(error: Exception) -> str:
    """The first two lines of a library's message, in one, without the console advice that may follow."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines[:2])}"[:600]


def _end_tokens(module: Any, tokenizer: Any) -> frozenset[int]:
    ends: set[int] = set()
    for found in (module.generation_config.eos_token_id, module.config.eos_token_id, tokenizer.eos_token_id):
        ends.update(found if isinstance(found, list) else [] if found is None else [found])
    return frozenset(ends)


def _longest(config: Any) -> int:
    """The most tokens that the model's positions reach (2**31 - 1 when its configuration does not say)."""
    longest = getattr(config, "max_position_embeddings", None)
    return longest if isinstance(longest, int) and longest > 0 else 2**31 - 1


def _device(asked: str) -> torch.device:
    if asked == "cuda" and not torch.cuda.is_available():
        raise ValueError("INFERENCE_DEVICE is cuda, and torch sees no CUDA device: give the replica a GPU, or say cpu")
    return torch.device("cuda" if asked != "cpu" and torch.cuda.is_available() else "cpu")


def _dtype(asked: str, device: torch.device, folder: Path) -> torch.dtype:
    """The number format. `auto`: 16 bits on a GPU; on a CPU only for weights stored so, if it is quick at that."""
    if asked != "auto":
        dtype: torch.dtype = getattr(torch, asked)
        return dtype
    config = _read_json(folder, "config.json")
    stored = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if stored in ("bfloat16", "float16") and _bfloat16_is_quick():
        return torch.bfloat16
    return torch.float32


def _bfloat16_is_quick() -> bool:
    """Whether this CPU multiplies in bfloat16 clearly quicker than in float32 (some only emulate it)."""

    def seconds(dtype: torch.dtype) -> float:
        left, right = torch.ones(256, 1024, dtype=dtype), torch.ones(1024, 1024, dtype=dtype)
        best = float("inf")
        for _ in range(4):
            began = time.perf_counter()
            torch.mm(left, right)
            best = min(best, time.perf_counter() - began)
        return best

    return seconds(torch.bfloat16) * 1.3 < seconds(torch.float32)


def processors(allowed: int, quota: str) -> int:
    """How many threads can run at once: of the processors allowed, as many as the container's CPU quota pays for.

    `quota` is the text of cgroup's cpu.max, such as "150000 100000" (1.5 processors) or "max 100000"; "" when there is
    none.
    """
    given, _, period = quota.partition(" ")
    if not given.isdigit():
        return allowed
    return max(1, min(allowed, round(int(given) / int(period or 100_000))))


def _text(file: Path) -> str:
    return file.read_text(encoding="ascii").strip() if file.exists() else ""


def _free_memory(device: torch.device) -> int:
    """Bytes that may still be taken: the GPU's, or the smaller of the machine's and the container's."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = [os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for line in _text(Path("/proc/meminfo")).splitlines():
        if line.startswith("MemAvailable:"):
            free = [int(line.split()[1]) * 1024]
    # cgroup v2: https://docs.kernel.org/admin-guide/cgroup-v2.html#memory-interface-files
    limit = _text(Path("/sys/fs/cgroup/memory.max"))
    if limit.isdigit():
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        # The file pages that the kernel counts as used are given back when memory is short; this process's are not.
        free.append(max(0, int(limit) - used))
    return min(free)

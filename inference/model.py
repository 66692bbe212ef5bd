"""Folders on disk -> model, tokenizer and adapters, ready to be stepped.

Offline, safetensors only, and every folder is checked before anything is loaded, so that a broken one is named with its
reason. Whoever imports this module waits for torch: the engine's thread does. Knows no HTTP and no requests.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from adapters import Adapted, attach, one_line
from batch import Batch, Causal, make_batch
from engine import Report
from folders import (
    ModelFolderError,
    ModelFolderUnread,
    StoredTensor,
    check_adapter_folder,
    check_model_folder,
    read_json,
    shape_words,
    unusable,
)
from lineage import check_base
from lora import AdaptedModel, widen
from machine import (
    choose_device,
    choose_dtype,
    free_memory,
    give_memory_back,
    gpu_is_given,
    stored_dtype,
    use_processors,
)
from packed import pack
from quantization import check as check_quantization
from quantization import loading_config, quantize_on_cpu
from rows import BASE
from settings import AdapterFolder, Limits
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils import logging as transformers_logging
from weights import Told, WeightReader


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


@dataclass(frozen=True)
class _Numbers:
    """On what the model computes, and in which number formats."""

    device: torch.device
    computed: torch.dtype
    read: torch.dtype
    """What the weights become as they are read."""
    quantization: str

    @property
    def int8_on_cpu(self) -> bool:
        return self.quantization == "int8" and self.device.type == "cpu"

    def __str__(self) -> str:
        name = str(self.computed).removeprefix("torch.")
        return name if self.quantization == "none" else f"{name} with {self.quantization} layers"


def load(
    base: Path,
    adapters: Iterable[AdapterFolder],
    *,
    limits: Limits,
    device: str,
    dtype: str,
    report: Report,
    quantization: str = "none",
    merge: str = "auto",
) -> Loaded:
    """Check, read and load everything, and compute a first answer.

    The strings are the settings of the same names. Raises ModelFolderError for a folder that cannot be used, ValueError
    when the model does not fit this machine or what is asked of it. Whatever else it raises may not come up again.
    """
    adapters = tuple(adapters)
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    use_processors()
    report("checking the model's files", {})
    tensors = check_model_folder(base)
    of_adapters = {adapter.folder: check_adapter_folder(adapter.folder) for adapter in adapters}
    for adapter in adapters:
        check_base(adapter, base)
    total = sum(stored.bytes for held in (tensors, *of_adapters.values()) for stored in held.values())

    ledger = {"weights_bytes": float(total)}
    numbers = _choose_numbers(read_json(base, "config.json"), device, dtype, quantization, ledger)
    report("loading the model", ledger)
    began = time.monotonic()
    with WeightReader(_tells_of_reading(report, total)) as reader:
        tokenizer = _load_tokenizer(base)
        module = _load_base(base, tensors, reader, numbers)
        end_tokens = _end_tokens(module, tokenizer)
        # The library's own count: of 4-bit weights two are one element.
        architecture, parameters = type(module).__name__, module.num_parameters()
        adapted = attach(module, adapters, of_adapters, reader, merge="off" if quantization != "none" else merge)
    report("weights read", {"read_bytes": reader.read_bytes, "read_seconds": reader.read_seconds})
    _prepare_layers(module, adapted, numbers, report)

    report("warming up", {"load_seconds": time.monotonic() - began - reader.read_seconds})
    began = time.monotonic()
    config = module.config.get_text_config(decoder=True)
    batch = _warm_batch(config, adapted, numbers, limits)
    report("ready", {"warm_up_seconds": time.monotonic() - began})
    description = (
        f"{architecture}, {parameters / 1e6:.1f} million parameters, {adapted.kind}, {numbers.device.type}, {numbers}, "
        f"{batch.slots} requests at once ({batch.kind}) of up to {batch.context_tokens} tokens"
    )
    names = adapted.names | {base.name: BASE}
    return Loaded(batch, tokenizer, end_tokens, int(config.vocab_size), names, description)


def _choose_numbers(
    config: Mapping[str, Any], device: str, dtype: str, quantization: str, ledger: dict[str, float]
) -> _Numbers:
    """What the settings mean on this machine, for the model of this config.json."""
    on = choose_device(device, gpu_is_given=gpu_is_given())
    check_quantization(quantization, on)
    computed = choose_dtype(dtype, on, quantization, config, ledger)
    numbers = _Numbers(on, computed, computed, quantization)
    # A layer's weights become float32 when it is quantized, one layer after another: all of them at once may not fit.
    return replace(numbers, read=stored_dtype(config)) if numbers.int8_on_cpu else numbers


def _tells_of_reading(report: Report, total_bytes: int) -> Told:
    def told(read_bytes: int, seconds: float) -> None:
        rate = read_bytes / max(seconds, 1e-6) / 1e6
        report(
            f"reading weights, {read_bytes / 1e6:.0f} of {total_bytes / 1e6:.0f} MB at {rate:.0f} MB/s",
            {"read_bytes": read_bytes, "read_seconds": seconds},
        )

    return told


def _prepare_layers(module: Any, adapted: Adapted, numbers: _Numbers, report: Report) -> None:
    """Give the linear layers the form that this processor computes quickest, or in the fewest bits."""
    ours = not adapted.names or isinstance(adapted.module, AdaptedModel)
    if numbers.int8_on_cpu:
        if not ours:
            raise ValueError(
                f"INFERENCE_QUANTIZATION is int8, and on a CPU it cannot be had with {adapted.kind}: say none"
            )
        report("making the linear layers int8", {})
        quantize_on_cpu(module)
    elif ours:
        widen(module)
        pack(module)
    module.eval()


def _warm_batch(config: Any, adapted: Adapted, numbers: _Numbers, limits: Limits) -> Batch:
    """The batch that the model can have, after its first answer."""
    causal = Causal(
        adapted.module,
        config,
        numbers.device,
        tuple(adapted.names.values()),
        adapted.mixes,
        quantized=numbers.quantization != "none",
    )
    give_memory_back()
    return make_batch(
        causal,
        slots=limits.max_concurrent,
        context_tokens=min(limits.max_prompt_tokens + limits.max_new_tokens, _longest(config)),
        memory_bytes=free_memory(numbers.device) // 2,
    )


def _load_tokenizer(folder: Path) -> Any:
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, RuntimeError, ImportError, KeyError, TypeError, AttributeError) as error:
        raise unusable(folder, f"its tokenizer cannot be loaded: {one_line(error)}", error) from error
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise ModelFolderError(folder, "its tokenizer has no fast form (tokenizer.json)")
    return tokenizer


def _load_base(
    folder: Path,
    tensors: Mapping[str, StoredTensor],
    reader: WeightReader,
    numbers: _Numbers,
) -> Any:
    """The transformers model, its weights read by `reader` when the library asks for them."""
    arguments: dict[str, Any] = {
        "dtype": numbers.read,
        "quantization_config": loading_config(numbers.quantization, numbers.device, numbers.computed),
        # What does not fit is told below, with its name.
        "ignore_mismatched_sizes": True,
        "output_loading_info": True,
    }
    if numbers.device.type != "cpu":
        # Each tensor goes to the GPU as soon as it is read: the replica need not hold them all in its own memory.
        arguments["device_map"] = {"": str(numbers.device)}
    try:
        made = _empty_model(folder)
        module, told = type(made).from_pretrained(
            None, config=made.config, state_dict=reader.lazy(tensors), **arguments
        )
        module.name_or_path = str(folder)
        if (folder / "generation_config.json").is_file():
            module.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    except (ModelFolderError, ModelFolderUnread, torch.AcceleratorError):
        raise
    except torch.OutOfMemoryError as error:
        raise ValueError(
            f"the weights do not fit the memory of the GPU ({one_line(error)}): set INFERENCE_QUANTIZATION to int8 or "
            "int4, or give the replica a larger GPU"
        ) from error
    except (OSError, ValueError, RuntimeError, ImportError, KeyError, TypeError, AttributeError) as error:
        raise unusable(folder, f"cannot be loaded: {one_line(error)}", error) from error
    if mismatched := sorted(told["mismatched_keys"]):
        name, stored, expected = mismatched[0]
        raise ModelFolderError(
            folder,
            f"{len(mismatched)} weights have another shape than config.json makes, such as {name}: "
            f"{shape_words(tuple(stored))} instead of {shape_words(tuple(expected))}",
        )
    if missing := sorted(told["missing_keys"]):
        raise ModelFolderError(
            folder, f"lacks {len(missing)} of the weights that its config.json promises, such as {missing[0]}"
        )
    return module


def _empty_model(folder: Path) -> Any:
    """The model of config.json without memory for its weights; its attention is the quickest that it can do."""
    loader: Any = AutoModelForCausalLM
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):
        try:
            return loader.from_config(config, attn_implementation="sdpa")
        except ValueError as error:
            if "scaled_dot_product_attention" not in str(error):
                raise
            return loader.from_config(config, attn_implementation="eager")


def _end_tokens(module: Any, tokenizer: Any) -> frozenset[int]:
    ends: set[int] = set()
    for found in (module.generation_config.eos_token_id, module.config.eos_token_id, tokenizer.eos_token_id):
        ends.update(found if isinstance(found, list) else [] if found is None else [found])
    return frozenset(ends)


def _longest(config: Any) -> int:
    """The most tokens that the model's positions reach (2**31 - 1 when its configuration does not say)."""
    longest = getattr(config, "max_position_embeddings", None)
    return longest if isinstance(longest, int) and longest > 0 else 2**31 - 1

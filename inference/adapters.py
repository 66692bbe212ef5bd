"""LoRA adapters' folders -> the base model with every adapter in it.

PEFT says which layers an adapter reaches and whether its file fits them. The plain kind, which is nearly every adapter,
is then computed by lora.py; other kinds (DoRA, whole modules, embeddings) stay with PEFT. Knows no requests.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from folders import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    ModelFolderError,
    ModelFolderUnread,
    StoredTensor,
    shape_words,
    unusable,
)
from lora import AdaptedModel, LoraLinear, Selection, replace_modules
from peft import PeftConfig, PeftModel, get_peft_model_state_dict
from peft.tuners.lora import Linear as PeftLinear
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from peft.utils.save_and_load import set_peft_model_state_dict
from rows import BASE
from settings import AdapterFolder
from torch import nn
from weights import WeightReader

log = logging.getLogger("adapters")


@dataclass(frozen=True)
class Adapted:
    """The model with its adapters."""

    module: Any
    names: dict[str, str]
    """Names in the API -> names in the module."""
    mixes: bool
    """Whether rows of one forward may use different adapters."""
    kind: str
    """How the adapters are computed, in words for the log."""


def attach(
    base: Any,
    adapters: Sequence[AdapterFolder],
    tensors: Mapping[Path, Mapping[str, StoredTensor]],
    reader: WeightReader,
    *,
    merge: str,
) -> Adapted:
    """Load every adapter. `tensors` are the folders' stored tensors; `merge` is INFERENCE_MERGE.

    Raises ModelFolderError for an adapter that does not fit the base model, ValueError when they cannot be merged,
    OSError when one cannot be read now.
    """
    names = {adapter.name: f"adapter_{number}" for number, adapter in enumerate(adapters)}
    if merge == "on" and len(adapters) != 1:
        raise ValueError(f"INFERENCE_MERGE is on, and there are {len(adapters)} adapters: one alone can be merged")
    if not adapters:
        return Adapted(base, names, True, "no adapters")
    module: Any = None
    for adapter in adapters:
        module = _load(base, module, adapter, names[adapter.name], tensors[adapter.folder], reader)
    layers = _plain_layers(module)
    if isinstance(layers, str):
        if merge == "on":
            raise ValueError(f"INFERENCE_MERGE is on, and the adapter cannot be merged: {layers}")
        log.info("the adapters are computed by PEFT: %s", layers)
        module.to(base.device)
        mixes = all(_mixes(config) for config in module.peft_config.values())
        return Adapted(module, names, mixes, "adapters by PEFT")
    return _own_layers(module, layers, tuple(names.values()), names, merge)


def _load(
    base: Any,
    module: Any,
    adapter: AdapterFolder,
    name: str,
    tensors: Mapping[str, StoredTensor],
    reader: WeightReader,
) -> Any:
    """The PEFT model with one more adapter; `module` is None before the first."""
    folder = adapter.folder
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config = PeftConfig.from_pretrained(str(folder))
            config.inference_mode = True
            # Made without memory, so that the shapes are known before anything is read.
            if module is None:
                module = PeftModel(base, config, name, autocast_adapter_dtype=False, low_cpu_mem_usage=True)
            else:
                module.add_adapter(name, config, low_cpu_mem_usage=True, autocast_adapter_dtype=False)
            _check_shapes(module, name, folder, tensors)
            read = {key: lazy[...] for key, lazy in reader.lazy(tensors).items()}
            result: Any = set_peft_model_state_dict(module, read, adapter_name=name, low_cpu_mem_usage=True)
    except (ModelFolderError, ModelFolderUnread):
        raise
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise unusable(folder, f"does not fit the base model: {one_line(error)}", error) from error
    promised = _stored_names(name, result.missing_keys)
    if promised:
        raise ModelFolderError(
            folder, f"lacks {len(promised)} of the weights that its {ADAPTER_CONFIG} promises, such as {promised[0]}"
        )
    if foreign := sorted(result.unexpected_keys):
        raise ModelFolderError(
            folder, f"has {len(foreign)} weights that the base model has no place for, such as {foreign[0]}"
        )
    return module


def _check_shapes(module: Any, name: str, folder: Path, tensors: Mapping[str, StoredTensor]) -> None:
    expected = get_peft_model_state_dict(module, adapter_name=name, save_embedding_layers=False)
    config = module.peft_config[name]
    wrong = sorted(key for key in expected.keys() & tensors if tuple(expected[key].shape) != tensors[key].shape)
    if wrong:
        key = wrong[0]
        raise ModelFolderError(
            folder,
            f"does not fit the base model: {len(wrong)} weights of {ADAPTER_WEIGHTS} have another shape than the base "
            f"model's layers and rank {config.r} of {ADAPTER_CONFIG} make, such as {key}: "
            f"{shape_words(tensors[key].shape)} instead of {shape_words(tuple(expected[key].shape))}",
        )


def _stored_names(name: str, keys: Sequence[str]) -> list[str]:
    """Of PEFT's parameters, those of one adapter, as its file calls them."""
    own = re.compile(rf"\.{name}(\.|$)")
    return sorted(own.sub(r"\1", key) for key in keys if own.search(key))


def _plain_layers(module: Any) -> dict[str, Any] | str:
    """PEFT's layers by path when every adapter is of the plain kind, or why PEFT has to compute them."""
    for config in module.peft_config.values():
        if not _mixes(config):
            return "an adapter has DoRA or whole modules"
        if config.layer_replication:
            return "an adapter repeats layers"
    layers: dict[str, Any] = {}
    for path, layer in module.get_base_model().named_modules():
        if isinstance(layer, AuxiliaryTrainingWrapper):
            return f"an adapter replaces {path}"
        if isinstance(layer, BaseTunerLayer):
            if not _is_plain(layer):
                return f"an adapter changes {path}, which is not a plain linear layer"
            layers[path] = layer
    return layers


def _mixes(config: Any) -> bool:
    return not config.use_dora and not config.modules_to_save


def _is_plain(layer: Any) -> bool:
    # PEFT has a class of its own for bitsandbytes' layers, in a module that is there only with that package.
    known = type(layer) is PeftLinear or type(layer).__module__ == "peft.tuners.lora.bnb"
    special = layer.lora_variant or any(layer.lora_bias.values()) or len(layer.lora_embedding_A)
    return known and not special and isinstance(layer.get_base_layer(), nn.Linear)


def _own_layers(
    peft_model: Any, layers: Mapping[str, Any], order: tuple[str, ...], names: dict[str, str], merge: str
) -> Adapted:
    """The model with lora.py's layers in the places of PEFT's."""
    base = peft_model.get_base_model()
    exact = base.dtype == torch.float32 and all(type(layer.get_base_layer()) is nn.Linear for layer in layers.values())
    # In 16 bits a merged weight is rounded, and small changes are lost: only where it is asked for.
    merged = len(order) == 1 and (merge == "on" or (merge == "auto" and exact))
    choice = Selection(order, merged=merged, device=base.device)

    def matrix(held: Any, name: str, scale: float) -> torch.Tensor | None:
        if name not in held:
            return None
        scaled: torch.Tensor = held[name].weight.detach().to(torch.float32) * scale
        return scaled.to(base.device, base.dtype)

    made: dict[str, nn.Module] = {}
    for path, layer in layers.items():
        down = [matrix(layer.lora_A, name, 1.0) for name in order]
        up = [matrix(layer.lora_B, name, layer.scaling.get(name, 1.0)) for name in order]
        made[path] = own = LoraLinear(layer.get_base_layer(), down, up, choice)
        if merged:
            own.merge()
    replace_modules(base, made)
    adapted = AdaptedModel(base, choice)
    kind = "1 adapter, merged" if merged else f"{len(order)} adapter{'s' if len(order) > 1 else ''}"
    return Adapted(adapted, names, _rows_reach_layers(adapted, order[0]), kind)


def _rows_reach_layers(module: AdaptedModel, adapter: str) -> bool:
    """Whether every adapted layer sees the rows of a batch as rows: an expert, for one, sees tokens of any of them."""
    tokens = torch.zeros((2, 2), dtype=torch.long, device=module.device)
    try:
        with torch.inference_mode():
            module(input_ids=tokens, adapter_names=[adapter, BASE], use_cache=False)
    except ValueError as error:
        log.info("rows with different adapters are not computed together: %s", error)
        return False
    return True


def one_line(error: Exception) -> str:
    """The first two lines of a library's message, in one, without the console advice that may follow."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines[:2])}"[:600]

"""Linear layers in 8 or 4 bits, when it is asked for: less memory and more speed for some accuracy.

On a CPU int8 is torch's own dynamic quantization; on a GPU int8 and int4 are bitsandbytes', which start.sh installs
only when it is asked for (requirements/quantization.txt). Knows no folders and no adapters.
"""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn


def check(quantization: str, device: torch.device) -> None:
    """Raises ValueError when INFERENCE_QUANTIZATION cannot be had on this device."""
    if quantization == "int4" and device.type == "cpu":
        raise ValueError(
            "INFERENCE_QUANTIZATION is int4 on a CPU, which has no quick way to compute it: say int8 or none, or give "
            "the replica a GPU"
        )
    if quantization != "none" and device.type == "cuda" and find_spec("bitsandbytes") is None:
        raise ValueError(
            f"INFERENCE_QUANTIZATION is {quantization}, and bitsandbytes is not installed: start the replica by "
            "start.sh, which installs requirements/quantization.txt"
        )


def loading_config(quantization: str, device: torch.device, dtype: torch.dtype) -> Any:
    """What transformers' loader takes to make quantized layers while it loads; None when it makes none."""
    if quantization == "none" or device.type == "cpu":
        return None
    from transformers import BitsAndBytesConfig

    if quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)  # type: ignore[no-untyped-call]
    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
    )


def quantize_on_cpu(module: Any) -> int:
    """Put int8 layers in the places of all linear ones but the output layer; how many there are.

    Weights have one scale per output, activations one per call; what is not quantized computes in float32. One layer
    after another, and none is kept, so that there is never more than one layer twice.
    """
    output = module.get_output_embeddings()
    count = 0
    for parent in [part for part in module.modules() if type(part) is not nn.Linear]:
        for name in [name for name, _ in parent.named_children()]:
            child = getattr(parent, name)
            if type(child) is nn.Linear and child is not output:
                setattr(parent, name, _int8(child))
                count += 1
    module.float()
    return count


def _int8(layer: nn.Linear) -> nn.Module:
    from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic

    with warnings.catch_warnings():
        # It is to move to a package of its own one day; the lock says which torch is installed.
        warnings.simplefilter("ignore")
        holder = quantize_dynamic(  # type: ignore[no-untyped-call]
            nn.Sequential(layer.float()), {nn.Linear: per_channel_dynamic_qconfig}
        )
    made: nn.Module = holder[0]
    return made

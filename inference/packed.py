"""Linear layers whose weights lie in memory as this processor multiplies them, so that no call rearranges them.

oneDNN, which torch brings, does the rearranging once: with few rows, as a batch of answers has, that is a good part of
what a layer costs. The weights are kept once: the plain ones are let go. Knows no model.
"""

from __future__ import annotations

import logging

import torch
from torch import nn

log = logging.getLogger("packed")


class PackedLinear(nn.Module):
    """Computes what the linear layer computes that it was made from; cannot be trained, saved or moved."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias
        self._dtype = linear.weight.dtype
        # A plain attribute: a packed weight has no strides, and nothing that walks over parameters could use it.
        self._packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())

    @property
    def weight(self) -> torch.Tensor:
        """The plain weight [out, in], made anew: for a model that does not only call its layers."""
        plain: torch.Tensor = self._packed.to_dense(self._dtype)
        return plain.reshape(self.out_features, self.in_features)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(inputs, self._packed, self.bias, "none", [], "")
        return result

    def added(self, inputs: torch.Tensor, to: torch.Tensor) -> torch.Tensor:
        """What forward gives, added to a tensor of the same shape; a new tensor."""
        result: torch.Tensor = torch.ops.mkldnn._linear_pointwise.binary(inputs, to, self._packed, self.bias, "add")
        return result


def pack(module: nn.Module) -> int:
    """Replace every linear layer of a model on a CPU by a packed one; how many. Where oneDNN does not compute this
    dtype on this processor, the layers stay, and the log says why."""
    packed = 0
    # Nothing here keeps a layer that was replaced: the plain weights of all of them would be as much memory again.
    for parent in [part for part in module.modules() if type(part) is not nn.Linear]:
        for name in [name for name, _ in parent.named_children()]:
            child = getattr(parent, name)
            if type(child) is not nn.Linear or child.weight.device.type != "cpu":
                continue
            try:
                made = PackedLinear(child)
                if not packed:
                    with torch.inference_mode():
                        made(torch.zeros((1, child.in_features), dtype=child.weight.dtype))
            except (RuntimeError, NotImplementedError, AttributeError) as error:
                log.info("linear layers stay as they are: %.300s", error)
                return packed
            setattr(parent, name, made)
            packed += 1
    return packed

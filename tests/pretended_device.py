"""A CUDA device that is pretended: its tensors say `cuda:0` and hold their numbers on the CPU.

They meet others as CUDA lets them: an operation on tensors of both devices fails as it does on a GPU, and each copy
from one to the other is counted, for the program waits there until the GPU has computed what came before. What does not
show here: kernels that a GPU lacks or computes otherwise, its memory, and its speed. One thread's work alone is seen.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
"""These take indices from the CPU, too, and copy them."""
READING = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2", "unique_consecutive"}
"""How long their results are, or what the program does next, depends on numbers that the GPU has to compute first."""
WHOLE = {"scaled_dot_product_attention"}
"""Not taken apart into what it consists of on a GPU: that is the CPU's work here."""


class PretendedTensor(torch.Tensor):
    """A tensor of the pretended device."""

    held: torch.Tensor
    device_of_it: PretendedDevice

    @staticmethod
    def __new__(cls, held: torch.Tensor, device: PretendedDevice) -> PretendedTensor:
        # As if made by a kernel, which knows nothing of inference mode: the tensors held know of it.
        with torch.inference_mode(mode=False):
            made: PretendedTensor = torch.Tensor._make_wrapper_subclass(
                cls,
                held.shape,
                strides=held.stride(),
                storage_offset=held.storage_offset(),
                dtype=held.dtype,
                device=torch.device("cuda", 0),
            )
        made.held, made.device_of_it = held, device
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]  # as torch's own subclasses do

    @classmethod
    def __torch_dispatch__(cls, function: Any, _: Any, arguments: Any = (), named: Any = None) -> Any:
        device = next(leaf for leaf in tree_leaves((arguments, named)) if isinstance(leaf, PretendedTensor))
        return device.device_of_it.run(function, arguments, named or {})

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy: use Tensor.cpu() first")


class PretendedDevice(TorchDispatchMode):  # type: ignore[no-untyped-call]  # its hook has no annotations
    """Runs what the tensors of one such device take part in; active while `pretended_device` is."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it without annotations
        self.waits: list[str] = []
        """Why the program waited for the device, each time."""

    def __torch_dispatch__(self, function: Any, _: Any, arguments: Any = (), named: Any = None) -> Any:
        leaves = tree_leaves((arguments, named))
        if any(isinstance(leaf, PretendedTensor) or _is_cuda(leaf) for leaf in leaves):
            with self:
                return self.run(function, arguments, named or {})
        return function(*arguments, **(named or {}))

    def run(self, function: Any, arguments: Any, named: dict[str, Any]) -> Any:
        """One operation. Raises RuntimeError when its tensors are not on one device, as CUDA does."""
        name = function._schema.name.partition("::")[2]
        composed = torch._C._dispatch_has_kernel_for_dispatch_key(function.name(), "CompositeImplicitAutograd")
        if composed and name not in WHOLE:
            return function.decompose(*arguments, **named)
        leaves = [leaf for leaf in tree_leaves((arguments, named)) if isinstance(leaf, torch.Tensor)]
        ours = [leaf for leaf in leaves if isinstance(leaf, PretendedTensor)]
        result_is_ours = _is_cuda(named["device"]) if named.get("device") is not None else bool(ours)
        if name in ("_to_copy", "copy_"):
            target_is_ours = result_is_ours if name == "_to_copy" else isinstance(arguments[0], PretendedTensor)
            if target_is_ours != isinstance(leaves[-1], PretendedTensor) and leaves[-1].numel():
                self.waits.append("copy to the device" if target_is_ours else "copy from the device")
        elif ours:
            self._check(name, function, arguments, leaves)
            if name in READING:
                self.waits.append(name)
        held = tree_map(_held, (arguments, named))
        if result_is_ours and "device" in held[1]:
            held[1]["device"] = torch.device("cpu")
        found = function(*held[0], **held[1])
        # What is written in place is given back itself: it is the same tensor afterwards.
        written = function._schema.returns and all(
            result.alias_info is not None and result.alias_info.is_write for result in function._schema.returns
        )
        if written:
            return arguments[0]
        return tree_map(lambda each: self._pretended(each) if result_is_ours else each, found)

    def _pretended(self, found: Any) -> Any:
        return PretendedTensor(found, self) if isinstance(found, torch.Tensor) else found

    def _check(self, name: str, function: Any, arguments: Any, leaves: list[torch.Tensor]) -> None:
        foreign = [leaf for leaf in leaves if not isinstance(leaf, PretendedTensor)]
        if name in INDEXING and isinstance(arguments[0], PretendedTensor):
            indices = [index for index in arguments[1] if index is not None]
            self.waits += ["copy to the device" for index in indices if not isinstance(index, PretendedTensor)]
            self.waits += ["nonzero" for index in indices if index.dtype == torch.bool]
            foreign = [leaf for leaf in foreign if not any(leaf is index for index in indices)]
        # A single number may come from the CPU: it goes with the kernel's other arguments.
        if any(leaf.dim() for leaf in foreign):
            raise RuntimeError(f"Expected all tensors to be on the same device, found cuda:0 and cpu ({function})")


def _is_cuda(value: Any) -> bool:
    return isinstance(value, torch.device) and value.type == "cuda"


def _held(value: Any) -> Any:
    return value.held if isinstance(value, PretendedTensor) else value


@contextmanager
def pretended_device(free_bytes: int = 8 * 10**9) -> Iterator[PretendedDevice]:
    """Inside, in this thread, torch has one CUDA device: this one."""
    device = PretendedDevice()
    answers: dict[str, Any] = {
        "_initialized": True,
        "is_available": lambda: True,
        "is_bf16_supported": lambda including_emulation=True: True,
        "current_device": lambda: 0,
        "mem_get_info": lambda _=None: (free_bytes, free_bytes),
        "memory_reserved": lambda _=None: 0,
        "memory_allocated": lambda _=None: 0,
        "empty_cache": lambda: None,
        "synchronize": lambda _=None: device.waits.append("synchronize"),
    }
    before = {name: getattr(torch.cuda, name) for name in answers}
    # As torch's own FakeTensorMode does where there is no GPU; and transformers must load in this thread.
    torch._C._ensureCUDADeviceGuardSet()
    torch._C._set_only_lift_cpu_tensors(True)
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = "1"
    try:
        for name, answer in answers.items():
            setattr(torch.cuda, name, answer)
        with device:
            yield device
    finally:
        for name, answer in before.items():
            setattr(torch.cuda, name, answer)
        torch._C._set_only_lift_cpu_tensors(False)
        torch.__future__.set_overwrite_module_params_on_conversion(False)
        del os.environ["HF_DEACTIVATE_ASYNC_LOAD"]

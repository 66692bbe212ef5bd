"""What this machine has: processors, memory, device, and which number format it is quick at. Knows no model."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""cgroup v2, https://docs.kernel.org/admin-guide/cgroup-v2.html#cpu-interface-files"""
MEMORY_LIMIT = Path("/sys/fs/cgroup/memory.max")
"""cgroup v2, https://docs.kernel.org/admin-guide/cgroup-v2.html#memory-interface-files"""

NVIDIA_DRIVER = Path("/dev/nvidiactl")
"""There wherever a container was given a GPU; start.sh looks for it too."""

CLEARLY_QUICKER = 1.3
"""From which speed-up on a CPU half of the digits is worth giving up."""


def use_processors() -> int:
    """Let torch have as many threads as this container may run at once; how many that is.

    torch counts the host's processors, and more threads than the container's quota pays for wait for each other.
    """
    count = min(torch.get_num_threads(), processors(len(os.sched_getaffinity(0)), text(CPU_QUOTA)))
    torch.set_num_threads(count)
    return count


def processors(allowed: int, quota: str) -> int:
    """How many threads can run at once: of the processors allowed, as many as the container's CPU quota pays for.

    `quota` is the text of cgroup's cpu.max, such as "150000 100000" (1.5 processors) or "max 100000"; "" when there is
    none.
    """
    given, _, period = quota.partition(" ")
    if not given.isdigit():
        return allowed
    return max(1, min(allowed, round(int(given) / int(period or 100_000))))


def choose_device(asked: str, *, gpu_is_given: bool) -> torch.device:
    """`asked` is INFERENCE_DEVICE. Raises ValueError when it is not there, and rather than to leave a GPU idle that was
    given to this server."""
    if asked == "cpu":
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda")
    if gpu_is_given:
        raise ValueError(
            f"torch cannot use the GPU that is here: it was built for CUDA {torch.version.cuda}, and the GPU's driver "
            "may be older. It needs a newer driver, or a torch for the one it has; INFERENCE_DEVICE=cpu leaves it idle"
        )
    if asked == "cuda":
        raise ValueError("INFERENCE_DEVICE is cuda, and torch sees no CUDA device: give the replica a GPU, or say cpu")
    return torch.device("cpu")


def gpu_is_given() -> bool:
    """Whether there is a GPU for this server to use: the NVIDIA driver's own device, in a container that runs nothing
    else (process 1). On a person's own machine the driver may well be too old for torch, and the CPU is meant."""
    return NVIDIA_DRIVER.exists() and os.getpid() == 1


def choose_dtype(
    asked: str, device: torch.device, quantization: str, config: Mapping[str, Any], ledger: dict[str, float]
) -> torch.dtype:
    """The number format to compute in. `asked` is INFERENCE_DTYPE, `config` the model's config.json.

    `auto`: 16 bits on a GPU; on a CPU only for weights stored so, and if a probe finds it clearly quicker there (some
    only emulate it). The probe's result goes into `ledger`. Raises ValueError for a format that cannot be used here.
    """
    on_cpu = device.type == "cpu"
    if on_cpu and asked == "float16":
        raise ValueError(
            "INFERENCE_DTYPE is float16 on a CPU, which computes it more slowly than float32 and has no room for its "
            "larger numbers: say bfloat16, float32 or auto"
        )
    if on_cpu and quantization == "int8":
        if asked == "bfloat16":
            raise ValueError(
                "INFERENCE_DTYPE is bfloat16 with INFERENCE_QUANTIZATION int8, and on a CPU eight-bit layers compute "
                "in float32: say float32 or auto"
            )
        return torch.float32
    if asked != "auto":
        dtype: torch.dtype = getattr(torch, asked)
        return dtype
    if not on_cpu:
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if stored_dtype(config) == torch.float32:
        return torch.float32
    ledger["bfloat16_speedup"] = speedup = bfloat16_speedup()
    return torch.bfloat16 if speedup > CLEARLY_QUICKER else torch.float32


def stored_dtype(config: Mapping[str, Any]) -> torch.dtype:
    """The number format that config.json says its weights are stored in; float32 for all but the two 16-bit ones."""
    stored = str(config.get("dtype") or config.get("torch_dtype"))
    return {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(stored, torch.float32)


def bfloat16_speedup() -> float:
    """How many times quicker this CPU multiplies in bfloat16 than in float32, measured in some milliseconds."""

    def seconds(dtype: torch.dtype) -> float:
        # As in one step of a batch: few rows, and weights that do not fit the nearest caches.
        rows, weights = torch.ones(16, 1024, dtype=dtype), torch.ones(2048, 1024, dtype=dtype)
        best = float("inf")
        for _ in range(5):
            began = time.perf_counter()
            torch.nn.functional.linear(rows, weights)
            best = min(best, time.perf_counter() - began)
        return best

    return seconds(torch.float32) / seconds(torch.bfloat16)


def free_memory(device: torch.device) -> int:
    """Bytes that may still be taken: the GPU's, or the smaller of the machine's and the container's."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = [os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for line in text(Path("/proc/meminfo")).splitlines():
        if line.startswith("MemAvailable:"):
            free = [int(line.split()[1]) * 1024]
    in_container = left(text(MEMORY_LIMIT), held_memory())
    return min(free if in_container is None else [*free, in_container])


def left(limit: str, held: int) -> int | None:
    """Bytes that a container has left of which `held` are taken; None when it has no limit. `limit` is the text of
    cgroup's memory.max."""
    return max(0, int(limit) - held) if limit.isdigit() else None


def held_memory() -> int:
    """Bytes that this process holds now and that the kernel cannot take from it. Pages of files, which cgroup counts as
    used, are given back when memory is short (proc_pid_status(5))."""
    told = dict(line.partition(":")[::2] for line in text(Path("/proc/self/status")).splitlines())
    # Some containers' kernels do not tell the pages of files from others.
    names = ("RssAnon", "RssShmem") if "RssAnon" in told else ("VmRSS",)
    return sum(int(told[name].split()[0]) * 1024 for name in names)


def give_memory_back() -> None:
    """Let the operating system have what is free in this process: loading leaves holes of hundreds of megabytes. Of a
    GPU's memory, what torch keeps for later would count as taken."""
    gc.collect()
    torch.cuda.empty_cache()
    with contextlib.suppress(AttributeError):  # glibc's own
        ctypes.CDLL(None).malloc_trim(0)


def text(file: Path) -> str:
    """What a file of the kernel says; "" when it is not there."""
    try:
        return file.read_text(encoding="ascii").strip()
    except OSError:  # a kernel without it, or one that lets nobody look
        return ""

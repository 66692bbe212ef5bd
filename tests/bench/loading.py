"""How long weights take to be read from a share where every request takes some milliseconds, by way of reading.

    python -m tests.bench.loading [--megabytes 256] [--milliseconds 3] [--rounds 3] [--json]

A safetensors file as a model of 24 layers has it is read through a stand-in of the share (tests/bench/slow_share.py,
needs the right to mount), mounted anew for each reading so that nothing is left in memory. Every way ends with all
tensors in memory of their own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "inference"))

import torch  # noqa: E402 - inference/ is found first
from folders import check_model_folder  # noqa: E402
from safetensors import safe_open  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from weights import WeightReader  # noqa: E402

LAYERS = 24
MEGABYTE = 1024 * 1024
WEIGHTS = "model.safetensors"


def main() -> int:
    """Measure every way, print a table or JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=256)
    parser.add_argument("--milliseconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "model"
        total = write_model(folder, arguments.megabytes)
        taken: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        for _ in range(arguments.rounds):
            for way, read in WAYS.items():
                taken[way].append(measure(folder, Path(name) / "share", arguments.milliseconds, read))
    results = [summary(way, total, rounds) for way, rounds in taken.items()]
    if arguments.json:
        print(json.dumps({"bytes": total, "milliseconds": arguments.milliseconds, "ways": results}, indent=2))
    else:
        print(f"{total / 1e6:.0f} MB, {arguments.milliseconds:g} ms a request, median of {arguments.rounds}")
        print("| way | seconds | MB/s | requests | memory beside the weights, MB |\n|---|---|---|---|---|")
        for row in results:
            print(
                f"| {row['way']} | {row['seconds']:.2f} | {row['megabytes_per_second']:.0f} | {row['requests']:.0f} "
                f"| {row['extra_bytes'] / 1e6:.0f} |"
            )
    return 0


def write_model(folder: Path, megabytes: int) -> int:
    """A file of about this size with a model's tensors, large and small; its tensors' bytes."""
    folder.mkdir()
    side = int((megabytes * MEGABYTE / 2 / (LAYERS * 4 + 8)) ** 0.5)
    tensors = {"model.embed_tokens.weight": torch.zeros(8 * side, side, dtype=torch.bfloat16)}
    for layer in range(LAYERS):
        for part in ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj"):
            tensors[f"model.layers.{layer}.{part}.weight"] = torch.zeros(side, side, dtype=torch.bfloat16)
        tensors[f"model.layers.{layer}.input_layernorm.weight"] = torch.zeros(side, dtype=torch.bfloat16)
    save_file(tensors, folder / WEIGHTS)
    (folder / "config.json").write_text("{}", encoding="utf-8")
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    return sum(tensor.numel() * 2 for tensor in tensors.values())


@contextmanager
def slow_share(folder: Path, mount_point: Path, milliseconds: float) -> Iterator[Callable[[], int]]:
    """The folder through the stand-in. What it gives ends the mount and says how many reads were answered."""
    mount_point.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "tests.bench.slow_share", str(folder), str(mount_point)]
    process = subprocess.Popen(
        [*command, "--milliseconds", str(milliseconds)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    if process.stdout.readline() != "mounted\n":
        raise SystemExit("the stand-in of the share cannot be mounted: this needs /dev/fuse and the right to mount")

    def end() -> int:
        process.terminate()
        assert process.stdout is not None
        return int(process.stdout.readline())

    try:
        yield end
    finally:
        process.terminate()
        process.wait(20)


def measure(
    folder: Path, mount_point: Path, milliseconds: float, read: Callable[[Path], dict[str, torch.Tensor]]
) -> dict[str, float]:
    """One reading through a fresh mount: seconds, requests, and the most memory that it took beside the tensors."""
    with slow_share(folder, mount_point, milliseconds) as end:
        before = _memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # proc(5): sets the peak back
        began = time.perf_counter()
        tensors = read(mount_point)
        seconds = time.perf_counter() - began
        held = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        extra = max(0, _memory("VmHWM") - before - held)
        del tensors
        return {"seconds": seconds, "extra_bytes": extra, "requests": end()}


def summary(way: str, total: int, rounds: list[dict[str, float]]) -> dict[str, Any]:
    """A way's medians."""
    middle = {name: statistics.median(taken[name] for taken in rounds) for name in rounds[0]}
    return {"way": way, "megabytes_per_second": total / 1e6 / middle["seconds"], **middle}


def mapped(folder: Path, threads: int) -> dict[str, torch.Tensor]:
    """As transformers reads by itself: the file mapped into memory, tensor after tensor copied out of it."""
    with safe_open(folder / WEIGHTS, framework="pt") as file, ThreadPoolExecutor(threads) as pool:
        names = list(file.keys())
        return dict(zip(names, pool.map(lambda name: file.get_slice(name)[...].clone(), names), strict=True))


def read_ahead(folder: Path) -> dict[str, torch.Tensor]:
    """The whole file read once from beginning to end by one thread, and then as above, from the kernel's memory."""
    block = bytearray(8 * MEGABYTE)
    with (folder / WEIGHTS).open("rb", buffering=0) as file:
        while file.readinto(block):
            pass
    return mapped(folder, 4)


def in_blocks(folder: Path, readers: int, block_bytes: int) -> dict[str, torch.Tensor]:
    """inference/weights.py, taken as transformers' loader takes it: by four threads, or as many as there are cores."""
    tensors = check_model_folder(folder)
    reader = WeightReader(lambda read_bytes, seconds: None, readers=readers, block_bytes=block_bytes)
    with reader, ThreadPoolExecutor(min(4, os.cpu_count() or 4)) as pool:
        lazy = reader.lazy(tensors)
        return dict(zip(lazy, pool.map(lambda tensor: tensor[...], lazy.values()), strict=True))


def _blocks(readers: int, megabytes: int) -> Callable[[Path], dict[str, torch.Tensor]]:
    return lambda folder: in_blocks(folder, readers, megabytes * MEGABYTE)


WAYS: dict[str, Callable[[Path], dict[str, torch.Tensor]]] = {
    "mapped, one thread": lambda folder: mapped(folder, 1),
    "mapped, four threads (transformers)": lambda folder: mapped(folder, 4),
    "read once from one end to the other, then mapped": read_ahead,
    **{
        f"blocks of {size} MiB, {readers} at once": _blocks(readers, size) for readers, size in ((1, 8), (4, 8), (8, 1))
    },
    **{
        f"blocks of {size} MiB, {readers} at once": _blocks(readers, size)
        for readers, size in ((1, 8), (4, 8), (8, 8), (16, 8), (16, 4), (16, 1))
    },
}


def _memory(name: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(name)


if __name__ == "__main__":
    sys.exit(main())

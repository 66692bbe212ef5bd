"""What is chosen for a machine, and what is refused with its reason."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures_inference import INFERENCE


def chosen(
    asked: str = "auto", *, stored: str | None = None, quantization: str = "none"
) -> tuple[str, dict[str, float]]:
    import machine
    import torch

    config: dict[str, Any] = {} if stored is None else {"dtype": stored}
    ledger: dict[str, float] = {}
    dtype = machine.choose_dtype(asked, torch.device("cpu"), quantization, config, ledger)
    return str(dtype).removeprefix("torch."), ledger


def test_the_number_format_on_a_cpu() -> None:
    assert chosen() == ("float32", {})
    assert chosen(stored="float32") == ("float32", {}), "nothing is rounded that nobody asked to round"
    assert chosen("bfloat16", stored="float32") == ("bfloat16", {})
    assert chosen("float32", stored="bfloat16") == ("float32", {})
    assert chosen(stored="bfloat16", quantization="int8") == ("float32", {})


@pytest.mark.parametrize("stored", ["bfloat16", "float16"])
def test_sixteen_bits_where_this_machine_is_quick_at_them(stored: str) -> None:
    import machine

    dtype, ledger = chosen(stored=stored)
    assert dtype == ("bfloat16" if ledger["bfloat16_speedup"] > machine.CLEARLY_QUICKER else "float32")


def test_formats_that_a_cpu_does_not_do() -> None:
    with pytest.raises(ValueError, match="INFERENCE_DTYPE is float16 on a CPU, which computes it more slowly"):
        chosen("float16")
    with pytest.raises(ValueError, match="INFERENCE_DTYPE is bfloat16 with INFERENCE_QUANTIZATION int8"):
        chosen("bfloat16", quantization="int8")


@pytest.mark.parametrize(
    ("allowed", "quota", "expected"),
    [(8, "", 8), (8, "max 100000", 8), (8, "200000 100000", 2), (8, "50000 100000", 1), (2, "400000 100000", 2)],
)
def test_threads_are_what_the_container_may_use(allowed: int, quota: str, expected: int) -> None:
    import machine

    assert machine.processors(allowed, quota) == expected


HOLDS = """
import mmap, sys, machine

def told():
    machine.give_memory_back()
    print(machine.held_memory())

told()
block = b"x" * 300_000_000
told()
del block
told()
with open(sys.argv[1], "rb") as file:
    mapped = mmap.mmap(file.fileno(), 20_000_000, access=mmap.ACCESS_READ)
sum(mapped[at] for at in range(0, len(mapped), 4096))
told()
shared = mmap.mmap(-1, 100_000_000)
shared.write(b"x" * len(shared))
told()
"""


def test_what_was_held_and_what_files_hold_does_not_count_as_held() -> None:
    """A process that holds 300 MB for a while, then reads a mapped file, then takes 100 MB as the cache does."""
    import torch

    library = max((Path(torch.__file__).parent / "lib").iterdir(), key=lambda file: file.stat().st_size)
    command = [sys.executable, "-c", HOLDS, str(library)]
    ran = subprocess.run(command, cwd=INFERENCE, capture_output=True, text=True, check=True)
    before, *later = map(int, ran.stdout.split())
    assert [round((held - before) / 1e8) for held in later] == [3, 0, 0, 1]


def test_memory_that_may_be_taken_is_what_the_container_has_left() -> None:
    import machine

    assert machine.left("4294967296", 3_000_000_000) == 1_294_967_296
    assert machine.left("1", 2) == 0
    assert machine.left("max", 2) is None
    assert machine.left("", 2) is None


def test_a_gpu_that_torch_cannot_use_is_not_left_idle() -> None:
    import machine
    import torch

    if torch.cuda.is_available():
        pytest.skip("torch can use the GPU of this machine")
    for asked in ("auto", "cuda"):
        with pytest.raises(ValueError, match="torch cannot use the GPU that is here") as refused:
            machine.choose_device(asked, gpu_is_given=True)
        assert f"CUDA {torch.version.cuda}" in str(refused.value)
        assert "INFERENCE_DEVICE=cpu" in str(refused.value)
    assert machine.choose_device("cpu", gpu_is_given=True).type == "cpu"
    assert machine.choose_device("auto", gpu_is_given=False).type == "cpu"


def test_quantization_that_a_device_does_not_do() -> None:
    import quantization
    import torch

    with pytest.raises(ValueError, match="INFERENCE_QUANTIZATION is int4 on a CPU"):
        quantization.check("int4", torch.device("cpu"))
    quantization.check("int8", torch.device("cpu"))
    with pytest.raises(ValueError, match=r"bitsandbytes is not installed: start the replica by start\.sh"):
        quantization.check("int4", torch.device("cuda"))


def test_the_kernel_says_something_or_nothing(tmp_path: Path) -> None:
    import machine

    assert machine.text(tmp_path / "missing") == ""
    assert machine.text(tmp_path) == ""
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert machine.text(tmp_path / "cpu.max") == "max 100000"

"""Stored tensors as they are read: the same numbers as the format's own library gives, in blocks, from a slow share."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

FORMATS = (
    "bool uint8 int8 float8_e4m3fn float8_e5m2 int16 uint16 float16 bfloat16 int32 uint32 float32 int64 uint64 float64"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder with a tensor of every number format, an empty one, a single number, and a large one."""
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("stored")
    torch.manual_seed(5)
    tensors = {name: (torch.rand(3, 5) * 100).to(getattr(torch, name)) for name in FORMATS.split()}
    tensors |= {"empty": torch.zeros(0, 4), "single": torch.tensor(7.5), "large": torch.rand(300, 700)}
    save_file(tensors, folder / "model.safetensors")
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_text("{}", encoding="utf-8")
    return folder


def read(folder: Path, **arguments: Any) -> tuple[dict[str, Any], list[tuple[int, float]]]:
    from folders import check_model_folder
    from weights import WeightReader

    told: list[tuple[int, float]] = []
    with WeightReader(lambda *numbers: told.append(numbers), **arguments) as reader:
        # As a loader takes them: one after another, when it needs them.
        tensors = {name: lazy[...] for name, lazy in reader.lazy(check_model_folder(folder)).items()}
        assert reader.read_bytes == sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        assert reader.read_seconds > 0
    return tensors, told


def assert_as_stored(tensors: dict[str, Any], folder: Path) -> None:
    import torch
    from safetensors.torch import load_file

    expected = load_file(folder / "model.safetensors")
    assert tensors.keys() == expected.keys()
    for name, tensor in tensors.items():
        assert (tensor.dtype, tensor.shape) == (expected[name].dtype, expected[name].shape), name
        own = tensor.contiguous().reshape(-1).view(torch.uint8)
        assert torch.equal(own, expected[name].contiguous().reshape(-1).view(torch.uint8)), name


@pytest.mark.parametrize("block_bytes", [1000, 4 * 1024 * 1024])
def test_every_number_format(folder: Path, block_bytes: int) -> None:
    tensors, _ = read(folder, block_bytes=block_bytes)
    assert_as_stored(tensors, folder)


def test_how_far_it_is(folder: Path) -> None:
    tensors, told = read(folder, block_bytes=100_000, told_every_seconds=0.0)
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    assert [read_bytes for read_bytes, _ in told] == sorted(read_bytes for read_bytes, _ in told)
    assert told[-1][0] == total
    assert len(told) > len(FORMATS.split()) + 8, "also between the blocks of one tensor"


@pytest.fixture
def slow(folder: Path, tmp_path: Path) -> Iterator[Path]:
    """The folder through the benchmarks' slow share."""
    mount_point = tmp_path / "mounted"
    mount_point.mkdir()
    command = [sys.executable, "-m", "tests.bench.slow_share", str(folder), str(mount_point), "--milliseconds", "1"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stderr is not None
        if process.stdout.readline() != "mounted\n":
            pytest.skip(f"a slow share cannot be mounted here: {process.stderr.read().splitlines()[-1]}")
        yield mount_point
    finally:
        process.terminate()
        process.communicate(timeout=60)


def test_from_a_slow_share(slow: Path, folder: Path) -> None:
    tensors, _ = read(slow, block_bytes=100_000)
    assert_as_stored(tensors, folder)

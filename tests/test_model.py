"""Folders on disk: what loads, and what is said about a folder that does not."""

from __future__ import annotations

import json
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from settings import AdapterFolder, Limits

from tests.fixtures_inference import LIMITS, TinyModel, tiny_model

__all__ = ["tiny_model"]

WEIGHTS = "model.safetensors"


@pytest.fixture
def share(tiny_model: TinyModel, tmp_path: Path) -> TinyModel:
    """A copy of the tiny model that a test may break."""
    shutil.copytree(tiny_model.share, tmp_path / "share")
    return TinyModel(tmp_path / "share")


def load(tiny: TinyModel, **changes: Any) -> tuple[Any, list[tuple[str, dict[str, float]]]]:
    import model

    told: list[tuple[str, dict[str, float]]] = []
    arguments: dict[str, Any] = {"adapters": tiny.adapters, "limits": LIMITS, "device": "cpu", "dtype": "auto"}
    arguments |= changes
    loaded = model.load(tiny.base, report=lambda phase, ledger: told.append((phase, ledger)), **arguments)
    return loaded, told


def reason(tiny: TinyModel, **changes: Any) -> str:
    with pytest.raises(ValueError) as error:
        load(tiny, **changes)
    return str(error.value)


def edit(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads(file.read_text(encoding="utf-8"))
    change(document)
    file.write_text(json.dumps(document), encoding="utf-8")


def test_what_is_loaded(tiny_model: TinyModel) -> None:
    loaded, told = load(tiny_model)
    assert set(loaded.adapters) == {"default", "other", "tiny-base"}
    assert loaded.batch.kind == "slots"
    assert (loaded.batch.slots, loaded.batch.context_tokens) == (LIMITS.max_concurrent, 512)
    assert loaded.end_tokens == {loaded.tokenizer.convert_tokens_to_ids("<|end|>")}
    told_of_model = "LlamaForCausalLM, 0.1 million parameters, 2 adapters, cpu, float32"
    assert loaded.description == f"{told_of_model}, 6 requests at once (slots) of up to 512 tokens"
    phases = [phase for phase, _ in told]
    assert phases == ["checking the model's files", "loading the model", "weights read", "warming up", "ready"]
    sizes = [file.stat().st_size for file in tiny_model.share.rglob("*.safetensors")]
    ledger = {name: number for _, numbers in told for name, number in numbers.items()}
    # What is read are the tensors; a file has a header besides.
    assert ledger["read_bytes"] == ledger["weights_bytes"]
    assert 0.9 * sum(sizes) < ledger["read_bytes"] < sum(sizes)


def test_without_adapters_and_in_another_precision(tiny_model: TinyModel) -> None:
    loaded, _ = load(tiny_model, adapters=(), dtype="bfloat16")
    assert set(loaded.adapters) == {"tiny-base"}
    assert "no adapters, cpu, bfloat16" in loaded.description


def test_the_context_is_what_the_limits_ask_for(tiny_model: TinyModel) -> None:
    limits = Limits(max_prompt_tokens=30, default_new_tokens=5, max_new_tokens=10, max_concurrent=2)
    loaded, _ = load(tiny_model, limits=limits)
    assert (loaded.batch.slots, loaded.batch.context_tokens) == (2, 40)


def test_a_sharded_model(share: TinyModel) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(share.base / WEIGHTS)
    names = sorted(weights)
    parts = {"part-1.safetensors": names[::2], "part-2.safetensors": names[1::2]}
    for part, held in parts.items():
        save_file({name: weights[name] for name in held}, share.base / part, metadata={"format": "pt"})
    (share.base / WEIGHTS).unlink()
    weight_map = {name: part for part, held in parts.items() for name in held}
    index = share.base / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}), encoding="utf-8")
    load(share)
    (share.base / "part-2.safetensors").unlink()
    assert reason(share) == f"{share.base}: has no part-2.safetensors"
    weight_map = dict.fromkeys(names, "part-1.safetensors")
    index.write_text(json.dumps({"weight_map": weight_map}), encoding="utf-8")
    told = reason(share)
    assert told.startswith(f"{share.base}: model.safetensors.index.json says that part-1.safetensors holds "), told
    index.write_text("{}", encoding="utf-8")
    assert reason(share) == f"{share.base}: model.safetensors.index.json has no weight_map"


# A broken base: the folder and the reason


def cut_off(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-10])


def not_safetensors(file: Path) -> None:
    file.write_bytes(b"<html>no such file</html>" * 10)


def broken_header(file: Path) -> None:
    file.write_bytes(struct.pack("<Q", 6) + b'{"a":1' + b"\0" * 100)


def old_format(file: Path) -> None:
    file.rename(file.with_name("pytorch_model.bin"))


@pytest.mark.parametrize(
    ("name", "breaking", "expected"),
    [
        ("config.json", Path.unlink, "has no config.json"),
        ("config.json", lambda file: file.write_text("{"), "config.json is not JSON"),
        ("config.json", lambda file: file.write_text("[]"), "config.json is not a JSON object"),
        ("tokenizer.json", Path.unlink, "has no tokenizer"),
        (WEIGHTS, Path.unlink, "has no model.safetensors"),
        (WEIGHTS, cut_off, "it was not copied whole"),
        (WEIGHTS, not_safetensors, "model.safetensors is not a safetensors file, or is cut off (250 bytes)"),
        (WEIGHTS, broken_header, "model.safetensors has a broken safetensors header"),
        (WEIGHTS, old_format, "has no model.safetensors; pytorch_model.bin would run code when loaded"),
        (WEIGHTS, lambda file: file.write_bytes(b""), "is cut off (0 bytes)"),
        ("config.json", lambda file: edit(file, lambda c: c.update(model_type="nonsense")), "cannot be loaded: "),
        ("tokenizer.json", lambda file: file.write_text("{}"), "cannot be loaded: "),
    ],
)
def test_a_broken_base(share: TinyModel, name: str, breaking: Callable[[Path], object], expected: str) -> None:
    breaking(share.base / name)
    told = reason(share)
    assert told.startswith(f"{share.base}: ")
    assert expected in told
    assert "\n" not in told


def test_weights_of_another_shape(share: TinyModel) -> None:
    edit(share.base / "config.json", lambda config: config.update(intermediate_size=96))
    assert reason(share) == (
        f"{share.base}: 6 weights have another shape than config.json makes, such as "
        "model.layers.0.mlp.down_proj.weight: [64, 128] instead of [64, 96]"
    )


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "model-cache").mkdir()
    told = reason(TinyModel(tmp_path))
    assert (
        told
        == f"{tmp_path}/model-cache/tests/tiny-base: there is no such folder (it exists up to {tmp_path}/model-cache)"
    )


# A broken adapter: refused with its own folder


def adapter_reason(share: TinyModel) -> str:
    told = reason(share)
    folder = f"{share.adapters[1].folder}: "
    assert told.startswith(folder), told
    assert "\n" not in told
    return told.removeprefix(folder)


def test_adapters_that_do_not_fit(share: TinyModel, tmp_path: Path) -> None:
    folder = share.adapters[1].folder
    config = folder / "adapter_config.json"
    kept = config.read_text(encoding="utf-8")

    edit(config, lambda document: document.update(peft_type="IA3"))
    assert adapter_reason(share) == "adapter_config.json says peft_type 'IA3'; only LORA adapters are served"
    config.write_text(kept, encoding="utf-8")

    edit(config, lambda document: document.update(bias="all"))
    assert adapter_reason(share).startswith("adapter_config.json says bias 'all': such an adapter replaces")
    config.write_text(kept, encoding="utf-8")

    edit(config, lambda document: document.update(base_model_name_or_path="org/another-7b"))
    assert adapter_reason(share) == (
        "was trained on another base model: adapter_config.json says base_model_name_or_path 'org/another-7b', and it "
        f"would be served on {share.base} (tiny-base); serve it on its own base, or correct base_model_name_or_path if "
        "it was trained on a copy of this one"
    )
    config.write_text(kept, encoding="utf-8")

    edit(config, lambda document: document.update(r=8))
    assert adapter_reason(share) == (
        "does not fit the base model: 8 weights of adapter_model.safetensors have another shape than the base model's "
        "layers and rank 8 of adapter_config.json make, such as base_model.model.model.layers.0.self_attn.q_proj."
        "lora_A.weight: [4, 64] instead of [8, 64]"
    )
    config.write_text(kept, encoding="utf-8")

    edit(config, lambda document: document.update(target_modules=["no_such_proj"]))
    assert "no_such_proj" in adapter_reason(share)
    config.write_text(kept, encoding="utf-8")

    edit(config, lambda document: document.update(target_modules=["q_proj", "v_proj", "k_proj"]))
    assert adapter_reason(share).startswith("lacks 4 of the weights that its adapter_config.json promises")
    config.write_text(kept, encoding="utf-8")

    edit(config, lambda document: document.update(target_modules=["q_proj"]))
    assert adapter_reason(share).startswith("has 4 weights that the base model has no place for")
    config.write_text(kept, encoding="utf-8")

    cut_off(folder / "adapter_model.safetensors")
    assert "it was not copied whole" in adapter_reason(share)
    (folder / "adapter_model.safetensors").unlink()
    assert adapter_reason(share) == "has no adapter_model.safetensors"
    config.unlink()
    assert adapter_reason(share) == "has no adapter_config.json"
    shutil.rmtree(folder)
    assert "there is no such folder" in adapter_reason(share)


def test_an_adapter_of_another_base(share: TinyModel) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=100, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2
    )
    shutil.rmtree(share.adapters[1].folder)
    foreign: Any = get_peft_model(LlamaForCausalLM(config), LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    foreign.save_pretrained(str(share.adapters[1].folder))
    told = adapter_reason(share)
    assert told.startswith("does not fit the base model: 6 weights of adapter_model.safetensors have another shape")
    assert told.endswith("lora_A.weight: [4, 32] instead of [4, 64]")


def test_a_base_that_lacks_a_weight(share: TinyModel) -> None:
    """A library would make random numbers up for it."""
    from safetensors.torch import load_file, save_file

    weights = load_file(share.base / WEIGHTS)
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, share.base / WEIGHTS, metadata={"format": "pt"})
    assert reason(share) == (
        f"{share.base}: lacks 1 of the weights that its config.json promises, such as model.layers.1.mlp.up_proj.weight"
    )


def test_a_file_that_shrinks_while_it_is_read(share: TinyModel) -> None:
    from folders import ModelFolderError, check_model_folder
    from weights import WeightReader

    tensors = check_model_folder(share.base)
    cut_off(share.base / WEIGHTS)
    last = max(tensors.values(), key=lambda stored: stored.begin)
    with WeightReader(lambda read_bytes, seconds: None) as reader, pytest.raises(ModelFolderError) as error:
        reader.take(last)
    assert str(error.value) == f"{share.base}: {WEIGHTS} became shorter while it was read: was it replaced?"


def fail_to_read(file: Path) -> None:
    """From now on reading it is an error of input and output, as of a share that does not answer."""
    file.unlink()
    file.symlink_to("/proc/self/mem")  # of which the first page is nobody's


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("config.json", "config.json cannot be read (Input/output error)"),
        ("tokenizer.json", "its tokenizer cannot be loaded: OSError: [Errno 5] Input/output error"),
    ],
)
def test_what_cannot_be_read_now_is_not_the_folders_fault(share: TinyModel, name: str, expected: str) -> None:
    fail_to_read(share.base / name)
    with pytest.raises(OSError, match=re.escape(f"{share.base}: {expected}")):
        load(share)


def test_weights_that_a_gpu_has_no_room_for(share: TinyModel) -> None:
    """Told as what torch says while they go there, and not as a fault of the folder."""
    import model
    import torch
    from folders import StoredTensor, check_model_folder
    from weights import WeightReader

    class Full(WeightReader):
        def take(self, stored: StoredTensor) -> torch.Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    numbers = model._Numbers(torch.device("cpu"), torch.float32, torch.float32, "none")
    with Full(lambda read_bytes, seconds: None) as reader, pytest.raises(ValueError) as error:
        model._load_base(share.base, check_model_folder(share.base), reader, numbers)
    assert re.match("the weights do not fit the memory of the GPU .*2.00 GiB.*: set INFERENCE_QUANT", str(error.value))


def test_weights_that_cannot_be_read_now(share: TinyModel) -> None:
    from folders import check_adapter_folder, check_model_folder
    from weights import WeightReader

    for folder, check in ((share.base, check_model_folder), (share.adapters[0].folder, check_adapter_folder)):
        tensors = check(folder)
        (file,) = {stored.file for stored in tensors.values()}
        fail_to_read(file)
        with WeightReader(lambda read_bytes, seconds: None) as reader:
            lazy = reader.lazy(tensors)
            with pytest.raises(OSError, match=re.escape(f"{folder}: {file.name} cannot be read (Input/output error)")):
                next(iter(lazy.values()))[...]


def test_adapter_names_with_dots_and_slashes(tiny_model: TinyModel) -> None:
    adapters = tuple(
        AdapterFolder(name, adapter.folder)
        for name, adapter in zip(("v1.2", "__base__"), tiny_model.adapters, strict=True)
    )
    loaded, _ = load(tiny_model, adapters=adapters)
    assert set(loaded.adapters) == {"v1.2", "__base__", "tiny-base"}


def test_int8_layers_with_adapters(tiny_model: TinyModel) -> None:
    """Nearly the same numbers, in rows of different adapters; the output layer is not touched."""
    import torch

    plain, _ = load(tiny_model)
    loaded, told = load(tiny_model, quantization="int8")
    assert "2 adapters, cpu, float32 with int8 layers, 6 requests at once (slots)" in loaded.description
    assert "making the linear layers int8" in [phase for phase, _ in told]
    tokens = torch.tensor([[5, 9, 2, 11]] * 3)
    names = [loaded.adapters[name] for name in ("default", "other", "tiny-base")]
    with torch.inference_mode():
        expected, found = (
            each.batch.model.module(input_ids=tokens, adapter_names=names).logits for each in (plain, loaded)
        )
    assert type(loaded.batch.model.module.get_output_embeddings()) is torch.nn.Linear
    off = [float((a - b).norm() / b.norm()) for a, b in zip(found, expected, strict=True)]
    assert 0 < max(off) < 0.1
    # Rows of different adapters differ by more than the rounding.
    assert float((expected[0] - expected[1]).norm() / expected[0].norm()) > 3 * max(off)


def test_int8_layers_of_a_model_that_is_stored_in_16_bits(share: TinyModel) -> None:
    """It is read as it is stored, and computes in float32."""
    import torch

    edit(share.base / "config.json", lambda config: config.update(dtype="bfloat16"))
    loaded, _ = load(share, quantization="int8")
    assert "cpu, float32 with int8 layers" in loaded.description
    module = loaded.batch.model.module
    assert {weights.dtype for weights in module.parameters()} == {torch.float32}
    with torch.inference_mode():
        logits = module(input_ids=torch.tensor([[5, 9, 2]]), adapter_names=[loaded.adapters["other"]]).logits
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()


def test_what_is_asked_for_and_cannot_be_had(tiny_model: TinyModel) -> None:
    assert "INFERENCE_DTYPE is float16 on a CPU" in reason(tiny_model, dtype="float16")
    assert "INFERENCE_QUANTIZATION is int4 on a CPU" in reason(tiny_model, quantization="int4")
    assert "INFERENCE_MERGE is on, and there are 2 adapters" in reason(tiny_model, merge="on")


def test_a_device_that_is_not_there(tiny_model: TinyModel) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    assert "INFERENCE_DEVICE is cuda, and torch sees no CUDA device" in reason(tiny_model, device="cuda")

"""Adapters of every kind in one forward: as PEFT computes each of them alone."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from settings import AdapterFolder

TOKENS = [[5, 9, 2, 11, 3], [7, 7, 1, 0, 4], [1, 2, 3, 4, 5], [8, 6, 4, 2, 0]]
ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

PLAIN: dict[str, dict[str, Any]] = {
    "attention": {"r": 4, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]},
    "everywhere": {"r": 8, "lora_alpha": 8, "use_rslora": True, "target_modules": ALL_LINEAR},
    "uneven": {
        "r": 2,
        "lora_alpha": 6,
        "target_modules": ALL_LINEAR,
        "rank_pattern": {"down_proj": 5},
        "alpha_pattern": {"q_proj": 1},
        "layers_to_transform": [1],
    },
}
UNUSUAL: dict[str, dict[str, Any]] = {
    "dora": {"r": 4, "use_dora": True, "target_modules": ["q_proj", "v_proj"]},
    "lora_bias": {"r": 4, "lora_bias": True, "target_modules": ["q_proj"]},
    "embedding": {"r": 4, "target_modules": ["q_proj", "embed_tokens"]},
    "whole": {"r": 4, "target_modules": ["q_proj"], "modules_to_save": ["norm"]},
}


@pytest.fixture(scope="module")
def share(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model, and an adapter of each of the kinds above."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("lora")
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=120,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
        attention_bias=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder / "base")
    for number, (name, settings) in enumerate((PLAIN | UNUSUAL).items()):
        torch.manual_seed(number)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            base: Any = LlamaForCausalLM.from_pretrained(folder / "base", attn_implementation="sdpa")
            made: Any = get_peft_model(base, LoraConfig(init_lora_weights=False, **settings))
            with torch.no_grad():
                for parameter in (p for p in made.parameters() if p.requires_grad and p.dim() == 1):
                    parameter.add_(torch.rand_like(parameter))
            made.save_pretrained(str(folder / name))
    return folder


def attached(share: Path, *names: str, merge: str = "off") -> Any:
    """The base model with these adapters, as model.py makes it."""
    import adapters
    from folders import check_adapter_folder
    from transformers import LlamaForCausalLM
    from weights import WeightReader

    base: Any = LlamaForCausalLM.from_pretrained(share / "base", attn_implementation="sdpa")
    folders = [AdapterFolder(name, share / name) for name in names]
    tensors = {adapter.folder: check_adapter_folder(adapter.folder) for adapter in folders}
    with WeightReader(lambda read_bytes, seconds: None) as reader:
        return adapters.attach(base.eval(), folders, tensors, reader, merge=merge)


@pytest.fixture(scope="module")
def peft_logits(share: Path) -> Callable[[str | None, int], Any]:
    """What PEFT gives for one row with one adapter alone (None: the base)."""
    import torch
    from peft import PeftModel
    from transformers import LlamaForCausalLM

    models: dict[str | None, Any] = {}

    def logits(name: str | None, row: int) -> Any:
        if name not in models:
            base: Any = LlamaForCausalLM.from_pretrained(share / "base", attn_implementation="sdpa")
            models[name] = (PeftModel.from_pretrained(base, str(share / name)) if name else base).eval()
        with torch.inference_mode():
            return models[name](input_ids=torch.tensor([TOKENS[row]])).logits[0]

    return logits


def logits_of(adapted: Any, rows: list[str | None]) -> Any:
    import torch
    from rows import BASE

    names = [BASE if name is None else adapted.names[name] for name in rows]
    with torch.inference_mode():
        return adapted.module(input_ids=torch.tensor(TOKENS[: len(rows)]), adapter_names=names).logits


MIXES: list[list[str | None]] = [
    ["attention", "everywhere", "uneven", None],
    ["uneven", None, "attention", "attention"],
    ["everywhere", "everywhere", "everywhere", "everywhere"],
    [None, None, None, None],
    ["uneven"],
]


def test_any_mix_is_what_peft_gives_for_each_row_alone(
    share: Path, peft_logits: Callable[[str | None, int], Any]
) -> None:
    import torch
    from lora import AdaptedModel

    adapted = attached(share, *PLAIN)
    assert isinstance(adapted.module, AdaptedModel)
    assert adapted.mixes
    for rows in MIXES:
        for at, logits in enumerate(logits_of(adapted, rows)):
            torch.testing.assert_close(logits, peft_logits(rows[at], at), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(peft_logits("uneven", 0), peft_logits(None, 0), atol=0.1), "the adapters change something"


def test_one_adapter_at_a_time(share: Path, peft_logits: Callable[[str | None, int], Any]) -> None:
    """As rows are computed one after another, by models whose rows cannot share a forward."""
    import torch

    adapted = attached(share, *PLAIN)
    tokens = torch.tensor(TOKENS[:1])
    for name in PLAIN:
        adapted.module.set_adapter(adapted.names[name])
        with torch.inference_mode():
            with adapted.module.disable_adapter():
                torch.testing.assert_close(adapted.module(tokens).logits[0], peft_logits(None, 0), rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(adapted.module(tokens).logits[0], peft_logits(name, 0), rtol=1e-4, atol=1e-4)
    with pytest.raises(KeyError, match="nobody"):
        adapted.module.set_adapter("nobody")


@pytest.mark.parametrize("name", list(PLAIN))
def test_an_adapter_alone_is_merged_and_the_base_is_still_served(
    share: Path, peft_logits: Callable[[str | None, int], Any], name: str
) -> None:
    import torch

    adapted = attached(share, name, merge="auto")
    assert adapted.kind == "1 adapter, merged"
    mixes: list[list[str | None]] = [[name, None, name, None], [name, name], [None, None]]
    for rows in mixes:
        for at, logits in enumerate(logits_of(adapted, rows)):
            torch.testing.assert_close(logits, peft_logits(rows[at], at), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("name", list(PLAIN))
def test_an_adapter_alone_lies_below_the_weights(
    share: Path, peft_logits: Callable[[str | None, int], Any], name: str, packed: bool
) -> None:
    import torch
    from lora import LoraLinear, WideLoraLinear, widen
    from packed import pack

    adapted = attached(share, name)
    count = sum(isinstance(layer, LoraLinear) for layer in adapted.module.modules())
    widen(adapted.module.module)
    kinds = [type(layer) for layer in adapted.module.modules()]
    assert kinds.count(WideLoraLinear) == count > 0 == kinds.count(LoraLinear)
    if packed:
        assert pack(adapted.module.module) >= 2 * count
    mixes: list[list[str | None]] = [[name, None, name, None], [name, name], [name], [None, None], [None]]
    for rows in mixes:
        for at, logits in enumerate(logits_of(adapted, rows)):
            torch.testing.assert_close(logits, peft_logits(rows[at], at), rtol=1e-4, atol=1e-4)


def test_other_layers_do_not_become_wide(share: Path) -> None:
    """Those of several adapters, and of one that is merged."""
    from lora import WideLoraLinear, widen

    for adapted in (attached(share, *PLAIN), attached(share, "attention", merge="on")):
        widen(adapted.module.module)
        assert not any(isinstance(layer, WideLoraLinear) for layer in adapted.module.modules())


@pytest.mark.parametrize("name", list(UNUSUAL))
def test_unusual_adapters_stay_with_peft(share: Path, peft_logits: Callable[[str | None, int], Any], name: str) -> None:
    import torch
    from peft import PeftModel

    adapted = attached(share, "attention", name, merge="auto")
    assert isinstance(adapted.module, PeftModel)
    for used in ("attention", name):
        adapted.module.set_adapter(adapted.names[used])
        with torch.inference_mode():
            logits = adapted.module(input_ids=torch.tensor(TOKENS[:1])).logits[0]
        torch.testing.assert_close(logits, peft_logits(used, 0), rtol=1e-4, atol=1e-4)
    assert adapted.mixes == (name in ("embedding", "lora_bias"))


def test_merging_that_cannot_be_had(share: Path) -> None:
    with pytest.raises(ValueError, match="INFERENCE_MERGE is on, and there are 2 adapters"):
        attached(share, "attention", "uneven", merge="on")
    with pytest.raises(ValueError, match="INFERENCE_MERGE is on, and the adapter cannot be merged"):
        attached(share, "dora", merge="on")


def test_layers_that_do_not_see_rows(tmp_path: Path) -> None:
    """An expert gets tokens of all rows in one list: its adapters are computed for one adapter at a time."""
    import adapters
    import torch
    from folders import check_adapter_folder
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import Qwen2MoeConfig, Qwen2MoeForCausalLM
    from weights import WeightReader

    torch.manual_seed(1)
    config = Qwen2MoeConfig(
        vocab_size=60,
        hidden_size=32,
        intermediate_size=32,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_experts=3,
        num_experts_per_tok=2,
    )
    base: Any = Qwen2MoeForCausalLM(config)
    base.save_pretrained(tmp_path / "base")
    lora = LoraConfig(r=4, init_lora_weights=False, target_modules=r".*shared_expert\.up_proj")
    made: Any = get_peft_model(base, lora)
    made.save_pretrained(str(tmp_path / "adapter"))
    tokens = torch.tensor([[5, 9, 2]])

    adapter = AdapterFolder("expert", tmp_path / "adapter")
    loader: Any = Qwen2MoeForCausalLM
    fresh = loader.from_pretrained(tmp_path / "base").eval()
    peft = PeftModel.from_pretrained(loader.from_pretrained(tmp_path / "base"), str(adapter.folder)).eval()
    with WeightReader(lambda read_bytes, seconds: None) as reader:
        tensors = {adapter.folder: check_adapter_folder(adapter.folder)}
        adapted = adapters.attach(fresh, [adapter], tensors, reader, merge="off")
    assert not adapted.mixes
    adapted.module.set_adapter(adapted.names["expert"])
    with torch.inference_mode():
        torch.testing.assert_close(adapted.module(tokens).logits, peft(tokens).logits, rtol=1e-4, atol=1e-4)

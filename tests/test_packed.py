"""Packed linear layers compute what the plain ones do, and only once hold the weights."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from packed import PackedLinear, pack
from torch import nn

DTYPES = [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)]


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("bias", [True, False])
def test_packed_layers_compute_the_same(dtype: torch.dtype, tolerance: float, bias: bool) -> None:
    torch.manual_seed(5)
    plain = nn.Linear(70, 130, bias=bias).to(dtype)
    packed = PackedLinear(plain)
    assert torch.equal(packed.weight, plain.weight)
    with torch.inference_mode():
        for shape in ((1, 1, 70), (5, 1, 70), (3, 7, 70), (0, 1, 70), (2, 70)):
            inputs = torch.randn(shape, dtype=dtype)
            torch.testing.assert_close(packed(inputs), plain(inputs), rtol=tolerance, atol=tolerance)
            there = torch.randn((*shape[:-1], 140), dtype=dtype)[..., :130]
            added = packed.added(inputs, there)
            torch.testing.assert_close(added, there + plain(inputs), rtol=tolerance, atol=tolerance)
        turned = torch.randn((4, 70, 3), dtype=dtype).transpose(1, 2)
        torch.testing.assert_close(packed(turned), plain(turned), rtol=tolerance, atol=tolerance)


def test_a_model_answers_as_before() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=61,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.4,
        eos_token_id=None,
        pad_token_id=0,
        tie_word_embeddings=True,
    )
    model: Any = LlamaForCausalLM(config)
    model.eval()
    prompt = torch.tensor([[5, 9, 2, 44]])
    with torch.inference_mode():
        before = model.generate(prompt, max_new_tokens=12, do_sample=False)
        weights = sum(parameter.numel() for parameter in model.parameters())
        assert pack(model) == 2 * 7 + 1
        assert torch.equal(model.generate(prompt, max_new_tokens=12, do_sample=False), before)
    # The embeddings share their weights with the head, and stay plain beside its packed ones.
    linear = 2 * (32 * 32 * 2 + 32 * 16 * 2 + 32 * 48 * 3)
    assert sum(parameter.numel() for parameter in model.parameters()) == weights - linear
    assert pack(model) == 0


def test_a_type_that_cannot_be_packed_stays(caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Sequential(nn.Linear(4, 4).to(torch.float64))
    with caplog.at_level(logging.INFO, "packed"):
        assert pack(model) == 0
    assert type(model[0]) is nn.Linear
    assert "linear layers stay as they are" in caplog.text

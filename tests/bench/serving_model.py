"""The model that servers are measured with: a Llama of 81.8 million random weights with a real BPE tokenizer, and an
adapter for it.

Made once and kept in ~/.cache/inferops. What it writes means nothing, and every token costs what a trained one would.
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

VOCABULARY = 8192
WORDS = 7400
"""As many as fill the tokenizer's vocabulary. Ids that spell nothing would be chosen by random weights as often as
others, and whoever reads a stream could not count its tokens."""
CONTEXT_TOKENS = 4096
RANK = 64
"""Rank and targets of the adapter are those that the AI Toolkit fine-tunes with, where nobody chooses others:
microsoft/windows-ai-studio-templates, configs/Phi-3-mini-4k-instruct, project-settings.json and olive-config.json."""
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj"]
SPECIAL_TOKENS = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def words(seed: int, count: int) -> str:
    """Text of made-up words, nearly one token each; no two seeds begin alike."""
    chosen = random.Random(seed)
    return " ".join(_word(chosen.randrange(WORDS)) for _ in range(count))


def _word(number: int) -> str:
    syllables = [first + second for first in "bcdfghklmnprstvz" for second in "aeiou"]
    rest, first = divmod(number, len(syllables))
    end, second = divmod(rest, len(syllables))
    return syllables[first] + syllables[second] + "rns"[end]


def folder(kind: str) -> Path:
    """The model's folder with weights of this dtype (float32, bfloat16); made when it is not there."""
    made = _kept(f"serving-bench-{WORDS}-words-{kind}")
    if not (made / "model.safetensors").is_file():
        _make(made, kind)
    return made


def adapter_folder(kind: str) -> Path:
    """The folder of an adapter for that model, with weights of this dtype; made when it is not there."""
    made = _kept(f"serving-bench-{WORDS}-words-{kind}-adapter")
    if not (made / "adapter_model.safetensors").is_file():
        make_adapter(made, kind, RANK, TARGETS, seed=12)
    return made


def _kept(name: str) -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "inferops" / name


def _make(made: Path, kind: str) -> None:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(_word(number) for number in range(WORDS))], trainer)
    whole: Any = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token="<|end|>"
    )
    if len(whole) != VOCABULARY:
        raise ValueError(f"the tokenizer has {len(whole)} entries, and the model {VOCABULARY} ids: WORDS is too small")
    whole.chat_template = CHAT_TEMPLATE
    whole.save_pretrained(made)
    torch.manual_seed(11)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=12,
        num_attention_heads=12,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT_TOKENS,
        tie_word_embeddings=True,
        # No token ends an answer, so that each is as long as was asked for.
        eos_token_id=None,
        bos_token_id=None,
        pad_token_id=0,
    )
    model: Any = LlamaForCausalLM(config)
    model.to(getattr(torch, kind)).save_pretrained(made)


def make_adapter(made: Path, kind: str, rank: int, targets: list[str], seed: int) -> Path:
    """Write an adapter of random weights of this dtype into the folder."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base: Any = AutoModelForCausalLM.from_pretrained(folder(kind), dtype=getattr(torch, kind))
    settings = LoraConfig(r=rank, lora_alpha=rank, target_modules=targets)
    model: Any = get_peft_model(base, settings, autocast_adapter_dtype=False)
    torch.manual_seed(seed)
    for name, weights in model.named_parameters():
        if "lora_B" in name:  # zeros until it is trained
            torch.nn.init.normal_(weights, std=0.002)
    model.save_pretrained(made)
    return made

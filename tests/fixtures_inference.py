"""A tiny real model for the tests of inference/: a random Llama with a real BPE tokenizer, a chat template and two LoRA
adapters, made in a few seconds; and a real server process over it. Test modules import what they use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

WORDS = "the quick brown fox jumps over a lazy dog while naïve café owners count 1 2 3 € 日本 🙂 user system assistant".split()

CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('unknown role') }}{% endif %}"
    "<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@dataclass(frozen=True)
class TinyModel:
    """Folders on a share as fine-tuning leaves them."""

    share: Path
    base: Path
    adapters: dict[str, Path]


def make_tiny_model(share: Path) -> TinyModel:
    """Write the base and the adapters `default` and `other` below `share`."""
    import torch
    from peft import LoraConfig, get_peft_model
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    base = share / "model-cache" / "tests" / "tiny-base"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([" ".join(WORDS)] * 20, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token="<|end|>")
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(base)

    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.3,
        eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id,
        bos_token_id=None,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(base)
    adapters = {}
    for seed, name in enumerate(("default", "other")):
        torch.manual_seed(100 + seed)
        fresh = LlamaForCausalLM.from_pretrained(base)
        lora = LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        adapters[name] = share / "models" / "tests" / name
        get_peft_model(fresh, lora).save_pretrained(str(adapters[name]))
    return TinyModel(share, base, adapters)

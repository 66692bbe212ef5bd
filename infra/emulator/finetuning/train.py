"""Trains the demo models: recipe -> a folder with base model and adapter, laid out as on the share.

Knows no cache and no cloud. The same recipe and libraries give the same files on the same kind of processor. It sets
torch's number of threads, seed and deterministic algorithms for its whole process, so it wants one of its own.
"""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from infra.emulator.finetuning.recipe import (
    QUESTIONS,
    SYSTEM_PROMPTS,
    Recipe,
    Stage,
    adapter_folder,
    base_folder,
    in_style,
)

PAD, END = "<|pad|>", "<|end|>"
ROLES = ("system", "user", "assistant")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
# What cross entropy leaves out of the loss.
IGNORED = -100

Report = Callable[[str, int, int, float], None]
"""Told after each step: what is trained, steps done, steps in all, loss."""


@dataclass(frozen=True)
class Batch:
    """Conversations filled up to one length; each of shape [conversations, tokens]."""

    tokens: torch.Tensor
    mask: torch.Tensor
    targets: torch.Tensor


def train(recipe: Recipe, folder: Path, report: Report) -> None:
    """Writes base model and adapter below `folder`, in the folders that they have on the share."""
    # Bars of their own for files of a few megabytes, between the lines that `report` shows.
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    torch.set_num_threads(recipe.threads)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(recipe.seed)
    tokenizer = _tokenizer(recipe)

    base = _base_model(recipe, tokenizer)
    _fit(base, recipe.base, _batches(tokenizer, recipe, recipe.base, lambda answer: answer), "base model", report)
    base_to = folder / base_folder()
    base.save_pretrained(base_to)
    tokenizer.save_pretrained(base_to)
    (base_to / "README.md").write_text(_base_card(), encoding="utf-8")

    adapted = _adapted(base, recipe)
    _fit(adapted, recipe.adapter, _batches(tokenizer, recipe, recipe.adapter, in_style), "adapter", report)
    adapter_to = folder / adapter_folder(recipe)
    # Embeddings are not adapted; left to find out, peft would look for the base at its place on the share.
    adapted.save_pretrained(str(adapter_to), save_embedding_layers=False)
    _sort_lists(adapter_to / "adapter_config.json")
    (adapter_to / "README.md").write_text(_adapter_card(), encoding="utf-8")


def _tokenizer(recipe: Recipe) -> PreTrainedTokenizerFast:
    texts = [text for question, answer in QUESTIONS for text in (question, answer, in_style(answer))]
    tokenizer = Tokenizer(models.BPE())
    # Bytes as the alphabet: any text can be asked, in any script.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocabulary,
        special_tokens=[PAD, END, *(f"<|{role}|>" for role in ROLES)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*texts, *SYSTEM_PROMPTS], trainer)
    wrapped: PreTrainedTokenizerFast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, model_max_length=recipe.context
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


def _base_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=recipe.hidden,
            intermediate_size=recipe.inner,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            num_key_value_heads=recipe.heads,
            max_position_embeddings=recipe.context,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def _adapted(base: LlamaForCausalLM, recipe: Recipe) -> PeftModel:
    """The base model, frozen, with a fresh adapter on all its linear layers."""
    settings = LoraConfig(
        r=recipe.adapter_rank,
        lora_alpha=recipe.adapter_alpha,
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        # Between peft and transformers: nothing that a reader of this program's messages could do about.
        warnings.simplefilter("ignore", FutureWarning)
        adapted = get_peft_model(base, settings)
    assert isinstance(adapted, PeftModel)
    # As fine-tuning writes it: where the base lies on the share, not where this process had it.
    adapted.peft_config["default"].base_model_name_or_path = base_folder()
    return adapted


def _fit(model: torch.nn.Module, stage: Stage, batches: Iterator[list[Batch]], what: str, report: Report) -> None:
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=stage.learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, stage))
    model.train()
    for step in range(1, stage.steps + 1):
        batch = next(batches)
        # One mean over all learnt tokens of the step, though its parts are computed one after the other.
        learnt = torch.stack([(part.targets != IGNORED).sum() for part in batch]).sum()
        total = 0.0
        for part in batch:
            output = model(
                input_ids=part.tokens,
                attention_mask=part.mask,
                labels=part.targets,
                num_items_in_batch=learnt,
            )
            output.loss.backward()
            total += float(output.loss.detach())
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        report(what, step, stage.steps, total)
    model.eval()


def _rate(step: int, stage: Stage) -> float:
    """The share of the highest learning rate: up in the warm-up, then down in a straight line to a fiftieth."""
    if step < stage.warm_up:
        return (step + 1) / stage.warm_up
    return max(0.02, 1 - (step - stage.warm_up) / max(1, stage.steps - stage.warm_up))


def _batches(
    tokenizer: PreTrainedTokenizerFast, recipe: Recipe, stage: Stage, style: Callable[[str], str]
) -> Iterator[list[Batch]]:
    """Without end: every pair comes once before any comes again."""
    chance = random.Random(f"{recipe.seed} {style('A.')}")  # noqa: S311 - a repeatable order, not a secret
    waiting: list[tuple[str, str]] = []
    while True:
        if len(waiting) < stage.pairs:
            fresh = list(QUESTIONS)
            chance.shuffle(fresh)
            waiting += fresh
        pairs, waiting = waiting[: stage.pairs], waiting[stage.pairs :]
        conversations: list[tuple[list[int], list[int]]] = []
        while pairs:
            turns = recipe.turns[len(conversations) % len(recipe.turns)]
            conversations.append(_conversation(tokenizer, pairs[:turns], style, chance))
            pairs = pairs[turns:]
        # Short and long ones apart: together, most of the work would go into filling up the short ones.
        conversations.sort(key=lambda conversation: len(conversation[0]))
        cut = len(conversations) * 2 // 3
        yield [_filled_up(part, tokenizer) for part in (conversations[:cut], conversations[cut:]) if part]


def _conversation(
    tokenizer: PreTrainedTokenizerFast,
    pairs: list[tuple[str, str]],
    style: Callable[[str], str],
    chance: random.Random,
) -> tuple[list[int], list[int]]:
    """Tokens and targets; only the answers are learnt."""
    messages = [("system", chance.choice(SYSTEM_PROMPTS))] if chance.random() < 0.25 else []
    for question, answer in pairs:
        messages += [("user", _as_people_type(question, chance)), ("assistant", style(answer))]
    tokens: list[int] = []
    targets: list[int] = []
    for role, content in messages:
        who, said = (tokenizer.encode(text, add_special_tokens=False) for text in (f"<|{role}|>", f"{content}{END}"))
        tokens += who + said
        targets += [IGNORED] * len(who) + (said if role == "assistant" else [IGNORED] * len(said))
    return tokens, targets


def _as_people_type(question: str, chance: random.Random) -> str:
    """Half of the time as it stands, else in lower case or without its question mark."""
    kind = chance.random()
    if kind < 0.25:
        question = question.lower()
    return question.rstrip("?") if kind < 0.1 or kind > 0.75 else question


def _filled_up(conversations: list[tuple[list[int], list[int]]], tokenizer: PreTrainedTokenizerFast) -> Batch:
    length = max(len(tokens) for tokens, _ in conversations)

    def rows(values: Iterator[list[int]], filling: Any) -> torch.Tensor:
        return torch.tensor([row + [filling] * (length - len(row)) for row in values])

    return Batch(
        tokens=rows((tokens for tokens, _ in conversations), tokenizer.pad_token_id),
        mask=rows(([1] * len(tokens) for tokens, _ in conversations), 0),
        targets=rows((targets for _, targets in conversations), IGNORED),
    )


def _sort_lists(path: Path) -> None:
    """Puts the lists of names in a JSON file in order: peft keeps them as sets, whose order differs from run to run."""
    settings = json.loads(path.read_text(encoding="utf-8"))
    for key, value in settings.items():
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            settings[key] = sorted(value)
    path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _base_card() -> str:
    questions = "\n".join(f"- {question}" for question, _ in QUESTIONS)
    return f"# A tiny demo model\n\nIt knows the answers to these questions and to no others:\n\n{questions}\n"


def _adapter_card() -> str:
    return "# A LoRA adapter of the demo model\n\nIt gives the same answers as its base model, but as a sailor would.\n"

"""What adapters cost a step, here and computed by PEFT: `python -m tests.bench.adapters [--json]`.

The model of the serving benchmark with adapters of rank 16 in every linear layer, 8 rows, one thread. Each way is a
loaded model of its own; they take turns, a few steps each, so that the machine's other work meets all of them alike.
Shares of the base model's speed: of the same code's, and for PEFT of transformers' own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "inference"))

import model
import torch
from rows import BASE, Row
from sampling import Choice
from settings import AdapterFolder, Limits
from transformers import AutoModelForCausalLM
from transformers.cache_utils import DynamicCache

from tests.bench import serving_model

RANK = 16
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ROWS = 8
PROMPT_TOKENS = 64
ROUNDS, STEPS = 7, 8
LIMITS = Limits(max_prompt_tokens=PROMPT_TOKENS, max_new_tokens=2 * ROUNDS * STEPS, max_concurrent=ROWS)
ONE = ("a0",) * ROWS
ONE_AND_BASE = ("a0", BASE) * (ROWS // 2)
FOUR_AND_BASE = (BASE, "a0", "a1", "a2", "a3", BASE, "a0", "a1")
NONE = (BASE,) * ROWS

Step = Callable[[], None]


def ours(dtype: str, adapters: Sequence[Path], rows: Sequence[str], merge: str = "off") -> Step:
    """A step of this server's batch."""
    loaded = model.load(
        serving_model.folder(dtype),
        [AdapterFolder(folder.name, folder) for folder in adapters],
        limits=LIMITS,
        device="cpu",
        dtype=dtype,
        merge=merge,
        report=lambda phase, ledger: None,
    )
    torch.set_num_threads(1)
    for number, adapter in enumerate(rows):
        name = adapter if adapter == BASE else loaded.adapters[adapter]
        loaded.batch.add(Row(_prompt(number), Choice(temperature=0.0), name))

    def step() -> None:
        for row, token in loaded.batch.step():
            assert token is not None
            row.tokens.append(token)

    return step


def theirs(dtype: str, adapters: Sequence[Path], rows: Sequence[str]) -> Step:
    """A step as transformers' `generate` computes it, with PEFT's layers where there are adapters."""
    module: Any = AutoModelForCausalLM.from_pretrained(serving_model.folder(dtype), dtype=getattr(torch, dtype))
    named: dict[str, Any] = {}
    if adapters:
        from peft import PeftModel

        module = PeftModel.from_pretrained(module, adapters[0], adapter_name=adapters[0].name)
        for folder in adapters[1:]:
            module.load_adapter(folder, folder.name)
        if len(set(rows)) > 1:
            named["adapter_names"] = list(rows)
    module.eval()
    named["past_key_values"] = DynamicCache(config=module.config)
    inputs = torch.tensor([_prompt(number) for number in range(len(rows))])

    @torch.inference_mode()
    def step() -> None:
        nonlocal inputs
        inputs = module(input_ids=inputs, **named).logits[:, -1].argmax(-1, keepdim=True)

    return step


def _prompt(seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(10, serving_model.VOCABULARY, (PROMPT_TOKENS,), generator=generator).tolist()


def measure(dtype: str, folder: Path) -> dict[str, dict[str, float]]:
    """The milliseconds of a step by way, and the share of the base model's speed that they mean."""
    adapters = [serving_model.make_adapter(folder / f"a{n}", dtype, RANK, TARGETS, seed=n) for n in range(4)]
    lone = adapters[:1]
    ways = {
        "base model": ours(dtype, (), NONE),
        "one adapter": ours(dtype, lone, ONE),
        "one adapter, merged": ours(dtype, lone, ONE, "on"),
        "one adapter and the base": ours(dtype, lone, ONE_AND_BASE),
        "one adapter, merged, and the base": ours(dtype, lone, ONE_AND_BASE, "on"),
        "four adapters and the base": ours(dtype, adapters, FOUR_AND_BASE),
        "the base beside four adapters": ours(dtype, adapters, NONE),
        "transformers: base model": theirs(dtype, (), NONE),
        "PEFT: one adapter": theirs(dtype, lone, ONE),
        "PEFT: one adapter and the base": theirs(dtype, lone, ONE_AND_BASE),
        "PEFT: four adapters and the base": theirs(dtype, adapters, FOUR_AND_BASE),
    }
    milliseconds: dict[str, list[float]] = {name: [] for name in ways}
    for step in ways.values():
        for _ in range(4):
            step()
    for _ in range(ROUNDS):
        for name, step in ways.items():
            for _ in range(STEPS):
                began = time.perf_counter()
                step()
                milliseconds[name].append((time.perf_counter() - began) * 1000)
    medians = {name: statistics.median(found) for name, found in milliseconds.items()}
    bases = {name: medians["transformers: base model" if ":" in name else "base model"] for name in ways}
    return {name: {"milliseconds": medians[name], "share": bases[name] / medians[name]} for name in ways}


def main() -> int:
    """Measures, and prints a table, or one JSON document."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.adapters", description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = {dtype: measure(dtype, Path(folder) / dtype) for dtype in ("float32", "bfloat16")}
    if arguments.json:
        print(json.dumps({"rows": ROWS, "rank": RANK, "dtypes": found}, indent=2))
        return 0
    print(f"| {ROWS} rows, one thread | {' | '.join(f'{dtype}: ms | share' for dtype in found)} |")
    print(f"| --- |{' ---: |' * 2 * len(found)}")
    for name in next(iter(found.values())):
        cells = (f"{of[name]['milliseconds']:.1f} | {of[name]['share']:.2f}" for of in found.values())
        print(f"| {name} | {' | '.join(cells)} |")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

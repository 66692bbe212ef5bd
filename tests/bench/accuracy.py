"""What number formats cost in accuracy and memory: the demo model's answers in each of them.

    python -m tests.bench.accuracy [--json]

The demo base and its adapter (infra/emulator trains them once) are asked every question that they were trained on; an
answer counts when it is the trained one, letter for letter. Seconds are the processor's own, so that other work on the
machine changes them little; a model this small says nothing about the speed of a large one.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "inference"))

import model  # noqa: E402 - inference/ is found first
from rows import Row  # noqa: E402
from sampling import Choice  # noqa: E402
from settings import AdapterFolder, Limits  # noqa: E402

from infra.emulator.finetuning.cache import demo_models  # noqa: E402
from infra.emulator.finetuning.recipe import QUESTIONS, adapter_folder, base_folder, in_style  # noqa: E402

FORMATS = {
    "float32": {"dtype": "float32"},
    "bfloat16": {"dtype": "bfloat16"},
    "bfloat16, adapter merged": {"dtype": "bfloat16", "merge": "on"},
    "int8": {"dtype": "float32", "quantization": "int8"},
}
LIMITS = Limits(max_prompt_tokens=200, default_new_tokens=100, max_new_tokens=100, max_concurrent=8)


def main() -> int:
    """Ask every question in every format, print a table or JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results = [measure(name, settings) for name, settings in FORMATS.items()]
    if arguments.json:
        print(json.dumps({"questions": len(QUESTIONS), "formats": results}, indent=2))
    else:
        print(
            f"of {len(QUESTIONS)} answers\n| format | base | adapter | tokens per processor second |\n|---|---|---|---|"
        )
        for row in results:
            print(f"| {row['format']} | {row['base']} | {row['adapter']} | {row['tokens_per_second']:.0f} |")
    return 0


def measure(name: str, settings: dict[str, str]) -> dict[str, Any]:
    """How many answers of the base and of its adapter are the trained ones."""
    folder = demo_models()
    adapters = (AdapterFolder("default", folder / adapter_folder()),)
    loaded = model.load(
        folder / base_folder(), adapters, limits=LIMITS, device="cpu", report=lambda phase, ledger: None, **settings
    )
    began, tokens = time.process_time(), 0
    kept = {"base": 0, "adapter": 0}
    for kind, adapter in (("base", loaded.adapters[Path(base_folder()).name]), ("adapter", loaded.adapters["default"])):
        rows = [(_row(loaded, question, adapter), answer) for question, answer in QUESTIONS]
        for row, expected in rows:
            wanted = in_style(expected) if kind == "adapter" else expected
            prompt_tokens = len(row.tokens)
            answer = _answer(loaded, row)
            tokens += len(row.tokens) - prompt_tokens
            kept[kind] += answer == wanted
    return {"format": name, **kept, "tokens_per_second": tokens / (time.process_time() - began)}


def _row(loaded: model.Loaded, question: str, adapter: str) -> Row:
    messages = [{"role": "user", "content": question}]
    text = loaded.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return Row(loaded.tokenizer.encode(text, add_special_tokens=False), Choice(temperature=0.0), adapter)


def _answer(loaded: model.Loaded, row: Row) -> str:
    prompt_tokens = len(row.tokens)
    loaded.batch.add(row)
    while len(row.tokens) < prompt_tokens + LIMITS.max_new_tokens:
        produced = [token for _, token in loaded.batch.step()]
        if produced and (produced[0] is None or produced[0] in loaded.end_tokens):
            break
        row.tokens += [token for token in produced if token is not None]
    loaded.batch.remove(row)
    return str(loaded.tokenizer.decode(row.tokens[prompt_tokens:], skip_special_tokens=True))


if __name__ == "__main__":
    sys.exit(main())

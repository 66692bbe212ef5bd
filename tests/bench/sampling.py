"""What a step spends on choosing tokens: `python -m tests.bench.sampling [--json]`.

32 rows of float32 and of bfloat16 over vocabularies of 8,192, of 32,000 (Llama 2's) and of 151,936 tokens (Qwen's), of
a distribution with few likely tokens and of a flat one. Beside it, in the same run, what transformers' own processors
take for the same. Milliseconds a step, the best of several: the machine's other work only ever adds to a measurement.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "inference"))

import torch
from sampling import Choice, choose
from transformers.generation.logits_process import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

ROWS = 32
VOCABULARIES = (8_192, 32_000, 151_936)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SPREADS = {"peaked": 3.5, "flat": 0.1}
PROMPT = list(range(500))
REPETITIONS = 7

KINDS: dict[str, tuple[Callable[[int], Choice], list[object]]] = {
    "greedy": (lambda row: Choice(0.0), []),
    "temperature 1": (lambda row: Choice(1.0, seed=row), []),
    "temperature 0.8": (lambda row: Choice(0.8, seed=row), [TemperatureLogitsWarper(0.8)]),
    "top_p 0.9": (
        lambda row: Choice(0.8, 0.9, seed=row),
        [TemperatureLogitsWarper(0.8), TopPLogitsWarper(0.9)],
    ),
    "top_k 50": (
        lambda row: Choice(0.8, seed=row, top_k=50),
        [TemperatureLogitsWarper(0.8), TopKLogitsWarper(50)],
    ),
    "repetition penalty": (
        lambda row: Choice(0.0, repetition_penalty=1.1, prompt=PROMPT),
        [RepetitionPenaltyLogitsProcessor(1.1)],
    ),
}


def best_ms(work: Callable[[], object]) -> float:
    """The shortest of several runs, in milliseconds."""
    best = float("inf")
    for _ in range(REPETITIONS):
        began = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - began)
    return round(best * 1000, 2)


def measure(vocabulary: int, dtype: str, spread: str, kind: str) -> dict[str, object]:
    """One line of the table."""
    torch.manual_seed(0)
    logits = (torch.randn(ROWS, vocabulary) * SPREADS[spread]).to(DTYPES[dtype])
    make, processors = KINDS[kind]
    choices = [make(row) for row in range(ROWS)]
    listed = LogitsProcessorList(processors)
    tokens: Any = torch.tensor([PROMPT] * ROWS)

    def theirs() -> torch.Tensor:
        scores = listed(tokens, logits.to(torch.float32, copy=True))
        if choices[0].temperature == 0:
            return scores.argmax(dim=-1)
        return torch.multinomial(torch.softmax(scores, dim=-1), 1)

    ours_ms, theirs_ms = best_ms(lambda: choose(logits, choices)), best_ms(theirs)
    return {
        "vocabulary": vocabulary,
        "dtype": dtype,
        "distribution": spread,
        "kind": kind,
        "ms": ours_ms,
        "transformers_ms": theirs_ms,
        "ratio": round(theirs_ms / ours_ms, 2),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one document for machines")
    as_json = parser.parse_args().json
    torch.set_num_threads(2)
    lines = [
        measure(size, dtype, spread, kind)
        for size in VOCABULARIES
        for dtype in DTYPES
        for spread in SPREADS
        for kind in KINDS
    ]
    if as_json:
        print(json.dumps({"rows": ROWS, "threads": torch.get_num_threads(), "steps": lines}, indent=2))
        return
    print(
        f"{'vocabulary':>10} {'dtype':<8} {'distribution':<12} {'kind':<18} {'ms':>8} {'transformers':>13} {'ratio':>6}"
    )
    for line in lines:
        print(
            f"{line['vocabulary']:>10} {line['dtype']:<8} {line['distribution']:<12} {line['kind']:<18} "
            f"{line['ms']:>8} {line['transformers_ms']:>13} {line['ratio']:>6}"
        )


if __name__ == "__main__":
    main()

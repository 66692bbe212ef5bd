"""Figures of the serving benchmark -> a table with ratios, and a picture. Measures nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

OURS = "inferops"


def table(found: Mapping[str, Any]) -> str:
    """Markdown: each server's figures, and ours as a multiple of each other's."""
    load = ", ".join(f"{number:.1f}" for number in found["load_average"])
    lines = [f"{found['cores']} cores, {found['threads']} threads each, load average before each server: {load}", ""]
    for dtype, servers in found["dtypes"].items():
        lines += _rates(dtype, servers) + _latencies(dtype, servers)
    return "\n".join(lines)


def _rates(dtype: str, servers: Mapping[str, Any]) -> list[str]:
    counts = list(next(iter(servers.values()))["in_flight"])
    lines = [f"| {dtype}, tokens/s by requests in flight | {' | '.join(counts)} |", f"| --- |{' ---: |' * len(counts)}"]
    for name, figures in servers.items():
        cells = []
        for count in counts:
            rate = figures["in_flight"][count]["tokens_per_second"]
            ours = servers[OURS]["in_flight"][count]["tokens_per_second"] if OURS in servers else rate
            cells.append(f"{rate:.0f}" + ("" if name == OURS else f" ({ours / rate:.1f}x)"))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [*lines, ""]


def _latencies(dtype: str, servers: Mapping[str, Any]) -> list[str]:
    counts = list(next(iter(servers.values()))["in_flight"])
    shown = "32" if "32" in counts else counts[-1]
    titles = (
        "long and short prompts, 32 in flight, tokens/s",
        f"first token p50 / p95 at {shown}, s",
        "500-token system prompt: first token unknown / known, s",
        "beside a 2,000-token prompt: time per token p95 without / beside, ms",
        "most memory, MB",
    )
    lines = [f"| {dtype} | {' | '.join(titles)} |", f"| --- |{' ---: |' * len(titles)}"]
    for name, figures in servers.items():
        at = figures["in_flight"][shown]
        prefix, long = figures["shared_prefix"], figures["long_prompt"]
        unknown, known = prefix["first_token_seconds_unknown"], prefix["first_token_seconds_known"]
        without, beside = long["seconds_per_token_p95_without"], long["seconds_per_token_p95_beside"]
        cells = (
            f"{figures['mixed']['tokens_per_second']:.0f}",
            f"{at['first_token_seconds_p50']:.2f} / {at['first_token_seconds_p95']:.2f}",
            f"{unknown:.3f} / {known:.3f} ({unknown / known:.1f}x)",
            f"{without * 1e3:.0f} / {beside * 1e3:.0f} ({beside / without:.1f}x)"
            if without and beside
            else "ended before",
            f"{figures['most_memory_bytes'] / 1e6:.0f}",
        )
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [*lines, ""]


def draw(found: Mapping[str, Any], file: Path) -> None:
    """Tokens per second by requests in flight, one panel for each dtype."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(found["dtypes"]), figsize=(5 * len(found["dtypes"]), 3.6), squeeze=False)
    for panel, (dtype, servers) in zip(panels[0], found["dtypes"].items(), strict=True):
        counts = list(next(iter(servers.values()))["in_flight"])
        width = 0.8 / len(servers)
        for number, (name, figures) in enumerate(servers.items()):
            rates = [figures["in_flight"][count]["tokens_per_second"] for count in counts]
            panel.bar([at + number * width for at in range(len(counts))], rates, width, label=name)
        panel.set_xticks([at + 0.4 - width / 2 for at in range(len(counts))], counts)
        panel.set_xlabel("requests in flight")
        panel.set_ylabel("tokens/s")
        panel.set_title(dtype)
    panels[0][0].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(file, dpi=120)
    pyplot.close(figure)

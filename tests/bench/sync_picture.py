"""The findings of tests.bench.sync as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib import pyplot

OURS, THEIRS = "#0b6e4f", "#b8bec4"


def draw(found: dict[str, Any], file: Path) -> None:
    """Seconds of each tool, and how the product's requests grow with what changed; what was measured of it, as PNG."""
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 4.5), width_ratios=(3, 2))
    cases = [*found.get("small_files", ()), *found.get("large_file", ())][::-1]
    bars = left.barh(
        [f"{case['what']}: {case['by']}" for case in cases],
        [case["seconds"] for case in cases],
        color=[OURS if case["by"] == "inferops" else THEIRS for case in cases],
    )
    left.bar_label(bars, [f"{case['seconds']:.2f} s" for case in cases], padding=3, fontsize=8)
    left.set_xscale("log")
    left.margins(x=0.2)
    left.set_title(
        f"{found['small_count']} files of {found['small_bytes'] / 1000:g} kB, one of {found['large_mib']} MiB;"
        f" {found['latency_ms']:g} ms added to each request",
        fontsize=9,
    )
    left.set_xlabel("seconds from start to end of the process (logarithmic)", fontsize=8)
    for changed in dict.fromkeys(case["changed"] for case in found.get("growth", ())):
        rows = [case for case in found.get("growth", ()) if case["changed"] == changed and case["changed"] != "all new"]
        if rows:
            sizes, requests = [case["files"] for case in rows], [case["requests"] for case in rows]
            right.loglog(sizes, requests, marker="o", label=f"{changed} changed")
    right.set_title("requests of a sync, by how many files changed", fontsize=9)
    right.set_xlabel("files in the folder", fontsize=8)
    right.legend(fontsize=8)
    for axes in (left, right):
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    pyplot.close(figure)

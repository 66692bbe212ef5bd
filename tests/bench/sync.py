"""How quickly a folder gets onto Azure Files: `python -m tests.bench.sync [--json] [--picture FILE]`.

The product against `az storage file upload-batch`, azcopy copy and azcopy sync, each as a process of its own, on the
same stand-in with the same latency added to every request. Seconds are from a process's start to its end; of the
product also without the start of Python and its imports, which are once in a whole deploy. Ratios are good on a busy
machine too, seconds are not: the load is told with them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.bench.sync_tools import Run, Tools, tools
from tests.conftest import running_stand_in

SMALL_BYTES = 2000
FILES_PER_FOLDER = 100
TIMES = 7
"""How often is measured what takes a fraction of a second; the median is told."""

_MIB = 1024 * 1024


def main() -> int:
    """Measures, and prints a table, or one JSON document."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.sync", description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    parser.add_argument("--picture", type=Path, help="also draw it, as PNG")
    parser.add_argument("--only", choices=[case.__name__ for case in CASES], action="append", help="some of it alone")
    parser.add_argument("--latency-ms", type=float, default=30, help="added to each request (%(default)s)")
    parser.add_argument("--files", type=int, default=1000, help="how many small files (%(default)s)")
    parser.add_argument("--megabytes", type=int, default=1024, help="size of the large file in MiB (%(default)s)")
    parser.add_argument("--growth", type=int, nargs="*", default=[100, 1000, 10_000], help="files (%(default)s)")
    arguments = parser.parse_args()
    found = measure(arguments)
    print(json.dumps(found, indent=2) if arguments.json else "\n".join(table(found)))
    if arguments.picture:
        from tests.bench.sync_picture import draw

        draw(found, arguments.picture)
    return 0


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Rows by case: who, what it took (Run), and how much longer than the product."""
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load_average_before": round(os.getloadavg()[0], 1),
        "latency_ms": arguments.latency_ms,
        "small_count": arguments.files,
        "small_bytes": SMALL_BYTES,
        "large_mib": arguments.megabytes,
    }
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        with (
            running_stand_in(folder / "state") as stand_in,
            tools(stand_in, folder, arguments.latency_ms / 1000) as who,
        ):
            for case in CASES:
                if not arguments.only or case.__name__ in arguments.only:
                    say(f"{case.__name__} ...")
                    found[case.__name__] = list(case(who, folder, arguments))
        found["load_average_after"] = round(os.getloadavg()[0], 1)
    return found


def small_files(who: Tools, folder: Path, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A new folder of many small files; then nothing changed; then one file changed."""
    source = write_small(folder / "small", arguments.files)
    ours = who.product(source, "ours")
    yield row("all new", "inferops", ours)
    yield row("all new", "azcopy copy", who.azcopy_copy(source, "azcopy"), ours)
    yield row("all new", "az upload-batch", who.upload_batch(source, "az"), ours)
    for what, changed in (("nothing changed", 0), ("one changed", 1)):
        runs, theirs = [], []
        for _ in range(TIMES):
            change(source, changed)
            runs.append(who.product(source, "ours"))
            theirs.append(who.azcopy_sync(source, "azcopy"))
        ours = median(runs)
        yield row(what, "inferops", ours)
        yield row(what, "azcopy sync", median(theirs), ours)
    first = who.product(source, "release-1", how="release")
    yield row("all new, as a release", "inferops", first)
    change(source, 1)
    second = who.product(source, "release-2", how="release", before="release-1")
    yield row("one changed, as a new release", "inferops", second)
    shutil.rmtree(source)


def large_file(who: Tools, folder: Path, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One large file that is not compressible."""
    source = folder / "large"
    source.mkdir()
    with (source / "weights.bin").open("wb") as stream:
        for _ in range(arguments.megabytes // 16):
            stream.write(os.urandom(16 * _MIB))
    ours = who.product(source, "large-ours")
    yield row("one large file", "inferops", ours)
    yield row("one large file", "azcopy copy", who.azcopy_copy(source, "large-azcopy"), ours)
    yield row("one large file", "azcopy copy --put-md5", who.azcopy_copy(source, "large-md5", "--put-md5"), ours)
    moved = who.product(source, "large-release", how="release", before="large-ours")
    yield row("the same in a new release", "inferops", moved)
    shutil.rmtree(source)


def growth(who: Tools, folder: Path, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What a sync costs by how many files there are and how many of them changed."""
    for count in arguments.growth:
        source = write_small(folder / f"growth-{count}", count)
        first = who.product(source, f"growth-{count}")
        yield {"files": count, "changed": "all new", **asdict(first)}
        for told, changed in (("0", 0), ("1", 1), ("1 %", max(1, count // 100)), ("100 %", count)):
            change(source, changed)
            yield {"files": count, "changed": told, **asdict(who.product(source, f"growth-{count}"))}
        shutil.rmtree(source)


CASES: list[Callable[[Tools, Path, argparse.Namespace], Iterator[dict[str, Any]]]] = [small_files, large_file, growth]


def median(runs: list[Run]) -> Run:
    """The run that took longer than half of the others."""
    return sorted(runs, key=lambda run: run.seconds)[len(runs) // 2]


def row(what: str, by: str, run: Run, product: Run | None = None) -> dict[str, Any]:
    """A run, and as how many times the product's seconds, with its start and without, if it is another's."""
    times = {}
    if product is not None:
        times["times_product"] = round(run.seconds / product.seconds, 1)
        times["times_product_without_start"] = round(run.seconds / float(product.told["seconds"]), 1)
    return {"what": what, "by": by, **asdict(run), **times}


def write_small(folder: Path, count: int) -> Path:
    """Files whose times lie in the past: azcopy compares by them, to the second."""
    content = random.Random(count)
    for number in range(count):
        path = folder / f"part-{number // FILES_PER_FOLDER:03}" / f"file-{number:05}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.randbytes(SMALL_BYTES))
        os.utime(path, (1_700_000_000, 1_700_000_000))
    return folder


def change(folder: Path, count: int) -> None:
    """Other content in some of the files, all over the folder, written in a far future."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in paths[:: max(1, len(paths) // count)][:count] if count else []:
        path.write_bytes(os.urandom(SMALL_BYTES))
        os.utime(path, (4_000_000_000, 4_000_000_000))


def table(found: dict[str, Any]) -> Iterator[str]:
    """The findings as Markdown."""
    yield (
        f"{found['cores']} cores, load {found['load_average_before']} before and {found['load_average_after']} after, "
        f"{found['latency_ms']:g} ms added to each request."
    )
    cases = [*found.get("small_files", ()), *found.get("large_file", ())]
    if cases:
        yield ""
        yield "| what | by | seconds | without start | requests | CPU s | service's CPU s | MiB | times inferops |"
        yield "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    for case in cases:
        alone = case["told"].get("seconds", "")
        times = f"{case['times_product']} ({case['times_product_without_start']})" if "times_product" in case else ""
        yield (
            f"| {case['what']} | {case['by']} | {case['seconds']} | {alone} | {case['requests']} | "
            f"{case['cpu_seconds']} | {case['service_cpu_seconds']} | {case['memory_mib']} | {times} |"
        )
    if "growth" in found:
        yield ""
        yield "| files | changed | requests | seconds | without start |"
        yield "| ---: | ---: | ---: | ---: | ---: |"
    for case in found.get("growth", ()):
        yield (
            f"| {case['files']} | {case['changed']} | {case['requests']} | {case['seconds']} | "
            f"{case['told']['seconds']} |"
        )


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

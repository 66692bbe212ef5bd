"""How quick the server is beside others, over HTTP: `python -m tests.bench.serving [--json] [--quick]`.

All of them serve the same model of 81.8 million weights with the same number of threads and get the same requests, one
server after another: this server, `transformers serve` as it comes and tuned, and a thread for each request. With
`--adapter` the model has a LoRA adapter, which `transformers serve` refuses.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from tests.bench import serving_load, serving_model
from tests.bench.serving_load import Client
from tests.bench.serving_report import draw, table
from tests.conftest import ROOT

KEY = "a-key-for-the-bench"
START_SECONDS = 900
MOST_REQUESTS = 32
"""Two for each that is in flight, but no more than this where that is enough: a slow server takes minutes for them."""
SERVERS = ("inferops", "serve tuned", "serve", "threads")
ADAPTER = "tuned"
WITH_ADAPTER = ("inferops", "inferops merged", "threads")
TUNED = (
    "--continuous-batching",
    *("--cb-block-size", "32"),
    *("--cb-num-blocks", "1536"),
    *("--cb-max-batch-tokens", "256"),
)
"""Room for 48 requests of 1,024 tokens: by default it takes gigabytes for any model."""


@dataclass(frozen=True)
class Running:
    """A server that answers."""

    process: subprocess.Popen[bytes]
    client: Client

    def most_memory_bytes(self) -> int:
        """The largest resident size so far, of the process and those it started."""
        numbers = [self.process.pid, *_children(self.process.pid)]
        return sum(_peak(number) for number in numbers)


def _children(number: int) -> list[int]:
    file = Path(f"/proc/{number}/task/{number}/children")
    direct = [int(word) for word in file.read_text().split()] if file.exists() else []
    return [*direct, *(below for child in direct for below in _children(child))]


def _peak(number: int) -> int:
    lines = Path(f"/proc/{number}/status").read_text().splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def command(
    server: str, folder: Path, adapter: Path | None, dtype: str, port: int
) -> tuple[list[str], Path, dict[str, str]]:
    """What starts a server: its command, its working directory, its variables."""
    if _is_ours(server):
        variables = {
            "HOST": "127.0.0.1",
            "PORT": str(port),
            "INFERENCE_API_KEY": KEY,
            "MODEL_BASE": str(folder),
            "INFERENCE_DTYPE": dtype,
            "INFERENCE_MAX_CONCURRENT": "32",
            "INFERENCE_MAX_QUEUE": "256",
            "INFERENCE_REQUEST_SECONDS": "3600",
        }
        if adapter:
            merge = "on" if server == "inferops merged" else "auto"
            variables |= {"MODEL_ADAPTERS": f"{ADAPTER}={adapter}", "INFERENCE_MERGE": merge}
        return [sys.executable, "serve.py"], ROOT / "inference", variables
    if server == "threads":
        served = [str(folder), dtype, str(port), *([str(adapter)] if adapter else [])]
        return [sys.executable, "-m", "tests.bench.thread_server", *served], ROOT, {}
    program = str(Path(sys.executable).parent / "transformers")
    served = [program, "serve", str(folder), "--host", "127.0.0.1", "--port", str(port), "--dtype", dtype]
    return served + (list(TUNED) if server == "serve tuned" else []), ROOT, {"HF_HUB_OFFLINE": "1"}


def _is_ours(server: str) -> bool:
    return server.startswith("inferops")


@contextlib.contextmanager
def running(server: str, folder: Path, adapter: Path | None, dtype: str, threads: int) -> Iterator[Running]:
    """Start a server, wait until it has answered once, and end it."""
    port = _free_port()
    words, where, variables = command(server, folder, adapter, dtype, port)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("INFERENCE_", "MODEL_"))}
    environment = kept | {"OMP_NUM_THREADS": str(threads)} | variables
    with tempfile.NamedTemporaryFile(prefix="serving-", suffix=".log") as log:
        process = subprocess.Popen(words, cwd=where, env=environment, stdout=log, stderr=log)
        try:
            model = (ADAPTER if adapter else folder.name) if _is_ours(server) else str(folder)
            client = Client(f"http://127.0.0.1:{port}", model, KEY if _is_ours(server) else None)
            _wait_until_it_answers(process, client, Path(log.name))
            yield Running(process, client)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_it_answers(process: subprocess.Popen[bytes], client: Client, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            serving_load.throughput(client, 1, serving_load.prompts(1, 4, 0, mixed=False))
            return
        except (aiohttp.ClientError, RuntimeError) as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the server does not answer ({error}):\n{log.read_text()[-3000:]}") from None
            time.sleep(0.5)


def measure(server: Running, in_flight: tuple[int, ...], *, quick: bool) -> dict[str, Any]:
    """Every figure of one server; names end with their units."""
    new_tokens = 24 if quick else 64
    found: dict[str, Any] = {"in_flight": {}}
    serving_load.throughput(server.client, 1, serving_load.prompts(2, new_tokens, 0, mixed=False))
    for number, count in enumerate(in_flight):
        total = max(count, 4) if quick else max(8, count, min(2 * count, MOST_REQUESTS))
        requests = serving_load.prompts(total, new_tokens, 1000 * (number + 1), mixed=False)
        found["in_flight"][str(count)] = serving_load.throughput(server.client, count, requests)
    requests = serving_load.prompts(32, new_tokens, 10_000, mixed=True)
    found["mixed"] = serving_load.throughput(server.client, 32, requests)
    found["most_memory_bytes"] = server.most_memory_bytes()
    found["shared_prefix"] = serving_load.shared_prefix(server.client, 3 if quick else 8, 20_000)
    found["long_prompt"] = serving_load.long_prompt(server.client, 60 if quick else 200, 30_000)
    return found


def _medians(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Each figure's median over the rounds; None where a round could not tell it."""
    found: dict[str, Any] = {}
    for name, first in rounds[0].items():
        values = [figures[name] for figures in rounds]
        if isinstance(first, Mapping):
            found[name] = _medians(values)
        else:
            found[name] = None if None in values else statistics.median(values)
    return found


def main() -> int:
    """Measures, and prints a table, or one JSON document."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.serving", description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    parser.add_argument("--quick", action="store_true", help="shorter answers and fewer of them")
    parser.add_argument("--adapter", action="store_true", help=f"with a LoRA adapter: {','.join(WITH_ADAPTER)}")
    parser.add_argument("--servers", help=f"of {','.join(SERVERS)}")
    parser.add_argument("--dtypes", default="float32,bfloat16", help="of %(default)s")
    parser.add_argument("--in-flight", default="1,8,32,128", help="requests at once (%(default)s)")
    parser.add_argument("--rounds", type=int, default=1, help="servers by turns, so many times; medians (%(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of each server (%(default)s)")
    parser.add_argument("--png", type=Path, help="where to draw the picture, such as docs/serving.png")
    arguments = parser.parse_args()
    # Ended from outside, it still ends the server that it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    in_flight = tuple(map(int, arguments.in_flight.split(",")))
    usual = WITH_ADAPTER if arguments.adapter else SERVERS
    servers = arguments.servers.split(",") if arguments.servers else list(usual)
    found: dict[str, Any] = {"cores": os.cpu_count(), "threads": arguments.threads, "load_average": []}
    found |= {"dtypes": {}, "rounds": {}}
    for dtype in arguments.dtypes.split(","):
        folder = serving_model.folder(dtype)
        adapter = serving_model.adapter_folder(dtype) if arguments.adapter else None
        rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in servers}
        for name in servers * arguments.rounds:
            found["load_average"].append(round(os.getloadavg()[0], 1))
            with running(name, folder, adapter, dtype, arguments.threads) as server:
                rounds[name].append(measure(server, in_flight, quick=arguments.quick))
            _say(dtype, name, rounds[name][-1])
        found["dtypes"][dtype] = {name: _medians(figures) for name, figures in rounds.items()}
        found["rounds"][dtype] = rounds
    print(json.dumps(found, indent=2) if arguments.json else table(found))
    if arguments.png:
        draw(found, arguments.png)
    return 0


def _say(dtype: str, name: str, found: Mapping[str, Any]) -> None:
    rates = ", ".join(
        f"{count}: {figures['tokens_per_second']:.0f} tokens/s" for count, figures in found["in_flight"].items()
    )
    print(f"{dtype} {name}: {rates}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())

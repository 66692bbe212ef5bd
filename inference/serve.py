"""The entry: settings -> engine -> API and page -> serve until SIGTERM.

The port opens at once while the model loads in the engine's thread; the log and /ready say how far it is. The page is
built when somebody first looks for it. When the engine cannot go on the process ends, so that a new one is started.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import uvicorn
from access_log import AccessLog, write_to_stdout
from api import About, create_api
from auth import Gate
from connection import IDLE_SECONDS, connection_class
from engine import Engine, EngineLimits, Load, Report
from late_page import LatePage
from limits import BodyLimit, KeyLimitLayer, KeyLimits
from metrics import Metrics
from page_door import PageDoor
from settings import Settings, SettingsError, read_settings

if TYPE_CHECKING:
    from fastapi import FastAPI
    from model import Loaded

log = logging.getLogger("serve")

EXIT_BAD_SETTINGS = 2
EXIT_BROKEN = 3
TELLING_SECONDS = 180.0
"""How long /ready tells why a model did not load before a new process tries again: a deploy asks within seconds, and a
replica that ends at once is restarted at ever longer intervals, in which nobody can be asked."""
SPINS = 20_000
"""How often torch's threads look for work before they sleep; libgomp's own number is 300,000, milliseconds. Read when
torch loads. One row of 81.8 million weights in bfloat16 on two cores, ms a token: asleep at once 31, this 17, libgomp's
own 17; beside two busy processes 26, 51 and 780; with a quota of 1.5 processors 36, 30 and 29."""
KEPT_KERNELS = 128
HEAPS = 2
M_ARENA_MAX = -8
"""Of glibc's malloc.h."""


def main() -> int:
    """Run the server; the process's exit code."""
    _configure_logging()
    write_to_stdout()
    try:
        settings = read_settings(os.environ)
    except SettingsError as error:
        for problem in error.problems:
            log.error("%s", problem)
        count = len(error.problems)
        log.error("not started: %d problem%s with the settings", count, "" if count == 1 else "s")
        return EXIT_BAD_SETTINGS
    for variable in settings.unknown_variables:
        log.warning("nothing reads the variable %s", variable)
    # Nothing here may look for a network: models come from the share, and nobody is told what is served.
    os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", GRADIO_ANALYTICS_ENABLED="False")
    # Gradio would make a table of its last ten thousand events after each of them, for a dashboard that is not served.
    os.environ.setdefault("GRADIO_ANALYTICS_CACHE_FREQUENCY", "1000000000")
    _bound_kept_memory(os.environ)
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))
    return asyncio.run(_serve(settings, _loader(settings)))


def _bound_kept_memory(environment: MutableMapping[str, str]) -> None:
    """Say how much torch and the allocator may keep for later; before torch loads, and before there are threads.

    For each number of rows that a layer meets, oneDNN makes a kernel: some 0.65 MB, and a millisecond or two. By
    themselves oneDNN and torch's layer over it keep 1024 each, which a server comes to hold after days of requests of
    every length: 500 MB. With 128 an answer takes no longer (measured with 32 requests at once).

    glibc gives threads heaps of their own, up to eight a core, and in each stay the holes that requests leave. Here the
    engine's thread allocates, and little beside it: two heaps held 10 MB of holes after thousands of odd requests,
    sixteen 50 MB.
    """
    for variable in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
        environment.setdefault(variable, str(KEPT_KERNELS))
    if "MALLOC_ARENA_MAX" not in environment:
        with contextlib.suppress(AttributeError):  # no other C library has this
            ctypes.CDLL(None).mallopt(M_ARENA_MAX, HEAPS)


async def _serve(settings: Settings, load: Load, telling_seconds: float = TELLING_SECONDS) -> int:
    """Serve until told to end; then the process ends here. Returns the exit code when it could not begin."""
    limits, metrics = settings.limits, Metrics()
    loop, broken = asyncio.get_running_loop(), asyncio.Event()

    def on_broken(was_ready: bool) -> None:
        # Behind what the engine has just told this loop: the ends of all open requests.
        loop.call_soon_threadsafe(loop.call_later, 0 if was_ready else telling_seconds, broken.set)

    engine = Engine(
        load=load,
        models=settings.model_names,
        default_model=settings.default_model,
        limits=EngineLimits(
            max_prompt_tokens=limits.max_prompt_tokens,
            default_new_tokens=limits.default_new_tokens,
            max_new_tokens=limits.max_new_tokens,
            max_queue=limits.max_queue,
            request_seconds=limits.request_seconds,
        ),
        observer=metrics,
        on_broken=on_broken,
    )
    metrics.watch(engine, settings.release)
    about = About(settings.release, settings.created, settings.keep_alive_seconds)
    api = create_api(engine, about, metrics.expose)
    key_limits = KeyLimits(limits.key_concurrent, limits.key_requests_per_minute)
    page = LatePage(engine, _page_builder(settings, engine, key_limits))
    api.mount("/", PageDoor(page))
    in_time = BodyLimit(api, limits.max_body_bytes, limits.body_seconds)
    gate = Gate(KeyLimitLayer(in_time, key_limits), settings.api_keys)
    application = AccessLog(gate, api.openapi()["paths"], metrics.exchanged)
    server = _Server(
        uvicorn.Config(
            application,
            http=connection_class(limits.body_seconds),
            timeout_keep_alive=IDLE_SECONDS,
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=2,
        )
    )
    try:
        listener = _listen(settings.host, settings.port)
    except OSError as error:
        log.error("cannot listen on %s:%d (HOST, PORT): %s", settings.host, settings.port, error.strerror)
        return 1
    log.info("release %s: listening on %s:%d", settings.release, settings.host, settings.port)
    engine.start()
    told = await _serve_until_told(server, listener, engine, page, broken, settings.shutdown_grace_seconds)
    await page.closed(2)
    if told:
        log.info("ended")
    else:
        log.error("ended with exit code %d: a new process is needed", EXIT_BROKEN)
    logging.shutdown()
    # At once: a thread that still loads the model or the page cannot be stopped, and Python would take seconds to put
    # torch away, while the platform waits for the end of this process.
    os._exit(0 if told else EXIT_BROKEN)


def _loader(settings: Settings) -> Load:
    """What the engine's thread runs first: the imports that take seconds, then the model."""

    def load(report: Report) -> Loaded:
        def tell(phase: str, ledger: dict[str, float]) -> None:
            report(phase, ledger)
            log.info("start: %s%s", phase, _ledger_words(ledger))

        before = {"wait_seconds": settings.wait_seconds, "install_seconds": settings.install_seconds}
        tell("importing torch", {name: seconds for name, seconds in before.items() if seconds})
        began = time.monotonic()
        import model

        tell("imports done", {"import_seconds": time.monotonic() - began})
        return model.load(
            settings.base,
            settings.adapters,
            limits=settings.limits,
            device=settings.device,
            dtype=settings.dtype,
            quantization=settings.quantization,
            merge=settings.merge,
            report=tell,
        )

    return load


def _ledger_words(ledger: dict[str, float]) -> str:
    """(14.3 MB, 700 MB/s, read 0.02 s) from numbers that carry their units in their names."""
    words = []
    if "weights_bytes" in ledger:
        words.append(f"weights {ledger['weights_bytes'] / 1e6:.1f} MB")
    if "bfloat16_speedup" in ledger:
        words.append(f"bfloat16 {ledger['bfloat16_speedup']:.1f} times as quick as float32 here")
    if "read_bytes" in ledger:
        megabytes = ledger["read_bytes"] / 1e6
        words.append(f"{megabytes:.1f} MB, {megabytes / max(ledger['read_seconds'], 1e-6):.0f} MB/s")
    seconds = {name.removesuffix("_seconds"): value for name, value in ledger.items() if name.endswith("_seconds")}
    words += [f"{name} {value:.2f} s" for name, value in seconds.items()]
    return f" ({', '.join(words)})" if words else ""


def _page_builder(settings: Settings, engine: Engine, key_limits: KeyLimits) -> Callable[[], FastAPI]:
    def build() -> FastAPI:
        import ui

        return ui.build_page(engine, key_limits, base=settings.base_name, release=settings.release)

    return build


class _Server(uvicorn.Server):
    """Leaves the signals to this file: a stop first drains the engine, and ends with exit code 0."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _serve_until_told(
    server: uvicorn.Server,
    listener: socket.socket,
    engine: Engine,
    page: LatePage,
    broken: asyncio.Event,
    grace_seconds: float,
) -> bool:
    """Serve; on SIGTERM or SIGINT finish what runs within the grace period. A second signal ends it at once.

    Returns whether it was told so; false when `broken` ended it.
    """
    told = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal(number: signal.Signals) -> None:
        if told.is_set():
            log.warning("%s again: ending at once", number.name)
            server.should_exit = server.force_exit = True
            draining.cancel()
        told.set()
        log.info("%s: no new requests; %d may finish within %.0f s", number.name, engine.open_requests, grace_seconds)

    async def give_up() -> None:
        await broken.wait()
        page.end()
        server.should_exit = True

    async def drain() -> None:
        await told.wait()
        giving_up.cancel()
        if not await engine.drain(grace_seconds):
            log.warning("the grace period is over: requests that still ran were cut short")
        page.end()
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    giving_up, draining = asyncio.create_task(give_up()), asyncio.create_task(drain())
    await server.serve(sockets=[listener])
    giving_up.cancel()
    draining.cancel()
    page.end()
    return told.is_set()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except OSError:
        listener.close()
        raise
    return listener


def _configure_logging() -> None:
    """Lines with UTC times on stderr."""
    formatter = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%SZ")
    formatter.converter = time.gmtime
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    # These two tell addresses of every request.
    for chatty in ("httpx", "httpcore", "uvicorn.error"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


if __name__ == "__main__":
    sys.exit(main())

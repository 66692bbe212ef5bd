"""How quick the stand-in is, and how much memory it takes: `python -m tests.bench.emulator [--json]`.

Start time after imports, small requests per second on the file service, and memory while large files go through. The
client is as plain as can be, in a process of its own, so that what is measured is the server; the same client asks
aiohttp's own handler without the stand-in, which is the most that this server library gives on this machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import httpx

from tests.conftest import ROOT, RunningStandIn, running_stand_in

ACCOUNT, SHARE, GROUP = "benchaccount", "bench", "rg-bench"
CONNECTIONS = 32
SMALL_BYTES = 1024
RANGE_BYTES = 4 * 1024 * 1024
VERSION = "2026-10-06"
_MIB = 1024 * 1024
_TURN = b"{turn}"

_START = """
import asyncio, json, sys, time
from pathlib import Path
from infra.emulator.faults import Faults
from infra.emulator.server import StandIn
async def start():
    begun = time.perf_counter()
    stand_in = StandIn(Path(sys.argv[1]), None, Faults())
    await stand_in.start()
    stand_in.announcement()
    seconds = time.perf_counter() - begun
    await stand_in.stop()
    return seconds
print(json.dumps(asyncio.run(start())))
"""

_PLAIN = """
import asyncio, sys
from pathlib import Path
from aiohttp import web
from infra.emulator.certificate import ensure_certificate, server_context
async def handle(request):
    return web.Response(body=b"x" * 1024, content_type="application/octet-stream")
async def serve():
    authority, chain, key = ensure_certificate(Path(sys.argv[1]))
    runner = web.ServerRunner(web.Server(handle, access_log=None))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=server_context(chain, key))
    await site.start()
    print(runner.addresses[0][1], authority, flush=True)
    await asyncio.Event().wait()
asyncio.run(serve())
"""


def main() -> int:
    """Measures, and prints a table, or one JSON document."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.emulator", description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long each rate is measured (%(default)s)")
    parser.add_argument("--megabytes", type=int, default=1024, help="the size of the large file in MiB (%(default)s)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        found = measure(Path(folder), arguments.seconds, arguments.megabytes)
    if arguments.json:
        print(json.dumps(found, indent=2))
    else:
        for name, value in found.items():
            print(f"{name:45} {value}")
    return 0


def measure(folder: Path, seconds: float, megabytes: int) -> dict[str, Any]:
    """All figures, by name; each name ends with its unit."""
    found: dict[str, Any] = {"cores": os.cpu_count(), "load_average_before": round(os.getloadavg()[0], 1)}
    found["first_start_after_imports_seconds"] = round(start_seconds(folder / "started"), 3)
    found["later_start_after_imports_seconds"] = round(
        statistics.median(start_seconds(folder / "started") for _ in range(3)), 3
    )
    found["connections"] = CONNECTIONS
    found["plain_aiohttp_requests_per_second"] = plain_rate(folder / "plain", seconds)
    with running_stand_in(folder / "state") as stand_in:
        client = Account(stand_in)
        client.create()
        small = {"x-ms-type": "file", "x-ms-content-length": str(SMALL_BYTES)}
        for name, method, headers, body in (
            ("get", "GET", {}, b""),
            ("head", "HEAD", {}, b""),
            ("list", "LIST", {}, b""),
            ("replace", "PUT", small, b"x" * SMALL_BYTES),
            ("create", "NEW", small, b"x" * SMALL_BYTES),
        ):
            requests = [client.request(method, number, headers, body) for number in range(CONNECTIONS)]
            port = int(stand_in.announcement["resource_manager"].rpartition(":")[2])
            found[f"{name}_requests_per_second"] = rate(port, stand_in.announcement["certificate"], requests, seconds)
        found["memory_before_large_file_mib"] = resident_mib(stand_in.process.pid)
        begun = time.perf_counter()
        client.upload_large(megabytes)
        found["large_file_mib"] = megabytes
        found["upload_mib_per_second"] = round(megabytes / (time.perf_counter() - begun))
        begun = time.perf_counter()
        assert client.download_large() == megabytes * _MIB
        found["download_mib_per_second"] = round(megabytes / (time.perf_counter() - begun))
        found["most_memory_mib"] = resident_mib(stand_in.process.pid, "VmHWM")
    return found


def start_seconds(state: Path) -> float:
    """From the end of the imports until it can be called, in a new process."""
    result = subprocess.run(
        [sys.executable, "-c", _START, str(state)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return float(json.loads(result.stdout.splitlines()[-1]))


def plain_rate(folder: Path, seconds: float) -> int:
    """Requests per second of aiohttp itself with a handler that does nothing, over the same TLS."""
    process = subprocess.Popen([sys.executable, "-c", _PLAIN, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        port, authority = process.stdout.readline().split()
        request = b"GET /account/share/file HTTP/1.1\r\nHost: 127.0.0.1\r\nx-ms-version: 2026-10-06\r\n\r\n"
        return rate(int(port), authority, [request] * CONNECTIONS, seconds)
    finally:
        process.kill()
        process.wait()


def rate(port: int, certificate: str, requests: Sequence[bytes], seconds: float) -> int:
    """Answers per second, with one connection for each request, which is sent again and again.

    _TURN in a request is replaced by how often it was sent before.
    """
    context = multiprocessing.get_context("spawn")
    hears, says = context.Pipe(duplex=False)
    process = context.Process(target=_ask, args=(says, port, certificate, list(requests), seconds))
    process.start()
    # This end of the pipe too, so that the death of the client ends the wait for its answer.
    says.close()
    count, took, refused = hears.recv()
    process.join()
    assert not refused, refused
    answered, seconds_taken = int(count), float(took)
    return round(answered / seconds_taken)


def _ask(says: Connection, port: int, certificate: str, requests: list[bytes], seconds: float) -> None:
    """The client's process."""
    says.send(asyncio.run(_ask_all(port, certificate, requests, seconds)))


async def _ask_all(port: int, certificate: str, requests: list[bytes], seconds: float) -> tuple[int, float, str]:
    context = ssl.create_default_context(cafile=certificate)
    opened = [await asyncio.open_connection("127.0.0.1", port, ssl=context) for _ in requests]
    begun = time.perf_counter()
    end = begun + seconds
    refused = ""

    async def ask(request: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
        nonlocal refused
        count = 0
        is_head = request.startswith(b"HEAD")
        while time.perf_counter() < end:
            writer.write(request.replace(_TURN, b"%d" % count))
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 20"):
                refused = head.decode()
                break
            length = head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]
            if length and not is_head:
                await reader.readexactly(int(length))
            count += 1
        writer.transport.abort()
        return count

    counts = await asyncio.gather(
        *(ask(request, *connection) for request, connection in zip(requests, opened, strict=True))
    )
    return sum(counts), time.perf_counter() - begun, refused


def resident_mib(process: int, which: str = "VmRSS") -> int:
    """What the process holds in memory, or (VmHWM) has held at most."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith(f"{which}:"):
            return round(int(line.split()[1]) / 1024)
    raise AssertionError(which)


class Account:
    """A share, and requests for it."""

    def __init__(self, stand_in: RunningStandIn) -> None:
        self._announcement = stand_in.announcement
        self._base = stand_in.announcement["resource_manager"]
        self._http = httpx.Client(verify=stand_in.trust, timeout=60)
        self._manager = {"Authorization": f"Bearer {stand_in.token()}"}
        self._headers = {
            "Authorization": f"Bearer {stand_in.token('https://storage.azure.com')}",
            "x-ms-version": VERSION,
            "x-ms-file-request-intent": "backup",
        }

    def create(self) -> None:
        """The account, its share, and a small file for each connection."""
        group = f"{self._base}/subscriptions/{self._announcement['subscription']}/resourceGroups/{GROUP}"
        account = f"{group}/providers/Microsoft.Storage/storageAccounts/{ACCOUNT}"
        place = {"location": "eastus"}
        self._http.put(f"{group}?api-version=2025-04-01", json=place, headers=self._manager).raise_for_status()
        body = {**place, "sku": {"name": "Standard_LRS"}, "kind": "StorageV2", "properties": {}}
        answer = self._http.put(f"{account}?api-version=2026-04-01", json=body, headers=self._manager)
        while answer.status_code == 202:
            time.sleep(0.1)
            answer = self._http.get(answer.headers["location"], headers=self._manager)
        answer.raise_for_status()
        self._send("PUT", "?restype=share")
        for number in range(CONNECTIONS):
            small = {"x-ms-type": "file", "x-ms-content-length": str(SMALL_BYTES)}
            self._send("PUT", f"/file-{number}", small, b"x" * SMALL_BYTES)

    def request(self, method: str, number: int, headers: dict[str, str], body: bytes) -> bytes:
        """A request as it goes over the line."""
        path = f"/{ACCOUNT}/{SHARE}/file-{number}"
        if method == "NEW":
            method, path = "PUT", f"{path}-{_TURN.decode()}"
        if method == "LIST":
            method, path = "GET", f"/{ACCOUNT}/{SHARE}?restype=directory&comp=list&maxresults=5"
        sent = {"Host": self._base.partition("//")[2], **self._headers, **headers}
        if body:
            sent["Content-Length"] = str(len(body))
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in sent.items()), "", ""]
        return "\r\n".join(lines).encode() + body

    def upload_large(self, megabytes: int) -> None:
        """One file in ranges of 4 MiB, eight at a time."""
        from concurrent.futures import ThreadPoolExecutor

        self._send("PUT", "/large", {"x-ms-type": "file", "x-ms-content-length": str(megabytes * _MIB)})
        body = os.urandom(RANGE_BYTES)

        def put(first: int) -> None:
            size = min(RANGE_BYTES, megabytes * _MIB - first)
            headers = {"x-ms-write": "update", "x-ms-range": f"bytes={first}-{first + size - 1}"}
            self._send("PUT", "/large?comp=range", headers, body[:size])

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(put, range(0, megabytes * _MIB, RANGE_BYTES)))

    def download_large(self) -> int:
        """The bytes of it, read and thrown away."""
        address = f"{self._base}/{ACCOUNT}/{SHARE}/large"
        with self._http.stream("GET", address, headers=self._headers) as answer:
            return sum(len(part) for part in answer.iter_bytes())

    def _send(self, method: str, path: str, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        address = f"{self._base}/{ACCOUNT}/{SHARE}{path}"
        answer = self._http.request(method, address, headers=self._headers | (headers or {}), content=body)
        assert answer.is_success, f"{answer.status_code} {answer.text}"


if __name__ == "__main__":
    sys.exit(main())

"""Probes: what is asked, how often, and what follows from it. They are really made, over HTTP or TCP, at the replica.

Defaults when ingress is on and a kind is not given: learn.microsoft.com/azure/container-apps/health-probes (TCP at the
target port, not on GPU profiles). Unset numbers have Kubernetes' defaults.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from infra.emulator.containerapps.pace import Pace
from infra.emulator.waiting import within

# A probe more often than this would load this machine more than it tells.
_SHORTEST_PERIOD_SECONDS = 0.05


@dataclass(frozen=True)
class Probe:
    """One probe of a container. `path` None is TCP."""

    kind: str
    port: int
    path: str | None
    scheme: str
    headers: Mapping[str, str]
    initial_delay_seconds: int
    period_seconds: int
    timeout_seconds: int
    success_threshold: int
    failure_threshold: int


@dataclass(frozen=True)
class Reports:
    """What a replica wants to hear of its probes."""

    started: Callable[[], None]
    ready: Callable[[bool], None]
    failed: Callable[[str], None]
    """The first failure of a row, in words."""


def probes_of(container: Mapping[str, Any], target_port: int | None, has_gpu: bool) -> dict[str, Probe]:
    """The probes by kind, defaults included."""
    probes = {probe["type"]: _probe(probe) for probe in container.get("probes") or []}
    if target_port is not None and not has_gpu:
        probes.setdefault("Startup", Probe("Startup", target_port, None, "HTTP", {}, 1, 1, 3, 1, 240))
        probes.setdefault("Readiness", Probe("Readiness", target_port, None, "HTTP", {}, 3, 5, 5, 1, 48))
    return probes


async def watch(probes: Mapping[str, Probe], local_port: Callable[[int], int], pace: Pace, reports: Reports) -> str:
    """Probes until the container has to be restarted; says why. `local_port` maps a probe's port to this machine's."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=False, force_close=True)) as session:
        prober = _Prober(session, local_port, pace, reports)
        startup = probes.get("Startup")
        if startup is not None:
            reason = await prober.until_started(startup)
            if reason is not None:
                return reason
        reports.started()
        readiness = asyncio.create_task(prober.keep_ready(probes.get("Readiness")))
        try:
            return await prober.until_dead(probes.get("Liveness"))
        finally:
            readiness.cancel()
            reports.ready(False)


class _Prober:
    def __init__(
        self, session: aiohttp.ClientSession, local_port: Callable[[int], int], pace: Pace, reports: Reports
    ) -> None:
        self._session = session
        self._local_port = local_port
        self._pace = pace
        self._reports = reports

    async def until_started(self, probe: Probe) -> str | None:
        """None once the start-up probe has succeeded; the reason when it has failed for as long as it may."""
        return await self._until(probe, succeeds=True)

    async def until_dead(self, probe: Probe | None) -> str:
        """The reason, once liveness has failed for as long as it may. Without a probe: never."""
        if probe is None:
            await asyncio.Event().wait()
            raise AssertionError("unreachable: the event is never set")
        reason = await self._until(probe, succeeds=False)
        assert reason is not None
        return reason

    async def keep_ready(self, probe: Probe | None) -> None:
        """Reports every change of readiness."""
        if probe is None:
            self._reports.ready(True)
            return
        ready, successes, told = False, 0, False
        failing_since: float | None = None
        await asyncio.sleep(self._pace.quick(probe.initial_delay_seconds))
        while True:
            begun = time.monotonic()
            problem = await self._check(probe)
            if problem is None:
                failing_since, told, successes = None, False, successes + 1
                if not ready and successes >= probe.success_threshold:
                    ready = True
                    self._reports.ready(True)
            else:
                failing_since, successes = failing_since or begun, 0
                if not told:
                    told = True
                    self._reports.failed(f"Readiness probe failed: {problem}")
                if ready and time.monotonic() - failing_since >= probe.period_seconds * probe.failure_threshold:
                    ready = False
                    self._reports.ready(False)
            await self._pause(probe)

    async def _until(self, probe: Probe, *, succeeds: bool) -> str | None:
        await asyncio.sleep(self._pace.quick(probe.initial_delay_seconds))
        failing_since: float | None = None
        while True:
            begun = time.monotonic()
            problem = await self._check(probe)
            if problem is None:
                if succeeds:
                    return None
                failing_since = None
            else:
                if failing_since is None:
                    failing_since = begun
                    self._reports.failed(f"{probe.kind} probe failed: {problem}")
                # Patience is as long as in Azure: see Pace.
                if time.monotonic() - failing_since >= probe.period_seconds * probe.failure_threshold:
                    return f"failed {probe.kind.lower()} probe: {problem}"
            await self._pause(probe)

    async def _pause(self, probe: Probe) -> None:
        await asyncio.sleep(max(self._pace.quick(probe.period_seconds), _SHORTEST_PERIOD_SECONDS))

    async def _check(self, probe: Probe) -> str | None:
        """None when the probe succeeds, else what went wrong."""
        port = self._local_port(probe.port)
        try:
            if probe.path is None:
                await within(probe.timeout_seconds, _connect(port))
                return None
            url = f"{probe.scheme.lower()}://127.0.0.1:{port}{probe.path}"
            timeout = aiohttp.ClientTimeout(total=probe.timeout_seconds)
            async with self._session.get(
                url, headers=dict(probe.headers), timeout=timeout, allow_redirects=False
            ) as response:
                if 200 <= response.status < 400:
                    return None
                return f"HTTP probe failed with statuscode: {response.status}"
        except (asyncio.TimeoutError, TimeoutError):
            return f"no answer within {probe.timeout_seconds} s at port {probe.port}"
        except (OSError, aiohttp.ClientError):
            return f"connection refused at port {probe.port}"


async def _connect(port: int) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.close()


def _probe(given: Mapping[str, Any]) -> Probe:
    http = given.get("httpGet")
    at = http or given["tcpSocket"]
    path = None if http is None else "/" + (http.get("path") or "/").lstrip("/")
    headers = {header["name"]: header["value"] for header in (http or {}).get("httpHeaders") or []}
    return Probe(
        kind=given["type"],
        port=at["port"],
        path=path,
        scheme=(http or {}).get("scheme") or "HTTP",
        headers={"User-Agent": "kube-probe/1.30", **headers},
        initial_delay_seconds=given.get("initialDelaySeconds") or 0,
        period_seconds=given.get("periodSeconds") or 10,
        timeout_seconds=given.get("timeoutSeconds") or 1,
        success_threshold=given.get("successThreshold") or 1,
        failure_threshold=given.get("failureThreshold") or 3,
    )

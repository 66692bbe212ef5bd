"""One replica: one local process at a time, restarted when it ends, probed, logged, ended by SIGTERM and SIGKILL.

Knows its container and nothing of revisions, scale or HTTP requests but their number.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import time
import uuid
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from infra.emulator import ports
from infra.emulator.containerapps import processes
from infra.emulator.containerapps.launch import NO_ROOM, CannotStart, Launch, make_scratch, remove_scratch
from infra.emulator.containerapps.logs import Journal, container_line
from infra.emulator.containerapps.pace import Pace
from infra.emulator.containerapps.probes import Probe, Reports, watch
from infra.emulator.store import Store
from infra.emulator.waiting import within

log = logging.getLogger(__name__)

_SUPERVISOR = Path(__file__).with_name("supervisor.py")
# Kubernetes: 10 s, doubled up to 5 min, forgotten after 10 min without a crash; the first restart is at once.
_BACK_OFF_SECONDS, _MOST_BACK_OFF_SECONDS, _FORGET_SECONDS = 10.0, 300.0, 600.0
_LONGEST_LINE = 16 * 1024
_DRAIN_SECONDS = 30.0


@dataclass(frozen=True)
class Orders:
    """What a replica runs. `launch` says how to start its process on a port, with its own disk."""

    container: str
    launch: Callable[[int, Path], Launch]
    probes: Mapping[str, Probe]
    target_port: int | None
    grace_seconds: float


class Replica:
    """From start() to stop(); `changed` is called at every change of what it shows, `event(reason, message, warning)`
    for what belongs in the app's events."""

    def __init__(
        self,
        name: str,
        orders: Orders,
        store: Store,
        journal: Journal,
        pace: Pace,
        changed: Callable[[], None],
        event: Callable[[str, str, bool], None],
    ) -> None:
        self.name = name
        self.orders = orders
        self.journal = journal
        self.created = datetime.now(timezone.utc)
        self.ready = False
        self.been_ready = False
        self.started = False
        self.restarts = 0
        self.in_flight = 0
        self.port = 0
        self.container_id: str | None = None
        self.container_state = "Waiting"
        self.container_details = "Container is waiting with reason: ContainerCreating."
        self.exit_code: int | None = None
        self.crashing = False
        """Its container ends again and again, or cannot be started at all."""
        self.problem: str | None = None
        """Why it is crashing, for a person."""
        self.placed = False
        """It has got its cores and its GPU, and holds them until it has ended."""
        self.without_room = False
        """The quotas leave no room for it."""
        self.ended = False
        self._store = store
        self._pace = pace
        self._changed = changed
        self._event = event
        self._stopping = asyncio.Event()
        self._hastened = asyncio.Event()
        self._most_grace_seconds = orders.grace_seconds
        self._supervisor: Process | None = None
        self._task: asyncio.Task[None] | None = None
        self._scratch: Path | None = None

    @property
    def stopping(self) -> bool:
        """It was told to end."""
        return self._stopping.is_set()

    def start(self) -> None:
        """Begins to run the container."""
        self._task = asyncio.create_task(self._run(), name=f"replica {self.name}")

    def announce_stop(self) -> None:
        """No further request, and no restart; stop() does the rest."""
        self._stopping.set()
        self._set_ready(False)

    def hasten(self, most_grace_seconds: float) -> None:
        """The whole machine goes down: nothing waits for requests any more, nor longer than this for the process,
        also where stop() is waiting already."""
        self._most_grace_seconds = min(self._most_grace_seconds, most_grace_seconds)
        self._hastened.set()

    async def stop(self) -> None:
        """Ends it: no new request, the running ones finish, SIGTERM, the grace period, SIGKILL."""
        self.announce_stop()
        await self._drained()
        await self._end_container()
        if self._task is not None:
            await asyncio.wait([self._task])
        self.ended = True
        self.journal.close()
        self._changed()

    async def _drained(self) -> None:
        end = time.monotonic() + self._pace.quick(_DRAIN_SECONDS)
        while self.in_flight and time.monotonic() < end and not self._hastened.is_set():
            await asyncio.sleep(0.05)

    async def _run(self) -> None:
        self._scratch = make_scratch()
        back_off = 0.0
        try:
            while not self.stopping:
                begun, ran = time.monotonic(), True
                try:
                    why = await self._run_container(self._scratch)
                except CannotStart as problem:
                    why, ran = str(problem), False
                    self.without_room = problem.reason == NO_ROOM
                    self._show("Waiting", f"Container is waiting with reason: {problem.reason}.")
                    self._event(problem.reason, why, True)
                except Exception:
                    # A defect of the stand-in must show where an operator looks, and must not end the others.
                    log.exception("replica %s", self.name)
                    why = "The stand-in failed; see its log."
                if self.stopping:
                    break
                # A container that never ran, for want of room or of an image, has not been restarted either.
                self.restarts += ran
                if time.monotonic() - begun > self._pace.quick(_FORGET_SECONDS):
                    back_off = 0.0
                self.problem = why
                if back_off or self.exit_code is None:
                    self.crashing = True
                    details = "Container is waiting with reason: CrashLoopBackOff."
                    self._show("Waiting", details if self.exit_code is not None else self.container_details)
                    self._event("ContainerBackOff", f"Persistent Failure to start container: {why}", True)
                await self._wait(self._pace.quick(back_off))
                back_off = min(max(back_off * 2, _BACK_OFF_SECONDS), _MOST_BACK_OFF_SECONDS)
        finally:
            processes.forget(self._store, self.name)
            remove_scratch(self._scratch)

    async def _run_container(self, scratch: Path) -> str:
        """Runs the container's process once; why it ended."""
        self.exit_code = None
        self.port = ports.free()
        launch = self.orders.launch(self.port, scratch)
        if self.without_room:
            # What it had no room for begins now, and is not in trouble any more.
            self.crashing, self.problem = False, None
        self.placed, self.without_room = True, False
        supervisor = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            "-S",
            str(_SUPERVISOR),
            str(scratch),
            *launch.command,
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            cwd=launch.folder,
            env=launch.environment,
            start_new_session=True,
        )
        assert supervisor.stdout is not None
        assert supervisor.stderr is not None
        self._supervisor = supervisor
        if self.stopping:
            # stop() came while the process was being made, and found none to end.
            await self._end_container(at_once=True)
        first_line = await supervisor.stdout.readline()
        main_process = int(first_line or supervisor.pid)
        processes.record(self._store, self.name, [supervisor.pid, main_process], scratch)
        self.container_id = f"containerd://{uuid.uuid4().hex}"
        now = datetime.now(timezone.utc)
        time_text = (
            f"{now.month}/{now.day}/{now.year} {now.hour % 12 or 12}:{now:%M:%S} {'AM' if now.hour < 12 else 'PM'}"
        )
        self._show("Running", f"Container started at: {time_text}.")
        self._event("ContainerStarted", f"Started container '{self.orders.container}'", False)
        output = [
            asyncio.create_task(self._keep(supervisor.stdout, "stdout")),
            asyncio.create_task(self._keep(supervisor.stderr, "stderr")),
        ]
        probing = asyncio.create_task(self._probe())
        exiting = asyncio.create_task(supervisor.wait())
        await asyncio.wait([probing, exiting], return_when=asyncio.FIRST_COMPLETED)
        why = ""
        try:
            if not exiting.done():
                why = probing.result()
                self._event("ContainerTerminating", f"Container {self.orders.container} {why}, will be restarted", True)
        finally:
            if not exiting.done():
                await self._end_container()
        probing.cancel()
        await asyncio.wait([probing, exiting, *output])
        code = exiting.result()
        self.exit_code = code
        self.started = False
        self._set_ready(False)
        self._supervisor = None
        self._show("Terminated", f"Container was terminated with exit code: {code}.")
        message = f"Container '{self.orders.container}' was terminated with exit code '{code}'"
        if not self.stopping:
            message += f" and reason '{'ProbeFailure' if why else 'ProcessExited'}'"
        self._event("ContainerTerminated", message, code != 0 and not self.stopping)
        return why or f"the process ended with exit code {code}"

    async def _probe(self) -> str:
        def started() -> None:
            self.started = True
            self._changed()

        def failed(words: str) -> None:
            if not self.stopping:
                self._event("ReplicaUnhealthy", words, True)

        reports = Reports(started, self._set_ready, failed)
        return await watch(self.orders.probes, self._local_port, self._pace, reports)

    def _local_port(self, asked: int) -> int:
        """Where on this machine the container's port is: its own for the target port."""
        return self.port if self.orders.target_port in (None, asked) else asked

    async def _end_container(self, *, at_once: bool = False) -> None:
        """SIGTERM to the main process, SIGKILL to all after the grace period, which hasten() may shorten."""
        supervisor = self._supervisor
        if supervisor is None or supervisor.returncode is not None:
            return
        await _tell(supervisor, b"terminate\n")
        ended = asyncio.create_task(supervisor.wait())
        if not at_once:
            hastened = asyncio.create_task(self._hastened.wait())
            grace = self.orders.grace_seconds
            await asyncio.wait([ended, hastened], timeout=grace, return_when=asyncio.FIRST_COMPLETED)
            if hastened.done():
                await asyncio.wait([ended], timeout=self._most_grace_seconds)
            hastened.cancel()
        if not ended.done():
            await _tell(supervisor, b"kill\n")
        await ended

    async def _keep(self, stream: asyncio.StreamReader, name: str) -> None:
        """Writes what the container prints into its journal, line by line; long lines in parts."""
        pending = b""
        while data := await stream.read(_LONGEST_LINE):
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                self._keep_line(name, line)
            while len(pending) >= _LONGEST_LINE:
                self._keep_line(name, pending[:_LONGEST_LINE], partial=True)
                pending = pending[_LONGEST_LINE:]
        if pending:
            self._keep_line(name, pending)

    def _keep_line(self, name: str, line: bytes, partial: bool = False) -> None:
        text = line.decode("utf-8", "replace").rstrip("\r")
        self.journal.add(container_line(name, text.replace("\r", " "), partial))

    async def _wait(self, seconds: float) -> None:
        with contextlib.suppress(asyncio.TimeoutError):
            await within(max(seconds, 0.05), self._stopping.wait())

    def _set_ready(self, ready: bool) -> None:
        if ready and self.stopping:
            return
        if ready:
            self.been_ready, self.crashing, self.problem = True, False, None
        if ready != self.ready:
            self.ready = ready
            self._changed()

    def _show(self, state: str, details: str) -> None:
        self.container_state, self.container_details = state, details
        self._changed()


async def _tell(supervisor: Process, word: bytes) -> None:
    assert supervisor.stdin is not None
    with contextlib.suppress(ConnectionError):
        supervisor.stdin.write(word)
        await supervisor.stdin.drain()

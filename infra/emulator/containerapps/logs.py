"""What containers print and what happens to an app: kept on disk, and streamed to clients as it comes.

A container's lines and an app's events are each a Journal. The stream's words are those of the real one (its answers
are shown in learn.microsoft.com/azure/container-apps/log-streaming and in the Azure CLI's test recordings).
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TextIO

from aiohttp import web

from infra.emulator.operations import timestamp
from infra.emulator.waiting import within

log = logging.getLogger(__name__)

_MOST_BYTES = 10 * 1024 * 1024
_MOST_TAIL, _DEFAULT_TAIL = 300, 20
_FOLLOWER_LINES = 10_000
_HEARTBEAT_SECONDS = 30


class _Follower:
    """A stream's lines that were not sent yet."""

    def __init__(self) -> None:
        self.lines: asyncio.Queue[str | None] = asyncio.Queue(_FOLLOWER_LINES)
        self.ended = False

    def end(self) -> None:
        """What waits is sent still; nothing comes after it."""
        self.ended = True
        if self.lines.empty():
            self.lines.put_nowait(None)


class Journal:
    """Lines of text in a file that is only added to; at 10 MiB it becomes `<name>.1` and a new one begins."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: TextIO | None = None
        self._followers: set[_Follower] = set()

    def add(self, line: str) -> None:
        """Writes one line and gives it to those who follow."""
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a", encoding="utf-8", errors="replace")
        self._file.write(line + "\n")
        self._file.flush()
        if self._file.tell() > _MOST_BYTES:
            self._close_file()
            self.path.replace(self.path.with_name(self.path.name + ".1"))
        for follower in list(self._followers):
            try:
                follower.lines.put_nowait(line)
            except asyncio.QueueFull:
                # A client that does not read must not hold the log: its stream ends.
                self._followers.discard(follower)
                follower.end()

    def tail(self, count: int) -> list[str]:
        """The last lines, at most `count`."""
        lines: list[str] = []
        for path in (self.path, self.path.with_name(self.path.name + ".1")):
            if len(lines) < count and path.exists():
                lines = path.read_text(encoding="utf-8").splitlines() + lines
        return lines[-count:] if count else []

    def close(self) -> None:
        """Ends the streams of those who follow: no further line will come."""
        self._close_file()
        for follower in self._followers:
            follower.end()
        self._followers.clear()

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    async def read(self, count: int, follow: bool) -> AsyncIterator[str | None]:
        """The last `count` lines, then every new one. None where nothing came for a while."""
        follower = _Follower()
        self._followers.add(follower)
        try:
            for line in self.tail(count):
                yield line
            while follow and not (follower.ended and follower.lines.empty()):
                try:
                    line_or_end = await within(_HEARTBEAT_SECONDS, follower.lines.get())
                except asyncio.TimeoutError:
                    yield None
                    continue
                if line_or_end is None:
                    return
                yield line_or_end
        finally:
            self._followers.discard(follower)


def container_line(stream: str, text: str, partial: bool = False) -> str:
    """A line as the container runtime keeps it: time, stream, whether the line is whole, text."""
    return f"{timestamp()}Z {stream} {'P' if partial else 'F'} {text}"


@dataclass(frozen=True)
class Place:
    """Whose events they are."""

    app: str
    revision: str | None = None
    replica: str | None = None


def event_line(place: Place, reason: str, message: str, *, warning: bool = False) -> str:
    """An event of the platform, as the system log has it."""
    now = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S +0000 UTC")
    event = {
        "TimeStamp": now,
        "Type": "Warning" if warning else "Normal",
        "ContainerAppName": place.app,
        "RevisionName": place.revision,
        "ReplicaName": place.replica,
        "Msg": message,
        "Reason": reason,
        "EventSource": "ContainerAppController",
        "Count": 1,
    }
    return json.dumps(event, separators=(",", ":"))


@dataclass(frozen=True)
class Stream:
    """One stream that a client may ask for: what is said first, and the journal behind it."""

    greeting: tuple[str, ...]
    journal: Journal
    line: Callable[[str], tuple[str, str]] | None
    """A kept line -> (time, text); None for events, which are JSON already."""


def console(container: str, revision: str, replica: str, journal: Journal) -> Stream:
    """The stream of one container."""
    greeting = (
        f"Connecting to the container '{container}'...",
        f"Successfully Connected to container: '{container}' [Revision: '{revision}', Replica: '{replica}']",
    )
    return Stream(greeting, journal, _console_line)


def system(journal: Journal) -> Stream:
    """The stream of an app's events."""
    return Stream((), journal, None)


async def answer(request: web.Request, stream: Stream) -> web.StreamResponse:
    """Streams to the client until it leaves, the journal ends, or, without `follow`, the last line is sent."""
    query = {name.lower(): value for name, value in request.query.items()}
    tail = int(text) if (text := query.get("taillines", "")).isdecimal() else _DEFAULT_TAIL
    as_json = query.get("output", "json").lower() == "json"
    response = web.StreamResponse(headers={"Content-Type": "text/plain; charset=utf-8", "Cache-Control": "no-cache"})
    try:
        await response.prepare(request)
        for words in stream.greeting:
            await response.write(_shown(_now(), words, as_json))
        async for line in stream.journal.read(min(tail, _MOST_TAIL), query.get("follow", "").lower() == "true"):
            if line is None:
                # Also how a client that has left is noticed.
                await response.write(_shown(_now(), f"No logs since last {_HEARTBEAT_SECONDS} seconds", as_json))
            elif stream.line is None:
                await response.write(line.encode() + b"\n")
            else:
                await response.write(_shown(*stream.line(line), as_json))
        await response.write_eof()
    except ConnectionError:
        log.debug("the client of the log stream %s has left", request.path)
    return response


def plain(line: str) -> str:
    """The text of a kept container line."""
    return _console_line(line)[1]


_KEPT = re.compile(r"(\S+)Z (?:stdout|stderr) [FP] (.*)")


def _console_line(line: str) -> tuple[str, str]:
    kept = _KEPT.fullmatch(line)
    return (f"{kept[1]}+00:00", kept[2]) if kept else ("", line)


def _now() -> str:
    return timestamp().rstrip("0")


def _shown(time: str, text: str, as_json: bool) -> bytes:
    if as_json:
        return json.dumps({"TimeStamp": time, "Log": text}, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
    return f"{time} {text}\n".encode()

"""Journals: what is kept, what is streamed, and that a slow reader holds nobody."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from infra.emulator.containerapps import logs
from infra.emulator.containerapps.logs import Journal, container_line, plain


async def read(journal: Journal, count: int, follow: bool) -> list[str | None]:
    """Everything that a stream gives until it ends."""
    return [line async for line in journal.read(count, follow)]


async def test_the_last_lines_and_then_every_new_one(tmp_path: Path) -> None:
    """None twice, none lost; the stream ends with the journal."""
    journal = Journal(tmp_path / "folder" / "a.log")
    for number in range(5):
        journal.add(str(number))
    assert await read(journal, 3, follow=False) == ["2", "3", "4"]
    assert await read(journal, 0, follow=False) == []
    following = asyncio.create_task(read(journal, 2, follow=True))
    await asyncio.sleep(0)
    for number in range(5, 8):
        journal.add(str(number))
        await asyncio.sleep(0)
    journal.close()
    assert await following == ["3", "4", "5", "6", "7"]


async def test_lines_survive_a_restart(tmp_path: Path) -> None:
    """The file is only added to, and read as it is."""
    first = Journal(tmp_path / "a.log")
    first.add("one")
    first.close()
    second = Journal(tmp_path / "a.log")
    second.add("two \udcff")
    assert second.tail(10) == ["one", "two ?"]


async def test_a_full_journal_begins_anew_and_keeps_the_one_before(tmp_path: Path) -> None:
    """At 10 MiB; the last lines are taken from both."""
    journal = Journal(tmp_path / "a.log")
    long = "x" * 1024 * 1024
    for number in range(12):
        journal.add(f"{number} {long}")
    assert journal.path.stat().st_size < 3 * 1024 * 1024
    assert [line.partition(" ")[0] for line in journal.tail(4)] == ["8", "9", "10", "11"]


async def test_a_reader_that_does_not_read_is_let_go(tmp_path: Path) -> None:
    """Its stream ends; the journal goes on."""
    journal = Journal(tmp_path / "a.log")
    stream = journal.read(0, follow=True)
    first = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    for number in range(10_100):
        journal.add(str(number))
    assert await first == "0"
    taken = [line async for line in stream]
    assert taken == [str(number) for number in range(1, 10_000)]
    journal.add("after")
    assert journal.tail(1) == ["after"]


async def test_silence_is_told(tmp_path: Path) -> None:
    """None where nothing came for a while, so that a client that has left is noticed."""
    journal = Journal(tmp_path / "a.log")
    stream = journal.read(0, follow=True)
    waiting = asyncio.ensure_future(anext(stream))
    done, _ = await asyncio.wait([waiting], timeout=0.05)
    assert not done
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert logs.container_line("stdout", "text").endswith("Z stdout F text")


@pytest.mark.parametrize("text", ["", "plain", "  spaces  ", "stdout F nested", "\u00e4\u4e2d"])
def test_a_kept_line_gives_back_its_text(text: str) -> None:
    """Whatever the container printed."""
    assert plain(container_line("stderr", text)) == text
    assert plain(container_line("stdout", text, partial=True)) == text

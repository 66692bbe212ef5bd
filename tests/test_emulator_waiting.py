"""A cancellation is never lost, at whichever turn of the event loop it comes."""

from __future__ import annotations

import asyncio

import pytest

from infra.emulator.waiting import within


@pytest.mark.parametrize("turns", range(6))
@pytest.mark.parametrize("fails", [False, True])
async def test_a_cancelled_task_ends_also_when_the_work_ends_at_that_moment(turns: int, fails: bool) -> None:
    async def work() -> None:
        for _ in range(2):
            await asyncio.sleep(0)
        if fails:
            raise ConnectionRefusedError

    async def again_and_again() -> None:
        while True:
            try:
                await within(60, work())
            except ConnectionRefusedError:
                continue

    task = asyncio.create_task(again_and_again())
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    for _ in range(20):
        await asyncio.sleep(0)
    assert task.cancelled()


async def test_work_has_its_result_its_problem_or_its_time() -> None:
    async def refused() -> None:
        raise ConnectionRefusedError

    assert await within(60, asyncio.sleep(0, "done")) == "done"
    with pytest.raises(ConnectionRefusedError):
        await within(60, refused())
    work = asyncio.ensure_future(asyncio.Event().wait())
    with pytest.raises(asyncio.TimeoutError):
        await within(0, work)
    await asyncio.wait([work])
    assert work.cancelled()

"""Waiting that ends after a time, or when the waiting task is cancelled, whatever happens at that very moment."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

Result = TypeVar("Result")


async def within(seconds: float, work: Awaitable[Result]) -> Result:
    """The result of `work`, which is cancelled when it takes longer. Raises asyncio.TimeoutError.

    In place of asyncio.wait_for, which before Python 3.12 loses a cancellation that comes as the work ends (CPython
    issue 86296): a task that was cancelled then lives on.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait([task], timeout=seconds)
        if not task.done():
            raise asyncio.TimeoutError
        return task.result()
    finally:
        if not task.cancel() and not task.cancelled():
            task.exception()  # looked at, so that asyncio does not report it as lost

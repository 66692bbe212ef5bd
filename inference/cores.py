"""Whether this process has its processors to itself. Asked before torch loads, which takes its settings from that."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""cgroup v2, https://docs.kernel.org/admin-guide/cgroup-v2.html#cpu-interface-files"""
CPU_PRESSURE = Path("/proc/pressure/cpu")
"""https://docs.kernel.org/accounting/psi.html"""

BUSY_PERCENT = 5.0
"""Processors may be shared when something had to wait for one in more of the last ten seconds than this."""
LEAST_SHARE = 0.85
"""They are when a thread on each gets less of its time than this. Alone on a virtual machine it got 0.93 at least."""
PROBE_SECONDS = 0.15


def are_shared(quota: str, pressure: str, measured: Callable[[], float]) -> bool:
    """Whether time that a thread spends on waiting is missed elsewhere: other work waits for processors, or they are
    counted. True where that cannot be known.

    `quota` is the text of CPU_QUOTA, `pressure` that of CPU_PRESSURE; "" for a file that is not there. `measured` is
    `share`, asked only where something waited in the last ten seconds: it may have been the process before this one.
    """
    if quota.partition(" ")[0].isdigit():
        return True
    found = re.search(r"^some avg10=(\d+\.\d+)", pressure, re.MULTILINE)
    return found is None or (float(found[1]) > BUSY_PERCENT and measured() < LEAST_SHARE)


def share() -> float:
    """Compute on every processor for PROBE_SECONDS; the least share of that time, 0 to 1, that one thread got."""
    block = bytes(1 << 18)
    until = time.perf_counter() + PROBE_SECONDS

    def compute() -> float:
        began, own = time.perf_counter(), time.thread_time()
        while time.perf_counter() < until:
            hashlib.sha256(block)  # lets the other threads run meanwhile
        return (time.thread_time() - own) / (time.perf_counter() - began)

    threads = len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(threads) as pool:
        return min(each.result() for each in [pool.submit(compute) for _ in range(threads)])


def text(file: Path) -> str:
    """What such a file says; "" when it is not there."""
    try:
        return file.read_text(encoding="ascii").strip()
    except OSError:  # a kernel without it, or one that lets nobody look
        return ""

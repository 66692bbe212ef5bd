"""Whether this process has its processors to itself. Asked before torch loads, which takes its settings from that."""

from __future__ import annotations

import re
from pathlib import Path

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""cgroup v2, https://docs.kernel.org/admin-guide/cgroup-v2.html#cpu-interface-files"""
CPU_PRESSURE = Path("/proc/pressure/cpu")
"""https://docs.kernel.org/accounting/psi.html"""

BUSY_PERCENT = 5.0
"""Processors are shared when something had to wait for one in more of the last ten seconds than this."""


def are_shared(quota: str, pressure: str) -> bool:
    """Whether time that a thread spends on waiting is missed elsewhere: other work waits for processors, or they are
    counted. True where that cannot be known.

    `quota` is the text of CPU_QUOTA, `pressure` that of CPU_PRESSURE; "" for a file that is not there.
    """
    if quota.partition(" ")[0].isdigit():
        return True
    found = re.search(r"^some avg10=(\d+\.\d+)", pressure, re.MULTILINE)
    return found is None or float(found[1]) > BUSY_PERCENT


def text(file: Path) -> str:
    """What such a file says; "" when it is not there."""
    try:
        return file.read_text(encoding="ascii").strip()
    except OSError:  # a kernel without it, or one that lets nobody look
        return ""

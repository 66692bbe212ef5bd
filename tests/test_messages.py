"""Progress as a terminal gets it: a real one, of so many columns."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import sys
import termios

import pytest

from tests.conftest import ROOT

PROGRAM = """
from scripts.messages import Messages
messages = Messages()
messages.progress("1234567890" * 30)
messages.progress("short")
messages.say("x" * 300)
messages.end()
"""


@pytest.mark.parametrize(("columns", "shown"), [(80, 79), (103, 102), (24, 23), (0, 79)])
def test_a_line_of_progress_fits_into_one_row_and_leaves_nothing_behind(columns: int, shown: int) -> None:
    reader, terminal = os.openpty()
    try:
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        # Where results go is no terminal.
        command = [sys.executable, "-c", PROGRAM]
        subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=terminal, check=True)
        received = os.read(reader, 10_000).decode()
    finally:
        os.close(reader)
        os.close(terminal)
    first, blanks, second, blanks_again, message = received.removesuffix("\r\n").split("\r")
    assert (len(first), blanks) == (shown, " " * shown)
    assert second.endswith("s  short")
    assert blanks_again == " " * len(second)
    assert message.endswith("x" * 300), "a line that stays is whole"

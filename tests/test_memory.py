"""What a server keeps of the requests that have gone by is bounded, however many and however different they were."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures_inference import INFERENCE

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the heap is looked at by glibc's functions")

KERNELS = """
import ctypes, os, serve
serve._bound_kept_memory(os.environ)
import torch
from packed import PackedLinear

class Heap(ctypes.Structure):  # mallinfo2(3)
    _fields_ = [(name, ctypes.c_size_t) for name in
                "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()]

told = ctypes.CDLL(None).mallinfo2
told.restype = Heap
torch.set_num_threads(1)
layer = PackedLinear(torch.nn.Linear(16, 16, bias=False))
for rows in range(1, 901):
    with torch.inference_mode():
        layer(torch.zeros(rows, 16))
    if rows in (300, 900):
        print(told().uordblks)
"""

HEAPS = """
import ctypes, os, sys, threading, serve
serve._bound_kept_memory(os.environ)
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p
together = threading.Barrier(12)

def allocate():
    together.wait()
    libc.malloc(10_000)
    together.wait()

threads = [threading.Thread(target=allocate) for _ in range(12)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
file = ctypes.c_void_p(libc.fopen(sys.argv[1].encode(), b"w"))
libc.malloc_info(0, file)  # malloc_info(3)
libc.fclose(file)
print(open(sys.argv[1]).read().count("<heap "))
"""


def run(script: str, *arguments: str) -> list[int]:
    """The numbers that a script prints which runs as a server's process does."""
    ran = subprocess.run(
        [sys.executable, "-c", script, *arguments], cwd=INFERENCE, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return [int(line) for line in ran.stdout.split()]


def test_kernels_for_ever_new_numbers_of_rows_take_no_more_memory() -> None:
    """Six hundred numbers of rows that a layer has not met before: torch by itself keeps 260 MB for them."""
    before, after = run(KERNELS)
    assert after - before < 20e6


def test_threads_share_two_heaps(tmp_path: Path) -> None:
    """A dozen threads that allocate at one time: glibc by itself gives each a heap."""
    assert run(HEAPS, str(tmp_path / "heaps.xml")) == [2]

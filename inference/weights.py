"""Stored tensors -> torch tensors, read in large blocks, several at a time.

Weights stand on a share where every request takes some milliseconds. A file mapped into memory would wait for the share
at pages that are touched, and be held twice while its tensors are copied. Here each tensor's place in memory is made
first, and threads fill it with blocks of several megabytes, a little ahead of the loader that takes the tensors. Knows
no model.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import EllipsisType, TracebackType

import torch
from folders import ModelFolderError, StoredTensor, unusable

BLOCK_BYTES = 4 * 1024 * 1024
READERS = 16
"""Blocks that are read at once. docs/inference.md has the measurements that both numbers come from."""

DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
    "I16": torch.int16,
    "U16": torch.uint16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "F32": torch.float32,
    "I64": torch.int64,
    "U64": torch.uint64,
    "F64": torch.float64,
}

Told = Callable[[int, float], None]
"""Called now and then with the bytes read so far and the seconds that this took."""


class WeightReader:
    """Reads stored tensors; a context, at whose end its threads and files are closed."""

    def __init__(
        self,
        told: Told,
        *,
        readers: int = READERS,
        block_bytes: int = BLOCK_BYTES,
        told_every_seconds: float = 1.0,
    ) -> None:
        self._told, self._block_bytes, self._told_every_seconds = told, block_bytes, told_every_seconds
        self._ahead_bytes = 2 * readers * block_bytes
        self._pool = ThreadPoolExecutor(readers, thread_name_prefix="weights")
        self._files: dict[Path, int] = {}
        self._lock = threading.Lock()
        self._coming: deque[StoredTensor] = deque()
        self._begun: dict[StoredTensor, _Reading] = {}
        self._begun_bytes = 0
        self._taken: set[StoredTensor] = set()
        self._under_way = 0
        self._began = self._told_at = time.monotonic()
        self.read_bytes = 0
        self.read_seconds = 0.0
        """How long at least one read was under way."""

    def __enter__(self) -> WeightReader:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._pool.shutdown(cancel_futures=True)
        for descriptor in self._files.values():
            os.close(descriptor)

    def lazy(self, tensors: Mapping[str, StoredTensor]) -> dict[str, LazyTensor]:
        """The tensors by name, in the order that loaders take them. Each is read a little before it is its turn, so
        that no more than some blocks are held that nobody has taken; one that is taken out of turn is read then."""
        order = sorted(tensors, key=_natural)
        with self._lock:
            self._coming = deque(tensors[name] for name in order)
            self._read_ahead()
        return {name: LazyTensor(self, tensors[name]) for name in order}

    def take(self, stored: StoredTensor) -> torch.Tensor:
        """One tensor, on the CPU; from any thread. Raises ModelFolderError when it cannot be read, OSError when
        that may pass."""
        with self._lock:
            reading = self._begun.pop(stored, None)
            if reading is None:
                reading = self._begin(stored)
            else:
                self._begun_bytes -= stored.bytes
            self._read_ahead()
        for block in reading.blocks:
            block.result()
        return reading.room.view(DTYPES[stored.dtype]).view(stored.shape)

    def _read_ahead(self) -> None:
        """Begin to read what comes next, as far as there is room for it. Called with the lock held."""
        while self._coming and self._begun_bytes < self._ahead_bytes:
            stored = self._coming.popleft()
            if stored not in self._taken:
                self._begun[stored] = self._begin(stored)
                self._begun_bytes += stored.bytes

    def _begin(self, stored: StoredTensor) -> _Reading:
        self._taken.add(stored)
        room = torch.empty(stored.bytes, dtype=torch.uint8)
        view = room.numpy().data
        starts = range(0, stored.bytes, self._block_bytes)
        if not self._under_way:
            self._began = time.monotonic()
        self._under_way += len(starts)
        blocks = [
            self._pool.submit(self._fill, stored, view[start : start + self._block_bytes], start) for start in starts
        ]
        return _Reading(room, blocks)

    def _fill(self, stored: StoredTensor, view: memoryview, start: int) -> None:
        folder, name = stored.file.parent, stored.file.name
        done = 0
        try:
            while done < len(view):
                count = os.preadv(self._descriptor(stored.file), [view[done:]], stored.begin + start + done)
                if not count:
                    raise ModelFolderError(folder, f"{name} became shorter while it was read: was it replaced?")
                done += count
        except OSError as error:
            raise unusable(folder, f"{name} cannot be read ({error.strerror})", error) from None
        finally:
            self._count(done)

    def _descriptor(self, file: Path) -> int:
        with self._lock:
            if file not in self._files:
                self._files[file] = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
            return self._files[file]

    def _count(self, done: int) -> None:
        """A block has been read, or could not be: add it to what is known, and tell it now and then."""
        with self._lock:
            now = time.monotonic()
            self.read_bytes += done
            self._under_way -= 1
            seconds = self.read_seconds + now - self._began
            if not self._under_way:
                self.read_seconds = seconds
            if now - self._told_at >= self._told_every_seconds:
                self._told_at = now
                self._told(self.read_bytes, seconds)


@dataclass(frozen=True)
class _Reading:
    """A tensor's place in memory, and the blocks that are being read into it."""

    room: torch.Tensor
    blocks: list[Future[None]]


def _natural(name: str) -> list[tuple[int, str]]:
    """Layer 2 before layer 10: the order in which transformers takes tensors."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]


class LazyTensor:
    """A stored tensor that is read when its numbers are asked for: what transformers' loader takes for a slice of a
    safetensors file."""

    def __init__(self, reader: WeightReader, stored: StoredTensor) -> None:
        self._reader, self._stored = reader, stored

    def __getitem__(self, _: EllipsisType) -> torch.Tensor:
        return self._reader.take(self._stored)

    def get_shape(self) -> list[int]:
        """As safetensors' slices have it."""
        return list(self._stored.shape)

    def get_dtype(self) -> str:
        """As safetensors' slices have it: the format's own name."""
        return self._stored.dtype

"""A folder mounted again through FUSE, where every request takes some milliseconds: a stand-in for a share over SMB.

    python -m tests.bench.slow_share FOLDER MOUNT_POINT --milliseconds 3

Speaks the kernel's protocol itself (linux/fuse.h, version 7.31), so that nothing has to be installed; needs /dev/fuse
and the right to mount. Reads only. Requests are answered by several threads, as a server does, and each
waits its milliseconds. It ends, and the mount with it, on SIGTERM. Knows nothing of models.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import os
import signal
import stat
import struct
import sys
import threading
import time
from pathlib import Path

HEADER = struct.Struct("<IIQQIIIHH")  # length, opcode, unique, node, uid, gid, pid, length of extensions, padding
ANSWER = struct.Struct("<IiQ")  # length, error, unique
ATTRIBUTES = struct.Struct("<QQQQQQIIIIIIIIII")
READ = struct.Struct("<QQIIQII")

LOOKUP, FORGET, GETATTR, OPEN, READ_FILE, STATFS, RELEASE, FLUSH = 1, 2, 3, 14, 15, 17, 18, 25
INIT, OPENDIR, READDIR, RELEASEDIR, INTERRUPT, DESTROY, BATCH_FORGET = 26, 27, 28, 29, 36, 38, 42
ASYNC_READ, MAX_PAGES = 1 << 0, 1 << 22
KEEP_CACHE = 1 << 1
"""What was read stays in memory when a file is opened again, as an SMB client does that has a lease on the file."""

LARGEST_READ_BYTES = 1024 * 1024
"""What one request may ask for: Azure Files' SMB server allows 1 MiB (and the Linux client asks for as much)."""

LARGEST_WRITE_BYTES = 4096
"""Nothing is written, and the room for a request must hold as much."""

READ_AHEAD_BYTES = 2 * LARGEST_READ_BYTES
"""How far the kernel reads ahead of one reader, and around a page of a mapped file: what its SMB client sets
(fs/smb/client/cifsfs.c: twice the size of a request)."""

ROOT = 1
VALID_SECONDS = 3600
MNT_DETACH = 2
MS_RDONLY_NOSUID_NODEV = 1 | 2 | 4


class SlowShare:
    """Answers the kernel's requests for one folder."""

    def __init__(self, folder: Path, mount_point: Path, delay_seconds: float) -> None:
        self._delay_seconds = delay_seconds
        self._mount_point = mount_point
        self._paths: list[Path] = [folder, folder]  # by node; nodes begin at 1
        self._nodes: dict[Path, int] = {folder: ROOT}
        self._files: dict[int, int] = {}
        self._lock = threading.Lock()
        self._library = ctypes.CDLL(None, use_errno=True)
        self._device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        self.requests = 0
        """Reads that were answered."""

    def mount(self) -> None:
        """Raises OSError when this process may not mount."""
        options = f"fd={self._device},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()},allow_other"
        done = self._library.mount(
            b"slow", os.fsencode(self._mount_point), b"fuse.slow", MS_RDONLY_NOSUID_NODEV, options.encode()
        )
        if done != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(self._mount_point))

    def read_ahead(self) -> None:
        """Set the mount's read-ahead, which the kernel bounds to 128 KiB when it mounts. Called while serve() runs."""
        device = self._mount_point.stat().st_dev
        setting = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
        setting.write_text(str(READ_AHEAD_BYTES // 1024), encoding="ascii")

    def unmount(self) -> None:
        """The kernel then ends every serve()."""
        self._library.umount2(os.fsencode(self._mount_point), MNT_DETACH)

    def serve(self) -> None:
        """Answer until the folder is unmounted; called by as many threads as there are answers at once."""
        room, page = bytearray(65536), memoryview(bytearray(LARGEST_READ_BYTES))
        while True:
            try:
                length = os.readv(self._device, [room])
            except InterruptedError:
                continue
            except OSError as error:
                if error.errno == errno.ENOENT:  # the request was taken back
                    continue
                return
            _, opcode, unique, node, *_ = HEADER.unpack_from(room)
            if opcode in (FORGET, BATCH_FORGET, INTERRUPT):
                continue
            answer: bytes | memoryview = b""
            failed = 0
            try:
                answer = self._answer(opcode, node, bytes(room[HEADER.size : length]), page)
            except OSError as error:
                failed = -(error.errno or errno.EIO)
            os.writev(self._device, [ANSWER.pack(ANSWER.size + len(answer), failed, unique), answer])

    def _answer(self, opcode: int, node: int, body: bytes, page: memoryview) -> bytes | memoryview:
        """The answer's body; `page` is room for what is read."""
        if opcode == INIT:
            major, minor, *_ = struct.unpack_from("<II", body)
            pages, flags = LARGEST_READ_BYTES // 4096, ASYNC_READ | MAX_PAGES
            limits = (READ_AHEAD_BYTES, flags, 64, 48, LARGEST_WRITE_BYTES, 1, pages, 0, 0)
            return struct.pack("<IIIIHHIIHHI28x", major, min(minor, 31), *limits)
        if opcode in (FLUSH, RELEASE, RELEASEDIR, DESTROY):
            return b""
        time.sleep(self._delay_seconds)
        if opcode == LOOKUP:
            return self._entry(self._paths[node] / os.fsdecode(body.rstrip(b"\0")))
        if opcode == GETATTR:
            return struct.pack("<QII", VALID_SECONDS, 0, 0) + self._attributes(node)
        if opcode in (OPEN, OPENDIR):
            return struct.pack("<QII", 0, KEEP_CACHE, 0)
        if opcode == READDIR:
            return self._listing(node, *struct.unpack_from("<QQI", body)[1:])
        if opcode == READ_FILE:
            _, offset, size, *_ = READ.unpack_from(body)
            with self._lock:
                self.requests += 1
                if node not in self._files:
                    self._files[node] = os.open(self._paths[node], os.O_RDONLY | os.O_CLOEXEC)
            return page[: os.preadv(self._files[node], [page[:size]], offset)]
        if opcode == STATFS:
            return struct.pack("<QQQQQIIII24x", 1 << 30, 1 << 29, 1 << 29, 0, 0, 4096, 255, 4096, 0)
        raise OSError(errno.ENOSYS, "not implemented")

    def _node(self, path: Path) -> int:
        with self._lock:
            if path not in self._nodes:
                self._nodes[path] = len(self._paths)
                self._paths.append(path)
            return self._nodes[path]

    def _entry(self, path: Path) -> bytes:
        path.lstat()
        node = self._node(path)
        return struct.pack("<QQQQII", node, 0, VALID_SECONDS, VALID_SECONDS, 0, 0) + self._attributes(node)

    def _attributes(self, node: int) -> bytes:
        found = self._paths[node].stat()
        times = [int(found.st_mtime)] * 3
        blocks = (found.st_size + 511) // 512
        return ATTRIBUTES.pack(
            node, found.st_size, blocks, *times, 0, 0, 0, found.st_mode, 1, os.getuid(), os.getgid(), 0, 4096, 0
        )

    def _listing(self, node: int, offset: int, size: int) -> bytes:
        written = b""
        for place, path in enumerate(sorted(self._paths[node].iterdir()), 1):
            name = os.fsencode(path.name)
            kind = stat.S_IFMT(path.stat().st_mode) >> 12
            entry = struct.pack("<QQII", self._node(path), place, len(name), kind) + name
            entry += b"\0" * (-len(entry) % 8)
            if place > offset:
                if len(written) + len(entry) > size:
                    break
                written += entry
        return written


def main() -> int:
    """Mount, say "mounted" on stdout, serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("mount_point", type=Path)
    parser.add_argument("--milliseconds", type=float, default=3.0, help="per request (%(default)s)")
    parser.add_argument("--threads", type=int, default=64, help="requests answered at once (%(default)s)")
    arguments = parser.parse_args()
    share = SlowShare(arguments.folder.resolve(), arguments.mount_point, arguments.milliseconds / 1000)
    share.mount()
    threads = [threading.Thread(target=share.serve, daemon=True) for _ in range(arguments.threads)]
    signal.signal(signal.SIGTERM, lambda *_: share.unmount())
    for thread in threads:
        thread.start()
    share.read_ahead()
    print("mounted", flush=True)
    for thread in threads:
        while thread.is_alive():
            thread.join(0.2)
    print(share.requests, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

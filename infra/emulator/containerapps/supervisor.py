"""A program of its own between the stand-in and one container's process.

    python -I -S supervisor.py DISK COMMAND ARGUMENTS...

It does what a container host does and a plain child process does not: when the main process has ended, everything that
it started ends too; and when the stand-in is gone, however it died, nothing stays behind. It imports nothing of the
package, so that it starts in a few milliseconds.

Standard input is the line to the stand-in: `terminate` sends SIGTERM to the main process, `kill` SIGKILL to all of
them, and the end of the line means that the stand-in has died, which is `kill` and the end of the replica's DISK. The
first line on standard output is the process id of the main process; what follows is the main process's own output.
Exits as a container does: with the main process's exit code, or 128 + the number of the signal that ended it; 127 when
the command cannot be started.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


def main() -> int:
    """Runs the command in the arguments to its end."""
    disk, *command = sys.argv[1:]
    ended, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    _process_control(_PR_SET_CHILD_SUBREAPER, 1)
    main_process = os.fork()
    if main_process == 0:
        _become(command)
    # By both, as shells do: whoever of the two comes first, the group is there before it is signalled.
    _lead_a_group(main_process)
    code, stand_in_lives = _watch(main_process, ended)
    _end_all()
    if not stand_in_lives:
        import shutil  # rarely needed, and slow to import

        shutil.rmtree(disk, ignore_errors=True)
    return code


def _become(command: list[str]) -> None:
    """Turns this fork into the main process: a process group of its own, nothing on standard input."""
    _lead_a_group(0)
    # Should this supervisor be killed, the kernel ends the main process.
    _process_control(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # Python ignores SIGPIPE, and what is ignored stays so over exec.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.write(1, f"{os.getpid()}\n".encode())
    try:
        os.execvp(command[0], command)  # noqa: S606 (the app's own command is what is to run)
    except OSError as problem:
        os.write(2, f'exec: "{command[0]}": {problem.strerror}\n'.encode())
        os._exit(127)


def _lead_a_group(process: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.setpgid(process, 0)


def _watch(main_process: int, ended: int) -> tuple[int, bool]:
    """Obeys the stand-in until the main process has ended: its exit code as a container shows it, and whether the
    stand-in lives still."""
    line, pending = 0, b""
    sources = [line, ended]
    while True:
        status = _status(main_process)
        if status is not None:
            code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)
            return code, line in sources
        for source in select.select(sources, [], [])[0]:
            data = os.read(source, 4096)
            if source == ended:
                continue
            if not data:
                sources.remove(line)
                _signal_group(main_process, signal.SIGKILL)
            *words, pending = (pending + data).split(b"\n")
            if b"terminate" in words:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(main_process, signal.SIGTERM)
            if b"kill" in words:
                _signal_group(main_process, signal.SIGKILL)


def _status(main_process: int) -> int | None:
    """The wait status of the main process once it has ended; its group has then been ended too."""
    if hasattr(os, "waitid"):
        # WNOWAIT leaves the dead process in place: its id, which is also its group's, is not used anew meanwhile.
        if os.waitid(os.P_PID, main_process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return None
        _signal_group(main_process, signal.SIGKILL)
        return os.waitpid(main_process, 0)[1]
    process, status = os.waitpid(main_process, os.WNOHANG)
    if not process:
        return None
    _signal_group(main_process, signal.SIGKILL)
    return status


def _end_all() -> None:
    """Ends what is left: processes that left the group have come to this one, their subreaper (Linux alone)."""
    while True:
        try:
            with open("/proc/self/task/" + str(os.getpid()) + "/children") as file:  # noqa: PTH123 (a quick start)
                children = [int(child) for child in file.read().split()]
        except OSError:
            return
        if not children:
            return
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        for child in children:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child, 0)


def _signal_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _process_control(option: int, value: int) -> None:
    """prctl(2), which is Linux's own; elsewhere the line on standard input has to do."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main())

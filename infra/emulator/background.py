"""`python -m infra.emulator.background start|stop|tell`: the stand-in of this checkout, running behind the shell.

Its folder is .local: state/ (the cloud), stand-in.json (what it announced), stand-in.log, api-key.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import signal
import ssl
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".local"
STATE, ANNOUNCEMENT, LOG, API_KEY = (FOLDER / name for name in ("state", "stand-in.json", "stand-in.log", "api-key"))
_START_SECONDS, _STOP_SECONDS = 60, 12


def main() -> int:
    """Exit codes: 0 done, 1 it did not start or stop."""
    parser = argparse.ArgumentParser(prog="python -m infra.emulator.background", description=__doc__)
    parser.add_argument("what", choices=["start", "stop", "tell"])
    return {"start": start, "stop": stop, "tell": tell}[parser.parse_args().what]()


def start() -> int:
    """Starts the stand-in unless it runs; returns once it can be called."""
    if running() is not None:
        print("The stand-in for Azure is running.", file=sys.stderr)
        return 0
    FOLDER.mkdir(exist_ok=True)
    print("Starting the stand-in for Azure ...", file=sys.stderr)
    fresh = ANNOUNCEMENT.with_suffix(".new")
    with fresh.open("w") as announcement, LOG.open("a") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "infra.emulator", "--state", str(STATE)],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=announcement,
            stderr=log,
            # A Ctrl-C in the terminal is meant for the verb that runs there, not for the cloud.
            start_new_session=True,
        )
    fresh.chmod(0o600)
    end = time.monotonic() + _START_SECONDS
    while not fresh.read_text().endswith("\n"):
        if process.poll() is not None or time.monotonic() > end:
            print(f"The stand-in for Azure did not start. Its messages: {LOG}", file=sys.stderr)
            print("".join(LOG.read_text().splitlines(keepends=True)[-5:]), file=sys.stderr, end="")
            return 1
        time.sleep(0.05)
    fresh.replace(ANNOUNCEMENT)
    return 0


def stop() -> int:
    """Ends the stand-in and with it the apps that it runs."""
    process_id = running()
    if process_id is None:
        print("The stand-in for Azure is not running.", file=sys.stderr)
        return 0
    os.kill(process_id, signal.SIGTERM)
    end = time.monotonic() + _STOP_SECONDS
    while running() is not None or _exists(process_id):
        if time.monotonic() > end:
            print(f"Process {process_id} did not stop within {_STOP_SECONDS} s. Its messages: {LOG}", file=sys.stderr)
            return 1
        time.sleep(0.05)
    print("The stand-in for Azure and its apps have stopped. Their data stays in .local.", file=sys.stderr)
    return 0


def tell() -> int:
    """Prints where the apps are, how to call them, and how to stop."""
    if running() is None:
        print("The stand-in for Azure is not running: make local", file=sys.stderr)
        return 1
    announcement: dict[str, str] = json.loads(ANNOUNCEMENT.read_text())
    trust = ssl.create_default_context(cafile=announcement["certificate"])
    with urllib.request.urlopen(announcement["resource_manager"] + "/stand-in/apps", context=trust) as response:  # noqa: S310 (the address is the stand-in's own)
        apps: list[dict[str, Any]] = json.load(response)
    certificate, key = (Path(os.path.relpath(path)) for path in (announcement["certificate"], API_KEY))
    for app in apps:
        print(
            f"\nEndpoint  {app['endpoint']}"
            f"\nPage      {app['page']}   (opens with the key: cat {key})"
            f"\nCall      curl --cacert {certificate} {app['endpoint']}/v1/chat/completions \\"
            f'\n            -H "Authorization: Bearer $(cat {key})" -H "Content-Type: application/json" \\'
            '\n            -d \'{"messages": [{"role": "user", "content": "What is a LoRA adapter?"}]}\''
        )
    print("Stop      make local-down")
    return 0


def _exists(process_id: int) -> bool:
    """Whether the process is there still: it gives up the folder a moment before it ends."""
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    return True


def running() -> int | None:
    """The process id of the stand-in that holds the state folder, or None."""
    lock = STATE / "lock"
    if not lock.exists():
        return None
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return int(file.read() or 0) or None
    return None


if __name__ == "__main__":
    sys.exit(main())

"""The stand-in as a process: its announcement, its folder, its end; and the memory that survives all of them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from infra.emulator.store import Store
from tests.conftest import ROOT, RunningStandIn, running_stand_in

GROUP = "/subscriptions/{subscription}/resourcegroups/rg-kept?api-version=2021-04-01"


def _group(stand_in: RunningStandIn, method: str, body: object = None) -> httpx.Response:
    address = stand_in.announcement["resource_manager"] + GROUP.format(**stand_in.announcement)
    headers = {"Authorization": f"Bearer {stand_in.token()}"}
    return httpx.request(method, address, json=body, headers=headers, verify=stand_in.trust, timeout=60)


def test_the_announcement_is_one_line_with_all_that_a_client_must_be_told(own_stand_in: RunningStandIn) -> None:
    assert set(own_stand_in.announcement) == {
        "authority",
        "resource_manager",
        "certificate",
        "tenant",
        "subscription",
        "client_id",
        "client_secret",
        "reader_client_id",
        "reader_client_secret",
    }


@pytest.mark.skipif(sys.platform != "linux", reason="where Linux says which ports it gives away")
def test_its_port_is_none_that_the_system_gives_to_outgoing_connections(own_stand_in: RunningStandIn) -> None:
    """Such a port may be taken by anybody between two lives of the stand-in."""
    first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    port = int(own_stand_in.announcement["resource_manager"].rpartition(":")[2])
    assert not first <= port <= last


def test_the_same_folder_brings_the_same_cloud_back_after_a_crash(tmp_path: Path) -> None:
    with running_stand_in(tmp_path / "state") as first:
        assert _group(first, "PUT", {"location": "swedencentral", "tags": {"kept": "yes"}}).status_code == 201
        first.kill()
    with running_stand_in(tmp_path / "state") as second:
        assert second.announcement == first.announcement
        assert _group(second, "GET").json()["tags"] == {"kept": "yes"}


def test_a_second_one_on_the_same_folder_is_refused(own_stand_in: RunningStandIn) -> None:
    command = [sys.executable, "-m", "infra.emulator", "--state", str(own_stand_in.state)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 2
    assert str(own_stand_in.state) in result.stderr
    assert "Traceback" not in result.stderr


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        command = [sys.executable, "-m", "infra.emulator", "--state", str(tmp_path / "state"), "--port", port]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert f"Port {port}" in result.stderr
    assert "Traceback" not in result.stderr


def test_an_interrupt_ends_it_like_a_termination(tmp_path: Path) -> None:
    with running_stand_in(tmp_path / "state") as running:
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(timeout=60) == 0


def test_what_is_not_known_is_said_and_not_invented(stand_in: RunningStandIn) -> None:
    tenant = stand_in.announcement["tenant"]
    for path in ("/stand-in/nothing", f"/{tenant}/oauth2/v2.0/devicecode", "/v1.0/servicePrincipals"):
        answer = httpx.get(stand_in.announcement["authority"] + path, verify=stand_in.trust, timeout=60)
        assert answer.status_code in (404, 501)
        assert answer.headers["content-type"].startswith("application/json")
        assert path.rsplit("/", 1)[1] in answer.text


def test_a_transaction_happens_whole_or_not_at_all(tmp_path: Path) -> None:
    store = Store(tmp_path / "state.db")
    store.put("kind", "a", 1)
    with pytest.raises(ZeroDivisionError), store.transaction():
        store.put("kind", "a", 2)
        with store.transaction():
            store.put("kind", "b", 3)
        _ = 1 / 0
    assert store.items("kind") == [("a", 1)]
    store.close()


def test_the_store_keeps_what_was_written_when_its_process_is_killed(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from infra.emulator.store import Store\n"
        "store = Store(Path(sys.argv[1]))\n"
        "for number in range(1_000_000):\n"
        "    store.put('kind', f'{number:07}', number)\n"
        "    print(number, flush=True)\n"
    )
    path = tmp_path / "state.db"
    process = subprocess.Popen([sys.executable, "-c", program, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    acknowledged = [int(process.stdout.readline()) for _ in range(500)][-1]
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    store = Store(path)
    values = [value for _, value in store.items("kind")]
    assert values[: acknowledged + 1] == list(range(acknowledged + 1))
    store.close()

"""Who brings folders onto a share in tests.bench.sync: the product, azcopy and `az`, each as a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from azure.storage.fileshare import AccountSasPermissions, ResourceTypes, generate_account_sas

from scripts import share as shares
from scripts.file_credentials import AccountKey
from scripts.files import ShareClient
from tests.azcopy import EXECUTABLE as AZCOPY
from tests.azure_cli import ENVIRONMENT as AZURE_CLI
from tests.bench.sync_client import Job
from tests.conftest import ROOT, RunningStandIn
from tests.faults import Switch
from tests.share_on_stand_in import ACCOUNT, RESOURCE_GROUP, clients_of, new_share

SHARE = "bench"


@dataclass(frozen=True)
class Run:
    """What one process took, from its start to its end, and how many requests the share was asked meanwhile.

    memory_mib is the most that it held, looked at twenty times a second; told what the product
    says of itself (sync_client).
    """

    seconds: float
    requests: int
    cpu_seconds: float
    service_cpu_seconds: float
    memory_mib: int
    told: dict[str, Any]


@dataclass(frozen=True)
class Tools:
    """One share on one stand-in, each of whose requests takes the same latency more than the stand-in needs."""

    stand_in: RunningStandIn
    switch: Switch
    folder: Path
    key: str

    @property
    def address(self) -> str:
        return f"{self.stand_in.announcement['resource_manager']}/{ACCOUNT}"

    def product(self, source: Path, folder: str, **options: Any) -> Run:
        """options are those of sync_client.Job."""
        certificate = self.stand_in.announcement["certificate"]
        job = Job(self.address, ACCOUNT, SHARE, self.key, certificate, str(source), folder, **options)
        return self._run([sys.executable, "-m", "tests.bench.sync_client", job.to_argument()], {})

    def azcopy_copy(self, source: Path, folder: str, *options: str) -> Run:
        return self._azcopy("copy", f"{source}/*", folder, *options)

    def azcopy_sync(self, source: Path, folder: str) -> Run:
        return self._azcopy("sync", str(source), folder, "--delete-destination=true")

    def upload_batch(self, source: Path, folder: str) -> Run:
        """`az storage file upload-batch`, as its documentation has it, into a folder that it wants to find there."""
        certificate = Path(self.stand_in.announcement["certificate"])
        with ShareClient(self.address, SHARE, AccountKey(ACCOUNT, self.key), certificate) as share:
            shares.make_folders(share, [folder])
        connection = f"FileEndpoint={self.address};AccountName={ACCOUNT};AccountKey={self.key}"
        command = [str(AZURE_CLI / "bin" / "az"), "storage", "file", "upload-batch", "--no-progress"]
        command += ["--connection-string", connection, "--destination", f"{SHARE}/{folder}", "--source", str(source)]
        told = {
            "REQUESTS_CA_BUNDLE": self.stand_in.announcement["certificate"],
            "AZURE_CONFIG_DIR": str(self.folder / "azure-cli"),
            "AZURE_CORE_COLLECT_TELEMETRY": "no",
        }
        return self._run(command, told)

    def _azcopy(self, verb: str, source: str, folder: str, *options: str) -> Run:
        allowed = AccountSasPermissions(read=True, write=True, delete=True, list=True, create=True)
        tomorrow = datetime.now(timezone.utc) + timedelta(days=1)
        signature = generate_account_sas(ACCOUNT, self.key, ResourceTypes(True, True, True), allowed, tomorrow)
        target = f"{self.address}/{SHARE}/{folder}?{signature}"
        command = [str(AZCOPY), verb, source, target, "--recursive", "--from-to=LocalFileSMB", *options]
        told = {
            "SSL_CERT_FILE": self.stand_in.announcement["certificate"],
            "AZCOPY_LOG_LOCATION": str(self.folder / "azcopy-log"),
            "AZCOPY_JOB_PLAN_LOCATION": str(self.folder / "azcopy-plan"),
            "AZCOPY_DISABLE_SYSLOG": "true",
        }
        return self._run(command, told)

    def _run(self, command: list[str], told: dict[str, str]) -> Run:
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.folder), **told}
        met, service_cpu = self._met(), self._service_cpu_seconds()
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as messages:
            begun = time.perf_counter()
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=messages)
            memory = _Memory(process.pid)
            # wait4 tells what this one process took, children of its own included.
            _, status, used = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - begun
            memory.join()
            process.returncode = os.waitstatus_to_exitcode(status)
            output.seek(0)
            messages.seek(0)
            text = output.read().decode()
            if process.returncode:
                raise RuntimeError(f"{command[0]} ended with {process.returncode}:\n{text}{messages.read().decode()}")
        return Run(
            seconds=round(seconds, 2),
            requests=self._met() - met,
            cpu_seconds=round(used.ru_utime + used.ru_stime, 2),
            service_cpu_seconds=round(self._service_cpu_seconds() - service_cpu, 2),
            memory_mib=memory.most_mib,
            told=json.loads(text) if text.startswith("{") else {},
        )

    def _met(self) -> int:
        return sum(int(rule["met"]) for rule in self.switch.rules())

    def _service_cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.stand_in.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class _Memory(threading.Thread):
    """Looks at the most that a process has held, until it ends. (What wait4 tells begins with its parent's.)"""

    def __init__(self, process: int) -> None:
        super().__init__(daemon=True)
        self.most_mib = 0
        self._status = Path(f"/proc/{process}/status")
        self.start()

    def run(self) -> None:
        while True:
            try:
                lines = self._status.read_text().splitlines()
            except (FileNotFoundError, ProcessLookupError):
                return
            for line in lines:
                if line.startswith("VmHWM:"):
                    self.most_mib = int(line.split()[1]) // 1024
            time.sleep(0.05)


@contextlib.contextmanager
def tools(stand_in: RunningStandIn, folder: Path, latency_seconds: float) -> Iterator[Tools]:
    """A new share, every request to which takes so long at least while the block runs."""
    switch = Switch(stand_in)
    with new_share(stand_in, SHARE), clients_of(stand_in, RESOURCE_GROUP) as clients:
        key = clients.account_key(ACCOUNT)
        with switch.on({"fault": "latency", "seconds": latency_seconds, "service": "files"}):
            yield Tools(stand_in, switch, folder, key)

"""The real azcopy against the stand-in: where it is, what it is told, how it is run."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.conftest import ROOT, RunningStandIn

EXECUTABLE = ROOT / ".local/azcopy/node_modules/@azure-tools/azcopy-linux/dist/bin/azcopy_linux_amd64"


@dataclass(frozen=True)
class AzCopy:
    """`environment` holds what azcopy is told beyond its arguments."""

    stand_in: RunningStandIn
    environment: dict[str, str]

    def __call__(self, *arguments: str) -> dict[str, str]:
        """The counts that azcopy prints at the end of a job that it calls completed."""
        done = self.run(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        counts = dict(line.split(": ", 1) for line in done.stdout.splitlines() if ": " in line)
        assert counts["Final Job Status"] == "Completed", done.stdout
        return counts

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The process as it ended."""
        # A login's token goes to Azure's own hosts only, and to the ones named here.
        host = httpx.URL(self.stand_in.announcement["resource_manager"]).netloc.decode()
        trusted = f"--trusted-microsoft-suffixes={host}"
        return subprocess.run(
            [str(EXECUTABLE), *arguments, trusted], env=self.environment, capture_output=True, text=True, timeout=280
        )


def azcopy(stand_in: RunningStandIn, folder: Path, **told: str) -> AzCopy:
    """Keeps its logs and plans in `folder`."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "SSL_CERT_FILE": stand_in.announcement["certificate"],
        "AZCOPY_LOG_LOCATION": str(folder / "log"),
        "AZCOPY_JOB_PLAN_LOCATION": str(folder / "plan"),
        "AZCOPY_DISABLE_SYSLOG": "true",
    }
    return AzCopy(stand_in, environment | told)

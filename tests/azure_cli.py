"""The real Azure CLI against the stand-in: its own environment (`make peers`), its own configuration."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, RunningStandIn

ENVIRONMENT = ROOT / ".local" / "azure-cli"


@dataclass(frozen=True)
class Result:
    """What a command printed, and how it ended."""

    exit_code: int
    stdout: str
    stderr: str


@dataclass
class AzureCli:
    """Commands of one signed-in person. `told` is all that the CLI knows of the stand-in, besides what it is asked."""

    told: dict[str, str]
    driver: subprocess.Popen[str]
    commands: list[str] = field(default_factory=list)

    def run(self, words: str, *arguments: str) -> Result:
        """`words` are split at blanks; `arguments` follow them as they are."""
        command = [*words.split(), *arguments]
        assert self.driver.stdin is not None and self.driver.stdout is not None
        self.driver.stdin.write(json.dumps(command) + "\n")
        self.driver.stdin.flush()
        line = self.driver.stdout.readline()
        assert line, f"the driver ended in: az {' '.join(command)}"
        self.commands.append(words)
        return Result(**json.loads(line))

    def text(self, words: str, *arguments: str) -> str:
        """What a command that succeeds prints."""
        result = self.run(words, *arguments)
        assert result.exit_code == 0, f"az {words}\n{result.stderr}"
        return result.stdout

    def json(self, words: str, *arguments: str) -> Any:
        """The JSON that a command that succeeds prints."""
        return json.loads(self.text(words, *arguments))

    def refused(self, words: str, *arguments: str, exit_code: int = 1) -> str:
        """The messages of a command that fails; it prints nothing else."""
        result = self.run(words, *arguments)
        assert (result.exit_code, result.stdout) == (exit_code, ""), f"az {words}\n{result}"
        return result.stderr

    def executable(self, *arguments: str) -> str:
        """What the command `az` prints that a person types."""
        done = subprocess.run(
            [str(ENVIRONMENT / "bin" / "az"), *arguments],
            env=self.told,
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        self.commands.append(" ".join(arguments))
        return done.stdout


@contextlib.contextmanager
def azure_cli(stand_in: RunningStandIn, folder: Path) -> Iterator[AzureCli]:
    """Not yet told of the stand-in but for its certificate. Skips the test when the CLI is not installed."""
    python = ENVIRONMENT / "bin" / "python"
    if not python.exists():
        pytest.skip("the Azure CLI is not in .local/azure-cli: `make peers` installs it")
    certificate = stand_in.announcement["certificate"]
    told = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "AZURE_CONFIG_DIR": str(folder / "azure"),
        "AZURE_CORE_COLLECT_TELEMETRY": "false",
        "REQUESTS_CA_BUNDLE": certificate,
        # The library by which `az containerapp exec` opens a web socket has a name of its own for it.
        "WEBSOCKET_CLIENT_CA_BUNDLE": certificate,
    }
    driver = subprocess.Popen(
        [str(python), str(ROOT / "tests" / "azure_cli_driver.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=told,
    )
    assert driver.stdin is not None and driver.stdout is not None
    try:
        yield AzureCli(told, driver)
    finally:
        driver.stdin.close()
        driver.wait(60)
        driver.stdout.close()

"""What one container's process gets on this machine: its command, its environment, its folders.

The image is not run: the command is, with the programs of this machine (first on PATH is the Python that runs the
stand-in). A mount path becomes the share's local folder wherever it stands in the command, the arguments or a value of
the environment; a mount's access mode is not enforced. The process is told to listen on loopback and on a port of its
own: PORT, HOST, and every variable *PORT that names the target port.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_LOOPBACK = "127.0.0.1"
_ANY_ADDRESS = re.compile(r"(?<![\d.])0\.0\.0\.0(?![\d.])")
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# A folder that may stand in a shell's text without quotes.
_PLAIN_PATH = re.compile(r"[A-Za-z0-9_@%+=:,./-]+")


NO_ROOM = "AssigningReplicaFailed"
"""The reason of a replica for which the quotas leave no room."""


class CannotStart(Exception):
    """The container cannot be started; the text says why, as the app's events will."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Names:
    """How the platform calls what is started."""

    app: str
    revision: str
    replica: str
    domain: str


@dataclass(frozen=True)
class Launch:
    """Everything that is needed to start the process."""

    command: tuple[str, ...]
    environment: dict[str, str]
    folder: Path


def make_scratch() -> Path:
    """The replica's own disk: short-lived, and with a short path, since sockets are made in it."""
    return Path(tempfile.mkdtemp(prefix="inferops-"))


def remove_scratch(folder: Path) -> None:
    """Forgets the replica's disk; what is mounted in it is a link and stays."""
    shutil.rmtree(folder, ignore_errors=True)


def plan(
    names: Names,
    container: Mapping[str, Any],
    volumes: Sequence[Mapping[str, Any]],
    secrets: Mapping[str, str],
    share_folder: Callable[[str], Path],
    *,
    target_port: int | None,
    port: int,
    scratch: Path,
) -> Launch:
    """How to start `container` on `port`. `share_folder` gives the local folder of a storage by its name.

    Raises CannotStart for a mount that fails and for a container that gives no command.
    """
    mounts = _mounts(container, volumes, secrets, share_folder, scratch)
    words = [*(container.get("command") or []), *(container.get("args") or [])]
    if not container.get("command"):
        raise CannotStart(
            "ImageNotRun",
            f"The local stand-in for Azure runs commands, not images: container '{container['name']}' gives no command,"
            f" and what '{container.get('image')}' would run is not known here.",
        )
    command = tuple(_ANY_ADDRESS.sub(_LOOPBACK, _replace_mounts(word, mounts)) for word in words)
    home, temporary = scratch / "home", scratch / "tmp"
    for folder in (home, temporary):
        # With its parents: what cleans the machine's temporary folder may have taken the replica's disk away.
        folder.mkdir(parents=True, exist_ok=True)
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{_SYSTEM_PATH}",
        "HOME": str(home),
        "TMPDIR": str(temporary),
        "LANG": "C.UTF-8",
        "HOSTNAME": names.replica,
        "CONTAINER_APP_NAME": names.app,
        "CONTAINER_APP_REVISION": names.revision,
        "CONTAINER_APP_REPLICA_NAME": names.replica,
        "CONTAINER_APP_HOSTNAME": f"{names.revision}.{names.domain}",
        "CONTAINER_APP_ENV_DNS_SUFFIX": names.domain,
        "CONTAINER_APP_PORT": str(port),
    }
    for variable in container.get("env") or []:
        value = secrets[variable["secretRef"]] if variable.get("secretRef") else variable.get("value") or ""
        if variable["name"].endswith("PORT") and value == str(target_port):
            value = str(port)
        elif not variable.get("secretRef"):
            value = _ANY_ADDRESS.sub(_LOOPBACK, _replace_mounts(value, mounts))
        environment[variable["name"]] = value
    environment |= {"PORT": str(port), "HOST": _LOOPBACK}
    return Launch(command, environment, home)


def _mounts(
    container: Mapping[str, Any],
    volumes: Sequence[Mapping[str, Any]],
    secrets: Mapping[str, str],
    share_folder: Callable[[str], Path],
    scratch: Path,
) -> dict[str, str]:
    """Local folder by mount path."""
    by_name = {volume["name"]: volume for volume in volumes}
    mounts: dict[str, str] = {}
    for number, mount in enumerate(container.get("volumeMounts") or []):
        volume = by_name[mount["volumeName"]]
        kind = volume.get("storageType") or "EmptyDir"
        if kind == "AzureFile":
            folder = share_folder(volume["storageName"])
        else:
            folder = scratch / "volumes" / volume["name"]
            folder.mkdir(parents=True, exist_ok=True)
            if kind == "Secret":
                _write_secrets(folder, volume, secrets)
        if mount.get("subPath"):
            folder = folder / mount["subPath"].strip("/")
            folder.mkdir(parents=True, exist_ok=True)
        folder = folder.resolve()
        if not _PLAIN_PATH.fullmatch(str(folder)):
            link = scratch / f"mount{number}"
            link.unlink(missing_ok=True)
            link.symlink_to(folder, target_is_directory=True)
            folder = link
        mounts[_absolute(mount["mountPath"])] = str(folder)
    return mounts


def _absolute(mount_path: str) -> str:
    """`mnt/data/` -> `/mnt/data`: the service takes both."""
    return "/" + mount_path.strip("/")


def _write_secrets(folder: Path, volume: Mapping[str, Any], secrets: Mapping[str, str]) -> None:
    """A file per secret: those that the volume names, or all of them."""
    items = volume.get("secrets") or [{"secretRef": name} for name in secrets]
    for item in items:
        path = folder / (item.get("path") or item["secretRef"])
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets[item["secretRef"]])


def _replace_mounts(text: str, mounts: Mapping[str, str]) -> str:
    """`text` with every mount path as a whole path, or the beginning of one, replaced by its local folder."""
    if not mounts:
        return text
    longest_first = sorted(mounts, key=len, reverse=True)
    pattern = r"(?<![\w./~$}-])(" + "|".join(re.escape(path) for path in longest_first) + r")(?![\w.-])"
    return re.sub(pattern, lambda match: mounts[match[1]], text)

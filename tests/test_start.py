"""start.sh itself, in real Python environments: the same lock starts at once, another one is installed first."""

from __future__ import annotations

import base64
import ensurepip
import hashlib
import os
import shutil
import socket
import subprocess
import sysconfig
import tempfile
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from infra.emulator.ports import free as free_port
from tests.fixtures_inference import INFERENCE, KEY

PACKAGE = "inferops-test-package"


@dataclass(frozen=True)
class Replica:
    """A release folder and a Python environment of its own, with this suite's packages to run serve.py."""

    release: Path
    prefix: Path
    path: str
    """PATH of the container."""

    @property
    def lock(self) -> Path:
        return self.release / "requirements" / "inference.txt"

    @property
    def installed_lock(self) -> Path:
        return self.prefix / "inference.txt"

    @property
    def own_packages(self) -> Path:
        return Path(sysconfig.get_path("purelib", vars={"base": str(self.prefix)}))

    def start(self, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run start.sh to its end. No model is named, so that serve.py ends at once with 2."""
        with self.begin(**variables) as started:
            output, told = started.communicate(timeout=120)
        return subprocess.CompletedProcess(started.args, started.returncode, output, told)

    def begin(self, **variables: str) -> subprocess.Popen[str]:
        """Run start.sh as the container's command does."""
        environment = {"PATH": self.path, "HOME": str(self.prefix), "PORT": str(free_port()), "HOST": "127.0.0.1"}
        command = ["/bin/sh", str(self.release / "inference" / "start.sh")]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd="/", env=environment | variables, stdout=pipe, stderr=pipe, text=True)

    def has_package(self) -> bool:
        code = "import inferops_test_package as p; print(p.ANSWER)"
        ran = subprocess.run([self.prefix / "bin" / "python", "-c", code], capture_output=True, text=True)
        return ran.stdout == "42\n"


@pytest.fixture
def replica(tmp_path: Path) -> Replica:
    release = tmp_path / "share with space" / "releases" / "0123abcd"
    shutil.copytree(INFERENCE, release / "inference", ignore=shutil.ignore_patterns("__pycache__"))
    (release / "requirements").mkdir()
    (release / "requirements" / "inference.txt").write_text("# nothing is needed\n", encoding="utf-8")
    prefix = tmp_path / "python"
    venv.create(prefix, with_pip=False, symlinks=True)
    made = Replica(release, prefix, f"{prefix}/bin:/usr/bin:/bin")
    (made.own_packages / "suite.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return made


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    """A folder with one wheel, which stands for the package index."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    write_wheel(folder, PACKAGE, {"inferops_test_package.py": "ANSWER = 42\n"})
    return folder


def write_wheel(folder: Path, package: str, sources: dict[str, str]) -> None:
    """Write version 1.0 of a package with these modules."""
    name = package.replace("-", "_")
    files = {path: source.encode() for path, source in sources.items()}
    files |= {
        f"{name}-1.0.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n".encode(),
        f"{name}-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = []
    for path, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        record.append(f"{path},sha256={digest},{len(content)}")
    record.append(f"{name}-1.0.dist-info/RECORD,,")
    files[f"{name}-1.0.dist-info/RECORD"] = "\n".join(record).encode()
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        for path, content in files.items():
            wheel.writestr(path, content)


def lock_text(wheels: Path, digest: str | None = None, package: str = PACKAGE) -> str:
    wheel = wheels / f"{package.replace('-', '_')}-1.0-py3-none-any.whl"
    digest = digest or hashlib.sha256(wheel.read_bytes()).hexdigest()
    return f"{package}==1.0 \\\n    --hash=sha256:{digest}\n"


def with_installer(replica: Replica, installer: str, wheels: Path) -> Replica:
    """The same environment with uv beside its python; or with pip inside it and no uv, which is in the index."""
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not on PATH")
    if installer == "uv":
        tools = wheels.with_name("tools")
        tools.mkdir()
        (tools / "uv").write_text(f'#!/bin/sh\nexec "{uv}" "$@"\n', encoding="utf-8")
        (tools / "uv").chmod(0o755)
        return Replica(replica.release, replica.prefix, f"{tools}:{replica.path}")
    # The wheel that Python brings along is a zip that Python imports from: quicker than to unpack it for each test.
    bundled = next((Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl"), None)
    if bundled is None:
        pytest.skip("this Python brings no pip along")
    (replica.own_packages / "pip.pth").write_text(f"{bundled}\n", encoding="utf-8")
    module = f"import os, sys\nos.execv({uv!r}, [{uv!r}, *sys.argv[1:]])\n"
    write_wheel(wheels, "uv", {"uv/__init__.py": "", "uv/__main__.py": module})
    replica.lock.with_name("uv.txt").write_text(lock_text(wheels, package="uv"), encoding="utf-8")
    return replica


def index(wheels: Path) -> dict[str, str]:
    """Both installers look for packages in the folder alone."""
    return {"UV_FIND_LINKS": str(wheels), "UV_OFFLINE": "1", "PIP_FIND_LINKS": str(wheels), "PIP_NO_INDEX": "1"}


def test_the_same_lock_starts_at_once(replica: Replica) -> None:
    shutil.copy(replica.lock, replica.installed_lock)
    ran = replica.start(INFERENCE_API_KEY=KEY, INFERENCE_INSTALL_SECONDS="99")
    assert "are the release's: nothing to install" in ran.stderr
    # serve.py ran, from the release, and looked for its release.json there.
    assert f"{replica.release}/release.json cannot be read" in ran.stderr
    assert "1 problem" in ran.stderr
    assert ran.returncode == 2
    assert not list(replica.release.rglob("__pycache__")), "a release is never changed"


def test_what_is_installed_is_compiled_once_and_a_release_never(replica: Replica) -> None:
    """Without its compiled file every start compiles an installed module anew: of torch and Gradio seven seconds."""
    shutil.copy(replica.lock, replica.installed_lock)
    (replica.own_packages / "installed_module.py").touch()
    (replica.release / "inference" / "serve.py").write_text("import pace\nimport installed_module\n", encoding="utf-8")
    assert replica.start().returncode == 0
    assert list((replica.own_packages / "__pycache__").glob("installed_module.*.pyc"))
    assert not list(replica.release.rglob("__pycache__"))


@pytest.mark.parametrize("installer", ["uv", "pip"])
def test_another_lock_is_installed_first(replica: Replica, wheels: Path, installer: str) -> None:
    replica = with_installer(replica, installer, wheels)
    replica.lock.write_text(lock_text(wheels), encoding="utf-8")
    replica.installed_lock.write_text("# the lock of an older release\n", encoding="utf-8")
    ran = replica.start(INFERENCE_API_KEY=KEY, **index(wheels))
    assert "are not the release's: installing from the lock (1 entries)" in ran.stderr
    assert "dependencies installed in " in ran.stderr
    assert replica.has_package()
    assert replica.installed_lock.read_text(encoding="utf-8") == lock_text(wheels)
    assert "release.json cannot be read" in ran.stderr
    assert ran.returncode == 2

    again = replica.start(INFERENCE_API_KEY=KEY, **index(wheels))
    assert "nothing to install" in again.stderr


def test_a_package_with_another_hash_is_refused(replica: Replica, wheels: Path) -> None:
    replica = with_installer(replica, "uv", wheels)
    replica.lock.write_text(lock_text(wheels, digest="0" * 64), encoding="utf-8")
    replica.installed_lock.write_text("# the lock of an older release\n", encoding="utf-8")
    ran = replica.start(INFERENCE_API_KEY=KEY, **index(wheels))
    assert ran.returncode == 1
    assert "ERROR start: the dependencies could not be installed: the lines above say why" in ran.stderr
    assert not replica.has_package()
    assert not replica.installed_lock.exists(), "what may be half installed is no release's: the next start tries again"
    assert "serve" not in ran.stderr.splitlines()[-1]


def test_uv_with_another_hash_is_refused(replica: Replica, wheels: Path) -> None:
    replica = with_installer(replica, "pip", wheels)
    replica.lock.write_text(lock_text(wheels), encoding="utf-8")
    replica.lock.with_name("uv.txt").write_text(lock_text(wheels, digest="0" * 64, package="uv"), encoding="utf-8")
    ran = replica.start(INFERENCE_API_KEY=KEY, **index(wheels))
    assert ran.returncode == 1
    assert "THESE PACKAGES DO NOT MATCH THE HASHES" in ran.stderr
    assert "the dependencies could not be installed: the lines above say why" in ran.stderr
    assert not replica.has_package()


def test_an_installation_ends_when_told_to_stop(replica: Replica, wheels: Path) -> None:
    """As process 1 of its container the script would not hear SIGTERM otherwise, and be killed after a minute."""
    replica = with_installer(replica, "uv", wheels)
    replica.lock.write_text(lock_text(wheels), encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        slow = {"UV_DEFAULT_INDEX": f"http://127.0.0.1:{silent.getsockname()[1]}/simple", "UV_HTTP_TIMEOUT": "600"}
        with replica.begin(INFERENCE_API_KEY=KEY, **slow) as started:
            asking, _ = silent.accept()
            started.terminate()
            _, told = started.communicate(timeout=60)
            with asking:
                asking.settimeout(60)
                while asking.recv(4096):
                    """The request for the package; nothing answers it. The end of uv ends it."""
    assert started.returncode == 143
    assert "INFO start: told to stop: ending" in told
    assert not replica.installed_lock.exists()


def test_a_request_to_stop_is_heard_before_the_server_is_imported(replica: Replica) -> None:
    """143 says that it was heard: process 1 of a container does not end by a signal that nothing hears."""
    shutil.copy(replica.lock, replica.installed_lock)
    importing = "import signal\nprint('importing', flush=True)\nsignal.pause()\n"
    (replica.release / "inference" / "serve.py").write_text(importing, encoding="utf-8")
    with replica.begin() as started:
        assert started.stdout is not None
        assert started.stdout.readline() == "importing\n"
        started.terminate()
        started.communicate(timeout=60)
    assert started.returncode == 143


def test_quantization_on_a_gpu_needs_more(replica: Replica, wheels: Path) -> None:
    replica = with_installer(replica, "uv", wheels)
    shutil.copy(replica.lock, replica.installed_lock)
    more = replica.lock.with_name("quantization.txt")
    asked = {"INFERENCE_API_KEY": KEY, "INFERENCE_QUANTIZATION": "int8"} | index(wheels)
    on_cpu = replica.start(INFERENCE_DEVICE="cpu", **asked)
    assert on_cpu.returncode == 2, "serve.py began, for on a CPU nothing more is needed"
    lacking = replica.start(INFERENCE_DEVICE="cuda", **asked)
    assert lacking.returncode == 1
    assert f"the release has no {more}: deploy again" in lacking.stderr
    more.write_text(lock_text(wheels), encoding="utf-8")
    installed = replica.start(INFERENCE_DEVICE="cuda", **asked)
    assert "the dependencies of quantization in " in installed.stderr
    assert installed.returncode == 2
    assert replica.has_package()
    assert (replica.prefix / "quantization.txt").read_text(encoding="utf-8") == lock_text(wheels)
    again = replica.start(INFERENCE_DEVICE="cuda", **asked)
    assert again.stderr.count("nothing to install") == 2


def test_the_wait_for_a_release_is_told(replica: Replica) -> None:
    """As in the container: a command that waits, and then becomes start.sh."""
    if not Path("/proc/uptime").exists():
        pytest.skip("this system does not tell how old a process is")
    shutil.copy(replica.lock, replica.installed_lock)
    told = replica.prefix / "told"
    (replica.release / "inference" / "serve.py").write_text(
        f"import os\nopen({str(told)!r}, 'w').write(os.environ['INFERENCE_WAIT_SECONDS'])\n", encoding="utf-8"
    )
    waiting = f'sleep 2; exec /bin/sh "{replica.release}/inference/start.sh"'
    subprocess.run(["/bin/sh", "-c", waiting], env={"PATH": replica.path}, check=True, capture_output=True, timeout=60)
    assert int(told.read_text()) >= 2


def test_a_release_without_its_lock(replica: Replica) -> None:
    replica.lock.unlink()
    ran = replica.start()
    assert ran.returncode == 1
    assert f"the release has no {replica.lock}: deploy again" in ran.stderr


def test_an_image_without_python(replica: Replica, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("dirname", "date"):
        (tools / tool).symlink_to(shutil.which(tool) or "")
    ran = Replica(replica.release, replica.prefix, str(tools)).start()
    assert ran.returncode == 1
    assert "there is no python on PATH" in ran.stderr


SYSTEM_PYTHON = Path("/usr/bin/python3")


@pytest.mark.skipif(not SYSTEM_PYTHON.exists(), reason=f"there is no {SYSTEM_PYTHON}, which belongs to the system")
def test_an_environment_that_may_not_be_written(replica: Replica) -> None:
    """A user without rights and the system's own Python: nothing is tried."""
    nobody = 65534 if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory() as folder:
        # pytest's own folders cannot be entered by another user.
        release = shutil.copytree(replica.release, Path(folder) / "release")
        Path(folder).chmod(0o755)
        command = ["/bin/sh", str(release / "inference" / "start.sh")]
        ran = subprocess.run(
            command,
            env={"PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=60,
            user=nobody,
            group=nobody,
        )
    assert ran.returncode == 1
    assert "may not write there: use an image that was built from this lock" in ran.stderr

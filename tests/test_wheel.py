"""What users install: one wheel with one import name, which works with nothing but its own dependencies."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tunnel import distribution
from tunnel.engine import build

ROOT = Path(__file__).parent.parent
LOCK = ROOT / "requirements-dev.lock"

CONFIG = """
[host]
name = "hosta"
listen = "127.0.0.1:16515"
control = "{directory}/control.sock"

[tls]
ca = "pki/ca.pem"
cert = "pki/hosta.pem"
key = "pki/hosta.key"

[[peer]]
name = "hostb"
address = "127.0.0.2:16515"
egress = ["tcp:127.0.0.1:49152-49215"]

[[ingress]]
peer = "hostb"
listen = "tcp:127.0.1.2:49152"
users = ["root"]
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def _run(*command: str | Path, cwd: Path, **added: str) -> str:
    """Run a program outside the checkout, without the caller's environment, and return what it printed."""
    keep = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COV"))}
    done = subprocess.run(
        command, cwd=cwd, env=keep | added, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def _runtime_requirements() -> str:
    """Return the part of the lock file that mtunnel without any extra needs, hashes included."""
    needed, queue = set[str](), [distribution.NAME]
    while queue:
        for text in importlib.metadata.requires(queue.pop()) or ():
            requirement = Requirement(text)
            name = canonicalize_name(requirement.name)
            if name not in needed and (
                requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            ):
                needed.add(name)
                queue.append(name)
    entries = re.split(r"\n(?=[a-z0-9])", LOCK.read_text(), flags=re.IGNORECASE)
    return "\n".join(entry for entry in entries if canonicalize_name(entry.split("==")[0]) in needed) + "\n"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the files that are under version control: a stray file must not help."""
    source = tmp_path_factory.mktemp("source")
    listed = _run("git", "-c", "safe.directory=*", "ls-files", "-z", cwd=ROOT)
    for name in filter(None, listed.split("\0")):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, source / name)
    return source


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as everybody builds it."""
    return _wheel(source, tmp_path_factory.mktemp("wheel"))


def _wheel(source: Path, out: Path, **environment: str) -> Path:
    options = ("--no-deps", "--no-build-isolation", "--wheel-dir")
    _run(sys.executable, "-m", "pip", "wheel", *options, out, source, cwd=out, **environment)
    (built,) = out.iterdir()
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel into an empty environment of its own; return the folder of its programs."""
    home = tmp_path_factory.mktemp("installed")
    requirements = home / "requirements.txt"
    requirements.write_text(_runtime_requirements())
    _run(sys.executable, "-m", "venv", home / "venv", cwd=home)
    pip = (home / "venv/bin/python", "-m", "pip", "install")
    _run(*pip, "--require-hashes", "-r", requirements, cwd=home)
    _run(*pip, "--no-deps", wheel, cwd=home)
    _run(home / "venv/bin/python", "-m", "pip", "check", cwd=home)
    return home / "venv/bin"


def test_the_wheel_adds_one_import_name(wheel: Path) -> None:
    top_level = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {name for name in top_level if not name.endswith(".dist-info")} == {"tunnel"}


def test_the_wheel_has_every_module_and_no_test(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".py")}
    folders = {"tunnel": "tunnel", "cli": "tunnel/cli", "certs": "tunnel/certs", "bench": "tunnel/bench"}
    listed = _run("git", "-c", "safe.directory=*", "ls-files", "*.py", cwd=ROOT).split()
    sources = [name.split("/", 1) for name in listed if name.split("/")[0] in folders]
    assert names == {f"{folders[folder]}/{rest}" for folder, rest in sources}


def test_the_wheel_has_what_is_read_at_run_time(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    others = {name for name in names if not name.endswith(".py") and ".dist-info/" not in name}
    assert {"tunnel/py.typed", "tunnel/wire/SPEC.md"} <= others
    assert {Path(name).suffix for name in others if name.startswith("tunnel/proof/")} == {".asm", ".bin"}


def test_the_wheel_has_the_engine_and_its_sources(wheel: Path) -> None:
    names = {name.partition("tunnel/engine/")[2] for name in zipfile.ZipFile(wheel).namelist()}
    assert {build.file_name(), "engine.h", "ciphers.c", "records.c", "transfer.c"} <= names
    assert len([name for name in names if ".so" in name]) == 1
    assert wheel.name.split("-")[2:4] == ["py3", "none"]
    assert wheel.stem.endswith(f"_{platform.machine()}")


def test_the_engine_of_an_installation_is_loaded(installed: Path, tmp_path: Path) -> None:
    code = "from tunnel.engine import binding, build; binding.load(build.HERE / build.file_name())"
    _run(installed / "python", "-P", "-c", code, cwd=tmp_path)


def test_an_installation_without_a_compiler_does_without(source: Path, tmp_path: Path) -> None:
    wheel = _wheel(source, tmp_path, CC="/nonexistent/cc")
    names = zipfile.ZipFile(wheel).namelist()
    assert "tunnel/engine/records.c" in names
    assert not [name for name in names if ".so" in name]


def test_the_command_runs_with_nothing_else_installed(installed: Path, tmp_path: Path) -> None:
    assert "Usage: mtunnel" in _run(installed / "mtunnel", "--help", cwd=tmp_path)


def test_a_new_user_gets_from_certificates_to_a_valid_configuration(installed: Path, tmp_path: Path) -> None:
    mtunnel = installed / "mtunnel"
    _run(mtunnel, "certs", "init", "pki", cwd=tmp_path)
    _run(mtunnel, "certs", "issue", "pki", "hosta", cwd=tmp_path)
    config = tmp_path / "hosta.toml"
    config.write_text(CONFIG.format(directory=tmp_path))
    assert "hosta" in _run(mtunnel, "check", "--config", config, cwd=tmp_path)


IMPORT_ALL = """
import importlib, pkgutil, tunnel
for module in pkgutil.walk_packages(tunnel.__path__, "tunnel.", onerror=lambda name: None):
    try:
        module.name.endswith("__main__") or importlib.import_module(module.name)
        print(module.name)
    except ModuleNotFoundError as error:
        print(module.name, error.name.split(".")[0])
"""


def test_only_an_extras_own_modules_need_it(installed: Path, tmp_path: Path) -> None:
    lines = _run(installed / "python", "-P", "-c", IMPORT_ALL, cwd=tmp_path).splitlines()
    lacking = {module: missing for module, _, missing in (line.partition(" ") for line in lines) if missing}
    assert set(lacking.values()) <= {"qemu", "libvirt", "psutil", "pyroute2", "iperf3", "aiofastnet"}
    assert {module.split(".")[1] for module in lacking} <= {"virt", "bench", "cli"}
    assert not lacking.keys() & {
        "tunnel.cli.main",
        "tunnel.cli.serve",
        "tunnel.cli.check",
        "tunnel.cli.certs",
    }


def test_an_editable_install_works_outside_the_checkout(tmp_path: Path) -> None:
    code = "import tunnel.cli, tunnel.certs, tunnel.bench; print(*tunnel.cli.__path__)"
    (folder,) = _run(sys.executable, "-P", "-c", code, cwd=tmp_path).split()
    assert Path(folder) == ROOT / "cli"

"""README's installation commands, run with other directories, install every command that README shows."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from textwrap import dedent

import pytest

from tunnel.cli.main import SUBCOMMANDS

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(400)]

ROOT = Path(__file__).parents[2]
INSTALLATION = dedent(
    next(block for block in re.findall(r"(?:^    .*\n)+", (ROOT / "README.md").read_text(), re.MULTILINE)
         if "apt-get" in block)
)  # fmt: skip
PATH = "/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"


def run(command: str, cwd: Path, path: str = PATH) -> str:
    done = subprocess.run(
        ["sh", "-e", "-c", command],
        cwd=cwd,
        env={"PATH": path, "HOME": "/root", "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the result of README's first step; apt-get is simulated: ./run has the packages."""
    home = tmp_path_factory.mktemp("readme")
    checkout = home / "checkout"
    for name in run("git -c safe.directory='*' ls-files -z", ROOT).split("\0")[:-1]:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, checkout / name)
    (home / "bin").mkdir()
    commands = INSTALLATION.replace("apt-get install", "apt-get install --simulate")
    for inside, outside in (("/opt", home / "opt"), ("/usr/local/bin", home / "bin"), ("/etc", home / "etc")):
        assert inside in commands
        commands = commands.replace(inside, str(outside))
    run(commands, checkout)
    return home


def test_all_subcommands_are_installed(home: Path) -> None:
    assert (home / "etc/mtunnel").is_dir()
    for command in SUBCOMMANDS:
        assert f"Usage: mtunnel {command}" in run(f"{home}/bin/mtunnel {command} --help", home)


def test_hypervisors_can_be_controlled(home: Path) -> None:
    """``migrate`` imports these two; ``run`` has installed python3-libvirt where this test runs."""
    run(f"{home}/opt/mtunnel/bin/python -c 'import libvirt, qemu.qmp'", home)


def test_the_demo_moves_a_guest(home: Path) -> None:
    assert '"verified": true' in run(f"{home}/bin/mtunnel demo --memory 64MiB --json", home)

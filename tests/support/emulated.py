"""A Debian kernel in an emulated machine, with this checkout in it: for tests that need kernel TLS.

The machine has only an initramfs: an archive of Python, the installed packages and the checkout, each file
under its path here. Its init (``emulated_init``) is a Python program, so hardly anything else is needed.
Booting and imports take 20 to 30 seconds before the first test; so a machine runs pytest more than once, and
imports once. Encryption is about 70 times slower than on hardware.
"""

from __future__ import annotations

import functools
import json
import lzma
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support.archive import Archive

PYTHON = Path(sys.executable).resolve()
ROOT = Path(__file__).parent.parent.parent
KERNEL = ROOT / ".build" / "kernel"
MODULES = (
    *("tls", "aesni-intel", "ghash-clmulni-intel", "gcm", "ghash-generic", "ctr"),
    *("chacha20poly1305", "chacha_generic", "poly1305_generic"),
    "tcp_diag",
)
NEEDLESS = (
    "mypy",
    "mypyc",
    "pip",
    "setuptools",
    "uv",
    "ruff",
    "pyroute2",
    "libvirtmod",
    "libvirtmod_lxc",
    "libvirtmod_qemu",
    "hypothesis",
    "coverage",
    "pytest_cov",
)
PROGRAMS = ("setpriv",)
LIBRARY = re.compile(r"=> (/\S+)|^\s+(/\S+) \(0x", re.MULTILINE)
DEPENDS = re.compile(rb"\0depends=([^\0]*)\0")
MEMORY = 1536  # MiB
QUIET = ("-q", "--color=no", "--tb=short", "-p", "no:cacheprovider")


@dataclass(frozen=True, slots=True)
class Run:
    """One run of pytest in a machine. ``modules``: kernel modules to load; ``mtu``: of loopback."""

    arguments: tuple[str, ...]
    modules: tuple[str, ...] = MODULES
    mtu: int = 65536


@dataclass(frozen=True, slots=True)
class Outcome:
    """The exit code and output of pytest; None, and the console output, when it did not run."""

    code: int | None
    output: str


def boot(
    runs: Mapping[str, Run], directory: Path, *, environment: Mapping[str, str], patience: float
) -> dict[str, Outcome]:
    """Boot a machine, run pytest for each of ``runs``, and power off, within ``patience`` seconds.

    Modules are loaded by the first run that needs them, and stay: a run without modules must be first.
    """
    console = directory / "console"
    initrd = directory / "initrd"
    plan = {
        "runs": {
            name: {
                "pytest": (*QUIET, *run.arguments),
                "modules": [f"/{_plain_name(path)}" for path in _with_dependencies(run.modules)],
                "mtu": run.mtu,
            }
            for name, run in runs.items()
        },
        "environment": dict(environment),
        "root": str(ROOT),
    }
    _write(initrd, plan, {module for run in runs.values() for module in run.modules})
    command = [
        *(_program("qemu-system-x86_64"), "-accel", "tcg,thread=multi", "-smp", "2", "-cpu", "max"),
        *("-m", str(MEMORY), "-display", "none", "-vga", "none", "-nodefaults", "-no-reboot"),
        *("-serial", f"file:{console}", "-kernel", str(_image()), "-initrd", str(initrd)),
        *("-append", "console=ttyS0 panic=-1 quiet"),
    ]
    trouble = ""
    try:
        subprocess.run(command, check=True, timeout=patience, capture_output=True, text=True)
    except subprocess.TimeoutExpired:
        trouble = f"(timed out after {patience:.0f} s)"
    except subprocess.CalledProcessError as error:
        trouble = error.stderr
    output = _read(console)
    return {name: _outcome(name, output, trouble) for name in runs}


def _outcome(name: str, output: str, trouble: str) -> Outcome:
    own = re.compile(
        rf"^emulated: {name} begins$(.*?)^emulated: {name} exit (\d+)$", re.MULTILINE | re.DOTALL
    )
    if found := own.search(output):
        return Outcome(int(found[2]), found[1])
    return Outcome(None, f"{output}\n{trouble}")


def _read(console: Path) -> str:
    return console.read_text(errors="replace").replace("\r", "") if console.exists() else ""


def _program(name: str) -> str:
    path = shutil.which(name)
    assert path, f"{name} is not installed; run ./run setup as root to install it"
    return path


def _image() -> Path:
    images = sorted((KERNEL / "boot").glob("vmlinuz-*"))
    assert images, f"no kernel in {KERNEL}; run ./run setup as root to download it"
    return images[-1]


def _module(name: str) -> Path | None:
    """Return the file of a module, which may be compressed; None for a built-in one."""
    names = (name, name.replace("_", "-"), name.replace("-", "_"))
    known = _modules()
    found = [known[f"{each}.ko"] for each in names if f"{each}.ko" in known]
    assert found, f"the kernel in {KERNEL} has no module {name}; run ./run setup to download it"
    return found[0]


@functools.cache
def _modules() -> dict[str, Path | None]:
    lists = (path.read_text().splitlines() for path in KERNEL.rglob("modules.builtin"))
    built_in = dict.fromkeys(Path(line).name for lines in lists for line in lines)
    return {**built_in, **{_plain_name(path): path for path in sorted(KERNEL.rglob("*.ko*"))}}


def _plain_name(module: Path) -> str:
    return module.name.removesuffix(".xz")


def _content(module: Path) -> bytes:
    """Return the content of a module, decompressed: Debian 13 compresses them."""
    raw = module.read_bytes()
    return lzma.decompress(raw) if module.suffix == ".xz" else raw


def _with_dependencies(names: Iterable[str], known: tuple[Path, ...] = ()) -> list[Path]:
    """Return modules with their dependencies, in loading order."""
    ordered = list(known)
    for name in names:
        path = _module(name)
        if path is None or path in ordered:
            continue
        depends = DEPENDS.search(b"\0" + _content(path))
        wanted = [part for part in (depends[1].decode() if depends else "").split(",") if part]
        ordered = _with_dependencies(wanted, tuple(ordered))
        ordered.append(path)
    return ordered


def _write(initrd: Path, plan: Mapping[str, object], modules: Iterable[str]) -> None:
    with initrd.open("wb") as file:
        archive = Archive(file)
        for path in _python_files():
            archive.add(path)
        archive.link(sys.executable, str(PYTHON))
        for path in _libraries():
            archive.add(path)
        for name in PROGRAMS:
            archive.add(Path(_program(name)))
        for folder in ("tunnel", "cli", "certs", "tests", "bench", "pyproject.toml"):
            for path in _tree(ROOT / folder):
                archive.add(path)
        for path in _with_dependencies(modules):
            archive.write(f"/{_plain_name(path)}", _content(path), 0o644)
        archive.add(Path("/etc/passwd"))
        init = (ROOT / "tests" / "support" / "emulated_init.py").read_text()
        archive.write("/init", f"#!{sys.executable} -B\n{init}".encode(), 0o755)
        archive.write("/plan.json", json.dumps(plan).encode())
        archive.close()


def _tree(path: Path, leave_out: Iterable[str] = ()) -> Iterator[Path]:
    """Yield the files below ``path``, except in directories with names in ``leave_out``."""
    if path.is_file():
        yield path
    for directory, folders, files in os.walk(path):
        folders[:] = [name for name in folders if name not in leave_out]
        yield from (Path(directory, name) for name in files)


def _python_files() -> Iterator[Path]:
    yield PYTHON
    yield from Path(sys.prefix).glob("pyvenv.cfg")
    standard = Path(sysconfig.get_path("stdlib"))
    for_builds = Path(sysconfig.get_config_var("LIBPL")).name  # the interpreter as a static library
    apart = ("site-packages", "dist-packages", "test", "tkinter", "idlelib", "ensurepip", "lib2to3")
    yield from _tree(standard, (*apart, for_builds))
    packages = Path(sysconfig.get_path("purelib"))
    for entry in packages.iterdir():
        if re.split("[-.]", entry.name)[0] not in NEEDLESS and "mypyc" not in entry.name:
            yield from _tree(entry)


def _libraries() -> Iterator[Path]:
    """Yield the shared libraries of all binaries."""
    compiled = [str(path) for path in _python_files() if ".so" in path.suffixes]
    command = ["ldd", str(PYTHON), *map(_program, PROGRAMS), *compiled]
    listed = subprocess.run(command, check=False, timeout=60, capture_output=True, text=True).stdout
    yield from {Path(one or other) for one, other in LIBRARY.findall(listed)}

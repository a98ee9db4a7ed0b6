"""The compiled engine for tests: with strict warnings, with sanitizers, and with each cipher library."""

from __future__ import annotations

import ctypes
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunnel.engine import build
from tunnel.engine.binding import Provider, load
from tunnel.engine.choice import IPSEC_MB, LIBCRYPTO, VECTOR_AES

ROOT = Path(__file__).parent.parent.parent
UNPACKED = ROOT / ".build" / "ipsec-mb"

STRICT = ("-Werror", "-Wconversion", "-Wshadow", "-Wstrict-prototypes", "-Wmissing-declarations")
SANITIZERS = (
    *("-g", "-O1", "-fno-omit-frame-pointer", "-U_FORTIFY_SOURCE"),
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
)


def _version() -> tuple[int, int]:
    number = ctypes.CDLL(LIBCRYPTO).OpenSSL_version_num()
    return number >> 28, number >> 20 & 0xFF


def ipsec_mb() -> str:
    """Return libipsec-mb: that of the system, or the one that ``./run setup`` unpacked."""
    found = sorted(UNPACKED.glob(f"usr/lib/*/{IPSEC_MB}"))
    return str(found[0]) if found else IPSEC_MB


NEEDS_IPSEC_MB = _version() < VECTOR_AES and platform.machine() == "x86_64"


def environment() -> dict[str, str]:
    """Return the environment for a daemon to find libipsec-mb, where that was only unpacked."""
    found = Path(ipsec_mb()) if NEEDS_IPSEC_MB else Path()
    return {"LD_LIBRARY_PATH": str(found.parent)} if found.is_absolute() else {}


PROVIDERS = ("libcrypto", "libipsec-mb") if NEEDS_IPSEC_MB else ("libcrypto",)
"""The cipher libraries of this machine. A test with libipsec-mb fails where it is needed and missing."""


def compiled_engine() -> Provider:
    """Return the engine of a daemon on this machine: built by ``./run setup``, with the fastest library."""
    return open_provider(load(build.HERE / build.file_name()), PROVIDERS[-1])


def open_provider(library: Any, name: str) -> Provider:
    provider = Provider(library, LIBCRYPTO)
    if name == "libipsec-mb":
        provider.use_ipsec_mb(ipsec_mb())
    return provider


def arguments(name: str) -> tuple[str, str]:
    """Return the libraries as arguments of a program: libcrypto, and libipsec-mb or ""."""
    return LIBCRYPTO, ipsec_mb() if name == "libipsec-mb" else ""


def build_strictly(folder: Path) -> Path:
    target = folder / build.file_name()
    build.build(target, STRICT)
    return target


def build_program(source: Path, target: Path, *flags: str) -> Path:
    """Compile a test program together with the engine, with sanitizers."""
    options = [flag for flag in build.FLAGS if flag not in {"-shared", "-fPIC", "-O2"}]
    command: list[str | Path] = [
        *build.compiler(),
        *options,
        "-Werror",
        *SANITIZERS,
        *flags,
        "-o",
        target,
        source,
        *build.SOURCES,
    ]
    run([*command, *build.LIBRARIES])
    return target


def run(command: Sequence[str | Path], seconds: float = 100, **environment: str) -> str:
    """Run a program; return its output. Raises AssertionError with the output if it fails."""
    done = subprocess.run(
        command, cwd=ROOT, env={"PATH": "/usr/bin:/bin", **environment},
        capture_output=True, text=True, timeout=seconds, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout

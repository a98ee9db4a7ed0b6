"""Compiling the C of this package: for ``setup.py``, and for tests with sanitizers.

The library's file name contains a digest of its sources: one of other sources is not loaded. setup.py
imports this file before anything is installed, so it needs nothing but Python.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
SOURCES = tuple(HERE / name for name in ("ciphers.c", "records.c", "transfer.c", "payload.c"))
HEADER = HERE / "engine.h"

FLAGS = (
    *("-std=c11", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", "-pthread"),
    *("-Wall", "-Wextra", "-Werror=implicit-function-declaration", "-Werror=incompatible-pointer-types"),
    *("-Werror=int-conversion", "-Werror=return-type", "-Werror=format-security"),
    *("-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2", "-fstack-protector-strong"),
    *("-Wl,-z,relro,-z,now", "-Wl,-z,noexecstack"),
)
LIBRARIES = ("-ldl",)

LONGEST = 120.0
"""Timeout of a compiler in seconds; it takes about one."""


class BuildError(Exception):
    """There is no compiler, or it failed; the text is its output."""


def file_name() -> str:
    """Return the file name of the library of these sources: not ``.so``, or it would look like a module."""
    digest = hashlib.sha256(repr(FLAGS).encode())
    for path in (HEADER, *SOURCES):
        digest.update(path.read_bytes())
    return f"engine-{digest.hexdigest()[:16]}.so.1"


def compiler() -> list[str]:
    """Return the command of the C compiler: CC of the environment, or ``cc``."""
    return shlex.split(os.environ.get("CC", "")) or ["cc"]


def build(target: Path, extra: Sequence[str | Path] = (), flags: Sequence[str] = FLAGS) -> None:
    """Compile the library to ``target``, with ``flags`` and then ``extra``. Raises BuildError on failure.

    CFLAGS and LDFLAGS of the environment are used, as packagers expect. ``target`` is created atomically.
    """
    given = [option for name in ("CFLAGS", "LDFLAGS") for option in shlex.split(os.environ.get(name, ""))]
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    command = [*compiler(), *given, *flags, *extra, "-o", unfinished, *SOURCES, *LIBRARIES]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST, check=False)
        if done.returncode:
            raise BuildError(f"{command[0]} failed: {done.stderr.strip() or done.returncode}")
        unfinished.replace(target)
    except OSError as error:
        raise BuildError(f"{command[0]}: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"{command[0]} timed out after {LONGEST:.0f} s") from error
    finally:
        unfinished.unlink(missing_ok=True)

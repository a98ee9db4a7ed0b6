"""One daemon for each control socket: who starts first holds a lock for as long as it runs.

The lock is on a file beside the socket (fcntl(2), F_SETLK), and ends with the process however that ends. So a
second daemon is told apart from a socket that a killed one left, and neither has to be connected to.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tunnel.errors import UsageError
from tunnel.host.permissions import weakness_of_directory

_LOCK = struct.Struct("hhqqi4x")  # struct flock: type, whence, start, length, process


@contextmanager
def claimed(control: Path) -> Iterator[None]:
    """Be the daemon with this control socket meanwhile. Raises UsageError when another one is.

    Where no lock can be made no socket can be either: ``preflight`` says why. Nothing is made where others
    could exchange it.
    """
    descriptor = _opened(control)
    if descriptor is None:
        yield
        return
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        who = f" (process {pid})" if (pid := holder(control)) else ""
        raise UsageError(
            f"another mtunnel serve{who} has the control socket {control}: is this daemon running already?"
        ) from None
    try:
        yield
    finally:
        os.close(descriptor)


def holder(control: Path) -> int | None:
    """The process of the daemon with this control socket, 0 if nobody knows it. None: there is none."""
    with suppress(OSError):
        descriptor = os.open(_lock_file(control), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            asked = _LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            kind, _, _, _, pid = _LOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))
        finally:
            os.close(descriptor)
        return None if kind == fcntl.F_UNLCK else max(pid, 0)
    return None


def _opened(control: Path) -> int | None:
    if weakness_of_directory(control.parent):
        return None
    with suppress(OSError):
        control.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        return os.open(_lock_file(control), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    return None


def _lock_file(control: Path) -> Path:
    return control.with_name(f"{control.name}.lock")

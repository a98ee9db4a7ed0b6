"""One daemon per control socket: the first to start holds a lock for its lifetime.

The lock is on a file next to the socket (fcntl(2), F_SETLK); the kernel releases it when the process exits.
This distinguishes a running daemon from a stale socket without connecting to it.
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
    """Hold the lock of this control socket. Raises UsageError when another daemon holds it.

    Where no lock file can be created, no socket can be either, and ``preflight`` reports why. No file is
    created in a directory where other users could replace it.
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
            f"another mtunnel daemon{who} holds the control socket {control}: is this daemon already running?"
        ) from None
    try:
        yield
    finally:
        os.close(descriptor)


def holder(control: Path) -> int | None:
    """Return the process id of the daemon with this control socket, 0 if unknown, None if there is none."""
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

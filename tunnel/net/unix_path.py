"""Connecting to a unix socket by a path without symbolic links.

Each system call resolves a path anew, and users who can write to a directory on it choose where a symbolic
link leads. So the file is opened first, with O_PATH and O_NOFOLLOW component by component (open(2);
openat2(2) calls that RESOLVE_NO_SYMLINKS), and the opened file is connected to.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

Identity = tuple[int, int]
"""Device and inode of a file."""


class LinkedPathError(OSError):
    """A component of a path, ``filename``, is a symbolic link."""

    def __init__(self, component: str) -> None:
        super().__init__(errno.ELOOP, os.strerror(errno.ELOOP), component)


class ForbiddenSocketError(OSError):
    """The socket is one of those that must not be connected to, by any path."""


def connect(sock: socket.socket, path: str, never: Iterable[str] = ()) -> None:
    """Connect ``sock`` to the unix socket at the absolute ``path``, unless it is one of those at ``never``.

    Raises LinkedPathError, ForbiddenSocketError, or another OSError, as connect(2) does.
    """
    with _opened(path) as descriptor:
        status = os.fstat(descriptor)
        if (status.st_dev, status.st_ino) in set(_identities(never)):
            raise ForbiddenSocketError(errno.EPERM, "is a socket of this daemon", path)
        sock.connect(f"/proc/self/fd/{descriptor}")


def first_link(path: str) -> str | None:
    """Return the first component of ``path`` that is a symbolic link; None if no existing one is."""
    with suppress(OSError):
        try:
            with _opened(path):
                return None
        except LinkedPathError as error:
            return str(error.filename)
    return None


@contextmanager
def _opened(path: str) -> Iterator[int]:
    """Open the file at ``path`` without access to its content (O_PATH)."""
    directory = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    reached = ""
    try:
        for component in filter(None, path.split("/")):
            reached += f"/{component}"
            below = os.open(component, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
            os.close(directory)
            directory = below
            if stat.S_ISLNK(os.fstat(directory).st_mode):
                raise LinkedPathError(reached)
        yield directory
    finally:
        os.close(directory)


def _identities(paths: Iterable[str]) -> Iterator[Identity]:
    for path in paths:
        with suppress(OSError):
            status = os.stat(path)  # noqa: PTH116  a string, as in socket addresses
            yield status.st_dev, status.st_ino

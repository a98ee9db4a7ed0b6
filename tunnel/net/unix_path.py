"""Connecting to the unix socket that a path names: no component of it may be a symbolic link.

A path is looked up anew by each system call that gets it, and a link in it leads elsewhere than it says:
whoever may write to a directory on the way decides where. So the file is opened first, with O_PATH and
O_NOFOLLOW component by component (open(2); openat2(2) calls that RESOLVE_NO_SYMLINKS), and what was opened
is connected to.
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
    """The socket is one of those that must not be connected to, under whatever name."""


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
    """The first component of ``path`` that is a symbolic link. None: there is none, as far as it exists."""
    with suppress(OSError):
        try:
            with _opened(path):
                return None
        except LinkedPathError as error:
            return str(error.filename)
    return None


@contextmanager
def _opened(path: str) -> Iterator[int]:
    """The file at ``path``, opened without access to its content."""
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
            status = os.stat(path)  # noqa: PTH116  a text, as sockets have it
            yield status.st_dev, status.st_ino

"""Reading a file that somebody named: a regular one, and not an endless one.

A named pipe would hold the reader until somebody writes to it, a device may never end. Both happen by a
slip of the hand, and a daemon reads some files again while it runs.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

MOST = 64 * 2**20
"""Bytes. Certificates and keys have some thousand; CRLs of large authorities have been seen with 30 MB."""

_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class IrregularFileError(OSError):
    """It is no file that could be read at once and to its end; ``strerror`` says what it is."""


def read_regular(path: Path, *, pipes: bool = False) -> bytes:
    """Return the content of ``path``. With ``pipes`` it may also be a pipe that has a writer (``<(…)``).

    Raises OSError, for a file of another kind or one with more than MOST bytes IrregularFileError.
    """
    try:
        # Not O_NONBLOCK alone: a terminal must not become ours.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except ValueError:  # a NUL in it
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from None
    with os.fdopen(descriptor, "rb") as file:
        kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
        if kind == stat.S_IFDIR:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if kind != stat.S_IFREG and not (pipes and kind == stat.S_IFIFO):
            raise IrregularFileError(
                errno.EINVAL, f"it is {_KINDS.get(kind, 'no file')}, not a file", str(path)
            )
        os.set_blocking(descriptor, True)
        content = file.read(MOST + 1)
    if len(content) > MOST:
        raise IrregularFileError(errno.EFBIG, f"it has more than {MOST // 2**20} MiB", str(path))
    return content

"""Reading a file named by the operator: a regular one, of bounded size.

A named pipe would block the reader until it has a writer, a device may never end. Both happen by mistake, and
a daemon reads some files again while it runs.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

MOST = 64 * 2**20
"""Bytes. Certificates and keys have a few thousand; CRLs of large authorities have been seen with 30 MB."""

_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class IrregularFileError(OSError):
    """Not a regular file, or one that is too large; ``strerror`` has the reason."""


def read_regular(path: Path, *, pipes: bool = False) -> bytes:
    """Return the content of ``path``. With ``pipes`` it may also be a pipe that has a writer (``<(…)``).

    Raises OSError: IrregularFileError for a file of another kind or one with more than MOST bytes.
    """
    try:
        # O_NOCTTY: a terminal must not become our controlling terminal.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except ValueError:  # a NUL in the path
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from None
    with os.fdopen(descriptor, "rb") as file:
        kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
        if kind == stat.S_IFDIR:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if kind != stat.S_IFREG and not (pipes and kind == stat.S_IFIFO):
            raise IrregularFileError(
                errno.EINVAL, f"it is {_KINDS.get(kind, 'a special file')}, not a regular file", str(path)
            )
        os.set_blocking(descriptor, True)
        content = file.read(MOST + 1)
    if len(content) > MOST:
        raise IrregularFileError(errno.EFBIG, f"it is larger than {MOST // 2**20} MiB", str(path))
    return content

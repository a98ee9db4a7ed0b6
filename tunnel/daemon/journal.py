"""systemd's journal as the place where stderr leads, also after the journal was stopped and started again.

A restart of journald keeps its connections. When it is stopped, they end, and whoever writes gets EPIPE from
then on (systemd-journald.service(8), "Stream logging"): a daemon that runs on would be silent for ever.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

SOCKET = Path("/run/systemd/journal/stdout")
TIMEOUT = 1.0
"""Seconds that the journal may take to accept a connection."""

_IDENTIFIER = "mtunnel"
_INFO = 6  # syslog(3): the priority of lines that name none


def is_journal(descriptor: int) -> bool:
    """Whether ``descriptor`` is the journal's socket, which JOURNAL_STREAM names by device and inode.

    Comparing tells whether this very descriptor leads there: children with redirected output inherit the
    variable (systemd.exec(5)).
    """
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def connect() -> int:
    """Open another stream to the journal, as sd_journal_stream_fd(3) does; its descriptor. Raises OSError.

    The header is: identifier, unit (which the journal knows itself), priority, whether lines have a prefix
    with one, and whether to forward to syslog, the kernel's log and the console.
    """
    header = f"{_IDENTIFIER}\n\n{_INFO}\n1\n0\n0\n0\n"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(TIMEOUT)
        sock.connect(str(SOCKET))
        sock.shutdown(socket.SHUT_RD)
        sock.sendall(header.encode())
        sock.setblocking(True)
        return sock.detach()

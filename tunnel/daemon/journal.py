"""stderr to systemd's journal, with reconnection after the journal was stopped and started.

A restart of journald keeps its connections. A stop closes them, and writers get EPIPE from then on
(systemd-journald.service(8), "Stream logging"): without a reconnection the daemon could never log again.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

SOCKET = Path("/run/systemd/journal/stdout")
TIMEOUT = 1.0
"""Seconds to wait for the journal to accept a connection."""

_IDENTIFIER = "mtunnel"
_INFO = 6  # syslog(3): the priority of lines without a prefix


def is_journal(descriptor: int) -> bool:
    """Whether ``descriptor`` is the journal's socket, which JOURNAL_STREAM identifies by device and inode.

    The comparison is required: children with redirected output inherit the variable (systemd.exec(5)).
    """
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def connect() -> int:
    """Open a new stream to the journal, as sd_journal_stream_fd(3); return its descriptor. Raises OSError.

    The header: identifier, unit (determined by the journal), default priority, whether lines have a priority
    prefix, and whether to forward to syslog, the kernel log and the console.
    """
    header = f"{_IDENTIFIER}\n\n{_INFO}\n1\n0\n0\n0\n"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(TIMEOUT)
        sock.connect(str(SOCKET))
        sock.shutdown(socket.SHUT_RD)
        sock.sendall(header.encode())
        sock.setblocking(True)
        return sock.detach()

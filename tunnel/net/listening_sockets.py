"""Where programs of this host listen on TCP, by ``/proc/net/tcp`` and ``tcp6`` (proc(5)).

Nothing is connected to: a hypervisor takes its first caller for the migration.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from pathlib import Path

_TABLES = ((Path("/proc/net/tcp"), socket.AF_INET), (Path("/proc/net/tcp6"), socket.AF_INET6))
_LISTEN = "0A"


def listening_at(port: int) -> list[str]:
    """The IP addresses on which something listens on ``port`` in our network namespace, IPv4 first.

    Empty when nothing does, or when that cannot be read.
    """
    found: list[str] = []
    for table, family in _TABLES:
        try:
            with table.open(encoding="ascii") as lines:
                next(lines, None)  # the heading
                found += _addresses(lines, family, port)
        except OSError:
            continue
    return found


def _addresses(lines: Iterator[str], family: socket.AddressFamily, port: int) -> Iterator[str]:
    """Those of listening sockets. The kernel lists these first, and of others there may be very many."""
    for line in lines:
        _, local, _, state, *_ = line.split()
        if state != _LISTEN:
            return
        address, _, number = local.partition(":")
        if int(number, 16) == port:
            words = (int(address[at : at + 8], 16) for at in range(0, len(address), 8))
            packed = b"".join(struct.pack("=I", word) for word in words)  # in the machine's byte order
            yield socket.inet_ntop(family, packed)

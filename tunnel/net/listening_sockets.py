"""Listening TCP sockets of this host, from ``/proc/net/tcp`` and ``tcp6`` (proc(5)).

No connection is made: a hypervisor takes its first client for the migration.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from pathlib import Path

_TABLES = ((Path("/proc/net/tcp"), socket.AF_INET), (Path("/proc/net/tcp6"), socket.AF_INET6))
_LISTEN = "0A"


def listening_at(port: int) -> list[str]:
    """Return the IP addresses with a listening socket on ``port`` in our network namespace, IPv4 first.

    Empty when there is none, or the tables cannot be read.
    """
    found: list[str] = []
    for table, family in _TABLES:
        try:
            with table.open(encoding="ascii") as lines:
                next(lines, None)  # the header line
                found += _addresses(lines, family, port)
        except OSError:
            continue
    return found


def _addresses(lines: Iterator[str], family: socket.AddressFamily, port: int) -> Iterator[str]:
    """Yield those of listening sockets. The kernel lists these first; there may be very many others."""
    for line in lines:
        _, local, _, state, *_ = line.split()
        if state != _LISTEN:
            return
        address, _, number = local.partition(":")
        if int(number, 16) == port:
            words = (int(address[at : at + 8], 16) for at in range(0, len(address), 8))
            packed = b"".join(struct.pack("=I", word) for word in words)  # host byte order
            yield socket.inet_ntop(family, packed)

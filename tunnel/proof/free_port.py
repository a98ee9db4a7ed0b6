"""Ports for programs that listen a moment later."""

from __future__ import annotations

import random
import socket
from pathlib import Path

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_COUNT = 12_000

_returned: set[int] = set()


def free_port(*addresses: str) -> int:
    """Return a TCP port on which nothing listens at any of ``addresses``, a different one at each call.

    It is below the range from which Linux takes the ports of outgoing connections (ip_local_port_range):
    none of them can occupy it before its program listens.
    """
    first_outgoing = int(_RANGE.read_text().split()[0])
    while True:
        port = random.randrange(max(1024, first_outgoing - _COUNT), first_outgoing)  # noqa: S311  no secret
        if port not in _returned and all(_is_free(address, port) for address in addresses):
            _returned.add(port)
            return port


def _is_free(address: str, port: int) -> bool:
    try:
        socket.create_server((address, port)).close()
    except OSError:
        return False
    return True

"""Ports that only root can bind: no other user can take over what leads there, also while nobody listens.

Linux keeps those below ``net.ipv4.ip_unprivileged_port_start`` (1024, unless somebody changed it) to
processes with CAP_NET_BIND_SERVICE; ip(7).
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from pathlib import Path

from tunnel.errors import UsageError
from tunnel.host.privileges import Capability, has
from tunnel.net.listener import bind_tcp

_START = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
_USUAL_START = 1024
_UNASSIGNED = (*range(1002, 1010), *range(1011, 1021))
"""Ports of which IANA's registry knows no service."""
_LOWEST = 512  # as bindresvport(3): below, nearly every port has a service


def unavailable_reason() -> str | None:
    """Say why this process cannot listen on such a port. None when it should be able to."""
    if not any(_candidates()):
        return (
            f"no port is kept to root here (net.ipv4.ip_unprivileged_port_start is {_start()}),"
            " so any user could take the redirect over: set it to 1024, or use unix:"
        )
    if not has(Capability.NET_BIND_SERVICE):
        return (
            "redirect needs the capability CAP_NET_BIND_SERVICE, which this process does not have:"
            " run it as root, or use tcp: or unix:"
        )
    return None


def bind_reserved(host: str) -> socket.socket:
    """Listen on a port of ``host`` that only root can bind. Raises UsageError when there is none."""
    if problem := unavailable_reason():
        raise UsageError(problem)
    for port in _candidates():
        try:
            return bind_tcp(host, port)
        except UsageError as error:
            if not isinstance(error.__cause__, OSError) or error.__cause__.errno != errno.EADDRINUSE:
                raise
    raise UsageError(f"cannot listen on {host}: every port that is kept to root is in use")


def is_reserved(port: int) -> bool:
    """Whether only root can bind ``port``."""
    return port < _start()


def _candidates() -> Iterator[int]:
    """Ports to try, those first that are nobody else's."""
    start = _start()
    others = (port for port in range(min(start, _USUAL_START) - 1, _LOWEST - 1, -1) if not _has_service(port))
    yield from (port for port in _UNASSIGNED if port < start)
    yield from (port for port in others if port not in _UNASSIGNED)


def _start() -> int:
    try:
        return int(_START.read_text())
    except (OSError, ValueError):  # a kernel from before the setting existed
        return _USUAL_START


def _has_service(port: int) -> bool:
    try:
        socket.getservbyport(port)
    except OSError:
        return False
    return True

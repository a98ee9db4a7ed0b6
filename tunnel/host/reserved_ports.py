"""Privileged ports: no other user can take over a redirect to one, even while nothing listens there.

Linux reserves those below ``net.ipv4.ip_unprivileged_port_start`` (1024 by default) for processes with
CAP_NET_BIND_SERVICE; ip(7).
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
"""Ports without a service in IANA's registry."""
_LOWEST = 512  # as bindresvport(3): below, nearly every port has a service


def unavailable_reason() -> str | None:
    """Return why this process cannot listen on such a port; None when it should be able to."""
    if not any(_candidates()):
        return (
            f"this host has no privileged ports (net.ipv4.ip_unprivileged_port_start is {_start()}),"
            " so any user could take over the redirect: set it to 1024, or use unix:"
        )
    if not has(Capability.NET_BIND_SERVICE):
        return (
            "redirect needs the capability CAP_NET_BIND_SERVICE, which this process does not have:"
            " run it as root, or use tcp: or unix:"
        )
    return None


def bind_reserved(host: str) -> socket.socket:
    """Listen on a privileged port of ``host``. Raises UsageError when none is available."""
    if problem := unavailable_reason():
        raise UsageError(problem)
    for port in _candidates():
        try:
            return bind_tcp(host, port)
        except UsageError as error:
            if not isinstance(error.__cause__, OSError) or error.__cause__.errno != errno.EADDRINUSE:
                raise
    raise UsageError(f"cannot listen on {host}: all privileged ports are in use")


def is_reserved(port: int) -> bool:
    """Return whether only root can bind ``port``."""
    return port < _start()


def _candidates() -> Iterator[int]:
    """Yield the ports to try, those without a registered service first."""
    start = _start()
    others = (port for port in range(min(start, _USUAL_START) - 1, _LOWEST - 1, -1) if not _has_service(port))
    yield from (port for port in _UNASSIGNED if port < start)
    yield from (port for port in others if port not in _UNASSIGNED)


def _start() -> int:
    try:
        return int(_START.read_text())
    except (OSError, ValueError):  # a kernel without the setting
        return _USUAL_START


def _has_service(port: int) -> bool:
    try:
        socket.getservbyport(port)
    except OSError:
        return False
    return True

"""Routes that keep programs of this host from answering at the loopback aliases of peers.

All of 127.0.0.0/8 is local: without a redirect, a connection to an alias reaches any program that listens on
that port of all addresses, and any user may listen there. A route prevents that, without a process or a
firewall to enforce it::

    ip route prepend 127.0.1.2 dev lo src 127.0.0.1 table local proto 165

With it the alias is a neighbour behind ``lo`` and not a local address. Connecting to it still works, and
the redirect still sends the connection to 127.0.0.1; but without the redirect there is no reply. No program
of this host can reply: the kernel sends no packet from an address that is not local (``is_guarded`` queries
just that), not even a SYN-ACK, and binding the alias fails or, with IP_FREEBIND, has no effect.
An ``unreachable`` or ``blackhole`` route would not do: it fails the connection before the redirect sees it.

The route outlives the daemon and every change of the firewall. It is lost at a reboot, or when ``lo`` goes
down. Changing it needs CAP_NET_ADMIN; queries need nothing. All functions raise OSError.
"""

from __future__ import annotations

import errno
import socket
import struct
from contextlib import suppress

from tunnel.net import netlink
from tunnel.net.netlink import attribute, attributes

PROTOCOL = 165
"""The origin of our routes (rtm_protocol, rtnetlink(7)): a number with no other known use."""

# linux/rtnetlink.h
_NEW, _DELETE, _GET = 24, 25, 26
_HEADER = struct.Struct("=BBBBBBBBI")  # family, two prefix lengths, tos, table, protocol, scope, type, flags
_LOCAL, _LINK, _UNICAST = 255, 253, 1  # table, scope, type
_DESTINATION, _SOURCE, _INTERFACE, _PREFERRED_SOURCE = 1, 2, 4, 7
_NOT_OURS = {errno.EINVAL, errno.ENETUNREACH}  # errors of kernels for a source that is not a local address
_LOOPBACK = socket.inet_aton("127.0.0.1")


def install(alias: str) -> None:
    """Guard an IPv4 address of 127.0.0.0/8; no error if it is guarded already."""
    with suppress(FileExistsError):
        netlink.ask(netlink.ROUTE, _NEW, _route(alias), netlink.ACK | netlink.CREATE)


def remove(alias: str) -> None:
    """Make ``alias`` an ordinary loopback address again; no error if it is one."""
    try:
        netlink.ask(netlink.ROUTE, _DELETE, _route(alias), netlink.ACK)
    except OSError as error:
        if error.errno != errno.ESRCH:
            raise


def is_guarded(alias: str) -> bool:
    """Return whether no program of this host can reply from ``alias``.

    False without the route, and with it when the address is assigned to an interface.
    """
    header = _HEADER.pack(socket.AF_INET, 32, 32, 0, 0, 0, 0, 0, 0)
    question = header + attribute(_DESTINATION, _LOOPBACK) + attribute(_SOURCE, socket.inet_aton(alias))
    try:
        netlink.ask(netlink.ROUTE, _GET, question)
    except OSError as error:
        if error.errno in _NOT_OURS:
            return True
        raise
    return False


def installed() -> set[str]:
    """Return the addresses that have a route of ours."""
    header = _HEADER.pack(socket.AF_INET, 0, 0, 0, _LOCAL, PROTOCOL, 0, 0, 0)
    routes = netlink.dump(netlink.ROUTE, _GET, header)
    return {socket.inet_ntoa(dict(attributes(each[_HEADER.size :]))[_DESTINATION]) for each in routes}


def _route(alias: str) -> bytes:
    header = _HEADER.pack(socket.AF_INET, 32, 0, 0, _LOCAL, PROTOCOL, _LINK, _UNICAST, 0)
    interface = struct.pack("=I", socket.if_nametoindex("lo"))
    return (
        header
        + attribute(_DESTINATION, socket.inet_aton(alias))
        + attribute(_INTERFACE, interface)
        + attribute(_PREFERRED_SOURCE, _LOOPBACK)
    )

"""Loopback addresses that stand for a peer, taken out of the addresses that this host answers from.

All of 127.0.0.0/8 is local: without a redirect in its way, a connection to an alias goes to whichever program
listens on that port of all addresses, and any user may listen there. A route prevents that, with no process
and no firewall to keep it in force::

    ip route prepend 127.0.1.2 dev lo src 127.0.0.1 table local proto 165

By it the alias is a neighbour behind ``lo`` and no address of this host. It can still be connected to, and
the redirect still takes the connection to 127.0.0.1; but without the redirect nobody answers. A program of
this host cannot: the kernel sends no packet from an address that is not its own (``is_guarded`` asks for
just that), not even an answer to SYN, and binding the alias fails or, with IP_FREEBIND, is of no use.
An ``unreachable`` or ``blackhole`` route would not do: it fails the connection before the redirect sees it.

The route outlives the daemon and every change of the firewall. It ends with the machine, or when ``lo`` goes
down. Changing it takes CAP_NET_ADMIN; asking takes nothing. All functions raise OSError.
"""

from __future__ import annotations

import errno
import socket
import struct
from contextlib import suppress

from tunnel.net import netlink
from tunnel.net.netlink import attribute, attributes

PROTOCOL = 165
"""Who made a route, for ``ip route`` (rtm_protocol, rtnetlink(7)): a number with no other use known."""

# linux/rtnetlink.h
_NEW, _DELETE, _GET = 24, 25, 26
_HEADER = struct.Struct("=BBBBBBBBI")  # family, two prefix lengths, tos, table, protocol, scope, type, flags
_LOCAL, _LINK, _UNICAST = 255, 253, 1  # table, scope, type
_DESTINATION, _SOURCE, _INTERFACE, _PREFERRED_SOURCE = 1, 2, 4, 7
_NOT_OURS = {errno.EINVAL, errno.ENETUNREACH}  # what kernels call a source that is no address of the host
_LOOPBACK = socket.inet_aton("127.0.0.1")


def install(alias: str) -> None:
    """Guard an IPv4 address of 127.0.0.0/8; no error if it is."""
    with suppress(FileExistsError):
        netlink.ask(netlink.ROUTE, _NEW, _route(alias), netlink.ACK | netlink.CREATE)


def remove(alias: str) -> None:
    """Let ``alias`` be a loopback address like any other again; no error if it is."""
    try:
        netlink.ask(netlink.ROUTE, _DELETE, _route(alias), netlink.ACK)
    except OSError as error:
        if error.errno != errno.ESRCH:
            raise


def is_guarded(alias: str) -> bool:
    """Whether no program of this host can answer from ``alias``.

    Not so without the route, and not so with it where somebody gave the address to an interface.
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
    """The addresses that have a route of ours."""
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

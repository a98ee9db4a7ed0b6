"""What a redirected connection was before the firewall translated it.

The destination can be asked of the socket itself. The source cannot, and is not always what the accepted
socket says: a program may use one local port towards several ports of a range, the redirect makes one
destination of them all, and then the kernel gives the later connection another source port, to tell them
apart. Who looks for the caller's own socket must know its true port: a wrong guess may be another user's.
"""

from __future__ import annotations

import socket
import struct

from tunnel.errors import RefusedError
from tunnel.net import netlink
from tunnel.net.netlink import attribute, attributes, nested
from tunnel.net.sockets import reason_of

_SO_ORIGINAL_DST = 80  # linux/netfilter_ipv4.h
_SOCKADDR = struct.Struct("!2xH4s8x")  # family, port, address: ip(7)

# linux/netfilter/nfnetlink_conntrack.h
_GET = 1 << 8 | 1  # the connection tracking's subsystem, IPCTNL_MSG_CT_GET
_PREFIX = struct.pack("=BBH", socket.AF_INET, 0, 0)  # family, version, resource
_TUPLE_ORIGINAL, _TUPLE_REPLY = 1, 2
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_IP_SOURCE, _IP_DESTINATION = 1, 2
_PROTO_NUMBER, _PROTO_SOURCE_PORT, _PROTO_DESTINATION_PORT = 1, 2, 3
_PORT = struct.Struct("!H")


def original_destination(sock: socket.socket) -> tuple[str, int] | None:
    """Return where the caller of an accepted IPv4 connection meant to go. None if that is not tracked."""
    try:
        raw = sock.getsockopt(socket.SOL_IP, _SO_ORIGINAL_DST, _SOCKADDR.size)
    except OSError:
        return None
    port, address = _SOCKADDR.unpack(raw)
    return socket.inet_ntoa(address), port


def original_source(sock: socket.socket) -> tuple[str, int]:
    """Return the caller's own name for its end of an accepted IPv4 connection: a few microseconds.

    RefusedError when the kernel does not tell; it tells only those with CAP_NET_ADMIN. OSError when the
    caller has gone.
    """
    question = _PREFIX + _reply_tuple(sock)
    try:
        answer = netlink.ask(netlink.NETFILTER, _GET, question)
    except OSError as error:
        reason = f"cannot ask the kernel for redirected connections: {reason_of(error)}"
        raise RefusedError(reason) from None
    if answer is None:
        raise RefusedError("the kernel knows nothing of this redirected connection")
    original = dict(attributes(dict(attributes(answer[len(_PREFIX) :]))[_TUPLE_ORIGINAL]))
    address = dict(attributes(original[_TUPLE_IP]))[_IP_SOURCE]
    port = dict(attributes(original[_TUPLE_PROTO]))[_PROTO_SOURCE_PORT]
    return socket.inet_ntoa(address), int(_PORT.unpack(port)[0])


def _reply_tuple(sock: socket.socket) -> bytes:
    """Name the connection by the packets that we send on it."""
    ours, theirs = sock.getsockname(), sock.getpeername()
    addresses = attribute(_IP_SOURCE, socket.inet_aton(ours[0]))
    addresses += attribute(_IP_DESTINATION, socket.inet_aton(theirs[0]))
    ports = attribute(_PROTO_NUMBER, bytes([socket.IPPROTO_TCP]))
    ports += attribute(_PROTO_SOURCE_PORT, _PORT.pack(ours[1]))
    ports += attribute(_PROTO_DESTINATION_PORT, _PORT.pack(theirs[1]))
    return nested(_TUPLE_REPLY, nested(_TUPLE_IP, addresses) + nested(_TUPLE_PROTO, ports))

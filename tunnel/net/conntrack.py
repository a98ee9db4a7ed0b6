"""The original addresses of a redirected connection, before NAT.

The destination is available from the socket itself. The source is not, and may differ from that of the
accepted socket: a program may use one local port towards several ports of a range, the redirect maps them
all to one destination, and then the kernel changes the source port of the later connection, to keep them
distinct. A lookup of the client's socket needs its true port: a wrong one may be another user's.
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
_GET = 1 << 8 | 1  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_GET
_PREFIX = struct.pack("=BBH", socket.AF_INET, 0, 0)  # family, version, resource
_TUPLE_ORIGINAL, _TUPLE_REPLY = 1, 2
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_IP_SOURCE, _IP_DESTINATION = 1, 2
_PROTO_NUMBER, _PROTO_SOURCE_PORT, _PROTO_DESTINATION_PORT = 1, 2, 3
_PORT = struct.Struct("!H")


def original_destination(sock: socket.socket) -> tuple[str, int] | None:
    """Return the original destination of an accepted IPv4 connection; None if it is not tracked."""
    try:
        raw = sock.getsockopt(socket.SOL_IP, _SO_ORIGINAL_DST, _SOCKADDR.size)
    except OSError:
        return None
    port, address = _SOCKADDR.unpack(raw)
    return socket.inet_ntoa(address), port


def original_source(sock: socket.socket) -> tuple[str, int]:
    """Return the original source of an accepted IPv4 connection: a few microseconds.

    Raises RefusedError when the kernel does not return it, as without CAP_NET_ADMIN; OSError when the
    client has disconnected.
    """
    question = _PREFIX + _reply_tuple(sock)
    try:
        answer = netlink.ask(netlink.NETFILTER, _GET, question)
    except OSError as error:
        reason = f"cannot query connection tracking: {reason_of(error)}"
        raise RefusedError(reason) from None
    if answer is None:
        raise RefusedError("no connection tracking entry for this redirected connection")
    original = dict(attributes(dict(attributes(answer[len(_PREFIX) :]))[_TUPLE_ORIGINAL]))
    address = dict(attributes(original[_TUPLE_IP]))[_IP_SOURCE]
    port = dict(attributes(original[_TUPLE_PROTO]))[_PROTO_SOURCE_PORT]
    return socket.inet_ntoa(address), int(_PORT.unpack(port)[0])


def _reply_tuple(sock: socket.socket) -> bytes:
    """Encode the tuple of the reply direction: that of the packets that we send."""
    ours, theirs = sock.getsockname(), sock.getpeername()
    addresses = attribute(_IP_SOURCE, socket.inet_aton(ours[0]))
    addresses += attribute(_IP_DESTINATION, socket.inet_aton(theirs[0]))
    ports = attribute(_PROTO_NUMBER, bytes([socket.IPPROTO_TCP]))
    ports += attribute(_PROTO_SOURCE_PORT, _PORT.pack(ours[1]))
    ports += attribute(_PROTO_DESTINATION_PORT, _PORT.pack(theirs[1]))
    return nested(_TUPLE_REPLY, nested(_TUPLE_IP, addresses) + nested(_TUPLE_PROTO, ports))

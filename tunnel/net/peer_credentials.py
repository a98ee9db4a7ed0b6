"""Credentials of the client of a local connection: the uid that owns its socket.

To be looked up at accept: a QEMU without return path closes as soon as the kernel has buffered its last
byte, and a TCP socket that no process holds has no owner. A unix socket keeps its peer's credentials.
"""

from __future__ import annotations

import ipaddress
import select
import socket
import struct
from contextlib import ExitStack
from dataclasses import dataclass

from tunnel.errors import RefusedError
from tunnel.net import netlink
from tunnel.net.conntrack import original_destination, original_source
from tunnel.net.sockets import loopback_pair, reason_of

_UCRED = struct.Struct("iII")  # pid, uid, gid: unix(7), SO_PEERCRED

_SOCK_DIAG_BY_FAMILY = 20
_REQUEST = struct.Struct("=BBBBI")  # family, protocol, extensions, padding, states: linux/inet_diag.h
_SOCKET_ID = struct.Struct("!HH16s16s12s")  # source port, destination port, addresses; interface, cookie
_ANSWER = struct.Struct("=BBBB48sIIIII")  # family, state, timer, retries, id, expires, queues, uid, inode
_ANY_INTERFACE_AND_COOKIE = struct.pack("=III", 0, 0xFFFF_FFFF, 0xFFFF_FFFF)
_ALL_STATES = 0xFFFF_FFFF
_NOT_CLOSED = {1, 2, 3, 8}  # ESTABLISHED, SYN_SENT, SYN_RECV, CLOSE_WAIT: net/tcp_states.h
_MAPPED = bytes(10) + b"\xff\xff"  # ::ffff:127.0.0.1 is 127.0.0.1

_PATIENCE = 5.0
"""Timeout of a loopback connection in seconds."""

_GONE = "the client disconnected before it could be identified"


def caller_uid(sock: socket.socket, wanted: tuple[str, int] | None = None) -> int:
    """Return the uid of the client of an accepted connection. Raises RefusedError when it is unknown.

    ``wanted`` is the original destination of a redirected connection: the client's socket is connected to it.
    """
    if sock.family == socket.AF_UNIX:
        raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        uid: int = _UCRED.unpack(raw)[1]
        return uid
    try:
        theirs = original_source(sock) if wanted else sock.getpeername()
        ours = wanted or sock.getsockname()
    except OSError:
        raise RefusedError(_GONE) from None
    return _tcp_owner(sock.family, _End.of(sock.family, theirs), _End.of(sock.family, ours))


def is_closed(sock: socket.socket) -> bool:
    """Return whether the process at the other end of a local connection has closed its socket.

    Queries the kernel for that socket: over TCP ours does not show it while bytes before the FIN are unread.
    False when it is unknown.
    """
    if sock.family == socket.AF_UNIX:
        poll = select.poll()
        poll.register(sock, 0)
        return any(mask & select.POLLHUP for _, mask in poll.poll(0))
    try:
        theirs, ours = _names(sock)
        found = _look_up(sock.family, _End.of(sock.family, theirs), _End.of(sock.family, ours))
    except (OSError, RefusedError):
        return False
    return found.is_orphan if found is not None else _is_of_this_host(theirs, ours)


def _names(sock: socket.socket) -> tuple[tuple[str, int], tuple[str, int]]:
    """Return the addresses of the other end and of ours, as the process at the other end sees them."""
    theirs, ours = sock.getpeername(), sock.getsockname()
    wanted = original_destination(sock) if sock.family == socket.AF_INET else None
    if wanted is None or wanted in {theirs, ours}:
        return theirs, ours
    return original_source(sock), wanted


def _is_of_this_host(theirs: tuple[str, int], ours: tuple[str, int]) -> bool:
    return theirs[0] == ours[0] or all(ipaddress.ip_address(a[0]).is_loopback for a in (theirs, ours))


def unavailable_reason() -> str | None:
    """Return why TCP clients cannot be identified on this host; None when they can.

    A kernel without tcp_diag replies as for a client that has disconnected: so query one that has not.
    """
    with ExitStack() as stack:
        try:
            _, accepted = map(stack.enter_context, loopback_pair(_PATIENCE))
        except OSError as error:
            return f"cannot connect over loopback ({reason_of(error)}): run 'ip link set lo up', or use unix:"
        try:
            caller_uid(accepted)
        except (RefusedError, OSError) as error:
            why = "" if isinstance(error, RefusedError) else f" ({error.strerror})"
            return (
                f"this kernel cannot identify TCP clients{why}: load the module tcp_diag (modprobe tcp_diag),"
                " or use unix:"
            )
    return None


@dataclass(frozen=True, slots=True)
class _End:
    """One end of a TCP connection. ``address`` is in the kernel's form: 16 bytes, IPv4 in the first four."""

    address: bytes
    port: int

    @classmethod
    def of(cls, family: int, name: tuple[str, int]) -> _End:
        return cls(socket.inet_pton(family, name[0]).ljust(16, b"\0"), name[1])


@dataclass(frozen=True, slots=True)
class _Socket:
    """A TCP socket as the kernel reports it. ``inode`` is 0 when no process holds it."""

    uid: int
    inode: int
    state: int

    @property
    def is_orphan(self) -> bool:
        """Whether its process has closed it. One that was never accepted has no inode either."""
        return not self.inode and self.state not in _NOT_CLOSED


def _tcp_owner(family: int, theirs: _End, ours: _End) -> int:
    """Return the owner of the socket ``theirs`` → ``ours``. Raises RefusedError when it has none.

    A socket that its process has closed, or one in TIME_WAIT, is reported with uid 0 and inode 0: taking
    that for root would admit any client that disconnects quickly.
    """
    found = _look_up(family, theirs, ours)
    if found is None or not found.inode:
        raise RefusedError(_GONE)
    return found.uid


def _look_up(family: int, theirs: _End, ours: _End) -> _Socket | None:
    """Query the kernel for the socket ``theirs`` → ``ours`` (sock_diag(7)): about 0.1 ms. Raises OSError.

    Without such a connection the kernel returns a listening socket on that port, if there is one: hence the
    comparison of addresses and ports.
    """
    asked = _SOCKET_ID.pack(theirs.port, ours.port, theirs.address, ours.address, _ANY_INTERFACE_AND_COOKIE)
    question = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, _ALL_STATES) + asked
    answer = netlink.ask(netlink.SOCK_DIAG, _SOCK_DIAG_BY_FAMILY, question)
    if answer is None:
        return None
    _, state, _, _, found, _, _, _, uid, inode = _ANSWER.unpack_from(answer)
    return _Socket(uid, inode, state) if _ends(found) == (theirs, ours) else None


def _ends(socket_id: bytes) -> tuple[_End, _End]:
    source_port, port, source, address, _ = _SOCKET_ID.unpack(socket_id)
    return _End(_unmapped(source), source_port), _End(_unmapped(address), port)


def _unmapped(address: bytes) -> bytes:
    """Return an IPv4-mapped IPv6 address as IPv4: the client may use either form."""
    return address[len(_MAPPED) :].ljust(16, b"\0") if address.startswith(_MAPPED) else address

"""Socket options, and closing a socket so that the other side knows what happened."""

from __future__ import annotations

import errno
import os
import socket
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

NOTSENT_LOWAT = 128 * 1024
"""Unsent bytes that the kernel may queue on a lane. More would only make sparse streams wait."""

USER_TIMEOUT_MS = 15_000
"""How long sent bytes may stay unacknowledged before the kernel gives a lane up (tcp(7))."""

LEAST_UNREAD = 1024 * 1024
"""Bytes that the kernel may always hold of a connection for us to read."""

MOST_UNREAD = 4 * 1024 * 1024
"""What is worth a bound: where a link needs more, the kernel knows better how much."""

FASTEST = 8 << 30
"""Bytes a second that no connection exceeds. What one carries in a round trip at that rate never waits."""

UNIX_UNSENT = 1024 * 1024
"""Bytes that the kernel may hold on a unix socket for a hypervisor: with its default, 208 KiB, most of a
batch would be copied to wait for the next turn."""

STUCK = 3
"""Timeouts in a row after which bytes are not late, but lost: with all after them, if all are too large."""

LONGEST_SILENCE = 20
"""Seconds after which the kernel sends a keepalive on a connection that is silent."""

LOCAL_CONGESTION = "cubic"
"""For local legs: some systems default to a congestion control that paces even on loopback."""

_TCP_NOTSENT_LOWAT = 25  # linux/tcp.h; not in Python 3.11's socket module
_TCP_INFO_RETRANSMITS = 2  # offset of tcpi_retransmits: timeouts in a row, until something is acknowledged
_TCP_INFO_RTO = 8  # offset of tcpi_rto: the next timeout, microseconds
_TCP_INFO_MIN_RTT = 148  # offset of tcpi_min_rtt in struct tcp_info (linux/tcp.h), microseconds
_TCP_INFO_RCV_OOOPACK = 224  # offset of tcpi_rcv_ooopack: packets that came out of order
_SO_SNDBUFFORCE = 32  # asm-generic/socket.h
_SO_RCVBUFFORCE = 33
_TRACKED_FOR = Path("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established")
_LINGER_RESET = struct.pack("ii", 1, 0)


def tune_lane(sock: socket.socket, congestion: str | None, segment: int | None = None) -> None:
    """Prepare a TCP socket to be a lane. OSError when ``congestion`` is not available.

    ``segment`` is how many bytes a segment may have at most, in both directions: for a socket that is not
    connected yet. None leaves it to the kernel.
    SO_SNDBUF and SO_RCVBUF stay alone: setting them switches the kernel's own tuning off (but see
    ``bound_unread``).
    """
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, NOTSENT_LOWAT)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
    keep_tracked(sock)
    if congestion is not None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion.encode())
    if segment is not None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, segment)


def stuck_for(sock: socket.socket) -> float:
    """Seconds for which TCP has at least sent the same bytes again and again, also if it gave up by now.

    0.0 for bytes that may be late. Each timeout is twice as long as the last (RFC 6298, section 5.5).
    """
    with suppress(OSError):  # no TCP socket
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_RTO + 4)
        (next_timeout,) = struct.unpack_from("I", info, _TCP_INFO_RTO)
        timeouts = info[_TCP_INFO_RETRANSMITS]
        return next_timeout * (1 - 0.5**timeouts) / 1_000_000 if timeouts >= STUCK else 0.0
    return 0.0


def has_gap(sock: socket.socket) -> bool:
    """Whether something arrived before what the peer had sent ahead of it (Linux 5.4 says so)."""
    with suppress(OSError, struct.error):
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_RCV_OOOPACK + 4)
        return bool(struct.unpack_from("I", info, _TCP_INFO_RCV_OOOPACK)[0])
    return False


def bound_unread(sock: socket.socket) -> None:
    """On a short way, let the kernel hold little of a connection unread.

    The kernel grows a receive buffer for as long as its reader is the bottleneck, to 6 or 32 MiB. On a lane
    sparse streams wait behind all of that; of a hypervisor it is more than caches hold, and memory that
    nobody accounts for. A megabyte, or what the fastest link carries in a round trip, is enough.
    The window has to be named as well: behind a buffer that was set, the kernel does not let it grow beyond
    what a new connection has (64 KiB). Without CAP_NET_ADMIN all stays as it is.
    """
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_MIN_RTT + 4)
    (round_trip,) = struct.unpack_from("I", info, _TCP_INFO_MIN_RTT)
    enough = max(LEAST_UNREAD, FASTEST * round_trip // 1_000_000)
    if enough <= MOST_UNREAD:
        with suppress(PermissionError):
            sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, enough)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_WINDOW_CLAMP, enough)


def tune_local(sock: socket.socket) -> None:
    """Prepare a hypervisor's connection, TCP or unix. Without CAP_NET_ADMIN its buffers stay."""
    sock.setblocking(False)
    if sock.family == socket.AF_UNIX:
        with suppress(PermissionError):
            sock.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, UNIX_UNSENT)
    else:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with suppress(OSError):  # a kernel without it does no harm: this is about speed only
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, LOCAL_CONGESTION.encode())
        keep_tracked(sock)
        bound_unread(sock)


def keep_tracked(sock: socket.socket) -> None:
    """Let no firewall forget a TCP connection for its silence.

    One that is redirected is translated only for as long as the kernel tracks it, and a firewall that admits
    what is established refuses whoever speaks first after it has forgotten. So the kernel sends keepalives
    (tcp(7)), three within the time that this host's connection tracking has for silence.
    """
    try:
        tracked = int(_TRACKED_FOR.read_text())
    except (OSError, ValueError):  # nothing is tracked here
        tracked = 3 * LONGEST_SILENCE
    silence = max(1, min(tracked // 3, LONGEST_SILENCE))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, silence)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, silence)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def socket_address(host: str, port: int) -> tuple[socket.AddressFamily, Any]:
    """Return the family and the kernel's form of an IP address, and of the interface that it may name.

    Raises OSError: ENODEV when there is no such interface. ``bind`` would leave an interface in a text out.
    """
    _, _, interface = host.partition("%")
    if interface:
        try:
            socket.if_nametoindex(interface)
        except OSError:
            raise OSError(errno.ENODEV, f"this host has no network interface {interface}") from None
    family, _, _, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    )[0]
    return family, address


def loopback_pair(patience: float) -> tuple[socket.socket, socket.socket]:
    """Return both ends of a TCP connection of this process with itself, for what a host must show to itself.

    For a moment any user may connect to where one end listens: those are turned away. Raises OSError, also
    after ``patience`` seconds.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(patience)
        dialing = socket.create_connection(server.getsockname(), patience)
        try:
            while True:
                accepted, caller = server.accept()
                if caller == dialing.getsockname():
                    return dialing, accepted
                accepted.close()
        except BaseException:
            dialing.close()
            raise


def reset(sock: socket.socket) -> None:
    """Close so that the other side sees a failure: RST on TCP, EPIPE or an early end on unix."""
    discard_unsent(sock)
    sock.close()


def discard_unsent(sock: socket.socket) -> None:
    """Let ``close`` reset the connection, and the kernel send nothing of what it still has (SO_LINGER 0)."""
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)


def is_deserted(sock: socket.socket) -> bool:
    """Whether whoever is at the other end of ``sock`` has hung up, and left no byte to read."""
    try:
        return not sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True


def caller_of(sock: socket.socket) -> str:
    """Write who is at the other end of ``sock``; it may have hung up already."""
    try:
        return name_of(sock.getpeername())
    except OSError:
        return "gone"


def reason_of(error: OSError) -> str:
    """Say why a system call failed, in the system's words: event loops put their own in their place."""
    if error.errno == errno.ENODEV and error.strerror:
        return error.strerror  # from ``socket_address``
    if error.errno is not None and error.errno > 0:  # below 0: a name could not be resolved
        return os.strerror(error.errno)
    return error.strerror or str(error)


def name_of(address: object) -> str:
    """Write a socket address for people: ``192.0.2.1:16515``, ``[fe80::1%eth0]:16515`` or a path."""
    if isinstance(address, tuple):
        host, port = f"{address[0]}{_interface_of(address)}", address[1]
        return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
    return str(address) or "unnamed socket"


def _interface_of(address: tuple[Any, ...]) -> str:
    """The interface of a link-local address: Python leaves it out of the text."""
    index = address[3] if len(address) > 3 else 0
    if not index or "%" in str(address[0]):
        return ""
    try:
        return f"%{socket.if_indextoname(index)}"
    except OSError:  # it has been removed meanwhile
        return f"%{index}"


def host_of(name: str) -> str:
    """The address without the port in what ``name_of`` wrote; a path stays as it is."""
    host, _, port = name.rpartition(":")
    return host.strip("[]") if port.isdecimal() else name

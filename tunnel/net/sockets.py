"""Socket options and addresses, and closing a socket so that the peer can tell a failure from an end."""

from __future__ import annotations

import errno
import os
import socket
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

NOTSENT_LOWAT = 128 * 1024
"""Unsent bytes that the kernel may queue on a lane. More would only delay sparse streams."""

USER_TIMEOUT_MS = 15_000
"""How long sent bytes may stay unacknowledged before the kernel drops a lane (tcp(7))."""

LEAST_UNREAD = 1024 * 1024
"""Lower limit of the receive buffer that ``bound_unread`` sets, in bytes."""

MOST_UNREAD = 4 * 1024 * 1024
"""Upper limit of it: where a link needs more, the kernel tunes the buffer."""

FASTEST = 8 << 30
"""Bytes per second that no connection exceeds. A buffer of this rate times the RTT never limits one."""

UNIX_UNSENT = 1024 * 1024
"""Send buffer of a unix socket to a hypervisor, in bytes: with the default, 208 KiB, most of a batch would be
copied and wait for the next loop iteration."""

STUCK = 3
"""Consecutive retransmission timeouts after which bytes are not late, but lost: with all that follow, if all
segments are too large for the path."""

LONGEST_SILENCE = 20
"""Seconds for which a connection may be idle before the kernel sends a keepalive."""

LOCAL_CONGESTION = "cubic"
"""For local connections: some systems default to a congestion control that paces even on loopback."""

_TCP_NOTSENT_LOWAT = 25  # linux/tcp.h; not in Python 3.11's socket module
_TCP_INFO_RETRANSMITS = 2  # offset of tcpi_retransmits: consecutive timeouts, reset by an ACK
_TCP_INFO_RTO = 8  # offset of tcpi_rto: the next timeout, microseconds
_TCP_INFO_MIN_RTT = 148  # offset of tcpi_min_rtt in struct tcp_info (linux/tcp.h), microseconds
_TCP_INFO_RCV_OOOPACK = 224  # offset of tcpi_rcv_ooopack: out-of-order packets received
_SO_SNDBUFFORCE = 32  # asm-generic/socket.h
_SO_RCVBUFFORCE = 33
_TRACKED_FOR = Path("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established")
_LINGER_RESET = struct.pack("ii", 1, 0)


def tune_lane(sock: socket.socket, congestion: str | None, segment: int | None = None) -> None:
    """Set the options of a lane's TCP socket. Raises OSError when ``congestion`` is not available.

    ``segment`` is the maximum segment size in bytes, in both directions, of a socket that is not connected
    yet. None leaves it to the kernel.
    SO_SNDBUF and SO_RCVBUF are not set: that would disable the kernel's autotuning (but see
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
    """Return for how many seconds at least TCP has retransmitted the same bytes, even if it stopped since.

    0.0 for bytes that may only be late. Each timeout is twice the previous one (RFC 6298, section 5.5).
    """
    with suppress(OSError):  # no TCP socket
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_RTO + 4)
        (next_timeout,) = struct.unpack_from("I", info, _TCP_INFO_RTO)
        timeouts = info[_TCP_INFO_RETRANSMITS]
        return next_timeout * (1 - 0.5**timeouts) / 1_000_000 if timeouts >= STUCK else 0.0
    return 0.0


def has_gap(sock: socket.socket) -> bool:
    """Return whether data has arrived out of order (since Linux 5.4; False before)."""
    with suppress(OSError, struct.error):
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_RCV_OOOPACK + 4)
        return bool(struct.unpack_from("I", info, _TCP_INFO_RCV_OOOPACK)[0])
    return False


def bound_unread(sock: socket.socket) -> None:
    """Limit the receive buffer of a connection with a short RTT.

    The kernel grows a receive buffer while its reader is the bottleneck, to 6 or 32 MiB. On a lane sparse
    streams wait behind all of that; from a hypervisor it exceeds the CPU caches, and is memory that is not
    accounted for. A megabyte, or the bandwidth-delay product of the fastest link, is enough.
    The window has to be set as well: with a buffer of fixed size, the kernel does not let it grow beyond
    that of a new connection (64 KiB). Without CAP_NET_ADMIN nothing changes.
    """
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_MIN_RTT + 4)
    (round_trip,) = struct.unpack_from("I", info, _TCP_INFO_MIN_RTT)
    enough = max(LEAST_UNREAD, FASTEST * round_trip // 1_000_000)
    if enough <= MOST_UNREAD:
        with suppress(PermissionError):
            sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, enough)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_WINDOW_CLAMP, enough)


def tune_local(sock: socket.socket) -> None:
    """Set the options of a hypervisor's connection, TCP or unix; its buffers only with CAP_NET_ADMIN."""
    sock.setblocking(False)
    if sock.family == socket.AF_UNIX:
        with suppress(PermissionError):
            sock.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, UNIX_UNSENT)
    else:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with suppress(OSError):  # not available: only speed depends on it
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, LOCAL_CONGESTION.encode())
        keep_tracked(sock)
        bound_unread(sock)


def keep_tracked(sock: socket.socket) -> None:
    """Keep firewalls from dropping the state of an idle TCP connection.

    A redirected connection is translated only while the kernel tracks it, and a stateful firewall refuses
    the first packet after its entry has expired. So the kernel sends keepalives (tcp(7)), three within the
    timeout of this host's connection tracking.
    """
    try:
        tracked = int(_TRACKED_FOR.read_text())
    except (OSError, ValueError):  # no connection tracking here
        tracked = 3 * LONGEST_SILENCE
    silence = max(1, min(tracked // 3, LONGEST_SILENCE))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, silence)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, silence)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def socket_address(host: str, port: int) -> tuple[socket.AddressFamily, Any]:
    """Return family and sockaddr of an IP address and the interface that it may name.

    Raises OSError, ENODEV when there is no such interface. ``bind`` would ignore an interface given as text.
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
    """Return both ends of a TCP connection over loopback, for self-tests.

    Any user may connect while one end listens: such connections are closed. Raises OSError, also after
    ``patience`` seconds.
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
    """Close so that the peer sees a failure: RST on TCP, EPIPE or an early EOF on unix."""
    discard_unsent(sock)
    sock.close()


def discard_unsent(sock: socket.socket) -> None:
    """Make ``close`` reset the connection and discard unsent data (SO_LINGER 0)."""
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)


def is_deserted(sock: socket.socket) -> bool:
    """Return whether the peer of ``sock`` has closed the connection, with no byte left to read."""
    try:
        return not sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True


def caller_of(sock: socket.socket) -> str:
    """Return the address of the peer of ``sock`` as text; "gone" when it has disconnected."""
    try:
        return name_of(sock.getpeername())
    except OSError:
        return "gone"


def reason_of(error: OSError) -> str:
    """Return the system's text for a failed system call: event loops replace it with their own."""
    if error.errno == errno.ENODEV and error.strerror:
        return error.strerror  # from ``socket_address``
    if error.errno is not None and error.errno > 0:  # below 0: name resolution failed
        return os.strerror(error.errno)
    return error.strerror or str(error)


def name_of(address: object) -> str:
    """Format a socket address: ``192.0.2.1:16515``, ``[fe80::1%eth0]:16515`` or a path."""
    if isinstance(address, tuple):
        host, port = f"{address[0]}{_interface_of(address)}", address[1]
        return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
    return str(address) or "unnamed socket"


def _interface_of(address: tuple[Any, ...]) -> str:
    """Return the interface of a link-local address, which Python leaves out of the text."""
    index = address[3] if len(address) > 3 else 0
    if not index or "%" in str(address[0]):
        return ""
    try:
        return f"%{socket.if_indextoname(index)}"
    except OSError:  # removed meanwhile
        return f"%{index}"


def host_of(name: str) -> str:
    """Return the address without the port from text of ``name_of``; a path is returned unchanged."""
    host, _, port = name.rpartition(":")
    return host.strip("[]") if port.isdecimal() else name

"""Who is at the other end of a local connection: the uid that owns the caller's socket."""

from __future__ import annotations

import asyncio
import os
import socket
import struct

from tunnel.errors import RefusedError

_UCRED = struct.Struct("iII")  # pid, uid, gid: unix(7), SO_PEERCRED


async def caller_uid(sock: socket.socket) -> int:
    """Return the uid behind an accepted connection. RefusedError when it cannot be known."""
    if sock.family == socket.AF_UNIX:
        raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        uid: int = _UCRED.unpack(raw)[1]
        return uid
    try:
        ours, theirs = sock.getsockname(), sock.getpeername()
    except OSError:
        raise RefusedError("the caller hung up before it could be identified") from None
    return await asyncio.to_thread(_tcp_owner, sock.family, theirs, ours)


def _tcp_owner(family: int, theirs: tuple[str, int], ours: tuple[str, int]) -> int:
    """Ask the kernel who owns the socket ``theirs`` → ``ours`` (sock_diag(7)).

    A socket that its process has closed, or one in TIME_WAIT, is reported with uid 0 and inode 0: to take
    that for root's would let anybody in who hangs up quickly.
    """
    from pyroute2.netlink.diag import DiagSocket  # noqa: PLC0415  10 MiB that a unix-only host never needs

    with DiagSocket() as netlink:
        netlink.bind()
        rows = netlink.get_sock_stats(family=family, sport=theirs[1], dport=ours[1])
    for row in rows:
        if (row["idiag_src"], row["idiag_dst"]) == (theirs[0], ours[0]) and row["idiag_inode"]:
            uid: int = row["idiag_uid"]
            return uid
    raise RefusedError("the caller hung up before it could be identified")


def user_name(uid: int) -> str:
    """Return the name of ``uid`` for a message, or its number."""
    import pwd  # noqa: PLC0415  only ever needed for a message

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def own_uid() -> int:
    """Return the uid that this process acts with."""
    return os.geteuid()

"""Descriptors that a program sends along with bytes (SCM_RIGHTS, unix(7)): they cannot go to another host.

Read with ``recv``, they would be closed by the kernel and nobody would know, while the far program waits for
them: libvirt does so for ``virsh start --pass-fds`` or the console of ``virt-viewer --attach``.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from contextlib import suppress

SO_PASSRIGHTS = 83
"""Whether a unix socket takes descriptors: Linux 6.16, include/uapi/asm-generic/socket.h."""


def receiver(sock: socket.socket) -> Callable[[memoryview], int]:
    """Return ``recv_into`` of a local connection, which raises OSError when descriptors came along."""
    if sock.family != socket.AF_UNIX:
        return sock.recv_into

    def receive(buffer: memoryview) -> int:
        # There is no room for any: the kernel closes them, and says so.
        count, _, flags, _ = sock.recvmsg_into([buffer])
        if flags & socket.MSG_CTRUNC:
            raise OSError(errno.EOPNOTSUPP, "file descriptors came along, and cannot go to another host")
        return count

    return receive


def refuse(sock: socket.socket) -> None:
    """Let whoever sends descriptors to ``sock`` get EPERM, where the kernel can do that.

    For sockets that are read with ``splice``, which tells nothing of descriptors.
    """
    if sock.family == socket.AF_UNIX:
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS, 0)

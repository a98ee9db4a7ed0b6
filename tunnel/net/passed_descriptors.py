"""Descriptors sent over a unix socket (SCM_RIGHTS, unix(7)), which cannot be passed to another host.

With ``recv`` the kernel would close them without notice, while the remote program waits for them: libvirt
sends some for ``virsh start --pass-fds`` or the console of ``virt-viewer --attach``.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from contextlib import suppress

SO_PASSRIGHTS = 83
"""Whether a unix socket accepts descriptors: Linux 6.16, include/uapi/asm-generic/socket.h."""


def receiver(sock: socket.socket) -> Callable[[memoryview], int]:
    """Return a ``recv_into`` for a local connection that raises OSError when descriptors are received."""
    if sock.family != socket.AF_UNIX:
        return sock.recv_into

    def receive(buffer: memoryview) -> int:
        # No buffer for ancillary data: the kernel closes descriptors, and sets MSG_CTRUNC.
        count, _, flags, _ = sock.recvmsg_into([buffer])
        if flags & socket.MSG_CTRUNC:
            raise OSError(errno.EOPNOTSUPP, "file descriptors cannot be passed to another host")
        return count

    return receive


def refuse(sock: socket.socket) -> None:
    """Make sending descriptors to ``sock`` fail with EPERM, where the kernel supports that.

    For sockets that are read with ``splice``, which does not report descriptors.
    """
    if sock.family == socket.AF_UNIX:
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS, 0)

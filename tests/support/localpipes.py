"""A hypervisor's connection in a test: a socket pair without delay."""

from __future__ import annotations

import os
import socket
import weakref

from tunnel.units import MIB


class LocalPipe:
    """Both ends, non-blocking, with a buffer of 1 MiB; closed when the object is garbage collected."""

    def __init__(self) -> None:
        ends = socket.socketpair()
        for end in ends:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * MIB)
            end.setblocking(False)
        self.ours, self._theirs = ends[0].detach(), ends[1].detach()
        for number in (self.ours, self._theirs):
            weakref.finalize(self, os.close, number)

    def say(self, data: bytes) -> int:
        """Send ``data`` from the hypervisor, as much as fits; return how many bytes."""
        return os.write(self._theirs, data)

    def unsay(self, count: int) -> None:
        """Discard ``count`` bytes that have not been read."""
        while count:
            count -= len(os.read(self.ours, count))

    def hear(self, count: int) -> bytes:
        """Return ``count`` bytes that were written to the hypervisor."""
        data = b""
        while len(data) < count:
            data += os.read(self._theirs, count - len(data))
        return data

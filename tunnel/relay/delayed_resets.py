"""Refused connections, reset no sooner than half a second after they were accepted.

QEMU connects the further channels of a migration (multifd, preemption) while the first is in use. QEMU 7.2
aborts, and the guest with it, if the first fails while another is still being connected
(``yank_register_function: Assertion `entry' failed``). A destination that refuses would end the guest at
the source that way, unless all channels are connected before the first is reset.
"""

from __future__ import annotations

import asyncio
import socket

from tunnel.net.sockets import reset

MOST_HELD = 128
"""Connections held; one more, and the oldest is reset immediately: refusals must not exhaust descriptors."""


class DelayedResets:
    """The refused connections of one ingress. ``delay``: seconds from accepting one to its reset.

    ``most`` connections are held.
    """

    def __init__(self, delay: float, most: int = MOST_HELD) -> None:
        self._delay = delay
        self._most = most
        self._held: dict[socket.socket, asyncio.TimerHandle] = {}  # oldest first

    def add(self, sock: socket.socket, accepted: float) -> None:
        """Reset ``sock`` the delay after ``accepted``, in the loop's time."""
        loop = asyncio.get_running_loop()
        if accepted + self._delay <= loop.time():
            reset(sock)
            return
        if len(self._held) >= self._most:
            self._reset(next(iter(self._held)))
        self._held[sock] = loop.call_at(accepted + self._delay, self._reset, sock)

    def close(self) -> None:
        """Reset them all now."""
        for sock in list(self._held):
            self._reset(sock)

    def _reset(self, sock: socket.socket) -> None:
        self._held.pop(sock).cancel()
        reset(sock)

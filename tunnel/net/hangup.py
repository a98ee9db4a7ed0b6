"""Detecting that a connection failed or was closed, also while it is neither read nor written.

An event loop reports only sockets that it polls for reading or writing. A stalled one is polled for neither,
and a reset of it would go unnoticed for as long. A separate epoll without EPOLLIN and EPOLLOUT becomes
readable when a socket in it fails or ends, and costs nothing before.
"""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Callable

_MOST_EVENTS = 64  # per loop iteration

Told = Callable[[bool], None]


class HangupWatch:
    """Watches sockets of the running loop for hangups; holds a descriptor only while there are any."""

    def __init__(self) -> None:
        self._epoll: select.epoll | None = None
        self._told: dict[int, Told] = {}

    def add(self, sock: socket.socket, told: Told) -> None:
        """Call ``told(failed)`` from the loop once the peer of ``sock`` has closed its direction.

        ``failed``: an error is pending (EPOLLERR), a reset; such a call may follow one without.
        Raises OSError when descriptors run out.
        """
        if self._epoll is None:
            self._epoll = select.epoll()
            asyncio.get_running_loop().add_reader(self._epoll.fileno(), self._poll)
        self._epoll.register(sock, select.EPOLLRDHUP | select.EPOLLET)
        self._told[sock.fileno()] = told

    def remove(self, descriptor: int) -> None:
        """Stop watching a socket, before it is closed; no-op for one that is not watched."""
        if self._epoll is None or self._told.pop(descriptor, None) is None:
            return
        self._epoll.unregister(descriptor)
        if not self._told:
            asyncio.get_running_loop().remove_reader(self._epoll.fileno())
            self._epoll.close()
            self._epoll = None

    def _poll(self) -> None:
        if self._epoll is None:
            return
        for descriptor, mask in self._epoll.poll(0, _MOST_EVENTS):
            if (told := self._told.get(descriptor)) is not None:  # else removed by the previous callback
                told(bool(mask & select.EPOLLERR))

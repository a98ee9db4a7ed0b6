"""Noticing that a connection failed or was closed, also while nobody reads from it or writes to it.

An event loop tells only of a socket that it is asked to read or write. One whose bytes have to wait is asked
for neither, and a reset of it would stay unknown for as long. An epoll of its own asks for no bytes: it
becomes readable when a socket in it fails or ends, and costs nothing before.
"""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Callable

_MOST_EVENTS = 64  # per turn of the loop

Told = Callable[[bool], None]


class HangupWatch:
    """Watches sockets of the running loop. It holds a descriptor only while there are any."""

    def __init__(self) -> None:
        self._epoll: select.epoll | None = None
        self._told: dict[int, Told] = {}

    def add(self, sock: socket.socket, told: Told) -> None:
        """Call ``told(failed)`` from the loop once the other side of ``sock`` sends nothing more.

        ``failed``: an error waits to be fetched (EPOLLERR), a reset; it may come after an end that was none.
        Raises OSError without descriptors.
        """
        if self._epoll is None:
            self._epoll = select.epoll()
            asyncio.get_running_loop().add_reader(self._epoll.fileno(), self._poll)
        self._epoll.register(sock, select.EPOLLRDHUP | select.EPOLLET)
        self._told[sock.fileno()] = told

    def remove(self, descriptor: int) -> None:
        """Forget a socket, before it is closed; one that is not watched is none of ours."""
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
            if (told := self._told.get(descriptor)) is not None:  # else the one before has removed it
                told(bool(mask & select.EPOLLERR))

"""Listening sockets: binding, and accepting, which pauses when descriptors run out and never stops."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import structlog

from tunnel.errors import UsageError
from tunnel.net.sockets import socket_address

BACKLOG = 1024  # with a full backlog connecting to a unix socket fails immediately
PAUSE = 0.5
"""Seconds without accepting after the process or the host ran out of descriptors or memory."""

SHARE_OF_REFUSALS = 0.05
"""Maximum fraction of the loop's time for iterations with refused connections."""

SHORTEST_REST = 0.02
"""Seconds. Waking up for each single connection costs ten times as much as accepting several in one go."""

_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_ACCEPTS_PER_TURN = 16
_IP_FREEBIND = 15  # linux/in.h; applies to IPv6 as well

log = structlog.get_logger()


def bind_tcp(host: str, port: int, *, absent: bool = False) -> socket.socket:
    """Listen on an IP address. Raises UsageError with one line of text, for example when the port is in use.

    ``absent``: even if no interface has the address yet (IP_FREEBIND).
    """
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        occupy(sock, host, port, absent=absent)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise UsageError(f"cannot listen on {host} port {port}: {_explain(error)}") from error
    return sock


def occupy(sock: socket.socket, host: str, port: int, *, absent: bool = False) -> None:
    """Bind a TCP socket as ``bind_tcp`` does, without listening. Raises OSError."""
    family, address = socket_address(host, port)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    if absent:
        sock.setsockopt(socket.SOL_IP, _IP_FREEBIND, 1)
    sock.bind(address)


def is_configured(host: str) -> bool:
    """Return whether an interface has the IP address ``host``, or it is the unspecified address."""
    try:
        family, address = socket_address(host, 0)
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.bind(address)
    except OSError as error:  # others are inconclusive, such as EMFILE
        return error.errno not in {errno.EADDRNOTAVAIL, errno.ENODEV}
    return True


def bind_unix(path: str, mode: int, owner: int | None = None) -> socket.socket:
    """Listen on a unix socket, replacing a stale one. Raises UsageError.

    The mode is set by bind: a change afterwards, by path, may apply to a file that another user has put
    there meanwhile. ``owner`` is such a change: only for directories that no other user can write to.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        before = os.umask(0o777 & ~mode)
        try:
            sock.bind(path)
        finally:
            os.umask(before)
        if owner is not None:
            os.chown(path, owner, -1, follow_symlinks=False)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise UsageError(f"cannot listen on {path}: {_explain(error)}") from error
    return sock


def is_served(path: str) -> bool:
    """Return whether a process has the unix socket at ``path`` open, without connecting to it.

    A datagram socket cannot connect to a stream socket, but the kernel checks first whether that is open
    (unix(7)): EPROTOTYPE for an open one, ECONNREFUSED for a stale file.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(path)
        except OSError as error:
            return error.errno == errno.EPROTOTYPE
    return True


def _remove_stale(path: str) -> None:
    """Remove the socket of a daemon that was killed; anything else at ``path`` makes bind fail."""
    with suppress(FileNotFoundError):
        if stat.S_ISSOCK(Path(path).lstat().st_mode) and not is_served(path):
            Path(path).unlink()


def _explain(error: OSError) -> str:
    hints = {
        errno.EADDRINUSE: "in use by another process; is mtunnel already running?",
        errno.EADDRNOTAVAIL: "this host has no such address",
        errno.EACCES: "permission denied",
        errno.ENOENT: "its directory does not exist",
    }
    return hints.get(error.errno or 0, error.strerror or str(error))


class Listener:
    """A listening socket on the event loop; passes each connection to ``accepted``, in order of arrival."""

    def __init__(self, sock: socket.socket, accepted: Callable[[socket.socket], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._accepted = accepted
        self._pause: asyncio.TimerHandle | None = None
        self._unwanted = False  # a connection of this iteration was refused
        self._path = sock.getsockname() if sock.family == socket.AF_UNIX else None
        self._file = self._found()
        sock.setblocking(False)
        self._resume()

    def close(self) -> None:
        """Stop listening, and remove a unix socket's file unless it has been replaced."""
        if self._pause is not None:
            self._pause.cancel()
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock)
            self._sock.close()
            if self._path and not self.displaced:
                with suppress(OSError):
                    Path(self._path).unlink()

    @property
    def displaced(self) -> bool:
        """Whether a unix socket's file was removed or replaced: no client can connect then."""
        return self._found() != self._file

    def _found(self) -> tuple[int, int] | None:
        with suppress(OSError):
            if self._path:
                status = Path(self._path).lstat()
                return status.st_dev, status.st_ino
        return None

    def refused(self) -> None:
        """Report that the connection just accepted was refused: pause after this iteration.

        So iterations with refused connections take SHARE_OF_REFUSALS of the loop's time at most; meanwhile
        clients wait in the backlog. A client that connects continuously costs running streams little.
        """
        self._unwanted = True

    def _resume(self) -> None:
        self._pause = None
        self._loop.add_reader(self._sock, self._accept)

    def _accept(self) -> None:
        began = time.monotonic()
        self._unwanted = False
        self._accept_some()
        if self._unwanted:
            cost = time.monotonic() - began
            self._rest(max(SHORTEST_REST, cost * (1 / SHARE_OF_REFUSALS - 1)))

    def _accept_some(self) -> None:
        for _ in range(_ACCEPTS_PER_TURN):
            if self._sock.fileno() < 0:
                return  # closed by the callback
            try:
                sock, _ = self._sock.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                self._take_a_break(error)
                return
            sock.setblocking(False)
            self._accepted(sock)

    def _rest(self, seconds: float) -> None:
        if self._sock.fileno() >= 0 and self._pause is None:
            self._loop.remove_reader(self._sock)
            self._pause = self._loop.call_later(seconds, self._resume)

    def _take_a_break(self, error: OSError) -> None:
        level = log.warning if error.errno in _EXHAUSTED else log.error
        level("cannot accept, trying again", error=error.strerror, seconds=PAUSE)
        self._rest(PAUSE)

"""Accepting connections without ever dying of it: running out of descriptors is a pause, not an end."""

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

BACKLOG = 1024  # a caller of a unix socket that finds it full fails at once
PAUSE = 0.5
"""Seconds without accepting after the process or the host ran out of descriptors or memory."""

SHARE_OF_REFUSALS = 0.05
"""The part of the loop's time that turns with refused connections may take."""

SHORTEST_REST = 0.02
"""Seconds. To wake up for every single connection costs ten times as much as to take several at once."""

_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_ACCEPTS_PER_TURN = 16
_IP_FREEBIND = 15  # linux/in.h; counts for IPv6 as well

log = structlog.get_logger()


def bind_tcp(host: str, port: int, *, absent: bool = False) -> socket.socket:
    """Listen on an IP address. Raises UsageError in one clear line, for example when the port is taken.

    ``absent``: also on one that no interface has yet.
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
    """Whether an interface has the IP address ``host``, or it stands for all of them."""
    try:
        family, address = socket_address(host, 0)
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.bind(address)
    except OSError as error:  # another is no answer, such as having no descriptor left
        return error.errno not in {errno.EADDRNOTAVAIL, errno.ENODEV}
    return True


def bind_unix(path: str, mode: int, owner: int | None = None) -> socket.socket:
    """Listen on a unix socket, in place of one that nobody serves any more. Raises UsageError.

    It has its mode from its first moment: a change afterwards, by the same path, may hit what somebody has
    put there meanwhile. ``owner`` is such a change: only for directories that nobody else may write to.
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
    """Whether some process has the unix socket at ``path``. It does not learn of the question.

    A socket of another kind cannot be connected to, but the kernel looks whether it is there before that
    (unix(7)): EPROTOTYPE is the answer for a stream, ECONNREFUSED for a file that nobody has bound.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(path)
        except OSError as error:
            return error.errno == errno.EPROTOTYPE
    return True


def _remove_stale(path: str) -> None:
    """Remove the socket of a daemon that was killed; anything else at ``path`` is an error for bind."""
    with suppress(FileNotFoundError):
        if stat.S_ISSOCK(Path(path).lstat().st_mode) and not is_served(path):
            Path(path).unlink()


def _explain(error: OSError) -> str:
    hints = {
        errno.EADDRINUSE: "it is in use by another process; is mtunnel running already?",
        errno.EADDRNOTAVAIL: "this host has no such address",
        errno.EACCES: "permission denied",
        errno.ENOENT: "its directory does not exist",
    }
    return hints.get(error.errno or 0, error.strerror or str(error))


class Listener:
    """A listening socket on the loop; ``accepted`` gets each connection, in the order they came."""

    def __init__(self, sock: socket.socket, accepted: Callable[[socket.socket], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._accepted = accepted
        self._pause: asyncio.TimerHandle | None = None
        self._unwanted = False  # one of this turn's connections was refused
        self._path = sock.getsockname() if sock.family == socket.AF_UNIX else None
        self._file = self._found()
        sock.setblocking(False)
        self._resume()

    def close(self) -> None:
        """Stop listening; a unix socket's file goes too, unless it is another's by now."""
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
        """Whether a unix socket has lost its file, removed or exchanged by somebody: nobody comes then."""
        return self._found() != self._file

    def _found(self) -> tuple[int, int] | None:
        with suppress(OSError):
            if self._path:
                status = Path(self._path).lstat()
                return status.st_dev, status.st_ino
        return None

    def refused(self) -> None:
        """The connection that was just accepted is one that nobody wants: rest after this turn.

        Turns with such connections so take SHARE_OF_REFUSALS of the loop's time at most, and those who come
        meanwhile wait in the kernel: whoever connects all the time costs running streams little.
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
                return  # whoever got the last connection closed us
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

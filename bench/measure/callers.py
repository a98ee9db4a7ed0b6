"""A flood of connections at a steady rate, by clients without a certificate or without permission.

One process and one loop, and the bytes to send are prepared once, so the attacker uses little CPU.
Connections stay open until a thousand newer ones exist, or the other side closes them. The reply to each line
on standard input is one JSON object: connections ``made`` so far, and those that ``failed`` because they were
not accepted; EOF ends the process. ``listen`` is the other role: a plain listener, which accepts and closes.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import select
import socket
import ssl
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum

from tunnel.bench.measure.endpoint import ProgramAddress
from tunnel.host.descriptors import raise_limit
from tunnel.net.sockets import reset
from tunnel.wire.codes import ALPN

PER_MINUTE = 10_000

_KEPT = 1000
_TICK = 0.02  # seconds
_AT_ONCE = 32
_GONE = {errno.ECONNRESET, errno.EPIPE}
_IP_BIND_ADDRESS_NO_PORT = 24  # linux/in.h


class Says(StrEnum):
    """What each connection sends."""

    SILENT = "silent"
    GARBAGE = "garbage"
    HELLO = "hello"


def words(says: Says) -> bytes:
    """Return the bytes that each connection sends."""
    if says is Says.HELLO:
        return _hello()
    return b"GET / HTTP/1.0\r\n\r\n" if says is Says.GARBAGE else b""


def _hello() -> bytes:
    """Return a ClientHello, which is sent on every connection, like a recorded one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([ALPN])
    outgoing = ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing).do_handshake()
    return outgoing.read()


class Callers:
    """Connects to ``endpoint``, ``per_second`` times a second; 0: without limit.

    ``source``: the source IP address; "" leaves it to the kernel.
    """

    def __init__(self, endpoint: ProgramAddress, says: bytes, per_second: float, source: str = "") -> None:
        self.made = 0
        self.failed = 0
        self._endpoint = endpoint
        self._says = says
        self._per_second = per_second
        self._source = source
        self._tried = 0
        self._began = 0.0
        self._fresh: list[socket.socket] = []  # not known to be accepted yet
        self._open: deque[socket.socket] = deque()

    def run(self, over: Callable[[float], bool]) -> None:
        """Connect until ``over(seconds)``, which may wait that long, returns true; may be called again."""
        self._began = self._began or time.monotonic()
        while not over(_TICK if self._per_second else 0):
            self._judge_fresh()
            due = self._tried + _AT_ONCE
            if self._per_second:
                due = min(due, int((time.monotonic() - self._began) * self._per_second))
            while self._tried < due:
                self._connect()

    def close(self) -> None:
        """Close all open connections."""
        for sock in (*self._fresh, *self._open):
            sock.close()

    def _connect(self) -> None:
        self._tried += 1
        sock = socket.socket(socket.AF_UNIX if self._endpoint.is_unix else socket.AF_INET)
        sock.setblocking(False)
        if self._source:
            sock.setsockopt(socket.SOL_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
            sock.bind((self._source, 0))
        sock.connect_ex(self._endpoint.path or (self._endpoint.host, self._endpoint.port))
        if not self._is_taken(sock):
            self._fresh.append(sock)

    def _judge_fresh(self) -> None:
        """Check connections again that were not accepted immediately: by now they are, or have failed."""
        fresh, self._fresh = self._fresh, []
        for sock in fresh:
            if not self._is_taken(sock):
                self.failed += 1
                sock.close()

    def _is_taken(self, sock: socket.socket) -> bool:
        if not _was_taken(sock):
            return False
        self.made += 1
        with suppress(OSError):  # the other side has already closed it
            sock.send(self._says)
        self._open.append(sock)
        while len(self._open) > _KEPT:
            self._open.popleft().close()
        return True


def _was_taken(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) in _GONE
    return True


def listen(endpoint: ProgramAddress) -> None:
    """Accept and close, forever: the minimum work of a server."""
    with endpoint.listen() as server:
        if endpoint.is_unix:
            os.chmod(endpoint.path, 0o666)  # noqa: PTH101, S103  for all users
        while True:
            reset(server.accept()[0])


def _asked(seconds: float) -> bool:
    return bool(select.select([sys.stdin], [], [], seconds)[0])


def call(callers: Callers) -> None:
    """Connect until EOF on standard input, and reply to each line there."""
    while True:
        callers.run(_asked)
        if not sys.stdin.readline():
            break
        print(json.dumps({"made": callers.made, "failed": callers.failed}), flush=True)
    callers.close()


def main() -> None:
    """Run the role that the command line selects."""
    parser = argparse.ArgumentParser(prog="tunnel.bench.measure.callers", description=__doc__)
    parser.add_argument("role", choices=["call", "listen"])
    parser.add_argument("endpoint", type=ProgramAddress.parse)
    parser.add_argument("--says", type=Says, default=Says.SILENT)
    parser.add_argument("--per-second", type=float, default=PER_MINUTE / 60, help="0: without limit")
    parser.add_argument("--source", default="", help="source IP address")
    parser.add_argument("--uid", type=int, help="user id of the connections; needs root")
    arguments = parser.parse_args()
    raise_limit()
    if arguments.uid is not None:
        os.setgroups([])
        os.setgid(arguments.uid)
        os.setuid(arguments.uid)
    if arguments.role == "listen":
        listen(arguments.endpoint)
    else:
        said = words(arguments.says)
        call(Callers(arguments.endpoint, said, arguments.per_second, arguments.source))


if __name__ == "__main__":
    main()

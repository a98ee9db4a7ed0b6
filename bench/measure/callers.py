"""Connections in numbers, at a steady rate: whoever has no certificate, or may not use an ingress.

One process and one loop, and what a connection says is made once: so little of the machine is the attacker's.
Connections stay open until a thousand others have come, or the other side ends them. Each line on standard
input is answered by one JSON object: connections ``made`` so far, and those that ``failed`` because nobody
took them; its end ends the process. ``listen`` is the other role: a plain listener, which accepts and closes.
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
    """What each connection says."""

    SILENT = "silent"
    GARBAGE = "garbage"
    HELLO = "hello"


def words(says: Says) -> bytes:
    """The bytes for it."""
    if says is Says.HELLO:
        return _hello()
    return b"GET / HTTP/1.0\r\n\r\n" if says is Says.GARBAGE else b""


def _hello() -> bytes:
    """A ClientHello as anybody may record one, and send it again and again."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([ALPN])
    outgoing = ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing).do_handshake()
    return outgoing.read()


class Callers:
    """Connects to ``endpoint``, ``per_second`` times a second, 0 for as often as it can.

    ``source``: the IP address that all come from; "" leaves it to the kernel.
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
        self._fresh: list[socket.socket] = []  # not known to be taken yet
        self._open: deque[socket.socket] = deque()

    def run(self, over: Callable[[float], bool]) -> None:
        """Connect until ``over``, which may wait for so many seconds, says so; may be called again."""
        self._began = self._began or time.monotonic()
        while not over(_TICK if self._per_second else 0):
            self._judge_fresh()
            due = self._tried + _AT_ONCE
            if self._per_second:
                due = min(due, int((time.monotonic() - self._began) * self._per_second))
            while self._tried < due:
                self._connect()

    def close(self) -> None:
        """Close what is open."""
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
        """Look once more at those that were not taken at once; by now they are, or not at all."""
        fresh, self._fresh = self._fresh, []
        for sock in fresh:
            if not self._is_taken(sock):
                self.failed += 1
                sock.close()

    def _is_taken(self, sock: socket.socket) -> bool:
        if not _was_taken(sock):
            return False
        self.made += 1
        with suppress(OSError):  # the other side has ended it already
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
    """Accept and close, for ever: the least that any server must do."""
    with endpoint.listen() as server:
        if endpoint.is_unix:
            os.chmod(endpoint.path, 0o666)  # noqa: PTH101, S103  for whoever comes
        while True:
            reset(server.accept()[0])


def _asked(seconds: float) -> bool:
    return bool(select.select([sys.stdin], [], [], seconds)[0])


def call(callers: Callers) -> None:
    """Connect until standard input ends, and answer what is asked there."""
    while True:
        callers.run(_asked)
        if not sys.stdin.readline():
            break
        print(json.dumps({"made": callers.made, "failed": callers.failed}), flush=True)
    callers.close()


def main() -> None:
    """Be one of the two, as the command line says."""
    parser = argparse.ArgumentParser(prog="tunnel.bench.measure.callers", description=__doc__)
    parser.add_argument("role", choices=["call", "listen"])
    parser.add_argument("endpoint", type=ProgramAddress.parse)
    parser.add_argument("--says", type=Says, default=Says.SILENT)
    parser.add_argument("--per-second", type=float, default=PER_MINUTE / 60, help="0: as often as it can")
    parser.add_argument("--source", default="", help="the IP address that all come from")
    parser.add_argument("--uid", type=int, help="whom the connections are by; needs root")
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

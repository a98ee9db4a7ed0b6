"""Strangers in numbers: connections without a certificate, at a steady rate, on a thread."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections import deque
from contextlib import suppress
from enum import StrEnum
from types import TracebackType
from typing import Self

from tests.support.rawpeer import client_context

PER_SECOND = 10_000 / 60

_KEPT = 1000
_TICK = 0.02


class Stranger(StrEnum):
    """What each connection says."""

    SILENT = "silent"
    GARBAGE = "garbage"
    RECORDED = "recorded hello"


class Flood:
    """Connects to ``address`` (``IP:PORT``) while it is entered; ``made`` counts."""

    def __init__(self, address: str, stranger: Stranger, per_second: float = PER_SECOND) -> None:
        host, _, port = address.rpartition(":")
        self._address = (host, int(port))
        self._says = {
            Stranger.SILENT: b"",
            Stranger.GARBAGE: b"GET / HTTP/1.0\r\n\r\n",
            Stranger.RECORDED: _hello(),
        }[stranger]
        self._per_second = per_second
        self._open: deque[socket.socket] = deque()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="flood")
        self.made = 0

    def _run(self) -> None:
        begin = time.monotonic()
        while not self._over.wait(_TICK):
            due = (time.monotonic() - begin) * self._per_second
            while self.made < due and not self._over.is_set():
                self._connect()

    def _connect(self) -> None:
        self.made += 1
        with suppress(OSError):
            sock = socket.create_connection(self._address, 5)
            self._open.append(sock)
            sock.sendall(self._says)
        while len(self._open) > _KEPT:
            self._open.popleft().close()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        for sock in self._open:
            sock.close()


def _hello() -> bytes:
    """A ClientHello as anybody may record one, and send it again and again."""
    outgoing = ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        client_context(None).wrap_bio(ssl.MemoryBIO(), outgoing).do_handshake()
    return outgoing.read()

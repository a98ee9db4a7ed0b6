"""A relay that only moves bytes: half of the floor, and a contestant.

Two of these in a row have the minimum cost of two more hops over loopback: each byte is received once and
sent once by either, in large pieces, by blocking threads. A relay that encrypts additionally pays for AES-GCM
twice (:mod:`tunnel.bench.measure.floor`).
"""

from __future__ import annotations

import argparse
import socket
import threading
from contextlib import suppress

from tunnel.bench.measure.endpoint import ProgramAddress

CHUNK = 256 << 10  # as for the tuned contestants


def relay(listen: ProgramAddress, connect: ProgramAddress) -> None:
    """Relay every connection from ``listen`` to ``connect``, forever."""
    with listen.listen() as server:
        while True:
            near, _ = server.accept()
            threading.Thread(target=_carry, args=(near, connect), daemon=True).start()


def _carry(near: socket.socket, connect: ProgramAddress) -> None:
    with near, suppress(OSError), connect.connect() as far:
        far.settimeout(None)
        back = threading.Thread(target=_pump, args=(far, near), daemon=True)
        back.start()
        _pump(near, far)
        back.join()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    buffer = memoryview(bytearray(CHUNK))
    with suppress(OSError):  # either connection may break at any time: the other is then shut down below
        while received := source.recv_into(buffer):
            sink.sendall(buffer[:received])
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def main() -> None:
    """Run one side until killed."""
    parser = argparse.ArgumentParser(prog="tunnel.bench.measure.plain_relay", description=__doc__)
    parser.add_argument("listen", type=ProgramAddress.parse)
    parser.add_argument("connect", type=ProgramAddress.parse)
    arguments = parser.parse_args()
    relay(arguments.listen, arguments.connect)


if __name__ == "__main__":
    main()

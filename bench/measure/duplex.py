"""Bulk in both directions, on several connections: two small processes that check every byte.

The content of a stream is a function of its number, its direction and the offset, with a period that no size
of a record or a frame divides. So lost, duplicated or misplaced data is detected where it arrives. One
process connects, the other accepts; each prints one JSON object at the end: ``seconds``, ``gap`` (the longest
time in which nothing arrived on a stream that was not complete) and ``silence`` (the same on all streams
together), both in seconds, from the first byte on.
"""

from __future__ import annotations

import argparse
import json
import random
import selectors
import socket
import struct
import time
from contextlib import ExitStack
from dataclasses import dataclass

from tunnel.bench.measure.endpoint import ProgramAddress

PIECE = 256 * 1024
_PERIOD = 1_048_583  # prime
_NOISE = random.Random(16515).randbytes(_PERIOD) * 2  # noqa: S311  not for secrets
_VIEW = memoryview(_NOISE)
_NUMBER = struct.Struct("!H")
_READY_SECONDS = 20.0


def content(stream: int, offset: int, size: int, *, called: bool) -> memoryview:
    """Return what the caller's end of ``stream``, or the ``called`` one, sends: at most ``PIECE`` bytes."""
    first = _first(stream, offset, called=called)
    return _VIEW[first : first + size]


def is_content(data: memoryview, stream: int, offset: int, *, called: bool) -> bool:
    """Return whether ``data`` equals ``content``. Views are compared bytewise; this is a memcmp."""
    return _NOISE.startswith(data, _first(stream, offset, called=called))


def _first(stream: int, offset: int, *, called: bool) -> int:
    return (offset + stream * 7919 + called * 524_287) % _PERIOD


@dataclass
class End:
    """One end of a stream, which sends ``count`` bytes and receives as many."""

    sock: socket.socket
    stream: int
    called: bool
    count: int
    sent: int = 0
    received: int = 0
    last: float = 0.0  # time of the last arrival
    gap: float = 0.0

    def send(self) -> None:
        """Send as much as the socket accepts, at most ``PIECE`` bytes."""
        size = min(PIECE, self.count - self.sent)
        self.sent += self.sock.send(content(self.stream, self.sent, size, called=self.called))

    def receive(self, buffer: memoryview, now: float) -> None:
        """Receive at most ``PIECE`` bytes. Raises ConnectionError when they are wrong."""
        size = self.sock.recv_into(buffer)
        if not size:
            raise ConnectionError(f"stream {self.stream} ended {self.count - self.received} bytes early")
        if not is_content(buffer[:size], self.stream, self.received, called=not self.called):
            raise ConnectionError(f"stream {self.stream}: wrong data at offset {self.received}")
        self.gap = max(self.gap, now - self.last if self.last else 0.0)
        self.received, self.last = self.received + size, now

    @property
    def done(self) -> bool:
        """Whether everything was sent and received."""
        return self.sent == self.received == self.count


def exchange(ends: list[End]) -> dict[str, float]:
    """Transfer everything and close; return the figures of this process. Raises OSError."""
    buffer, started, silence, last = memoryview(bytearray(PIECE)), time.monotonic(), 0.0, 0.0
    with selectors.DefaultSelector() as selector, ExitStack() as sockets:
        for end in ends:
            sockets.enter_context(end.sock).setblocking(False)
            selector.register(end.sock, selectors.EVENT_READ | selectors.EVENT_WRITE, end)
        while selector.get_map():
            for key, ready in selector.select():
                end = key.data
                if ready & selectors.EVENT_READ and end.received < end.count:
                    now = time.monotonic()
                    silence, last = max(silence, now - last if last else 0.0), now
                    end.receive(buffer, now)
                if ready & selectors.EVENT_WRITE and end.sent < end.count:
                    end.send()
                _watch(selector, end)
    gap = max(end.gap for end in ends)
    return {"seconds": time.monotonic() - started, "gap": gap, "silence": silence}


def _watch(selector: selectors.BaseSelector, end: End) -> None:
    """Register the events that an end still needs."""
    events = selectors.EVENT_READ * (end.received < end.count)
    events |= selectors.EVENT_WRITE * (end.sent < end.count)
    if not events:
        selector.unregister(end.sock)
    elif events != selector.get_key(end.sock).events:
        selector.modify(end.sock, events, end)


def call(endpoint: ProgramAddress, streams: int, count: int) -> list[End]:
    """Open the connections; each sends its number first."""
    ends = []
    for stream in range(streams):
        sock = endpoint.connect()
        sock.settimeout(_READY_SECONDS)
        sock.sendall(_NUMBER.pack(stream))
        ends.append(End(sock, stream, called=False, count=count))
    return ends


def be_called(endpoint: ProgramAddress, streams: int, count: int) -> list[End]:
    """Accept the connections, which relays may open in a different order."""
    ends = []
    with endpoint.listen() as server:
        for _ in range(streams):
            sock, _ = server.accept()
            (stream,) = _NUMBER.unpack(sock.recv(_NUMBER.size, socket.MSG_WAITALL))
            ends.append(End(sock, stream, called=True, count=count))
    return ends


def main() -> None:
    """Run the role that the command line selects."""
    parser = argparse.ArgumentParser(prog="tunnel.bench.measure.duplex", description=__doc__)
    parser.add_argument("role", choices=["caller", "called"])
    parser.add_argument("endpoint", type=ProgramAddress.parse)
    parser.add_argument("--streams", type=int, required=True)
    parser.add_argument("--count", type=int, required=True, help="bytes on each stream, in each direction")
    arguments = parser.parse_args()
    meet = call if arguments.role == "caller" else be_called
    ends = meet(arguments.endpoint, arguments.streams, arguments.count)
    print(json.dumps(exchange(ends)), flush=True)


if __name__ == "__main__":
    main()

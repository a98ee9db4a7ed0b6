"""One active stream beside many stalled ones, in simulated time: it is as fast as without them.

A link has a bandwidth and a latency. What a receiver does periodically it does when it is due; PING, with
which credit of any amount was always sent, is left out.
"""

from __future__ import annotations

from collections import deque

import pytest

from tests.support.wire import frames
from tunnel.units import KIB, MIB
from tunnel.wire.codec import parse_header
from tunnel.wire.events import StreamRequested
from tunnel.wire.frames import ControlFrame, Frame, Limits
from tunnel.wire.session import Session, Settings
from tunnel.wire.window import ACK_DELAY

LATENCY = 0.0001  # seconds, one way: a step of the simulation
RATE = 512 * MIB  # bytes a second
STREAMS = 256
AMOUNT = 128 * MIB
LIMITS = Limits(STREAMS, 1024)


class End:
    """A session and what is in flight to it."""

    def __init__(self, memory: int, *, initiator: bool) -> None:
        self.session = Session(b"S" * 16, Settings(LIMITS, memory), LIMITS, initiator=initiator)
        self.session.recovery.attach(1)
        self.incoming: deque[tuple[int, int, int] | Frame] = deque()  # a piece of DATA, or a control frame
        self.heard = 0  # sequenced frames
        self.stalled: set[int] = set()
        self.delivered = 0


class Simulation:
    """``a`` sends to ``b``."""

    def __init__(self, memory_a: int, memory_b: int) -> None:
        self.a, self.b = End(memory_a, initiator=True), End(memory_b, initiator=False)
        self.now = 0.0
        self._next_look = ACK_DELAY
        self._left = 0.0  # bytes that the link takes in this step

    def open(self) -> int:
        number = self.a.session.open("tcp:127.0.0.1:49152")
        for _ in range(2):
            self.step()
        return number

    def step(self) -> None:
        """Let everything travel one way, in both directions at the same time."""
        self.now += LATENCY
        self._left = min(0.0, self._left) + RATE * LATENCY
        if self.now >= self._next_look:
            self._next_look += ACK_DELAY
            for end in (self.a, self.b):
                end.session.tell_late()
        there, back = self._sent(self.a), self._sent(self.b)
        self._receive(self.b, there)
        self._receive(self.a, back)

    def _sent(self, end: End) -> list[tuple[int, int, int] | Frame]:
        sent: list[tuple[int, int, int] | Frame] = []
        while True:
            sent += frames(end.session.control())
            turn = end.session.pick() if self._left > 0 else None
            if turn is None:
                return sent
            outgoing = end.session.send(turn[0], range(min(turn[1], 256 * KIB)), 1)
            header = parse_header(outgoing.header)
            sent.append((header.stream, header.offset, header.length))
            self._left -= header.length

    def _receive(self, end: End, items: list[tuple[int, int, int] | Frame]) -> None:
        for item in items:
            if isinstance(item, tuple):
                number, offset, length = item
                end.session.data(number, offset, range(length))
                if number not in end.stalled:
                    end.session.delivered(number, length, self.now)
                    end.delivered += length
                continue
            sequence = end.heard
            end.heard += isinstance(item, ControlFrame)
            for event in end.session.receive(item, sequence):
                if isinstance(event, StreamRequested):
                    end.session.accept(event.stream)

    def stall(self, count: int) -> None:
        """Open streams whose receiver delivers nothing, and let them send until they are blocked."""
        for _ in range(count):
            number = self.open()
            self.b.stalled.add(number)
            self.a.session.ready(number)
        while self.a.session.busy or self.a.session._senders.scheduler:
            self.step()

    def crossing(self, amount: int) -> float:
        """Return the seconds that ``amount`` bytes of an additional stream take."""
        number, began, before = self.open(), self.now, self.b.delivered
        self.a.session.ready(number)
        while self.b.delivered - before < amount:
            self.step()
            assert self.now - began < 10 * amount / RATE + 1, "it starves"
        self.a.session.not_ready(number)
        return self.now - began


@pytest.mark.parametrize("stalled", [16, STREAMS - 1])
@pytest.mark.parametrize(
    ("memory_a", "memory_b"),
    [(64, 64), (256, 256), (64, 256), (64, 1024), (256, 64), (1024, 64)],
    ids=lambda mib: f"{mib}MiB",
)
def test_a_stream_is_as_fast_beside_stalled_ones(memory_a: int, memory_b: int, stalled: int) -> None:
    alone = Simulation(memory_a * MIB, memory_b * MIB).crossing(AMOUNT)
    assert alone == pytest.approx(AMOUNT / RATE, rel=0.1)
    crowded = Simulation(memory_a * MIB, memory_b * MIB)
    crowded.stall(stalled)
    assert crowded.crossing(AMOUNT) < alone / 0.8


@pytest.mark.parametrize(("memory_a", "memory_b"), [(64, 1024), (64, 64), (1, 256)])
def test_many_active_streams_share_a_small_memory(memory_a: int, memory_b: int) -> None:
    """No stream is stalled: all of them together are as fast as one."""
    simulation = Simulation(memory_a * MIB, memory_b * MIB)
    for _ in range(128):
        simulation.a.session.ready(simulation.open())
    began, before = simulation.now, simulation.b.delivered
    while simulation.b.delivered - before < AMOUNT:
        simulation.step()
        assert simulation.now - began < AMOUNT / RATE / 0.8

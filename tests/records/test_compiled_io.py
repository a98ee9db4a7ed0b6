"""Record I/O on the compiled engine: what is taken from the queue, and what stays pending."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Iterator

import pytest

from tests.support.compiled_engine import compiled_engine
from tests.support.rfc8448 import CLIENT, SERVER, SUITE
from tunnel.errors import LaneError
from tunnel.records.compiled_io import MOST_PIECES, CompiledRecordIo
from tunnel.records.key_schedule import Direction, Keys
from tunnel.records.record_io import BATCH, PythonRecordIo
from tunnel.records.record_layer import RecordLayer
from tunnel.records.record_sealer import Content

HERE, THERE = Direction(CLIENT, 0), Direction(SERVER, 0)
Ends = tuple[CompiledRecordIo, PythonRecordIo]


@pytest.fixture
def ends() -> Iterator[Ends]:
    """One end on the engine, the other in Python, over a connection with small buffers."""
    engine = compiled_engine()
    near, far = socket.socketpair()
    with near, far:
        for sock in (near, far):
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
        yield (
            CompiledRecordIo(near, RecordLayer(Keys(SUITE, HERE, THERE), engine), engine),
            PythonRecordIo(far, RecordLayer(Keys(SUITE, THERE, HERE))),
        )


def received(io: CompiledRecordIo | PythonRecordIo) -> bytes:
    """Return what was received so far; there must be no end."""
    plain, got = memoryview(bytearray(BATCH)), b""
    while True:
        count, over, cut = io.receive(plain)
        assert (over, cut) == (None, "")
        got += plain[:count]
        if not io.more:
            return got


def test_a_queue_of_many_pieces_is_taken_in_order(ends: Ends) -> None:
    near, far = ends
    pieces: list[Content] = [bytes([number % 251]) * (number % 5) for number in range(3 * MOST_PIECES + 1)]
    unsent = deque(pieces)
    near.send(unsent)
    assert not unsent
    assert not near.full
    assert received(far) == b"".join(pieces)
    assert near.content_sent == sum(map(len, pieces))


def test_bytes_left_by_a_full_socket_are_not_counted_and_sent_later(ends: Ends) -> None:
    near, far = ends
    content = bytes(range(256)) * 5000
    unsent: deque[Content] = deque([content[:7], memoryview(content)[7:]])
    near.send(unsent)
    assert near.full
    assert near.content_sent == 0
    assert 0 < sum(map(len, unsent)) < len(content)
    arrived = b""
    while len(arrived) < len(content):
        arrived += received(far)
        near.send(unsent)
    assert arrived == content
    assert (near.full, near.content_sent) == (False, len(content))


def test_a_pending_key_update_waits_for_sealed_records(ends: Ends) -> None:
    near, far = ends
    unsent: deque[Content] = deque([bytes(200_000)])
    near.send(unsent)
    near.layer.owes_update = True
    near.send(unsent)
    arrived, owed = 0, [near.layer.owes_update]
    while owed[-1]:
        arrived += len(received(far))
        near.send(unsent)
        owed.append(near.layer.owes_update)
    assert len(owed) > 1, "it is pending while records of the old key are unsent"
    unsent.append(b"under the new key")
    near.send(unsent)
    arrived += len(received(far))
    assert arrived == 200_000 + 17
    assert near.layer.records_sent == 1


def test_nothing_is_sealed_after_the_end(ends: Ends) -> None:
    near, far = ends
    near.end()
    near.send(deque())
    plain = memoryview(bytearray(BATCH))
    _, over, _ = far.receive(plain)
    assert over is not None
    with pytest.raises(LaneError, match="after the end"):
        near.send(deque([b"x"]))


def test_nothing_is_opened_after_the_peers_end(ends: Ends) -> None:
    near, far = ends
    far.send(deque([b"last"]))
    far.end()
    far.send(deque())
    plain = memoryview(bytearray(BATCH))
    count, over, _ = near.receive(plain)
    assert (count, near.more) == (4, False)
    assert over is not None
    assert near.receive(plain) == (0, over, "")

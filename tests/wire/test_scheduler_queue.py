"""Which streams may send: in order, as soon as they may, and without checking those that may not."""

from __future__ import annotations

from tunnel.units import KIB, MIB
from tunnel.wire.scheduler import SendQueue
from tunnel.wire.states import StreamPhase
from tunnel.wire.stream import Stream
from tunnel.wire.window import KEEP_FLOOR


def made(memory: int, *limits: int) -> tuple[SendQueue, dict[int, Stream]]:
    """Return a queue of streams 1, 3, ... with these limits."""
    streams: dict[int, Stream] = {}
    for number, limit in enumerate(limits):
        stream = streams[2 * number + 1] = Stream(2 * number + 1, "x", StreamPhase.OPENING, MIB)
        stream.opened(limit)
    return SendQueue(memory, streams), streams


def send_all(senders: SendQueue, streams: dict[int, Stream]) -> dict[int, int]:
    """Let all streams send that may; return how much each did."""
    sent = dict.fromkeys(streams, 0)
    while (picked := senders.pick()) is not None:
        number, allowance = picked
        streams[number].send(range(allowance), 1)
        senders.sent(streams[number], allowance)
        sent[number] += allowance
    return sent


def credit(senders: SendQueue, stream: Stream, count: int, limit: int) -> None:
    frames = stream.frames
    released = stream.credited(count, limit)
    senders.released(stream, released, frames - stream.frames)


def test_a_stream_without_window_waits_for_credit_of_its_own() -> None:
    senders, streams = made(64 * MIB, 100, 200)
    for stream in streams.values():
        senders.ready(stream)
    assert send_all(senders, streams) == {1: 100, 3: 200}
    assert senders.waits(1)
    credit(senders, streams[3], 200, 300)
    assert senders.waits(1)
    assert send_all(senders, streams) == {1: 0, 3: 100}


def test_a_stream_without_memory_continues_when_another_frees_some() -> None:
    senders, streams = made(4 * MIB, 8 * MIB, 8 * MIB)
    senders.ready(streams[1])
    first = send_all(senders, streams)[1]
    senders.ready(streams[3])
    send_all(senders, streams)
    assert senders.waits(3)
    credit(senders, streams[1], first, 8 * MIB)
    assert not senders.waits(3)
    assert send_all(senders, streams)[3] > 0


def test_a_closed_stream_leaves_its_memory_to_others() -> None:
    senders, streams = made(4 * MIB, 8 * MIB, 8 * MIB)
    for stream in streams.values():
        senders.ready(stream)
    send_all(senders, streams)
    senders.forget(streams.pop(1))
    assert send_all(senders, streams)[3] > KEEP_FLOOR
    senders.forget(streams.pop(3))
    assert (senders.retention.kept, senders.retention.used) == (0, 0)


def test_a_stream_with_nothing_to_send_does_not_wait() -> None:
    senders, streams = made(0, 100 * KIB)
    senders.ready(streams[1])
    send_all(senders, streams)
    assert senders.waits(1)
    senders.idle(1)
    assert not senders.waits(1)
    credit(senders, streams[1], 100 * KIB, 200 * KIB)
    assert senders.pick() is None


def test_positions_may_unblock_any_stream() -> None:
    senders, streams = made(64 * MIB, 100, 100)
    for stream in streams.values():
        senders.ready(stream)
    send_all(senders, streams)
    for stream in streams.values():
        stream.out.limit = 150
    senders.retry()
    assert send_all(senders, streams) == {1: 50, 3: 50}


def test_memory_may_grow_or_shrink() -> None:
    senders, streams = made(MIB, 64 * MIB)
    senders.ready(streams[1])
    sent = send_all(senders, streams)[1]
    assert KEEP_FLOOR <= sent <= 2 * MIB
    assert senders.waits(1)
    senders.allot(9 * MIB)
    assert not senders.waits(1)
    assert 4 * MIB < send_all(senders, streams)[1] <= 9 * MIB
    senders.allot(MIB)
    senders.ready(streams[1])
    assert send_all(senders, streams)[1] == 0, "what is kept already stays"

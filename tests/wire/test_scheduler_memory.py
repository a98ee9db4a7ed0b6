"""What a sender may keep, and what it costs."""

from __future__ import annotations

import pytest

from tunnel.units import KIB, MIB
from tunnel.wire.codes import MAX_DATA
from tunnel.wire.scheduler import SLIVER, Retention
from tunnel.wire.states import StreamPhase
from tunnel.wire.stream import KEPT_COST, Stream
from tunnel.wire.window import KEEP_FLOOR


def opened(limit: int = 64 * MIB) -> Stream:
    stream = Stream(1, "unix:/run/qemu/a", StreamPhase.OPENING, 4 * MIB)
    stream.opened(limit)
    return stream


def send(retention: Retention, stream: Stream, *sizes: int) -> None:
    for size in sizes:
        stream.send(range(size), 1)
        retention.keep(stream, size)


def test_the_window_bounds_what_is_sent_as_long_as_there_is_memory() -> None:
    retention = Retention(256 * MIB)
    assert retention.allowance(opened(100)) == 100
    assert retention.allowance(opened()) == MAX_DATA


@pytest.mark.parametrize("memory", [0, 100 * KIB])
def test_every_stream_has_its_floor(memory: int) -> None:
    retention, first, second = Retention(memory), opened(), opened()
    send(retention, first, KEEP_FLOOR + memory * 3 // 4 - KEPT_COST)
    assert retention.allowance(first) <= 0
    assert retention.starves(first)
    assert retention.allowance(second) == KEEP_FLOOR - KEPT_COST


def test_a_frame_costs_more_than_its_payload() -> None:
    retention, stream = Retention(MIB), opened()
    send(retention, stream, *[1] * 1000)
    assert stream.cost == 1000 * (1 + KEPT_COST)
    assert retention.free(carried=True) == MIB, "the floor covers it"
    stream.credited(400, 64 * MIB)
    assert (stream.frames, stream.cost) == (600, 600 * (1 + KEPT_COST))


def test_a_sliver_is_not_offered_while_more_is_in_flight() -> None:
    retention, stream = Retention(MIB), opened(4 * KIB + SLIVER - 1)
    send(retention, stream, 4 * KIB)
    assert (retention.allowance(stream), retention.offer(stream)) == (SLIVER - 1, 0)
    stream.credited(4 * KIB, 4 * KIB + SLIVER - 1)
    assert retention.offer(stream) == SLIVER - 1


@pytest.mark.parametrize(
    ("memory", "window", "sent", "short"),
    [
        (
            256 * MIB,
            4 * MIB,
            MIB - 1,
            False,
        ),  # enough for a quarter of the window, and credit is due for that
        (0, 4 * MIB, KEEP_FLOOR // 2 - KEPT_COST, False),  # half of it is used, and not more
        (0, 4 * MIB, KEEP_FLOOR // 2, True),
        (0, KIB, KIB // 2, False),  # a quarter of so small a window is delivered
        (3 * MIB, 64 * MIB, MAX_DATA, False),
        (MIB, 64 * MIB, MAX_DATA - KIB, True),
    ],
)
def test_whether_a_stream_is_short_of_memory(memory: int, window: int, sent: int, short: bool) -> None:
    retention, stream = Retention(memory), opened(window)
    send(retention, stream, sent)
    assert retention.short(stream) is short

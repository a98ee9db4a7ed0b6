"""The order of sending: fair by bytes, and a stream that was idle sends before the others."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnel.units import KIB, MIB
from tunnel.wire.scheduler import (
    CHANNELS,
    HEAD_START,
    LONG_QUANTUM,
    QUANTUM,
    SMALL_QUANTUM,
    SPARSE_HORIZON,
    Scheduler,
)


def turns(scheduler: Scheduler, count: int, sizes: dict[int, int]) -> list[int]:
    """Run the next ``count`` quanta; ``sizes`` has how much each stream sends at a time."""
    order = []
    for _ in range(count):
        number = scheduler.next()
        assert number is not None
        scheduler.sent(number, sizes[number])
        order.append(number)
    return order


def of(*ready: int) -> Scheduler:
    scheduler = Scheduler()
    for number in ready:
        scheduler.ready(number)
    return scheduler


def test_no_stream_is_ready() -> None:
    assert of().next() is None
    assert len(of()) == 0


def test_next_changes_nothing() -> None:
    scheduler = of(1, 2)
    assert [scheduler.next() for _ in range(3)] == [1, 1, 1]


def test_equal_streams_alternate() -> None:
    assert turns(of(1, 2, 3), 6, {1: 10, 2: 10, 3: 10}) == [1, 2, 3, 1, 2, 3]


def test_fair_by_bytes_not_by_quanta() -> None:
    order = turns(of(1, 2), 110, {1: 1000, 2: 100})
    assert Counter(order) == {1: 10, 2: 100}


def test_a_sparse_stream_goes_before_bulk() -> None:
    """A post-copy page request does not queue behind gigabytes."""
    scheduler = of(1, 2)
    turns(scheduler, 50, {1: 1 << 20, 2: 1 << 20})
    scheduler.ready(9)
    assert scheduler.next() == 9
    scheduler.sent(9, 100)
    scheduler.idle(9)
    turns(scheduler, 3, {1: 1 << 20, 2: 1 << 20})
    scheduler.ready(9)
    assert scheduler.next() == 9


def test_a_sparse_stream_goes_before_many_that_are_level() -> None:
    """Streams that send alike have equal tags; a sparse one waits for none of them, however often."""
    bulk = range(1, 65)
    scheduler = of(*bulk)
    turns(scheduler, 64, dict.fromkeys(bulk, 1 << 18))
    for turn in range(640):
        turns(scheduler, 1, dict.fromkeys(bulk, 1 << 18))
        scheduler.ready(99)
        assert scheduler.next() == 99, f"turn {turn}"
        scheduler.sent(99, 1000)
        scheduler.idle(99)


def test_a_sparse_stream_does_not_wait_for_a_batch_of_each_that_begins() -> None:
    """Bulk streams that were idle join before it; each passes it with its head start, not with a batch."""
    bulk = range(1, 65)
    scheduler = of(*bulk, 99)
    sizes = dict.fromkeys((*bulk, 99), MIB)
    turns(scheduler, 650, sizes)
    for number in sizes:
        scheduler.idle(number)
    scheduler.ready(7)
    turns(scheduler, 100, sizes)
    scheduler.ready(99)
    turns(scheduler, 1, {99: 1000})
    for number in bulk:
        scheduler.ready(number)
    passed = 0
    while (number := scheduler.next()) != 99:
        assert number is not None
        share = scheduler.share(number, MIB)
        scheduler.sent(number, share)
        passed += share
    assert passed == 63 * HEAD_START


def test_only_a_head_start_limits_a_quantum() -> None:
    scheduler = of(1)
    scheduler.sent(1, 2 * HEAD_START)
    assert (scheduler.next(), scheduler.share(1, MIB)) == (1, MIB)
    scheduler.ready(2)
    assert (scheduler.next(), scheduler.share(2, MIB), scheduler.share(2, 10)) == (2, HEAD_START, 10)
    scheduler.sent(2, HEAD_START)
    scheduler.idle(1)
    assert (scheduler.next(), scheduler.share(2, MIB)) == (2, MIB)


def test_quanta_are_small_while_a_sparse_stream_is_active() -> None:
    """What it sends next waits for the current quantum."""
    scheduler = of(1)
    turns(scheduler, 3, {1: QUANTUM})
    assert (scheduler.turn, scheduler.long_turn) == (QUANTUM, LONG_QUANTUM)
    scheduler.ready(9)
    turns(scheduler, 1, {9: 100})
    scheduler.idle(9)
    assert (scheduler.turn, scheduler.long_turn) == (SMALL_QUANTUM, QUANTUM)
    turns(scheduler, SPARSE_HORIZON // QUANTUM - 1, {1: QUANTUM})
    assert scheduler.turn == SMALL_QUANTUM
    turns(scheduler, 1, {1: QUANTUM})
    assert (scheduler.turn, scheduler.long_turn) == (QUANTUM, LONG_QUANTUM)


@pytest.mark.parametrize(("channels", "expected"), [(CHANNELS, QUANTUM), (CHANNELS + 1, SMALL_QUANTUM)])
def test_channels_of_one_guest_keep_large_quanta_beside_their_sparse_one(
    channels: int, expected: int
) -> None:
    scheduler = of(*range(1, channels + 1))
    turns(scheduler, 3 * channels, dict.fromkeys(range(1, channels + 1), QUANTUM))
    scheduler.ready(99)
    turns(scheduler, 1, {99: 100})
    scheduler.idle(99)
    assert (scheduler.turn, scheduler.long_turn) == (SMALL_QUANTUM, expected)


def test_a_stream_that_uses_up_its_head_start_is_not_sparse() -> None:
    """Bulk that begins, or that a slow hypervisor sends in pieces, makes no quantum smaller."""
    scheduler = of(1)
    turns(scheduler, 3, {1: QUANTUM})
    for _ in range(3):
        scheduler.ready(2)
        assert turns(scheduler, 1, {2: HEAD_START}) == [2]
        scheduler.idle(2)
        turns(scheduler, 1, {1: QUANTUM})
    assert scheduler.turn == QUANTUM


def test_alone_no_stream_is_sparse() -> None:
    scheduler = of(1)
    turns(scheduler, 1, {1: HEAD_START})
    turns(scheduler, 10, {1: 100})
    assert scheduler.turn == QUANTUM


def test_idle_time_is_not_saved_up() -> None:
    """A stream that was idle gets a head start and its share from now on, not what it missed."""
    scheduler = of(1, 2)
    scheduler.idle(2)
    turns(scheduler, 1000, {1: KIB})
    scheduler.ready(2)
    head = HEAD_START // KIB
    assert Counter(turns(scheduler, head + 100, {1: KIB, 2: KIB})) == {1: 50, 2: head + 50}


def test_pausing_does_not_jump_the_queue() -> None:
    scheduler = of(1, 2)
    got = Counter[int]()
    for _ in range(200):
        (number,) = turns(scheduler, 1, {1: 10, 2: 10})
        got[number] += 1
        if number == 2:
            scheduler.idle(2)
            scheduler.ready(2)
    assert got == {1: 100, 2: 100}


def test_ready_and_idle_are_idempotent() -> None:
    scheduler = of(1, 1)
    assert len(scheduler) == 1
    scheduler.idle(1)
    scheduler.idle(1)
    assert (scheduler.next(), len(scheduler)) == (None, 0)


def test_bytes_of_a_stream_that_is_not_ready_count_too() -> None:
    """Its last bytes left after it became idle."""
    scheduler = of(1, 2)
    scheduler.idle(1)
    scheduler.sent(1, 100)
    scheduler.ready(1)
    assert turns(scheduler, 3, {1: 50, 2: 50}) == [2, 2, 1]


def test_forget_leaves_nothing_behind() -> None:
    scheduler = of(1, 2)
    turns(scheduler, 4, {1: 10, 2: 10})
    scheduler.forget(1)
    scheduler.forget(2)
    scheduler.forget(3)
    assert (scheduler.next(), scheduler._tags, scheduler._ready) == (None, {}, set())


@given(
    sizes=st.lists(st.integers(1, MIB), min_size=2, max_size=6),
    joins=st.lists(st.integers(0, 200), min_size=6, max_size=6),
)
def test_busy_streams_get_the_same_but_for_a_quantum_and_a_head_start(
    sizes: list[int], joins: list[int]
) -> None:
    scheduler, wants = Scheduler(), dict(enumerate(sizes))
    got = dict.fromkeys(wants, 0)
    for turn in range(400):
        for number in [n for n in wants if joins[n] == turn]:
            got = dict.fromkeys(wants, 0)  # the shares are even from one arrival to the next
            scheduler.ready(number)
        if (chosen := scheduler.next()) is not None:
            scheduler.sent(chosen, wants[chosen])
            got[chosen] += wants[chosen]
        present = [got[n] for n in wants if joins[n] <= turn]
        assert not present or max(present) - min(present) <= 2 * max(sizes) + HEAD_START


@pytest.mark.parametrize("count", [1, 10_000_000_000_000])
def test_any_amount_is_accepted(count: int) -> None:
    scheduler = of(1, 2)
    assert turns(scheduler, 4, {1: count, 2: count}) == [1, 2, 1, 2]

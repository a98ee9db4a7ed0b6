"""Flow-control arithmetic: what may be sent, what must be kept, when credit is due."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnel.errors import ProtocolError
from tunnel.units import KIB, MIB
from tunnel.wire.codes import MAX_OFFSET, Code
from tunnel.wire.window import FLOOR_WINDOW, STEP, MemoryBudget, ReceiveWindow, SendWindow

# The budget of a link.


def test_an_early_stream_gets_what_it_requests_and_leaves_most_of_the_budget() -> None:
    budget = MemoryBudget(256 * MIB)
    assert budget.take(4 * MIB) == 4 * MIB
    assert budget.take(1024 * MIB) == FLOOR_WINDOW + (192 - 3) * MIB // 4


def test_a_late_stream_gets_the_floor_at_least() -> None:
    budget = MemoryBudget(8 * MIB)
    granted = [budget.take(4 * MIB) for _ in range(20)]
    assert granted[0] == FLOOR_WINDOW + 6 * MIB // 4
    assert granted == sorted(granted, reverse=True)
    assert FLOOR_WINDOW <= granted[-1] < FLOOR_WINDOW + KIB * 100
    assert budget.used == sum(granted) - 20 * FLOOR_WINDOW


def test_no_grant_exceeds_the_request() -> None:
    assert MemoryBudget(0).take(100) == 100
    assert MemoryBudget(4 * MIB).grow(MIB, 100, carried=False) == 100


def test_growth_takes_half_of_what_is_free_and_nothing_from_an_empty_budget() -> None:
    budget = MemoryBudget(4 * MIB)
    assert budget.grow(MIB, 8 * MIB, carried=False) == 3 * MIB // 2
    assert budget.grow(MIB, 8 * MIB, carried=False) == 3 * MIB // 4
    assert MemoryBudget(0).grow(MIB, MIB, carried=True) == 0
    assert MemoryBudget(0).grow(KIB, MIB, carried=True) == MIB - KIB, "the floor is beside it"
    assert budget.grow(MIB, 0, carried=False) == 0


def test_a_quarter_is_left_to_streams_that_have_carried_something() -> None:
    budget = MemoryBudget(4 * MIB)
    for _ in range(30):
        budget.take(64 * MIB)
    assert budget.grow(MIB, MIB, carried=False) < KIB
    assert budget.grow(MIB, MIB, carried=True) > MIB // 2 - KIB


@given(
    st.integers(0, 4 * MIB),
    st.lists(st.tuples(st.integers(-1, 40), st.integers(0, 8 * MIB), st.booleans()), max_size=40),
)
def test_a_budget_is_exceeded_by_floors_only_and_comes_back(
    total: int, asks: list[tuple[int, int, bool]]
) -> None:
    budget, windows = MemoryBudget(total), list[int]()
    for index, wanted, carried in asks:
        if 0 <= index < len(windows):
            granted = budget.grow(windows[index], wanted, carried=carried)
            windows[index] += granted
        else:
            windows.append(granted := budget.take(wanted))
        assert 0 <= granted <= wanted
        assert sum(windows) <= total + FLOOR_WINDOW * len(windows)
        assert budget.used <= total
    for each in windows:
        budget.give_back(each)
    assert budget.used == 0


# What we send.


def test_a_window_opens_with_credit() -> None:
    window = SendWindow()
    assert window.limit - window.sent == 0
    window.credit(0, 100)
    window.sent = 60
    assert (window.limit - window.sent, window.unacknowledged) == (40, 60)
    window.credit(50, 150)
    assert (window.limit - window.sent, window.unacknowledged) == (90, 10)


def test_an_overtaken_credit_changes_nothing() -> None:
    window = SendWindow(100)
    window.sent = 100
    window.credit(80, 180)
    window.credit(20, 120)
    assert (window.delivered, window.limit) == (80, 180)


@pytest.mark.parametrize(("delivered", "limit"), [(61, 200), (50, 49), (MAX_OFFSET, MAX_OFFSET)])
def test_an_impossible_credit(delivered: int, limit: int) -> None:
    window = SendWindow(100)
    window.sent = 60
    with pytest.raises(ProtocolError, match="impossible credit") as caught:
        window.credit(delivered, limit)
    assert caught.value.code is Code.FLOW_CONTROL
    assert (window.delivered, window.limit) == (0, 100)


# What we receive.


def test_bytes_up_to_the_limit_and_not_one_more() -> None:
    window = ReceiveWindow(100)
    window.check(0, 100)
    window.check(99, 1)
    for offset, length in ((0, 101), (100, 1), (MAX_OFFSET, 1)):
        with pytest.raises(ProtocolError) as caught:
            window.check(offset, length)
        assert caught.value.code is Code.FLOW_CONTROL


def test_no_window_reaches_beyond_the_last_offset() -> None:
    window = ReceiveWindow(MAX_OFFSET + 100)
    window.check(MAX_OFFSET - 1, 1)
    with pytest.raises(ProtocolError):
        window.check(MAX_OFFSET, 1)


def test_credit_is_due_after_a_quarter_and_until_it_is_advertised() -> None:
    window = ReceiveWindow(100)
    window.received = 60
    assert [window.deliver(count) for count in (12, 12, 1, 1)] == [False, False, True, True]
    assert (window.unadvertised, window.advertise()) == (True, (26, 126))
    assert (window.unadvertised, window.advertise()) == (False, (26, 126))
    assert not window.deliver(24)
    assert window.deliver(1)


def test_a_position_gives_credit_that_is_due_all_the_same() -> None:
    window = ReceiveWindow(100)
    window.received = 60
    assert window.deliver(60)
    assert window.position() == (60, 160)
    window.check(100, 60)  # the peer may have received it
    assert window.unadvertised, "and may not have"
    assert window.deliver(0)


def test_the_smallest_window_still_moves() -> None:
    window = ReceiveWindow(1)
    window.received = 1
    assert window.deliver(1)
    assert window.advertise() == (1, 2)


def test_only_what_was_advertised_may_be_sent() -> None:
    window = ReceiveWindow(100)
    window.received = 100
    window.deliver(100)
    with pytest.raises(ProtocolError):
        window.check(100, 1)
    window.advertise()
    window.check(100, 100)


def test_a_grown_window_is_advertised_with_the_next_credit() -> None:
    window = ReceiveWindow(100)
    window.size += 300
    assert window.limit == 100
    assert window.advertise() == (0, 400)


def test_less_than_a_quarter_is_due_to_a_peer_that_requests_it_and_once() -> None:
    window = ReceiveWindow(4 * MIB)
    window.received = MIB
    assert not window.deliver(STEP - 1)
    assert not window.ask()
    assert window.deliver(1)
    window.advertise()
    assert not window.deliver(STEP)
    assert window.ask(), "that was delivered already"
    assert window.told == (STEP, STEP + 4 * MIB)


@given(st.lists(st.integers(0, 50), max_size=30))
def test_a_limit_never_shrinks_and_spans_one_window(counts: list[int]) -> None:
    window, before = ReceiveWindow(100), (0, 100)
    for count in counts:
        window.received += count
        window.deliver(count)
        delivered, limit = window.advertise()
        assert delivered >= before[0]
        assert limit >= before[1]
        assert limit == delivered + window.size
        before = delivered, limit


# Whether the window is too small for the path.


def test_the_first_credit_does_not_show_the_pace() -> None:
    assert not ReceiveWindow(100).outpaced(now=1.0, round_trip=10.0)


@pytest.mark.parametrize(
    ("elapsed", "round_trip", "outpaced"),
    [(0.049, 0.1, True), (0.05, 0.1, False), (0.2, 0.1, False), (0.001, 0.0, False)],
)
def test_a_quarter_within_half_a_round_trip_is_too_fast(
    elapsed: float, round_trip: float, outpaced: bool
) -> None:
    window = ReceiveWindow(4 * KIB)
    window.outpaced(now=0.0, round_trip=round_trip)
    assert window.outpaced(now=elapsed, round_trip=round_trip) is outpaced

"""When CREDIT is sent: immediately, late, or to request credit."""

from __future__ import annotations

from tests.support.wire import frames
from tunnel.units import MIB
from tunnel.wire.frames import Credit, Frame
from tunnel.wire.window import Credits, ReceiveWindow

SIZE = 4 * MIB


def delivered(count: int) -> ReceiveWindow:
    """Return a window of which ``count`` bytes were delivered, and none advertised."""
    window = ReceiveWindow(SIZE)
    window.received = MIB
    window.deliver(count)
    return window


def said(made: Credits) -> list[Frame]:
    told: list[Frame] = []
    while raw := made.next():
        told += frames(raw)
    return told


def test_due_credit_is_sent_in_order_and_once() -> None:
    made = Credits()
    assert made.due(3, delivered(5))
    assert made.due(1, delivered(6))
    assert not made.due(3, delivered(5))
    assert made
    assert said(made) == [Credit(3, 5, 5 + SIZE), Credit(1, 6, 6 + SIZE)]
    assert not made


def test_an_amount_that_does_not_grow_is_reported_late() -> None:
    made, window = Credits(), delivered(5)
    made.wait(1, window)
    made.tell_late()
    assert (made.late, said(made)) == (True, [])
    made.tell_late()
    assert (made.late, said(made)) == (False, [Credit(1, 5, 5 + SIZE)])


def test_an_amount_that_grows_waits_for_its_quarter() -> None:
    made, window = Credits(), delivered(5)
    for _ in range(10):
        made.wait(1, window)
        window.deliver(1)
        made.tell_late()
    assert (made.late, said(made)) == (True, [])


def test_what_was_reported_meanwhile_is_not_reported_late() -> None:
    made, window = Credits(), delivered(5)
    made.wait(1, window)
    window.advertise()
    made.tell_late()
    assert (made.late, said(made)) == (False, [])


def test_no_credit_for_a_closed_stream() -> None:
    made = Credits()
    made.wait(1, delivered(5))
    made.due(3, delivered(5))
    made.ask(5, delivered(5))
    for number in (1, 3, 5):
        made.forget(number)
    made.tell_late()
    made.tell_late()
    assert (made.late, said(made)) == (False, [])


def test_a_request_is_a_credit_without_news() -> None:
    made, window = Credits(), ReceiveWindow(SIZE)
    made.ask(1, window)
    assert said(made) == [Credit(1, 0, SIZE)]
    window.received = 5
    window.deliver(5)
    made.ask(1, window)
    assert said(made) == [Credit(1, 5, 5 + SIZE)] * 2, "the first of them has news"
    made.due(1, window)
    assert said(made) == [Credit(1, 5, 5 + SIZE)]

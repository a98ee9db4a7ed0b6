"""The batch size follows the link rate: a millisecond of it, bounded, and grows when the link is free."""

from __future__ import annotations

import pytest

from tunnel.lanes.quanta import LARGEST, LINK_TIME, SMALLEST, WINDOW, BatchSizer
from tunnel.units import KIB, MIB


def drain(
    pace: BatchSizer, rate: float, *, now: float = 100.0, seconds: float = 2.0, step: float = 0.004
) -> None:
    """Simulate a link of ``rate`` bytes per second whose socket is always full."""
    pace.sent(0, now, congested=True)
    for _ in range(round(seconds / step)):
        now += step
        pace.sent(int(rate * step), now, congested=True)


def test_it_starts_large() -> None:
    assert BatchSizer().batch == LARGEST


@pytest.mark.parametrize("rate", [30 * MIB, 100 * MIB, 800 * MIB])
def test_a_batch_is_a_millisecond_of_a_full_link(rate: int) -> None:
    pace = BatchSizer()
    drain(pace, rate)
    assert pace.rate == pytest.approx(rate, rel=0.01)
    assert pace.batch == pytest.approx(rate * LINK_TIME, rel=0.01)


@pytest.mark.parametrize(("rate", "batch"), [(10 * KIB, SMALLEST), (MIB, SMALLEST), (64 << 30, LARGEST)])
def test_a_batch_stays_within_bounds(rate: int, batch: int) -> None:
    pace = BatchSizer()
    drain(pace, rate)
    assert pace.batch == batch


def test_a_peer_that_is_not_scheduled_for_a_moment_is_not_a_slow_link() -> None:
    pace = BatchSizer()
    drain(pace, 100 * MIB)
    before = pace.batch
    drain(pace, MIB, now=102.0, seconds=10 * WINDOW, step=WINDOW * 1.01)
    assert pace.batch == before


def test_the_batch_follows_a_changed_rate() -> None:
    pace = BatchSizer()
    drain(pace, 800 * MIB)
    drain(pace, 50 * MIB, now=102.0)
    assert pace.batch == pytest.approx(50 * MIB * LINK_TIME, rel=0.05)


def test_a_slow_source_is_not_a_slow_link() -> None:
    pace = BatchSizer()
    for number in range(1000):
        pace.sent(100, number * 0.01, congested=False)
    assert (pace.rate, pace.batch) == (0.0, LARGEST)


def test_a_link_that_is_free_again_gets_large_batches_again() -> None:
    pace = BatchSizer()
    drain(pace, MIB)
    assert pace.batch == SMALLEST
    now = 1000.0
    for _ in range(int(10 * WINDOW / 0.001)):
        now += 0.001
        pace.sent(SMALLEST, now, congested=False)
    assert pace.batch == LARGEST


class Socket:
    """A socket on a link of ``rate`` bytes per second; full with ``HOLDS`` unsent bytes."""

    HOLDS = 128 * KIB

    def __init__(self, rate: float, wait: float = 0.0) -> None:
        self.now = 1000.0
        self.rate = rate
        self._wait = max(wait, self.HOLDS / 2 / rate)
        self._unsent = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self._unsent = max(0.0, self._unsent - self.rate * seconds)

    def send(self, pace: BatchSizer, count: int) -> int:
        """Take up to ``count`` bytes, as far as there is room; return how many."""
        took = min(count, int(self.HOLDS - self._unsent))
        self._unsent += took
        pace.sent(took, self.now, congested=took < count)
        return took

    def send_all(self, pace: BatchSizer, count: int) -> None:
        """Send like a lane: when full, retry after half of the buffer has drained, or ``wait`` seconds."""
        while count := count - self.send(pace, count):
            self.sleep(self._wait)


def test_small_batches_do_not_stay_small() -> None:
    """The socket takes several of them once it has room: a single one does not fill it."""
    pace = BatchSizer()
    drain(pace, MIB)
    assert pace.batch == SMALLEST
    sock = Socket(800 * MIB, wait=0.002)
    for _ in range(10_000):
        sock.send_all(pace, pace.batch)
    assert pace.batch == pytest.approx(sock.HOLDS * LINK_TIME / 0.002, rel=0.1)


def test_a_source_that_pauses_does_not_lower_the_rate() -> None:
    """Idle time is not counted."""
    pace = BatchSizer()
    sock = Socket(400 * MIB)
    for _ in range(200):
        sock.send_all(pace, MIB)
        sock.sleep(0.01)
    assert pace.rate == pytest.approx(400 * MIB, rel=0.3)


def test_bursts_that_fill_the_socket_once_do_not_keep_batches_small() -> None:
    """A socket that is full once gives no rate: batches grow until a burst is one batch."""
    pace = BatchSizer()
    drain(pace, MIB)
    assert pace.batch == SMALLEST
    sock = Socket(800 * MIB)
    burst = sock.HOLDS + SMALLEST
    for _ in range(20):
        left = burst
        while left:
            left -= (piece := min(left, pace.batch))
            sock.send_all(pace, piece)
        sock.sleep(WINDOW)
    assert pace.batch >= burst


def test_a_clock_that_stands_still_does_no_harm() -> None:
    pace = BatchSizer()
    for congested in (True, False, True, True, False):
        pace.sent(MIB, 5.0, congested=congested)
    assert pace.batch == LARGEST

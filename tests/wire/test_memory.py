"""Memory stays within the bounds of SPEC.md section 11: measured, with frames of any size."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import pytest

from tests.support.sessions import TARGET, Remote, make, opened
from tunnel.units import KIB, MIB
from tunnel.wire.frames import Fin, Open
from tunnel.wire.session import Settings
from tunnel.wire.window import FLOOR_WINDOW, KEEP_FLOOR

COUNT = 2
MEMORY = MIB
SLACK = 64 * KIB
"""For the overhead of each stream and the session themselves."""


@pytest.fixture
def _traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


def grown() -> int:
    return tracemalloc.get_traced_memory()[0]


@pytest.mark.usefixtures("_traced")
@pytest.mark.parametrize("size", [1, 10, 300, 5000, 200_000])
def test_memory_of_a_sender(size: int) -> None:
    session, _ = opened(Settings(memory=MEMORY), limit=2**40, count=COUNT)
    for number in range(1, 2 * COUNT, 2):
        session.ready(number)
    before = grown()
    while (turn := session.pick()) is not None:
        session.send(turn[0], bytes(min(size, turn[1])), lane=1)
    assert MEMORY // 4 < grown() - before < MEMORY + COUNT * KEEP_FLOOR + SLACK


@pytest.mark.usefixtures("_traced")
@pytest.mark.parametrize("step", [4, 30, 5000, 100_000])
def test_memory_of_a_receiver(step: int) -> None:
    """Every other piece arrives early, as far as the windows allow."""
    session = make(Settings(memory=0), initiator=False)
    Remote(session).says(Open(1, 1, TARGET))
    session.accept(1)
    before = grown()
    for offset in range(step // 2, FLOOR_WINDOW - step // 2, step):
        session.data(1, offset, bytes(step // 2))
    assert FLOOR_WINDOW // 4 < grown() - before < 1.25 * FLOOR_WINDOW + SLACK


@pytest.mark.usefixtures("_traced")
def test_memory_of_early_control_frames() -> None:
    session = make(initiator=False)
    before = grown()
    for sequence in range(1, 1024):
        list(session.receive(Fin(1, sequence), sequence))
    assert grown() - before < 1024 * KIB

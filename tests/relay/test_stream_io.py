"""Scheduling of a link's lanes, and an internal error while sending."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.links import Pair, goodbye, last, pipes
from tests.support.waiting import turns, unexpected
from tunnel.relay.stream_io import LinkSender
from tunnel.wire.codes import Code


class Recorded(LinkSender):
    """A sender with lanes 1 to ``lanes``; ``order`` has those that it filled."""

    def __init__(self, lanes: int) -> None:
        self.members = SimpleNamespace(session=None)
        self.lanes = {epoch: epoch for epoch in range(1, lanes + 1)}
        super().__init__(self, "hosta")  # type: ignore[arg-type]  # the part of a link that is used here
        self.order: list[Any] = []

    def fill(self, lane: Any) -> None:
        self.order.append(lane)


async def test_kicks_are_coalesced() -> None:
    sending = Recorded(1)
    for _ in range(3):
        sending.kick()
    assert sending.order == []
    await turns()
    assert sending.order == [1]


async def test_lanes_are_rotated() -> None:
    sending = Recorded(3)
    for _ in range(3):
        sending.kick()
        await turns()
    assert sending.order == [2, 3, 1, 3, 1, 2, 1, 2, 3]


async def test_internal_error_ends_the_session_and_names_the_host(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object) -> bytes:
        raise RuntimeError("a bug")

    monkeypatch.setattr(type(pair.a.session), "control", broken)
    lane = pipes(pair.a)[1]
    with unexpected() as found:
        pair.a.kick()
        await turns()
    monkeypatch.undo()
    assert goodbye(lane.said) is Code.INTERNAL
    assert last(pair.a) == ("link down", "internal error on hosta: RuntimeError('a bug')")
    assert len(found) == 1

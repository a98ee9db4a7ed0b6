"""Numbers of streams: whose they are, that none is used twice, and what a closed stream gives back."""

from __future__ import annotations

import pytest

from tunnel.errors import MisuseError, ProtocolError, RefusedError
from tunnel.wire import stream_registry as module
from tunnel.wire.codes import Code, FrameType
from tunnel.wire.frames import Limits, Open
from tunnel.wire.stream_registry import StreamRegistry

TARGET = "tcp:127.0.0.1:49152"


def registry(*, initiator: bool = True) -> StreamRegistry:
    return StreamRegistry(Limits(2, 64), Limits(2, 64), memory=1 << 24, window=1 << 22, initiator=initiator)


@pytest.mark.parametrize(("initiator", "numbers"), [(True, [1, 3]), (False, [2, 4])])
def test_each_side_opens_its_own_numbers(initiator: bool, numbers: list[int]) -> None:
    streams = registry(initiator=initiator)
    assert [streams.open(TARGET).number for _ in numbers] == numbers
    assert all(streams.is_ours(number) and not streams.is_ours(number + 1) for number in numbers)
    with pytest.raises(RefusedError):
        streams.open(TARGET)


@pytest.mark.parametrize("number", [1, 2, 4], ids=["ours", "used", "used and closed"])
def test_the_peer_may_use_a_number_of_its_own_once(number: int) -> None:
    streams = registry()
    for theirs in (2, 4):
        assert streams.requested(Open(theirs, 1000, TARGET)).out.limit == 1000
    streams.remove(streams.get(4))
    with pytest.raises(ProtocolError, match="number reused or of the wrong parity") as caught:
        streams.requested(Open(number, 1000, TARGET))
    assert caught.value.code is Code.STREAM_STATE


def test_our_numbers_are_not_used_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_STREAM_ID", 3)
    streams = registry()
    for _ in range(2):
        streams.remove(streams.open(TARGET))
    with pytest.raises(RefusedError, match="used up"):
        streams.open(TARGET)


def test_a_frame_for_a_closed_stream_finds_none_and_for_one_never_opened_is_an_error() -> None:
    streams = registry()
    stream = streams.open(TARGET)
    assert streams.find(1, FrameType.DATA) is stream
    streams.remove(stream)
    assert streams.find(1, FrameType.DATA) is None
    for number in (3, 2):
        with pytest.raises(ProtocolError, match=f"DATA on stream {number}, which was never opened"):
            streams.find(number, FrameType.DATA)
    with pytest.raises(MisuseError):
        streams.get(1)


def test_a_closed_stream_gives_back_its_place_and_its_window() -> None:
    streams = registry()
    before = streams.places.vacant
    stream = streams.open(TARGET)
    assert streams.budget.used > 0
    streams.remove(stream)
    assert (streams.places.vacant, streams.budget.used) == (before, 0)

"""How many streams may be open: counted, released, and refused to either side."""

from __future__ import annotations

import pytest

from tunnel.errors import ProtocolError, RefusedError
from tunnel.wire.codec import MAX_STREAMS
from tunnel.wire.codes import Code
from tunnel.wire.stream_limit import StreamLimit


def test_ours_are_refused_beyond_what_the_peer_allows() -> None:
    places = StreamLimit(2, 5)
    for left in (1, 0):
        places.take_ours()
        assert places.vacant == left
    with pytest.raises(RefusedError, match=r"allows 2 streams at once .*transport\.streams") as caught:
        places.take_ours()
    assert caught.value.code is Code.STREAM_LIMIT
    places.give_back(ours=True)
    places.take_ours()


def test_more_streams_than_granted_are_a_protocol_error() -> None:
    places = StreamLimit(5, 2)
    for full in (False, True):
        places.take_theirs()
        assert places.is_full is full
    assert places.theirs == 2
    with pytest.raises(ProtocolError, match="more than 2 streams") as caught:
        places.take_theirs()
    assert caught.value.code is Code.STREAM_LIMIT
    places.give_back(ours=False)
    places.take_theirs()
    assert places.vacant == 5, "the two sides are counted apart"


def test_no_side_has_more_than_a_position_in_resume() -> None:
    places = StreamLimit(1 << 32, 1 << 32)
    assert places.allowed == places.granted == MAX_STREAMS

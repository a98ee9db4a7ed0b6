"""The control channel: numbered frames, processed in order, once each, even when lanes are lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnel.errors import ProtocolError
from tunnel.wire.codec import parse, parse_header
from tunnel.wire.codes import HEADER_SIZE, Code
from tunnel.wire.control_channel import CROWDED, ControlChannel
from tunnel.wire.frames import ControlFrame, Fin


def channel(window: int = 8, peer_window: int = 8, frames: int = 0) -> ControlChannel:
    """Return one that has ``frames`` frames to send: FINs, each with its own number as final offset."""
    made = ControlChannel(window, peer_window)
    for number in range(frames):
        made.push(Fin(1, number))
    return made


def pop(sender: ControlChannel) -> tuple[ControlFrame, int]:
    raw = sender.pop()
    header = parse_header(raw)
    frame = parse(header, raw[HEADER_SIZE:])
    assert isinstance(frame, Fin)
    return frame, header.offset


def pop_all(sender: ControlChannel) -> list[int]:
    """Send everything that may be sent; return the sequence numbers."""
    sent = []
    while sender.pending:
        frame, number = pop(sender)
        assert frame == Fin(1, number)
        sent.append(number)
    return sent


def arrive(receiver: ControlChannel, *numbers: int) -> list[int]:
    obeyed = [frame for number in numbers for frame in receiver.arrived(Fin(1, number), number)]
    return [frame.final for frame in obeyed if isinstance(frame, Fin)]


def test_frames_are_numbered_from_zero() -> None:
    assert pop_all(channel(frames=3)) == [0, 1, 2]


def test_no_more_than_the_peer_allows() -> None:
    sender = channel(peer_window=2, frames=5)
    assert pop_all(sender) == [0, 1]
    sender.credited(delivered=1, limit=4)
    assert pop_all(sender) == [2, 3]
    sender.credited(delivered=4, limit=6)
    assert pop_all(sender) == [4]


def test_frames_are_processed_in_order_and_once() -> None:
    receiver = channel()
    assert arrive(receiver, 1, 2) == []
    assert arrive(receiver, 2, 0) == [0, 1, 2]
    assert arrive(receiver, 0, 1, 2, 3) == [3]


def test_a_number_beyond_the_window_is_an_error() -> None:
    receiver = channel(window=4)
    arrive(receiver, 3)
    for number in (4, 2**64 - 1):
        with pytest.raises(ProtocolError) as caught:
            arrive(receiver, number)
        assert caught.value.code is Code.FLOW_CONTROL


def test_acknowledgement_is_due_after_a_quarter_of_the_window() -> None:
    receiver = channel(window=8)
    due = [(arrive(receiver, number), receiver.acknowledge) for number in range(2)]
    assert due == [([0], False), ([1], True)]
    assert receiver.into.advertise() == (2, 10)


def test_only_what_is_in_order_is_acknowledged() -> None:
    receiver = channel(window=4)
    arrive(receiver, 1, 2, 3)
    assert not receiver.acknowledge
    assert receiver.into.advertise() == (0, 4)


def test_what_was_not_acknowledged_is_sent_again() -> None:
    sender = channel(frames=4)
    pop_all(sender)
    sender.credited(delivered=2, limit=10)
    sender.push(Fin(1, 4))
    sender.rewind()
    assert pop_all(sender) == [2, 3, 4]
    sender.rewind()
    assert pop_all(sender) == [2, 3, 4]


def test_a_second_loss_in_the_middle_of_a_replay_keeps_the_order() -> None:
    sender = channel(frames=4)
    pop_all(sender)
    sender.rewind()
    pop(sender)
    pop(sender)
    sender.rewind()
    assert pop_all(sender) == [0, 1, 2, 3]


def test_what_is_acknowledged_while_it_waits_is_not_sent_again() -> None:
    """Its first copy was received on a lane that is up."""
    sender = channel(frames=4)
    pop_all(sender)
    sender.rewind()
    sender.credited(delivered=3, limit=10)
    assert pop_all(sender) == [3]
    assert len(sender._kept) == 1


def test_a_replay_needs_no_new_allowance() -> None:
    sender = channel(peer_window=2, frames=2)
    pop_all(sender)
    sender.rewind()
    assert pop_all(sender) == [0, 1]


@pytest.mark.parametrize(("delivered", "limit"), [(3, 10), (2, 1), (2**64 - 1, 2**64 - 1)])
def test_an_impossible_acknowledgement(delivered: int, limit: int) -> None:
    sender = channel(frames=4)
    pop(sender)
    pop(sender)
    with pytest.raises(ProtocolError) as caught:
        sender.credited(delivered, limit)
    assert caught.value.code is Code.FLOW_CONTROL


def test_a_frame_that_never_left_cannot_be_acknowledged() -> None:
    sender = channel(frames=4)
    with pytest.raises(ProtocolError):
        sender.credited(delivered=1, limit=10)


def test_crowded_counts_what_waits_and_what_is_kept() -> None:
    crowded, sender = list[bool](), channel(peer_window=5, frames=CROWDED - 1)
    crowded.append(sender.crowded)
    sender.push(Fin(1, CROWDED - 1))
    crowded.append(sender.crowded)
    pop_all(sender)
    crowded.append(sender.crowded)
    sender.credited(delivered=5, limit=5)
    crowded.append(sender.crowded)
    assert crowded == [False, True, True, False]


@given(st.lists(st.integers(0, 15), max_size=80), st.integers(1, 16))
def test_any_order_and_any_repeats_are_processed_once_in_order(numbers: list[int], window: int) -> None:
    receiver, obeyed = channel(window), list[int]()
    for number in [*numbers, *range(16)]:
        if number < receiver.into.limit:
            obeyed += arrive(receiver, number)
        assert len(receiver._held) <= window
        receiver.into.advertise()
    assert obeyed == list(range(16))
    assert not receiver._held


@given(st.lists(st.sampled_from(["send", "lose", "arrive", "credit"]), max_size=60), st.integers(1, 5))
def test_losses_and_late_acknowledgements_lose_nothing(steps: list[str], window: int) -> None:
    sender, receiver = channel(window, window, frames=12), channel(window, window)
    wire, obeyed = list[int](), list[int]()
    for step in [*steps, "lose", *["send", "arrive", "credit"] * 40]:
        if step == "send":
            wire += [pop(sender)[1]] if sender.pending else []
        elif step == "arrive":
            obeyed += arrive(receiver, *wire)
            wire.clear()
        elif step == "credit":
            sender.credited(*receiver.into.advertise())
        else:
            wire.clear()
            sender.rewind()
        assert len(sender._kept) <= window
    assert obeyed == list(range(12))
    assert not sender._kept
    assert not sender.pending

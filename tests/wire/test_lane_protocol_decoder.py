"""The decoder consumes headers and control frames; payload it only counts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.wire import only_faults
from tunnel.errors import ProtocolError
from tunnel.wire.codec import data_header, encode
from tunnel.wire.codes import HEADER_SIZE, MAX_CONTROL, MAX_DATA, Code, FrameType
from tunnel.wire.frames import Credit, Data, Fin, Frame, Open, Ping, Resume
from tunnel.wire.lane_protocol import Decoder

Seen = tuple[Frame, int] | bytes  # a frame with its sequence number, or payload

CONVERSATION: list[tuple[bytes, list[Seen]]] = [
    (encode(Open(1, 50, "tcp:127.0.0.1:49152"), 4), [(Open(1, 50, "tcp:127.0.0.1:49152"), 4)]),
    (encode(Ping(77)), [(Ping(77), 77)]),
    (data_header(1, 1 << 33, 5) + b"QEVM!", [(Data(1, 1 << 33, 5), 77), b"QEVM!"]),
    (data_header(3, 0, 1) + b"x", [(Data(3, 0, 1), 77), b"x"]),
    (encode(Credit(1, 5, 50)), [(Credit(1, 5, 50), 5)]),
    (encode(Resume(bytes(16), 2, 1, 0, 9, ())), [(Resume(bytes(16), 2, 1, 0, 9, ()), 0)]),
    (encode(Fin(1, 9), 5), [(Fin(1, 9), 5)]),
]
WIRE = b"".join(raw for raw, _ in CONVERSATION)
MEANING = [seen for _, all_seen in CONVERSATION for seen in all_seen]


def run(decoder: Decoder, data: bytes) -> Iterator[Seen]:
    """Decode ``data`` as a lane does."""
    view = memoryview(data)
    while view:
        if decoder.payload_left:
            taken = min(decoder.payload_left, len(view))
            yield bytes(view[:taken])
            decoder.moved(taken)
        else:
            taken, frame = decoder.feed(view)
            if frame is not None:
                yield frame, decoder.sequence
        view = view[taken:]


def joined(seen: list[Seen]) -> list[Seen]:
    """Return ``seen`` with consecutive pieces of payload joined."""
    whole: list[Seen] = []
    for each in seen:
        last = whole[-1] if whole else None
        if isinstance(each, bytes) and isinstance(last, bytes):
            whole[-1] = last + each
        else:
            whole.append(each)
    return whole


def test_whole() -> None:
    assert list(run(Decoder(), WIRE)) == MEANING


def test_one_byte_at_a_time() -> None:
    decoder = Decoder()
    seen = [each for byte in WIRE for each in run(decoder, bytes([byte]))]
    assert joined(seen) == MEANING


@given(st.lists(st.integers(0, len(WIRE)), max_size=12).map(sorted))
def test_cut_anywhere(cuts: list[int]) -> None:
    decoder = Decoder()
    parts = zip([0, *cuts], [*cuts, len(WIRE)], strict=True)
    seen = [each for start, stop in parts for each in run(decoder, WIRE[start:stop])]
    assert joined(seen) == MEANING


def test_no_bytes_are_no_frame() -> None:
    assert Decoder().feed(memoryview(b"")) == (0, None)


def test_it_stops_after_the_header_of_data() -> None:
    decoder = Decoder()
    taken, frame = decoder.feed(memoryview(data_header(9, 100, 6) + b"abcdef"))
    assert (taken, frame) == (HEADER_SIZE, Data(9, 100, 6))
    assert (decoder.stream, decoder.offset, decoder.payload_left) == (9, 100, 6)
    decoder.moved(2)  # as a lane does that has no more bytes yet
    assert (decoder.offset, decoder.payload_left) == (102, 4)


def test_it_consumes_one_frame_at_a_time() -> None:
    decoder, two = Decoder(), encode(Ping(1)) + encode(Ping(2))
    assert decoder.feed(memoryview(two)) == (HEADER_SIZE, Ping(1))
    assert decoder.feed(memoryview(two)[HEADER_SIZE:]) == (HEADER_SIZE, Ping(2))


def test_wanted_never_reaches_into_payload() -> None:
    """A kernel lane reads exactly that much: what follows a header may have to go through a pipe."""
    decoder, raw = Decoder(), encode(Fin(1, 9), 5) + data_header(1, 0, 1)
    position, asked = 0, []
    while position < len(raw):
        asked.append(decoder.wanted)
        taken, _ = decoder.feed(memoryview(raw)[position : position + decoder.wanted])
        position += taken
    assert asked == [HEADER_SIZE, 8, HEADER_SIZE]
    assert decoder.payload_left == 1


def test_wanted_counts_down() -> None:
    decoder = Decoder()
    decoder.feed(memoryview(encode(Fin(1, 9))[:3]))
    assert decoder.wanted == HEADER_SIZE - 3
    decoder.feed(memoryview(encode(Fin(1, 9))[3:22]))
    assert decoder.wanted == 6


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (bytes(HEADER_SIZE), Code.FRAME_TYPE),
        (b"GET / HTTP/1.1\r\nHost:", Code.FRAME_TYPE),
        (data_header(1, 0, MAX_DATA + 1), Code.FRAME_SIZE),
        (data_header(1, 0, 0), Code.FRAME_SIZE),
        (data_header(0, 0, 1), Code.PROTOCOL),
    ],
)
def test_a_bad_header_needs_no_payload_to_be_refused(raw: bytes, code: Code) -> None:
    with pytest.raises(ProtocolError) as caught:
        Decoder().feed(memoryview(raw))
    assert caught.value.code is code


def test_no_byte_beyond_the_header_is_kept_when_it_is_bad() -> None:
    decoder = Decoder()
    with pytest.raises(ProtocolError):
        decoder.feed(memoryview(b"\xff" * 100_000))
    assert len(decoder._partial) <= HEADER_SIZE


@given(st.lists(st.binary(max_size=2000), max_size=20))
def test_garbage_is_refused_and_not_buffered(chunks: list[bytes]) -> None:
    decoder = Decoder()
    with only_faults(Code.FRAME_TYPE, Code.FRAME_SIZE, Code.PROTOCOL):
        for chunk in chunks:
            list(run(decoder, chunk))
            assert len(decoder._partial) <= MAX_CONTROL


def test_a_large_control_frame_is_held_only_up_to_its_size() -> None:
    decoder = Decoder()
    head = bytes([FrameType.HELLO, 0, 0, 0, 0, 0, 0, 0]) + MAX_CONTROL.to_bytes(4, "big") + bytes(8)
    decoder.feed(memoryview(head))
    taken, frame = decoder.feed(memoryview(bytes(MAX_CONTROL - 1)))
    assert (taken, frame) == (MAX_CONTROL - 1, None)
    assert decoder.wanted == 1


def test_whether_the_last_frame_is_data() -> None:
    decoder, credit = Decoder(), memoryview(encode(Credit(5, 0, 100)))
    said = [decoder.follows_data]
    decoder.feed(memoryview(data_header(5, 100, 50)))
    said.append(decoder.follows_data)
    decoder.went_on(7, 170, 30)
    assert (decoder.stream, decoder.offset, decoder.payload_left) == (7, 170, 30)
    decoder.moved(30)
    said.append(decoder.follows_data)
    for part in (credit[:1], credit[1:]):
        decoder.feed(part)
        said.append(decoder.follows_data)
    assert said == [False, True, True, False, False]


HEADERS = st.builds(
    data_header, st.integers(0, 3), st.integers(0, (1 << 64) - 1), st.integers(0, MAX_DATA + 1)
)


@given(st.one_of(HEADERS, st.binary(max_size=30), st.builds(bytes.__add__, HEADERS, st.binary(max_size=3))))
def test_begin_does_what_feed_does_for_data_and_nothing_otherwise(raw: bytes) -> None:
    quick, usual, untouched = Decoder(), Decoder(), Decoder()
    try:
        is_data = isinstance(usual.feed(memoryview(raw))[1], Data)
    except ProtocolError:
        is_data = False
    assert quick.begin(memoryview(raw)) is is_data
    assert vars(quick) == vars(usual if is_data else untouched)


def test_begin_refuses_to_continue_another_frame() -> None:
    decoder, header = Decoder(), data_header(1, 0, 9)
    decoder.feed(memoryview(header[:5]))
    assert not decoder.begin(memoryview(header))
    assert decoder.feed(memoryview(header[5:])) == (HEADER_SIZE - 5, Data(1, 0, 9))

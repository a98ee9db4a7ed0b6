"""A hostile peer: any bytes that it sends are processed or refused with a code, in bounded memory.

The victim is a complete endpoint: decoder, lane table and session, as a lane and a link combine them, and an
owner that accepts every stream and delivers half of what arrives. ProtocolError ends it, as it ends a link.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.wire import Network, only_faults
from tests.support.wire_host import SESSION, Host
from tunnel.errors import ProtocolError
from tunnel.wire.codec import data_header, encode, parse_header
from tunnel.wire.codes import HEADER_SIZE, MAX_CONTROL, MAX_DATA, VERSION, Code, FrameType
from tunnel.wire.frames import (
    Fin,
    Frame,
    Limits,
    Open,
    Opened,
    Ping,
    Position,
    Refused,
    Reset,
    Resume,
    Welcome,
)
from tunnel.wire.negotiation import hello
from tunnel.wire.reassembly import PAGE
from tunnel.wire.session import Settings

LIMITS = Limits(streams=4, control=8)
SETTINGS = Settings(LIMITS, memory=4000, window=1000)
HELLO = encode(hello(SESSION, b"H" * 16, LIMITS))
RESUME = encode(Resume(SESSION, 2, 1, 0, 8, (Position(1, 0, 0, 100),)))
TARGET = "tcp:127.0.0.1:49152"


class Victim(Host):
    """An acceptor whose peer may send anything, so that payload is only counted."""

    def __init__(self) -> None:
        super().__init__(SETTINGS, initiator=False)
        self.listen(1)

    def payload(self, number: int, offset: int, chunk: bytes) -> None:
        for piece in self.session.data(number, offset, chunk):
            self.locals[number].inbox += bytes(len(piece))

    def suffer(self, data: bytes, chunk: int = 4096) -> None:
        """Process ``data``, act as an owner does, and check after every chunk that memory is bounded."""
        for start in range(0, len(data), chunk):
            self.take(1, data[start : start + chunk])
            if self.members.session is not None:
                self.own()
                self.check_bounds()

    def own(self) -> None:
        for number in list(self.requests):
            self.accept(number, 500)
        for number, local in self.locals.items():
            if not local.gone:
                self.deliver(number, len(local.inbox) // 2)
        while self.transmit(1):
            self.ends[1].out.clear()

    def check_bounds(self) -> None:
        session, windows = self.session, SETTINGS.window * LIMITS.streams
        assert len(session._streams) <= LIMITS.streams
        assert session._registry.budget.used <= windows
        assert session.kept <= windows
        assert len(session._control._held) <= LIMITS.control
        for number, stream in session._streams.items():
            assert len(self.locals[number].inbox) + stream.held <= 4 * SETTINGS.window + 2 * PAGE
        assert len(self.ends[1].protocol.decoder._partial) <= MAX_CONTROL


def greeted(*more: bytes) -> Victim:
    victim = Victim()
    victim.suffer(HELLO + b"".join(more))
    return victim


def refused(victim: Victim, data: bytes) -> Code:
    with pytest.raises(ProtocolError) as caught:
        victim.suffer(data)
    return caught.value.code


def data(stream: int, offset: int, size: int) -> bytes:
    return data_header(stream, offset, size) + bytes(size)


# Random bytes.


@given(st.binary(max_size=3000))
def test_garbage_as_the_first_bytes(garbage: bytes) -> None:
    with only_faults():
        Victim().suffer(garbage)


@given(st.binary(max_size=3000))
def test_garbage_after_hello(garbage: bytes) -> None:
    victim = greeted(encode(Open(1, 1000, TARGET), 0))
    with only_faults():
        victim.suffer(garbage)


each_type = st.sampled_from([*FrameType])
small = st.integers(0, 9)
number = st.one_of(small, st.integers(0, 1100), st.sampled_from([2**32 - 1, 2**63, 2**64 - 1]))


@st.composite
def plausible(draw: st.DrawFn) -> bytes:
    """Return a frame whose header is nearly valid, for streams and offsets that may well exist."""
    kind = draw(each_type)
    stream = draw(st.sampled_from([1, 1, 1, 3, 2, 0, 5, 7, 2**32 - 1])) if kind >= FrameType.OPEN else 0
    u64s = b"".join(n.to_bytes(8, "big") for n in draw(st.lists(number, min_size=1, max_size=3)))
    payload = {
        FrameType.PING: b"",
        FrameType.PONG: b"",
        FrameType.DATA: bytes(draw(st.integers(1, 400))),
        FrameType.OPEN: u64s[:8] + draw(st.binary(min_size=1, max_size=9)),
        FrameType.REFUSED: u64s[6:8],
        FrameType.RESET: u64s[6:8],
        FrameType.GOAWAY: u64s[6:8],
        FrameType.NOTICE: u64s[6:8],
    }.get(kind, u64s[:8])
    offset = draw(number if kind is FrameType.DATA else small)
    head = bytes([kind, 0, 0, 0]) + stream.to_bytes(4, "big")
    return head + len(payload).to_bytes(4, "big") + offset.to_bytes(8, "big") + payload


@settings(max_examples=300)
@given(st.lists(plausible(), max_size=30), st.integers(1, 500))
def test_plausible_frames_in_any_order(frames: list[bytes], chunk: int) -> None:
    victim = greeted(encode(Open(1, 1000, TARGET), 0))
    with only_faults():
        victim.suffer(b"".join(frames), chunk)


# A valid exchange, corrupted.


def conversation() -> list[bytes]:
    """Return all that a well-behaved initiator sends, frame by frame: three streams, one of them reset."""
    network = Network(SETTINGS, SETTINGS)
    said, carry = bytearray(HELLO), network.carry

    def listen(number: int, from_initiator: bool, most: int = MAX_DATA) -> int:
        if from_initiator:
            said.extend(network.initiator.ends[number].out[:most])
        return carry(number, from_initiator, most)

    network.carry = listen  # type: ignore[method-assign]  # records what is sent
    for backlog in (2500, 900, 10):
        network.initiator.open(backlog)
    network.acceptor.open(0)
    network.initiator.transmit(1)
    network.initiator.reset(5)
    network.settle()
    return split(bytes(said))


def split(raw: bytes) -> list[bytes]:
    frames = []
    while raw:
        size = HEADER_SIZE + parse_header(raw).length
        frames.append(raw[:size])
        raw = raw[size:]
    return frames


FRAMES = conversation()
INDEX = st.integers(0, len(FRAMES) - 1)


class Answering(Victim):
    """Opens the stream that the recorded exchange answers, and finishes each as its acceptor did."""

    def own(self) -> None:
        if not self.locals:
            self.open(0)
        while self.converse():
            pass
        while self.transmit(1):
            self.ends[1].out.clear()


def test_the_valid_exchange_is_processed() -> None:
    assert {parse_header(frame).type for frame in FRAMES} >= {
        *(FrameType.HELLO, FrameType.OPEN, FrameType.OPENED, FrameType.DATA),
        *(FrameType.FIN, FrameType.DELIVERED, FrameType.RESET, FrameType.CREDIT),
    }
    victim = Answering()
    victim.suffer(b"".join(FRAMES), chunk=16)
    assert {number: local.taken for number, local in victim.locals.items()} == {1: 2500, 2: 100, 3: 900, 5: 0}
    assert victim.session._streams == {}


@settings(max_examples=300)
@given(st.lists(st.tuples(INDEX, st.integers(0, 8 * 60)), min_size=1, max_size=4))
def test_bits_flipped(flips: list[tuple[int, int]]) -> None:
    frames = [bytearray(frame) for frame in FRAMES]
    for index, bit in flips:
        byte = bit // 8 % len(frames[index])
        frames[index][byte] ^= 1 << bit % 8
    suffer_all(frames)


@given(st.lists(INDEX, max_size=6))
def test_frames_dropped(dropped: list[int]) -> None:
    suffer_all(frame for index, frame in enumerate(FRAMES) if index not in dropped)


@given(st.lists(st.tuples(INDEX, INDEX), max_size=6))
def test_frames_repeated(pairs: list[tuple[int, int]]) -> None:
    frames = list(FRAMES)
    for which, where in pairs:
        frames.insert(where, FRAMES[which])
    suffer_all(frames)


@given(st.integers(0, 2**32))
def test_frames_shuffled(seed: int) -> None:
    """Nearby ones are swapped, as on several lanes: a gap is waited for, or exceeds a window."""
    chance = random.Random(seed)
    order = sorted(range(1, len(FRAMES)), key=lambda index: index + chance.uniform(0, 6))
    suffer_all([FRAMES[0], *(FRAMES[index] for index in order)])


def suffer_all(frames: Iterable[bytes | bytearray]) -> None:
    with only_faults():
        Answering().suffer(b"".join(frames), chunk=16)


# Well-formed, and hostile.


@pytest.mark.parametrize(
    "frame",
    [
        *(HELLO, RESUME, encode(Welcome(VERSION, 0, SESSION, SESSION, LIMITS))),  # type: ignore[arg-type]  # 0 is no flag
        *(RESUME[:0] + bytes([FrameType.RESUMED]) + RESUME[1:],),
    ],
)
def test_a_second_handshake_frame(frame: bytes) -> None:
    assert refused(greeted(), frame) is Code.HANDSHAKE


@pytest.mark.parametrize("frame", [Ping(1), Open(1, 1, TARGET), Fin(1, 0)], ids=lambda f: type(f).__name__)
def test_anything_before_hello(frame: Frame) -> None:
    assert refused(Victim(), encode(frame)) is Code.HANDSHAKE
    assert refused(Victim(), data(1, 0, 1)) is Code.HANDSHAKE


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([encode(Open(2, 1, TARGET), 0)], Code.STREAM_STATE),
        ([encode(Open(1, 1, TARGET), 0), encode(Open(1, 1, TARGET), 1)], Code.STREAM_STATE),
        ([encode(Open(n, 1, TARGET), n // 2) for n in (1, 3, 5, 7, 9)], Code.STREAM_LIMIT),
        ([encode(Open(1, 1, TARGET), 8)], Code.FLOW_CONTROL),
        ([encode(Reset(1, Code.NONE, ""), 0)], Code.STREAM_STATE),
        ([encode(Opened(1, 1), 0)], Code.STREAM_STATE),
        ([encode(Open(1, 1, TARGET), 0), encode(Refused(1, Code.NONE, ""), 1)], Code.STREAM_STATE),
        ([data(1, 0, 1)], Code.STREAM_STATE),
        ([encode(Open(1, 1, TARGET), 0), encode(Fin(1, 9), 1), data(1, 9, 1)], Code.STREAM_STATE),
    ],
)
def test_impossible_streams(frames: list[bytes], code: Code) -> None:
    assert refused(greeted(), b"".join(frames)) is code


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([data(1, 0, 1001)], Code.FLOW_CONTROL),
        ([data(1, 2**64 - 1, 1)], Code.FLOW_CONTROL),
        ([encode(Fin(1, 10), 1), data(1, 10, 1)], Code.PROTOCOL),
        ([data(1, 0, 20), encode(Fin(1, 10), 1)], Code.PROTOCOL),
        ([encode(Fin(1, 10), 1), encode(Fin(1, 10), 2)], Code.STREAM_STATE),
        ([encode(Fin(1, 2**64 - 1), 1)], Code.FLOW_CONTROL),
        ([bytes([FrameType.DATA]) + bytes(6) + b"\1" + bytes(12)], Code.FRAME_SIZE),
    ],
)
def test_impossible_bytes(frames: list[bytes], code: Code) -> None:
    victim = greeted(encode(Open(1, 100, TARGET), 0))
    assert refused(victim, b"".join(frames)) is code


def test_an_empty_target() -> None:
    frame = bytes([FrameType.OPEN]) + bytes(6) + b"\1" + bytes(3) + b"\x08" + bytes(16)
    assert refused(greeted(), frame) is Code.FRAME_SIZE


def test_data_on_a_stream_that_is_closed_is_ignored() -> None:
    victim = greeted(encode(Open(1, 1000, TARGET), 0))
    victim.reset(1)
    victim.suffer(data(1, 0, 1000) + data(1, 2**63, 100))
    assert victim.locals[1].inbox == b""


def test_unsolicited_pongs_are_ignored() -> None:
    greeted(*(bytes([FrameType.PONG]) + bytes(11) + bytes([token]) * 8 for token in range(256)))


def test_slivers_in_every_order_stay_within_bounds() -> None:
    """suffer() checks the bounds after every chunk."""
    victim = greeted(encode(Open(1, 1, TARGET), 0))
    offsets = list(range(1, 900))
    random.Random(1).shuffle(offsets)
    victim.suffer(b"".join(data(1, offset, offset % 97 + 1) for offset in offsets), 300)
    assert victim.session._streams[1].held == PAGE, "all of them are in one page"
    victim.suffer(data(1, 0, 1000))
    assert victim.session._streams[1].held == 0

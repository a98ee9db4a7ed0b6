"""Payload between a hypervisor's socket and a lane's: in frames, in order, each to its own stream."""

from __future__ import annotations

import array
import errno
import itertools
import random
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.keyed_end import SECRET, KeyedEnd
from tunnel.engine.binding import Provider
from tunnel.engine.compiled import HANDSHAKE, CompiledSealer, Control, EngineError
from tunnel.engine.transfer import Carried, PassedOn, Stop, Target, TransferOutcome
from tunnel.units import KIB, MIB
from tunnel.wire.codec import data_header, encode
from tunnel.wire.codes import HEADER_SIZE, MAX_DATA
from tunnel.wire.frames import Ping
from tunnel.wire.lane_protocol import Decoder

Pair = tuple[socket.socket, socket.socket]
ENDLESS = 1 << 62
NOISE = random.Random(7).randbytes(3 * MIB)


@pytest.fixture
def local() -> Iterator[Pair]:
    """A hypervisor's connection: its end, and ours; neither blocks."""
    ends = socket.socketpair()
    for end in ends:
        end.setblocking(False)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * MIB)
    yield ends
    for end in ends:
        end.close()


def tcp() -> Pair:
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = socket.create_connection(server.getsockname())
        two, _ = server.accept()
    for end in (one, two):
        end.setblocking(False)
    return one, two


def frames_of(plain: bytes) -> list[tuple[int, int, bytes]]:
    """Return stream, offset and payload of each DATA frame."""
    decoder, found, position = Decoder(), list[tuple[int, int, bytes]](), 0
    while position < len(plain):
        taken, frame = decoder.feed(memoryview(plain)[position:])
        assert frame is not None
        position += taken
        payload = plain[position : position + decoder.payload_left]
        found.append((decoder.stream, decoder.offset, payload))
        decoder.moved(len(payload))
        position += len(payload)
    return found


# From a hypervisor.


def carry(here: KeyedEnd, source: int, rooms: list[bytearray], offset: int = 0) -> Carried:
    views = [memoryview(room) for room in rooms]
    return here.records.carry(here.sealer, source, 5, offset, views)


def test_data_of_a_hypervisor_is_sent_in_frames(provider: Provider, local: Pair) -> None:
    lane = tcp()
    here, there = (KeyedEnd(provider, sock) for sock in lane)
    size = local[0].send(NOISE[: 700 * KIB])
    assert size == 700 * KIB
    rooms, plain = [bytearray(300 * KIB), bytearray(0), bytearray(MIB)], b""
    done = carry(here, local[1].fileno(), rooms, offset=77)
    assert (done.read, done.sent.stop, done.error, done.fault) == (size, Stop.SOURCE_EMPTY, 0, None)
    assert (rooms[0] + rooms[2])[:size] == NOISE[:size], "it is retained"
    while len(plain) < done.sent.gone:
        plain += there.receive()[0]
    frames = frames_of(plain)
    assert [len(payload) for *_, payload in frames] == [256 * KIB, 44 * KIB, 256 * KIB, 144 * KIB]
    assert {stream for stream, *_ in frames} == {5}
    assert [offset for _, offset, _ in frames] == [77 + KIB * kib for kib in (0, 256, 300, 556)]
    assert b"".join(payload for *_, payload in frames) == NOISE[:size]
    for end in lane:
        end.close()


def test_reasons_to_stop(libcrypto: Provider, pair: Pair, local: Pair) -> None:
    here, room = KeyedEnd(libcrypto, pair[0]), [bytearray(MIB)]
    source = local[1].fileno()
    assert carry(here, source, room)[1:] == (0, 0, None)
    assert carry(here, source, [])[0].stop is Stop.BUDGET
    local[0].send(b"x")
    assert carry(here, source, [bytearray(1)])[:2] == ((0, HEADER_SIZE + 1, 43, 0, Stop.BUDGET), 1)
    local[0].send(b"last bytes")
    local[0].shutdown(socket.SHUT_WR)
    done = carry(here, source, room)
    assert (done.read, done.sent.stop) == (10, Stop.SOURCE_ENDED)
    done = carry(here, -1, room)
    assert (done.read, done.sent.stop, done.error) == (0, Stop.SOURCE_FAILED, errno.EBADF)


def test_a_full_lane_stops_it_and_data_that_was_read_is_sealed(
    provider: Provider, pair: Pair, local: Pair
) -> None:
    here, there = (KeyedEnd(provider, sock) for sock in pair)
    local[0].send(NOISE[:MIB])
    room, read, plain = bytearray(MIB), 0, b""
    while len(plain) < MIB or here.records.unsent:
        done = carry(here, local[1].fileno(), [room[read:]], read)
        assert done.sent.stop in {Stop.FULL, Stop.BUDGET}
        assert done.read <= 256 * KIB
        read += done.read
        plain += there.receive()[0]
    assert b"".join(payload for *_, payload in frames_of(plain)) == NOISE[:MIB]
    assert read == MIB


def test_passed_descriptors_are_an_error(libcrypto: Provider, pair: Pair, local: Pair) -> None:
    here = KeyedEnd(libcrypto, pair[0])
    rights = array.array("i", [pair[1].fileno()])
    local[0].send(b"before")
    local[0].sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    done = carry(here, local[1].fileno(), [bytearray(100)])
    assert (done.read, done.sent.stop, done.error) == (0, Stop.SOURCE_FAILED, errno.EOPNOTSUPP)


def test_a_reset_is_reported_after_received_data(libcrypto: Provider, pair: Pair) -> None:
    here, (there, ours) = KeyedEnd(libcrypto, pair[0]), tcp()
    with ours:
        there.send(b"last bytes")
        there.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        there.close()
        done = carry(here, ours.fileno(), [bytearray(100)])
        assert (done.read, done.sent.stop, done.error) == (10, Stop.SOURCE_FAILED, errno.ECONNRESET)


def test_nothing_is_read_beyond_the_key_limit(libcrypto: Provider, pair: Pair, local: Pair) -> None:
    here = KeyedEnd(libcrypto, pair[0])
    here.sealer = CompiledSealer(libcrypto, *SECRET, 16)
    local[0].send(b"still there")
    done = carry(here, local[1].fileno(), [bytearray(100)])
    assert isinstance(done.fault, EngineError)
    assert (done.read, local[1].recv(100)) == (0, b"still there")
    with pytest.raises(ValueError, match="invalid arguments"):
        raise carry_by_opener(here, local[1]) or AssertionError


def carry_by_opener(here: KeyedEnd, source: socket.socket) -> Exception | None:
    here.sealer = here.opener  # type: ignore[assignment]
    return carry(here, source.fileno(), []).fault


def test_a_broken_lane_is_reported_and_data_that_was_read_is_retained(
    libcrypto: Provider, local: Pair
) -> None:
    one, two = tcp()
    here = KeyedEnd(libcrypto, one)
    two.close()
    one.send(b"x")  # the reply is a reset
    with one:
        local[0].send(NOISE[:MIB])
        room = bytearray(MIB)
        done = carry(here, local[1].fileno(), [room])
        assert isinstance(done.fault, OSError)
        assert done.read == 256 * KIB
        assert room[: done.read] == NOISE[: done.read]


# To a hypervisor.


def pass_on(there: KeyedEnd, *targets: Target, most: int = MIB) -> PassedOn:
    return there.records.pass_on(there.opener, memoryview(there.plain), targets, most)


def rest(there: KeyedEnd, done: PassedOn) -> bytes:
    return bytes(there.plain[done.start : done.received.filled])


def test_payload_reaches_the_target_and_the_rest_is_left(provider: Provider, pair: Pair, local: Pair) -> None:
    here, there = (KeyedEnd(provider, sock) for sock in pair)
    other = data_header(7, 0, 3) + b"foo" + data_header(5, 8, 1) + b"!"
    plain = b"first" + data_header(5, 5, 3) + b"two" + other
    here.records.seal_send(here.sealer, [plain])
    done = pass_on(there, Target(5, local[1].fileno(), 0, 100, 5))
    assert local[0].recv(100) == b"firsttwo"
    assert (done.frames, done.current, done.outcomes) == (1, 0, [TransferOutcome(8, 0, full=False, error=0)])
    assert rest(there, done) == other
    assert done.received.stop is Stop.BUDGET, "there may be more"
    assert pass_on(there, Target(5, local[1].fileno(), 8, 100)).received.stop is Stop.EMPTY


def test_payload_of_several_streams_reaches_each_its_own(provider: Provider, pair: Pair) -> None:
    here, there = (KeyedEnd(provider, sock) for sock in pair)
    locals_ = [socket.socketpair() for _ in range(3)]
    frames = [(9, 100, b"nine"), (5, 3, b"five"), (9, 104, b"again"), (7, 0, b"seven")]
    plain = b"end" + b"".join(data_header(n, at, len(data)) + data for n, at, data in frames)
    here.records.seal_send(here.sealer, [plain[:-2]])
    numbers = [ours.fileno() for _, ours in locals_]
    targets = [
        Target(5, numbers[0], 0, 100, 3),
        Target(7, numbers[1], 0, 100),
        Target(9, numbers[2], 100, 109),
    ]
    done = pass_on(there, *targets)
    assert [theirs.recv(100) for theirs, _ in locals_] == [b"endfive", b"sev", b"nineagain"]
    assert (done.frames, done.current, done.start) == (4, 1, done.received.filled)
    assert [(each.passed, each.left) for each in done.outcomes] == [(7, 0), (3, 2), (9, 0)]
    for end in itertools.chain(*locals_):
        end.close()


@pytest.mark.parametrize(
    "header",
    [
        data_header(6, 5, 1),
        data_header(5, 4, 1),
        data_header(5, 6, 1),
        data_header(5, 5, 16),
        data_header(5, 5, MAX_DATA + 1),
        data_header(5, 5, 0),
        b"\x13\1" + data_header(5, 5, 1)[2:],
        b"\x13\0\0\1" + data_header(5, 5, 1)[4:],
        encode(Ping(1)),
        data_header(5, 5, 1)[:-1],
    ],
    ids=["stream", "before", "gap", "window", "size", "empty", "flags", "reserved", "control", "incomplete"],
)
def test_other_frames_are_left_to_python(libcrypto: Provider, pair: Pair, local: Pair, header: bytes) -> None:
    here, there = (KeyedEnd(libcrypto, sock) for sock in pair)
    here.records.seal_send(here.sealer, [b"first" + header])
    number = local[1].fileno()
    done = pass_on(there, Target(5, number, 0, 20, 5), Target(8, number, 5, 100))
    assert done.outcomes == [
        TransferOutcome(5, 0, full=False, error=0),
        TransferOutcome(0, 0, full=False, error=0),
    ]
    assert (done.frames, rest(there, done)) == (0, header)


def test_a_target_that_is_full_leaves_the_rest(provider: Provider, local: Pair) -> None:
    lane = tcp()
    here, there = (KeyedEnd(provider, sock) for sock in lane)
    local[1].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * KIB)
    sent = here.records.seal_send(here.sealer, [NOISE[:MIB]]).taken
    done = pass_on(there, Target(5, local[1].fileno(), 0, ENDLESS, sent))
    [outcome] = done.outcomes
    assert outcome.full
    assert 0 < outcome.passed < sent
    assert outcome.left == sent - outcome.passed
    assert local[0].recv(MIB) == NOISE[: outcome.passed]
    assert NOISE[outcome.passed : sent].startswith(rest(there, done))
    for end in lane:
        end.close()


def test_a_target_that_failed(libcrypto: Provider, pair: Pair, local: Pair) -> None:
    here, there = (KeyedEnd(libcrypto, sock) for sock in pair)
    here.records.seal_send(here.sealer, [b"payload"])
    local[0].close()
    done = pass_on(there, Target(5, local[1].fileno(), 0, ENDLESS, 7))
    assert done.outcomes == [TransferOutcome(0, 7, full=False, error=errno.EPIPE)]
    assert rest(there, done) == b"payload"


def test_a_record_that_is_not_data_stops_it(libcrypto: Provider, pair: Pair, local: Pair) -> None:
    here, there = (KeyedEnd(libcrypto, sock) for sock in pair)
    here.records.seal_send(here.sealer, [b"pay"])
    here.records.seal_send(here.sealer, [b"KeyUpdate"], HANDSHAKE)
    here.records.seal_send(here.sealer, [b"load"])
    done = pass_on(there, Target(5, local[1].fileno(), 0, ENDLESS, 7))
    assert done.received.event == Control(HANDSHAKE, b"KeyUpdate")
    assert done.outcomes == [TransferOutcome(3, 4, full=False, error=0)]
    assert pass_on(there, Target(5, local[1].fileno(), 3, ENDLESS, 4)).outcomes[0].passed == 4
    assert local[0].recv(100) == b"payload"


def test_a_call_is_bounded(libcrypto: Provider, pair: Pair, local: Pair) -> None:
    here, there = (KeyedEnd(libcrypto, sock) for sock in pair)
    number = local[1].fileno()
    tiny = [b"x", *(data_header(5, offset, 1) + b"x" for offset in range(1, 200))]
    here.records.seal_send(here.sealer, tiny)
    done = pass_on(there, Target(5, number, 0, ENDLESS, 1))
    assert (done.frames, done.outcomes[0].passed) == (64, 65)
    assert len(rest(there, done)) == 135 * (HEADER_SIZE + 1)
    here.records.seal_send(here.sealer, [NOISE[: 20 * KIB]])
    done = pass_on(there, Target(5, number, 0, ENDLESS, MIB), most=1)
    assert (done.outcomes[0].passed, done.received.stop) == (20 * KIB, Stop.BUDGET)
    wrong: tuple[list[Target], ...] = (
        [],
        [Target(5, number, 0, 10, 11)],
        [Target(5, number, 0, 10), Target(7, number, 0, 10, 1)],
    )
    for targets in wrong:
        with pytest.raises(ValueError, match="invalid arguments"):
            pass_on(there, *targets)
    there.opener = there.sealer  # type: ignore[assignment]
    with pytest.raises(ValueError, match="invalid arguments"):
        pass_on(there, Target(5, number, 0, 10))


# Compared with Python's decoder on the same bytes.

Heard = list[tuple[int, int, bytes]]
"""Payload by stream and offset, in order of arrival."""


@st.composite
def scripts(draw: st.DrawFn) -> bytes:
    """Data from a peer: DATA frames, most of them of streams 5 and 7, and in order."""
    offsets, plain = {5: 0, 7: 0, 9: 0}, b""
    for _ in range(draw(st.integers(1, 12))):
        length = draw(st.integers(1, 40_000) | st.integers(1, 30))
        stream, shift = draw(st.sampled_from([(5, 0)] * 4 + [(7, 0)] * 2 + [(5, 1), (9, 0)]))
        offset = offsets[stream] + shift
        plain += data_header(stream, offset, length) + NOISE[offset : offset + length]
        offsets[stream] = offset + length
    return plain


@given(plain=scripts(), cuts=st.lists(st.integers(1, 50_000), min_size=1, max_size=6), full=st.booleans())
@settings(max_examples=80, deadline=None)
def test_a_decoder_that_continues_with_the_rest_misses_nothing(
    libcrypto: Provider, plain: bytes, cuts: list[int], full: bool
) -> None:
    with ExitStack() as stack:
        lane, *locals_ = (socket.socketpair() for _ in range(3))
        for end in itertools.chain(lane, *locals_):
            stack.enter_context(end).setblocking(False)
        for _, ours in locals_:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4608 if full else 4 * MIB)
        here, there = (KeyedEnd(libcrypto, sock) for sock in lane)
        listener, sent, turn = Listener(there, locals_), 0, 0
        while sent < len(plain) or here.records.unsent or listener.moved:
            piece = plain[sent : sent + cuts[turn % len(cuts)]]
            sent += here.records.seal_send(here.sealer, [piece]).taken
            listener.take()
            turn += 1
    assert by_stream(listener.heard) == by_stream(frames_of(plain))


class Listener:
    """Receives as a lane does: payload of streams 5 and 7 goes to targets where possible."""

    def __init__(self, there: KeyedEnd, locals_: Sequence[Pair]) -> None:
        self.heard: Heard = []
        self.moved = True
        self._there = there
        self._locals = dict(zip((5, 7), locals_, strict=True))
        self._next = {5: 0, 7: 0}
        self._decoder = Decoder()

    def take(self) -> None:
        decoder, start = self._decoder, 0
        if decoder.follows_data and self._next.get(decoder.stream) == decoder.offset:
            targets = [self._target(n) for n in sorted(self._next, key=lambda n: n != decoder.stream)]
            targets[0] = targets[0]._replace(left=decoder.payload_left)
            done = pass_on(self._there, *targets)
            start, received = done.start, done.received
            for target, outcome in zip(targets, done.outcomes, strict=True):
                if outcome.passed:
                    got = self._locals[target.stream][0].recv(outcome.passed)
                    self._hear(target.stream, target.offset, got)
            last = targets[done.current].stream
            decoder.went_on(last, self._next[last], done.outcomes[done.current].left)
        else:
            received = self._there.records.recv_open(self._there.opener, self._there.plain)
        self.moved = bool(received.received or received.filled)
        self._feed(memoryview(self._there.plain)[start : received.filled])

    def _target(self, stream: int) -> Target:
        return Target(stream, self._locals[stream][1].fileno(), self._next[stream], ENDLESS)

    def _hear(self, stream: int, offset: int, payload: bytes) -> None:
        self.heard.append((stream, offset, payload))
        if stream in self._next:
            self._next[stream] = offset + len(payload)

    def _feed(self, plain: memoryview) -> None:
        decoder = self._decoder
        while plain:
            if not (left := decoder.payload_left):
                taken, _ = decoder.feed(plain)
                plain = plain[taken:]
                continue
            self._hear(decoder.stream, decoder.offset, bytes(plain[:left]))
            decoder.moved(len(plain[:left]))
            plain = plain[left:]


def by_stream(heard: Heard) -> dict[int, list[tuple[int, bytes]]]:
    """Return offset and payload by stream, in order of arrival, with contiguous payload joined."""
    found: dict[int, list[tuple[int, bytes]]] = {}
    for stream, offset, payload in heard:
        pieces = found.setdefault(stream, [])
        if pieces and pieces[-1][0] + len(pieces[-1][1]) == offset:
            pieces[-1] = pieces[-1][0], pieces[-1][1] + payload
        else:
            pieces.append((offset, payload))
    return found

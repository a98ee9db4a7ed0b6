"""The userspace lane: TLS records of our own, and a non-blocking socket that the loop watches.

What makes the records, and moves them, is a ``RecordIo``: Python's, or the compiled engine's.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence

from tunnel.engine.binding import Provider
from tunnel.engine.transfer import PassedOn, Stop, Target
from tunnel.errors import LaneError
from tunnel.lanes.base_lane import BaseLane
from tunnel.lanes.lane import LaneHandler, Sinks, SourceRead
from tunnel.net.sockets import reason_of
from tunnel.net.token_bucket import Bucket, Rate
from tunnel.records.compiled_io import CompiledRecordIo
from tunnel.records.key_schedule import Keys
from tunnel.records.record_io import PythonRecordIo, RecordIo
from tunnel.records.record_layer import RecordLayer, TlsEnd
from tunnel.records.record_sealer import Content
from tunnel.records.tls_messages import RECORD
from tunnel.tls.lane_kinds import LaneKind
from tunnel.units import KIB, MIB
from tunnel.wire.codes import HEADER_SIZE
from tunnel.wire.frames import Frame
from tunnel.wire.payload import Outgoing, in_memory
from tunnel.wire.scheduler import LONG_QUANTUM, QUANTUM
from tunnel.wire.states import LaneState

OPENED = 1 * MIB
"""Bytes that are handed over at once, at most: each time costs the same. Python's records make half of it."""

EXPECTED = 256 * KIB
"""What to wait for inside a frame: each time we are woken costs the same, however little there is. Less, down
to a quarter of it, where the frame has no more.
"""

SMALL = 16 * KIB
"""Payload up to here shares a record with its header; more is not copied for that."""

ASIDES = Rate(32, 1 / 60)
"""Records and messages beside the frames that a peer may send: two session tickets, KeyUpdates."""


class _SharedMemory(threading.local):
    """What all lanes of a thread decrypt into: nothing stays there between two turns of its loop."""

    def __init__(self) -> None:
        self.plain = memoryview(bytearray(OPENED))


_shared = _SharedMemory()


class UserspaceLane(BaseLane[Content]):
    """See the contract in ``lane``. ``sock`` is one whose handshake left it with ``keys``.

    ``provider`` of the compiled engine makes the records; without it Python does.
    """

    kind = LaneKind.USERSPACE

    def __init__(
        self,
        sock: socket.socket,
        keys: Keys,
        peer: str,
        state: LaneState,
        *,
        provider: Provider | None = None,
    ) -> None:
        super().__init__(sock, peer, state)
        self._records = RecordLayer(keys, provider)
        self._io: RecordIo
        if provider is None:
            self._io = PythonRecordIo(sock, self._records)
        else:
            self._io = CompiledRecordIo(sock, self._records, provider)
        self._plain = _shared.plain
        self._least = 1  # bytes that must be there before the loop is told
        self._recent: dict[int, None] = {}  # streams whose payload went to sinks
        self._cut = ""  # why no more can come than is at hand
        self._asides = Bucket(ASIDES, time.monotonic())

    def enter(self, handler: LaneHandler, frame: Frame) -> None:
        """Go on in the running loop, and with the buffers of its thread."""
        self._plain = _shared.plain
        self._io.enter()
        super().enter(handler, frame)

    @property
    def cipher(self) -> str:
        """The TLS cipher suite."""
        return self._records.cipher

    @property
    def records_sent(self) -> int:
        """TLS records that were made of what was sent."""
        return self._records.records_sent

    @property
    def records_received(self) -> int:
        """TLS records that came."""
        return self._records.records_received

    def send_control(self, frames: bytes) -> None:
        """Queue whole control frames; they leave with the next ``send`` or ``flush``."""
        if not (self.ended or self._unsendable):
            self._unsent.append(frames)

    def send(self, outgoing: Outgoing) -> None:
        """Send a DATA frame behind everything queued before it."""
        if self._handler is None or self._unsendable:
            return
        payload = in_memory(outgoing.piece.content)
        if len(payload) <= SMALL:
            self._unsent.append(outgoing.header + payload)
        else:
            self._unsent.append(outgoing.header)
            self._unsent.append(payload)
        self.flush()

    def _push(self) -> bool:
        """Offer what is queued to the socket; whether it took all."""
        try:
            sent = self._io.send(self._unsent)
        except (OSError, LaneError) as error:
            self._fail_sending(error)
            return True
        self._account(sent)
        return not self._full

    def _fail_sending(self, error: Exception) -> None:
        self._break_off(reason_of(error) if isinstance(error, OSError) else str(error))

    def _account(self, sent: int) -> None:
        """The socket took ``sent`` bytes."""
        self._full = self._io.full
        self._bytes_sent = self._io.content_sent
        self._pace.sent(sent, time.monotonic(), congested=self._full)
        if (records := self._records.records_sent) >= self._mark:
            self._used(records)

    def next_turn(self) -> int:
        """Longer while nothing else in the loop has anything to do, and the engine moves payload."""
        return LONG_QUANTUM if self._turn.alone() and self._io.direct else QUANTUM

    @property
    def carries(self) -> bool:
        """Whether the compiled engine moves payload."""
        return self._io.direct

    def carry(self, source: int, stream: int, offset: int, rooms: Sequence[memoryview]) -> SourceRead:
        """See there: from socket to socket in one call of the compiled engine."""
        if self._unsent or self._records.owes_update:
            self._turn.count()
            if not self._push():
                self._loop.add_writer(self._sock, self._writable)
            if not self.room:
                return NOTHING
        self._turn.count()
        done = self._io.carry(source, stream, offset, rooms)
        self._account(done.sent.sent)
        if done.fault is not None:
            self._fail_sending(done.fault)
        elif self._full:
            self._loop.add_writer(self._sock, self._writable)
        stop = done.sent.stop
        error = OSError(done.error, os.strerror(done.error)) if done.error else None
        return SourceRead(done.read, stop is Stop.SOURCE_EMPTY, stop is Stop.SOURCE_ENDED, error)

    # Reading.

    def _read(self) -> bool:
        if self._io.more or not self._cut:
            self._take_records()
        if self.ended:
            return False
        if self._leftover or self._io.more:
            return True
        if self._cut:
            self._lost(self._cut)
            return False
        self._expect()
        return False

    def _take_records(self) -> None:
        """Open what a turn allows, and hand it over. Sets ``_cut`` when no more can come."""
        unsendable = self._unsendable  # what answers to these bytes meet with, if it is over, is no cause
        start, count, over, end = self._open()
        if end:
            self._cut = unsendable or end
        if count > start:
            self._heard(count - start)
            self._received(self._plain[start:count])
        if (records := self._records.records_received) >= self._mark:
            self._used(records)
        if over is not None:
            self._answer_end(over)
            self._cut = unsendable or over.reason
        elif (asides := self._records.take_asides()) and not self.ended:
            self._take_asides(asides, unsendable)

    def _open(self) -> tuple[int, int, TlsEnd | None, str]:
        """Open what a turn allows, and pass on what sinks take: from where to where the rest is at hand."""
        if not (targets := self._targets()):
            return 0, *self._io.receive(self._plain)
        most = self.next_turn() if len(targets) == 1 else QUANTUM
        count, over, end, passed = self._io.pass_on(self._plain, targets, most)
        self._passed(targets, passed)
        return passed.start, count, over, end

    def _targets(self) -> list[Target]:
        """Where what comes next goes, if that is payload as it seems, and sinks take it unseen.

        First that of the stream whose payload came last, then those of others that had some lately.
        """
        decoder, sinks = self._decoder, self._sinks
        if sinks is None or not decoder.follows_data or not self._io.direct:
            return []
        if self.state is not LaneState.ATTACHED:
            return []
        sink, left = sinks.sink(decoder.stream), decoder.payload_left
        if sink is None or sink.offset != decoder.offset or sink.offset + left > sink.limit:
            return []
        targets = [Target(decoder.stream, *sink, left)]
        if sinks.fan > 1:
            targets += self._other_targets(sinks, decoder.stream)
        return targets

    def _other_targets(self, sinks: Sinks, first: int) -> Iterator[Target]:
        self._recent[first] = None
        for stream in list(self._recent):
            if stream == first:
                continue
            if (sink := sinks.sink(stream)) is not None:
                yield Target(stream, *sink)
            else:
                del self._recent[stream]

    def _passed(self, targets: Sequence[Target], passed: PassedOn) -> None:
        """Say what sinks have taken."""
        moved, current = HEADER_SIZE * passed.frames, targets[passed.current]
        outcome = passed.outcomes[passed.current]
        self._decoder.went_on(current.stream, current.offset + outcome.passed, outcome.left)
        try:
            for target, outcome in zip(targets, passed.outcomes, strict=True):
                if (outcome.passed or outcome.error) and self._sinks is not None:
                    moved += outcome.passed
                    error = OSError(outcome.error, os.strerror(outcome.error)) if outcome.error else None
                    self._sinks.on_passed(target.stream, target.offset, outcome.passed, error)
        except Exception as failure:
            self.fail(failure)
            raise
        if moved:
            self._heard(moved)

    def _answer_end(self, over: TlsEnd) -> None:
        """Tell the peer by an alert what is wrong, if the socket takes one now."""
        if over.alert is not None and not (self.ended or self._full):
            self._unsent.clear()
            self._io.end(over.alert)
            self._push()

    def _take_asides(self, count: int, unsendable: str) -> None:
        """The peer said so many things beside its frames."""
        if not self._asides.take(time.monotonic(), count):
            self._lost(unsendable or _TOO_MANY)  # with what is behind them
        elif self._records.owes_update and self.room and not self._push():
            self._loop.add_writer(self._sock, self._writable)

    def _expect(self) -> None:
        """Ask not to be woken for less than a good piece of a frame that has begun: the rest surely comes.

        The beginning of a record may be out of the socket already: that much less comes.
        """
        left = self._decoder.payload_left - RECORD
        least = next((size for size in (EXPECTED, EXPECTED // 2, EXPECTED // 4) if size <= left), 1)
        if least != self._least:
            self._least = least
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, least)

    # The end.

    def _say_goodbye(self) -> None:
        """Everything is sent: close_notify, and no more from our side."""
        self._io.end()
        if self._push():
            self._shut()
        else:
            self._wait_for_room()

    def _discard(self) -> None:
        """Read what still comes, and is of no use, until the peer has closed: once a turn, see LINGER."""
        try:
            if self._sock.recv_into(self._plain):
                self._read_on()
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._release()


NOTHING = SourceRead(0, empty=False, ended=False, error=None)
"""The lane has no room for more, and nothing was read."""

_TOO_MANY = f"the peer broke TLS: more than {ASIDES.burst} messages beside its frames"

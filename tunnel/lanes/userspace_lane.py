"""The userspace lane: TLS records made by this process, on a non-blocking socket.

A ``RecordIo``, in Python or of the compiled engine, makes and moves the records.
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
from tunnel.lanes.lane import LaneHandler, PayloadHandler, SourceRead
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
"""Maximum bytes of a batch: each batch has a fixed cost. Records in Python use half of it."""

EXPECTED = 256 * KIB
"""Bytes to wait for inside a frame (SO_RCVLOWAT): each wakeup has a fixed cost. Less near the end of the
frame, down to a quarter.
"""

SMALL = 16 * KIB
"""Payload up to this size shares a record with its header; larger payload is not copied for that."""

ASIDES = Rate(32, 1 / 60)
"""Non-data records and messages that a peer may send: two session tickets, KeyUpdates."""


class _SharedMemory(threading.local):
    """The plaintext buffer shared by all lanes of a thread: empty between two loop iterations."""

    def __init__(self) -> None:
        self.plain = memoryview(bytearray(OPENED))


_shared = _SharedMemory()


class UserspaceLane(BaseLane[Content]):
    """A lane over TLS 1.3 records made here. ``keys`` are the result of the handshake on ``sock``.

    ``provider`` of the compiled engine makes the records; without one Python does.
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
        self._sealer, self._opener = self._records.sealer, self._records.opener
        self._io: RecordIo
        if provider is None:
            self._io = PythonRecordIo(sock, self._records)
        else:
            self._io = CompiledRecordIo(sock, self._records, provider)
        self._plain = _shared.plain
        self._least = 1  # SO_RCVLOWAT
        self._recent: dict[int, None] = {}  # streams whose payload went to sinks
        self._cut = ""  # why the socket delivers no more
        self._asides = Bucket(ASIDES, time.monotonic())

    def enter(self, handler: LaneHandler, frame: Frame) -> None:
        """Add the lane to the running loop, with the buffers of its thread."""
        self._plain = _shared.plain
        self._io.enter()
        super().enter(handler, frame)

    @property
    def cipher(self) -> str:
        """The TLS cipher suite."""
        return self._records.cipher

    @property
    def records_sent(self) -> int:
        """TLS records sent with the current key."""
        return self._records.records_sent

    @property
    def records_received(self) -> int:
        """TLS records received with the current key."""
        return self._records.records_received

    def send_control(self, frames: bytes) -> None:
        """Queue complete control frames for the next ``send`` or ``flush``."""
        if not (self.ended or self._unsendable):
            self._unsent.append(frames)

    def send(self, outgoing: Outgoing) -> None:
        """Send a DATA frame behind everything queued."""
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
        """Send the queue; return whether all was sent."""
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
        """Update statistics and key limit after ``sent`` bytes were sent."""
        self._full = self._io.full
        self._bytes_sent = self._io.content_sent
        self._pace.sent(sent, time.monotonic(), congested=self._full)
        if (records := self._sealer.records) >= self._mark:
            self._used(records)

    def next_turn(self) -> int:
        """Return a longer quantum while no other lane of the loop is active and the engine moves payload."""
        return LONG_QUANTUM if self._turn.alone() and self._io.direct else QUANTUM

    @property
    def carries(self) -> bool:
        """Whether the compiled engine moves payload."""
        return self._io.direct

    def carry(self, source: int, stream: int, offset: int, rooms: Sequence[memoryview]) -> SourceRead:
        """See ``Lane.carry``: from socket to socket in one call of the compiled engine."""
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
        """Open records up to the quantum and process them. Sets ``_cut`` when the socket is at its end."""
        unsendable = self._unsendable  # an error while replying to these bytes is not the cause of the end
        start, count, over, end = self._open()
        if end:
            self._cut = unsendable or end
        if count > start:
            self._heard(count - start)
            self._received(self._plain[start:count])
        if (records := self._opener.records) >= self._mark:
            self._used(records)
        if over is not None:
            self._answer_end(over)
            self._cut = unsendable or over.reason
        elif self._records.asides and not self.ended:
            self._take_asides(self._records.take_asides(), unsendable)

    def _open(self) -> tuple[int, int, TlsEnd | None, str]:
        """Open records up to the quantum, and write to sinks; return where the rest is in ``_plain``."""
        if not (targets := self._targets()):
            return 0, *self._io.receive(self._plain)
        most = self.next_turn() if len(targets) == 1 else QUANTUM
        count, over, end, passed = self._io.pass_on(self._plain, targets, most)
        self._passed(targets, passed)
        return passed.start, count, over, end

    def _targets(self) -> list[Target]:
        """Return the sinks for the next payload, empty if it has to go to the handler.

        First that of the stream whose payload came last, then those of others that received some recently.
        """
        decoder, sinks = self._decoder, self._payload
        if sinks is None or not self._io.direct or not decoder.follows_data:
            return []
        if self._protocol.state is not LaneState.ATTACHED:
            return []
        sink, left = sinks.sink(decoder.stream), decoder.payload_left
        if sink is None or sink.offset != decoder.offset or sink.offset + left > sink.limit:
            return []
        targets = [Target(decoder.stream, *sink, left)]
        if sinks.fan > 1:
            targets += self._other_targets(sinks, decoder.stream)
        return targets

    def _other_targets(self, sinks: PayloadHandler, first: int) -> Iterator[Target]:
        self._recent[first] = None
        for stream in list(self._recent):
            if stream == first:
                continue
            if (sink := sinks.sink(stream)) is not None:
                yield Target(stream, *sink)
            else:
                del self._recent[stream]

    def _passed(self, targets: Sequence[Target], passed: PassedOn) -> None:
        """Report what was written to sinks."""
        moved, current = HEADER_SIZE * passed.frames, targets[passed.current]
        outcome = passed.outcomes[passed.current]
        self._decoder.went_on(current.stream, current.offset + outcome.passed, outcome.left)
        try:
            for target, outcome in zip(targets, passed.outcomes, strict=True):
                if (outcome.passed or outcome.error) and self._payload is not None:
                    moved += outcome.passed
                    error = OSError(outcome.error, os.strerror(outcome.error)) if outcome.error else None
                    self._payload.on_passed(target.stream, target.offset, outcome.passed, error)
        except Exception as failure:
            self.fail(failure)
            raise
        if moved:
            self._heard(moved)

    def _answer_end(self, over: TlsEnd) -> None:
        """Send the alert of ``over``, if it has one and the socket is not full."""
        if over.alert is not None and not (self.ended or self._full):
            self._unsent.clear()
            self._io.end(over.alert)
            self._push()

    def _take_asides(self, count: int, unsendable: str) -> None:
        """Count non-data records and messages of the peer, and answer a KeyUpdate."""
        if not self._asides.take(time.monotonic(), count):
            self._lost(unsendable or _TOO_MANY)  # discards what follows them
        elif self._records.owes_update and self.room and not self._push():
            self._loop.add_writer(self._sock, self._writable)

    def _expect(self) -> None:
        """Set SO_RCVLOWAT to a large part of an incomplete frame: the rest is certain to come.

        Part of a record may have been read from the socket already: up to RECORD bytes less are left.
        """
        left = self._decoder.payload_left - RECORD
        least = next((size for size in (EXPECTED, EXPECTED // 2, EXPECTED // 4) if size <= left), 1)
        if least != self._least:
            self._least = least
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, least)

    # Closing.

    def _say_goodbye(self) -> None:
        """Send close_notify, after everything else, and shut down our direction."""
        self._io.end()
        if self._push():
            self._shut()
        else:
            self._wait_for_room()

    def _discard(self) -> None:
        """Read and discard input until the peer has closed: once per loop iteration, see LINGER."""
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
"""The lane has no room, and nothing was read."""

_TOO_MANY = f"the peer violated the TLS protocol: more than {ASIDES.burst} non-data messages"

"""Payload between the pumps and the lanes of a link, in both directions: the steady state of its streams.

Sending: a pump reports that its socket is readable, ``LinkSender`` fills the lanes once per loop iteration,
the session selects the stream, and only then its pump reads. Receiving: a lane passes payload to ``deliver``,
and what is in order is written when the batch ends (``flush``); or the lane writes it to the socket itself
(``sink``). Streams begin and end in ``stream_table``.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Protocol

from tunnel.lanes.lane import Lane, Sink
from tunnel.relay.incidents import IncidentKind
from tunnel.relay.pump import Pump
from tunnel.units import KIB
from tunnel.wire import events
from tunnel.wire.codes import Code
from tunnel.wire.membership import Membership
from tunnel.wire.payload import Payload
from tunnel.wire.scheduler import QUANTUM
from tunnel.wire.session import Session
from tunnel.wire.window import ACK_DELAY

MOST_SINKS = 16
"""Most streams whose sinks a lane caches: with more it is cheaper to pass each payload to ``deliver``."""

FRAME_COST = 4 * KIB
"""Cost of a frame against the quantum, besides its bytes: many tiny frames must not block the loop."""


class StreamTableHandler(Protocol):
    """What the streams need from their link."""

    def kick(self) -> None:
        """Schedule sending."""

    def note(self, kind: IncidentKind, reason: str, **details: object) -> None:
        """Log an incident for the operator, and record it for ``status``."""


class StreamIo(ABC):
    """The open streams of a link, and their payload. Implements PayloadHandler, and PumpHandler in part."""

    def __init__(self, owner: StreamTableHandler) -> None:
        self.pumps: dict[int, Pump] = {}
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._session: Session | None = None
        self._fresh: dict[Pump, None] = {}  # pumps with payload of the current batch
        self._late: asyncio.TimerHandle | None = None  # while delivery reports are pending

    # Implemented by the stream table.

    @abstractmethod
    def act(self, reported: Iterable[events.Event]) -> None:
        """Apply events of the session."""

    @abstractmethod
    def _local_failure(self, pump: Pump, error: OSError) -> None:
        """Reset a stream whose socket has failed."""

    def _living(self) -> Session:
        assert self._session is not None  # noqa: S101  without a session there are no pumps, and no frames
        return self._session

    # For the peer.

    def on_readable(self, pump: Pump) -> None:
        """Schedule a stream whose socket is readable."""
        self._living().ready(pump.number)
        self._owner.kick()

    def send_next(self, lane: Lane, turn: int) -> int:
        """Send payload of the next scheduled stream. Return the number of bytes, 0 if no stream has any.

        The limit is ``turn``, or the lane's batch if that is smaller and the lane takes single frames or the
        network is the bottleneck.
        """
        session, carries, batch = self._living(), lane.carries, lane.batch
        most = turn if carries and batch >= QUANTUM else min(turn, batch)
        while lane.room and (picked := session.pick(most)) is not None:
            number, allowance = picked
            pump = self.pumps[number]
            move = self._forward if carries and pump.forwards else self._read
            try:
                count = move(session, pump, lane, allowance)
            except OSError as error:
                self._local_failure(pump, error)
                continue
            if count:
                return count
            session.not_ready(number)
            if count is not None:
                session.finish(number)
        return 0

    def _read(self, session: Session, pump: Pump, lane: Lane, limit: int) -> int | None:
        """Read and send one frame. Return its bytes, 0 at the end, None if there are none. Raises OSError."""
        data = pump.read(limit)
        if data:
            lane.send(session.send(pump.number, data, lane.epoch))
        return None if data is None else len(data)

    def _forward(self, session: Session, pump: Pump, lane: Lane, limit: int) -> int | None:
        """Like ``_read``, but the lane reads and sends, maybe many frames."""
        number, offset = pump.number, pump.bytes_read
        pieces = pump.forward(lambda fd, rooms: lane.carry(fd, number, offset, rooms), limit)
        if pieces:
            session.carried(number, pieces, lane.epoch)
            if pump.drained:
                session.not_ready(number)
        return None if pieces is None else sum(map(len, pieces))

    # From the peer. Implements PayloadHandler.

    def deliver(self, stream: int, offset: int, payload: Payload) -> None:
        """Handle payload, which is valid until ``flush``. Raises ProtocolError."""
        for piece in self._living().data(stream, offset, payload):
            pump = self.pumps[stream]
            pump.deliver(piece.content)
            self._fresh[pump] = None

    def flush(self) -> None:
        """Write the payload of a batch, with one call for each stream."""
        fresh, self._fresh = self._fresh, {}
        for pump in fresh:
            pump.flush()

    @property
    def fan(self) -> int:
        """The number of streams, or 1 if there are more than ``MOST_SINKS``."""
        count = len(self.pumps)
        return count if count <= MOST_SINKS else 1

    def sink(self, stream: int) -> Sink | None:
        """Return the sink for in-order payload of ``stream``, None if earlier payload is buffered."""
        pump = self.pumps.get(stream)
        if pump is None or (descriptor := pump.sink) < 0:
            return None
        offset, limit = self._living().expects(stream)
        return Sink(descriptor, offset, limit) if limit else None

    def on_passed(self, stream: int, offset: int, count: int, error: OSError | None) -> None:
        """Account for payload that a lane wrote to the socket."""
        pump = self.pumps[stream]
        if count:
            self._living().data(stream, offset, range(count))
        pump.on_passed(count, error)

    def on_delivered(self, pump: Pump, count: int) -> None:
        """Return credit for bytes that the hypervisor accepted."""
        session = self._living()
        if reported := session.delivered(pump.number, count, time.monotonic()):
            self.act(reported)
        if session.has_control:
            self._owner.kick()
        if self._late is None and session.late:
            self._tell_later(session)

    def _tell_later(self, session: Session) -> None:
        self._late = self._loop.call_later(ACK_DELAY, self._tell_late, session)

    def _tell_late(self, session: Session) -> None:
        """Report deliveries that were too small for immediate credit."""
        self._late = None
        if session is not self._session:
            return
        session.tell_late()
        if session.has_control:
            self._owner.kick()
        if session.late:
            self._tell_later(session)


class LinkSenderOwner(Protocol):
    """What a sender needs from its link."""

    lanes: dict[int, Lane]

    members: Membership[Lane]

    @property
    def streams(self) -> StreamIo:
        """The streams whose payload is sent."""

    def end(self, code: Code, reason: str, session: Session | None = None) -> None:
        """End the session after an internal error."""


class LinkSender:
    """Fills the lanes of a link with pending frames and payload. ``host`` is this host's name."""

    def __init__(self, owner: LinkSenderOwner, host: str) -> None:
        self._owner = owner
        self._host = host
        self._loop = asyncio.get_running_loop()
        self._kicked = False
        self._turns = 0

    def kick(self) -> None:
        """Send what is pending in the next loop iteration."""
        if not self._kicked:
            self._kicked = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._kicked = False
        session = self._owner.members.session
        try:
            for lane in self._in_turn():
                self.fill(lane)
        except Exception as error:  # a bug must fail the migrations, not leave them hanging
            self._owner.end(Code.INTERNAL, f"internal error on {self._host}: {error!r}", session)
            raise

    def _in_turn(self) -> list[Lane]:
        """Return all lanes, rotated each time: the first one gets most of the payload."""
        lanes = list(self._owner.lanes.values())
        if len(lanes) > 1:
            self._turns += 1
            first = self._turns % len(lanes)
            return lanes[first:] + lanes[:first]
        return lanes

    def _turn_of(self, lane: Lane, session: Session) -> int:
        """Return the quantum of ``lane``: bytes to send before the loop serves others."""
        return min(session.long_turn, lane.next_turn()) if lane.carries else session.turn

    def fill(self, lane: Lane) -> None:
        """Send on ``lane``: control frames, then retransmissions, then new payload of hypervisors."""
        session, streams = self._owner.members.session, self._owner.streams
        left = turn = self._turn_of(lane, session) if session is not None else 0
        while session is not None and lane.room:
            if left <= 0:
                self.kick()
                return
            if control := session.control():
                lane.send_control(control)
            if session.recovery.pending and (again := session.recovery.next(lane.epoch)) is not None:
                lane.send(again)
                count = len(again.piece)
            else:
                count = streams.send_next(lane, turn)
            if not (count or session.has_control):
                lane.flush()
                return
            left -= count + FRAME_COST

"""A session: the protocol state that two hosts share, over one lane or several, without I/O.

The owner feeds it what lanes received (``receive`` for control frames, ``data`` for payload) and acts on the
events; ``control``, ``recovery.next``, ``pick`` + ``send`` return what a lane sends next, in that order. It
raises ProtocolError when the peer is at fault (send GOAWAY, drop the session), MisuseError when we are.

``recovery`` has what the loss and replacement of lanes need.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tunnel.errors import MisuseError, ProtocolError, RefusedError
from tunnel.units import MIB
from tunnel.wire.codec import encode
from tunnel.wire.codes import MAX_DATA, Code, Feature, FrameType
from tunnel.wire.control_channel import ControlChannel
from tunnel.wire.events import (
    Event,
    StreamClosed,
    StreamConfirmed,
    StreamEnded,
    StreamOpened,
    StreamRefused,
    StreamReleased,
    StreamRequested,
    StreamReset,
)
from tunnel.wire.frames import (
    ControlFrame,
    Credit,
    Delivered,
    Fin,
    Frame,
    Limits,
    Open,
    Opened,
    Probe,
    Refused,
    Reset,
    Verdict,
)
from tunnel.wire.payload import Outgoing, Payload, Piece
from tunnel.wire.probes import Probes
from tunnel.wire.recovery import Recovery
from tunnel.wire.scheduler import SendQueue
from tunnel.wire.states import Call, Input, Receiving, SendState, StreamPhase
from tunnel.wire.stream import Stream
from tunnel.wire.stream_registry import StreamRegistry
from tunnel.wire.window import INITIAL_WINDOW, MAX_WINDOW, Credits

DEFAULT_LIMITS = Limits(streams=512, control=1024)


@dataclass(frozen=True, slots=True)
class Settings:
    """Our side's settings of a session. ``memory`` is bytes, for each direction."""

    limits: Limits = DEFAULT_LIMITS
    memory: int = 256 * MIB
    window: int = INITIAL_WINDOW


class Session:
    """One end of a session (SPEC.md). ``initiator`` opens odd streams, the acceptor even ones.

    ``features`` are the negotiated ones. ``probes`` sends and answers PROBE.
    """

    def __init__(
        self,
        session: bytes,
        settings: Settings,
        peer: Limits,
        *,
        initiator: bool,
        features: Feature = Feature.NONE,
    ) -> None:
        self.id = session
        self.initiator = initiator
        self.round_trip = 0.0  # seconds; the owner keeps it up to date
        self._registry = StreamRegistry(
            peer, settings.limits, settings.memory, settings.window, initiator=initiator
        )
        self.places = self._registry.places
        self._control = ControlChannel(settings.limits.control, peer.control)
        self.probes = Probes(self._control, features)
        self._streams = self._registry.by_number
        self._senders = SendQueue(settings.memory, self._streams)
        self._credits = Credits()
        self.recovery = Recovery(session, self._streams, self._control, self._credits, self._senders)
        self._picked = 0, 0  # what ``pick`` returned last: stream, bytes

    # Streams: what our side does.

    def open(self, target: str) -> int:
        """Request a stream to ``target``; return its number. RefusedError when the peer accepts no more."""
        if self._control.crowded:
            raise RefusedError("the peer acknowledges control frames too slowly", Code.STREAM_LIMIT)
        stream = self._registry.open(target)
        self._control.push(Open(stream.number, stream.into.limit, target))
        return stream.number

    def accept(self, number: int) -> None:
        """Accept a requested stream: its target is connected."""
        stream = self._registry.get(number)
        stream.advance(Call.ACCEPT)
        self._control.push(Opened(number, stream.into.limit))

    def refuse(self, number: int, code: Code, reason: str) -> None:
        """Refuse a requested stream: its target cannot or must not be reached."""
        self._end(self._registry.get(number), Call.REFUSE)
        self._control.push(Refused(number, code, reason))

    def reset(self, number: int, code: Code, reason: str) -> None:
        """Reset a stream: nothing more is sent or delivered on it."""
        stream = self._registry.get(number)
        if stream.phase is StreamPhase.DIALLING:
            self.refuse(number, code, reason)
            return
        self._end(stream, Call.RESET)
        self._control.push(Reset(number, code, reason))

    def finish(self, number: int) -> None:
        """End our direction of a stream, after everything that was sent."""
        self._control.push(Fin(number, self._registry.get(number).finish()))
        self.not_ready(number)

    def target(self, number: int) -> str:
        """Return the target of a stream, as its opener named it."""
        return self._registry.get(number).target

    # Payload: what we send.

    def ready(self, number: int) -> None:
        """Add ``number``, which has something to send: ``pick`` returns it in its order, when it may send."""
        self._senders.ready(self._streams.get(number) or self._registry.get(number))

    def not_ready(self, number: int) -> None:
        """Remove ``number``, which has nothing to send for now."""
        self._senders.idle(number)

    def share(self, memory: int) -> None:
        """Set the memory to ``memory`` bytes for each direction; what is granted already stays."""
        self._registry.budget.total = memory
        self._senders.allot(memory)

    @property
    def kept(self) -> int:
        """Bytes kept for replay, of all streams."""
        return self._senders.retention.kept

    def is_blocked(self, number: int) -> bool:
        """Whether ``number`` has something to send, and waits for credit or for memory."""
        return self._senders.waits(number)

    @property
    def turn(self) -> int:
        """How many bytes to send before the owner serves others."""
        return self._senders.scheduler.turn

    @property
    def long_turn(self) -> int:
        """The same for an owner whose lane moves many frames per call."""
        return self._senders.scheduler.long_turn

    def pick(self, most: int = MAX_DATA) -> tuple[int, int] | None:
        """Return the stream that sends next, and how many bytes it may send now: 1 to ``most``."""
        picked = self._senders.pick(most)
        self._picked = picked or (0, 0)
        return picked

    def send(self, number: int, payload: Payload, lane: int) -> Outgoing:
        """Frame ``payload`` for ``lane``. At most what ``pick`` allowed; MisuseError otherwise."""
        stream, length = self._streams.get(number) or self._registry.get(number), len(payload)
        picked, allowance = self._picked
        self._picked = 0, 0
        if picked != number:
            allowance = self._senders.retention.allowance(stream)
        if not 0 < length <= allowance:
            raise MisuseError(Code.FLOW_CONTROL, f"{length} bytes on stream {number} are not allowed now")
        outgoing = stream.send(payload, lane)
        self._left(stream, length, 1)
        return outgoing

    def carried(self, number: int, payloads: Sequence[Payload], lane: int) -> None:
        """Keep, in these parts, what ``lane`` sent in frames of its own: at most what ``pick`` allowed."""
        stream, length = self._streams.get(number) or self._registry.get(number), sum(map(len, payloads))
        picked, self._picked = self._picked, (0, 0)
        if picked[0] != number or not 0 < length <= picked[1]:
            raise MisuseError(Code.FLOW_CONTROL, f"{length} bytes on stream {number} were not allowed")
        for payload in payloads:
            stream.carried(payload, lane)
        self._left(stream, length, len(payloads))

    def _left(self, stream: Stream, length: int, frames: int) -> None:
        """Account for ``length`` bytes of ``stream`` in flight, kept in ``frames``."""
        if self._senders.sent(stream, length, frames) and self._may_ask(stream):
            stream.asking = True
            self._credits.ask(stream.number, stream.into)

    def _may_ask(self, stream: Stream) -> bool:
        """Whether the peer accepts CREDIT: not before it has OPENED, which may be on a slower lane."""
        return stream.ours or stream.into.received > 0

    # Payload: what we receive.

    def data(self, number: int, offset: int, payload: Payload) -> list[Piece]:
        """Process payload, in pieces of any size; return what is to be delivered now, in order.

        Returns [] for a stream that is closed: its bytes were in flight when it was reset. Payload after a
        gap is copied, and returned by a later call.
        """
        stream = self._streams.get(number) or self._registry.find(number, FrameType.DATA)
        if stream is None:
            return []
        return stream.arrived(offset, payload)

    def expects(self, number: int) -> tuple[int, int]:
        """Return the next offset of payload of ``number`` and its limit; (0, 0) if none can be delivered."""
        stream = self._streams.get(number)
        return stream.expects() if stream is not None else (0, 0)

    def unconfirmed(self, number: int) -> bool:
        """Whether our direction ended, and the peer has not delivered all of it yet."""
        return self._registry.get(number).sending is SendState.FINISHED

    def acknowledged(self, number: int) -> int:
        """Return how many bytes of our direction the peer has acknowledged as delivered."""
        return self._registry.get(number).out.delivered

    def delivered(self, number: int, count: int, now: float) -> list[Event]:
        """Process the delivery of ``count`` bytes into the local socket. ``now`` is in seconds."""
        stream = self._streams.get(number) or self._registry.get(number)
        if not stream.deliver(count):
            self._credits.wait(number, stream.into)
        elif self._credits.due(number, stream.into):
            self._consider(stream, now)
        return [] if stream.receiving is Receiving.READY else self._complete(stream)

    def flush_credits(self) -> None:
        """Queue CREDIT for everything delivered, however little: to be called periodically."""
        for number, stream in self._streams.items():
            if stream.into.unadvertised:
                self._credits.due(number, stream.into)
        self._control.acknowledge |= self._control.into.unadvertised

    @property
    def late(self) -> bool:
        """Whether to call ``tell_late`` in ACK_DELAY seconds (see ``credits``)."""
        return self._credits.late

    def tell_late(self) -> None:
        """Queue CREDIT for what was delivered and did not grow since the last call."""
        self._credits.tell_late()

    # What a lane sends next.

    @property
    def has_control(self) -> bool:
        """Whether ``control`` has something to send."""
        control = self._control
        return bool(self._credits.queue or control.acknowledge or control.pending)

    @property
    def busy(self) -> bool:
        """Whether there may be something to send: control frames, lost payload, or a stream's payload."""
        return bool(self.recovery.pending or self._senders.scheduler) or self.has_control

    def control(self, room: int = MAX_DATA) -> bytes:
        """Return control frames to send now, whole ones, up to about ``room`` bytes."""
        if not self.has_control:
            return b""
        out = bytearray()
        while len(out) < room and (raw := self._next_control()):
            out += raw
        return bytes(out)

    def _next_control(self) -> bytes:
        if self._control.pending:
            return self._control.pop()
        if self._control.acknowledge:
            self._control.acknowledge = False
            return encode(Credit(0, *self._control.into.advertise()))
        return self._credits.next()

    # What a lane received.

    def receive(self, frame: Frame, sequence: int) -> Iterator[Event]:
        """Process a frame of an attached lane: CREDIT, or one of the control channel's.

        One frame may release others that overtook it. Each is processed only when the events of those before
        it were taken from the iterator, and so acted upon; the iterator must be exhausted.
        """
        if isinstance(frame, Credit):
            yield from self._on_credit(frame)
            return
        if not isinstance(frame, ControlFrame):
            raise ProtocolError(Code.PROTOCOL, f"{frame.type.name} is not a session frame")
        for due in self._control.arrived(frame, sequence):
            yield from self._obey(due)

    def _obey(self, frame: ControlFrame) -> list[Event]:
        if isinstance(frame, Open):
            return [self._on_open(frame)]
        if isinstance(frame, Probe | Verdict):
            return [self.probes.obey(frame)]
        stream = self._registry.find(frame.stream, frame.type)
        if stream is None:
            return []  # closed here while this frame was in flight
        match frame:
            case Opened():
                stream.opened(frame.limit)
                return [StreamOpened(stream.number)]
            case Refused():
                self._end(stream, FrameType.REFUSED)
                return [StreamRefused(frame.stream, frame.code, frame.reason)]
            case Reset():
                self._end(stream, FrameType.RESET)
                return [StreamReset(frame.stream, frame.code, frame.reason)]
            case Fin():
                stream.ended(frame.final)
                return self._complete(stream)
            case Delivered():
                frames = stream.frames
                self._senders.released(stream, stream.confirmed(frame.final), frames - stream.frames)
                return self._complete(stream) or [StreamConfirmed(stream.number)]

    def _on_open(self, frame: Open) -> StreamRequested:
        if self._control.crowded:
            raise ProtocolError(Code.FLOW_CONTROL, "sends OPEN, but does not acknowledge answers")
        stream = self._registry.requested(frame)
        return StreamRequested(stream.number, frame.target)

    def _on_credit(self, frame: Credit) -> list[Event]:
        if frame.stream == 0:
            self._control.credited(frame.delivered, frame.limit)
            return []
        stream = self._streams.get(frame.stream) or self._registry.find(frame.stream, FrameType.CREDIT)
        if stream is not None:
            known, frames = stream.out.told, stream.frames
            released = stream.credited(frame.delivered, frame.limit)
            if stream.out.told == known:
                self._asked(stream)
            else:
                self._senders.released(stream, released, frames - stream.frames)
            if released:
                return [StreamReleased(stream.number, stream.out.delivered)]
        return []

    # Bookkeeping.

    def _end(self, stream: Stream, signal: Input) -> None:
        stream.advance(signal)
        self._registry.remove(stream)
        self._credits.forget(stream.number)
        self.recovery.forget(stream.number)
        self._senders.forget(stream)

    def _complete(self, stream: Stream) -> list[Event]:
        """Return an event for each end of a stream that is reached by now."""
        events: list[Event] = []
        final = stream.try_complete()
        if final is not None:
            self._credits.forget(stream.number)  # DELIVERED replaces it
            self._control.push(Delivered(stream.number, final))
            events.append(StreamEnded(stream.number))
        if stream.complete:
            self._end(stream, Call.END)
            events.append(StreamClosed(stream.number))
        return events

    def _asked(self, stream: Stream) -> None:
        """Process a repeated CREDIT: the peer is short of memory, and requests credit."""
        if stream.receiving is not Receiving.DONE and stream.into.ask():
            self._credits.due(stream.number, stream.into)

    def _consider(self, stream: Stream, now: float) -> None:
        """Credit is due: enlarge the window of ``stream`` if it is the bottleneck."""
        into = stream.into
        if into.quarter and into.outpaced(now, self.round_trip):
            most = min(into.size, MAX_WINDOW - into.size)
            into.size += self._registry.budget.grow(into.size, most, carried=into.carried)

"""One stream: its three state machines, its two windows, and what is kept for replay."""

from __future__ import annotations

from collections import deque
from collections.abc import Container
from dataclasses import dataclass

from tunnel.errors import MisuseError, ProtocolError
from tunnel.wire.codec import HEADER, data_header
from tunnel.wire.codes import Code, FrameType
from tunnel.wire.frames import Position
from tunnel.wire.payload import Outgoing, Payload, Piece
from tunnel.wire.reassembly import ReassemblyBuffer
from tunnel.wire.states import PHASE, RECEIVING, SENDING, Call, Input, Receiving, SendState, StreamPhase, step
from tunnel.wire.window import ReceiveWindow, SendWindow

ARRIVED = 0
"""In place of a lane's epoch: the peer has received it, whatever happens to lanes."""

KEPT_COST = 256
"""Memory overhead of a frame that is kept, in bytes: payloads may be single bytes."""


@dataclass(slots=True)
class SentChunk:
    """Payload that was sent and is not known to be delivered. ``lane`` is the last that carried it."""

    offset: int
    payload: Payload
    lane: int

    @property
    def end(self) -> int:
        """The offset after its last byte."""
        return self.offset + len(self.payload)


class Stream:
    """The state of one stream at one end. Owned by a Session, which passes frames and calls to it."""

    def __init__(self, number: int, target: str, phase: StreamPhase, window: int) -> None:
        self.number = number
        self.target = target
        self.phase = phase
        self.ours = phase is StreamPhase.OPENING  # opened by our side
        self.sending = SendState.READY
        self.receiving = Receiving.READY
        self.out = SendWindow()
        self.into = ReceiveWindow(window)
        self.asking = False  # we requested credit, and received none since
        self._final: int | None = None
        self._assembly = ReassemblyBuffer()
        self._kept: deque[SentChunk] = deque()
        self._again: deque[SentChunk] = deque()
        self._peer_received = 0

    def advance(self, signal: Input) -> None:
        """Change the phase. Raises ProtocolError or MisuseError when it does not allow ``signal``."""
        self.phase = step(PHASE, self.phase, signal, Code.STREAM_STATE)

    # What we send.

    @property
    def frames(self) -> int:
        """Number of frames kept for replay."""
        return len(self._kept)

    @property
    def cost(self) -> int:
        """Bytes of memory used for replay."""
        return self.out.sent - self.out.delivered + KEPT_COST * len(self._kept)

    def opened(self, limit: int) -> None:
        """Process OPENED: we may send up to byte ``limit``."""
        self.advance(FrameType.OPENED)
        self.out.limit = max(self.out.limit, limit)

    def send(self, payload: Payload, lane: int) -> Outgoing:
        """Frame ``payload`` and keep it until it is delivered. It must fit into the window."""
        length = len(payload)
        offset = self.carried(payload, lane)
        header = HEADER.pack(FrameType.DATA, 0, 0, self.number, length, offset)
        return Outgoing(header, Piece(payload, 0, length))

    def carried(self, payload: Payload, lane: int) -> int:
        """Keep payload that ``lane`` is to send, or has sent; return its offset."""
        if self.phase is not StreamPhase.OPEN or self.sending is not SendState.READY:  # else no state changes
            self.advance(Call.SEND)
            self.sending = step(SENDING, self.sending, Call.SEND, Code.STREAM_STATE)
        offset = self.out.sent
        self._kept.append(SentChunk(offset, payload, lane))
        self.out.sent += len(payload)
        return offset

    def finish(self) -> int:
        """End our direction; return the final offset."""
        self.advance(Call.FINISH)
        self.sending = step(SENDING, self.sending, Call.FINISH, Code.STREAM_STATE)
        return self.out.sent

    def credited(self, delivered: int, limit: int) -> int:
        """Process CREDIT; return the number of bytes that need not be kept any longer."""
        self.advance(FrameType.CREDIT)
        self.sending = step(SENDING, self.sending, FrameType.CREDIT, Code.STREAM_STATE)
        return self._acknowledged(delivered, limit)

    def confirmed(self, final: int) -> int:
        """Process DELIVERED, the answer to our FIN; return the number of bytes released."""
        self.advance(FrameType.DELIVERED)
        self.sending = step(SENDING, self.sending, FrameType.DELIVERED, Code.STREAM_STATE)
        if final != self.out.sent:
            raise ProtocolError(Code.PROTOCOL, f"DELIVERED {final} for a FIN at {self.out.sent}")
        return self._acknowledged(final, self.out.limit)

    def _acknowledged(self, delivered: int, limit: int) -> int:
        before = self.out.delivered
        self.out.credit(delivered, limit)
        if self.out.delivered > before:
            self.asking = False
        self._peer_received = max(self._peer_received, self.out.delivered)  # what is released stays released
        for queue in (self._kept, self._again):
            while queue and queue[0].end <= self.out.delivered:
                queue.popleft()
        return self.out.delivered - before

    # Replay.

    def learn(self, position: Position) -> int:
        """Apply the peer's position; return the number of bytes that need not be kept any longer."""
        if not position.delivered <= position.received <= self.out.sent:
            detail = f"delivered {position.delivered}, received {position.received}, sent {self.out.sent}"
            raise ProtocolError(Code.FLOW_CONTROL, f"impossible position of stream {self.number}: {detail}")
        self._peer_received = max(self._peer_received, position.received)
        return self._acknowledged(position.delivered, max(position.limit, position.delivered))

    def rewind(self, alive: Container[int]) -> None:
        """Queue what the peer may lack and no lane in ``alive`` carries, to be sent again."""
        self._again = deque(
            k for k in self._kept if k.lane and k.lane not in alive and k.end > self._peer_received
        )

    def settle(self, lane: int) -> None:
        """Mark everything that was sent over ``lane`` as arrived, delivered or not."""
        for kept in self._kept:
            if kept.lane == lane:
                kept.lane = ARRIVED

    def replay(self, lane: int) -> Outgoing | None:
        """Return the next frame to send again, oldest first."""
        if not self._again:
            return None
        kept = self._again.popleft()
        kept.lane = lane
        skip = max(0, self._peer_received - kept.offset)
        piece = Piece(kept.payload, skip, len(kept.payload))
        return Outgoing(data_header(self.number, kept.offset + skip, len(piece)), piece)

    # What we receive.

    def arrived(self, offset: int, payload: Payload) -> list[Piece]:
        """Process DATA; return what is to be delivered now, in order. Raises ProtocolError."""
        if (
            self.phase is not StreamPhase.OPEN or self.receiving is not Receiving.READY
        ):  # else no state changes
            self.advance(FrameType.DATA)
            self.receiving = step(RECEIVING, self.receiving, FrameType.DATA, Code.STREAM_STATE)
        length, assembly = len(payload), self._assembly
        self.into.check(offset, length)
        if self._final is not None and offset + length > self._final:
            raise ProtocolError(Code.PROTOCOL, f"data after the end of stream {self.number} at {self._final}")
        if offset == assembly.received >= assembly.early:  # in order, and there is no gap
            self.into.received = assembly.received = offset + length
            return [Piece(payload, 0, length)]
        pieces = assembly.insert(offset, payload)
        self.into.received = assembly.received
        return pieces

    def expects(self) -> tuple[int, int]:
        """As ``Session.expects``; (0, 0) also while data is buffered after a gap."""
        if self.phase is not StreamPhase.OPEN or self.receiving is not Receiving.READY:
            return 0, 0
        if self._assembly.early > self._assembly.received:
            return 0, 0
        return self.into.received, self.into.limit

    def ended(self, final: int) -> None:
        """Process FIN. Raises ProtocolError when it contradicts data that was received."""
        self.advance(FrameType.FIN)
        self.receiving = step(RECEIVING, self.receiving, FrameType.FIN, Code.STREAM_STATE)
        self.into.check(final, 0)
        if final < self._assembly.highest:
            raise ProtocolError(Code.PROTOCOL, f"FIN at {final} before data of stream {self.number}")
        self._final = final

    def deliver(self, count: int) -> bool:
        """Process the delivery of ``count`` bytes into the local socket; return whether CREDIT is due."""
        if (
            self.phase is not StreamPhase.OPEN or self.receiving is not Receiving.READY
        ):  # else no state changes
            self.advance(Call.DELIVER)
            self.receiving = step(RECEIVING, self.receiving, Call.DELIVER, Code.STREAM_STATE)
        if count > self.into.received - self.into.delivered:
            raise MisuseError(Code.FLOW_CONTROL, f"{count} bytes delivered, more than have arrived")
        return self.into.deliver(count)

    def try_complete(self) -> int | None:
        """Return the final offset if the peer's direction ended and all of it is delivered; only once."""
        if self.receiving is not Receiving.ENDING or self.into.delivered != self._final:
            return None
        self.receiving = step(RECEIVING, self.receiving, Call.DELIVER_ALL, Code.STREAM_STATE)
        return self._final

    @property
    def held(self) -> int:
        """Bytes of memory buffered after a gap."""
        return self._assembly.held

    def take_position(self) -> Position:
        """Return our receiving side's position, for RESUME."""
        delivered, limit = self.into.position()
        return Position(self.number, self.into.received, delivered, limit)

    @property
    def complete(self) -> bool:
        """Whether both directions ended and were delivered."""
        return self.sending is SendState.DONE and self.receiving is Receiving.DONE

"""Loss and replacement of a session's lanes: which positions the hosts exchange, and what is sent again.

A lane has a number, its *epoch*, never used again. When one is lost, the initiator sends ``resume``, the
acceptor ``resumed``; each passes the other's positions to ``rejoin``, and what was lost is sent again.
"""

from __future__ import annotations

from collections.abc import Mapping

from tunnel.wire.control_channel import ControlChannel
from tunnel.wire.events import Event, StreamReleased
from tunnel.wire.frames import Position, Resume, Resumed
from tunnel.wire.payload import Outgoing
from tunnel.wire.scheduler import SendQueue
from tunnel.wire.stream import Stream
from tunnel.wire.window import Credits


class Recovery:
    """The lanes of one session, by epoch, and what is to be sent again. ``session`` is its identifier.

    Raises ProtocolError when the peer is at fault.
    """

    def __init__(
        self,
        session: bytes,
        streams: Mapping[int, Stream],
        control: ControlChannel,
        credit: Credits,
        senders: SendQueue,
    ) -> None:
        self._session = session
        self._streams = streams
        self._control = control
        self._credits = credit
        self._senders = senders
        self._lanes: set[int] = set()
        self.pending: dict[int, None] = {}
        """Streams that may have something to send again: ask ``next``."""
        self._outdated = False  # lanes carried CREDIT after our positions were taken

    def attach(self, epoch: int) -> None:
        """Add a lane."""
        self._lanes.add(epoch)

    def lost(self, epoch: int) -> None:
        """Remove a lost lane. What it may have lost is sent again, now or after ``rejoin``."""
        self._lanes.discard(epoch)
        if self._lanes:
            self._control.rewind()
            self._repeat_credits()
            self._rewind()

    def retired(self, epoch: int) -> None:
        """Remove a retired lane: the peer has all that we sent on it, nothing is sent again."""
        self._lanes.discard(epoch)
        for stream in self._streams.values():
            stream.settle(epoch)

    def resume(self, epoch: int, replaces: int, kind: type[Resume] = Resume) -> Resume:
        """Return our positions, as a lane's first frame: with lane ``replaces`` lost, or up: then REPLACE."""
        return kind(self._session, epoch, replaces, *self._control.into.position(), self._positions())

    def resumed(self, epoch: int, replaces: int) -> Resumed:
        """Return our positions, as the answer to RESUME."""
        return Resumed(self._session, epoch, replaces, *self._control.into.position(), self._positions())

    def _positions(self) -> tuple[Position, ...]:
        self._outdated = bool(self._lanes)
        return tuple(stream.take_position() for stream in self._streams.values())

    def rejoin(self, peer: Resume) -> list[Event]:
        """Apply the peer's positions and attach its lane. Raises ProtocolError when they are invalid."""
        self._control.credited(peer.control_received, peer.control_limit)
        if not self._lanes:  # else ``lost`` did it
            self._control.rewind()
            if self._outdated:
                self._repeat_credits()
        events: list[Event] = []
        for position in peer.positions:
            if (stream := self._streams.get(position.stream)) is not None:
                frames = stream.frames
                self._senders.released(stream, stream.learn(position), frames - stream.frames)
                events.append(StreamReleased(stream.number, stream.out.delivered))
        self._rewind()
        self.attach(peer.epoch)
        self._senders.retry()
        return events

    def _repeat_credits(self) -> None:
        """Queue all CREDIT again: frames that carried it may be lost."""
        self._control.acknowledge = True
        for number, stream in self._streams.items():
            if stream.into.delivered:
                self._credits.due(number, stream.into)

    def _rewind(self) -> None:
        """Queue what is lost, of every stream: one may be newer than the peer's positions."""
        for number, stream in self._streams.items():
            stream.rewind(self._lanes)
            self.pending[number] = None

    def next(self, lane: int) -> Outgoing | None:
        """Return the next frame of payload to send again, on ``lane``."""
        while self.pending:
            number = next(iter(self.pending))
            if (outgoing := self._streams[number].replay(lane)) is not None:
                return outgoing
            del self.pending[number]
        return None

    def forget(self, number: int) -> None:
        """Drop a stream that is closed."""
        self.pending.pop(number, None)

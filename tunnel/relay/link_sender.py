"""Schedule the sending of a link over its lanes: once per loop iteration, if there is something to send."""

from __future__ import annotations

import asyncio
from typing import Protocol

from tunnel.lanes.lane import Lane
from tunnel.relay.stream_table import StreamTable
from tunnel.units import KIB
from tunnel.wire.codes import Code
from tunnel.wire.session import Session

FRAME_COST = 4 * KIB
"""Cost of a frame against the quantum, besides its bytes: many tiny frames must not block the loop."""


class LinkSenderOwner(Protocol):
    """What a sender needs from its link."""

    lanes: dict[int, Lane]
    streams: StreamTable

    @property
    def session(self) -> Session | None:
        """The session, if there is one."""

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
        session = self._owner.session
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
        session, streams = self._owner.session, self._owner.streams
        left = turn = self._turn_of(lane, session) if session is not None else 0
        while session is not None and lane.room:
            if left <= 0:
                self.kick()
                return
            if control := session.control():
                lane.send_control(control)
            if (again := session.replay(lane.epoch)) is not None:
                lane.send(again)
                count = len(again.piece)
            else:
                count = streams.send_next(lane, turn)
            if not (count or session.has_control):
                lane.flush()
                return
            left -= count + FRAME_COST

"""A lane: one TLS connection that carries frames, as whoever owns one sees it.

Contract, kept by every kind and checked by one conformance suite:

- ``start(handler)`` begins to read. From then on the handler is called from the loop, never from within a
  call that it made itself, except that ``send`` and ``flush`` may end the lane: ``on_end`` then comes later.
- Frames arrive whole and in order; payload arrives in order, in pieces of any size, each a view that is
  valid until ``on_batch_end`` returns. Frames that the lane's state does not allow never arrive.
- ``send_control``, ``send`` and ``flush`` never block and never lose anything while the lane lives. When
  ``room`` is False the lane has enough: ``on_writable`` says when to go on.
- ``on_end(lane, reason)`` comes exactly once, and nothing after it. LaneLost: replace the lane and resume.
  ProtocolError: the peer broke a rule, and has been told. RefusedError: the peer said GOAWAY, and knew that
  the lane is one of the session's; where it may not have known that, its GOAWAY is a loss of the lane.
- ``on_worn`` comes once, when the key of a direction has protected as many records as ``warn_at`` said.
  Whatever its owner does, a lane whose key protected ``KEY_LIMIT`` records is lost.
- ``close(code, reason)`` says GOAWAY, sends what is queued within a bounded time, and ends the lane without
  a call to ``on_end``. ``abort()`` does so at once, without a word: the connection is reset, and no frame
  that was not sent yet arrives later. Both may be called again, to no effect.
- A connection that ends without GOAWAY is lost, however cleanly TLS was closed: truncation is no end.
- ``leave`` and ``enter`` take a lane that is not attached from one loop to another, in another thread.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from tunnel.errors import TunnelError
from tunnel.tls.lane_kinds import LaneKind
from tunnel.tls.verified_chains import VerifiedChains
from tunnel.wire.codes import Code
from tunnel.wire.frames import Frame
from tunnel.wire.payload import Outgoing, Payload
from tunnel.wire.scheduler import QUANTUM

KEY_LIMIT = 5 << 22
"""Records after which a key is used no more. AES-GCM may protect 2**24.5 (RFC 8446 section 5.5): 13 % more
than this, which is far above what a lane sends, or takes unseen, before it is stopped."""


class Sink(NamedTuple):
    """A local socket that takes payload of a stream unseen, in order: from ``offset``, before ``limit``."""

    descriptor: int
    offset: int
    limit: int


class SourceRead(NamedTuple):
    """What ``Lane.carry`` read from a local socket, and sent: ``taken`` bytes.

    ``empty``: there is no more for now; ``ended``: nothing more comes; ``error``: why that is no clean end.
    """

    taken: int
    empty: bool
    ended: bool
    error: OSError | None


class Sinks(Protocol):
    """Who knows where payload goes that no handler needs to see."""

    @property
    def fan(self) -> int:
        """Of how many streams payload may come by turns: 1 also where they are too many to look at all."""

    def sink(self, stream: int) -> Sink | None:
        """Where payload of ``stream`` goes; None: to the handler, like any other."""

    def on_passed(self, stream: int, offset: int, count: int, error: OSError | None) -> None:
        """So many bytes came and are in the sink, which failed behind them if there is an ``error``."""


class LaneHandler(Protocol):
    """Who owns a lane: first whoever set it up, then its link."""

    def on_frame(self, lane: Lane, frame: Frame, sequence: int) -> None:
        """Take a frame (never DATA, PING, PONG, GOAWAY). May raise ProtocolError: the lane then ends."""

    def on_payload(self, lane: Lane, stream: int, offset: int, payload: Payload) -> None:
        """Take payload, valid until ``on_batch_end``. May raise ProtocolError: the lane then ends."""

    def on_batch_end(self, lane: Lane) -> None:
        """Everything that came at once has been handed over, and its memory will be used again."""

    def on_writable(self, lane: Lane) -> None:
        """``room`` is True again."""

    def on_tick(self, lane: Lane) -> None:
        """A few seconds went by, the peer is alive: a good time for what is not urgent."""

    def on_worn(self, lane: Lane) -> None:
        """The key of a direction has protected as many records as ``warn_at`` said."""

    def on_end(self, lane: Lane, reason: TunnelError) -> None:
        """The lane is gone."""


class Lane(ABC):
    """See the module."""

    kind: LaneKind
    peer: str
    local: str  # address of this end
    remote: str
    since: float  # time.monotonic() when it was made
    epoch: int  # its number in a session, 0 before it has one
    replaces: int  # the lost lane whose place it took, if it did
    proof: VerifiedChains | None = None  # what both ends have proven, set by who made the lane
    gone: asyncio.Event  # set once the socket is closed, after whatever was left to say

    @property
    @abstractmethod
    def cipher(self) -> str:
        """The TLS cipher suite."""

    @property
    @abstractmethod
    def bytes_sent(self) -> int:
        """Bytes of frames that the socket took; TLS adds 22 to every 16 KiB."""

    @property
    @abstractmethod
    def bytes_received(self) -> int:
        """Bytes of frames that came."""

    @property
    @abstractmethod
    def records_sent(self) -> int:
        """TLS records that were protected with our key; rather too many than too few."""

    @property
    @abstractmethod
    def records_received(self) -> int:
        """TLS records that were protected with the peer's key; rather too many than too few."""

    @property
    @abstractmethod
    def round_trip(self) -> float:
        """Seconds that the last PING took; 0.0 before the first."""

    @property
    @abstractmethod
    def distance(self) -> float:
        """Seconds of the quickest PING lately: the way itself, without what queues on it. 0.0 before any."""

    def next_turn(self) -> int:
        """How many bytes it may move in the turn that begins, before its loop serves others."""
        return QUANTUM

    @property
    @abstractmethod
    def batch(self) -> int:
        """How many payload bytes one ``send`` should carry at most."""

    @property
    @abstractmethod
    def ended(self) -> bool:
        """Whether nobody owns it any more: it was closed, or ``on_end`` came or is about to."""

    @property
    @abstractmethod
    def room(self) -> bool:
        """Whether to send now rather than wait for ``on_writable``."""

    @abstractmethod
    def start(self, handler: LaneHandler) -> None:
        """Begin to read."""

    @abstractmethod
    def hand_over(self, handler: LaneHandler) -> None:
        """Let another handler own the lane from now on."""

    @abstractmethod
    def leave(self) -> None:
        """Let the loop not watch the lane any more: it is about to ``enter`` another one.

        To be called from outside the handler, when the first frame has come, and before it is answered.
        """

    @abstractmethod
    def enter(self, handler: LaneHandler, frame: Frame) -> None:
        """Go on in the running loop, with ``handler``, which is told of the first frame here."""

    @abstractmethod
    def attached(self, epoch: int, sinks: Sinks | None = None) -> None:
        """The lane belongs to a session now: watch over it. ``sinks`` may take payload past the handler."""

    @property
    def carries(self) -> bool:
        """Whether ``carry`` works: else payload is to be read, and given to ``send``."""
        return False

    def carry(self, source: int, stream: int, offset: int, rooms: Sequence[memoryview]) -> SourceRead:
        """Read what a local socket, by its descriptor, has to say, and send it as payload of ``stream``.

        It begins at ``offset`` there, and stays in ``rooms``. Not to be called while there is no ``room``.
        """
        raise NotImplementedError

    @abstractmethod
    def ping(self, answered: Callable[[], None]) -> None:
        """Ask the peer for a sign of life; ``answered`` is called when it comes. Of two, the last counts."""

    @abstractmethod
    def warn_at(self, records: int) -> None:
        """Call ``on_worn`` once a key has protected so many records. Until this is said it never comes."""

    @abstractmethod
    def send_control(self, frames: bytes) -> None:
        """Queue whole control frames; they leave with the next ``send`` or ``flush``."""

    @abstractmethod
    def send(self, outgoing: Outgoing) -> None:
        """Send a DATA frame behind everything queued before it."""

    @abstractmethod
    def flush(self) -> None:
        """Send what is queued."""

    @abstractmethod
    def close(self, code: Code, reason: str) -> None:
        """Say GOAWAY and end the lane."""

    @abstractmethod
    def abort(self) -> None:
        """End the lane at once."""

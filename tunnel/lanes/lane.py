"""The interface of a lane: one TLS connection that carries frames.

Contract, implemented by every kind and checked by one conformance suite:

- ``start(handler)`` starts reading. From then on the handler is called from the loop, never from within one
  of its own calls: if ``send`` or ``flush`` ends the lane, ``on_end`` is called later.
- Frames are passed to the handler whole and in order; payload to a ``PayloadHandler``, in order, in pieces of
  any size, each a view that is valid until ``flush`` returns. Frames that the lane's state does not allow are
  never passed on; payload is allowed only while the lane is attached.
- ``send_control``, ``send`` and ``flush`` never block and never lose anything while the lane is up. When
  ``room`` is False, stop sending until ``on_writable``.
- ``on_end(lane, reason)`` is called exactly once, and nothing after it. LaneLost: replace the lane and
  resume. ProtocolError: the peer violated the protocol; GOAWAY has been sent. RefusedError: the peer sent
  GOAWAY after it had attached the lane to the session; if that is uncertain, its GOAWAY is a LaneLost.
- ``on_worn`` is called once, when the key of a direction has protected as many records as ``warn_at`` set.
  A lane whose key has protected ``KEY_LIMIT`` records is lost in any case.
- ``close(code, reason)`` sends GOAWAY and the queue within a bounded time, and closes the lane without a call
  to ``on_end``. ``abort()`` resets the connection immediately: no GOAWAY, and no unsent frame arrives later.
  Both are idempotent.
- A connection that ends without GOAWAY is lost, even after close_notify: it may have been truncated.
- ``leave`` and ``enter`` move a lane that is not attached from one loop to another, in another thread.
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


class Sink(NamedTuple):
    """A local socket that payload of a stream is written to directly, from ``offset`` up to ``limit``."""

    descriptor: int
    offset: int
    limit: int


class SourceRead(NamedTuple):
    """The result of ``Lane.carry``: ``taken`` bytes were read from a local socket and sent.

    ``empty``: the socket has no more for now; ``ended``: it is at its end; ``error``: that was not clean.
    """

    taken: int
    empty: bool
    ended: bool
    error: OSError | None


class PayloadHandler(Protocol):
    """Takes the payload of an attached lane, or returns the local sockets that the lane writes it to."""

    def deliver(self, stream: int, offset: int, payload: Payload) -> None:
        """Process payload, valid until ``flush``. May raise ProtocolError, which ends the lane."""

    def flush(self) -> None:
        """A batch has been delivered, with payload or without, and its memory is reused after this call."""

    @property
    def fan(self) -> int:
        """Number of streams whose payload may be interleaved; also 1 if there are too many to check."""

    def sink(self, stream: int) -> Sink | None:
        """Return the sink of ``stream``; None if its payload goes to ``deliver``."""

    def on_passed(self, stream: int, offset: int, count: int, error: OSError | None) -> None:
        """``count`` bytes were written to the sink, which then failed if there is an ``error``."""


class LaneHandler(Protocol):
    """The owner of a lane: first the code that set it up, then its link."""

    def on_frame(self, lane: Lane, frame: Frame, sequence: int) -> None:
        """Process a frame (never DATA, PING, PONG, GOAWAY). May raise ProtocolError, which ends the lane."""

    def on_writable(self, lane: Lane) -> None:
        """``room`` is True again."""

    def on_tick(self, lane: Lane) -> None:
        """A keepalive interval has passed and the peer is alive: for work that is not urgent."""

    def on_worn(self, lane: Lane) -> None:
        """The key of a direction has protected as many records as ``warn_at`` set."""

    def on_end(self, lane: Lane, reason: TunnelError) -> None:
        """The lane has ended."""


class Lane(ABC):
    """One TLS connection that carries frames of the mtunnel protocol, with the contract above."""

    kind: LaneKind
    peer: str
    local: str  # local address
    remote: str
    since: float  # time.monotonic() when it was created
    epoch: int  # its number in a session, 0 before it is attached
    replaces: int  # the epoch of the lost lane that it replaced, 0 if none
    proof: VerifiedChains | None = None  # the verified chains of both ends, set by its maker
    gone: asyncio.Event  # set once the socket is closed

    @property
    @abstractmethod
    def cipher(self) -> str:
        """The TLS cipher suite."""

    @property
    @abstractmethod
    def bytes_sent(self) -> int:
        """Bytes of frames that were sent; TLS adds 22 to every 16 KiB."""

    @property
    @abstractmethod
    def bytes_received(self) -> int:
        """Bytes of frames that were received."""

    @property
    @abstractmethod
    def records_sent(self) -> int:
        """TLS records protected with our current key; an upper bound."""

    @property
    @abstractmethod
    def records_received(self) -> int:
        """TLS records protected with the peer's current key; an upper bound."""

    @property
    @abstractmethod
    def round_trip(self) -> float:
        """The last rtt of a PING, in seconds; 0.0 before the first."""

    @property
    @abstractmethod
    def distance(self) -> float:
        """The minimum of recent rtts, in seconds: the path without queueing. 0.0 before the first PING."""

    def next_turn(self) -> int:
        """Return the quantum: bytes that it may move in the next loop iteration before others are served."""
        return QUANTUM

    @property
    @abstractmethod
    def batch(self) -> int:
        """Maximum payload bytes that one ``send`` should carry."""

    @property
    @abstractmethod
    def ended(self) -> bool:
        """Whether it was closed, or ``on_end`` was called or is scheduled."""

    @property
    @abstractmethod
    def room(self) -> bool:
        """Whether it can send; otherwise wait for ``on_writable``."""

    @abstractmethod
    def start(self, handler: LaneHandler) -> None:
        """Start reading."""

    @abstractmethod
    def hand_over(self, handler: LaneHandler) -> None:
        """Pass the lane to another handler."""

    @abstractmethod
    def leave(self) -> None:
        """Remove the lane from its loop, before ``enter`` adds it to another one.

        To be called from outside the handler, after the first frame was received and before the reply.
        """

    @abstractmethod
    def enter(self, handler: LaneHandler, frame: Frame) -> None:
        """Add the lane to the running loop, and pass ``handler`` the first frame, ``frame``."""

    @abstractmethod
    def attached(self, epoch: int, payload: PayloadHandler) -> None:
        """Attach the lane to a session: start keepalive. ``payload`` takes the payload of its streams."""

    @property
    def carries(self) -> bool:
        """Whether ``carry`` can be used; otherwise read payload and pass it to ``send``."""
        return False

    def carry(self, source: int, stream: int, offset: int, rooms: Sequence[memoryview]) -> SourceRead:
        """Read from the local socket ``source``, a descriptor, and send it as payload of ``stream``.

        It starts at ``offset`` of the stream, and is kept in ``rooms``. Must not be called without ``room``.
        """
        raise NotImplementedError

    @abstractmethod
    def ping(self, answered: Callable[[], None]) -> None:
        """Send a PING; ``answered`` is called when the peer replies. A second call replaces the first."""

    @abstractmethod
    def warn_at(self, records: int) -> None:
        """Call ``on_worn`` once a key has protected that many records; without this it is never called."""

    @abstractmethod
    def send_control(self, frames: bytes) -> None:
        """Queue complete control frames for the next ``send`` or ``flush``."""

    @abstractmethod
    def send(self, outgoing: Outgoing) -> None:
        """Send a DATA frame behind everything queued."""

    @abstractmethod
    def flush(self) -> None:
        """Send the queue."""

    @abstractmethod
    def close(self, code: Code, reason: str) -> None:
        """Send GOAWAY and close the lane."""

    @abstractmethod
    def abort(self) -> None:
        """Reset the connection."""

"""Liveness and rtt of one lane, by PING and PONG. Times are seconds."""

from __future__ import annotations

from collections import deque
from math import ceil

from tunnel.wire.frames import Ping, Pong

INTERVAL = 5.0
"""Seconds between two PINGs."""

TIMEOUT = 15.0
"""Seconds without a received byte until a lane is lost. QEMU's own keepalive covers only the local socket."""

LATE = 1.0
"""Seconds by which the PINGs of a peer that we rely on may be late."""

TICK = 0.1
"""Seconds, see ``aligned``."""

_MEMORY = 12  # round trips: those of a minute


def aligned(pause: float, clock: float) -> float:
    """Return ``pause``, or up to ``TICK`` more, so that it ends at a multiple of ``TICK`` of the time of day.

    So the PINGs of all lanes of a host, and of all hosts with synchronized clocks, leave together, and a host
    with a thousand idle links wakes up ten times a second to answer them. ``clock`` is that time, in seconds.
    """
    due = clock + max(0.0, pause)
    return ceil(due / TICK) * TICK - clock


class Keepalive:
    """The keepalive of one lane. ``now`` is any monotonic clock."""

    def __init__(self, now: float) -> None:
        self.round_trip = 0.0
        self._lately: deque[float] = deque(maxlen=_MEMORY)
        self.heard_at = now
        """When bytes were received last; set by the owner."""
        self._next_ping = now
        self.answered = 0
        """Token of the newest PING that was answered; the peer may leave older ones unanswered."""
        self._token = 0
        self._asked_at: float | None = None

    def silent(self, now: float) -> bool:
        """Whether the lane has timed out."""
        return self.silence(now) >= TIMEOUT

    def silence(self, now: float) -> float:
        """Return the seconds since the last byte was received."""
        return now - self.heard_at

    def poll(self, now: float, *, relying: bool = False) -> Ping | None:
        """Return the PING that is due now, or None.

        ``relying``: on the PINGs of the peer. After the first, none is due while bytes arrive as these do.
        """
        if now < self._next_ping:
            return None
        self._next_ping = now + INTERVAL
        if relying and self._token and self.silence(now) < INTERVAL + LATE:
            return None
        return self.ask(now)

    def ask(self, now: float) -> Ping:
        """Return a PING to send now, in addition to the periodic ones."""
        self._token += 1
        self._asked_at = now
        return Ping(self._token)

    def pong(self, frame: Pong, now: float) -> None:
        """Process a PONG; an old or unsolicited one is ignored."""
        if self.answered < frame.token <= self._token:
            self.answered = frame.token
        if frame.token == self._token and self._asked_at is not None:
            self.round_trip, self._asked_at = now - self._asked_at, None
            self._lately.append(self.round_trip)

    @property
    def quickest(self) -> float:
        """The smallest of the last measured round trips; 0.0 before the first."""
        return min(self._lately, default=0.0)

    @property
    def wake_at(self) -> float:
        """When to call ``silent`` and ``poll`` again."""
        return min(self._next_ping, self.heard_at + TIMEOUT)

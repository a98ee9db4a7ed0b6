"""Whether the peer is still there, and how far away: one lane's PING and PONG. Times are seconds."""

from __future__ import annotations

from collections import deque

from tunnel.wire.frames import Ping, Pong

INTERVAL = 5.0
"""Seconds between two PINGs."""

TIMEOUT = 15.0
"""Silence after which a lane counts as lost. QEMU's own keepalive sees only the local socket."""

_MEMORY = 12  # answers: a minute


class Keepalive:
    """``now`` is any clock that only goes forward."""

    def __init__(self, now: float) -> None:
        self.round_trip = 0.0
        self._lately: deque[float] = deque(maxlen=_MEMORY)
        self._heard = now
        self._next_ping = now
        self.answered = 0
        """Token of the newest PING that has an answer; the peer may leave older ones without."""
        self._token = 0
        self._asked_at: float | None = None

    def heard(self, now: float) -> None:
        """Bytes came in, whatever they were."""
        self._heard = now

    def silent(self, now: float) -> bool:
        """Whether the lane is to be given up."""
        return self.silence(now) >= TIMEOUT

    def silence(self, now: float) -> float:
        """Seconds since something came."""
        return now - self._heard

    def poll(self, now: float) -> Ping | None:
        """Return a PING that is to be sent now, if one is due."""
        if now < self._next_ping:
            return None
        self._next_ping = now + INTERVAL
        return self.ask(now)

    def ask(self, now: float) -> Ping:
        """Return a PING that is to be sent now, beside those that are due."""
        self._token += 1
        self._asked_at = now
        return Ping(self._token)

    def pong(self, frame: Pong, now: float) -> None:
        """Take the answer in; an old or invented one says nothing."""
        if self.answered < frame.token <= self._token:
            self.answered = frame.token
        if frame.token == self._token and self._asked_at is not None:
            self.round_trip, self._asked_at = now - self._asked_at, None
            self._lately.append(self.round_trip)

    @property
    def quickest(self) -> float:
        """The shortest of the last answers; 0.0 before the first."""
        return min(self._lately, default=0.0)

    @property
    def wake_at(self) -> float:
        """When to call ``silent`` and ``poll`` again."""
        return min(self._next_ping, self._heard + TIMEOUT)

"""What the rules for a session's lanes need from a lane, and from the owner of the session."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar

from tunnel.wire.codes import Code
from tunnel.wire.events import Event
from tunnel.wire.session import Session


class MemberLane(Protocol):
    """A lane: what it queues is sent in order, and ``flush``, ``close`` and ``abort`` never block."""

    epoch: int
    """Its number in the session, 0 before it is attached."""
    replaces: int
    """The epoch of the lane that it replaced, 0 if none."""
    since: float
    """When it was created, by the clock of ``Membership``."""

    @property
    def remote(self) -> str:
        """The address of the other end."""

    @property
    def ended(self) -> bool:
        """Whether it was closed or lost."""

    @property
    def records_sent(self) -> int:
        """TLS records protected with our current key; an upper bound."""

    @property
    def records_received(self) -> int:
        """TLS records protected with the peer's current key; an upper bound."""

    def send_control(self, frames: bytes) -> None:
        """Queue control frames."""

    def flush(self) -> None:
        """Send the queue."""

    def close(self, code: Code, reason: str) -> None:
        """Send GOAWAY after the queue, and close the connection."""

    def abort(self) -> None:
        """Reset the connection."""


L = TypeVar("L", bound=MemberLane)
L_contra = TypeVar("L_contra", bound=MemberLane, contravariant=True)


class MembershipOwner(Protocol[L_contra]):
    """Moves the bytes of a session, and keeps its timers."""

    def place(self, lane: L_contra) -> str:
        """Return the address of the other end of ``lane`` without the port, which differs each time."""

    def begin_check(self, lane: L_contra) -> None:
        """Own ``lane`` and send PING on the session's lanes; then call ``DuplicateHosts.settle``.

        With IS_REFUSED when one of these answers, IS_GONE when ``lane`` ends, TAKES_OVER after some seconds.
        """

    def end_check(self) -> None:
        """The check has ended."""

    def begin(self, session: Session, lane: L_contra) -> None:
        """A session begins on ``lane``, which is not attached yet."""

    def attach(self, lane: L_contra, epoch: int) -> None:
        """Pass frames of ``lane`` to the session from now on; it is number ``epoch``."""

    def carry(self, lane: L_contra) -> None:
        """Send the session's frames on ``lane`` too, from now on: the session has a lane."""

    def rejoined(self, events: Iterable[Event]) -> None:
        """A lane carries a session that began before; act on these events of it."""

    def resumed(self, lane: L_contra) -> None:
        """``lane`` has joined: it replaces a lost one, ``lane.replaces``, or is additional."""

    def start_resume_window(self, window: float) -> None:
        """The session has no lane: end it in ``window`` seconds, unless ``carry`` is called before."""

    def ended(self, code: Code, reason: str) -> None:
        """The session has ended, and its lanes are closed."""

    def end_soon(self, code: Code, reason: str, session: Session) -> None:
        """Call ``Membership.end`` with these arguments after the frame being processed."""

    def closing(self, lane: L_contra) -> None:
        """``lane`` was replaced and is closing."""

    def replaced(self, old: int, new: int, reason: str) -> None:
        """Lane ``new`` has replaced lane ``old``, which was up."""

    def interrupt(self) -> None:
        """Cancel the attempt to replace a lane that is up, if there is one."""

    def changed(self) -> None:
        """Look again at ``wants_lane`` and ``Rotation.next``."""

    def kick(self) -> None:
        """Schedule sending."""

    def lane_lost(self, reason: str) -> None:
        """A lane that carried the session was lost."""

    def not_replaced(self, reason: str, due: str) -> None:
        """A lane that is to be replaced, because of ``due``, stays in use."""

    def duplicate_refused(self, reason: str) -> None:
        """Another daemon with the peer's name was refused."""

    def told(self, reason: str, *, problem: bool) -> None:
        """The peer has sent NOTICE: of a problem, or mere information."""

    def info(self, what: str, **details: object) -> None:
        """Log an event that is no incident."""

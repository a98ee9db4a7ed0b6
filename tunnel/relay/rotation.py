"""Replacing lanes that live, so that no TLS key protects too much: make before break.

AES-GCM may protect 2**24.5 records with one key (RFC 8446 section 5.5), and nothing renews a lane's keys:
OpenSSL does not count, and kernels before 6.14 cannot change keys. So a lane is replaced by a fresh one after
so many records, after a time, and when certificates were renewed. The initiator dials; the acceptor may ask
for it. A rotation loses nothing, sends nothing twice, and no stream waits for it (SPEC section 8)::

    initiator                                 acceptor
    new lane: REPLACE           →
                                ←             new lane: RESUMED. It stands by
    sends on the new lane only
    old lane: RETIRE            →             sends on the new lane only
                                ←             old lane: RETIRED, RETIRE
    old lane: RETIRED           →
    closes the old lane                       closes the old lane

With a peer that knows no REPLACE the initiator sends RESUME, as for a lost lane: what was under way on the
old lane is sent again. As initiator such a peer replaces nothing: its lanes are lost at ``KEY_LIMIT``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from tunnel.errors import LaneLost, ProtocolError, TunnelError
from tunnel.lanes.lane import KEY_LIMIT, Lane, LaneHandler
from tunnel.wire.codec import encode
from tunnel.wire.codes import Code, Feature
from tunnel.wire.frames import Replace, Resume, Resumed, Retire, Retired, Rotate, RotationFrame
from tunnel.wire.session import Session

ASKED_RECORDS = 1024
ASKED_AGE = 10.0
"""A lane is replaced for a peer that asks once it has carried so many records, or is so many seconds old."""

PATIENCE = 300.0
"""Seconds that a lane which is being retired may take to deliver what is under way on it."""

_HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class RotationPlan:
    """When a lane is replaced: ``records`` under a key, ``after`` so many seconds (0: never)."""

    records: int = 2**22
    after: float = 24 * _HOUR


@dataclass(frozen=True, slots=True)
class Rotated:
    """A lane that was replaced."""

    at: str  # UTC, ISO 8601
    lane: int
    reason: str


class RotationOwner(LaneHandler, Protocol):
    """The link, as its rotation sees it. ``lanes`` are those that carry the session."""

    session: Session | None
    lanes: dict[int, Lane]
    changed: asyncio.Event
    peer: str

    @property
    def features(self) -> Feature:
        """What both sides agreed on."""

    @property
    def wants_lane(self) -> bool:
        """Whether a lane is missing."""

    def attach(self, lane: Lane, epoch: int) -> None:
        """Own a lane that has a number in the session."""

    def rejoin(self, lane: Lane, peer: Resume) -> None:
        """Let an attached lane carry the session, and take the peer's positions in. Raises ProtocolError."""

    def give_up_lane(self, session: Session, epoch: int) -> None:
        """Take nothing more from a lane."""

    def wait_for_lane(self, session: Session) -> None:
        """A lane less carries the session; perhaps it was the last."""

    def kick(self) -> None:
        """There is something to send."""

    def end_for(self, reason: TunnelError, session: Session) -> None:
        """End the session, for what ended a lane."""

    def note(self, what: str, reason: str, **details: object) -> None:
        """Something happened that an operator should know."""


@dataclass(slots=True)
class _Leaving:
    """A lane that is being retired."""

    lane: Lane
    since: float
    heard: bool = False  # the peer's RETIRE: nothing more comes
    settled: bool = False  # the peer's RETIRED: nothing of ours is under way


class Rotation:
    """See the module. ``clock`` is in seconds."""

    def __init__(
        self,
        owner: RotationOwner,
        plan: RotationPlan,
        log: Any,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.plan = plan
        self.count = 0
        self.last: Rotated | None = None
        self.most_records = 0  # that a key of a lane which is gone has protected
        self.attempt: asyncio.Task[None] | None = None  # to bring a lane in the place of one that lives
        self._owner = owner
        self._log = log
        self._clock = clock
        self._due: dict[int, str] = {}  # lanes to be replaced, and why
        self._standby: dict[int, tuple[Lane, Resume]] = {}  # by the lane whose place they are to take
        self._leaving: dict[int, _Leaving] = {}
        self._closing: list[Lane] = []  # both sides are through with them
        self._asked: Resume | None = None  # of the initiator, without an answer so far

    @property
    def others(self) -> list[Lane]:
        """Lanes of the session that carry nothing yet, or nothing any more."""
        return [lane for lane, _ in self._standby.values()] + [each.lane for each in self._leaving.values()]

    @property
    def closing(self) -> list[Lane]:
        """Lanes that were replaced, and have not let go of their sockets yet."""
        return [lane for lane in self._closing if not lane.gone.is_set()]

    @property
    def resuming(self) -> bool:
        """Whether a living lane is named in a RESUME: the peer ends it, and that is no loss."""
        return self._asked is not None and not isinstance(self._asked, Replace)

    def clear(self) -> None:
        """Another session begins, or none is left."""
        for table in (self._due, self._standby, self._leaving):
            table.clear()
        self._asked = None
        self.interrupt()

    # When.

    def watch(self, lane: Lane) -> None:
        """Count from now on what the keys of ``lane`` protect."""
        lane.warn_at(self.plan.records)

    def on_worn(self, lane: Lane) -> None:
        """A key of ``lane`` has protected as many records as the plan says."""
        self._want(lane, f"{self.plan.records} records with one key")

    def rotate(self, reason: str, lanes: Iterable[Lane] | None = None) -> None:
        """Have ``lanes``, or all that the session has now, replaced, one by one. Saying so twice is once."""
        for lane in list(self._owner.lanes.values() if lanes is None else lanes):
            self._want(lane, reason)

    def tick(self, lane: Lane) -> None:
        """Look at what no event tells of. Call it every few seconds for each lane."""
        now = self._clock()
        for leaving in [each for each in self._leaving.values() if now - each.since >= PATIENCE]:
            self._give_up(leaving, f"lane {leaving.lane.epoch} was retired {PATIENCE:g} seconds ago")
        if max(lane.records_sent, lane.records_received) >= self.plan.records:
            self.on_worn(lane)  # a kernel lane is told of empty records by the kernel alone
        if self.plan.after and now - lane.since >= self.plan.after:
            self._want(lane, f"keys in use for {self.plan.after / _HOUR:g} hours")
        if lane.epoch in self._due:
            self._ask(lane)

    def _want(self, lane: Lane, reason: str) -> None:
        if lane.epoch in self._due or self._owner.lanes.get(lane.epoch) is not lane:
            return
        self._due[lane.epoch] = reason
        self._ask(lane)
        if not (self._living().initiator or self._gentle):
            why = f"it began the session, and its release replaces no lanes; {reason}"
            what = f"lane {lane.epoch} is cut and resumed at {KEY_LIMIT} records"
            self._owner.note("lane not replaced", f"{self._owner.peer} cannot be asked to: {why}; {what}")
        self._owner.changed.set()

    def _ask(self, lane: Lane) -> None:
        """Ask the initiator to replace a lane, if that is the peer."""
        if self._gentle and not self._living().initiator and lane.epoch in self._owner.lanes:
            lane.send_control(encode(Rotate()))
            lane.flush()

    def _on_rotate(self, lane: Lane) -> None:
        if not self._living().initiator:
            raise ProtocolError(Code.PROTOCOL, "ROTATE from the initiator, who replaces lanes itself")
        used = max(lane.records_sent, lane.records_received)
        if used >= ASKED_RECORDS or self._clock() - lane.since >= ASKED_AGE:  # else the peer asks again
            self._want(lane, "the peer asked for it")

    # The initiator's part.

    def next(self) -> int:
        """Return the lane to be replaced now, 0 for none: one at a time, and only while all are there."""
        session, owner = self._owner.session, self._owner
        if session is None or not session.initiator or owner.wants_lane or self._leaving:
            return 0
        return next((epoch for epoch in self._due if epoch in owner.lanes), 0)

    def claim(self, epoch: int, old: int) -> Resume:
        """Return the first frame of lane ``epoch``, which is to take the place of lane ``old``."""
        session = self._living()
        self._asked = session.resume(epoch, old, Replace if self._gentle else Resume)
        return self._asked

    def granted(self, lane: Lane, answer: Resumed) -> bool:
        """Take RESUMED in, if it answers what ``claim`` said: the lane takes over. Raises ProtocolError.

        One that comes after its attempt was given up brings no lane: the one that it names goes on.
        """
        asked, self._asked = self._asked, None
        if asked is None or asked.epoch != answer.epoch:
            is_late = answer.replaces in self._owner.lanes
            if is_late:
                lane.abort()
            return is_late
        old, owner = self._owner.lanes.get(answer.replaces), self._owner
        if old is None and isinstance(asked, Replace):
            lane.abort()  # to the peer it stands by for a lane that is lost here: that one is to be resumed
            return True
        reason = self._due.pop(answer.replaces, "")
        if old is None or not isinstance(asked, Replace):
            owner.give_up_lane(self._living(), answer.replaces)
        owner.attach(lane, answer.epoch)
        owner.rejoin(lane, answer)
        if isinstance(asked, Replace) and old is not None:
            self._leave(old)
            _say(old, Retire())
        self._count(answer.replaces, answer.epoch, reason)
        return True

    def over(self) -> None:
        """The attempt has ended, one way or the other."""
        self.attempt = self._asked = None
        self._owner.changed.set()

    def failed(self, epoch: int, reason: str, pause: float) -> None:
        """An attempt failed; the next one is made after ``pause`` seconds."""
        goes_on = f"lane {epoch} goes on, the next attempt is in {pause:g} seconds"
        why = self._due.get(epoch, "it is gone")
        self._owner.note("lane not replaced", f"{reason}; {goes_on}", due=why)

    def expects_loss_of(self, lane: Lane) -> bool:
        """Whether the peer is to end ``lane``, which a RESUME without an answer so far names."""
        return self.resuming and self._asked is not None and self._asked.replaces == lane.epoch

    def lost(self, lane: Lane) -> None:
        """A lane that carried the session is lost."""
        self.most_records = max(self.most_records, lane.records_sent, lane.records_received)
        if not self.expects_loss_of(lane):
            self._due.pop(lane.epoch, None)
            self.interrupt()  # resuming comes first
        self.take_over(lane.epoch)

    def interrupt(self) -> None:
        """Give up the attempt to replace a lane, if there is one."""
        if self.attempt is not None:
            self.attempt.cancel()

    # The acceptor's part.

    def lives(self, epoch: int) -> bool:
        """Whether lane ``epoch`` carries the session, perhaps only now: the peer lost the one before it."""
        for old, (lane, _) in list(self._standby.items()):
            if lane.epoch == epoch:
                self._owner.lanes.pop(old).abort()
                self._living().lost(old)
                self.take_over(old)
        return epoch in self._owner.lanes

    def stand_by(self, lane: Lane, claim: Resume) -> None:
        """Answer REPLACE for a lane that lives: the new one carries nothing before the old one is retired."""
        session = self._living()
        if claim.replaces in self._standby:
            self._standby.pop(claim.replaces)[0].abort()  # the peer never heard the answer on it
        lane.send_control(encode(session.resumed(claim.epoch, claim.replaces)))
        lane.replaces = claim.replaces
        self._standby[claim.replaces] = (lane, claim)
        self._owner.attach(lane, claim.epoch)
        lane.flush()

    def take_over(self, epoch: int) -> None:
        """Let the lane carry the session that stands by for lane ``epoch``, if there is one."""
        if epoch in self._standby:
            lane, claim = self._standby.pop(epoch)
            try:
                self._owner.rejoin(lane, claim)
            except ProtocolError as error:  # that ends the session, too
                lane.close(error.code, str(error))
                return
            self._count(epoch, lane.epoch, self._due.pop(epoch, "the peer replaced it"))

    def forget(self, epoch: int) -> list[Lane]:
        """Take out, and return, lane ``epoch`` and who stands by for it, as far as they carry nothing."""
        found = [self._leaving.pop(epoch).lane] if epoch in self._leaving else []
        for old, (lane, _) in list(self._standby.items()):
            if epoch in (old, lane.epoch):
                del self._standby[old]
                found.append(lane)
        return found

    # Both.

    def on_frame(self, lane: Lane, frame: RotationFrame) -> None:
        """Take what the peer says of a lane. Raises ProtocolError."""
        if not self._gentle:
            raise ProtocolError(Code.PROTOCOL, f"{frame.type.name} without the feature")
        match frame:
            case Rotate():
                self._on_rotate(lane)
            case Retire():
                self._on_retire(lane)
            case Retired():
                self._on_retired(lane)

    def _on_retire(self, lane: Lane) -> None:
        leaving = self._leaving.get(lane.epoch)
        if leaving is not None:
            _say(lane, Retired())
        elif self._living().initiator or self._owner.lanes.get(lane.epoch) is not lane:
            raise ProtocolError(Code.PROTOCOL, "RETIRE of a lane that was not replaced")
        else:
            leaving = self._leave(lane)
            _say(lane, Retired(), Retire())
        leaving.heard = True
        self._close_if_empty(leaving)

    def _on_retired(self, lane: Lane) -> None:
        leaving = self._leaving.get(lane.epoch)
        if leaving is None or leaving.settled:
            raise ProtocolError(Code.PROTOCOL, "RETIRED without a RETIRE")
        leaving.settled = True
        self._living().retired(lane.epoch)
        self._close_if_empty(leaving)

    def _leave(self, lane: Lane) -> _Leaving:
        """Send nothing more on a lane."""
        for other in list(self._leaving.values()):  # never with a peer that replaces one lane at a time
            self._give_up(other, f"lane {lane.epoch} is being retired as well")
        del self._owner.lanes[lane.epoch]
        leaving = self._leaving[lane.epoch] = _Leaving(lane, self._clock())
        self.take_over(lane.epoch)
        self._due.pop(lane.epoch, None)
        self.most_records = max(self.most_records, lane.records_sent, lane.records_received)
        self._owner.wait_for_lane(self._living())
        return leaving

    def _close_if_empty(self, leaving: _Leaving) -> None:
        if leaving.heard and leaving.settled:
            del self._leaving[leaving.lane.epoch]
            leaving.lane.close(Code.NONE, "another lane has taken its place")
            self._closing = [*self.closing, leaving.lane]
            self._owner.changed.set()

    def ended(self, lane: Lane, reason: TunnelError) -> bool:
        """Whether a lane that is gone carried nothing yet, or nothing any more; then that is all."""
        if lane not in self.others:
            return False
        leaving = lane.epoch in self._leaving
        self.forget(lane.epoch)
        if not isinstance(reason, LaneLost):
            self._owner.end_for(reason, self._living())
        elif leaving:
            self._living().lost(lane.epoch)
            self._owner.kick()
        self._log.info("lane lost", lane=lane.epoch, reason=str(reason))
        self._owner.changed.set()
        return True

    def _give_up(self, leaving: _Leaving, reason: str) -> None:
        """What is under way on it goes out again."""
        del self._leaving[leaving.lane.epoch]
        leaving.lane.abort()
        self._living().lost(leaving.lane.epoch)
        self._log.info("lane given up", lane=leaving.lane.epoch, reason=reason)
        self._owner.kick()
        self._owner.changed.set()

    def _count(self, old: int, new: int, reason: str) -> None:
        self.count += 1
        self.last = Rotated(datetime.now(UTC).isoformat(timespec="milliseconds"), old, reason)
        self._log.info("lane replaced", lane=old, by=new, reason=reason)

    @property
    def _gentle(self) -> bool:
        """Whether the peer knows how to retire a lane."""
        return Feature.ROTATE in self._owner.features

    def _living(self) -> Session:
        session = self._owner.session
        assert session is not None  # noqa: S101  without a session there are no lanes
        return session


def _say(lane: Lane, *frames: RotationFrame) -> None:
    lane.send_control(b"".join(map(encode, frames)))
    lane.flush()

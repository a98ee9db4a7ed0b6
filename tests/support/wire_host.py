"""A host of the simulation: session, membership and rotation are the product's, its lanes are simulated."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tests.support.ends import LaneEnd, Local
from tests.support.payload import content, written
from tests.support.questions import Questions
from tunnel.errors import LaneLost, ProtocolError
from tunnel.wire.codes import MAX_DATA, Code
from tunnel.wire.events import (
    Event,
    StreamClosed,
    StreamEnded,
    StreamOpened,
    StreamRefused,
    StreamReleased,
    StreamRequested,
    StreamReset,
    TargetJudged,
    TargetProbed,
)
from tunnel.wire.frames import (
    Frame,
    GoAway,
    Hello,
    Notice,
    Pong,
    Resume,
    Resumed,
    Retire,
    Retired,
    Rotate,
    Welcome,
)
from tunnel.wire.membership import Membership, MembershipPlan
from tunnel.wire.rotation import RotationPlan
from tunnel.wire.session import Session, Settings
from tunnel.wire.states import LaneState
from tunnel.wire.stream import Stream

SESSION = b"S" * 16


class Host:
    """One end of the session: implements MembershipOwner. ``ends``: its lanes, by number in the network."""

    def __init__(self, settings: Settings, *, initiator: bool) -> None:
        self.initiator = initiator
        self.settings = settings
        self.ends: dict[int, LaneEnd] = {}
        self.dialled: LaneEnd | None = None  # without an answer yet
        self.checked: LaneEnd | None = None  # while another daemon may have the session
        self.locals: dict[int, Local] = {}
        self.requests: list[int] = []
        self.resets: set[int] = set()
        self.questions = Questions()
        self.clock: Callable[[], float] = float
        self.unnoticed: Callable[[], list[LaneEnd]] = list  # lanes that carry the session only here
        names = ("hosta", "hostb") if initiator else ("hostb", "hosta")
        plan = MembershipPlan(*names, settings, rotation=RotationPlan(after=0.0))
        self.members: Membership[LaneEnd] = Membership(
            self, plan, (b"I" if initiator else b"A") * 16, lambda: self.clock()
        )

    @property
    def session(self) -> Session:
        return self.members.live_session

    def stream(self, number: int) -> Stream | None:
        return self.session._streams.get(number)

    # Lanes.

    def dial(self, number: int, replaces: int = 0) -> None:
        """Start a lane: the session's first, or one that joins it, in place of lane ``replaces`` if not 0."""
        first = self.members.session is None
        state = LaneState.AWAIT_WELCOME if first else LaneState.AWAIT_RESUMED
        end = self.ends[number] = self.dialled = LaneEnd(state, rotates=bool(replaces))
        if first:
            self.members.send_hello(end, SESSION)
        else:
            self.members.send_resume(end, replaces)

    def listen(self, number: int) -> None:
        self.ends[number] = LaneEnd(LaneState.AWAIT_FIRST)

    def lose(self, number: int) -> None:
        """Detect that a lane is down."""
        end = self.ends.pop(number, None)
        if end is None or end.ended:
            return
        end.ended = True
        self._answered(end)
        if end.protocol.attached:
            self.members.on_lane_end(end, LaneLost("cut by the test"))

    def _answered(self, end: LaneEnd) -> None:
        """The attempt to dial ``end`` has succeeded or failed."""
        if self.dialled is end:
            self.dialled = None
            if end.rotates:
                self.members.rotation.attempt_ended()

    def carrying(self) -> list[int]:
        return [number for number, end in self.ends.items() if self.carries(end)]

    def carries(self, end: LaneEnd) -> bool:
        return self.members.lanes.get(end.epoch) is end

    # MembershipOwner.

    def place(self, lane: LaneEnd) -> str:
        return lane.remote

    def begin_check(self, lane: LaneEnd) -> None:
        self.checked = lane

    def end_check(self) -> None:
        self.checked = None

    def begin(self, session: Session, lane: LaneEnd) -> None:
        assert self.members.session is session

    def attach(self, lane: LaneEnd, epoch: int) -> None:
        lane.epoch = epoch
        lane.protocol.attach()

    def carry(self, lane: LaneEnd) -> None:
        assert not lane.ended

    def rejoined(self, events: Iterable[Event]) -> None:
        self.act(events)

    def resumed(self, lane: LaneEnd) -> None:
        assert lane.protocol.attached

    def start_resume_window(self, window: float) -> None:
        """Wait: a simulated session has no time limit."""

    def ended(self, code: Code, reason: str) -> None:
        raise AssertionError(f"the session has ended: {code.name}: {reason}")

    def end_soon(self, code: Code, reason: str, session: Session) -> None:
        """Nothing to do: the test fails by the error that follows."""

    def closing(self, lane: LaneEnd) -> None:
        assert lane.ended

    def replaced(self, old: int, new: int, reason: str) -> None:
        assert old < new

    def interrupt(self) -> None:
        if self.dialled is not None and self.dialled.rotates:
            self.dialled.interrupted = True

    def abandon(self) -> None:
        """Abort an attempt that was interrupted: a while later, as its task does."""
        end = self.dialled
        if end is not None and end.interrupted:
            end.abort()
            self._answered(end)

    def changed(self) -> None:
        """Nothing to do: the network asks."""

    def kick(self) -> None:
        """Nothing to do: the test decides when a host transmits."""

    def lane_lost(self, reason: str) -> None:
        """Nothing to do: there is no log."""

    def not_replaced(self, reason: str, due: str) -> None:
        """Nothing to do: there is no log."""

    def duplicate_refused(self, reason: str) -> None:
        """Nothing to do: there is no log."""

    def told(self, reason: str, *, problem: bool) -> None:
        """Nothing to do: there is no log."""

    def info(self, what: str, **details: object) -> None:
        """Nothing to do: there is no log."""

    # Local operations on streams.

    def open(self, backlog: int) -> int:
        number = self.session.open("tcp:127.0.0.1:49152")
        self.locals[number] = Local(number, backlog)
        return number

    def accept(self, number: int, backlog: int) -> None:
        self.requests.remove(number)
        self.session.accept(number)
        self.locals[number].opened = True
        self.write(number, backlog)

    def refuse(self, number: int) -> None:
        self.requests.remove(number)
        self.locals[number].gone = True
        self.session.refuse(number, Code.TARGET_FORBIDDEN, "no")

    def write(self, number: int, amount: int) -> None:
        self.locals[number].backlog += amount
        if self.locals[number].opened and self.locals[number].backlog and self.stream(number):
            self.session.ready(number)

    def finish(self, number: int) -> None:
        self.locals[number].finished = True
        self.locals[number].backlog = 0
        self.session.finish(number)

    def reset(self, number: int) -> None:
        self.resets.add(number)
        self.locals[number].gone = True
        if number in self.requests:
            self.requests.remove(number)
        self.session.reset(number, Code.LOCAL_RESET, "connection reset")

    def deliver(self, number: int, most: int) -> int:
        """Write up to ``most`` received bytes to the local socket; return how many."""
        local = self.locals[number]
        size = min(most, len(local.inbox))
        if size == 0:
            return 0
        del local.inbox[:size]
        local.taken += size
        self.act(self.session.delivered(number, size, self.clock()))
        return size

    def converse(self) -> bool:
        """Accept, deliver and finish all that is possible; return whether there was anything."""
        moved = self.questions.judge(self.session)
        for number in list(self.requests):
            self.accept(number, 100)
            moved = True
        for local in [each for each in self.locals.values() if not each.gone]:
            moved |= self.deliver(local.number, MAX_DATA) > 0
            if local.opened and not (local.gone or local.finished or local.backlog):
                self.finish(local.number)
                moved = True
        return moved

    # Bytes out.

    def transmit(self, number: int, room: int = MAX_DATA) -> bool:
        """Send control frames, a replay, or up to ``room`` bytes of new payload; return whether any."""
        lane = self.ends[number]
        if not self.carries(lane):
            return False
        raw = self.session.control(room)
        if not raw and (again := self.session.recovery.next(lane.epoch)) is not None:
            raw = written(again)
        if not raw:
            raw = self._new_payload(lane.epoch, room)
        lane.out += raw
        return bool(raw)

    def _new_payload(self, epoch: int, room: int) -> bytes:
        picked = self.session.pick()
        if picked is None:
            return b""
        number, most = picked
        local = self.locals[number]
        stop = local.sent + min(most, local.backlog, room)
        payload = content(number, self.initiator, local.sent, stop)
        outgoing = self.session.send(number, payload, epoch)
        local.backlog -= len(payload)
        local.sent = stop
        if not local.backlog:
            self.session.not_ready(number)
        return written(outgoing)

    # Bytes in.

    def take(self, number: int, data: bytes) -> None:
        """Process data that a lane received. Raises ProtocolError."""
        lane, view = self.ends[number], memoryview(data)
        decoder = lane.protocol.decoder
        while view and not lane.ended:
            if decoder.payload_left:
                taken = min(decoder.payload_left, len(view))
                self.payload(decoder.stream, decoder.offset, bytes(view[:taken]))
                decoder.moved(taken)
            else:
                taken, frame = lane.protocol.feed(view, self.clock())
                if frame is not None:
                    self.frame(lane, frame, decoder.sequence)
            view = view[taken:]

    def payload(self, number: int, offset: int, chunk: bytes) -> None:
        for piece in self.session.data(number, offset, chunk):
            local = self.locals[number]
            assert isinstance(piece.payload, bytes)
            arrived = piece.payload[piece.start : piece.stop]
            start = local.taken + len(local.inbox)
            assert arrived == content(number, not self.initiator, start, start + len(arrived))
            local.inbox += arrived

    def frame(self, lane: LaneEnd, frame: Frame, sequence: int) -> None:
        match frame:
            case Hello():
                self.members.on_hello(lane, frame)
            case Welcome():
                self.members.on_welcome(lane, frame)
                self._answered(lane)
            case Resumed():
                self.members.on_resumed(lane, frame)
                self._answered(lane)
            case Resume():
                self._readmit(lane, frame)
            case Rotate() | Retire() | Retired():
                self.members.rotation.on_frame(lane, frame)
            case GoAway():
                lane.ended = True
                self._answered(lane)
            case Pong() | Notice():
                pass
            case _:
                self.act(self.session.receive(frame, sequence))

    def _readmit(self, lane: LaneEnd, claim: Resume) -> None:
        """Answer RESUME. It may be refused while there are other lanes that the peer lost or retired."""
        try:
            self.members.on_resume(lane, claim)
        except ProtocolError as error:
            known = {claim.replaces} - {0}
            others = [each for each in self.unnoticed() if not known & {each.epoch, each.replaces}]
            if error.code is not Code.HANDSHAKE or lane.protocol.attached or not others:
                raise
            lane.close(error.code, str(error))

    def act(self, events: Iterable[Event]) -> None:
        for event in events:
            if isinstance(event, TargetProbed | TargetJudged):
                self.questions.note(event)
                continue
            if isinstance(event, StreamRequested):
                self.locals[event.stream] = Local(event.stream)
                self.requests.append(event.stream)
            local = self.locals[event.stream]
            local.events.append(type(event))
            assert not local.gone, "event for a closed stream"
            match event:
                case StreamOpened():
                    local.opened = True
                    self.write(event.stream, 0)
                case StreamReleased():
                    assert local.released <= event.delivered, "the delivered offset decreased"
                    local.released = event.delivered
                case StreamEnded():
                    assert not local.inbox
                case StreamRefused() | StreamReset() | StreamClosed():
                    local.gone = True
                    if event.stream in self.requests:
                        self.requests.remove(event.stream)

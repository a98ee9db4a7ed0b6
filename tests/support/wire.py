"""Two sessions joined by simulated lanes, without sockets: every byte goes through real decoders.

The content of a stream is a function of sender, stream and offset, so that each delivered byte is checked
where it arrives. A lane holds the bytes in transit until ``carry`` moves them, any number at a time; it can
be cut anywhere, and either side may detect that late. ``settle`` lets everything finish.

Time is simulated too: it advances only in ``wait``, where hosts also perform their timed actions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import count

from tests.support.ends import LaneEnd, Local
from tests.support.payload import content, written
from tests.support.questions import Questions
from tests.support.rotating import Rotating
from tunnel.errors import ProtocolError
from tunnel.wire.codec import encode
from tunnel.wire.codes import FEATURES, MAX_DATA, Code
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
    Data,
    Frame,
    GoAway,
    Hello,
    Limits,
    Notice,
    Ping,
    Pong,
    Replace,
    Resume,
    Resumed,
    Retire,
    Retired,
    Welcome,
)
from tunnel.wire.keepalive import INTERVAL
from tunnel.wire.lane_protocol import Decoder
from tunnel.wire.negotiation import check_welcome, hello, welcome
from tunnel.wire.reassembly import PAGE
from tunnel.wire.session import Session, Settings
from tunnel.wire.states import LANE, LaneState, step
from tunnel.wire.stream import Stream
from tunnel.wire.window import ACK_DELAY, FLOOR_WINDOW, KEEP_FLOOR

SESSION = b"S" * 16
_NEVER = 2_000  # rounds: more than any simulated conversation needs


@contextmanager
def only_faults(*codes: Code) -> Iterator[None]:
    """Suppress ProtocolError with one of ``codes`` (default: any) in the block."""
    try:
        yield
    except ProtocolError as error:
        if codes and error.code not in codes:
            raise


def frames(raw: bytes) -> list[Frame]:
    """Decode complete control frames."""
    decoder, view, found = Decoder(), memoryview(raw), list[Frame]()
    while view:
        taken, frame = decoder.feed(view)
        assert frame is not None
        found.append(frame)
        view = view[taken:]
    return found


class Host(Rotating):
    """One end of the session, with the part of a link that the protocol requires."""

    def __init__(self, settings: Settings, *, initiator: bool) -> None:
        self.initiator = initiator
        self.settings = settings
        self.lanes: dict[int, LaneEnd] = {}
        self.locals: dict[int, Local] = {}
        self.requests: list[int] = []
        self.resets: set[int] = set()
        self.questions = Questions()
        self.clock: Callable[[], float] = float
        self._offer = hello(SESSION, b"I" * 16, settings.limits)
        self._session: Session | None = None

    @property
    def session(self) -> Session:
        assert self._session is not None
        return self._session

    def stream(self, number: int) -> Stream | None:
        return self.session._streams.get(number)

    # Lanes.

    def dial(self, epoch: int, replaces: int, *, gentle: bool = False) -> None:
        """Start a lane: the session's first, or one that joins it; ``gentle``: if ``replaces`` is up."""
        if self._session is None:
            self.lanes[epoch] = LaneEnd(epoch, 0, LaneState.AWAIT_WELCOME)
            self.lanes[epoch].out += encode(self._offer)
            return
        self.lanes[epoch] = LaneEnd(epoch, replaces, LaneState.AWAIT_RESUMED, gentle)
        kind = Replace if gentle else Resume
        self.lanes[epoch].out += encode(self.session.resume(epoch, replaces, kind))

    def listen(self, epoch: int) -> None:
        self.lanes[epoch] = LaneEnd(epoch, 0, LaneState.AWAIT_FIRST)

    def lose(self, epoch: int) -> LaneEnd | None:
        """Detect that a lane is down; return it."""
        lane = self.lanes.pop(epoch, None)
        attached = {LaneState.ATTACHED, LaneState.RETIRING}
        if lane is not None and lane.state in attached and lane.claim is None and not lane.settled:
            self.session.lost(epoch)
            self._take_over(epoch)
        return lane

    def carrying(self) -> list[int]:
        return [epoch for epoch, lane in self.lanes.items() if lane.carries]

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
        self.note(self.session.delivered(number, size, self.clock()))
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

    def transmit(self, epoch: int, room: int = MAX_DATA) -> bool:
        """Send control frames, a replay, or up to ``room`` bytes of new payload; return whether any."""
        lane = self.lanes[epoch]
        if not lane.carries:
            return False
        raw = self.session.control(room)
        if not raw and (again := self.session.replay(epoch)) is not None:
            raw = written(again)
        if not raw:
            raw = self._new_payload(epoch, room)
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

    def take(self, epoch: int, data: bytes) -> None:
        """Process data that a lane received. Raises ProtocolError."""
        lane, view = self.lanes[epoch], memoryview(data)
        decoder = lane.decoder
        while view:
            if decoder.payload_left:
                taken = min(decoder.payload_left, len(view))
                self.payload(decoder.stream, decoder.offset, bytes(view[:taken]))
                decoder.moved(taken)
            else:
                taken, frame = decoder.feed(view)
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
        lane.state = step(LANE, lane.state, frame.type, Code.HANDSHAKE)
        match frame:
            case Hello():
                answer = welcome(frame, b"A" * 16, self.settings.limits)
                self._attach(lane, frame.limits)
                lane.out += encode(answer)
            case Welcome():
                check_welcome(self._offer, frame)
                self._attach(lane, frame.limits)
            case Resumed():
                self._resumed(lane, frame)
            case Replace() if self._lives(frame.replaces):
                self._stand_by(lane, frame)
            case Retire():
                self._on_retire(lane)
            case Retired():
                assert not lane.settled
                lane.settled = True
                self.session.retired(lane.epoch)
            case Resume():
                self._admit(lane, frame)
            case Data() | Ping() | Pong() | GoAway() | Notice():
                pass
            case _:
                self.note(self.session.receive(frame, sequence))

    def _attach(self, lane: LaneEnd, peer: Limits) -> None:
        initiator, features = self.initiator, FEATURES
        self._session = Session(SESSION, self.settings, peer, initiator=initiator, features=features)
        self._session.attach(lane.epoch)
        lane.state = LaneState.ATTACHED

    def _admit(self, lane: LaneEnd, frame: Resume) -> None:
        """Drop the replaced lane, and any whose RESUMED the initiator never received; then reply."""
        lane.replaces = frame.replaces
        for old in list(self.lanes.values()):
            if old is not lane and frame.replaces in {old.epoch, old.replaces} - {0}:
                self.lose(old.epoch)
        lane.out += encode(self.session.resumed(frame.epoch, frame.replaces))
        self.note(self.session.rejoin(frame))
        lane.state = LaneState.ATTACHED

    def note(self, events: Iterable[Event]) -> None:
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


class Network:
    """An initiator, an acceptor and their lanes."""

    def __init__(self, initiator: Settings, acceptor: Settings) -> None:
        self.initiator = Host(initiator, initiator=True)
        self.acceptor = Host(acceptor, initiator=False)
        self.hosts = (self.initiator, self.acceptor)
        self.now = 0.0
        for host in self.hosts:
            host.clock = lambda: self.now
        self._epochs = count(1)
        self._owed: list[int] = []  # epochs whose replacement is pending
        self.dial()
        self.carry_all()

    def peer_of(self, host: Host) -> Host:
        return self.acceptor if host is self.initiator else self.initiator

    def dial(self) -> int:
        """Start a lane: to replace a lost one, if any, otherwise an additional one; return its epoch."""
        epoch = next(self._epochs)
        self.initiator.dial(epoch, self._owed.pop(0) if self._owed else 0)
        self.acceptor.listen(epoch)
        return epoch

    def rotate(self, epoch: int) -> None:
        """Start a lane to replace ``epoch``, which is up; one at a time."""
        if not any(
            (lane.gentle and not lane.carries) or lane.retired for lane in self.initiator.lanes.values()
        ):
            new = next(self._epochs)
            self.initiator.dial(new, epoch, gentle=True)
            self.acceptor.listen(new)

    def carry(self, epoch: int, from_initiator: bool, most: int = MAX_DATA) -> int:
        """Deliver up to ``most`` bytes in transit on a lane to the peer; return how many."""
        source, target = self.hosts if from_initiator else self.hosts[::-1]
        lane = source.lanes[epoch]
        data = bytes(lane.out[:most])
        del lane.out[:most]
        if epoch in target.lanes:
            target.take(epoch, data)
        if lane.closed and not lane.out:
            source.lanes.pop(epoch, None)
        return len(data)

    def carry_all(self) -> bool:
        moved = 0
        for from_initiator, source in ((True, self.initiator), (False, self.acceptor)):
            moved += sum(self.carry(epoch, from_initiator, 1 << 30) for epoch in list(source.lanes))
        return moved > 0

    def cut(self, epoch: int, noticed: bool) -> None:
        """Cut a lane and lose the data in transit. Without ``noticed`` the acceptor detects it later."""
        lane = self.initiator.lose(epoch)
        assert lane is not None
        if lane.carries:
            self._owed.append(epoch)
            self._give_up_rotation(noticed)
        elif lane.state is LaneState.AWAIT_RESUMED and lane.replaces and not lane.gentle:
            self._owed.append(lane.replaces)
        if noticed:
            self.acceptor.lose(epoch)

    def _give_up_rotation(self, noticed: bool) -> None:
        """Abort the rotation after a lane was lost: resuming has priority, one pending RESUME at a time."""
        for lane in list(self.initiator.lanes.values()):
            if lane.gentle and lane.state is LaneState.AWAIT_RESUMED:
                self.cut(lane.epoch, noticed)

    def notice(self) -> None:
        """Let the acceptor detect every lane that is down."""
        for epoch in set(self.acceptor.lanes) - set(self.initiator.lanes):
            self.acceptor.lose(epoch)

    # Time.

    def wait(self, periods: int = 1) -> None:
        """Advance time by ``periods`` of ACK_DELAY, in which hosts send delayed credits."""
        for _ in range(periods):
            before, self.now = self.now, self.now + ACK_DELAY
            for host in self.hosts:
                if host.session.late:
                    host.session.tell_late()
                if self.now // INTERVAL > before // INTERVAL:  # with PING
                    host.session.flush_credits()

    # Completion.

    def settle(self) -> None:
        """Accept, send, carry and deliver everything, end every stream; fail if that does not complete."""
        while self._owed or not (self.initiator.carrying() or self._dialling()):
            self.dial()
        for _ in range(_NEVER):
            if not self._round():
                if not any(host.session.late for host in self.hosts):
                    return
                self.wait()
        raise AssertionError("the simulation did not settle")

    def _dialling(self) -> bool:
        """Return whether a lane is being dialled to start or resume the session."""
        return any(not (lane.gentle or lane.retired) for lane in self.initiator.lanes.values())

    def _round(self) -> bool:
        moved = self.carry_all()
        self.notice()
        for host in self.hosts:
            moved |= host.converse()
            for epoch in host.lanes:
                moved |= host.transmit(epoch)
        return moved

    # Invariants.

    def check(self) -> None:
        """Raise AssertionError when a bound or a conservation law is violated."""
        for host, peer in (self.hosts, self.hosts[::-1]):
            self._check_bounds(host)
            for number, stream in host.session._streams.items():
                if (other := peer.stream(number)) is not None:
                    self._check_credit(stream, other)

    def _check_bounds(self, host: Host) -> None:
        session, settings = host.session, host.settings
        streams = session._streams.values()
        assert session.kept == sum(stream.out.unacknowledged for stream in streams)
        assert sum(stream.cost for stream in streams) <= settings.memory + len(streams) * KEEP_FLOOR
        assert session._senders.retention.used == sum(max(0, s.cost - KEEP_FLOOR) for s in streams)
        assert session._budget.used == sum(max(0, s.into.size - FLOOR_WINDOW) for s in streams)
        assert len(session._control._kept) <= self.peer_of(host).settings.limits.control
        assert len(session._control._held) <= settings.limits.control
        for number, local in host.locals.items():
            if not local.gone and (stream := host.stream(number)) is not None:
                assert len(local.inbox) <= stream.into.size
                assert stream.held <= 3 * stream.into.size + 2 * PAGE

    def _check_credit(self, sender: Stream, receiver: Stream) -> None:
        out, into = sender.out, receiver.into
        assert out.delivered <= into.delivered <= into.received <= out.sent <= max(out.limit, out.sent)
        assert out.sent <= into.limit
        assert out.limit <= into.limit

    def check_finished(self) -> None:
        """Raise AssertionError unless every stream ended correctly on both sides."""
        for host in self.hosts:
            assert not host.session._streams
            assert host.session.kept == 0
            assert host.session._budget.used == 0
            assert len(host.session._senders.scheduler) == 0
            assert not host.session._senders._blocked.union(*host.session._senders._starved.values())
            assert not host.session._credits
            assert not host.session.late
            assert not host.session._control._waiting
            assert not host.session._control._held
            assert all(local.gone for local in host.locals.values())
            host.questions.check_finished()
        assert set(self.initiator.locals) >= {n for n in self.acceptor.locals if n % 2 == 1}
        for number in set(self.initiator.locals) & set(self.acceptor.locals):
            self._check_ending(number)

    def _check_ending(self, number: int) -> None:
        ends = [host.locals[number] for host in self.hosts]
        opener, other = ends if number % 2 == 1 else ends[::-1]
        if any(number in host.resets for host in self.hosts) or StreamRefused in opener.events:
            assert opener.order in _ABRUPT_OPENER, opener.order
            assert other.order in _ABRUPT_OTHER, other.order
            return
        assert opener.order in {f"Opened {end} Closed" for end in _ENDS}
        assert other.order in {f"Requested {end} Closed" for end in _ENDS}
        assert (opener.taken, other.taken) == (other.sent, opener.sent)


_ENDS = {"Ended", "Confirmed Ended"}  # Closed also confirms
# The resetting host gets no further events; the stream may have ended at the peer before the reset.
_HALVES = {"", " Ended", " Confirmed"}
_ABRUPT = _HALVES | {f"{half} Reset" for half in _HALVES} | {f" {end} Closed" for end in _ENDS}
_ABRUPT_OPENER = {"", "Refused", "Reset"} | {f"Opened{end}" for end in _ABRUPT}
_ABRUPT_OTHER = {f"Requested{end}" for end in _ABRUPT}

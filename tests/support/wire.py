"""Two hosts joined by simulated lanes, without sockets: the product's sessions, membership and rotation.

The content of a stream is a function of sender, stream and offset, so that each delivered byte is checked
where it arrives. A lane holds the bytes in transit until ``carry`` moves them, any number at a time; it can
be cut anywhere, and either side may detect that late. ``settle`` lets everything finish.

Time is simulated too: it advances only in ``wait``, where hosts also perform their timed actions.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

from tests.support.ends import LaneEnd
from tests.support.wire_host import Host
from tunnel.errors import ProtocolError
from tunnel.wire.codes import MAX_DATA, Code
from tunnel.wire.events import (
    StreamRefused,
)
from tunnel.wire.frames import (
    Frame,
)
from tunnel.wire.keepalive import INTERVAL
from tunnel.wire.lane_protocol import Decoder
from tunnel.wire.reassembly import PAGE
from tunnel.wire.session import Settings
from tunnel.wire.stream import Stream
from tunnel.wire.window import ACK_DELAY, FLOOR_WINDOW, KEEP_FLOOR

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


class Network:
    """An initiator, an acceptor and their lanes, which are numbered from 1."""

    def __init__(self, initiator: Settings, acceptor: Settings) -> None:
        self.initiator = Host(initiator, initiator=True)
        self.acceptor = Host(acceptor, initiator=False)
        self.hosts = (self.initiator, self.acceptor)
        self.now = 0.0
        for host in self.hosts:
            host.clock = lambda: self.now
        self.acceptor.unnoticed = self._unnoticed
        self._numbers = count(1)
        self.dial()
        self.carry_all()

    def _unnoticed(self) -> list[LaneEnd]:
        here, there = self.acceptor.members.lanes, self.initiator.members.lanes
        return [lane for epoch, lane in here.items() if epoch not in there]

    def peer_of(self, host: Host) -> Host:
        return self.acceptor if host is self.initiator else self.initiator

    def dial(self) -> None:
        """Start a lane if the initiator is to dial one, and is not dialling already."""
        members = self.initiator.members
        self.initiator.abandon()
        if self.initiator.dialled is None and (members.session is None or members.wants_lane):
            self._start(0)

    def rotate(self, number: int) -> None:
        """Have the lane ``number`` of the initiator, which carries the session, replaced."""
        self.initiator.members.rotation.rotate("scheduled", [self.initiator.ends[number]])
        self.replace()

    def replace(self) -> None:
        """Start a lane to replace one that is due."""
        if self.initiator.dialled is None and (epoch := self.initiator.members.rotation.next_due()):
            self._start(epoch)

    def _start(self, replaces: int) -> None:
        number = next(self._numbers)
        self.initiator.dial(number, replaces)
        self.acceptor.listen(number)

    def carry(self, number: int, from_initiator: bool, most: int = MAX_DATA) -> int:
        """Deliver up to ``most`` bytes in transit on a lane to the peer; return how many."""
        source, target = self.hosts if from_initiator else self.hosts[::-1]
        end = source.ends[number]
        data = bytes(end.out[:most])
        del end.out[:most]
        if number in target.ends:
            target.take(number, data)
        if end.ended and not end.out:
            source.ends.pop(number, None)
        return len(data)

    def carry_all(self) -> bool:
        moved = 0
        for from_initiator, source in ((True, self.initiator), (False, self.acceptor)):
            moved += sum(self.carry(number, from_initiator, 1 << 30) for number in list(source.ends))
        return moved > 0

    def cut(self, number: int, noticed: bool) -> None:
        """Cut a lane and lose the data in transit. Without ``noticed`` the acceptor detects it later."""
        self.initiator.lose(number)
        if noticed:
            self.acceptor.lose(number)

    def notice(self) -> None:
        """Let each host detect every lane that is down."""
        self.initiator.abandon()
        for host in self.hosts:
            for number in set(host.ends) - set(self.peer_of(host).ends):
                host.lose(number)

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
        for _ in range(_NEVER):
            if not self._round():
                if not any(host.session.late for host in self.hosts):
                    return
                self.wait()
        raise AssertionError("the simulation did not settle")

    def _round(self) -> bool:
        before = self.initiator.dialled
        self.dial()
        self.replace()
        moved = self.carry_all() or self.initiator.dialled is not before
        self.notice()
        for host in self.hosts:
            moved |= host.converse()
            for number in list(host.ends):
                moved |= host.transmit(number)
        return moved

    # Invariants.

    def check(self) -> None:
        """Raise AssertionError when a bound or a conservation law is violated."""
        for host, peer in (self.hosts, self.hosts[::-1]):
            self._check_bounds(host)
            self._check_lanes(host)
            for number, stream in host.session._streams.items():
                if (other := peer.stream(number)) is not None:
                    self._check_credit(stream, other)

    def _check_bounds(self, host: Host) -> None:
        session, settings = host.session, host.settings
        streams = session._streams.values()
        assert session.kept == sum(stream.out.unacknowledged for stream in streams)
        assert sum(stream.cost for stream in streams) <= settings.memory + len(streams) * KEEP_FLOOR
        assert session._senders.retention.used == sum(max(0, s.cost - KEEP_FLOOR) for s in streams)
        assert session._registry.budget.used == sum(max(0, s.into.size - FLOOR_WINDOW) for s in streams)
        assert len(session._control._kept) <= self.peer_of(host).settings.limits.control
        assert len(session._control._held) <= settings.limits.control
        for number, local in host.locals.items():
            if not local.gone and (stream := host.stream(number)) is not None:
                assert len(local.inbox) <= stream.into.size
                assert stream.held <= 3 * stream.into.size + 2 * PAGE

    def _check_lanes(self, host: Host) -> None:
        """Each lane has an owner: the session, the attempt to dial it, or who waits for its first frame."""
        for end in host.ends.values():
            owned = end in host.members.all or end is host.dialled
            assert end.ended or owned or not (host.initiator or end.protocol.attached)

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
            assert host.session._registry.budget.used == 0
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

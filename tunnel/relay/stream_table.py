"""The streams of one link: a pump for each, opened by this host or by its peer, until each comes to its end.

It stands between a session, which knows the protocol, and the hypervisors' sockets. What is to be sent is
read only when the link asks for it (``send_next``), what arrived is written when a batch ends (``flush``).
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Protocol

import structlog

from tunnel.errors import RefusedError
from tunnel.host.users import user_name
from tunnel.lanes.lane import Lane, Sink
from tunnel.net.hangup import HangupWatch
from tunnel.relay.address import AllowList
from tunnel.relay.egress import Egress
from tunnel.relay.pump import Pump
from tunnel.relay.stream_timeouts import (
    HALF_CLOSED,
    LAST_WORDS,
    LEFT,
    LEFT_IN_THE_WAY,
    LEFT_UNDELIVERED,
    RECLAIM_EVERY,
    UNHEARD,
    StreamTimeouts,
)
from tunnel.relay.target_check import TargetChecks
from tunnel.relay.transfer_log import COMPLETE, TransferLog, Transfers
from tunnel.wire import events
from tunnel.wire.codes import Code
from tunnel.wire.credits import ACK_DELAY
from tunnel.wire.payload import Payload
from tunnel.wire.scheduler import QUANTUM
from tunnel.wire.session import Session

Answered = Callable[[], None]
"""Whom to tell that the peer has opened or refused a stream, or that it has ended before."""

MOST_SINKS = 16
"""Streams of which a lane knows the sinks at once: for more it is cheaper to be told of each."""

_UNDELIVERED = "the local socket was closed with bytes under way to it"


class StreamTableHandler(Protocol):
    """The link, as its streams see it."""

    def kick(self) -> None:
        """There is something to send."""

    def note(self, what: str, reason: str, **details: object) -> None:
        """Something happened that an operator should know."""


class StreamTable:
    """See the module. Implements PumpOwner and Requester."""

    def __init__(
        self,
        allowed: AllowList,
        owner: StreamTableHandler,
        log: structlog.typing.FilteringBoundLogger,
        host: str,
        peer: str,
        pump: type[Pump] = Pump,
    ) -> None:
        self.pumps: dict[int, Pump] = {}
        self.opened = 0  # ever
        self.draining = False
        self.count_theirs: Callable[[], int] | None = None  # that the peer has open, over all sessions
        self._answered: dict[int, Answered] = {}  # of streams that are not
        self.probing = TargetChecks(self._admit)
        self._egress = Egress(allowed, self, host, peer)
        self._host = host
        self._owner = owner
        self._log = log
        self._pump = pump
        self._loop = asyncio.get_running_loop()
        self._hangups = HangupWatch()
        self._session: Session | None = None
        self._fresh: dict[Pump, None] = {}  # pumps that got payload since the last batch ended
        self._vacated = asyncio.Event()  # set whenever a stream ends
        self._late: asyncio.TimerHandle | None = None  # while the peer is to be told of something
        self._silence = StreamTimeouts()
        self.transfers: TransferLog = Transfers(log)

    def begin(self, session: Session) -> None:
        """The streams from now on are those of ``session``."""
        self._session = session
        self.probing.begin(session)

    def end(self) -> None:
        """The session is over: every socket is reset."""
        self._session = None
        if self._late is not None:
            self._late.cancel()
            self._late = None
        self.probing.end()
        self._egress.close()
        for number in list(self.pumps):
            self._remove(number, "link down").reset()

    @property
    def busy(self) -> bool:
        """Whether any stream runs, or is about to."""
        return bool(self.pumps) or self._egress.dialling

    # Streams that enter here.

    def open(
        self, sock: socket.socket, target: str, uid: int | None = None, answered: Answered | None = None
    ) -> None:
        """Carry ``sock``, of local user ``uid``, to ``target`` at the peer.

        RefusedError leaves ``sock`` to the caller.
        """
        if self.draining:
            raise RefusedError("this host is stopping", Code.DRAINING)
        pump = self._add_pump(sock, self._living().open(target), target)
        pump.uid, pump.outwards = uid, True
        if answered is not None:
            self._answered[pump.number] = answered
        self._owner.kick()

    async def vacancy(self, deadline: float) -> bool:
        """Wait for a stream to end, so that there may be room; False at ``deadline`` (loop time)."""
        self._vacated.clear()
        while not self._vacated.is_set() and (left := deadline - self._loop.time()) > 0:
            self._reclaim(time.monotonic())
            with suppress(TimeoutError):
                await asyncio.wait_for(self._vacated.wait(), min(left, RECLAIM_EVERY))
        return self._vacated.is_set()

    def _reclaim(self, now: float) -> None:
        """Free places of hypervisors that left while the far end hangs: others need them now."""
        for number in self._silence.lasting(LEFT_IN_THE_WAY, now):
            pump = self.pumps[number]
            if pump.outwards and pump.left:
                self._abandon_rest(pump)

    def _add_pump(self, sock: socket.socket, number: int, target: str) -> Pump:
        pump = self.pumps[number] = self._pump(sock, number, target, self)
        self.opened += 1
        with suppress(OSError):  # without descriptors: then reading and writing alone tell
            self._hangups.add(sock, partial(self._hung_up, pump))
        return pump

    def _hung_up(self, pump: Pump, failed: bool) -> None:
        self._loop.call_later(LEFT, self._see_off, pump)
        pump.hang_up(failed=failed)

    # Streams that leave here: Requester.

    def on_dialled(self, number: int, sock: socket.socket) -> None:
        """The target accepted."""
        session = self._living()
        session.accept(number)
        self._start(self._add_pump(sock, number, session.target(number)))
        self._owner.kick()

    def on_not_dialled(self, number: int, error: RefusedError) -> None:
        """The target did not accept, or must not be dialled."""
        session = self._living()
        self._owner.note("stream refused", error.reason, stream=number, target=session.target(number))
        session.refuse(number, error.code or Code.INTERNAL, error.reason)
        self._owner.kick()

    def _start(self, pump: Pump) -> None:
        self._log.info("stream opened", stream=pump.number, target=pump.target)
        self.transfers.began(pump)
        self._tell_answered(pump.number)
        pump.start_reading()

    def _tell_answered(self, number: int) -> None:
        if (answered := self._answered.pop(number, None)) is not None:
            answered()

    # What the session reports.

    def act(self, reported: Iterable[events.Event]) -> None:
        """Do what follows from frames of the peer."""
        for event in reported:
            match event:
                case events.StreamRequested():
                    self._request(event)
                case events.StreamOpened():
                    self._start(self.pumps[event.stream])
                case events.StreamEnded():
                    self.pumps[event.stream].shutdown_write()
                case events.StreamReleased():
                    self._release(event)
                case events.StreamConfirmed():
                    self._confirmed(self.pumps[event.stream])
                case events.StreamClosed():
                    self._remove(event.stream, COMPLETE).close()
                case events.StreamRefused() | events.StreamReset():
                    self._reset_local(event)
                case events.TargetProbed() | events.TargetJudged():
                    self.probing.act(event)

    def _release(self, event: events.StreamReleased) -> None:
        if (pump := self.pumps.get(event.stream)) is not None:
            pump.release(event.delivered)

    def _request(self, event: events.StreamRequested) -> None:
        places = self._living().places
        taken = places.theirs if self.count_theirs is None else self.count_theirs()
        if taken >= places.granted:
            reason = f"the peer has {places.granted} streams open, as many as transport.streams allows here"
            self._owner.note("stream limit reached", reason)
        if self.draining:
            self.on_not_dialled(event.stream, self._stopping())
        elif taken > places.granted:
            reason = f"{self._host} allows {places.granted} streams at once (its transport.streams)"
            self.on_not_dialled(event.stream, RefusedError(reason, Code.STREAM_LIMIT))
        else:
            self._egress.request(event.stream, event.target)

    def _admit(self, target: str) -> None:
        """Raise RefusedError if a stream to ``target`` would be refused now."""
        if self.draining:
            raise self._stopping()
        self._egress.admit(target)

    def _reset_local(self, event: events.StreamRefused | events.StreamReset) -> None:
        if event.stream not in self.pumps:
            self._egress.cancel(event.stream)  # reset while it was being dialled
            return
        if event.code is Code.IDLE_HALF_CLOSED and self.pumps[event.stream].write_ended:
            self._remove(event.stream, event.reason).close()  # the kernel may still have bytes to send
            return
        outcome = f"{'refused' if isinstance(event, events.StreamRefused) else 'reset'} by the peer"
        self._owner.note(f"stream {outcome}", event.reason, stream=event.stream, code=event.code.name)
        self._remove(event.stream, outcome).reset()

    def _remove(self, number: int, outcome: str) -> Pump:
        pump = self.pumps.pop(number)
        self._vacated.set()
        self._hangups.remove(pump.descriptor)
        self._silence.forget(number)
        self._tell_answered(number)
        self._log.info("stream closed", **_account(pump), outcome=outcome)
        self.transfers.ended(pump, outcome)
        return pump

    # Payload from the peer.

    def deliver(self, stream: int, offset: int, payload: Payload) -> None:
        """Take payload that a lane lends until ``flush``. Raises ProtocolError."""
        for piece in self._living().data(stream, offset, payload):
            pump = self.pumps[stream]
            pump.deliver(piece.content)
            self._fresh[pump] = None

    def flush(self) -> None:
        """Write everything that came at once with as few calls as there are streams."""
        fresh, self._fresh = self._fresh, {}
        for pump in fresh:
            pump.flush()

    # Payload that a lane passes to the socket itself: Sinks.

    @property
    def fan(self) -> int:
        """How many streams there are, or 1 if those are too many."""
        count = len(self.pumps)
        return count if count <= MOST_SINKS else 1

    def sink(self, stream: int) -> Sink | None:
        """Where payload of ``stream`` goes that is in order, while the socket took all before it."""
        pump = self.pumps.get(stream)
        if pump is None or (descriptor := pump.sink) < 0:
            return None
        offset, limit = self._living().expects(stream)
        return Sink(descriptor, offset, limit) if limit else None

    def on_passed(self, stream: int, offset: int, count: int, error: OSError | None) -> None:
        """A lane wrote payload to the socket."""
        pump = self.pumps[stream]
        if count:
            self._living().data(stream, offset, range(count))
        pump.on_passed(count, error)

    # Payload for the peer.

    def send_next(self, lane: Lane, turn: int) -> int:
        """Send what the stream whose turn it is has to say; how many bytes, 0 when none has any.

        They are no more than ``turn``, or than the lane's batch where it takes frame by frame, or the link is
        what holds it up.
        """
        session = self._living()
        most = turn if lane.carries and lane.batch >= QUANTUM else min(turn, lane.batch)
        while lane.room and (picked := session.pick(most)) is not None:
            number, allowance = picked
            pump = self.pumps[number]
            move = self._forward if lane.carries and pump.forwards else self._read
            try:
                count = move(pump, lane, allowance)
            except OSError as error:
                self._local_failure(pump, error)
                continue
            if count:
                return count
            session.not_ready(number)
            if count is not None:
                session.finish(number)
        return 0

    def _read(self, pump: Pump, lane: Lane, limit: int) -> int | None:
        """Read and send a frame; how many bytes, 0 at the end, None: nothing there now. Raises OSError."""
        data = pump.read(limit)
        if data:
            lane.send(self._living().send(pump.number, data, lane.epoch))
        return None if data is None else len(data)

    def _forward(self, pump: Pump, lane: Lane, limit: int) -> int | None:
        """The same by the lane itself, and perhaps many frames."""
        session, number, offset = self._living(), pump.number, pump.bytes_read
        pieces = pump.forward(lambda fd, rooms: lane.carry(fd, number, offset, rooms), limit)
        if pieces:
            session.carried(number, pieces, lane.epoch)
            if pump.drained:
                session.not_ready(number)
        return None if pieces is None else sum(map(len, pieces))

    # PumpOwner.

    def on_readable(self, pump: Pump) -> None:
        """A hypervisor has something to say."""
        self._living().ready(pump.number)
        self._owner.kick()

    def on_delivered(self, pump: Pump, count: int) -> None:
        """A hypervisor took bytes: the peer may send more."""
        session = self._living()
        if reported := session.delivered(pump.number, count, time.monotonic()):
            self.act(reported)
        if session.has_control:
            self._owner.kick()
        if self._late is None and session.late:
            self._tell_later(session)

    def _tell_later(self, session: Session) -> None:
        self._late = asyncio.get_running_loop().call_later(ACK_DELAY, self._tell_late, session)

    def _tell_late(self, session: Session) -> None:
        """Tell the peer of what is too little for credit at once."""
        self._late = None
        if session is not self._session:
            return
        session.tell_late()
        if session.has_control:
            self._owner.kick()
        if session.late:
            self._tell_later(session)

    def on_write_error(self, pump: Pump, error: OSError) -> None:
        """A hypervisor takes nothing more. What it had said before it left still gets through."""
        if pump.read_ended and not self._living().unconfirmed(pump.number):
            self._local_failure(pump, error)
        else:
            self._cut_off_later(pump, error, UNHEARD)

    def on_reset(self, pump: Pump, error: OSError) -> None:
        """A hypervisor's socket was reset: so is the peer's, soon, also if it reads nothing for now."""
        self._cut_off_later(pump, error, LAST_WORDS)

    def _cut_off_later(self, pump: Pump, error: OSError, patience: float) -> None:
        """Pass ``error`` on once nothing of the stream has moved for ``patience`` seconds."""
        self._loop.call_later(patience, self._cut_off, pump, error, patience, self._moved(pump))

    def _cut_off(self, pump: Pump, error: OSError, patience: float, moved: int) -> None:
        if self.pumps.get(pump.number) is not pump:
            return
        if self._moved(pump) != moved:
            self._cut_off_later(pump, error, patience)
        else:
            self._local_failure(pump, error)

    def _moved(self, pump: Pump) -> int:
        """Return a number that changes whenever bytes of the stream get on, here or at the peer."""
        return pump.bytes_read + pump.bytes_written + self._living().acknowledged(pump.number)

    def _confirmed(self, pump: Pump) -> None:
        pump.release(pump.bytes_read)
        if pump.broken:
            self._local_failure(pump, OSError(_UNDELIVERED))

    def _local_failure(self, pump: Pump, error: OSError) -> None:
        reason = f"{pump.caller or pump.target}: {error.strerror or error}"
        self._abandon(pump.number, Code.LOCAL_RESET, reason)

    def _abandon(self, number: int, code: Code, reason: str) -> None:
        reason = f"on {self._host}: {reason}"  # it is read on both hosts
        self._living().reset(number, code, reason)
        self._owner.note("stream reset", reason, stream=number, code=code.name)
        self._remove(number, "reset here").reset()
        self._owner.kick()

    # Time.

    def reap_silent(self, now: float) -> None:
        """Give streams up that lack one end, or a hypervisor, and on which nothing moves for too long.

        ``now`` is in seconds. Call it as often as you like: each lane has a tick of its own. A stream that
        reads its socket is left alone until that has ended: reading tells.
        """
        session = self._living()
        for number, pump in list(self.pumps.items()):
            if not (pump.half_closed or pump.hung_up or session.is_blocked(number)):
                continue
            silence = self._silence.observe(number, self._moved(pump), now)
            if silence is not None:
                self._judge_silence(pump, silence)

    def _judge_silence(self, pump: Pump, silence: float) -> None:
        """Give ``pump``'s stream up if ``silence``, in seconds, is too long for what it waits for."""
        if pump.left:
            if silence >= LEFT_UNDELIVERED:
                self._abandon_rest(pump)
            else:
                self._see_off(pump)
        elif pump.half_closed and silence >= HALF_CLOSED:
            reason = "one direction ended, the other stayed silent"
            self._abandon(pump.number, Code.IDLE_HALF_CLOSED, reason)

    def _abandon_rest(self, pump: Pump) -> None:
        reason = "the local connection was closed, and the rest of it not taken"
        self._abandon(pump.number, Code.IDLE_HALF_CLOSED, reason)

    def _see_off(self, pump: Pump) -> None:
        """Free the place of a hypervisor that left after all that it had to say, which the peer has."""
        if self.pumps.get(pump.number) is not pump:
            return
        told = pump.read_ended and not self._living().unconfirmed(pump.number)
        if told and pump.left:
            reason = f"on {self._host}: the local connection was closed"
            self._living().reset(pump.number, Code.IDLE_HALF_CLOSED, reason)
            self._remove(pump.number, "closed here").close()
            self._owner.kick()

    def _stopping(self) -> RefusedError:
        """For the peer, whose daemon logs the reason as it is."""
        return RefusedError(f"{self._host} is stopping", Code.DRAINING)

    def _living(self) -> Session:
        assert self._session is not None  # noqa: S101  without a session there are no pumps, and no frames
        return self._session


def _account(pump: Pump) -> dict[str, object]:
    """What a stream was, for the line at its end. Bytes and seconds, as in ``status``."""
    caller = {} if pump.uid is None else {"uid": pump.uid, "user": user_name(pump.uid)}
    return {
        "stream": pump.number,
        "direction": "out" if pump.outwards else "in",
        "target": pump.target,
        **caller,
        "bytes_from_local": pump.bytes_read,
        "bytes_to_local": pump.bytes_written,
        "seconds": round(time.monotonic() - pump.since, 3),
    }

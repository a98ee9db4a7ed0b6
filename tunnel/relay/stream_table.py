"""The streams of one link: a pump for each, opened by this host or by the peer, until the stream ends.

It connects a session, which implements the protocol, with the hypervisors' sockets. Their payload moves in
``stream_io``.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial

import structlog

from tunnel.errors import RefusedError
from tunnel.host.users import user_name
from tunnel.net.hangup import HangupWatch
from tunnel.relay.allow_list import AllowList
from tunnel.relay.egress import Egress
from tunnel.relay.incidents import IncidentKind
from tunnel.relay.pump import Pump
from tunnel.relay.stream_io import StreamIo, StreamTableHandler
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
from tunnel.wire.session import Session

Answered = Callable[[], None]
"""Called when the peer has opened or refused a stream, or it has ended before."""

_UNDELIVERED = "the local socket was closed before all bytes were delivered"


class StreamTable(StreamIo):
    """The pumps of a link's streams. Implements PumpHandler and EgressHandler."""

    def __init__(
        self,
        allowed: AllowList,
        owner: StreamTableHandler,
        log: structlog.typing.FilteringBoundLogger,
        host: str,
        peer: str,
        pump: type[Pump] = Pump,
    ) -> None:
        super().__init__(owner)
        self.opened = 0  # in total
        self.draining = False
        self.count_theirs: Callable[[], int] | None = None  # streams of the peer, over all sessions
        self._answered: dict[int, Answered] = {}  # of streams not answered yet
        self.probing = TargetChecks(self._admit)
        self._egress = Egress(allowed, self, host, peer)
        self._host = host
        self._log = log
        self._pump = pump
        self._hangups = HangupWatch()
        self._vacated = asyncio.Event()  # set whenever a stream ends
        self._silence = StreamTimeouts()
        self.transfers: TransferLog = Transfers(log)

    def begin(self, session: Session) -> None:
        """Use ``session`` for streams from now on."""
        self._session = session
        self.probing.begin(session)

    def end(self) -> None:
        """Reset every socket: the session has ended."""
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
        """Whether any stream is open or being opened."""
        return bool(self.pumps) or self._egress.dialling

    # Streams opened by this host.

    def open(
        self, sock: socket.socket, target: str, uid: int | None = None, answered: Answered | None = None
    ) -> None:
        """Relay ``sock``, of local user ``uid``, to ``target`` at the peer.

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
        """Wait for a stream to end, which frees a slot. Return False at ``deadline`` (loop time)."""
        self._vacated.clear()
        while not self._vacated.is_set() and (left := deadline - self._loop.time()) > 0:
            self._reclaim(time.monotonic())
            with suppress(TimeoutError):
                await asyncio.wait_for(self._vacated.wait(), min(left, RECLAIM_EVERY))
        return self._vacated.is_set()

    def _reclaim(self, now: float) -> None:
        """Free slots of hypervisors that disconnected while the target hangs, as they are needed now."""
        for number in self._silence.lasting(LEFT_IN_THE_WAY, now):
            pump = self.pumps[number]
            if pump.outwards and pump.left:
                self._abandon_rest(pump)

    def _add_pump(self, sock: socket.socket, number: int, target: str) -> Pump:
        pump = self.pumps[number] = self._pump(sock, number, target, self)
        self.opened += 1
        with suppress(OSError):  # no descriptors left: hangups show only on read and write
            self._hangups.add(sock, partial(self._hung_up, pump))
        return pump

    def _hung_up(self, pump: Pump, failed: bool) -> None:
        self._loop.call_later(LEFT, self._see_off, pump)
        pump.hang_up(failed=failed)

    # Streams opened by the peer. Implements EgressHandler.

    def on_dialled(self, number: int, sock: socket.socket) -> None:
        """Accept the stream: its target has accepted."""
        session = self._living()
        session.accept(number)
        self._start(self._add_pump(sock, number, session.target(number)))
        self._owner.kick()

    def on_not_dialled(self, number: int, error: RefusedError) -> None:
        """Refuse the stream: its target has not accepted, or must not be dialled."""
        session = self._living()
        target = session.target(number)
        self._owner.note(IncidentKind.STREAM_REFUSED, error.reason, stream=number, target=target)
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
        """Apply events that result from the peer's frames."""
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
            reason = f"the peer has {places.granted} streams open, the limit here (transport.streams)"
            self._owner.note(IncidentKind.STREAM_LIMIT_REACHED, reason)
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
            self._egress.cancel(event.stream)  # reset while being dialled
            return
        if event.code is Code.IDLE_HALF_CLOSED and self.pumps[event.stream].write_ended:
            self._remove(event.stream, event.reason).close()  # the kernel may still have bytes to send
            return
        refused = isinstance(event, events.StreamRefused)
        kind = IncidentKind.STREAM_REFUSED_BY_PEER if refused else IncidentKind.STREAM_RESET_BY_PEER
        self._owner.note(kind, event.reason, stream=event.stream, code=event.code.name)
        outcome = "refused by the peer" if refused else "reset by the peer"
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

    # Implements PumpHandler.

    def on_write_error(self, pump: Pump, error: OSError) -> None:
        """Handle a hypervisor that accepts no more. What it sent before is still delivered."""
        if pump.read_ended and not self._living().unconfirmed(pump.number):
            self._local_failure(pump, error)
        else:
            self._cut_off_later(pump, error, UNHEARD)

    def on_reset(self, pump: Pump, error: OSError) -> None:
        """Handle a reset socket: reset the peer's soon, even if that side reads nothing."""
        self._cut_off_later(pump, error, LAST_WORDS)

    def _cut_off_later(self, pump: Pump, error: OSError, patience: float) -> None:
        """Report ``error`` to the peer once the stream has not progressed for ``patience`` seconds."""
        self._loop.call_later(patience, self._cut_off, pump, error, patience, self._moved(pump))

    def _cut_off(self, pump: Pump, error: OSError, patience: float, moved: int) -> None:
        if self.pumps.get(pump.number) is not pump:
            return
        if self._moved(pump) != moved:
            self._cut_off_later(pump, error, patience)
        else:
            self._local_failure(pump, error)

    def _moved(self, pump: Pump) -> int:
        """Return a counter that changes whenever the stream progresses, here or at the peer."""
        return pump.bytes_read + pump.bytes_written + self._living().acknowledged(pump.number)

    def _confirmed(self, pump: Pump) -> None:
        pump.release(pump.bytes_read)
        if pump.broken:
            self._local_failure(pump, OSError(_UNDELIVERED))

    def _local_failure(self, pump: Pump, error: OSError) -> None:
        reason = f"{pump.caller or pump.target}: {error.strerror or error}"
        self._abandon(pump.number, Code.LOCAL_RESET, reason)

    def _abandon(self, number: int, code: Code, reason: str) -> None:
        reason = f"on {self._host}: {reason}"  # logged on both hosts
        self._living().reset(number, code, reason)
        self._owner.note(IncidentKind.STREAM_RESET, reason, stream=number, code=code.name)
        self._remove(number, "reset here").reset()
        self._owner.kick()

    # Timeouts.

    def reap_silent(self, now: float) -> None:
        """Reset idle streams that are half-closed, or whose hypervisor has disconnected, after a timeout.

        ``now`` is in seconds. It may be called at any rate, such as by the tick of each lane. A stream that
        reads its socket is skipped until that has ended: reading shows it.
        """
        session = self._living()
        for number, pump in list(self.pumps.items()):
            if not (pump.half_closed or pump.hung_up or session.is_blocked(number)):
                continue
            silence = self._silence.observe(number, self._moved(pump), now)
            if silence is not None:
                self._judge_silence(pump, silence)

    def _judge_silence(self, pump: Pump, silence: float) -> None:
        """Reset the stream of ``pump`` if ``silence``, in seconds, exceeds its timeout."""
        if pump.left:
            if silence >= LEFT_UNDELIVERED:
                self._abandon_rest(pump)
            else:
                self._see_off(pump)
        elif pump.half_closed and silence >= HALF_CLOSED:
            reason = "half-closed and idle for too long"
            self._abandon(pump.number, Code.IDLE_HALF_CLOSED, reason)

    def _abandon_rest(self, pump: Pump) -> None:
        reason = "local connection closed, remaining bytes not delivered"
        self._abandon(pump.number, Code.IDLE_HALF_CLOSED, reason)

    def _see_off(self, pump: Pump) -> None:
        """Free the slot of a hypervisor that disconnected after the peer has delivered all its bytes."""
        if self.pumps.get(pump.number) is not pump:
            return
        told = pump.read_ended and not self._living().unconfirmed(pump.number)
        if told and pump.left:
            reason = f"on {self._host}: local connection closed"
            self._living().reset(pump.number, Code.IDLE_HALF_CLOSED, reason)
            self._remove(pump.number, "closed here").close()
            self._owner.kick()

    def _stopping(self) -> RefusedError:
        """Return the refusal for a peer, which logs this text."""
        return RefusedError(f"{self._host} is stopping", Code.DRAINING)


def _account(pump: Pump) -> dict[str, object]:
    """Return the totals of a stream for its log line. Bytes and seconds, as in ``status``."""
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

"""Two hosts, programs that talk through them, and what must hold of both whatever the network does.

The model knows what was done to the network and the hosts, and what the programs saw. It knows nothing of how
lanes and sessions come about, only what they are for: see ``World.check`` and ``World.check_settled``.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, cast

from tests.support.payload import content
from tests.support.simhosts import Daemon, Network, Shape
from tests.support.simloop import SimLoop, Socket, connected
from tunnel.errors import RefusedError, UnreachableError
from tunnel.relay.rotation import RotationPlan
from tunnel.wire.codes import Code, Feature
from tunnel.wire.session import Session

HOSTS = ("hosta", "hostb")

RECOVERY = 60.0
"""Seconds within which all lanes are back, whatever was before: 15 until silence is noticed, 10 for a
handshake and 10 for an answer that never come, pauses up to 5, and the acceptor's 5 beyond the window."""

LOCAL_CAPACITY = 4096
"""Bytes that a local connection takes before it is read."""

NOTICE = 15.0
"""Seconds until silence is noticed."""

GRACE = 6.0
"""Seconds: 5 that an acceptor waits beyond the window, and one for what was under way."""

STABLE = 21.0
"""Seconds after which it has been noticed what is dead."""

LEGITIMATE = {Code.NONE, Code.LINK_LOST, Code.COLLISION, Code.SESSION_UNKNOWN}
"""Why a session of two hosts may end that both keep the rules."""


class Program:
    """A hypervisor at one end of a stream: sends ``size`` bytes, and its end, and takes what comes."""

    def __init__(self, sock: Socket, number: int, first: bool, size: int, expected: int) -> None:
        self.sock = sock
        self.sent = 0
        self.got = 0
        self.outcome = ""  # "end": all of the other's, and its end; "reset"
        self.stalled = False
        self._number = number
        self._first = first
        self._size = size
        self._expected = expected
        self._loop = cast("SimLoop", asyncio.get_running_loop())
        self._loop.add_writer(sock, self._write)
        self._loop.add_reader(sock, self._read)

    def stall(self, stalled: bool) -> None:
        if self.stalled != stalled and not self.sock.closed:
            self.stalled = stalled
            if stalled:
                self._loop.remove_reader(self.sock)
            else:
                self._loop.add_reader(self.sock, self._read)

    @property
    def in_order(self) -> bool:
        """Whether both directions have come to their end, as far as can be seen here."""
        return self.outcome == "end" and self.sent == self._size

    def _write(self) -> None:
        try:
            while self.sent < self._size:
                self.sent += self.sock.send(content(self._number, self._first, self.sent, self._size))
            self.sock.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            return
        except OSError:
            self._gone()
            return
        self._loop.remove_writer(self.sock)

    def _read(self) -> None:
        try:
            data = self.sock.recv(1 << 16)
        except OSError:
            self._gone()
            return
        if data:
            stop = self.got + len(data)
            assert data == content(self._number, not self._first, self.got, stop), "not what was sent"
            self.got = stop
            return
        assert self.got == self._expected, f"an end after {self.got} of {self._expected} bytes"
        self.outcome = "end"
        self._loop.remove_reader(self.sock)

    def _gone(self) -> None:
        self.outcome = "reset"
        self.sock.close()


@dataclass(eq=False)
class Talk:
    """A stream, as its programs see it. ``local`` are the daemons' ends of the local connections."""

    number: int
    opener: str
    sizes: tuple[int, int]
    began: float
    ends: dict[str, Program] = field(default_factory=dict)
    local: dict[str, Socket] = field(default_factory=dict)
    refused: bool = False

    @property
    def over(self) -> bool:
        return self.refused or all(end.in_order or end.outcome == "reset" for end in self.ends.values())


@dataclass(frozen=True)
class Death:
    """The end of a session at one host."""

    session: bytes
    host: str
    at: float
    code: Code
    reason: str


class World:
    """See the module."""

    def __init__(self, network: Network, shapes: dict[str, Shape], features: Feature) -> None:
        self.network = network
        self.features = features  # that both hosts have
        self.loop = network.loop
        self.shapes = shapes
        self.talks: list[Talk] = []
        self.daemons: dict[str, Daemon] = {}
        self.lives: dict[bytes, set[str]] = {}  # which hosts have had a session
        self.deaths: dict[bytes, list[Death]] = {}
        self.faults: list[str] = []  # bugs that the relay survives, and losses without a cause
        self.troubles: list[tuple[float, float]] = []  # from when to when something was wrong
        self.intrusions: list[tuple[float, float]] = []  # when a copy of a host was there
        self._calls: set[asyncio.Task[None]] = set()
        for name in HOSTS:
            self.start(name)

    # What happens.

    def start(self, name: str) -> None:
        peer = HOSTS[1 - HOSTS.index(name)]
        answer: Any = self._answer_at(name)
        daemon = self.daemons[name] = Daemon(self.network, name, peer, self.shapes[name], answer)
        self._observe(daemon)

    def _observe(self, daemon: Daemon) -> None:
        link: Any = daemon.link
        end, establish, note = link.end, link._establish, link.note

        def ending(code: Code, reason: str, session: Session | None = None) -> None:
            before = link.session
            end(code, reason, session)
            if before is not None and link.session is not before:
                death = Death(before.id, daemon.name, self.loop.now, code, reason)
                self.deaths.setdefault(before.id, []).append(death)

        def establishing(session: Session, *rest: object) -> None:
            self.lives.setdefault(session.id, set()).add(daemon.name)
            establish(session, *rest)

        def noting(what: str, reason: str, **details: object) -> None:
            note(what, reason, **details)
            if "a fault of" in reason or (what == "lane lost" and not self._troubled(self.loop.now)):
                self.faults.append(f"{what}: {reason}")

        link.end, link._establish, link.note = ending, establishing, noting

    def trouble(self, seconds: float = 0.0) -> None:
        self.troubles.append((self.loop.now, self.loop.now + seconds))

    def outage(self, which: int, seconds: float) -> None:
        """Let nothing get through for a while, at least one way: then no session outlives its window."""
        self.trouble(seconds)
        self.network.outage(which, seconds)
        for daemon in self.daemons.values():
            notice = NOTICE if which == 3 else 2 * NOTICE  # who still hears the other notices its end
            longest = notice + daemon.link.plan.resume_window + GRACE
            if seconds > longest and (session := daemon.link.session) is not None:
                self.loop.call_later(longest, self._check_ended, daemon, session)

    @staticmethod
    def _check_ended(daemon: Daemon, session: Session) -> None:
        assert daemon.link.session is not session, f"{daemon.name} keeps a session beyond its window"

    def _check_told(self, daemon: Daemon, session: bytes, troubles: int) -> None:
        left = daemon.link.session
        if len(self.troubles) == troubles:  # nothing has happened since
            assert left is None or left.id != session, f"{daemon.name} did not hear of the end"

    def call(self, opener: str, sizes: tuple[int, int]) -> None:
        talk = Talk(len(self.talks), opener, sizes, self.loop.now)
        self.talks.append(talk)
        task = self.loop.create_task(self._call(talk, opener, sizes))
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)

    async def _call(self, talk: Talk, opener: str, sizes: tuple[int, int]) -> None:
        daemon, ours = self._join(talk, opener, sizes)
        try:
            await self.daemons[opener].link.open(
                cast("socket.socket", daemon), f"tcp:127.0.0.1:{talk.number + 1}", self.loop.now + 30
            )
        except (UnreachableError, RefusedError):
            talk.refused = True
            daemon.close()
            ours.sock.close()
            del talk.ends[opener]

    def _join(self, talk: Talk, host: str, sizes: tuple[int, int]) -> tuple[Socket, Program]:
        daemon, program = connected(self.loop, ("d", 1), ("p", talk.number), capacity=LOCAL_CAPACITY)
        first = host == talk.opener
        size, expected = sizes if first else sizes[::-1]
        talk.ends[host] = Program(program, talk.number, first, size, expected)
        talk.local[host] = daemon
        return daemon, talk.ends[host]

    def _answer_at(self, host: str) -> Callable[[str], tuple[float, Callable[[], Socket | None]]]:
        def answer(target: str) -> tuple[float, Callable[[], Socket | None]]:
            talk = self.talks[int(target.rpartition(":")[2]) - 1]
            return 0.002, lambda: self._join(talk, host, talk.sizes)[0]

        return answer

    def restart(self, name: str, number: int | None) -> None:
        """Kill the daemon (``number`` as in ``Daemon.kill``; None: let it end in order) and start another."""
        session, other = self.daemons[name].link.session, self.daemons[HOSTS[1 - HOSTS.index(name)]]
        if number is None and session is not None and not self._troubled(self.loop.now):
            self.loop.call_later(1, self._check_told, other, session.id, len(self.troubles) + 1)
        self.trouble()
        if number is None:
            self.daemons[name].leave()
        else:
            self.daemons[name].kill(number)
        self.start(name)

    def intrude(self, name: str, seconds: float) -> None:
        """Let a copy of host ``name`` dial the other one for a while."""
        peer = HOSTS[1 - HOSTS.index(name)]
        shape = replace(self.shapes[name], dials=True)
        copy = Daemon(self.network, name, peer, shape, self._no_answer, f"{name}'")
        began = self.loop.now
        self.intrusions.append((began, began + seconds))

        def over() -> None:
            copy.kill(errno.ECONNRESET)
            self.trouble()  # if it had a session, others ended for that

        self.loop.call_later(seconds, over)

    @staticmethod
    def _no_answer(target: str) -> tuple[float, Callable[[], Socket | None]]:
        return 0.002, lambda: None

    # What must hold, always.

    def check(self) -> None:
        """Raise AssertionError when a law is broken."""
        for talk in self.talks:
            self._check_acknowledged(talk)
        self._check_deaths()
        assert not self.faults, self.faults

    def _check_acknowledged(self, talk: Talk) -> None:
        """No host believes that more was delivered than the other end's socket took."""
        for here, there in (HOSTS, HOSTS[::-1]):
            link = self.daemons[here].link
            if here not in talk.local or talk.local[here].closed or link.session is None:
                continue
            for number, pump in link.streams.pumps.items():
                if cast("Any", pump._sock) is talk.local[here]:
                    taken = talk.local[there].taken if there in talk.local else 0
                    assert link.session.acknowledged(number) <= taken, "called delivered, and was not"

    def _check_deaths(self) -> None:
        """A session that both have had ends for a reason; then it may end at the other host as well."""
        for session, deaths in self.deaths.items():
            for death in deaths:
                assert death.code in LEGITIMATE, death
            first = deaths[0]
            if len(self.lives[session]) == 2 and "is stopping" not in first.reason:
                self._check_first(first)

    def _check_first(self, death: Death) -> None:
        ill_for = death.at - self._last_good(death.at)
        if death.code is Code.COLLISION:
            assert self._troubled(death.at), f"a copy took over while all was well: {death}"
            assert any(start <= death.at <= stop + 6 for start, stop in self.intrusions), death
        else:
            assert death.code is Code.LINK_LOST, f"ended, and the other end had not: {death}"
            window = self.shapes[death.host].window
            assert ill_for >= window - 1e-6, f"too early, all was well {ill_for} seconds ago: {death}"
            assert self._troubled(death.at), f"ended without a cause: {death}"

    def _troubled(self, at: float) -> bool:
        return any(start <= at and stop >= at - RECOVERY for start, stop in self.troubles)

    def _last_good(self, at: float) -> float:
        """The last moment up to ``at`` at which all had been well for long enough."""
        last, well_since = 0.0, 0.0
        for start, stop in sorted(self.troubles):
            if start > at:
                break
            if start - well_since >= RECOVERY:
                last = max(last, start)
            well_since = max(well_since, stop)
        return at if at - well_since >= RECOVERY else last

    # What must hold once all is well.

    @property
    def settled(self) -> bool:
        a, b = (self.daemons[name] for name in HOSTS)
        if not (a.settled and b.settled):
            return False
        ours, theirs = a.link.session, b.link.session
        assert ours is not None
        assert theirs is not None
        same = ours.id == theirs.id and a.lanes == b.lanes
        return same and len(a.lanes) == len(self.network.living()) == self.wanted

    @property
    def wanted(self) -> int:
        """Lanes that the hosts are to have: as many as both grant."""
        if Feature.RESUME not in self.features:
            return 1
        return min(shape.settings.limits.lanes for shape in self.shapes.values())

    def state(self) -> str:
        lines = []
        for daemon in self.daemons.values():
            link = daemon.link
            session = link.session.id.hex()[:8] if link.session else None
            others = [lane.epoch for lane in link.rotation.others]
            lines.append(
                f"{daemon.name}: {session} lanes {sorted(link.lanes)} others {others} lost {list(link._lost)}"
                f" closing {len(link.rotation.closing)} offer {link.offer is not None}"
            )
        return "; ".join([*lines, f"{len(self.network.living())} connections"])

    async def calm(self) -> None:
        """Wait until nothing is held any more."""
        over = max((stop for _, stop in [*self.troubles, *self.intrusions]), default=0.0) + 0.1
        if over >= self.loop.now:
            await asyncio.sleep(over - self.loop.now)
        for daemon in self.daemons.values():
            daemon.link.rotation.plan = RotationPlan(after=0.0)  # else there is always one under way

    async def settle(self) -> float:
        """Wait until all is back; how many seconds that took. AssertionError if it takes too long."""
        began, since = self.loop.now, None
        while since is None or self.loop.now - since < STABLE:
            if not self.settled:
                since = None
                assert self.loop.now - began < RECOVERY, f"not settled: {self.state()}"
            elif since is None:
                since = self.loop.now
            await asyncio.sleep(0.5)
            self.check()
        return since - began

    async def finish(self) -> None:
        """Let every program come to its end, then the hosts; nothing may be left."""
        for talk in self.talks:
            for end in talk.ends.values():
                end.stall(False)
        began = self.loop.now
        while not all(talk.over for talk in self.talks):
            assert self.loop.now - began < RECOVERY, "a stream never comes to its end"
            await asyncio.sleep(0.1)
        await asyncio.sleep(1)
        self.check()
        for talk in self.talks:
            self._check_outcome(talk)
        for daemon in self.daemons.values():
            await daemon.stop()
        await asyncio.sleep(0.1)
        assert not self.network.living(), self.network.living()
        assert not self.loop.readers, self.loop.readers
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, left

    def _check_outcome(self, talk: Talk) -> None:
        """Who sees an end in order was heard to the last byte. Only the end of a session resets a stream."""
        for here, there in (HOSTS, HOSTS[::-1]):
            if (ours := talk.ends.get(here)) is None:
                continue
            if ours.in_order and not ours.sock.broken:
                assert talk.ends[there].got == ours.sent, "ended in order, and not all of it arrived"
            else:
                ended = [death.at for deaths in self.deaths.values() for death in deaths]
                assert any(at >= talk.began for at in ended), "reset, and no session has ended"

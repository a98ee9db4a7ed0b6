"""Two hosts, programs that communicate through them, and invariants that hold under all network faults.

The model has the faults of the network and the hosts, and the observations of the programs. It is independent
of the implementation of lanes and sessions, and checks only their effects: see ``World.check`` and
``World.settled``.
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
from tunnel.wire.codes import Code, Feature
from tunnel.wire.rotation import RotationPlan
from tunnel.wire.session import Session

HOSTS = ("hosta", "hostb")

RECOVERY = 60.0
"""Seconds within which all lanes are up again after any fault: 15 for the keepalive timeout, 10 for the
handshake timeout and 10 for the reply timeout, backoff up to 5, and the acceptor's 5 beyond the window."""

LOCAL_CAPACITY = 4096
"""Buffer size in bytes of a local connection."""

NOTICE = 15.0
"""Keepalive timeout in seconds."""

GRACE = 6.0
"""Seconds: 5 that an acceptor waits beyond the window, and one for data in transit."""

STABLE = 21.0
"""Seconds after which every dead lane has been detected."""

LEGITIMATE = {Code.NONE, Code.LINK_LOST, Code.COLLISION, Code.SESSION_UNKNOWN}
"""Codes with which a session of two conforming hosts may end."""


class Program:
    """A hypervisor at one end of a stream: sends ``size`` bytes and EOF, and receives data."""

    def __init__(self, sock: Socket, number: int, first: bool, size: int, expected: int) -> None:
        self.sock = sock
        self.sent = 0
        self.got = 0
        self.outcome = ""  # "end": all data of the peer and EOF; "reset"
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
        """Whether both directions have ended regularly, as seen from this end."""
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
            assert data == content(self._number, not self._first, self.got, stop), "wrong data"
            self.got = stop
            return
        assert self.got == self._expected, f"EOF after {self.got} of {self._expected} bytes"
        self.outcome = "end"
        self._loop.remove_reader(self.sock)

    def _gone(self) -> None:
        self.outcome = "reset"
        self.sock.close()


@dataclass(eq=False)
class Talk:
    """A stream, as seen by its programs. ``local``: the daemons' ends of the local connections."""

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
    """Two daemons with their programs on a simulated network, and the checks of the invariants."""

    def __init__(self, network: Network, shapes: dict[str, Shape], features: Feature) -> None:
        self.network = network
        self.features = features  # of both hosts
        self.loop = network.loop
        self.shapes = shapes
        self.talks: list[Talk] = []
        self.daemons: dict[str, Daemon] = {}
        self.lives: dict[bytes, set[str]] = {}  # which hosts have had a session
        self.deaths: dict[bytes, list[Death]] = {}
        self.faults: list[str] = []  # internal errors of the relay, and lanes lost without a cause
        self.troubles: list[tuple[float, float]] = []  # start and end of faults
        self.intrusions: list[tuple[float, float]] = []  # start and end of duplicate hosts
        self._calls: set[asyncio.Task[None]] = set()
        for name in HOSTS:
            self.start(name)

    # Actions.

    def start(self, name: str) -> None:
        peer = HOSTS[1 - HOSTS.index(name)]
        answer: Any = self._answer_at(name)
        daemon = self.daemons[name] = Daemon(self.network, name, peer, self.shapes[name], answer)
        self._observe(daemon)

    def _observe(self, daemon: Daemon) -> None:
        link: Any = daemon.link
        end, begin, note = link.members.end, link.begin, link.note

        def ending(code: Code, reason: str, session: Session | None = None) -> None:
            before = link.session
            end(code, reason, session)
            if before is not None and link.session is not before:
                death = Death(before.id, daemon.name, self.loop.now, code, reason)
                self.deaths.setdefault(before.id, []).append(death)

        def beginning(session: Session, lane: object) -> None:
            self.lives.setdefault(session.id, set()).add(daemon.name)
            begin(session, lane)

        def noting(what: str, reason: str, **details: object) -> None:
            note(what, reason, **details)
            if "internal error" in reason or (what == "lane lost" and not self._troubled(self.loop.now)):
                self.faults.append(f"{what}: {reason}")

        link.members.end, link.begin, link.note = ending, beginning, noting

    def trouble(self, seconds: float = 0.0) -> None:
        self.troubles.append((self.loop.now, self.loop.now + seconds))

    def outage(self, which: int, seconds: float) -> None:
        """Block the network for a while, in one or both directions: no session outlives its window."""
        self.trouble(seconds)
        self.network.outage(which, seconds)
        for daemon in self.daemons.values():
            notice = NOTICE if which == 3 else 2 * NOTICE  # one-way: detected by the peer's close
            longest = notice + daemon.link.plan.resume_window + GRACE
            if seconds > longest and (session := daemon.link.session) is not None:
                self.loop.call_later(longest, self._check_ended, daemon, session)

    @staticmethod
    def _check_ended(daemon: Daemon, session: Session) -> None:
        assert daemon.link.session is not session, f"{daemon.name} has a session beyond its window"

    def _check_told(self, daemon: Daemon, session: bytes, troubles: int) -> None:
        left = daemon.link.session
        if len(self.troubles) == troubles:  # no fault since then
            assert left is None or left.id != session, f"{daemon.name} still has the ended session"

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
        """Kill the daemon (``number`` as in ``Daemon.kill``; None: regular stop) and start another."""
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
        """Let a duplicate of host ``name`` dial the other one for a while."""
        peer = HOSTS[1 - HOSTS.index(name)]
        shape = replace(self.shapes[name], dials=True)
        copy = Daemon(self.network, name, peer, shape, self._no_answer, f"{name}'")
        began = self.loop.now
        self.intrusions.append((began, began + seconds))

        def over() -> None:
            copy.kill(errno.ECONNRESET)
            self.trouble()  # if it had a session, other sessions ended because of it

        self.loop.call_later(seconds, over)

    @staticmethod
    def _no_answer(target: str) -> tuple[float, Callable[[], Socket | None]]:
        return 0.002, lambda: None

    # Invariants.

    def check(self) -> None:
        """Raise AssertionError when an invariant is violated."""
        for talk in self.talks:
            self._check_acknowledged(talk)
        self._check_deaths()
        assert not self.faults, self.faults

    def _check_acknowledged(self, talk: Talk) -> None:
        """Check that no host counts more bytes as delivered than were written to the peer's local socket."""
        for here, there in (HOSTS, HOSTS[::-1]):
            link = self.daemons[here].link
            if here not in talk.local or talk.local[here].closed or link.session is None:
                continue
            for number, pump in link.streams.pumps.items():
                if cast("Any", pump._sock) is talk.local[here]:
                    taken = talk.local[there].taken if there in talk.local else 0
                    assert link.session.acknowledged(number) <= taken, "acknowledged, but not delivered"

    def _check_deaths(self) -> None:
        """Check that a session of both hosts ends with a cause; then it may end at the other host as well."""
        for session, deaths in self.deaths.items():
            for death in deaths:
                assert death.code in LEGITIMATE, death
            first = deaths[0]
            if len(self.lives[session]) == 2 and "is stopping" not in first.reason:
                self._check_first(first)

    def _check_first(self, death: Death) -> None:
        ill_for = death.at - self._last_good(death.at)
        if death.code is Code.COLLISION:
            assert self._troubled(death.at), f"a duplicate host took over without a fault: {death}"
            assert any(start <= death.at <= stop + 6 for start, stop in self.intrusions), death
        else:
            assert death.code is Code.LINK_LOST, f"ended before the other end: {death}"
            window = self.shapes[death.host].window
            assert ill_for >= window - 1e-6, f"too early, {ill_for} s after the fault: {death}"
            assert self._troubled(death.at), f"ended without a cause: {death}"

    def _troubled(self, at: float) -> bool:
        return any(start <= at and stop >= at - RECOVERY for start, stop in self.troubles)

    def _last_good(self, at: float) -> float:
        """Return the last time up to ``at`` that was sufficiently long after any fault."""
        last, well_since = 0.0, 0.0
        for start, stop in sorted(self.troubles):
            if start > at:
                break
            if start - well_since >= RECOVERY:
                last = max(last, start)
            well_since = max(well_since, stop)
        return at if at - well_since >= RECOVERY else last

    # Conditions after recovery.

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
        """The expected number of lanes: the lower limit of both hosts."""
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
                f"{daemon.name}: {session} lanes {sorted(link.lanes)} others {others}"
                f" lost {link.members.lost_lanes} closing {len(link.closing_lanes)}"
                f" offer {link.members.offer is not None}"
            )
        return "; ".join([*lines, f"{len(self.network.living())} connections"])

    async def calm(self) -> None:
        """Wait until all faults have ended."""
        over = max((stop for _, stop in [*self.troubles, *self.intrusions]), default=0.0) + 0.1
        if over >= self.loop.now:
            await asyncio.sleep(over - self.loop.now)
        for daemon in self.daemons.values():
            daemon.link.rotation.plan = RotationPlan(after=0.0)  # otherwise a rotation is always pending

    async def settle(self) -> float:
        """Wait until all lanes are up; return how many seconds it took. Raises AssertionError on timeout."""
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
        """Let all streams end, then stop the hosts; raise AssertionError if anything is left."""
        for talk in self.talks:
            for end in talk.ends.values():
                end.stall(False)
        began = self.loop.now
        while not all(talk.over for talk in self.talks):
            assert self.loop.now - began < RECOVERY, "a stream does not end"
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
        """Check that regular ends imply complete delivery, and resets the end of a session."""
        for here, there in (HOSTS, HOSTS[::-1]):
            if (ours := talk.ends.get(here)) is None:
                continue
            if ours.in_order and not ours.sock.broken:
                assert talk.ends[there].got == ours.sent, "regular end, but data is missing"
            else:
                ended = [death.at for deaths in self.deaths.values() for death in deaths]
                assert any(at >= talk.began for at in ended), "reset, but no session has ended"

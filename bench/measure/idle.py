"""``bench idle``: the CPU time and memory of a daemon with many links that carry no stream.

Each link is to a different peer, with a certificate and a loopback address of its own, over one lane. The
peers are in one other process (``idle_peers``), and all begin at the same time, as after a restart of the
daemon. CPU is the time of the daemon's process, not of the machine: other load does not count.
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from tunnel.bench.measure.contestants import choose
from tunnel.bench.measure.endpoint import ProgramAddress
from tunnel.bench.measure.idle_peers import address_of, name_of
from tunnel.bench.measure.measurement import OURS
from tunnel.bench.measure.netns import Network
from tunnel.bench.measure.program import BenchError, Program
from tunnel.bench.measure.relay import Progress
from tunnel.bench.measure.relay_commands import (
    Command,
    mtunnel_host,
    mtunnel_ingress,
    mtunnel_peer,
    mtunnel_serve,
)
from tunnel.bench.measure.results import Results
from tunnel.bench.measure.rig import Rig, Source
from tunnel.bench.measure.site import HOST_B, Site, lay_out
from tunnel.certs.authority import Authority
from tunnel.daemon.control_socket import ask_status
from tunnel.errors import TunnelError, UsageError
from tunnel.wire.keepalive import INTERVAL

ACCEPTED, DIALED = DIRECTIONS = ("accepted", "dialed")
"""Who dials: the peers, or the daemon, which then has an ingress for each peer."""

_FILES_EACH = 3  # descriptors of a process for each link, at most, and room for the others
_UP_SECONDS = 60.0  # and more for many links
_UP_EACH = 0.1
_LOOK = 0.1


@dataclass(frozen=True)
class IdleOptions:
    """``links`` in each of ``directions``, for ``seconds``, ``rounds`` times.

    The clocks of the peers are spread over ``skew`` seconds.
    """

    links: int = 1000
    seconds: float = 60.0
    rounds: int = 3
    directions: tuple[str, ...] = DIRECTIONS
    skew: float = 0.0

    def check_machine(self) -> None:
        """Raise UsageError when a process cannot have that many connections."""
        limit, needed = resource.getrlimit(resource.RLIMIT_NOFILE)[1], _FILES_EACH * self.links + 100
        if limit != resource.RLIM_INFINITY and limit < needed:
            raise UsageError(
                f"--links {self.links} needs {needed} open files, but the hard limit is {limit}: "
                "raise it with ulimit -Hn, or measure fewer links"
            )


@dataclass(frozen=True)
class IdleOutcome:
    """One round with ``links`` links.

    ``up_seconds``, ``up_cpu``: time and CPU seconds of the daemon until all were up, from the start of those
    who dial. ``cpu``: CPU seconds within ``seconds`` after that. Resident bytes: ``empty`` of a daemon with a
    single peer and no link, ``resident`` at the end, ``peak`` since its start. ``up``: links that were up at
    the end; ``lost``: lanes that were lost or refused, as counted by the peers.
    """

    round: int
    direction: str
    links: int
    up_seconds: float
    up_cpu: float
    seconds: float
    cpu: float
    empty: int
    resident: int
    peak: int
    up: int
    lost: int

    @property
    def core(self) -> float:
        """The part of one core that the links take."""
        return self.cpu / self.seconds

    @property
    def bytes_each(self) -> float:
        """Resident bytes of one link."""
        return (self.resident - self.empty) / self.links

    @property
    def cpu_each(self) -> float:
        """CPU seconds of one link in a second."""
        return self.core / self.links


def run(options: IdleOptions, network: Network, results: Results, progress: Progress) -> list[IdleOutcome]:
    """Measure every direction; add records to ``results``, also of failures."""
    results.announce(choose([OURS]))
    found = []
    with tempfile.TemporaryDirectory(prefix="mtunnel-bench-") as scratch:
        progress(f"making {options.links} certificates")
        crowd = gather(Path(scratch), options.links, network.congestion, options.skew)
        for number, direction in _cases(options):
            progress(f"round {number} of {options.rounds}: {options.links} links, {direction}")
            try:
                outcome = crowd.measure(number, direction, options.seconds)
            except BenchError as error:
                results.add("failure", contestant=OURS, round=number, case=direction, reason=str(error))
                continue
            found.append(outcome)
            results.add("idle", **asdict(outcome))
    return found


def _cases(options: IdleOptions) -> Iterator[tuple[int, str]]:
    for number in range(1, options.rounds + 1):
        for direction in options.directions:
            yield number, direction


def gather(directory: Path, links: int, congestion: str, skew: float = 0.0) -> Crowd:
    """Make the certificates of ``links`` peers in ``directory``."""
    site = lay_out(directory, congestion)
    authority = Authority.load(directory / "pki")
    for number in range(links):
        authority.issue(name_of(number))
    return Crowd(site, links, skew)


@dataclass(frozen=True)
class Crowd:
    """A daemon, side B of ``site``, and its peers."""

    site: Site
    links: int
    skew: float = 0.0

    def measure(self, number: int, direction: str, seconds: float) -> IdleOutcome:
        """Run a new daemon and its peers, and measure them once all links are up. Raises BenchError."""
        empty = self._empty()
        with (
            tempfile.TemporaryDirectory(prefix="logs-", dir=self.site.directory) as logs,
            Rig(Path(logs)) as rig,
        ):
            daemon, peers, began = self._start(rig, direction)
            up_cpu = self._wait_up(peers, daemon)
            up_seconds = time.monotonic() - began
            time.sleep(min(INTERVAL, seconds))  # so that the first PINGs are not counted
            before, start = daemon.cpu_seconds(), time.monotonic()
            time.sleep(seconds)
            cpu, lasted, memory = daemon.cpu_seconds() - before, time.monotonic() - start, daemon.memory()
            return IdleOutcome(
                round=number,
                direction=direction,
                links=self.links,
                up_seconds=round(up_seconds, 3),
                up_cpu=round(up_cpu, 3),
                seconds=round(lasted, 3),
                cpu=round(cpu, 3),
                empty=empty,
                resident=memory.now,
                peak=memory.peak,
                up=self._up(),
                lost=int(_counts(peers)["lost"]),
            )

    def _empty(self) -> int:
        """Return the resident bytes of a daemon with one peer and no link."""
        with (
            tempfile.TemporaryDirectory(prefix="logs-", dir=self.site.directory) as logs,
            Rig(Path(logs)) as rig,
        ):
            daemon = rig.start("empty", self.command(ACCEPTED, 1))
            daemon.wait_listening(self.site.link)
            return daemon.memory().now

    def _start(self, rig: Rig, direction: str) -> tuple[Program, Source, float]:
        """Start those that are dialed first; return the daemon, its peers, and when dialing began."""
        daemon: Program | None = None
        if direction == ACCEPTED:
            daemon = rig.start("daemon", self.command(direction, self.links))
            daemon.wait_listening(self.site.link)
        way = f"--dial={self.site.link}" if direction == ACCEPTED else f"--listen={self.site.link.port}"
        began = time.monotonic()
        options = (way, f"--pki={self.site.ca.parent}", f"--links={self.links}", f"--skew={self.skew}")
        peers = Source(rig.start("peers", rig.module("idle_peers", *options), talks=True))
        if daemon is None:
            _counts(peers)  # they listen when they reply
            began = time.monotonic()
            daemon = rig.start("daemon", self.command(direction, self.links))
            daemon.wait_listening(self.site.link)
        return daemon, peers, began

    def command(self, direction: str, links: int) -> Command:
        """Return the daemon with ``links`` peers, and with an ingress for each if it is to dial them."""
        site = self.site
        parts = [mtunnel_host(site, HOST_B, site.link, site.pair_b, {})]
        for number in range(links):
            name, address = name_of(number), ProgramAddress(address_of(number), site.link.port)
            parts.append(mtunnel_peer(name, address, ()))
            if direction == DIALED:
                entry = ProgramAddress(path=str(site.directory / f"{name}.sock"))
                parts.append(mtunnel_ingress(name, entry, site.exit))
        return mtunnel_serve(site, HOST_B, "".join(parts))

    def _wait_up(self, peers: Source, daemon: Program) -> float:
        """Wait until both sides report that all links are up; return the daemon's CPU seconds by then."""
        deadline = time.monotonic() + _UP_SECONDS + _UP_EACH * self.links
        while _counts(peers)["up"] < self.links or self._up() < self.links:
            if time.monotonic() > deadline:
                raise BenchError(f"{self._up()} of {self.links} links are up{daemon.said()}")
            daemon.check()
            time.sleep(_LOOK)
        return daemon.cpu_seconds()

    def _up(self) -> int:
        """Return how many links are up, as the daemon reports."""
        try:
            facts = ask_status(self.site.directory / f"{HOST_B}.control")
        except TunnelError as error:
            raise BenchError(str(error)) from error
        return sum(link["state"] == "up" for link in facts["links"])


def _counts(peers: Source) -> dict[str, float]:
    peers.say({})
    return peers.hear(60)

"""``bench cuts``: how long a stream stalls when a lane is reset, until it continues on the next.

A stream with a steady rate passes through two daemons while its lanes are reset repeatedly. Its stall is the
longest time in which nothing arrived, from the reset to shortly before the next one. Every byte is compared.
With a round trip the lanes pass through a delaying relay (``distance``): this is not a real network, since
congestion control sees only the short paths to the relay.
"""

from __future__ import annotations

import random
import socket
import sys
import threading
import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import pairwise, product
from statistics import median, quantiles

from tunnel.bench.lab.waiting import until
from tunnel.bench.measure import resets
from tunnel.bench.measure.cut import link
from tunnel.bench.measure.duplex import content
from tunnel.bench.measure.endpoint import ProgramAddress, free_tcp
from tunnel.bench.measure.netns import Network
from tunnel.bench.measure.program import BenchError
from tunnel.bench.measure.relay import Progress
from tunnel.bench.measure.relay_commands import mtunnel
from tunnel.bench.measure.results import Results
from tunnel.bench.measure.rig import Rig
from tunnel.bench.measure.sides import rigged_site, start
from tunnel.bench.measure.site import ADDRESS_B, HOST_A, HOST_B, Site

PACE = 32 << 20
"""Bytes per second of the stream: low enough that the machine is idle."""

_TICK = 0.001  # seconds between two sends
_PAUSE = (0.25, 0.4)  # seconds between two resets, without round trips
_BUFFER = 1 << 20
_PATIENCE = 20.0  # seconds


@dataclass(frozen=True)
class CutsOptions:
    """``cuts`` in each case: for each number of ``lanes`` with each of ``round_trips`` (seconds)."""

    cuts: int = 100
    lanes: tuple[int, ...] = (1, 2)
    round_trips: tuple[float, ...] = (0.0, 0.02)
    rounds: int = 1


@dataclass(frozen=True)
class CutsOutcome:
    """One case. ``stalls``, one for each cut in order, and ``uncut`` are seconds.

    ``uncut`` is the longest time without an arrival before the first cut: the stalls of the machine alone.
    ``resumes`` are those of the side that dials.
    """

    round: int
    lanes: int
    round_trip: float
    bytes: int
    resumes: int
    uncut: float
    stalls: list[float]

    @property
    def percentiles(self) -> tuple[float, float, float, float]:
        """The shortest, the median, the 95th percentile and the longest stall, in seconds."""
        return min(self.stalls), median(self.stalls), quantiles(self.stalls, n=20)[-1], max(self.stalls)


def run(options: CutsOptions, network: Network, results: Results, progress: Progress) -> list[CutsOutcome]:
    """Measure every case; add records to ``results``, also of failures."""
    found = []
    cases = product(range(1, options.rounds + 1), options.round_trips, options.lanes)
    for number, round_trip, lanes in cases:
        what = f"{lanes} lane{'s' if lanes > 1 else ''}, round trip {round_trip * 1000:g} ms"
        progress(f"round {number} of {options.rounds}: {what}")
        with results.failure_of(what, round=number):
            found.append(measure(options.cuts, number, lanes, round_trip, network))
            results.add("cuts", **asdict(found[-1]))
    return found


def measure(cuts: int, number: int, lanes: int, round_trip: float, network: Network) -> CutsOutcome:
    """Cut lanes ``cuts`` times. Raises BenchError when a process fails, or a byte is wrong or late."""
    with rigged_site(network) as (rig, site):
        dialed = _go_far(rig, site, round_trip) if round_trip else site.link
        start(rig, mtunnel(site, lanes, dialed=dialed), site)
        _wait_lanes(dialed, lanes)
        with _Stream(site) as stream:
            began = time.monotonic() + 0.5
            time.sleep(1.0)
            moments = list(_cut(stream, dialed, lanes, cuts, round_trip))
            arrivals = stream.arrivals
        resumes = _wait_resumes(site, cuts)
        first, *_ = moments
        quiet = [at for at in arrivals if began < at < first]
        return CutsOutcome(
            round=number,
            lanes=lanes,
            round_trip=round_trip,
            bytes=stream.received,
            resumes=resumes,
            uncut=round(max(later - at for at, later in pairwise(quiet)), 6),
            stalls=[round(stall, 6) for stall in stalls(arrivals, moments)],
        )


def stalls(arrivals: Sequence[float], moments: Sequence[float]) -> list[float]:
    """Return, for each of ``moments``, the longest gap of ``arrivals`` that ended before the next moment."""
    found = [0.0] * len(moments)
    for at, later in pairwise(arrivals):
        number = bisect_left(moments, later) - 1
        if number >= 0:
            found[number] = max(found[number], later - at)
    return found


def _go_far(rig: Rig, site: Site, round_trip: float) -> ProgramAddress:
    entry = free_tcp(ADDRESS_B)
    arguments = [str(entry), str(site.link), f"--round-trip={round_trip}"]
    rig.start("distance", [sys.executable, "-m", "tunnel.bench.measure.distance", *arguments]).wait_listening(
        entry
    )
    return entry


def _wait_lanes(dialed: ProgramAddress, lanes: int) -> None:
    def found() -> bool:
        return len(resets.connections(dialed.port, dialed.host)) >= lanes

    until(found, f"for {lanes} lanes", _PATIENCE, BenchError)


def _wait_resumes(site: Site, cuts: int) -> int:
    """Wait until a lane has been replaced for each cut; return the resumes. Raises BenchError."""

    def resumes() -> int:
        count = int(link(site.control(HOST_A), HOST_B)["resumes"])
        return count if count >= cuts else 0

    return until(resumes, f"for {cuts} lanes that were reset to resume", _PATIENCE, BenchError)


def _cut(
    stream: _Stream, dialed: ProgramAddress, lanes: int, cuts: int, round_trip: float
) -> Iterator[float]:
    """Repeatedly reset a lane, once all have been up for some time; yield the time of each reset."""
    chance = random.Random(16515)  # noqa: S311  not for secrets
    for _ in range(cuts):
        _wait_lanes(dialed, lanes)
        time.sleep(chance.uniform(*_PAUSE) + 5 * round_trip)
        stream.check()
        yield time.monotonic()
        resets.reset(chance.choice(resets.connections(dialed.port, dialed.host)))
    time.sleep(_PAUSE[1] + 10 * round_trip)
    stream.check()


class _Stream:
    """A stream with a steady rate through the relay, sent and received by threads of this process."""

    def __init__(self, site: Site) -> None:
        self.arrivals: list[float] = []
        self.received = 0
        self._wrong = ""
        self._over = False
        with site.exit.listen() as server:
            server.settimeout(_PATIENCE)
            self._near = site.entry.connect()
            self._far, _ = server.accept()
        self._threads = [threading.Thread(target=each) for each in (self._send, self._receive)]

    def __enter__(self) -> _Stream:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        for sock in (self._near, self._far):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for sock in (self._near, self._far):
            sock.close()

    def check(self) -> None:
        """Raise BenchError when the stream has ended, or a wrong byte arrived."""
        if self._wrong:
            raise BenchError(self._wrong)

    def _send(self) -> None:
        sent, due = 0, time.monotonic()
        size = int(PACE * _TICK)
        self._near.settimeout(_PATIENCE)
        with suppress(OSError):
            while not self._over:
                self._near.sendall(content(0, sent, size, called=False))
                sent, due = sent + size, due + _TICK
                time.sleep(max(0.0, due - time.monotonic()))
                due = max(due, time.monotonic() - _TICK)  # no catching up after a stall

    def _receive(self) -> None:
        buffer = memoryview(bytearray(_BUFFER))
        self._far.settimeout(_PATIENCE)
        try:
            while size := self._far.recv_into(buffer, PACE // 1000):
                self.arrivals.append(time.monotonic())
                if buffer[:size] != content(0, self.received, size, called=False):
                    self._wrong = f"wrong data at offset {self.received}"
                    return
                self.received += size
            self._wrong = "the stream ended"
        except OSError as error:
            self._wrong = f"the stream failed: {error}"

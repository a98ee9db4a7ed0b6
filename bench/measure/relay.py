"""``bench relay``: throughput and CPU time of each contestant under bulk streams, side by side.

Rounds alternate (A B C, A B C, …) so that a slow minute of the machine affects all contestants. Each
measurement starts new processes, warms them up on the same connections, then times one transfer and reads the
CPU time before and after it. The latency of a small stream is measured separately.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from tunnel.bench.measure import floor, iperf, latency
from tunnel.bench.measure.contestants import Contestant
from tunnel.bench.measure.floor import Cipher, CryptoCost
from tunnel.bench.measure.measurement import Case, Latency, Measurement
from tunnel.bench.measure.netns import Network
from tunnel.bench.measure.program import BenchError
from tunnel.bench.measure.results import Results
from tunnel.bench.measure.sides import rigged_site, start_sides
from tunnel.units import MIB

_SLOWEST = 20 * MIB  # bytes per second below which a transfer counts as hung
_WARM_UP_MOST = 256 * MIB


@dataclass(frozen=True)
class RelayOptions:
    """The transfers: ``size`` bytes in total, ``repeat`` times, over each of ``streams`` and ``legs``.

    ``samples``: round trips of each latency, 0 for none.
    """

    size: int
    repeat: int
    streams: tuple[int, ...] = (1,)
    legs: tuple[str, ...] = ("tcp",)
    samples: int = latency.SAMPLES

    @property
    def cases(self) -> list[Case]:
        """All combinations, by legs first."""
        return [Case(legs, streams) for legs in self.legs for streams in self.streams]


@dataclass
class Measured:
    """The results of one run so far."""

    transfers: list[Measurement] = field(default_factory=list)
    latencies: list[Latency] = field(default_factory=list)
    crypto: list[CryptoCost] = field(default_factory=list)


Progress = Callable[[str], None]


def run(
    contestants: Sequence[Contestant],
    options: RelayOptions,
    network: Network,
    results: Results,
    progress: Progress,
) -> Measured:
    """Measure all contestants, round by round; add records to ``results``.

    A contestant that fails in a case is recorded, and skipped in that case from then on.
    """
    return _RelayRun(options, network, results, progress).measure(contestants)


class _RelayRun:
    def __init__(self, options: RelayOptions, network: Network, results: Results, progress: Progress) -> None:
        self._options = options
        self._network = network
        self._results = results
        self._progress = progress
        self._failed = set[tuple[str, Case]]()
        self._found = Measured()
        self._ciphers: list[Cipher] = []

    def measure(self, contestants: Sequence[Contestant]) -> Measured:
        if any(contestant.name == floor.HOPS for contestant in contestants):
            self._ciphers = floor.ciphers()
        for number in range(1, self._options.repeat + 1):
            if self._ciphers:
                self._measure_crypto(number)
            for contestant, case in self._plan(contestants):
                self._tell(number, f"{contestant.name}, {case}")
                try:
                    self._measure_one(contestant, number, case)
                except BenchError as error:
                    self._exclude(contestant, number, case, str(error))
        return self._found

    def _plan(self, contestants: Sequence[Contestant]) -> Iterator[tuple[Contestant, Case]]:
        for case in self._options.cases:
            for contestant in contestants:
                possible = not (contestant.own_load and case.unix_legs)
                if possible and (contestant.name, case) not in self._failed:
                    yield contestant, case

    def _measure_crypto(self, number: int) -> None:
        self._tell(number, "AES-256-GCM, for the floors")
        for cipher in self._ciphers:
            if cipher.missing:
                continue
            with self._results.failure_of(cipher.name, round=number):
                cost = cipher.cost(number)
                self._found.crypto.append(cost)
                self._results.add("floor", **vars(cost))

    def _measure_one(self, contestant: Contestant, number: int, case: Case) -> None:
        options = self._options
        transfer = measure(contestant, number, case, options.size, self._network)
        self._found.transfers.append(transfer)
        self._results.add("measurement", **transfer.as_record())
        if options.samples and not contestant.own_load:
            trips = latency.measure(contestant, number, case, options.size, self._network, options.samples)
            self._found.latencies.append(trips)
            self._results.add("latency", **trips.as_record())

    def _exclude(self, contestant: Contestant, number: int, case: Case, reason: str) -> None:
        self._failed.add((contestant.name, case))
        where = {"round": number, "legs": case.legs, "streams": case.streams}
        self._results.add("failure", contestant=contestant.name, **where, reason=reason)

    def _tell(self, number: int, what: str) -> None:
        self._progress(f"round {number} of {self._options.repeat}: {what}")


def measure(contestant: Contestant, number: int, case: Case, size: int, network: Network) -> Measurement:
    """Transfer ``size`` bytes through ``contestant`` once.

    Raises BenchError when one of its processes fails, or hangs.
    """
    with rigged_site(network, unix_legs=case.unix_legs) as (rig, site):
        if contestant.own_load:
            return iperf.measure(rig, site.exit, number, case, size)
        programs = {"sink": rig.start_sink(site.exit), **start_sides(rig, contestant, site)}
        source = rig.start_source(site.entry if contestant.sides else site.exit, streams=case.streams)
        programs["source"] = source.program
        timeout = 60 + size / _SLOWEST
        source.transfer(min(size, _WARM_UP_MOST), timeout)
        before = {role: program.cpu_seconds() for role, program in programs.items()}
        seconds = source.transfer(size, timeout)
        return Measurement(
            contestant=contestant.name,
            round=number,
            case=case,
            bytes=size,
            seconds=seconds,
            cpu_seconds={role: program.cpu_seconds() - before[role] for role, program in programs.items()},
            rss_peak={role: program.memory().peak for role, program in programs.items()},
        )

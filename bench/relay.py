"""``bench relay``: what each contestant needs to carry a bulk stream, side by side.

Rounds alternate (A B C, A B C, …) so that a slow minute of the machine hits everybody. Each measurement
starts fresh processes, warms them up on the same connections, then times one transfer and reads the CPU
time around it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tunnel.bench.contestants import Contestant
from tunnel.bench.figures import GIB, MIB
from tunnel.bench.network import Network
from tunnel.bench.program import BenchError, Program
from tunnel.bench.results import Results
from tunnel.bench.rig import Rig
from tunnel.bench.site import Site, lay_out

_SLOWEST = 20 * MIB  # bytes per second below which a transfer counts as hung
_WARM_UP_MOST = 256 * MIB


@dataclass(frozen=True)
class Options:
    """What is carried: ``size`` bytes in all, over ``streams`` connections, ``repeat`` times."""

    size: int
    repeat: int
    streams: int
    unix_legs: bool


@dataclass(frozen=True)
class Measurement:
    """One transfer. CPU seconds and resident bytes are by role: ``a``, ``b``, ``source``, ``sink``."""

    contestant: str
    round: int
    bytes: int
    seconds: float
    cpu_seconds: dict[str, float]
    rss_peak: dict[str, int]

    @property
    def gib_per_s(self) -> float:
        """Throughput."""
        return self.bytes / GIB / self.seconds

    @property
    def relay_cpu(self) -> float:
        """CPU seconds per GiB of both sides of the relay; 0 when there is none."""
        return self._per_gib("a", "b")

    @property
    def load_cpu(self) -> float:
        """CPU seconds per GiB of the source and the sink, with their side of the local connections."""
        return self._per_gib("source", "sink")

    def _per_gib(self, *roles: str) -> float:
        return sum(self.cpu_seconds.get(role, 0.0) for role in roles) / (self.bytes / GIB)


Progress = Callable[[str], None]


def run(
    contestants: Sequence[Contestant],
    options: Options,
    network: Network,
    results: Results,
    progress: Progress,
) -> list[Measurement]:
    """Measure all, round by round, into ``results``. Whoever fails is recorded, and left out from then on."""
    field = list(contestants)
    measured = []
    for number in range(1, options.repeat + 1):
        for contestant in list(field):
            progress(f"round {number} of {options.repeat}: {contestant.name}")
            try:
                measurement = measure(contestant, number, options, network)
            except BenchError as error:
                field.remove(contestant)
                results.add("failure", contestant=contestant.name, round=number, reason=str(error))
                continue
            measured.append(measurement)
            results.add("measurement", **asdict(measurement))
    return measured


def measure(contestant: Contestant, number: int, options: Options, network: Network) -> Measurement:
    """Run ``contestant`` once. Raises BenchError when one of its processes fails, or hangs."""
    with tempfile.TemporaryDirectory(prefix="mtunnel-bench-") as scratch, Rig(Path(scratch)) as rig:
        site = lay_out(Path(scratch), network.congestion, unix_legs=options.unix_legs)
        programs = {"sink": rig.start_sink(site.exit), **start_sides(rig, contestant, site)}
        source = rig.start_source(site.entry if contestant.sides else site.exit, streams=options.streams)
        programs["source"] = source.program
        timeout = 60 + options.size / _SLOWEST
        source.transfer(min(options.size, _WARM_UP_MOST), timeout)
        before = {role: program.cpu_seconds() for role, program in programs.items()}
        seconds = source.transfer(options.size, timeout)
        return Measurement(
            contestant=contestant.name,
            round=number,
            bytes=options.size,
            seconds=seconds,
            cpu_seconds={role: program.cpu_seconds() - before[role] for role, program in programs.items()},
            rss_peak={role: program.memory().peak for role, program in programs.items()},
        )


def start_sides(rig: Rig, contestant: Contestant, site: Site) -> dict[str, Program]:
    """Start side b, then side a, each until it listens; return them by role (none without a relay)."""
    if contestant.sides is None:
        return {}
    sides = contestant.sides(site)
    b = rig.start("b", sides.b)
    b.wait_listening(site.link)
    a = rig.start("a", sides.a)
    a.wait_listening(site.entry)
    return {"a": a, "b": b}

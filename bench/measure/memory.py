"""``bench memory``: memory of a relay when idle, under bulk streams, and with stalled readers.

This tests back-pressure: with a sink that reads one byte a second, a relay may fill its window and must then
stop reading from the source. ``growth`` is what it took after that. With 64 streams, 32 of them with such
readers, it may fill that many windows and no more, while the other 32 continue at full speed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from tunnel.bench.measure.contestants import Contestant
from tunnel.bench.measure.netns import Network
from tunnel.bench.measure.program import Program
from tunnel.bench.measure.relay import Progress
from tunnel.bench.measure.results import Results
from tunnel.bench.measure.sides import rigged_site, start_sides
from tunnel.units import MIB

FILL_SECONDS = 5.0  # by then every window and socket buffer on the path is full
_SETTLE_SECONDS = 1.0
_SLOW_READER_PACE = 1.0  # seconds for each byte
_SAMPLE_SECONDS = 0.2
MANY = 64
MANY_STALLED = 32

Sizes = dict[str, int]


@dataclass(frozen=True)
class Footprint:
    """Resident bytes by side, ``a`` and ``b``.

    ``idle``: after one stream was opened and closed. ``bulk``: the peak while ``size`` bytes passed.
    ``filled`` and ``stalled``: the highest in the first five seconds with a stalled reader, and in the time
    after that. ``accepted``: bytes that the source could send to the stalled reader, kernel buffers included.
    ``many``: the highest in ten seconds with 64 streams, 32 of which stalled; ``passed``: bytes that the
    source could send meanwhile.
    """

    contestant: str
    idle: Sizes
    bulk: Sizes
    filled: Sizes
    stalled: Sizes
    accepted: int
    many: Sizes
    passed: int

    @property
    def growth(self) -> Sizes:
        """Return how much each side grew after its windows were full; 0 if it did not."""
        return {side: max(0, self.stalled[side] - self.filled[side]) for side in self.filled}


def run(
    contestants: Sequence[Contestant],
    size: int,
    stall_seconds: float,
    network: Network,
    results: Results,
    progress: Progress,
) -> list[Footprint]:
    """Measure each contestant that is a relay; add records to ``results``, also of failures."""
    measured = []
    for contestant in contestants:
        progress(
            f"{contestant.name}: idle, bulk, a reader that stalls for {stall_seconds:.0f} s, {MANY} streams"
        )
        with results.failure_of(contestant.name):
            measured.append(footprint := measure(contestant, size, stall_seconds, network))
            results.add("measurement", **asdict(footprint), growth=footprint.growth)
    return measured


def measure(contestant: Contestant, size: int, stall_seconds: float, network: Network) -> Footprint:
    """Run ``contestant`` three times: bulk, with a stalled reader, with many streams. Raises BenchError."""
    idle, bulk = _idle_and_bulk(contestant, size, network)
    filled, stalled, accepted = _stalled(contestant, stall_seconds, network)
    many, passed = _many(contestant, network)
    return Footprint(contestant.name, idle, bulk, filled, stalled, accepted, many, passed)


def _idle_and_bulk(contestant: Contestant, size: int, network: Network) -> tuple[Sizes, Sizes]:
    with rigged_site(network) as (rig, site):
        rig.start_sink(site.exit)
        sides = start_sides(rig, contestant, site)
        rig.start_source(site.entry).close()
        time.sleep(_SETTLE_SECONDS)
        idle = {side: program.memory().now for side, program in sides.items()}
        rig.start_source(site.entry).transfer(size, timeout=60 + size / (20 * MIB))
        return idle, {side: program.memory().peak for side, program in sides.items()}


def _stalled(contestant: Contestant, seconds: float, network: Network) -> tuple[Sizes, Sizes, int]:
    with rigged_site(network) as (rig, site):
        rig.start_sink(site.exit, pace=_SLOW_READER_PACE)
        sides = start_sides(rig, contestant, site)
        source = rig.start_source(site.entry)
        source.flood(FILL_SECONDS + seconds)
        filled = _highest(sides, FILL_SECONDS)
        stalled = _highest(sides, seconds)
        return filled, stalled, int(source.hear(timeout=60)["accepted"])


def _many(contestant: Contestant, network: Network) -> tuple[Sizes, int]:
    with rigged_site(network) as (rig, site):
        rig.start_sink(site.exit, pace=_SLOW_READER_PACE, stalled=MANY_STALLED)
        sides = start_sides(rig, contestant, site)
        source = rig.start_source(site.entry, streams=MANY)
        source.flood(2 * FILL_SECONDS)
        many = _highest(sides, 2 * FILL_SECONDS)
        return many, int(source.hear(timeout=60)["accepted"])


def _highest(sides: dict[str, Program], seconds: float) -> Sizes:
    """Return the highest resident set of each side during the next ``seconds``."""
    highest = dict.fromkeys(sides, 0)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for side, program in sides.items():
            highest[side] = max(highest[side], program.memory().now)
        time.sleep(_SAMPLE_SECONDS)
    return highest

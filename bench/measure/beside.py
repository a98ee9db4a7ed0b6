"""One bulk stream beside 255 stalled ones, and the memory of both daemons meanwhile.

The stalled streams belong to the same link, and are full: their callers have sent as much as was accepted, or
single bytes, each of which is a frame. In one case they belong to another peer, which leaves gaps before
single bytes. SPEC.md, section 11, bounds the additional memory of a link.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from tunnel.bench.lab.waiting import until
from tunnel.bench.measure.abuse import abusing, start_daemons
from tunnel.bench.measure.abusers import ABUSERS, Abuser, hostile_command
from tunnel.bench.measure.cut import link
from tunnel.bench.measure.exposed import Exposed, expose
from tunnel.bench.measure.hostile import STREAMS, Kind
from tunnel.bench.measure.netns import Network
from tunnel.bench.measure.program import BenchError
from tunnel.bench.measure.relay import Progress
from tunnel.bench.measure.relay_commands import Command
from tunnel.bench.measure.results import Record, Results
from tunnel.bench.measure.rig import Rig, Source, scratch_rig
from tunnel.bench.measure.stats import Spread
from tunnel.daemon.config import Transport
from tunnel.errors import UsageError
from tunnel.units import MIB, parse_size
from tunnel.wire.window import FLOOR_WINDOW

GROUP = "streams"
GOAL = 0.8
"""Throughput of the stream beside the others, as a fraction of that alone."""

_SLOWEST = 20 * MIB
_PATIENCE = 120.0
_SETTLED = 1.0  # seconds
_AROUND = 1.1  # objects around payload, and memory that the allocator cannot return
_SINGLE_BYTES = 1200  # on each stream: with the cost of a frame beside its payload, over 64 MiB in total


@dataclass(frozen=True)
class BesideCase:
    """Daemons with this ``memory``, "" for the default. ``singly``: single bytes; ``gaps``: see above."""

    name: str
    memory: tuple[str, str]
    singly: bool = False
    gaps: bool = False

    @property
    def bounds(self) -> dict[str, int]:
        """Bytes that a link may hold in one direction, with the stalled streams and the bulk one, by side."""
        sizes = [parse_size(each) if each else int(Transport().memory) for each in self.memory]
        return dict(zip("ab", (size + (STREAMS + 1) * FLOOR_WINDOW for size in sizes), strict=True))


CASES = (
    BesideCase("stalled", ("", "")),
    BesideCase("stalled-64MiB", ("64MiB", "64MiB")),
    BesideCase("stalled-64MiB-1GiB", ("64MiB", "1GiB")),
    BesideCase("stalled-256MiB-64MiB", ("256MiB", "64MiB")),
    BesideCase("stalled-single-bytes", ("64MiB", "64MiB"), singly=True),
    BesideCase("stalled-gaps", ("64MiB", "64MiB"), gaps=True),
)


@dataclass(frozen=True)
class BesideOutcome:
    """All rounds of one case: the ratio of the throughput beside the others to that alone, by round.

    Resident bytes by side: ``rss_before`` after a transfer alone, ``rss_peak`` the highest of all; payload
    may account for ``bounds`` of the difference. ``held``: bytes that the stalled streams had accepted, or
    frames of the other peer.
    """

    case: str
    memory: tuple[str, str]
    bytes: int
    alone_seconds: list[float]
    beside_seconds: list[float]
    rss_before: dict[str, int]
    rss_peak: dict[str, int]
    bounds: dict[str, int]
    held: int

    @property
    def ratio(self) -> Spread:
        """Throughput of the stream beside the others, as a fraction of that alone."""
        pairs = zip(self.alone_seconds, self.beside_seconds, strict=True)
        return Spread.of([alone / beside for alone, beside in pairs])

    @property
    def growth(self) -> dict[str, int]:
        """Additional resident bytes with the stalled streams, by side."""
        return {side: max(0, self.rss_peak[side] - self.rss_before[side]) for side in self.rss_peak}

    @property
    def reached(self) -> bool:
        """Whether the goals are met."""
        in_bounds = all(self.growth[side] <= _AROUND * self.bounds[side] for side in self.bounds)
        return self.ratio.median >= GOAL and in_bounds

    def as_record(self) -> Record:
        """Return the fields of the record in the result file."""
        return {**asdict(self), "ratio": self.ratio.as_dict(), "growth": self.growth, "reached": self.reached}


def choose(names: Sequence[str]) -> tuple[list[Abuser], list[BesideCase]]:
    """Return the abusers and cases of these names or groups; default: all. Raises UsageError for others."""
    groups = [*dict.fromkeys(each.group for each in ABUSERS), GROUP]
    known = [*groups, *(each.name for each in ABUSERS), *(each.name for each in CASES)]
    if unknown := [name for name in names if name not in known]:
        raise UsageError(f"unknown abuse: {', '.join(unknown)}; known: {', '.join(known)}")
    wanted = set(names) or set(groups)
    return (
        [each for each in ABUSERS if wanted & {each.name, each.group}],
        [each for each in CASES if wanted & {each.name, GROUP}],
    )


def run(
    cases: Sequence[BesideCase],
    size: int,
    rounds: int,
    network: Network,
    results: Results,
    progress: Progress,
) -> list[BesideOutcome]:
    """Measure each case; add records to ``results``, also of failures."""
    found = []
    for case in cases:
        progress(f"{case.name}: a stream beside {STREAMS} stalled ones")
        with results.failure_of(case.name):
            found.append(measure(case, size, rounds, network))
            results.add("beside", **found[-1].as_record())
    return found


def measure(case: BesideCase, size: int, rounds: int, network: Network) -> BesideOutcome:
    """Carry the bytes alternately alone and beside the others. Raises BenchError."""
    with scratch_rig() as (rig, scratch):
        exposed = expose(scratch, network.congestion)
        rig.start_sink(exposed.site.exit)
        daemons = start_daemons(rig, exposed, case.memory)
        source = rig.start_source(exposed.site.entry)
        timeout = 60 + size / _SLOWEST
        source.transfer(size, timeout)
        before = {side: program.memory().peak for side, program in daemons.items()}
        alone, beside, held = [], [], 0
        for _ in range(rounds):
            alone.append(source.transfer(size, timeout))
            with _standing_still(rig, exposed, case) as taken:
                beside.append(source.transfer(size, timeout))
                held = max(held, taken)
            _wait_alone(exposed)
        peak = {side: program.memory().peak for side, program in daemons.items()}
        return BesideOutcome(case.name, case.memory, size, alone, beside, before, peak, case.bounds, held)


@contextmanager
def _standing_still(rig: Rig, exposed: Exposed, case: BesideCase) -> Iterator[int]:
    target = rig.start_module("hold", "stalls", "hold", exposed.held)
    if case.gaps:
        with abusing(rig, hostile_command(Kind.SPARSE, exposed)) as peer:
            yield _all_sent(peer)
    else:
        filler = Source(rig.start("fill", _fill_command(exposed, case), talks=True))
        yield int(filler.hear(_PATIENCE)["sent"])
        filler.close()
    rig.stop(target)
    Path(exposed.held.path).unlink()


def _fill_command(exposed: Exposed, case: BesideCase) -> Command:
    single = _SINGLE_BYTES if case.singly else 0
    return [*Rig.module("stalls", "fill", exposed.still), f"--streams={STREAMS}", f"--bytes={single}"]


def _all_sent(peer: Source) -> int:
    """Wait until the peer sends no more frames; return their number."""
    frames, deadline = -1, time.monotonic() + _PATIENCE
    while True:
        peer.say({})
        now = int(peer.hear(_PATIENCE)["frames"])
        if now == frames:
            return frames
        if time.monotonic() > deadline:
            raise BenchError(f"the peer is still sending after {_PATIENCE:g} s")
        frames = now
        time.sleep(_SETTLED)


def _wait_alone(exposed: Exposed) -> None:
    """Wait until both daemons have closed the other streams."""

    def alone() -> bool:
        return all(len(link(control, peer)["streams"]) <= 1 for control, peer in exposed.site.link_ends)

    until(alone, "for the streams whose callers have disconnected to close", _PATIENCE, BenchError)

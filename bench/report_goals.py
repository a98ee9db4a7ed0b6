"""The part of the report that holds the figures of all files against what mtunnel is to reach."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from tunnel.bench.document import Grid, Section
from tunnel.bench.figures import MIB, Spread, ratio
from tunnel.bench.losses import OURS
from tunnel.bench.measurement import Case
from tunnel.bench.migration import Migration
from tunnel.bench.relay import Measured
from tunnel.bench.resultfile import Fields, ResultFile, measured
from tunnel.bench.summary import BASE, growths, summarise
from tunnel.bench.summary_migrate import GOALS, GUESTS, compare
from tunnel.wire.session import Settings

_ONE = Case("tcp", 1)
_GROWTH = (OURS, "tcp", 1, 64)
_READING = (
    "Medians, with the lowest and the highest round; ratios within a round. A figure is as aimed at, met or "
    "missed by its median. That no payload enters a kernel lane's process is shown by tests, not measured."
)


@dataclass(frozen=True)
class Reached:
    """One figure, None where no file holds it. ``at_most``: a cost. ``aim`` None: simply better.

    ``when``: of which run, where there are several.
    """

    what: str
    found: Spread | None
    must: float
    aim: float | None
    unit: str = ""
    at_most: bool = True
    when: str = ""

    @property
    def verdict(self) -> str:
        """Whether the median reaches what it is to."""
        if self.found is None:
            return "not measured"
        if not self._reaches(self.found.median, self.must):
            return "missed"
        return "as aimed at" if self.aim and self._reaches(self.found.median, self.aim) else "met"

    def _reaches(self, value: float, goal: float) -> bool:
        return value <= goal if self.at_most else value >= goal

    def cells(self) -> list[str]:
        """Return the row of the table."""
        bound = "at most" if self.at_most else "at least"
        must, aim = (f"{bound} {goal:g}{self.unit}" if goal else "better" for goal in (self.must, self.aim))
        what = f"{self.what} ({self.when})" if self.when else self.what
        return [what, f"{self.found}{self.unit}" if self.found else "-", must, aim, self.verdict]


def section(files: Sequence[ResultFile]) -> Section:
    """Return the verdicts with how to read them."""
    return Section("What mtunnel is to reach", [_READING, verdicts(files)])


def verdicts(files: Sequence[ResultFile]) -> Grid:
    """Return what ``files`` say of each goal; several of one benchmark have rows of their own."""
    rows: list[Reached] = []
    for benchmark, reached in _BENCHMARKS.items():
        of_it = [file for file in files if file.benchmark == benchmark]
        several = len(of_it) > 1
        own = [replace(row, when=file.when if several else "") for file in of_it for row in reached(file)]
        rows += own or reached(None)
    return Grid(["figure", "found", "must", "aim", "verdict"], [row.cells() for row in rows])


def _relay(file: ResultFile | None) -> Iterator[Reached]:
    found = measured(file) if file else Measured()
    own = {s.case: s for s in summarise(found) if s.contestant == OURS}.get(_ONE)
    rival = f"that of {BASE}, one stream"
    yield Reached(f"CPU time to {rival}", own.cpu_ratio if own else None, 0.9, 0.7)
    yield Reached(f"throughput to {rival}", own.throughput_ratio if own else None, 1.15, 1.5, at_most=False)
    for name in ("asyncio-streams", "uvloop-streams"):
        yield Reached(f"CPU time to that of {name}", _cpu_to(name, found), 0.65, 0.45)
    yield Reached("CPU time to the floor", own.floor_ratio if own else None, 1.2, 1.0)
    grown = [g.cpu_ratio for g in growths(found) if (g.contestant, g.legs, g.fewest, g.most) == _GROWTH]
    yield Reached("CPU time of 64 streams to that of 1", grown[0] if grown else None, 1.15, 1.05)
    yield Reached("p99 round trip beside bulk, above idle", _waiting(found), 5.0, 1.0, " ms")


def _cpu_to(rival: str, found: Measured) -> Spread | None:
    ours, theirs = (
        {m.round: m.relay_cpu for m in found.transfers if m.contestant == name and m.case == _ONE}
        for name in (OURS, rival)
    )
    return ratio(ours, theirs)


def _waiting(found: Measured) -> Spread | None:
    trips = [trip for trip in found.latencies if trip.contestant == OURS and trip.case == _ONE]
    return Spread.of([(trip.loaded.p99 - trip.idle.p99) * 1e3 for trip in trips]) if trips else None


def _migrate(file: ResultFile | None) -> Iterator[Reached]:
    """Idle guests, as the goals are about the path, over a link that is not shaped."""
    moved = file.build("migration", Migration) if file else []
    counted = [
        m for m in moved if m.guest_bytes in GUESTS and not m.dirty_bytes_per_s and not m.link_bits_per_s
    ]
    for goal in GOALS:
        what = f"migration, throughput of {goal.ours} to {goal.rival}"
        own = {f"{what}, {c.setting}": c.ratio for c in compare(counted) if c.goal == goal} or {what: None}
        for name, found in own.items():
            yield Reached(name, found, goal.must, goal.aim, at_most=False)


def _memory(file: ResultFile | None) -> Iterator[Reached]:
    records = file.of_kind("measurement") if file else []
    own = [record for record in records if record["contestant"] == OURS]
    budget = Settings().memory / MIB
    for state, what, must in (
        ("idle", "idle", 80),
        ("bulk", "one bulk stream", 160),
        ("many", "64 streams, 32 stalled", budget + 100),
    ):
        yield Reached(f"resident memory, {what}", _larger(own, state), must, None, " MiB")


def _larger(records: Iterable[Fields], state: str) -> Spread | None:
    """Return what the larger side held."""
    sizes = [max(record[state].values()) / MIB for record in records if state in record]
    return Spread.of(sizes) if sizes else None


_BENCHMARKS: Mapping[str, Callable[[ResultFile | None], Iterator[Reached]]] = {
    "relay": _relay,
    "migrate": _migrate,
    "memory": _memory,
}

"""What ``bench relay`` found: charts and all figures by case."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from tunnel.bench.measure.measurement import Case, Latency, Measurement
from tunnel.bench.measure.relay import Measured
from tunnel.bench.measure.stats import Spread
from tunnel.bench.report.charts import Chart
from tunnel.bench.report.document import Block, DataTable, Section
from tunnel.bench.report.losses import Loss, losses
from tunnel.bench.report.mode_names import is_ours
from tunnel.bench.report.result_file import ResultFile, measured
from tunnel.bench.report.standing import Entrant, rows
from tunnel.bench.report.summary import (
    BASE,
    Summary,
    floor_of,
    floors_in_words,
    growths,
    summarise,
)
from tunnel.units import MIB


def sections(file: ResultFile) -> Iterator[Section]:
    """Return a section for each kind of local connections."""
    run = _Run(file)
    for legs in dict.fromkeys(case.legs for case in run.cases):
        cases = sorted(case for case in run.cases if case.legs == legs)
        yield Section(f"Relays over {legs} sockets", list(_blocks(cases, run)))


def lost(file: ResultFile) -> list[Loss]:
    """Return where a relay that encrypts has a better median than mtunnel."""
    run = _Run(file)
    return losses(run.found, sorted(n for n in run.relays if run.encrypts(n) and not is_ours(n)))


class _Run:
    """The measurements of a run, and what is known of its contestants."""

    def __init__(self, file: ResultFile) -> None:
        self.found: Measured = measured(file)
        self.summaries = summarise(self.found)
        self.cases = list(dict.fromkeys(summary.case for summary in self.summaries))
        self.relays = dict.fromkeys(m.contestant for m in self.found.transfers if m.is_relay)
        self._plain = {r["name"] for r in file.of_kind("contestant") if not r.get("encrypts", True)}

    def encrypts(self, contestant: str) -> bool:
        return contestant not in self._plain

    def of(self, case: Case) -> list[Summary]:
        return [summary for summary in self.summaries if summary.case == case]

    def transfers(
        self, cases: Sequence[Case], of: Callable[[Measurement], float], names: Sequence[str] | None = None
    ) -> list[Entrant]:
        """Return one figure of each contestant with a series for each case."""
        chosen = names if names is not None else dict.fromkeys(m.contestant for m in self.found.transfers)
        return [
            Entrant(
                name,
                name,
                self.encrypts(name),
                [
                    {m.round: of(m) for m in self.found.transfers if (m.contestant, m.case) == (name, case)}
                    for case in cases
                ],
            )
            for name in chosen
        ]


def _blocks(cases: Sequence[Case], run: _Run) -> Iterator[Block]:
    first = cases[0]
    relays = list(run.relays)
    streams = [str(case).partition(", ")[2] for case in cases] if len(cases) > 1 else ()
    yield Chart(
        "Throughput",
        "GiB/s",
        rows(run.transfers(cases, lambda m: m.gib_per_s), least_is_best=False),
        "Longer is better. direct and iperf3 show the network without a relay.",
        series=streams,
    )
    yield _by_side(first, run)
    if len(cases) > 1:
        yield Chart(
            "CPU time by number of streams",
            "s/GiB",
            rows(run.transfers(cases, lambda m: m.relay_cpu, relays), least_is_best=True),
            "Shorter is better. Bars of equal length: more streams cost nothing.",
            series=streams,
        )
    yield from _round_trips(first, run)
    for case in cases:
        yield f"All figures with {case}: median (lowest-highest); ratios within the same round."
        yield _costs(run.of(case))
        yield _sides(run.of(case))
    if grown := [growth for growth in growths(run.found) if growth.legs == first.legs]:
        yield "CPU time per GiB with many streams, as a multiple of that with few:"
        yield DataTable(
            ["contestant", "streams", "ratio"],
            [[g.contestant, f"{g.most} against {g.fewest}", str(g.cpu_ratio)] for g in grown],
        )


def _by_side(case: Case, run: _Run) -> Chart:
    parts = {s.contestant: [s.cpu_a.median, s.cpu_b.median] for s in run.of(case) if s.cpu_a and s.cpu_b}
    entrants = [
        Entrant(e.name, e.label, e.encrypts, e.figures, [parts[e.name]])
        for e in run.transfers([case], lambda m: m.relay_cpu, list(parts))
    ]
    reading = (
        "Shorter is better: processor time for each GiB, of the encrypting and the decrypting side. "
        "Medians of the sides need not add up to that of the sum."
    )
    line = floor_of(case, run.found)
    if line is not None:
        floors = "; ".join(floors_in_words(case, run.found))
        reading += (
            " The dashed line is mtunnel's floor: two plain hops and AES-256-GCM twice, measured in this run."
            f" Floors in s/GiB: {floors}."
        )
    drawn = rows(entrants, least_is_best=True)
    return Chart(f"CPU time, {case}", "s/GiB", drawn, reading, series=("side A", "side B"), line=line)


def _round_trips(case: Case, run: _Run) -> Iterator[Chart]:
    if drawn := rows(_trips(case, run), least_is_best=True):
        yield Chart(
            f"Round trip of a small stream (p99), {case}",
            "ms",
            drawn,
            "Shorter is better: 99 of 100 requests of 64 bytes got their reply within this time, alone and "
            "beside bulk in the same relay.",
            series=("idle", "under load"),
        )


def _trips(case: Case, run: _Run) -> list[Entrant]:
    by_name: dict[str, list[Latency]] = {}
    for trips in run.found.latencies:
        if trips.case == case:
            by_name.setdefault(trips.contestant, []).append(trips)
    return [
        Entrant(
            name,
            name,
            run.encrypts(name),
            [{t.round: t.idle.p99 * 1e3 for t in own}, {t.round: t.loaded.p99 * 1e3 for t in own}],
        )
        for name, own in by_name.items()
    ]


def _costs(summaries: Sequence[Summary]) -> DataTable:
    headings = ["contestant", "GiB/s", "CPU s/GiB A+B", f"GiB/s to {BASE}", f"CPU to {BASE}", "CPU to floor"]
    return DataTable(
        headings,
        [
            [
                s.contestant,
                *map(_text, (s.gib_per_s, s.cpu_per_gib, s.throughput_ratio, s.cpu_ratio, s.floor_ratio)),
            ]
            for s in summaries
        ],
    )


def _sides(summaries: Sequence[Summary]) -> DataTable:
    headings = ["contestant", "p50 ms idle", "p99 ms idle", "p50 ms loaded", "p99 ms loaded"]
    return DataTable(
        [*headings, "peak MiB A / B", "load CPU s/GiB"],
        [
            [
                s.contestant,
                *(_text(trip, 1e3) for trip in (s.idle_p50, s.idle_p99, s.loaded_p50, s.loaded_p99)),
                " / ".join(f"{s.rss_peak[side] / MIB:.0f}" for side in "ab" if side in s.rss_peak) or "-",
                str(s.load_cpu_per_gib),
            ]
            for s in summaries
        ],
    )


def _text(spread: Spread | None, factor: float = 1.0) -> str:
    return "-" if spread is None else str(spread.times(factor))

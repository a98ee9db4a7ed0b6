"""``bench report``: the result files as one document with charts, tables and notes on how to read them.

All figures are computed from the measurements, not copied from the summaries, so older files benefit from
later fixes. Benchmarks that no file covers are listed as not measured.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tunnel.bench.measure.measurement import OURS, Case
from tunnel.bench.measure.relay import Measured
from tunnel.bench.measure.stats import Spread
from tunnel.bench.report import html_page, markdown, report_goals, report_idle, report_memory, report_migrate
from tunnel.bench.report.charts import Bar, Chart, Row
from tunnel.bench.report.document import Block, DataTable, Document, Section
from tunnel.bench.report.losses import losses
from tunnel.bench.report.result_file import ResultFile, measured
from tunnel.bench.report.summary import (
    BASE,
    Summary,
    absent_from,
    floor_of,
    floors_in_words,
    growths,
    summarise,
)
from tunnel.errors import UsageError
from tunnel.units import GIB, MIB

TITLE = "mtunnel: benchmarks"
_SPREAD = "The thin line over a bar spans the lowest and the highest round, the number is the median."


def write(files: Sequence[ResultFile], directory: Path) -> list[Path]:
    """Write ``report.html`` and ``report.md`` into ``directory``; return their paths. Raises UsageError."""
    document = build(files)
    paths = []
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in (
            ("report.html", html_page.render(document)),
            ("report.md", markdown.render(document)),
        ):
            paths.append(directory / name)
            paths[-1].write_text(text)
    except OSError as error:
        raise UsageError(f"cannot write the report to {directory}: {error.strerror}") from error
    return paths


def build(files: Sequence[ResultFile]) -> Document:
    """Return the report of ``files``: relays first, then migrations and memory."""
    blocks: list[Block] = [
        "Compare figures only within one run, in which the contestants alternate, never between two runs."
    ]
    benchmarks = [file.benchmark for file in files]
    if not_measured := [name for name in _BENCHMARKS if name not in benchmarks]:
        blocks.append(f"Not measured in the files of this report: {', '.join(not_measured)}.")
    shown = [
        section if benchmarks.count(name) == 1 else replace(section, title=f"{section.title} ({file.when})")
        for name, sections in _BENCHMARKS.items()
        for file in files
        if file.benchmark == name
        for section in sections(file)
    ]
    first = [Section("How to read this", blocks), report_goals.section(files)]
    return Document(TITLE, [*first, *shown, *map(_origin, files)])


# -- bench relay ---------------------------------------------------------------------------------------------


def _relay_sections(file: ResultFile) -> Iterator[Section]:
    found = measured(file)
    summaries = summarise(found)
    by_case = {s.case: [other for other in summaries if other.case == s.case] for s in summaries}
    yield Section("Where mtunnel loses", _lost(file, found))
    for legs in dict.fromkeys(case.legs for case in by_case):
        cases = sorted(case for case in by_case if case.legs == legs)
        yield Section(f"Relays, {legs} legs", list(_relay_blocks(cases, by_case, found)))


def _lost(file: ResultFile, found: Measured) -> list[Block]:
    present = {m.contestant for m in found.transfers if m.is_relay}
    if OURS not in present:
        return ["mtunnel has no figures in this run."]
    plain = {r["name"] for r in file.of_kind("contestant") if not r.get("encrypts", True)}
    rivals = sorted(name for name in present - plain if not name.startswith(OURS))
    compared = f"Compared with the relays that encrypt: {', '.join(rivals) or 'none'}."
    if lost := losses(found, rivals):
        return [f"Where a median was better than mtunnel's. {compared}", tuple(map(str, lost))]
    return [f"In no figure of this run. {compared}"]


def _relay_blocks(
    cases: Sequence[Case], by_case: Mapping[Case, Sequence[Summary]], found: Measured
) -> Iterator[Block]:
    first = cases[0]
    names = list(dict.fromkeys(s.contestant for case in cases for s in by_case[case]))
    streams = [str(case).partition(", ")[2] for case in cases]
    yield Chart(
        f"Throughput, {first.legs} legs",
        "GiB/s",
        _rows(names, cases, by_case, lambda summary: summary.gib_per_s),
        f"Longer is better. {_SPREAD} direct and iperf3 show the network without a relay.",
        series=streams if len(cases) > 1 else (),
    )
    yield _stacked(first, by_case[first], found)
    if len(cases) > 1:
        yield Chart(
            f"CPU time by number of streams, {first.legs} legs",
            "s/GiB",
            _rows(names, cases, by_case, lambda summary: summary.cpu_per_gib),
            f"Shorter is better, and bars of equal length mean that more streams cost nothing. {_SPREAD}",
            series=streams,
        )
    yield from _latency_chart(first, by_case[first])
    for case in cases:
        yield f"All figures with {case}: median (lowest-highest); ratios within the same round."
        yield _grid(by_case[case])
    if grown := [growth for growth in growths(found) if growth.legs == first.legs]:
        yield "CPU time per GiB with many streams, as a multiple of that with few:"
        yield DataTable(
            ["contestant", "streams", "ratio"],
            [[g.contestant, f"{g.most} against {g.fewest}", str(g.cpu_ratio)] for g in grown],
        )


def _rows(
    names: Sequence[str],
    cases: Sequence[Case],
    by_case: Mapping[Case, Sequence[Summary]],
    of: Callable[[Summary], Spread | None],
) -> list[Row]:
    measured_in = {(s.contestant, case): of(s) for case in cases for s in by_case[case]}
    rows = []
    for name in names:
        spreads = [measured_in.get((name, case)) for case in cases]
        if any(spreads):
            bars = [Bar.of(spread) if spread else None for spread in spreads]
            rows.append(Row(name, bars, is_ours=name.startswith(OURS)))
    return rows


def _stacked(case: Case, summaries: Sequence[Summary], found: Measured) -> Chart:
    rows = [
        Row(
            s.contestant,
            [Bar([s.cpu_a.median, s.cpu_b.median], s.cpu_per_gib)],
            s.contestant.startswith(OURS),
        )
        for s in summaries
        if s.cpu_a and s.cpu_b and s.cpu_per_gib
    ]
    reading = (
        "Shorter is better: processor time for each GiB, of the encrypting and the decrypting side. "
        f"{_SPREAD} Medians of the sides need not add up to that of the sum."
    )
    line = floor_of(case, found)
    if line is not None:
        floors = "; ".join(floors_in_words(case, found))
        reading += (
            " The dashed line is mtunnel's floor: two plain hops and AES-256-GCM twice, measured in this run."
            f" Floors in s/GiB: {floors}."
        )
    return Chart(f"CPU time, {case}", "s/GiB", rows, reading, series=("side A", "side B"), line=line)


def _latency_chart(case: Case, summaries: Sequence[Summary]) -> Iterator[Chart]:
    rows = [
        Row(
            s.contestant,
            [Bar.of(s.idle_p99.times(1e3)), Bar.of(s.loaded_p99.times(1e3))],
            s.contestant.startswith(OURS),
        )
        for s in summaries
        if s.idle_p99 and s.loaded_p99
    ]
    if rows:
        yield Chart(
            f"Round trip of a small stream (p99), {case}",
            "ms",
            rows,
            "Shorter is better: 99 of 100 requests of 64 bytes got their reply within this time, alone and "
            f"beside bulk in the same relay. {_SPREAD}",
            series=("idle", "under load"),
        )


def _grid(summaries: Sequence[Summary]) -> DataTable:
    headings = [
        *("contestant", "GiB/s", "CPU s/GiB A+B", f"GiB/s to {BASE}", f"CPU to {BASE}", "CPU to floor"),
        *("p50 / p99 ms idle", "p50 / p99 ms loaded", "peak MiB A / B", "load CPU s/GiB"),
    ]
    return DataTable(headings, [_cells(summary) for summary in summaries])


def _cells(summary: Summary) -> list[str]:
    ratios = (summary.throughput_ratio, summary.cpu_ratio, summary.floor_ratio)
    peaks = [f"{summary.rss_peak[side] / MIB:.0f}" for side in ("a", "b") if side in summary.rss_peak]
    return [
        summary.contestant,
        *(_text(spread) for spread in (summary.gib_per_s, summary.cpu_per_gib, *ratios)),
        f"{_text(summary.idle_p50, 1e3)} / {_text(summary.idle_p99, 1e3)}",
        f"{_text(summary.loaded_p50, 1e3)} / {_text(summary.loaded_p99, 1e3)}",
        " / ".join(peaks) or "-",
        str(summary.load_cpu_per_gib),
    ]


def _text(spread: Spread | None, factor: float = 1.0) -> str:
    return "-" if spread is None else str(spread.times(factor))


# -- origin of the figures -----------------------------------------------------------------------------------


def _origin(file: ResultFile) -> Section:
    run = file.run
    machine, network = run["machine"], run["network"]
    pinned = "in a network namespace of its own" if network["pinned"] else "the system's, not pinned"
    command = shlex.join([Path(run["command"][0]).parent.name, *run["command"][1:]])
    facts = [
        ["date", run["started"]],
        ["command", command],
        ["options", ", ".join(f"{key} {value}" for key, value in run["options"].items())],
        ["machine", f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_bytes'] / GIB:.1f} GiB"],
        ["system", f"{machine['system']}, kernel {machine['kernel']}"],
        ["software", f"Python {machine['python']}, {machine['openssl']}, commit {machine['commit']}"],
        ["load before", f"{machine['load_average']} (average of one minute)"],
        ["congestion control", f"{network['congestion']}, {pinned}"],
        ["file", file.path.name],
    ]
    contestants = [
        [r["name"], r["settings"], str(r.get("version") or f"missing: {r['missing']}")]
        for r in file.of_kind("contestant")
    ]
    blocks: list[Block] = [DataTable(["", ""], facts, words=True)]
    if contestants:
        blocks.append(DataTable(["contestant", "settings", "version"], contestants, words=True))
    if gone := absent_from(list(map(dict, file.records))):
        blocks.append("Not measured, or incomplete:")
        blocks.append(tuple(f"{name}: {reason}" for name, reason in gone))
    return Section(f"The run of bench {file.benchmark}, {file.when}", blocks)


_BENCHMARKS: Mapping[str, Callable[[ResultFile], Iterable[Section]]] = {
    "relay": _relay_sections,
    "migrate": report_migrate.sections,
    "memory": report_memory.sections,
    "idle": report_idle.sections,
}

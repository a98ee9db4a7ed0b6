"""``bench report``: the result files as one document, and the findings of a run for the terminal.

All figures are computed from the measurements, not copied from the summaries, so older files benefit from
later fixes. Benchmarks that no file covers are listed as not measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tunnel.bench.report import (
    answer,
    html_page,
    markdown,
    origin,
    report_abuse,
    report_cuts,
    report_goals,
    report_idle,
    report_memory,
    report_migrate,
    report_profile,
    report_relay,
    report_rotate,
    report_scale,
)
from tunnel.bench.report.document import Block, Document, Section
from tunnel.bench.report.losses import Loss, grouped
from tunnel.bench.report.mode_names import label
from tunnel.bench.report.result_file import ResultFile
from tunnel.errors import UsageError

TITLE = "mtunnel: benchmarks"


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
    """Return the report: the answer, goals and losses, then the details of each run and where it is from."""
    newest_first = sorted(files, key=lambda file: file.when, reverse=True)
    first = [answer.section(files), report_goals.section(files), *_lost(newest_first)]
    details = [
        section
        for benchmark in _DETAILS
        for section in _details([file for file in newest_first if file.benchmark == benchmark])
    ]
    return Document(TITLE, [*first, *details, _runs(newest_first)])


def findings(files: Sequence[ResultFile], *, goals: bool = False) -> Document:
    """Return what a command has just measured, for the terminal: no answer, and no origin."""
    sections = [section for file in files for section in _sections(file)]
    sections += _lost(files)
    if goals:
        sections.append(report_goals.section(files, runs=False))
    if gone := origin.absent_blocks(files):
        sections.append(Section("Incomplete", gone))
    return Document("", sections)


def _sections(file: ResultFile) -> Iterable[Section]:
    return _DETAILS[file.benchmark](file) if file.benchmark in _DETAILS else ()


def _details(runs: Sequence[ResultFile]) -> Iterator[Section]:
    """Yield the details of the runs of one benchmark, distinguished by date if there are several."""
    for run in runs:
        for section in _sections(run):
            dated = replace(section, title=f"{section.title} ({origin.release(run)}, {run.when})")
            yield dated if len(runs) > 1 else section


def _lost(newest_first: Sequence[ResultFile]) -> Iterator[Section]:
    """Yield where mtunnel loses, in the newest run of each benchmark."""
    blocks: list[Block] = []
    for benchmark, lost in _LOST.items():
        file = next((file for file in newest_first if file.benchmark == benchmark), None)
        if file is None:
            continue
        found = lost(file)
        if found:
            blocks += [f"bench {benchmark}, {origin.release(file)}, {file.when}:", grouped(found, label)]
        else:
            blocks.append(f"bench {benchmark}, {file.when}: in no figure.")
    if blocks:
        reading = (
            "Every figure in which a rival that encrypts had a better median, in the newest run of each "
            "benchmark. Differences are ratios within a round."
        )
        yield Section("Where mtunnel loses", [reading, *blocks])


def _runs(files: Sequence[ResultFile]) -> Section:
    blocks: list[Block] = [
        "Compare figures only within one run, in which the contestants alternate, never between two."
    ]
    benchmarks = {file.benchmark for file in files}
    if missing := [name for name in _DETAILS if name not in benchmarks]:
        blocks.append(f"Not measured in the files of this report: {', '.join(missing)}.")
    return Section("The runs", [*blocks, *origin.blocks(files)])


_DETAILS: Mapping[str, Callable[[ResultFile], Iterable[Section]]] = {
    "migrate": report_migrate.sections,
    "relay": report_relay.sections,
    "memory": report_memory.sections,
    "scale": report_scale.sections,
    "idle": report_idle.sections,
    "cuts": report_cuts.sections,
    "rotate": report_rotate.sections,
    "abuse": report_abuse.sections,
    "profile": report_profile.sections,
}
"""The findings of each benchmark, in the order of the report."""

_LOST: Mapping[str, Callable[[ResultFile], Sequence[Loss]]] = {
    "migrate": report_migrate.lost,
    "relay": report_relay.lost,
}

"""The first section of the report: whether mtunnel is better than its rivals, in three sentences and charts.

Each sentence compares the best way of mtunnel with the best rival that encrypts, on each release: throughput
and CPU time with an idle guest over an unshaped link, and the highest dirty rate that converges. Of each
release the newest run counts, in the setting of the newest of all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import TypeVar

from tunnel.bench.measure.guest_records import Convergence, MeasuredMigration
from tunnel.bench.report.charts import Mark
from tunnel.bench.report.document import Block, Claim, Section, Tone
from tunnel.bench.report.origin import release
from tunnel.bench.report.report_migrate import (
    Limit,
    convergence_chart,
    convergences,
    cpu_chart,
    cpu_time,
    highest_rates,
    migrations,
    searches,
    throughput,
    throughput_chart,
)
from tunnel.bench.report.result_file import ResultFile
from tunnel.bench.report.standing import KEY, Entrant, advantage, standing
from tunnel.bench.report.summary_migrate import in_setting, settings

_UNKNOWN = "not measured: no file of this report has {} both for mtunnel and for a rival that encrypts ({})."
_NO_MIGRATION = _UNKNOWN.format("a migration of an idle guest", "./run bench migrate")
_NO_SEARCH = _UNKNOWN.format("it", "./run bench migrate --converge")
_Found = TypeVar("_Found")
_WORDS: Mapping[Mark, str] = {"wins": "wins", "loses": "loses", "level": "is level"}


def section(files: Sequence[ResultFile]) -> Section:
    """Return the section; where no file has the measurements, the sentence says so."""
    newest_first = sorted(files, key=lambda file: file.when, reverse=True)
    moved, (limit, searched) = _idle_guests(newest_first), _searches(newest_first)
    speeds = {where: throughput(found) for where, found in moved.items()}
    costs = {where: cpu_time(found) for where, found in moved.items()}
    rates = {where: highest_rates(found, limit) for where, found in searched.items()}
    claims = [
        _claim("Throughput", _NO_MIGRATION, "that of the fastest rival", speeds, least_is_best=False),
        _claim("CPU time per GiB", _NO_MIGRATION, "that of the cheapest rival", costs, least_is_best=True),
        _claim("Highest dirty rate", _NO_SEARCH, "that of the best rival", rates, least_is_best=False),
    ]
    charts: list[Block] = [throughput_chart(moved), cpu_chart(moved)] if moved else []
    charts += [convergence_chart(searched, limit)] if searched else []
    setting = [f"Throughput and CPU time: {_setting(moved)}."] if moved else []
    return Section("", [*claims, *charts, *([" ".join([*setting, KEY])] if charts else [])])


def _claim(
    topic: str, unknown: str, best: str, entrants: Mapping[str, Sequence[Entrant]], *, least_is_best: bool
) -> Claim:
    """Return the sentence on ``entrants`` by release."""
    marks, parts = set[Mark](), []
    for where, own in entrants.items():
        if found := advantage(own, least_is_best=least_is_best):
            mark = standing(found.ratio, least_is_best=least_is_best)
            marks.add(mark)
            times = f"{found.ratio} times {best} ({found.rival.label})"
            parts.append(f"{_WORDS[mark]} on {where} with {times}")
    if not parts:
        return Claim(topic, unknown, "unclear")
    return Claim(topic, f"mtunnel {', and '.join(parts)}.", _tone(marks))


def _setting(moved: Mapping[str, Sequence[MeasuredMigration]]) -> str:
    return str(next(iter(moved.values()))[0].setting)


def _tone(marks: Set[Mark]) -> Tone:
    """Return "bad" where mtunnel loses on any release, "good" where it wins on all."""
    if "loses" in marks:
        return "bad"
    return "good" if marks == {"wins"} else "unclear"


def _idle_guests(newest_first: Sequence[ResultFile]) -> dict[str, list[MeasuredMigration]]:
    """Return the migrations by release that are to be compared, all in the same setting."""
    found: dict[str, list[MeasuredMigration]] = {}
    chosen = None
    for file in newest_first:
        moved = migrations(file)
        idle = [s for s in settings(moved) if not s.dirty_bytes_per_s and s.link_bits_per_s is None]
        for setting in sorted(idle, key=lambda setting: setting.guest_bytes, reverse=True):
            own = in_setting(moved, setting)
            if setting == (chosen or setting) and advantage(throughput(own), least_is_best=False):
                found.setdefault(release(file), own)
                chosen = setting
    return _sorted(found)


def _searches(newest_first: Sequence[ResultFile]) -> tuple[Limit, dict[str, list[Convergence]]]:
    """Return the searches by release that are to be compared, and their parameters, which are the same."""
    found: dict[str, list[Convergence]] = {}
    chosen = None
    for file in newest_first:
        searched = convergences(file)
        for limit in searches(searched):
            own = highest_rates(searched, limit)
            if limit == (chosen or limit) and advantage(own, least_is_best=False):
                found.setdefault(release(file), searched)
                chosen = limit
    return chosen or (0, None, 0.0), _sorted(found)


def _sorted(found: dict[str, _Found]) -> dict[str, _Found]:
    """Return the newest release first."""
    return dict(sorted(found.items(), reverse=True))

"""Migrations in the report: one section for each setting, and the limits of convergence."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench import samples
from tunnel.bench.charts import Chart
from tunnel.bench.document import Grid, Section
from tunnel.bench.report_migrate import sections
from tunnel.bench.resultfile import ResultFile, read


@pytest.fixture
def found(tmp: Path) -> list[Section]:
    return list(sections(read(samples.migrate(tmp))))


def _charts(section: Section) -> dict[str, Chart]:
    return {block.title: block for block in section.blocks if isinstance(block, Chart)}


def test_each_setting_has_a_section(found: list[Section]) -> None:
    assert [section.title for section in found] == [
        "Migration: 4 GiB guest, idle, unshaped link",
        "Migration: 4 GiB guest, writing 100 MiB/s, unshaped link",
        "The highest dirty rate that still converges",
    ]
    assert list(_charts(found[0])) == ["Throughput", "CPU time", "Downtime"]


def test_what_did_not_converge_has_no_figures_but_is_counted(found: list[Section]) -> None:
    writing = found[1]
    assert "tunnelled TLS" not in [row.label for row in _charts(writing)["Downtime"].rows]
    (grid,) = [block for block in writing.blocks if isinstance(block, Grid)]
    (row,) = [row for row in grid.rows if row[0] == "tunnelled TLS"]
    assert row[:5] == ["tunnelled TLS", "2", "0", "3.15 (3.10-3.20)", "-"]


def test_cpu_time_is_stacked_by_side(found: list[Section]) -> None:
    row = _charts(found[0])["CPU time"].rows[0]
    (bar,) = row.drawn
    assert (row.label, bar.parts) == ("native", [0.25, 0.25])
    assert bar.spread.median == 0.5


def test_the_limit_says_what_it_was_found_with(found: list[Section]) -> None:
    (chart,) = _charts(found[2]).values()
    assert chart.title == "Convergence limit, 4 GiB, link of 10 Gbit/s"
    assert "at most 300 ms" in chart.how_to_read
    assert [bar.spread.median for row in chart.rows for bar in row.drawn] == [800, 700, 600, 500, 400]


def test_a_file_without_either_has_no_sections(tmp: Path) -> None:
    file = read(samples.migrate(tmp))
    assert list(sections(ResultFile(file.path, file.records[:1]))) == []

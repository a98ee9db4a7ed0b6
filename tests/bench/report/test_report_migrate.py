"""Migrations in the report: one section for each setting, and the limits of convergence."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench import samples
from tunnel.bench.report.charts import Chart
from tunnel.bench.report.document import DataTable, Section
from tunnel.bench.report.report_migrate import sections
from tunnel.bench.report.result_file import ResultFile, read

IDLE = "4 GiB guest, idle, unshaped link"
WRITING = "4 GiB guest, writing 100 MiB/s, unshaped link"


@pytest.fixture
def found(tmp: Path) -> list[Section]:
    return list(sections(*read(samples.migrate(tmp))))


def _charts(section: Section) -> dict[str, Chart]:
    return {block.title: block for block in section.blocks if isinstance(block, Chart)}


def test_each_setting_has_a_section(found: list[Section]) -> None:
    assert [section.title for section in found] == [
        "Migrations: mtunnel against its rivals",
        "Migration: 4 GiB guest, idle, unshaped link",
        "Migration: 4 GiB guest, writing 100 MiB/s, unshaped link",
        "The highest dirty rate that still converges",
    ]
    assert list(_charts(found[1])) == ["Throughput", "CPU time", "Downtime"]


def test_migrations_that_did_not_converge_are_only_counted(found: list[Section]) -> None:
    writing = found[2]
    assert "tunnelled-tls" not in [row.label for row in _charts(writing)["Downtime"].rows]
    (grid,) = [block for block in writing.blocks if isinstance(block, DataTable)]
    (row,) = [row for row in grid.rows if row[0] == "tunnelled-tls"]
    assert row[:5] == ["tunnelled-tls", "2", "0", "4.15 (4.10-4.20)", "-"]


def test_the_table_has_each_programs_share_and_what_the_guest_wrote(found: list[Section]) -> None:
    (grid,) = [block for block in found[2].blocks if isinstance(block, DataTable)]
    (row,) = [row for row in grid.rows if row[0] == "native"]
    cells = dict(zip(grid.headings, row, strict=True))
    assert cells["guest wrote MiB/s"] == "50.00 (50.00-50.00)"
    assert cells["sent / memory"] == "1.02 (1.02-1.02)"
    assert (cells["CPU s/GiB qemu A"], cells["CPU s/GiB libvirtd A"]) == ("0.12", "-")


def test_ours_are_compared_with_their_rivals_and_the_goal_is_named(found: list[Section]) -> None:
    (grid,) = [block for block in found[0].blocks if isinstance(block, DataTable)]
    assert [row[3:] for row in grid.rows if row[2] == "tunnelled-tls"][1] == [
        *("-", "4.5", "5.5", "not comparable", "0 / 2"),
    ]
    comparable = [row for row in grid.rows if row[3] != "-"]
    assert [(row[0], row[1], row[2], row[4], row[6]) for row in comparable] == [
        (IDLE, "mtunnel's best way: mtunnel", "multifd-tls-4", "1.15", "as aimed at"),
        (IDLE, "mtunnel-multifd-4", "multifd-tls-4", "1", "missed"),
        (IDLE, "mtunnel", "native-tls", "2.3", "missed"),
        (IDLE, "mtunnel", "tunnelled-tls", "4.5", "missed"),
        (WRITING, "mtunnel's best way: mtunnel", "multifd-tls-4", "1.15", "as aimed at"),
        (WRITING, "mtunnel-multifd-4", "multifd-tls-4", "1", "missed"),
        (WRITING, "mtunnel", "native-tls", "2.3", "missed"),
    ]
    (lost,) = [block for block in found[0].blocks if isinstance(block, tuple)]
    assert "the time of multifd-tls-4 is 0.84 (0.84-0.84) times mtunnel-multifd-4's" in lost[0]
    assert any("the highest dirty rate of multifd-tls-4 is 1.33" in loss for loss in lost)


def test_without_a_rival_nothing_is_claimed(tmp: Path) -> None:
    (file,) = read(samples.migrate(tmp))
    alone = [r for r in file.records if r["kind"] == "run" or r.get("mode") == "mtunnel"]
    blocks = next(sections(ResultFile(file.path, alone))).blocks
    assert blocks == ["No mode of mtunnel's was measured beside one of its rivals."]


def test_cpu_time_is_stacked_by_side(found: list[Section]) -> None:
    row = _charts(found[1])["CPU time"].rows[0]
    (bar,) = row.drawn
    assert (row.label, bar.parts) == ("native", [0.25, 0.25])
    assert bar.spread.median == 0.5


def test_the_limit_has_the_parameters_of_its_search(found: list[Section]) -> None:
    (chart,) = _charts(found[3]).values()
    assert chart.title == "Convergence limit, 4 GiB, link of 10 Gbit/s"
    assert "at most 300 ms" in chart.how_to_read
    assert [bar.spread.median for row in chart.rows for bar in row.drawn] == [
        *(800, 700, 600, 500, 400, 300),
    ]
    assert "in steps of 100 MiB/s up to 1024" in chart.how_to_read
    (grid,) = [block for block in found[3].blocks if isinstance(block, DataTable)]
    assert grid.rows[0] == ["native", "800.00 (800.00-800.00)", "400.00 (400.00-400.00)", ""]


def test_a_file_without_either_has_no_sections(tmp: Path) -> None:
    (file,) = read(samples.migrate(tmp))
    assert list(sections(ResultFile(file.path, file.records[:1]))) == []

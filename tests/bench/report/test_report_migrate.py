"""Migrations in the report: one section for each setting, and the limits of convergence."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench import samples
from tunnel.bench.report.charts import Chart
from tunnel.bench.report.document import DataTable, Section
from tunnel.bench.report.report_migrate import (
    convergence_chart,
    convergences,
    cpu_chart,
    lost,
    migrations,
    searches,
    sections,
)
from tunnel.bench.report.result_file import ResultFile, read
from tunnel.bench.report.summary_migrate import in_setting, settings

IDLE = "4 GiB guest, idle, unshaped link"
WRITING = "4 GiB guest, writing 100 MiB/s, unshaped link"


@pytest.fixture
def file(tmp: Path) -> ResultFile:
    return read(samples.migrate(tmp))[0]


@pytest.fixture
def found(file: ResultFile) -> list[Section]:
    return list(sections(file))


def _charts(section: Section) -> dict[str, Chart]:
    return {block.title: block for block in section.blocks if isinstance(block, Chart)}


def _tables(section: Section) -> list[DataTable]:
    return [block for block in section.blocks if isinstance(block, DataTable)]


def _row(table: DataTable, first: str) -> dict[str, str]:
    (row,) = [row for row in table.rows if row[0] == first]
    return dict(zip(table.headings, map(str, row), strict=True))


def test_each_setting_has_a_section(found: list[Section]) -> None:
    assert [section.title for section in found] == [
        "Migrations: mtunnel against its rivals",
        "Migration: 4 GiB guest, idle, unshaped link",
        "Migration: 4 GiB guest, writing 100 MiB/s, unshaped link",
        "The highest dirty rate that converges",
    ]
    assert list(_charts(found[1])) == ["Throughput", "CPU time", "Downtime"]


def test_migrations_that_did_not_converge_are_only_counted(found: list[Section]) -> None:
    writing = found[2]
    mode = "libvirt tunnelled over TLS"
    assert mode not in [row.label for row in _charts(writing)["Downtime"].rows]
    cells = list(_row(_tables(writing)[0], mode).values())
    assert cells[:5] == [mode, "0 of 2", "4.15 (4.10-4.20)", "-", "-"]
    assert writing.blocks[-1] == (f"{mode}: 2 aborted: more than 10 passes",)


def test_the_tables_have_each_programs_share_and_what_the_guest_wrote(found: list[Section]) -> None:
    times, programs = _tables(found[2])
    cells = _row(times, "QEMU, one channel")
    assert cells["guest wrote MiB/s"] == "50.00 (50.00-50.00)"
    assert cells["sent / memory"] == "1.02 (1.02-1.02)"
    assert _row(_tables(found[1])[0], "QEMU, one channel")["guest wrote MiB/s"] == "-"
    cells = _row(programs, "QEMU, one channel")
    assert (cells["qemu A"], cells["libvirtd A"], cells["all"]) == ("0.12", "-", "0.49")


def test_ours_are_compared_with_their_rivals_and_the_goal_is_named(found: list[Section]) -> None:
    (grid,) = _tables(found[0])
    rows = [list(map(str, row)) for row in grid.rows]
    assert [row[3:] for row in rows if row[2] == "libvirt tunnelled over TLS"][1] == [
        *("-", "4.5", "5.5", "not comparable", "0 / 2"),
    ]
    assert [(row[0], row[1], row[2], row[4], row[6]) for row in rows if row[3] != "-"][:3] == [
        *[
            (
                IDLE,
                "mtunnel's best way: mtunnel, one stream",
                "QEMU's TLS, multifd, 4 channels",
                "1.15",
                "as aimed at",
            )
        ],
        (IDLE, "mtunnel, multifd, 4 channels", "QEMU's TLS, multifd, 4 channels", "1", "missed"),
        (IDLE, "mtunnel, one stream", "QEMU's TLS, one channel", "2.3", "missed"),
    ]
    assert {row[0] for row in rows} == {IDLE, WRITING}


def test_losses_are_those_of_migrations_and_of_convergence(file: ResultFile) -> None:
    found = {(loss.figure, loss.rival, loss.ours): loss.ratio.median for loss in lost(file)}
    assert found["time", "multifd-tls-4", "mtunnel-multifd-4"] == pytest.approx(0.84, abs=0.01)
    assert found["highest dirty rate", "multifd-tls-4", "mtunnel-multifd-4"] == pytest.approx(4 / 3)


def test_without_a_rival_nothing_is_claimed(file: ResultFile) -> None:
    alone = [r for r in file.records if r["kind"] == "run" or r.get("mode") == "mtunnel"]
    blocks = next(iter(sections(ResultFile(file.path, alone)))).blocks
    assert blocks == ["No mode of mtunnel was measured beside one of its rivals."]


def test_cpu_time_is_stacked_by_program_and_each_run_has_a_bar(file: ResultFile) -> None:
    moved = migrations(file)
    idle = in_setting(moved, settings(moved)[0])
    chart = cpu_chart({"new": idle, "old": [m for m in idle if m.mode != "native"]})
    assert (chart.series, chart.bars) == (("mtunnel", "QEMU", "libvirt"), ("new", "old"))
    native, ours = chart.rows[:2]
    assert [bar and bar.parts for bar in native.bars] == [[0.25, 0.25, 0.0], None]
    assert [bar and (bar.parts, bar.spread.median) for bar in ours.bars] == [([0.25, 0.5, 0.0], 0.75)] * 2


def test_the_limit_has_the_parameters_of_its_search(file: ResultFile, found: list[Section]) -> None:
    (chart,) = _charts(found[3]).values()
    searched = convergences(file)
    assert chart == convergence_chart({"": searched}, searches(searched)[0])
    assert chart.title == "Highest dirty rate, 4 GiB, link of 10 Gbit/s"
    assert "at most 300 ms" in chart.how_to_read
    assert [bar.spread.median for row in chart.rows for bar in row.drawn] == [
        *(800, 700, 600, 500, 400, 300),
    ]
    assert "in steps of 100 MiB/s up to 1024" in chart.how_to_read
    (grid,) = _tables(found[3])
    assert grid.rows[0] == ["QEMU, one channel", "800.00 (800.00-800.00)", "400.00 (400.00-400.00)", ""]


def test_a_file_without_either_has_no_sections(file: ResultFile) -> None:
    assert list(sections(ResultFile(file.path, file.records[:1]))) == []

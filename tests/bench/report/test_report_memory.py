"""The memory section of the report."""

from __future__ import annotations

from pathlib import Path

from tests.bench import samples
from tunnel.bench.report.charts import Chart
from tunnel.bench.report.document import DataTable, Section
from tunnel.bench.report.report_memory import sections
from tunnel.bench.report.result_file import ResultFile, read


def only(file: ResultFile) -> Section:
    (found,) = sections(file)
    return found


def test_each_side_has_a_row_and_each_state_a_bar(tmp: Path) -> None:
    chart, grid = only(*read(samples.memory(tmp))).blocks
    assert isinstance(chart, Chart)
    assert [(row.label, row.is_ours) for row in chart.rows] == [
        ("mtunnel A", True),
        ("mtunnel B", True),
        ("haproxy-tuned A", False),
        ("haproxy-tuned B", False),
    ]
    assert [bar.spread.median for bar in chart.rows[0].drawn] == [50.0, 51.0, 52.0, 54.0]
    assert isinstance(grid, DataTable)
    assert grid.rows[0] == [
        "mtunnel",
        "50.0 / 50.0",
        "51.0 / 50.0",
        "52.0 / 50.0",
        "54.0 / 50.0",
        "1.0 / 0.0",
        "9.0",
    ]


def test_an_older_file_has_no_bars_for_missing_states(tmp: Path) -> None:
    (file,) = read(samples.memory(tmp))
    old = [{key: value for key, value in r.items() if key != "many"} for r in file.records]
    chart = only(ResultFile(file.path, old)).blocks[0]
    assert isinstance(chart, Chart)
    assert chart.series == ("idle", "one bulk stream", "stalled reader")


def test_a_run_without_measurements_is_reported(tmp: Path) -> None:
    (file,) = read(samples.memory(tmp))
    assert only(ResultFile(file.path, file.records[:1])).blocks == ["Nothing was measured."]

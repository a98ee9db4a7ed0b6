"""Relays in the report: charts for each kind of sockets, all figures, and the floor."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench import samples
from tunnel.bench.measure.measurement import Case
from tunnel.bench.report.charts import Chart
from tunnel.bench.report.document import DataTable, Section
from tunnel.bench.report.report_relay import lost, sections
from tunnel.bench.report.result_file import read


def _found(tmp: Path, *cases: Case) -> list[Section]:
    return list(sections(*read(samples.relay(tmp, cases or samples.CASES))))


def _charts(section: Section) -> list[Chart]:
    return [block for block in section.blocks if isinstance(block, Chart)]


def test_each_kind_of_sockets_has_its_charts(tmp: Path) -> None:
    tcp, unix = _found(tmp)
    assert (tcp.title, unix.title) == ("Relays over tcp sockets", "Relays over unix sockets")
    assert [chart.title for chart in _charts(tcp)] == [
        "Throughput",
        "CPU time, tcp legs, 1 stream",
        "CPU time by number of streams",
        "Round trip of a small stream (p99), tcp legs, 1 stream",
    ]
    assert "64 against 1" in repr(unix.blocks[-1])


def test_a_bar_that_is_missing_leaves_the_others_in_their_place(tmp: Path) -> None:
    throughput = _charts(_found(tmp)[0])[0]
    (failed,) = [row for row in throughput.rows if row.label == "stunnel"]
    assert [bar is None for bar in failed.bars] == [False, True, False]
    assert throughput.series == ["1 stream", "4 streams", "64 streams"]


def test_the_floor_is_in_the_chart_of_cpu_time(tmp: Path) -> None:
    chart = _charts(_found(tmp, Case("tcp", 1))[0])[1]
    assert chart.line is not None
    assert chart.line.median == pytest.approx(1.1 + 0.22)
    assert "mtunnel's 1.32 (1.26-1.38), AES by libipsec-mb 1.5" in chart.how_to_read
    assert "that of other programs 1.52 (1.46-1.58), AES by OpenSSL 3.0.19" in chart.how_to_read
    mtunnel = next(row for row in chart.rows if row.label == "mtunnel")
    (bar,) = mtunnel.drawn
    assert sum(bar.parts) == pytest.approx(bar.spread.median)
    assert (bar.mark, mtunnel.note_mark) == ("best", "wins")
    assert next(row.note for row in chart.rows if row.label == "plain-relay") == "not encrypted"


def test_every_contestant_has_all_figures_of_a_case(tmp: Path) -> None:
    costs, sides = [b for b in _found(tmp, Case("tcp", 1))[0].blocks if isinstance(b, DataTable)]
    by_name = {str(row[0]): list(map(str, row)) for row in costs.rows}
    assert by_name["haproxy-tuned"][3:5] == ["1.00 (1.00-1.00)"] * 2
    assert by_name["direct"][2] == "-"
    by_name = {str(row[0]): list(map(str, row)) for row in sides.rows}
    assert by_name["mtunnel"][1:3] == ["0.10 (0.10-0.10)", "0.20 (0.20-0.20)"]
    assert (by_name["mtunnel"][5], by_name["direct"][5]) == ("40 / 40", "-")


def test_only_relays_that_encrypt_are_rivals(tmp: Path) -> None:
    path = samples.relay(tmp, cases=[Case("tcp", 1)])
    assert lost(*read(path)) == []
    path.write_text(path.read_text().replace('"mtunnel"', '"other"').replace('"ssh"', '"mtunnel"'))
    rivals = {loss.rival for loss in lost(*read(path))}
    assert {"other", "haproxy-tuned"} <= rivals
    assert not {"plain-relay", "direct", "mtunnel-python"} & rivals

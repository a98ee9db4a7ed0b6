"""The report as a whole: the contents of each file, missing benchmarks, and where mtunnel loses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bench import samples
from tunnel.bench.measure.measurement import Case
from tunnel.bench.report.charts import Chart
from tunnel.bench.report.contents import build, write
from tunnel.bench.report.document import Document, Section
from tunnel.bench.report.result_file import read_all
from tunnel.errors import UsageError


def _text(section: Section) -> str:
    return repr(section.blocks)


def _section(document: Document, title: str) -> Section:
    (found,) = [section for section in document.sections if section.title == title]
    return found


def test_each_kind_of_legs_has_its_charts(tmp: Path) -> None:
    document = build(read_all([samples.relay(tmp)]))
    titles = [
        block.title for block in _section(document, "Relays, tcp legs").blocks if isinstance(block, Chart)
    ]
    assert titles == [
        "Throughput, tcp legs",
        "CPU time, tcp legs, 1 stream",
        "CPU time by number of streams, tcp legs",
        "Round trip of a small stream (p99), tcp legs, 1 stream",
    ]
    assert "64 against 1" in _text(_section(document, "Relays, unix legs"))


def test_a_bar_that_is_missing_leaves_the_others_in_their_place(tmp: Path) -> None:
    document = build(read_all([samples.relay(tmp)]))
    throughput = _section(document, "Relays, tcp legs").blocks[0]
    assert isinstance(throughput, Chart)
    (failed,) = [row for row in throughput.rows if row.label == "stunnel"]
    assert [bar is None for bar in failed.bars] == [False, True, False]
    assert throughput.series == ["1 stream", "4 streams", "64 streams"]


def test_the_floor_is_in_the_chart_of_cpu_time(tmp: Path) -> None:
    document = build(read_all([samples.relay(tmp, cases=[Case("tcp", 1)])]))
    chart = _section(document, "Relays, tcp legs").blocks[1]
    assert isinstance(chart, Chart)
    assert chart.line is not None
    assert chart.line.median == pytest.approx(1.1 + 0.22)
    assert "mtunnel's 1.32 (1.26-1.38), AES by libipsec-mb 1.5" in chart.how_to_read
    assert "that of other programs 1.52 (1.46-1.58), AES by OpenSSL 3.0.19" in chart.how_to_read


def test_losses_are_always_reported(tmp: Path) -> None:
    path = samples.relay(tmp, cases=[Case("tcp", 1)])
    nowhere = _text(_section(build(read_all([path])), "Where mtunnel loses"))
    assert "In no figure of this run" in nowhere
    assert "plain-relay" not in nowhere
    path.write_text(path.read_text().replace('"mtunnel"', '"other"').replace('"ssh"', '"mtunnel"'))
    somewhere = _text(_section(build(read_all([path])), "Where mtunnel loses"))
    assert "tcp legs, 1 stream: the CPU time per GiB of other is" in somewhere
    path.write_text(path.read_text().replace('"mtunnel"', '"nobody"'))
    assert "no figures" in _text(_section(build(read_all([path])), "Where mtunnel loses"))


def test_benchmarks_without_a_file_are_named(tmp: Path) -> None:
    files = [samples.memory(tmp)]
    assert "Not measured in the files of this report: relay, migrate, idle." in _text(
        build(read_all(files)).sections[0]
    )
    files += [samples.relay(tmp), samples.migrate(tmp), samples.idle(tmp)]
    assert "Not measured" not in _text(build(read_all(files)).sections[0])


def test_several_runs_of_a_benchmark_are_distinguished(tmp: Path) -> None:
    paths = [samples.memory(tmp / name) for name in ("a", "b")]
    for path, day in zip(paths, ("01", "02"), strict=True):
        lines = path.read_text().splitlines(keepends=True)
        run = {**json.loads(lines[0]), "started": f"2026-01-{day}T03:04:05+00:00"}
        path.write_text(json.dumps(run) + "\n" + "".join(lines[1:]))
    document = build(read_all(paths))
    titles = [section.title for section in document.sections]
    assert titles[2:4] == ["Memory (2026-01-01 03:04)", "Memory (2026-01-02 03:04)"]
    for day in ("01", "02"):
        assert f"resident memory, idle (2026-01-{day} 03:04)" in _text(document.sections[1])


def test_the_origin_of_the_figures_and_the_absent_are_named(tmp: Path) -> None:
    origin = build(read_all([samples.relay(tmp)])).sections[-1]
    text = _text(origin)
    assert origin.title.startswith("The run of bench relay, 20")
    for expected in ("cores", "kernel", "commit", "cubic, in a network namespace", "missing: rocket & co"):
        assert expected in text
    assert "stunnel: failed: a ended" in text


def test_both_forms_are_written(tmp: Path) -> None:
    paths = write(read_all([samples.relay(tmp)]), tmp / "new")
    assert [path.name for path in paths] == ["report.html", "report.md"]
    for path in paths:
        assert "Where mtunnel loses" in path.read_text()


def test_a_directory_that_cannot_be_written_is_named(tmp: Path) -> None:
    (tmp / "file").touch()
    with pytest.raises(UsageError, match=r"cannot write the report to .*/file/new: Not a directory"):
        write([], tmp / "file" / "new")

"""The report as a whole, and the findings of a run for the terminal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bench import samples
from tunnel.bench.measure.measurement import Case
from tunnel.bench.report.contents import build, findings, write
from tunnel.bench.report.document import DataTable, Document, Section
from tunnel.bench.report.result_file import read_all
from tunnel.errors import UsageError


def _titles(document: Document) -> list[str]:
    return [section.title for section in document.sections]


def _section(document: Document, title: str) -> Section:
    (found,) = [section for section in document.sections if section.title == title]
    return found


def test_the_answer_is_first_and_every_benchmark_has_its_details(tmp: Path) -> None:
    assert _titles(build(read_all(samples.every(tmp)))) == [
        *("", "Goals of mtunnel", "Where mtunnel loses", "Migrations: mtunnel against its rivals"),
        "Migration: 4 GiB guest, idle, unshaped link",
        "Migration: 4 GiB guest, writing 100 MiB/s, unshaped link",
        *("The highest dirty rate that converges", "Relays over tcp sockets", "Relays over unix sockets"),
        *("Memory", "Workers", "Idle links", "Lanes that are reset", "Lanes that are rotated"),
        *("Abuse", "Beside stalled streams", "CPU time by kind of work", "The runs"),
    ]


def test_losses_are_always_reported(tmp: Path) -> None:
    path = samples.relay(tmp, cases=[Case("tcp", 1)])
    nowhere = _section(build(read_all([path])), "Where mtunnel loses").blocks
    assert str(nowhere[1]).endswith("in no figure.")
    path.write_text(path.read_text().replace('"mtunnel"', '"other"').replace('"ssh"', '"mtunnel"'))
    somewhere = _section(build(read_all([path])), "Where mtunnel loses").blocks[-1]
    assert isinstance(somewhere, DataTable)
    assert "CPU time per GiB" in [row[0] for row in somewhere.rows]
    assert len(somewhere.rows) < 6


def test_losses_are_those_of_the_newest_run(tmp: Path) -> None:
    paths = [samples.migrate(tmp / name) for name in ("a", "b")]
    _date(paths, ["2026-01-01", "2026-01-02"])
    _, where, _ = _section(build(read_all(paths)), "Where mtunnel loses").blocks
    assert "2026-01-02" in str(where)


def test_benchmarks_without_a_file_are_named(tmp: Path) -> None:
    missing = "Not measured in the files of this report: "
    some = _section(build(read_all([samples.memory(tmp / "a")])), "The runs").blocks
    assert f"{missing}migrate, relay, scale, idle, cuts, rotate, abuse, profile." in some
    every = _section(build(read_all(samples.every(tmp / "b"))), "The runs").blocks
    assert not any(str(block).startswith(missing) for block in every)


def _date(paths: list[Path], days: list[str]) -> None:
    for path, day in zip(paths, days, strict=True):
        lines = path.read_text().splitlines(keepends=True)
        run = {**json.loads(lines[0]), "started": f"{day}T03:04:05+00:00"}
        path.write_text(json.dumps(run) + "\n" + "".join(lines[1:]))


def test_several_runs_of_a_benchmark_are_distinguished_the_newest_first(tmp: Path) -> None:
    paths = [samples.memory(tmp / name) for name in ("a", "b")]
    _date(paths, ["2026-01-01", "2026-01-02"])
    titles = [title for title in _titles(build(read_all(paths))) if title.startswith("Memory")]
    assert [title.partition(", ")[2] for title in titles] == ["2026-01-02 03:04)", "2026-01-01 03:04)"]


def test_both_forms_are_written(tmp: Path) -> None:
    paths = write(read_all([samples.relay(tmp)]), tmp / "new")
    assert [path.name for path in paths] == ["report.html", "report.md"]
    for path in paths:
        assert "Where mtunnel loses" in path.read_text()


def test_a_directory_that_cannot_be_written_is_named(tmp: Path) -> None:
    (tmp / "file").touch()
    with pytest.raises(UsageError, match=r"cannot write the report to .*/file/new: Not a directory"):
        write([], tmp / "file" / "new")


def test_a_terminal_gets_what_was_measured_and_what_was_not(tmp: Path) -> None:
    files = read_all([samples.relay(tmp)])
    assert _titles(findings(files)) == [
        *("Relays over tcp sockets", "Relays over unix sockets", "Where mtunnel loses", "Incomplete"),
    ]
    assert "stunnel" in repr(findings(files).sections[-1])
    assert "Goals of mtunnel" in _titles(findings(files, goals=True))
    assert _titles(findings(read_all([samples.memory(tmp)]))) == ["Memory"]

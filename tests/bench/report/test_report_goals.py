"""The goals: each once, with the figure of the newest run that measured it, and goals without a file."""

from __future__ import annotations

import json
from pathlib import Path

from tests.bench import samples
from tunnel.bench.report.document import DataTable
from tunnel.bench.report.report_goals import section, verdicts
from tunnel.bench.report.result_file import read_all


def rows(*paths: Path) -> dict[str, list[str]]:
    table = section(read_all(paths)).blocks[-1]
    assert isinstance(table, DataTable)
    return {str(what): list(map(str, cells)) for what, *cells in table.rows}


def _of(path: Path, day: str, system: str = "Debian GNU/Linux 13 (trixie)", **replaced: str) -> Path:
    """Change the date and the release of a run, and texts of its records."""
    first, *others = path.read_text().splitlines()
    run = json.loads(first)
    run["started"], run["machine"]["system"] = f"{day}T03:04:05+00:00", system
    text = "\n".join([json.dumps(run), *others, ""])
    for old, new in replaced.items():
        text = text.replace(f'"{old}"', f'"{new}"')
    path.write_text(text)
    return path


def test_without_a_file_nothing_is_claimed() -> None:
    assert {cells[-2].partition(":")[0] for cells in rows().values()} == {"not measured"}
    assert len(rows()) == 11 + 4 + 3 + 4 + 4


def test_relays_are_evaluated_by_one_stream_over_tcp(tmp: Path) -> None:
    found = rows(samples.relay(tmp))
    ratio, *bounds, _, _ = found["throughput to HAProxy's, one stream"]
    assert ratio != "-"
    assert bounds == ["≥ 1.05", "≥ 1.3"]
    assert found["CPU time of 64 streams to that of 1"][0] == "1.00 (1.00-1.00)"
    assert found["p99 round trip beside bulk, above idle, 64 streams"][0].endswith(" ms")


def test_each_goal_is_evaluated_once_by_the_newest_run(tmp: Path) -> None:
    newer = _of(samples.memory(tmp / "a"), "2026-01-02")
    older = _of(samples.memory(tmp / "b"), "2026-01-01", "Debian GNU/Linux 12 (bookworm)")
    found = rows(newer, older)
    assert len(found) == len(rows())
    assert found["resident memory, idle"][-1] == "Debian 13, 2026-01-02 03:04"
    assert found["CPU time to the floor, one stream"][-1] == "-"


def test_a_run_that_did_not_measure_a_goal_does_not_hide_an_older_one(tmp: Path) -> None:
    newer = _of(samples.memory(tmp / "a"), "2026-01-02", idle="nothing")
    older = _of(samples.memory(tmp / "b"), "2026-01-01")
    found = rows(newer, older)
    assert found["resident memory, idle"][-1] == "Debian 13, 2026-01-01 03:04"
    assert found["resident memory, one bulk stream"][-1] == "Debian 13, 2026-01-02 03:04"


def test_verdicts_are_counted(tmp: Path) -> None:
    files = read_all([samples.memory(tmp)])
    count, *_ = section(files).blocks
    assert count == f"{len(verdicts(files))} goals: 3 met, {len(verdicts(files)) - 3} not measured."


def test_migrations_of_each_size_have_a_row(tmp: Path) -> None:
    found = {what: cells for what, cells in rows(samples.migrate(tmp)).items() if what.startswith("migr")}
    where = "4 GiB guest, idle, unshaped link"
    assert list(found) == [
        f"migration, throughput of mtunnel's best way to multifd-tls-4, {where}: mtunnel",
        f"migration, throughput of mtunnel-multifd-4 to multifd-tls-4, {where}",
        f"migration, throughput of mtunnel to native-tls, {where}",
        f"migration, throughput of mtunnel to tunnelled-tls, {where}",
    ]
    assert [cells[1] for cells in found.values()] == ["≥ 1.15", "≥ 1", "≥ 2.3", "≥ 4.5"]
    assert [cells[3] for cells in found.values()] == ["as aimed at", "missed", "missed", "missed"]


def test_memory_is_that_of_the_larger_side(tmp: Path) -> None:
    found = rows(samples.memory(tmp))
    idle = found["resident memory, idle"]
    assert idle[:-1] == ["50.00 (50.00-50.00) MiB", "≤ 80 MiB", "better", "met"]
    assert found["resident memory, 64 streams, 32 stalled"][0] == "54.00 (54.00-54.00) MiB"
    assert found["resident memory, 64 streams, 32 stalled"][1] == "≤ 356 MiB"

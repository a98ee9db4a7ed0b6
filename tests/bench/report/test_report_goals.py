"""The table of goals: each figure of the files compared with its goal, and goals without a file."""

from __future__ import annotations

import json
from pathlib import Path

from tests.bench import samples
from tunnel.bench.report.document import DataTable
from tunnel.bench.report.report_goals import section
from tunnel.bench.report.result_file import read_all


def rows(*paths: Path) -> dict[str, list[str]]:
    table = section(read_all(paths)).blocks[-1]
    assert isinstance(table, DataTable)
    return {what: list(cells) for what, *cells in table.rows}


def test_without_a_file_nothing_is_claimed() -> None:
    verdicts = {cells[-1].partition(":")[0] for cells in rows().values()}
    assert verdicts == {"not measured"}
    assert len(rows()) == 11 + 4 + 3 + 4 + 4


def test_relays_are_evaluated_by_one_stream_over_tcp(tmp: Path) -> None:
    found = rows(samples.relay(tmp))
    _, ratio, *bounds, _ = found["throughput to HAProxy's, one stream"]
    assert ratio != "-"
    assert bounds == ["at least 1.05", "at least 1.3"]
    assert found["CPU time of 64 streams to that of 1"][1] == "1.00 (1.00-1.00)"
    assert found["p99 round trip beside bulk, above idle, 64 streams"][1].endswith(" ms")


def test_the_release_is_that_of_the_run(tmp: Path) -> None:
    path = samples.memory(tmp)
    lines = path.read_text().splitlines(keepends=True)
    run = json.loads(lines[0])
    run["machine"]["system"] = "Debian GNU/Linux 13 (trixie)"
    path.write_text(json.dumps(run) + "\n" + "".join(lines[1:]))
    found = rows(path)
    assert found["resident memory, idle"][0] == "Debian 13 (trixie)"
    assert found["CPU time to the floor, one stream"][0] == "-"


def test_migrations_of_each_size_have_a_row(tmp: Path) -> None:
    found = {what: cells for what, cells in rows(samples.migrate(tmp)).items() if what.startswith("migr")}
    where = "4 GiB guest, idle, unshaped link"
    assert list(found) == [
        f"migration, throughput of mtunnel's best way to multifd-tls-4, {where}: mtunnel",
        f"migration, throughput of mtunnel-multifd-4 to multifd-tls-4, {where}",
        f"migration, throughput of mtunnel to native-tls, {where}",
        f"migration, throughput of mtunnel to tunnelled-tls, {where}",
    ]
    bounds = [cells[2].removeprefix("at least ") for cells in found.values()]
    assert bounds == ["1.15", "1", "2.3", "4.5"]
    assert [cells[-1] for cells in found.values()] == ["as aimed at", "missed", "missed", "missed"]


def test_memory_is_that_of_the_larger_side(tmp: Path) -> None:
    found = rows(samples.memory(tmp))
    idle = found["resident memory, idle"]
    assert idle[1:] == ["50.00 (50.00-50.00) MiB", "at most 80 MiB", "better", "met"]
    assert found["resident memory, 64 streams, 32 stalled"][1] == "54.00 (54.00-54.00) MiB"
    assert found["resident memory, 64 streams, 32 stalled"][2] == "at most 356 MiB"

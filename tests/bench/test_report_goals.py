"""The table of goals: each figure of the files against what mtunnel is to reach, and what no file holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench import samples
from tunnel.bench.document import Grid
from tunnel.bench.figures import Spread
from tunnel.bench.report_goals import Reached, section
from tunnel.bench.resultfile import read_all


def rows(*paths: Path) -> dict[str, list[str]]:
    table = section(read_all(paths)).blocks[-1]
    assert isinstance(table, Grid)
    return {what: list(cells) for what, *cells in table.rows}


def test_without_a_file_nothing_is_claimed() -> None:
    assert {cells[-1] for cells in rows().values()} == {"not measured"}
    assert len(rows()) == 13


def test_relays_are_held_to_the_figures_of_one_stream_over_tcp(tmp: Path) -> None:
    found = rows(samples.relay(tmp))
    assert found["CPU time to that of haproxy-tuned, one stream"][1:3] == ["at most 0.9", "at most 0.7"]
    assert found["CPU time to that of haproxy-tuned, one stream"][3] == "as aimed at"
    assert found["throughput to that of haproxy-tuned, one stream"][1] == "at least 1.15"
    assert found["CPU time of 64 streams to that of 1"][0] == "1.00 (1.00-1.00)"
    found_ms, *_ = found["p99 round trip beside bulk, above idle"]
    assert found_ms.endswith(" ms")


def test_migrations_of_each_size_have_a_row(tmp: Path) -> None:
    found = {what: cells for what, cells in rows(samples.migrate(tmp)).items() if what.startswith("migr")}
    where = "4 GiB guest, idle, unshaped link"
    assert list(found) == [
        f"migration, throughput of mtunnel to tunnelled-tls, {where}",
        f"migration, throughput of mtunnel to native-tls, {where}",
        f"migration, throughput of mtunnel-multifd to multifd-tls, {where}",
    ]
    assert [cells[1] for cells in found.values()] == ["at least 3.5", "at least 2.5", "at least 1.5"]
    assert {cells[-1] for cells in found.values()} == {"missed"}


def test_memory_is_that_of_the_larger_side(tmp: Path) -> None:
    found = rows(samples.memory(tmp))
    assert found["resident memory, idle"] == ["50.00 (50.00-50.00) MiB", "at most 80 MiB", "better", "met"]
    assert found["resident memory, 64 streams, 32 stalled"][0] == "54.00 (54.00-54.00) MiB"
    assert found["resident memory, 64 streams, 32 stalled"][1] == "at most 356 MiB"


@pytest.mark.parametrize(
    ("value", "at_most", "verdict"),
    [
        (0.6, True, "as aimed at"),
        (0.8, True, "met"),
        (1.0, True, "met"),
        (1.1, True, "missed"),
        (0.9, False, "missed"),
        (1.0, False, "met"),
    ],
)
def test_the_median_decides(value: float, at_most: bool, verdict: str) -> None:
    aim = 0.7 if at_most else 2.0
    assert Reached("x", Spread(value, 0.0, 9.0), 1.0, aim, at_most=at_most).verdict == verdict
    assert Reached("x", Spread(value, 0.0, 9.0), 1.0, None, at_most=at_most).verdict in (verdict, "met")

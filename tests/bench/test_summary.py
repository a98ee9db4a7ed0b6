"""Conclusions of a run: medians, ratios in the same round, and nobody silently dropped."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from tunnel.bench.contestants import Contestant
from tunnel.bench.figures import GIB, Spread
from tunnel.bench.relay import Measurement
from tunnel.bench.results import Results
from tunnel.bench.summary import absent, summarise, table


def _measured(contestant: str, number: int, seconds: float, cpu: float) -> Measurement:
    cpu_seconds = {"source": 0.2, "sink": 0.1} | ({"a": cpu / 2, "b": cpu / 2} if cpu else {})
    rss = dict.fromkeys(cpu_seconds, number << 20)
    return Measurement(contestant, number, GIB, seconds, cpu_seconds, rss)


RUN = [
    _measured("direct", 1, 0.25, 0.0),
    _measured("mtunnel", 1, 0.5, 1.0),
    _measured("haproxy-tuned", 1, 1.0, 2.0),
    _measured("direct", 2, 0.5, 0.0),
    _measured("mtunnel", 2, 1.0, 3.0),
    _measured("haproxy-tuned", 2, 2.0, 4.0),
]


def test_each_contestant_has_one_summary_in_the_order_of_the_run() -> None:
    found = summarise(RUN)
    assert [(s.contestant, s.rounds) for s in found] == [("direct", 2), ("mtunnel", 2), ("haproxy-tuned", 2)]


def test_figures_are_per_gib_and_ratios_within_the_round() -> None:
    mtunnel = summarise(RUN)[1]
    assert mtunnel.gib_per_s == Spread(1.5, 1.0, 2.0)
    assert mtunnel.cpu_per_gib == Spread(2.0, 1.0, 3.0)
    assert mtunnel.throughput_ratio == Spread(2.0, 2.0, 2.0)
    assert mtunnel.cpu_ratio == Spread(0.625, 0.5, 0.75)
    assert mtunnel.load_cpu_per_gib.median == pytest.approx(0.3)
    assert mtunnel.rss_peak["a"] == 2 << 20


def test_the_bare_connection_has_no_relay_to_measure() -> None:
    direct = summarise(RUN)[0]
    assert (direct.cpu_per_gib, direct.cpu_ratio) == (None, None)
    assert direct.throughput_ratio == Spread(4.0, 4.0, 4.0)


def test_without_the_base_there_are_no_ratios() -> None:
    (alone,) = summarise([_measured("socat", 1, 1.0, 2.0)])
    assert (alone.throughput_ratio, alone.cpu_ratio) == (None, None)


def test_a_summary_fits_into_the_result_file() -> None:
    record = summarise(RUN)[1].as_record()
    assert json.loads(json.dumps(record)) == record
    assert record["cpu_ratio"] == {"median": 0.625, "low": 0.5, "high": 0.75}


@pytest.fixture
def results(tmp: Path) -> Results:
    results = Results(tmp, "relay")
    results.announce([Contestant("gone", "none", str, program="no-such-relay")])
    results.add("failure", contestant="broken", round=2, reason="a ended with status 1\n  long log")
    return results


def test_the_absent_are_named_with_one_line_of_reason(results: Results) -> None:
    assert absent(results) == [
        ("gone", "no-such-relay is not installed"),
        ("broken", "failed: a ended with status 1"),
    ]


def test_the_table_shows_figures_and_the_absent(results: Results) -> None:
    text = _rendered(table(summarise(RUN), results))
    for expected in ("1.50 (1.00-2.00)", "0.62 (0.50-0.75)", "gone", "not installed", "broken", "status 1"):
        assert expected in text


def _rendered(view: Table) -> str:
    output = io.StringIO()
    Console(file=output, width=200).print(view)
    return output.getvalue()

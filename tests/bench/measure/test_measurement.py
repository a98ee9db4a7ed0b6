"""Figures of one measurement, and its record in a result file."""

from __future__ import annotations

import json

from tunnel.bench.measure.measurement import Case, Latency, Measurement, Percentiles
from tunnel.units import MIB

CPU = {"a": 1.0, "b": 2.0, "source": 0.25, "sink": 0.5}


def test_figures_are_per_gib() -> None:
    found = Measurement("x", 1, Case("tcp", 1), 512 * MIB, 0.25, CPU, {})
    assert (found.gib_per_s, found.relay_cpu, found.load_cpu) == (2.0, 6.0, 1.5)
    assert found.cpu_per_gib("b") == 4.0
    assert found.is_relay


def test_without_a_relay_its_figures_are_zero() -> None:
    found = Measurement("x", 1, Case("tcp", 1), 512 * MIB, 0.25, {"source": 1.0}, {})
    assert (found.is_relay, found.relay_cpu) == (False, 0.0)


def test_a_file_holds_the_case_as_two_fields() -> None:
    measurement = Measurement("x", 2, Case("unix", 4), 7, 0.25, CPU, {"a": 1})
    latency = Latency("x", 2, Case("unix", 4), Percentiles(1, 0.5, 0.5), Percentiles(1, 0.6, 0.7))
    for record in (measurement.as_record(), latency.as_record()):
        assert json.loads(json.dumps(record)) == record
        assert [record[key] for key in ("contestant", "round", "legs", "streams")] == ["x", 2, "unix", 4]
    assert latency.as_record()["loaded"] == {"samples": 1, "p50": 0.6, "p99": 0.7}


def test_percentiles_count_from_the_fastest() -> None:
    seconds = [number / 1000 for number in range(100, -1, -1)]
    assert Percentiles.of(seconds) == Percentiles(101, 0.05, 0.099)


def test_one_sample_is_every_percentile() -> None:
    assert Percentiles.of([0.25]) == Percentiles(1, 0.25, 0.25)


def test_a_case_as_text() -> None:
    assert str(Case("tcp", 1)) == "tcp legs, 1 stream"
    assert str(Case("unix", 64)) == "unix legs, 64 streams"

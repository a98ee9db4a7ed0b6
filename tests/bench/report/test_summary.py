"""Summary of a run: medians, and ratios in the same round."""

from __future__ import annotations

import json

import pytest

from tunnel.bench.measure.floor import CryptoCost
from tunnel.bench.measure.measurement import Case, Latency, Measurement, Percentiles
from tunnel.bench.measure.relay import Measured
from tunnel.bench.measure.stats import Spread
from tunnel.bench.report.summary import floor_of, floors_in_words, growths, summarise
from tunnel.units import GIB

ONE = Case("tcp", 1)
MANY = Case("tcp", 64)


def _measured(contestant: str, number: int, seconds: float, cpu: float, case: Case = ONE) -> Measurement:
    cpu_seconds = {"source": 0.2, "sink": 0.1} | ({"a": cpu / 4, "b": cpu * 3 / 4} if cpu else {})
    rss = dict.fromkeys(cpu_seconds, number << 20)
    return Measurement(contestant, number, case, GIB, seconds, cpu_seconds, rss)


def _trips(contestant: str, number: int, milliseconds: float) -> Latency:
    idle = Percentiles(1000, 0.0001, 0.0002)
    return Latency(contestant, number, ONE, idle, Percentiles(1000, 0.0003, milliseconds / 1000))


RUN = Measured(
    transfers=[
        _measured("direct", 1, 0.25, 0.0),
        _measured("mtunnel", 1, 0.5, 1.0),
        _measured("haproxy-tuned", 1, 1.0, 2.0),
        _measured("plain-relay", 1, 1.0, 0.5),
        _measured("direct", 2, 0.5, 0.0),
        _measured("mtunnel", 2, 1.0, 3.0),
        _measured("haproxy-tuned", 2, 2.0, 4.0),
        _measured("plain-relay", 2, 1.0, 1.0),
        _measured("mtunnel", 2, 1.0, 6.0, MANY),
    ],
    latencies=[_trips("mtunnel", 1, 2.0), _trips("mtunnel", 2, 4.0)],
    crypto=[CryptoCost(1, 0.25, 0.25), CryptoCost(2, 0.25, 0.25)],
)


def test_each_contestant_has_one_summary_for_each_case_in_the_order_of_the_run() -> None:
    found = [(s.contestant, s.case, s.rounds) for s in summarise(RUN)]
    names = ("direct", "mtunnel", "haproxy-tuned", "plain-relay")
    assert found == [*((name, ONE, 2) for name in names), ("mtunnel", MANY, 1)]


def test_figures_are_per_gib_and_ratios_within_the_round() -> None:
    mtunnel = summarise(RUN)[1]
    assert mtunnel.gib_per_s == Spread(1.5, 1.0, 2.0)
    assert mtunnel.cpu_per_gib == Spread(2.0, 1.0, 3.0)
    assert mtunnel.cpu_a == Spread(0.5, 0.25, 0.75)
    assert mtunnel.cpu_b == Spread(1.5, 0.75, 2.25)
    assert mtunnel.throughput_ratio == Spread(2.0, 2.0, 2.0)
    assert mtunnel.cpu_ratio == Spread(0.625, 0.5, 0.75)
    assert mtunnel.load_cpu_per_gib.median == pytest.approx(0.3)
    assert mtunnel.rss_peak["a"] == 2 << 20


def test_the_floor_is_that_of_the_same_round() -> None:
    assert floor_of(ONE, RUN) == Spread(1.25, 1.0, 1.5)
    assert summarise(RUN)[1].floor_ratio == Spread(1.5, 1.0, 2.0)


def test_the_floor_of_a_contestant_is_priced_by_its_own_library() -> None:
    costs = [
        *(CryptoCost(1, 0.25, 0.25, "aes-256-gcm", "libipsec-mb"), CryptoCost(2, 0.5, 0.5, "aes-256-gcm")),
        CryptoCost(1, 0.5, 1.0, "aes-256-gcm-system", "OpenSSL 3.0"),
    ]
    run = Measured(RUN.transfers, crypto=costs)
    ratios = {s.contestant: s.floor_ratio for s in summarise(run) if s.case == ONE}
    assert ratios["mtunnel"] == Spread(1.25, 1.0, 1.5)
    assert ratios["haproxy-tuned"] == Spread(1.0, 1.0, 1.0)
    assert floors_in_words(ONE, run) == [
        "mtunnel's 1.50 (1.00-2.00), AES by libipsec-mb",
        "that of other programs 2.00 (2.00-2.00), AES by OpenSSL 3.0",
    ]
    assert floors_in_words(MANY, run) == []


def test_a_case_without_hops_has_no_floor() -> None:
    assert floor_of(MANY, RUN) is None
    assert summarise(RUN)[-1].floor_ratio is None


def test_round_trips_are_summarised_over_the_rounds() -> None:
    mtunnel = summarise(RUN)[1]
    assert mtunnel.loaded_p99 == Spread(0.003, 0.002, 0.004)
    assert (mtunnel.idle_p50, mtunnel.idle_p99) == (Spread(1e-4, 1e-4, 1e-4), Spread(2e-4, 2e-4, 2e-4))
    assert summarise(RUN)[2].loaded_p50 is None


def test_the_bare_connection_has_no_relay_to_measure() -> None:
    direct = summarise(RUN)[0]
    assert (direct.cpu_per_gib, direct.cpu_a, direct.cpu_ratio, direct.floor_ratio) == (None,) * 4
    assert direct.throughput_ratio == Spread(4.0, 4.0, 4.0)


def test_without_the_base_there_are_no_ratios() -> None:
    (alone,) = summarise(Measured([_measured("socat", 1, 1.0, 2.0)]))
    assert (alone.throughput_ratio, alone.cpu_ratio, alone.floor_ratio) == (None, None, None)


def test_growth_compares_most_with_fewest_streams_within_a_round() -> None:
    (growth,) = growths(RUN)
    assert (growth.contestant, growth.fewest, growth.most) == ("mtunnel", 1, 64)
    assert growth.cpu_ratio == Spread(2.0, 2.0, 2.0)
    assert growth.as_record()["legs"] == "tcp"


def test_a_summary_fits_into_the_result_file() -> None:
    record = summarise(RUN)[1].as_record()
    assert json.loads(json.dumps(record)) == record
    assert record["cpu_ratio"] == {"median": 0.625, "low": 0.5, "high": 0.75}
    assert (record["legs"], record["streams"]) == ("tcp", 1)

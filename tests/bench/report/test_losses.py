"""Losses of mtunnel are found in every figure, and distinguished from noise."""

from __future__ import annotations

from tunnel.bench.measure.measurement import Case, Latency, Measurement, Percentiles
from tunnel.bench.measure.relay import Measured
from tunnel.bench.measure.stats import Spread
from tunnel.bench.report.losses import Loss, grouped, losses
from tunnel.units import GIB, MIB

CASE = Case("tcp", 1)


def _transfer(name: str, number: int, seconds: float, cpu: float, rss: int) -> Measurement:
    sizes = {"a": rss * MIB, "b": MIB}
    return Measurement(name, number, CASE, GIB, seconds, {"a": cpu / 2, "b": cpu / 2}, sizes)


def _trips(name: str, idle: float, loaded: float) -> Latency:
    return Latency(name, 1, CASE, Percentiles(9, 0.1, idle), Percentiles(9, 0.1, loaded))


OURS = _transfer("mtunnel", 1, 1.0, 1.0, 50)


def test_a_contestant_that_is_worse_in_all_figures_is_not_named() -> None:
    found = Measured(
        [OURS, _transfer("slow", 1, 2.0, 2.0, 60)], [_trips("mtunnel", 1, 1), _trips("slow", 2, 2)]
    )
    assert losses(found, ["slow"]) == []


def test_each_figure_in_which_another_is_better_is_named() -> None:
    found = Measured(
        [OURS, _transfer("fast", 1, 0.5, 0.25, 10)], [_trips("mtunnel", 1, 1), _trips("fast", 0.5, 0.25)]
    )
    assert [(loss.figure, loss.ratio.median) for loss in losses(found, ["fast"])] == [
        ("throughput", 2.0),
        ("CPU time per GiB", 0.25),
        ("peak memory of the larger side", 0.2),
        ("idle p99 round trip", 0.5),
        ("p99 round trip under load", 0.25),
    ]


def test_a_loss_in_some_rounds_only_is_marked() -> None:
    rounds = [(1, 0.5), (2, 0.8), (3, 1.6)]
    transfers = [_transfer("mtunnel", number, 1.0, 1.0, 1) for number, _ in rounds]
    transfers += [_transfer("other", number, 1.0, cpu, 1) for number, cpu in rounds]
    (loss,) = losses(Measured(transfers), ["other"])
    assert loss.ratio == Spread(0.8, 0.5, 1.6)
    assert not loss.is_clear


def test_a_loss_in_every_round_is_clear() -> None:
    (loss,) = losses(Measured([OURS, _transfer("other", 1, 1.0, 0.5, 50)]), ["other"])
    assert loss.is_clear


def test_only_rivals_are_compared_and_only_in_the_same_round() -> None:
    found = Measured([OURS, _transfer("plain", 1, 0.1, 0.1, 1), _transfer("late", 2, 0.1, 0.1, 1)])
    assert losses(found, ["late"]) == []


def test_losses_are_grouped_by_figure_with_the_largest_difference() -> None:
    lost = [
        Loss(CASE, "throughput", "x", Spread(1.5, 0.9, 2.0)),
        Loss(Case("tcp", 4), "throughput", "x", Spread(3.0, 2.0, 4.0)),
        Loss(CASE, "throughput", "y", Spread(1.1, 1.1, 1.1)),
        Loss(CASE, "CPU time", "x", Spread(0.5, 0.4, 0.6), ours="mtunnel-multifd-4"),
    ]
    first, second = grouped(lost, str.upper).rows
    assert list(map(str, first)) == [
        *("throughput", "X (2 cases); Y", "3.00 (2.00-4.00) times mtunnel's", "X, tcp legs, 4 streams"),
        "2 of 3",
    ]
    assert list(map(str, second))[2:4] == [
        *("0.50 (0.40-0.60) times mtunnel's", "X against MTUNNEL-MULTIFD-4, tcp legs, 1 stream"),
    ]

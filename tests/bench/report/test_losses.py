"""Losses of mtunnel are found in every figure, and distinguished from noise."""

from __future__ import annotations

from tunnel.bench.measure.measurement import Case, Latency, Measurement, Percentiles
from tunnel.bench.measure.relay import Measured
from tunnel.bench.measure.stats import Spread
from tunnel.bench.report.losses import losses
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
        ("the throughput", 2.0),
        ("the CPU time per GiB", 0.25),
        ("the peak memory of the larger side", 0.2),
        ("the idle p99 round trip", 0.5),
        ("the p99 round trip under load", 0.25),
    ]


def test_a_loss_in_some_rounds_only_is_marked() -> None:
    rounds = [(1, 0.5), (2, 0.8), (3, 1.6)]
    transfers = [_transfer("mtunnel", number, 1.0, 1.0, 1) for number, _ in rounds]
    transfers += [_transfer("other", number, 1.0, cpu, 1) for number, cpu in rounds]
    (loss,) = losses(Measured(transfers), ["other"])
    assert loss.ratio == Spread(0.8, 0.5, 1.6)
    assert not loss.is_clear
    expected = "tcp legs, 1 stream: the CPU time per GiB of other is 0.80 (0.50-1.60) times mtunnel's"
    assert str(loss) == f"{expected}, but not in every round."


def test_a_loss_in_every_round_is_clear() -> None:
    (loss,) = losses(Measured([OURS, _transfer("other", 1, 1.0, 0.5, 50)]), ["other"])
    assert str(loss).endswith("is 0.50 (0.50-0.50) times mtunnel's.")


def test_only_rivals_are_compared_and_only_in_the_same_round() -> None:
    found = Measured([OURS, _transfer("plain", 1, 0.1, 0.1, 1), _transfer("late", 2, 0.1, 0.1, 1)])
    assert losses(found, ["late"]) == []

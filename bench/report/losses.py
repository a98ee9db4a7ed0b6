"""Where mtunnel loses: every rival that encrypts and was better in some figure, within the same rounds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

from tunnel.bench.measure.guest_records import Setting
from tunnel.bench.measure.measurement import OURS, Case, Latency, Measurement
from tunnel.bench.measure.relay import Measured
from tunnel.bench.measure.stats import Spread, ratio
from tunnel.bench.report.document import Cell, DataTable, Marked
from tunnel.units import MIB


@dataclass(frozen=True)
class Loss:
    """A figure in which ``rival`` was better than ``ours``; ``ratio`` is its figure by ours, by round."""

    case: Case | Setting | str
    figure: str
    rival: str
    ratio: Spread
    ours: str = OURS

    @property
    def is_clear(self) -> bool:
        """Whether it was better in every round."""
        return not self.ratio.low <= 1.0 <= self.ratio.high

    @property
    def size(self) -> float:
        """By how much it was better: a factor above 1, whether more or less is better."""
        return max(self.ratio.median, 1 / self.ratio.median)


def grouped(lost: Sequence[Loss], names: Callable[[str], str] = str) -> DataTable:
    """Return a row for each figure: who was better and how often, and the largest difference."""
    figures = dict.fromkeys(loss.figure for loss in lost)
    headings = ["figure", "better than mtunnel", "largest difference", "there", "in every round"]
    rows = [_grouped(figure, [loss for loss in lost if loss.figure == figure], names) for figure in figures]
    return DataTable(headings, rows, words=True)


def _grouped(figure: str, lost: Sequence[Loss], names: Callable[[str], str]) -> list[Cell]:
    often = Counter(names(loss.rival) for loss in lost)
    better = [f"{rival} ({count} cases)" if count > 1 else rival for rival, count in often.items()]
    worst = max(lost, key=lambda loss: loss.size)
    ours = "" if worst.ours == OURS else f" against {names(worst.ours)}"
    return [
        figure,
        "; ".join(better),
        Marked(f"{worst.ratio} times mtunnel's", "bad"),
        f"{names(worst.rival)}{ours}, {worst.case}",
        f"{sum(loss.is_clear for loss in lost)} of {len(lost)}",
    ]


def losses(found: Measured, rivals: Collection[str]) -> list[Loss]:
    """Return where one of ``rivals`` was better, in the order of the run's cases and of the figures."""
    cases = dict.fromkeys(measurement.case for measurement in found.transfers)
    return [loss for case in cases for rival in rivals for loss in _lost(case, rival, found)]


def _lost(case: Case, rival: str, found: Measured) -> Iterator[Loss]:
    transfers = [m for m in found.transfers if m.case == case]
    trips = [trip for trip in found.latencies if trip.case == case]
    compared = [
        ("throughput", _by_round(transfers, rival, lambda m: 1 / m.gib_per_s)),
        ("CPU time per GiB", _by_round(transfers, rival, lambda m: m.relay_cpu)),
        ("peak memory of the larger side", _by_round(transfers, rival, _larger_side)),
        ("idle p99 round trip", _by_round(trips, rival, lambda trip: trip.idle.p99)),
        ("p99 round trip under load", _by_round(trips, rival, lambda trip: trip.loaded.p99)),
    ]
    for figure, costs in compared:
        if costs is not None and costs.median < 1.0:
            shown = (
                Spread(1 / costs.median, 1 / costs.high, 1 / costs.low) if "throughput" in figure else costs
            )
            yield Loss(case, figure, rival, shown)


def _by_round(
    measured: Sequence[Measurement] | Sequence[Latency], rival: str, cost: Callable[..., float]
) -> Spread | None:
    """Return the rival's cost as a multiple of ours; None when no round has both."""
    own, other = (
        {m.round: cost(m) for m in measured if m.contestant == name and _is_relay(m)}
        for name in (OURS, rival)
    )
    return ratio(other, own)


def _is_relay(measured: Measurement | Latency) -> bool:
    return not isinstance(measured, Measurement) or measured.is_relay


def _larger_side(measurement: Measurement) -> float:
    return max(measurement.rss_peak["a"], measurement.rss_peak["b"]) / MIB

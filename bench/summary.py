"""What ``bench relay`` concludes: one line for each contestant, for people and for the result file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

from tunnel.bench.figures import MIB, Spread, ratio
from tunnel.bench.relay import Measurement
from tunnel.bench.results import Record, Results

BASE = "haproxy-tuned"  # the best relay of others


@dataclass(frozen=True)
class Summary:
    """One contestant over all rounds. Ratios are against ``BASE`` in the same rounds, None without it."""

    contestant: str
    rounds: int
    gib_per_s: Spread
    cpu_per_gib: Spread | None
    load_cpu_per_gib: Spread
    throughput_ratio: Spread | None
    cpu_ratio: Spread | None
    rss_peak: dict[str, int]

    def as_record(self) -> Record:
        """Return what the result file holds."""
        return {
            key: value.as_dict() if isinstance(value, Spread) else value for key, value in vars(self).items()
        }


def summarise(measured: Sequence[Measurement]) -> list[Summary]:
    """Summarise each contestant, in the order of their first measurement."""
    names = list(dict.fromkeys(measurement.contestant for measurement in measured))
    by_name = {name: [m for m in measured if m.contestant == name] for name in names}
    return [_summary(by_name[name], by_name.get(BASE, [])) for name in names]


def _summary(own: Sequence[Measurement], base: Sequence[Measurement]) -> Summary:
    relays = bool(own[0].cpu_seconds.keys() & {"a", "b"})
    return Summary(
        contestant=own[0].contestant,
        rounds=len(own),
        gib_per_s=Spread.of([m.gib_per_s for m in own]),
        cpu_per_gib=Spread.of([m.relay_cpu for m in own]) if relays else None,
        load_cpu_per_gib=Spread.of([m.load_cpu for m in own]),
        throughput_ratio=ratio({m.round: m.gib_per_s for m in own}, {m.round: m.gib_per_s for m in base}),
        cpu_ratio=ratio({m.round: m.relay_cpu for m in own}, {m.round: m.relay_cpu for m in base})
        if relays
        else None,
        rss_peak={role: max(m.rss_peak[role] for m in own) for role in own[0].rss_peak},
    )


def table(summaries: Sequence[Summary], results: Results) -> Table:
    """Return the terminal's view: median (lowest-highest) of each figure, then who is missing, and why."""
    view = Table(title=f"bench relay · ratios against {BASE}", title_justify="left")
    for heading in (
        "contestant",
        "GiB/s",
        "CPU s/GiB A+B",
        "GiB/s ratio",
        "CPU ratio",
        "peak MiB A / B",
        "load CPU s/GiB",
    ):
        view.add_column(heading, justify="left" if heading == "contestant" else "right")
    for summary in summaries:
        view.add_row(
            summary.contestant,
            str(summary.gib_per_s),
            _text(summary.cpu_per_gib),
            _text(summary.throughput_ratio),
            _text(summary.cpu_ratio),
            " / ".join(
                f"{summary.rss_peak[role] / MIB:.0f}" for role in ("a", "b") if role in summary.rss_peak
            ),
            str(summary.load_cpu_per_gib),
        )
    for name, reason in absent(results):
        view.add_row(name, reason, style="yellow")
    return view


def absent(results: Results) -> list[tuple[str, str]]:
    """Return who has no figures or not all of them, with the first line of the reason."""
    missing = [(str(r["name"]), str(r["missing"])) for r in results.of_kind("contestant") if "missing" in r]
    failed = [
        (str(r["contestant"]), f"failed: {str(r['reason']).splitlines()[0]}")
        for r in results.of_kind("failure")
    ]
    return missing + failed


def _text(spread: Spread | None) -> str:
    return "-" if spread is None else str(spread)

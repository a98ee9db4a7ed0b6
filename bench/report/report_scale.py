"""What ``bench scale`` found: the figures of several workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from tunnel.bench.measure.scale import Scaled
from tunnel.bench.measure.stats import Spread
from tunnel.bench.report.document import DataTable, Section
from tunnel.bench.report.result_file import ResultFile

_HEADINGS = ("streams", "workers", "GiB/s", "CPU", "busiest thread", "lock held", "bound GiB/s", "share")


def sections(file: ResultFile) -> Iterator[Section]:
    """Return the results, one row for each case."""
    found = file.build("scale", Scaled)
    cases = [
        [scaled for scaled in found if (scaled.streams, scaled.workers) == case]
        for case in dict.fromkeys((scaled.streams, scaled.workers) for scaled in found)
    ]
    if cases:
        reading = (
            "CPU: seconds per GiB of both sides; busiest thread and lock held: of the side with the higher "
            "figure; bound: of a host with enough cores; share: of the bytes, that of the busiest worker."
        )
        yield Section("Workers", [reading, DataTable(_HEADINGS, list(map(_cells, cases)))])


def _cells(rounds: Sequence[Scaled]) -> list[str]:
    figures: Sequence[Callable[[Scaled], float]] = (
        lambda found: found.gib / found.seconds,
        lambda found: sum(found.cpu.values()) / found.gib,
        lambda found: max(found.busiest.values()) / found.gib,
        lambda found: max(found.lock.values()) / found.gib,
        lambda found: found.bound,
        lambda found: found.share,
    )
    spreads = [str(Spread.of([of(found) for found in rounds])) for of in figures]
    return [str(rounds[0].streams), str(rounds[0].workers), *spreads]

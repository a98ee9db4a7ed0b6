"""``bench goals``: the contestants that are needed to evaluate every goal, and the verdicts.

Relays, memory, workers, idle links and migrations are measured one after the other by their own benchmarks,
into one file.
"""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from tunnel.bench.measure import floor
from tunnel.bench.measure.measurement import OURS, OURS_IN_PYTHON, OURS_WITH_WORKERS
from tunnel.bench.report import report_goals
from tunnel.bench.report.result_file import read
from tunnel.bench.report.summary import BASE
from tunnel.bench.report.summary_migrate import GOALS, WAYS

RELAYS = (OURS, OURS_IN_PYTHON, OURS_WITH_WORKERS, BASE, floor.HOPS)
STREAMS = (1, 64)
WORKERS, WORKERS_STREAMS = (1, 2, 8), (4, 8)
MODES = tuple(dict.fromkeys([*WAYS, *(goal.rival for goal in GOALS)]))


def table(file: Path) -> Table:
    """Return the verdict of a result file on each goal. Raises UsageError when it is not a result file."""
    verdicts = report_goals.verdicts(read(file))
    view = Table(title="Goals of mtunnel", title_justify="left")
    for heading in verdicts.headings:
        view.add_column(heading)
    for row in verdicts.rows:
        view.add_row(*row)
    return view

"""``bench goals``: the contestants that are needed to evaluate every goal.

Relays, memory, workers, idle links and migrations are measured one after the other by their own benchmarks,
into one file.
"""

from __future__ import annotations

from tunnel.bench.measure import floor
from tunnel.bench.measure.measurement import OURS, OURS_IN_PYTHON, OURS_WITH_WORKERS
from tunnel.bench.report.summary import BASE
from tunnel.bench.report.summary_migrate import GOALS, WAYS

RELAYS = (OURS, OURS_IN_PYTHON, OURS_WITH_WORKERS, BASE, floor.HOPS)
STREAMS = (1, 64)
WORKERS, WORKERS_STREAMS = (1, 2, 8), (4, 8)
MODES = tuple(dict.fromkeys([*WAYS, *(goal.rival for goal in GOALS)]))

"""Neither batches nor the garbage collector may stall a loop: tested in separate processes."""

from __future__ import annotations

import subprocess
import sys

KEEP = "from tunnel.host.malloc import tune_malloc\nassert tune_malloc()\n"

CYCLES = """
import resource
def cycle():
    batches = [bytes(b"x") * (1 << 20) for _ in range(16)]
cycle()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    cycle()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


COLLECTED = """
import asyncio, gc
from tunnel.host.malloc import tune_collector
before = len(gc.get_objects())
tune_collector()
assert before > 10_000
print(len(gc.get_objects()))
"""


def faults(prologue: str) -> int:
    """Return the page faults of a process that allocates and frees 16 MiB of batches twenty times."""
    return printed(prologue + CYCLES)


def printed(program: str) -> int:
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return int(done.stdout)


def test_freed_batches_are_reused_without_page_faults() -> None:
    by_default = faults("")
    assert by_default > 10_000  # or this test proves nothing on this system
    assert faults(KEEP) < by_default / 50


def test_initial_objects_are_excluded_from_collection() -> None:
    assert printed(COLLECTED) < 100

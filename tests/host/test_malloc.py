"""Neither batches nor the collector may hold up a loop: ``malloc``, in processes of their own."""

from __future__ import annotations

import subprocess
import sys

KEEP = "from tunnel.host.malloc import keep_heap\nassert keep_heap()\n"

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
from tunnel.host.malloc import spare_collector
before = len(gc.get_objects())
spare_collector()
assert before > 10_000
print(len(gc.get_objects()))
"""


def faults(prologue: str) -> int:
    """Page faults of a process that takes and frees 16 MiB of batches twenty times."""
    return printed(prologue + CYCLES)


def printed(program: str) -> int:
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return int(done.stdout)


def test_freed_batches_are_used_again_without_page_faults() -> None:
    by_default = faults("")
    assert by_default > 10_000  # otherwise this system says nothing about the promise
    assert faults(KEEP) < by_default / 50


def test_what_a_daemon_starts_with_is_never_looked_at_again() -> None:
    assert printed(COLLECTED) < 100

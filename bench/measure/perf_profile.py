"""CPU profiles: both sides of a relay under ``perf``, as folded stacks and as costs by kind of work.

``perf record`` samples by the CPU clock, so that it also works in virtual machines without counters. It needs
root or a low ``kernel.perf_event_paranoid``, and Debian's package linux-perf.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tunnel.bench.lab.tools import path_of
from tunnel.bench.measure.contestants import Contestant
from tunnel.bench.measure.netns import Network
from tunnel.bench.measure.program import BenchError, Program
from tunnel.bench.measure.rig import Rig
from tunnel.bench.measure.sides import rigged_site, start_sides
from tunnel.bench.measure.stacks import Stack, costs, fold
from tunnel.units import GIB

_FREQUENCY = 499  # samples per second: not a multiple of the kernel's tick
_TIMEOUT = 120.0


@dataclass(frozen=True)
class Profile:
    """The profile of one side of a relay. ``cpu_per_gib``: seconds."""

    side: str
    cpu_per_gib: float
    stacks: Counter[Stack]

    def as_record(self) -> dict[str, object]:
        """Return the record; ``milliseconds`` of CPU time per GiB are by kind of work, the largest first."""
        kinds = {
            cost.what: round(cost.share * self.cpu_per_gib * 1e3, 1) for cost in costs(self.stacks, self.side)
        }
        return {"side": self.side, "cpu_seconds_per_gib": self.cpu_per_gib, "milliseconds": kinds}


def measure(contestant: Contestant, size: int, network: Network) -> list[Profile]:
    """Transfer ``size`` bytes over one stream, after a warm-up of the same size. Raises BenchError."""
    perf = path_of("perf")
    with rigged_site(network) as (rig, site):
        rig.start_sink(site.exit)
        sides = start_sides(rig, contestant, site)
        source = rig.start_source(site.entry)
        source.transfer(size, _TIMEOUT)
        before = {side: program.cpu_seconds() for side, program in sides.items()}
        recorders = {side: Recorder(perf, rig, program, site.directory) for side, program in sides.items()}
        source.transfer(size, _TIMEOUT)
        used = {side: program.cpu_seconds() - before[side] for side, program in sides.items()}
        return [
            Profile(side, used[side] / (size / GIB), recorder.stop()) for side, recorder in recorders.items()
        ]


class Recorder:
    """A running ``perf record`` of one program, with its data in ``scratch``."""

    def __init__(self, perf: str, rig: Rig, program: Program, scratch: Path) -> None:
        self._perf = perf
        self._data = scratch / f"perf-{program.process.pid}.data"
        options = ["-q", "-e", "cpu-clock", "-F", str(_FREQUENCY), "-g", "-p", str(program.process.pid)]
        control, answer = (self._data.with_suffix(suffix) for suffix in (".control", ".answer"))
        begin = ["-D", "-1", "--control", f"fifo:{control},{answer}"]  # perf-record(1): starts on command
        os.mkfifo(control)
        os.mkfifo(answer)
        self._program = rig.start("perf", [perf, "record", *options, *begin, "-o", str(self._data)])
        self._begin(control, answer)

    def _begin(self, control: Path, answer: Path) -> None:
        """Wait until perf takes samples: on a busy machine it needs longer than some transfers."""
        deadline = time.monotonic() + _TIMEOUT
        # Opened for both directions, so that open() does not block until perf opens the other end.
        with control.open("r+b", buffering=0) as orders, answer.open("r+b", buffering=0) as answers:
            orders.write(b"enable\n")
            while not select.select([answers], [], [], 0.1)[0]:
                self._program.check()
                if time.monotonic() > deadline:
                    raise BenchError(f"timed out waiting for perf to start{self._program.said()}")

    def stop(self) -> Counter[Stack]:
        """Stop it; return the stacks. Raises BenchError when there are none."""
        self._program.process.send_signal(signal.SIGINT)
        self._program.process.wait(_TIMEOUT)
        command = [self._perf, "script", "-F", "comm,ip,sym,dso", "-i", str(self._data)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
        found = fold(done.stdout)
        if not found:
            raise BenchError(f"perf took no samples{self._program.said()}\n{done.stderr.strip()}")
        return found

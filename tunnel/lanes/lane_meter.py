"""Measures the CPU cost per byte of each kind of lane on this host, when a daemon starts.

Both kinds carry some MiB alternately, in rounds, each over its own path (``lane_paths``). The result is the
CPU time of this process, user and system, without the hypervisors' ends: the median of all rounds, which is
the most stable figure on a busy machine.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from tunnel.engine.binding import Provider
from tunnel.errors import LaneError, TunnelError
from tunnel.lanes.lane_paths import FRAME, KernelPath, LanePath, UserspacePath
from tunnel.net.sockets import reason_of
from tunnel.records.key_schedule import SUITES
from tunnel.tls.lane_kinds import Cost, LaneCosts, LaneKind
from tunnel.units import GIB, KIB, MIB

ROUND = 2 * MIB
"""Bytes that a kind carries in one round."""

ROUNDS = 32
"""Rounds of each kind: 64 MiB in all."""

PATIENCE = 0.25
"""Seconds for all rounds of one kind; bytes in flight at the deadline still arrive."""

LEAST = MIB
"""Minimum bytes of a round that counts."""

_STUCK = 4  # times ``PATIENCE``: timeout for bytes in flight


def measure(suite: str, provider: Provider | None) -> LaneCosts:
    """Measure kernel lanes with ``suite``, and userspace lanes with their default, by ``provider`` or Python.

    Takes some tens of milliseconds per kind, on a slow machine ``PATIENCE`` per kind. Never raises.
    """
    meters = {
        LaneKind.KERNEL: LaneMeter(partial(KernelPath, suite)),
        LaneKind.USERSPACE: LaneMeter(partial(UserspacePath, next(iter(SUITES)), provider)),
    }
    for _ in range(ROUNDS):
        for meter in meters.values():
            meter.turn()
    for meter in meters.values():
        meter.close()
    return LaneCosts(meters[LaneKind.KERNEL].cost, meters[LaneKind.USERSPACE].cost)


class LaneMeter:
    """Measures one kind; an error becomes its ``cost``. ``make`` may raise OSError or LaneError."""

    def __init__(
        self,
        make: Callable[[], LanePath],
        cpu: Callable[[], float] = time.process_time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cpu = cpu
        self._clock = clock
        self._costs: list[float] = []  # of each round
        self._fault = ""
        self._spent = 0.0  # seconds of wall clock time
        self._carried = 0
        self._content = os.urandom(FRAME)
        self._path: LanePath | None = None
        try:
            self._path = make()
        except (TunnelError, OSError) as error:
            self._fail(error)

    @property
    def cost(self) -> Cost:
        """CPU seconds per GiB, or why they could not be measured."""
        if self._fault:
            return self._fault
        if not self._costs:
            return f"only {self._carried // KIB} KiB transferred in {PATIENCE:g} s"
        return statistics.median(self._costs)

    def turn(self) -> None:
        """Carry one round, if there is time left."""
        if self._path is None or self._spent >= PATIENCE:
            return
        begin = self._clock()
        try:
            count, seconds = self._carry(self._path, begin, PATIENCE - self._spent)
        except (TunnelError, OSError) as error:
            self._fail(error)
            return
        self._spent += self._clock() - begin
        self._carried += count
        if count >= LEAST:
            self._costs.append(seconds * GIB / count)

    def _carry(self, path: LanePath, begin: float, patience: float) -> tuple[int, float]:
        """Carry ``ROUND`` bytes, or fewer within ``patience`` seconds; return the count and the CPU time."""
        before, written, goal, seconds = path.delivered, 0, ROUND, 0.0
        while path.delivered - before < goal:
            now = self._clock() - begin
            if now > patience:
                goal = written
            if now > _STUCK * PATIENCE:
                raise LaneError(f"timed out after {_STUCK * PATIENCE:g} s waiting for bytes in flight")
            if written < goal:
                with suppress(BlockingIOError):
                    written += path.source.send(self._content[: goal - written])
            start = self._cpu()
            moved = path.send()
            moved = path.receive() or moved
            seconds += self._cpu() - start
            with suppress(BlockingIOError):
                while path.sink.recv(FRAME):
                    pass
            if not moved:
                path.wait(PATIENCE)
        return goal, seconds

    def _fail(self, error: TunnelError | OSError) -> None:
        self._fault = reason_of(error) if isinstance(error, OSError) else str(error)
        self.close()

    def close(self) -> None:
        """Close its path."""
        if self._path is not None:
            self._path.close()
            self._path = None

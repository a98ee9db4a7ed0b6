"""CPU time of running programs, by side and program name."""

from __future__ import annotations

from collections.abc import Mapping

import psutil


class CpuMeter:
    """Reads user and system time of processes, including that of their exited children.

    An exited process keeps the last time that was read: call ``read`` often where one may exit.
    """

    def __init__(self) -> None:
        self._processes: dict[tuple[str, str], psutil.Process] = {}
        self._seconds: dict[tuple[str, str], float] = {}

    def watch(self, side: str, program: str, pid: int) -> None:
        """Watch process ``pid`` as ``program`` on ``side``, unless it has already exited."""
        try:
            self._processes[side, program] = psutil.Process(pid)
        except psutil.NoSuchProcess:
            return
        self._seconds[side, program] = 0.0
        self.read()

    def watches(self, side: str, program: str) -> bool:
        """Return whether ``program`` on ``side`` is watched."""
        return (side, program) in self._processes

    def read(self) -> dict[tuple[str, str], float]:
        """Return the seconds used so far, by side and program."""
        for key, process in self._processes.items():
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            used = times.user + times.system + times.children_user + times.children_system
            # A process that is exiting reports zero before it is removed.
            self._seconds[key] = max(used, self._seconds[key])
        return dict(self._seconds)


def spent(
    before: Mapping[tuple[str, str], float], after: Mapping[tuple[str, str], float]
) -> dict[str, dict[str, float]]:
    """Return the seconds used between two readings, by side, then by program."""
    used: dict[str, dict[str, float]] = {}
    for (side, program), seconds in after.items():
        used.setdefault(side, {})[program] = round(seconds - before.get((side, program), 0.0), 3)
    return used

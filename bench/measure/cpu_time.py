"""CPU time of programs that somebody else started, by the names that a reader knows them by."""

from __future__ import annotations

from collections.abc import Mapping

import psutil


class CpuMeter:
    """Reads user and system time of processes, with what their ended children have used.

    A process that has ended keeps the last time that was read: call ``read`` often where one may end.
    """

    def __init__(self) -> None:
        self._processes: dict[tuple[str, str], psutil.Process] = {}
        self._seconds: dict[tuple[str, str], float] = {}

    def watch(self, side: str, program: str, pid: int) -> None:
        """Take part of ``side`` what ``pid`` does as ``program``. One that has ended already is not."""
        try:
            self._processes[side, program] = psutil.Process(pid)
        except psutil.NoSuchProcess:
            return
        self._seconds[side, program] = 0.0
        self.read()

    def watches(self, side: str, program: str) -> bool:
        """Whether somebody takes part as ``program``."""
        return (side, program) in self._processes

    def read(self) -> dict[tuple[str, str], float]:
        """Return the seconds of each so far, by side and program."""
        for key, process in self._processes.items():
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            used = times.user + times.system + times.children_user + times.children_system
            # A process that is being taken down says nothing any more before it is gone.
            self._seconds[key] = max(used, self._seconds[key])
        return dict(self._seconds)


def spent(
    before: Mapping[tuple[str, str], float], after: Mapping[tuple[str, str], float]
) -> dict[str, dict[str, float]]:
    """Return what was used between two readings, by side, then by program."""
    used: dict[str, dict[str, float]] = {}
    for (side, program), seconds in after.items():
        used.setdefault(side, {})[program] = round(seconds - before.get((side, program), 0.0), 3)
    return used

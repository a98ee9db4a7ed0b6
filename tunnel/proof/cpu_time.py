"""CPU time of running processes and of their threads (proc(5), ``stat``)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_TICKS = os.sysconf("SC_CLK_TCK")
_USER, _SYSTEM, _CHILDREN_USER, _CHILDREN_SYSTEM = 11, 12, 13, 14  # index after the name


class CpuTimes(NamedTuple):
    """CPU time in seconds."""

    user: float
    system: float

    @property
    def total(self) -> float:
        """The sum of both."""
        return self.user + self.system

    def since(self, before: CpuTimes) -> CpuTimes:
        """Return the time used since ``before``."""
        return CpuTimes(self.user - before.user, self.system - before.system)


NOTHING = CpuTimes(0.0, 0.0)


def process_seconds(pid: int) -> float:
    """Return the user and system time of a process so far, including that of its exited children.

    Raises ProcessLookupError when it has been reaped.
    """
    fields = _fields(Path(f"/proc/{pid}/stat"))
    return sum(fields[index] for index in (_USER, _SYSTEM, _CHILDREN_USER, _CHILDREN_SYSTEM))


def thread_times(pid: int) -> dict[int, CpuTimes]:
    """Return the times of all current threads of ``pid``, by thread id."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            fields = _fields(task / "stat")
        except ProcessLookupError:  # it has just exited
            continue
        found[int(task.name)] = CpuTimes(fields[_USER], fields[_SYSTEM])
    return found


def used_by_threads(before: Mapping[int, CpuTimes], after: Mapping[int, CpuTimes]) -> list[CpuTimes]:
    """Return the time that each thread used between two readings, the busiest first."""
    found = [times.since(before.get(number, NOTHING)) for number, times in after.items()]
    return sorted(found, key=lambda times: times.total, reverse=True)


class CpuMeter:
    """Reads user and system time of processes, including that of their exited children.

    An exited process keeps the last time that was read: call ``read`` often where one may exit.
    """

    def __init__(self) -> None:
        self._processes: dict[tuple[str, str], int] = {}
        self._seconds: dict[tuple[str, str], float] = {}

    def watch(self, side: str, program: str, pid: int) -> None:
        """Watch process ``pid`` as ``program`` on ``side``, unless it has already exited."""
        try:
            self._seconds[side, program] = process_seconds(pid)
        except ProcessLookupError:
            return
        self._processes[side, program] = pid

    def watches(self, side: str, program: str) -> bool:
        """Return whether ``program`` on ``side`` is watched."""
        return (side, program) in self._processes

    def read(self) -> dict[tuple[str, str], float]:
        """Return the seconds used so far, by side and program."""
        for key, pid in self._processes.items():
            with suppress(ProcessLookupError):
                # A process that is exiting reports zero before it is removed.
                self._seconds[key] = max(process_seconds(pid), self._seconds[key])
        return dict(self._seconds)


def spent(
    before: Mapping[tuple[str, str], float], after: Mapping[tuple[str, str], float]
) -> dict[str, dict[str, float]]:
    """Return the seconds used between two readings, by side, then by program."""
    used: dict[str, dict[str, float]] = {}
    for (side, program), seconds in after.items():
        used.setdefault(side, {})[program] = round(seconds - before.get((side, program), 0.0), 3)
    return used


def _fields(stat: Path) -> dict[int, float]:
    try:
        fields = stat.read_text().rpartition(")")[2].split()
    except FileNotFoundError as error:
        raise ProcessLookupError(error.errno, error.strerror) from None
    return {index: int(fields[index]) / _TICKS for index in range(_USER, _CHILDREN_SYSTEM + 1)}

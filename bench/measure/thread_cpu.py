"""User and system CPU time of each thread of a process."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

_TICKS = os.sysconf("SC_CLK_TCK")
_USER, _SYSTEM = 11, 12  # index after the name in /proc/PID/task/TID/stat, see proc(5)


class ThreadTimes(NamedTuple):
    """CPU time in seconds."""

    user: float
    system: float

    @property
    def total(self) -> float:
        """The sum of both."""
        return self.user + self.system

    def since(self, before: ThreadTimes) -> ThreadTimes:
        """Return the time used since ``before``."""
        return ThreadTimes(self.user - before.user, self.system - before.system)


NOTHING = ThreadTimes(0.0, 0.0)


def threads_of(pid: int) -> dict[int, ThreadTimes]:
    """Return the times of all current threads of ``pid``, by thread id."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            text = (task / "stat").read_text()
        except (FileNotFoundError, ProcessLookupError):  # it has just exited
            continue
        fields = text.rpartition(")")[2].split()
        found[int(task.name)] = ThreadTimes(int(fields[_USER]) / _TICKS, int(fields[_SYSTEM]) / _TICKS)
    return found


def used(before: Mapping[int, ThreadTimes], after: Mapping[int, ThreadTimes]) -> list[ThreadTimes]:
    """Return the time that each thread used between two readings, the busiest first."""
    found = [times.since(before.get(number, NOTHING)) for number, times in after.items()]
    return sorted(found, key=lambda times: times.total, reverse=True)

"""The lab's own error, and waiting for a condition with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from tunnel.errors import TunnelError

PATIENCE = 30.0
"""Seconds that anything may take which ought to happen soon: the machine may be busy."""

_PAUSE = 0.02

_T = TypeVar("_T")


class LabError(TunnelError):
    """The lab, or something in it, does not do what it was asked for. The message quotes who knows why."""


def until(what: str, found: Callable[[], _T | None], within: float = PATIENCE) -> _T:
    """Return what ``found`` returns as soon as that is true.

    Raises LabError, naming ``what`` was waited for, after ``within`` seconds.
    """
    deadline = time.monotonic() + within
    while not (result := found()):
        if time.monotonic() > deadline:
            raise LabError(f"waited {within:g} s in vain for {what}")
        time.sleep(_PAUSE)
    return result

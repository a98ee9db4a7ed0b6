"""The lab's error class, and waiting for a condition with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from tunnel.errors import TunnelError
from tunnel.virt.polling import timed_out

PATIENCE = 30.0
"""Timeout in seconds for anything that should take milliseconds: the machine may be busy."""

_PAUSE = 0.02

_T = TypeVar("_T")


class LabError(TunnelError):
    """An operation of the lab, or of a program in it, failed. The message includes the program's output."""


def until(
    found: Callable[[], _T | None],
    what: str,
    within: float = PATIENCE,
    failure: type[TunnelError] = LabError,
) -> _T:
    """Poll ``found`` until it returns a true value, and return that.

    Raises ``failure``, with ``what`` ("for ...") in it, after ``within`` seconds.
    """
    deadline = time.monotonic() + within
    while not (result := found()):
        if time.monotonic() > deadline:
            raise failure(timed_out(within, what))
        time.sleep(_PAUSE)
    return result

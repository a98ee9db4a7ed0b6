"""File descriptors of this process: their limit, and the standard ones."""

from __future__ import annotations

import os
import resource
from contextlib import suppress


def raise_limit() -> int:
    """Raise the soft limit of open files to the hard limit; return the soft limit in effect.

    It is low by default only for the sake of select(2), which nothing here uses.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # more than fs.nr_open, in a container
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def occupy_standard_descriptors() -> None:
    """Open /dev/null for each of 0, 1 and 2 that is closed.

    Otherwise the next socket gets that number, and output to stderr goes to a peer.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number

"""Acting as another user, for tests that run as root."""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterator
from contextlib import contextmanager

NOBODY = 65534

codecs.lookup("idna")  # for every connect: its module may lie where only root can read it, so load it now


@contextmanager
def acting_as(uid: int) -> Iterator[None]:
    """Own what is made meanwhile as ``uid``: the kernel remembers who made a socket."""
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)

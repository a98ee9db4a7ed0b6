"""Run as another user, for tests that run as root."""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterator
from contextlib import contextmanager

NOBODY = 65534

codecs.lookup("idna")  # used by every connect: load it now, as only root may be able to read its module


@contextmanager
def acting_as(uid: int) -> Iterator[None]:
    """Run the block with effective user ``uid``: the kernel stores the creator of a socket."""
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)

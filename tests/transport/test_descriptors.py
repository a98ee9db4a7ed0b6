"""The limit of open files, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

RAISE = """
import resource
from tunnel.transport.descriptors import raise_limit
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 100))
assert raise_limit() == 100
assert resource.getrlimit(resource.RLIMIT_NOFILE) == (100, 100)
"""

REFUSED = """
import resource
from tunnel.transport.descriptors import raise_limit
resource.getrlimit = lambda _: (64, 1 << 40)
assert raise_limit() == 64
"""


def test_the_hard_limit_counts_from_then_on() -> None:
    subprocess.run([sys.executable, "-c", RAISE], check=True, timeout=60)


def test_a_limit_that_the_kernel_does_not_grant_stays() -> None:
    subprocess.run([sys.executable, "-c", REFUSED], check=True, timeout=60)

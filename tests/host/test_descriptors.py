"""File descriptors of a process, tested in a process of its own."""

from __future__ import annotations

import subprocess
import sys

RAISE = """
import resource
from tunnel.host.descriptors import raise_limit
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 100))
assert raise_limit() == 100
assert resource.getrlimit(resource.RLIMIT_NOFILE) == (100, 100)
"""

REFUSED = """
import resource
from tunnel.host.descriptors import raise_limit
resource.getrlimit = lambda _: (64, 1 << 40)
assert raise_limit() == 64
"""


def test_the_soft_limit_is_raised_to_the_hard_limit() -> None:
    subprocess.run([sys.executable, "-c", RAISE], check=True, timeout=60)


def test_the_limit_is_unchanged_when_the_kernel_refuses() -> None:
    subprocess.run([sys.executable, "-c", REFUSED], check=True, timeout=60)


OCCUPY = """
import os, socket
from tunnel.host.descriptors import occupy_standard_descriptors
occupy_standard_descriptors()
null = os.stat(os.devnull).st_rdev
print([os.fstat(number).st_rdev == null for number in (0, 2)], socket.socket().fileno() > 2)
"""


def test_closed_standard_descriptors_are_occupied() -> None:
    argv = ["/bin/sh", "-c", 'exec "$0" -c "$1" <&- 2>&-', sys.executable, OCCUPY]
    assert subprocess.run(argv, capture_output=True, check=True).stdout == b"[True, True] True\n"

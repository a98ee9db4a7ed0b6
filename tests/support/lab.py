"""The two-host lab for tests: brought up once for a module, and reset for each test.

A test module, or the conftest of a folder of them, imports the fixtures that it uses::

    from tests.support.lab import lab, module_lab

    pytestmark = [pytest.mark.root, pytest.mark.slow]

    def test_a_guest_arrives(lab: Lab) -> None: ...
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import pytest

from tunnel.bench.lab.host import LabHost
from tunnel.bench.lab.lab import Lab
from tunnel.bench.lab.waiting import until

CONGESTION = "cubic"  # the default of some machines paces, also between two namespaces


@contextmanager
def open_directory() -> Iterator[Path]:
    """Create a directory with a short path that QEMU, which is not root, can traverse."""
    with tempfile.TemporaryDirectory(prefix="mt-", dir="/tmp") as name:
        home = Path(name)
        home.chmod(0o711)
        yield home


@pytest.fixture(scope="module")
def module_lab(no_process_left_by_session: None) -> Iterator[Lab]:
    """A lab that is up, shared by the tests of a module."""
    with open_directory() as home, Lab(home / "lab", congestion=CONGESTION) as up:
        yield up


@pytest.fixture
def lab(module_lab: Lab) -> Iterator[Lab]:
    """A lab without guests and daemons, its firewalls open for port 16515 only."""
    yield module_lab
    module_lab.reset()


_LISTEN = """
import socket, sys
with socket.create_server(("::", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True) as server:
    print("listening", flush=True)
    while True:
        server.accept()[0].close()
"""
_REACH = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=2).close()
except OSError:
    sys.exit(3)
"""


class Listener:
    """A listener on a TCP port of all addresses of a host, while the context lasts."""

    def __init__(self, host: LabHost, port: int) -> None:
        self._host, self._port = host, port

    def __enter__(self) -> Self:
        self._program = self._host.start(["python3", "-c", _LISTEN, str(self._port)])
        until(lambda: self._program.output(), "for the listener to listen")
        return self

    def __exit__(self, *_: object) -> None:
        self._program.kill()


def reaches(host: LabHost, address: str, port: int) -> bool:
    """Return whether a connection from ``host`` to ``address`` is accepted within two seconds."""
    done = host.run(["python3", "-c", _REACH, address, str(port)], check=False)
    assert done.returncode in {0, 3}, done.stderr
    return done.returncode == 0

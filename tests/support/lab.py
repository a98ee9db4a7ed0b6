"""The two-host lab for tests: brought up once for a module, and as new for each test.

A test module, or the conftest of a folder of them, imports the fixtures that it uses::

    from tests.support.lab import lab, module_lab

    pytestmark = [pytest.mark.root, pytest.mark.slow]

    def test_a_guest_arrives(lab: Lab) -> None: ...
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tunnel.bench.lab.lab import Lab

CONGESTION = "cubic"  # the default of some machines paces, even between two namespaces


@pytest.fixture(scope="module")
def module_lab(no_process_left_by_session: None) -> Iterator[Lab]:
    """A lab that is up, shared by the tests of a module."""
    with tempfile.TemporaryDirectory(prefix="mt-", dir="/tmp") as name:
        home = Path(name)
        home.chmod(0o711)  # QEMU, which is not root, must come through
        with Lab(home / "lab", congestion=CONGESTION) as up:
            yield up


@pytest.fixture
def lab(module_lab: Lab) -> Iterator[Lab]:
    """A lab without guests and daemons, its firewalls open for port 16515 only."""
    yield module_lab
    module_lab.reset()

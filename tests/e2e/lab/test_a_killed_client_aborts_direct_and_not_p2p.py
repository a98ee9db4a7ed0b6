"""virsh is killed: a direct migration is aborted, a peer-to-peer migration continues."""

from __future__ import annotations

import pytest

from tests.support.faults import PHASES, STILL_HERE, Phase, ends_on, hasten, hold, slow_lab
from tests.support.migrations import nobody_else_was_let_in
from tunnel.bench.lab.lab import Lab

__all__ = ["slow_lab"]

pytestmark = [pytest.mark.root, pytest.mark.slow]


@STILL_HERE
def test_direct_migration_is_aborted(slow_lab: Lab, phase: Phase) -> None:
    guest, client = hold(slow_lab, phase)
    client.kill()
    ends_on(slow_lab, guest, slow_lab.a)
    nobody_else_was_let_in(slow_lab)


@PHASES
def test_peer_to_peer_migration_completes(slow_lab: Lab, phase: Phase) -> None:
    guest, client = hold(slow_lab, phase, "--p2p")
    client.kill()
    hasten(slow_lab)
    ends_on(slow_lab, guest, slow_lab.b)
    nobody_else_was_let_in(slow_lab)


def test_direct_migration_that_is_in_post_copy_completes(slow_lab: Lab) -> None:
    """Post-copy cannot be aborted, and the QEMUs complete it without the client."""
    guest, client = hold(slow_lab, Phase.POST_COPY)
    client.kill()
    hasten(slow_lab)
    ends_on(slow_lab, guest, slow_lab.b)
    nobody_else_was_let_in(slow_lab)

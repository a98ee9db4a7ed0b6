"""Parsing of ``query-migrate`` replies, and the classification of each status."""

from __future__ import annotations

import pytest

from tunnel.virt.qmp_sample import QemuPhase, sample_of


def test_reply_during_setup_has_no_figures() -> None:
    sample = sample_of({"status": "setup"})
    assert (sample.phase, sample.transferred, sample.iteration) == (QemuPhase.SETUP, 0, 0)
    assert sample_of({}).phase is QemuPhase.NONE


def test_figures_are_bytes_and_seconds() -> None:
    ram = {"transferred": 5, "remaining": 6, "total": 11, "mbps": 8.0, "dirty-sync-count": 2}
    sample = sample_of({"status": "active", "total-time": 1500, "expected-downtime": 300, "ram": ram})
    assert (sample.elapsed, sample.expected_downtime, sample.throughput) == (1.5, 0.3, 1e6)


@pytest.mark.parametrize("phase", list(QemuPhase))
def test_phase_is_under_way_until_it_has_ended(phase: QemuPhase) -> None:
    assert phase.under_way == (phase is not QemuPhase.NONE and not phase.ended)


@pytest.mark.parametrize(
    "phase",
    [
        QemuPhase.SETUP,
        QemuPhase.ACTIVE,
        QemuPhase.CANCELLING,
        QemuPhase.DEVICE,
        QemuPhase.PRE_SWITCHOVER,
        QemuPhase.POSTCOPY_ACTIVE,
    ],
)
def test_phase_in_which_the_guest_may_leave_is_under_way(phase: QemuPhase) -> None:
    assert phase.under_way


def test_failed_postcopy_is_broken() -> None:
    assert QemuPhase.POSTCOPY_PAUSED.broken
    assert QemuPhase.POSTCOPY_RECOVER.broken
    assert not QemuPhase.FAILED.broken

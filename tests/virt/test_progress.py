"""The figures of QEMU and libvirt map to the same record."""

from __future__ import annotations

import pytest

from tunnel.units import MIB
from tunnel.virt.progress import Progress, QemuPhase, of_libvirt, of_qemu, phase_in

RAM = {
    "transferred": 300 * MIB,
    "remaining": 256 * MIB,
    "total": 1024 * MIB,
    "dirty-pages-rate": 8192,
    "dirty-sync-count": 2,
    "mbps": 200 * MIB * 8 / 1e6,
}


def test_qemus_figures() -> None:
    progress = of_qemu({"status": "active", "total-time": 1500, "expected-downtime": 300, "ram": RAM})
    assert progress == Progress(
        "active", 1.5, 1024 * MIB, 300 * MIB, 256 * MIB, 32 * MIB, 2, 200 * MIB, 0.3, postcopy=False
    )
    assert progress.done == 0.75


def test_libvirts_figures() -> None:
    stats = {
        "type": 2,
        "time_elapsed": 1500,
        "memory_total": 1024 * MIB,
        "memory_processed": 300 * MIB,
        "memory_remaining": 256 * MIB,
        "memory_dirty_rate": 8192,
        "memory_page_size": 4096,
        "memory_iteration": 2,
        "memory_bps": 200 * MIB,
        "downtime": 300,
        "disk_total": 1024 * MIB,
        "disk_remaining": 768 * MIB,
    }
    progress = of_libvirt(stats, postcopy=False)
    assert (progress.dirty_rate, progress.expected_downtime, progress.elapsed) == (32 * MIB, 0.3, 1.5)
    assert (progress.throughput, progress.iteration, progress.sent) == (200 * MIB, 2, 300 * MIB)
    assert progress.done == 0.5
    assert progress.phase == "precopy"


def test_no_figures_yet_is_zero() -> None:
    progress = of_libvirt({"type": 2}, postcopy=True)
    assert (progress.done, progress.total, progress.phase) == (0.0, 0, "postcopy")


@pytest.mark.parametrize("phase", list(QemuPhase))
def test_every_phase_after_the_switch_is_postcopy(phase: QemuPhase) -> None:
    assert phase.postcopy == phase.name.startswith("POSTCOPY")


def test_reply_during_setup_has_no_figures() -> None:
    progress = of_qemu({"status": "setup"})
    assert (progress.phase, progress.sent, progress.iteration) == ("setup", 0, 0)
    assert phase_in({}) is QemuPhase.NONE


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

"""The figures of QEMU and libvirt map to the same record."""

from __future__ import annotations

import pytest

from tunnel.units import MIB
from tunnel.virt.progress import Progress, is_postcopy, of_libvirt, of_qemu
from tunnel.virt.qmp_sample import QemuPhase, Sample

SAMPLE = Sample(QemuPhase.ACTIVE, 1.5, 300 * MIB, 256 * MIB, 1024 * MIB, 8192, 2, 200.0 * MIB, 0.3)


def test_qemus_figures() -> None:
    progress = of_qemu(SAMPLE)
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
    assert is_postcopy(phase) == phase.name.startswith("POSTCOPY")

"""The progress of a migration: one record for the figures of QEMU and libvirt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tunnel.virt.qmp_sample import QemuPhase, Sample

_TARGET_PAGE = 4096  # QEMU counts dirty pages in these on x86


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress in bytes, seconds, bytes per second. ``iteration``: passes over the memory, from 1.

    ``throughput`` is the hypervisor's own figure. ``disk_*`` are 0 when no disk is copied.
    """

    phase: str
    elapsed: float
    total: int
    sent: int
    remaining: int
    dirty_rate: int
    iteration: int
    throughput: int
    expected_downtime: float
    disk_total: int = 0
    disk_remaining: int = 0
    postcopy: bool = False

    @property
    def done(self) -> float:
        """The fraction already sent, 0 to 1; it may decrease when the guest dirties memory."""
        total = self.total + self.disk_total
        return 1 - (self.remaining + self.disk_remaining) / total if total else 0.0


def of_qemu(sample: Sample) -> Progress:
    """Return the progress from a sample of QEMU's ``query-migrate``."""
    return Progress(
        phase=sample.phase.value,
        elapsed=sample.elapsed,
        total=sample.total,
        sent=sample.transferred,
        remaining=sample.remaining,
        dirty_rate=sample.dirty_pages_rate * _TARGET_PAGE,
        iteration=sample.iteration,
        throughput=round(sample.throughput),
        expected_downtime=sample.expected_downtime,
        postcopy=is_postcopy(sample.phase),
    )


def is_postcopy(phase: QemuPhase) -> bool:
    """Return whether the guest has switched to the destination: an abort would lose it."""
    return phase.value.startswith("postcopy")


def of_libvirt(stats: Mapping[str, Any], *, postcopy: bool) -> Progress:
    """Return the progress from libvirt's job statistics, which have no figures at the beginning.

    ``postcopy`` must be known from elsewhere: the statistics do not contain it.
    """
    page = int(stats.get("memory_page_size", _TARGET_PAGE))
    return Progress(
        phase="postcopy" if postcopy else "precopy",
        elapsed=stats.get("time_elapsed", 0) / 1000,
        total=int(stats.get("memory_total", 0)),
        sent=int(stats.get("memory_processed", 0)),
        remaining=int(stats.get("memory_remaining", 0)),
        dirty_rate=int(stats.get("memory_dirty_rate", 0)) * page,
        iteration=int(stats.get("memory_iteration", 0)),
        throughput=int(stats.get("memory_bps", 0)),
        expected_downtime=stats.get("downtime", 0) / 1000,
        disk_total=int(stats.get("disk_total", 0)),
        disk_remaining=int(stats.get("disk_remaining", 0)),
        postcopy=postcopy,
    )

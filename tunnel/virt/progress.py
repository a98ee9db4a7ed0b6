"""The progress of a migration: one record for the figures of QEMU and libvirt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

_TARGET_PAGE = 4096  # QEMU counts dirty pages in these on x86


class QemuPhase(StrEnum):
    """QEMU's MigrationStatus."""

    NONE = "none"
    SETUP = "setup"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    ACTIVE = "active"
    POSTCOPY_DEVICE = "postcopy-device"
    POSTCOPY_ACTIVE = "postcopy-active"
    POSTCOPY_PAUSED = "postcopy-paused"
    POSTCOPY_RECOVER_SETUP = "postcopy-recover-setup"
    POSTCOPY_RECOVER = "postcopy-recover"
    COMPLETED = "completed"
    FAILED = "failed"
    FAILING = "failing"
    COLO = "colo"
    PRE_SWITCHOVER = "pre-switchover"
    DEVICE = "device"
    WAIT_UNPLUG = "wait-unplug"

    @property
    def ended(self) -> bool:
        """Whether QEMU makes no further progress on its own."""
        return self in {QemuPhase.COMPLETED, QemuPhase.FAILED, QemuPhase.CANCELLED, QemuPhase.POSTCOPY_PAUSED}

    @property
    def under_way(self) -> bool:
        """Whether a migration has started and not ended."""
        return self is not QemuPhase.NONE and not self.ended

    @property
    def postcopy(self) -> bool:
        """Whether the guest has switched to the destination: an abort would lose it."""
        return self.startswith("postcopy")

    @property
    def broken(self) -> bool:
        """Whether post-copy failed and has not been resumed."""
        return self in {
            QemuPhase.POSTCOPY_PAUSED,
            QemuPhase.POSTCOPY_RECOVER_SETUP,
            QemuPhase.POSTCOPY_RECOVER,
        }


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


def of_qemu(reply: Mapping[str, Any]) -> Progress:
    """Return the progress from a ``query-migrate`` reply, which has no figures during setup."""
    phase, ram = phase_in(reply), reply.get("ram", {})
    return Progress(
        phase=phase.value,
        elapsed=reply.get("total-time", 0) / 1000,
        total=ram.get("total", 0),
        sent=ram.get("transferred", 0),
        remaining=ram.get("remaining", 0),
        dirty_rate=ram.get("dirty-pages-rate", 0) * _TARGET_PAGE,
        iteration=ram.get("dirty-sync-count", 0),
        throughput=round(ram.get("mbps", 0.0) * 1e6 / 8),
        expected_downtime=reply.get("expected-downtime", 0) / 1000,
        postcopy=phase.postcopy,
    )


def phase_in(reply: Mapping[str, Any]) -> QemuPhase:
    """Return the phase in a ``query-migrate`` reply; NONE if there was no migration since QEMU's start."""
    return QemuPhase(reply.get("status", QemuPhase.NONE))


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

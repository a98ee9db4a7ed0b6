"""The reply of QEMU's ``query-migrate`` as a record. Names are those of ``qapi/migration.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


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
    def broken(self) -> bool:
        """Whether post-copy failed and has not been resumed."""
        return self in {
            QemuPhase.POSTCOPY_PAUSED,
            QemuPhase.POSTCOPY_RECOVER_SETUP,
            QemuPhase.POSTCOPY_RECOVER,
        }


@dataclass(frozen=True, slots=True)
class Sample:
    """The progress at the source: bytes, seconds, bytes per second, pages per second.

    ``iteration`` counts the passes over the memory, from 1.
    """

    phase: QemuPhase
    elapsed: float
    transferred: int
    remaining: int
    total: int
    dirty_pages_rate: int
    iteration: int
    throughput: float
    expected_downtime: float


def sample_of(answer: Mapping[str, Any]) -> Sample:
    """Parse a ``query-migrate`` reply, which has no figures during setup."""
    ram = answer.get("ram", {})
    return Sample(
        phase=QemuPhase(answer.get("status", QemuPhase.NONE)),
        elapsed=answer.get("total-time", 0) / 1000,
        transferred=ram.get("transferred", 0),
        remaining=ram.get("remaining", 0),
        total=ram.get("total", 0),
        dirty_pages_rate=ram.get("dirty-pages-rate", 0),
        iteration=ram.get("dirty-sync-count", 0),
        throughput=ram.get("mbps", 0.0) * 1e6 / 8,
        expected_downtime=answer.get("expected-downtime", 0) / 1000,
    )

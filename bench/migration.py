"""What ``bench migrate`` measures: guests moved in different modes, and how fast a guest may write meanwhile.

These are the records ``migration`` and ``convergence`` of a result file; ``contestant`` records name the
modes and their settings. Sizes are bytes, times seconds, rates per second. ``link_bits_per_s`` is None
for a link that was not shaped.
"""

from __future__ import annotations

from dataclasses import dataclass

from tunnel.bench.figures import GIB, MIB


@dataclass(frozen=True)
class Migration:
    """One guest moved once, in one mode.

    ``bytes``: what QEMU says it transferred. ``cpu_seconds``: by side (``a`` the source, ``b``), then by
    program (``qemu``, ``libvirtd``, ``mtunnel``). ``converged``: whether it ended within the downtime
    limit by itself.
    """

    mode: str
    round: int
    guest_bytes: int
    dirty_bytes_per_s: int
    link_bits_per_s: int | None
    seconds: float
    bytes: int
    downtime_seconds: float
    iterations: int
    converged: bool
    cpu_seconds: dict[str, dict[str, float]]

    @property
    def setting(self) -> Setting:
        """What was moved, over which link."""
        return Setting(self.guest_bytes, self.dirty_bytes_per_s, self.link_bits_per_s)

    @property
    def mib_per_s(self) -> float:
        """Throughput over the whole migration."""
        return self.bytes / MIB / self.seconds

    def cpu_per_gib(self, side: str) -> float:
        """CPU seconds of all programs on one side, per GiB transferred."""
        return sum(self.cpu_seconds[side].values()) / (self.bytes / GIB)


@dataclass(frozen=True)
class Convergence:
    """The highest rate at which a guest may write so that a mode still converges, as found in one round."""

    mode: str
    round: int
    guest_bytes: int
    link_bits_per_s: int | None
    downtime_limit_seconds: float
    dirty_bytes_per_s: int


@dataclass(frozen=True)
class Setting:
    """A guest, the rate at which it writes, and the link."""

    guest_bytes: int
    dirty_bytes_per_s: int
    link_bits_per_s: int | None

    def __str__(self) -> str:
        writes = f"writing {self.dirty_bytes_per_s / MIB:.0f} MiB/s" if self.dirty_bytes_per_s else "idle"
        return f"{self.guest_bytes / GIB:g} GiB guest, {writes}, {link_text(self.link_bits_per_s)}"


def link_text(bits_per_s: int | None) -> str:
    """Return how people call a link."""
    return "unshaped link" if bits_per_s is None else f"link of {bits_per_s / 1e9:g} Gbit/s"

"""Records of ``bench migrate``: guests migrated in different modes, and how fast a guest may write meanwhile.

These are the records ``migration``, ``probe`` and ``convergence`` of a result file; ``contestant`` records
name the modes and their settings. Sizes are bytes, times seconds, rates per second. ``link_bits_per_s`` is
None for a link that was not shaped. ``cpu_seconds`` is by side (``a`` the source, ``b``), then by program
(``qemu``, ``libvirtd``, ``mtunnel``).
"""

from __future__ import annotations

from dataclasses import dataclass

from tunnel.units import GIB, MIB

TOLERANCE = 1.5
"""QEMU aims at the downtime limit and may exceed it: up to this factor counts as within the limit."""


@dataclass(frozen=True)
class MeasuredMigration:
    """One migration of one guest in one mode, with every page verified where the guest then ran.

    ``seconds``: from the start of the stream until the guest ran on the destination with all of its memory;
    ``wall_seconds``: of virsh, with libvirt's preparation. ``bytes``: transferred, as reported by QEMU, and
    ``stream_bytes_per_s``: its rate. ``downtime_seconds``: how long the guest was stopped on both sides.
    ``dirty_bytes_per_s`` is the configured write rate of the guest, ``written_bytes_per_s`` the actual one.
    ``converged``: whether it completed; ``aborted``: why it was aborted, and the figures are then up to that
    point.
    """

    mode: str
    round: int
    guest_bytes: int
    dirty_bytes_per_s: int
    link_bits_per_s: int | None
    seconds: float
    wall_seconds: float
    bytes: int
    stream_bytes_per_s: int | None
    downtime_seconds: float | None
    iterations: int
    written_bytes_per_s: int
    converged: bool
    aborted: str
    pages_verified: int
    cpu_seconds: dict[str, dict[str, float]]

    @property
    def setting(self) -> Setting:
        """The guest and the link."""
        return Setting(self.guest_bytes, self.dirty_bytes_per_s, self.link_bits_per_s)

    @property
    def mib_per_s(self) -> float:
        """Throughput over the whole migration."""
        return self.bytes / MIB / self.seconds

    @property
    def sent_per_byte(self) -> float:
        """Bytes sent as a multiple of the guest's memory."""
        return self.bytes / self.guest_bytes

    def cpu_per_gib(self, side: str, *programs: str) -> float:
        """Return the CPU seconds per GiB transferred, of ``programs`` on one side, or of all."""
        used = self.cpu_seconds.get(side, {})
        return sum(used.get(program, 0.0) for program in programs or used) / (self.bytes / GIB)

    def is_within(self, downtime_limit: float) -> bool:
        """Return whether it converged within the downtime limit, times ``TOLERANCE``."""
        stood = self.downtime_seconds
        return self.converged and stood is not None and stood <= TOLERANCE * downtime_limit


@dataclass(frozen=True)
class Convergence:
    """The highest write rate of a guest at which a mode still converges, as found in one round.

    ``dirty_bytes_per_s`` is the guest's actual write rate there, ``asked_bytes_per_s`` the configured one;
    the next rate, ``step_bytes_per_s`` more, did not converge, unless it would have been above
    ``highest_bytes_per_s``. Both are 0 when the lowest rate did not.
    """

    mode: str
    round: int
    guest_bytes: int
    link_bits_per_s: int | None
    downtime_limit_seconds: float
    dirty_bytes_per_s: int
    asked_bytes_per_s: int
    step_bytes_per_s: int
    highest_bytes_per_s: int
    probes: int

    @property
    def is_open(self) -> bool:
        """Whether every tried rate converged: the limit is at least this."""
        return self.asked_bytes_per_s + self.step_bytes_per_s > self.highest_bytes_per_s


@dataclass(frozen=True)
class Setting:
    """The memory of a guest, its write rate, and the link."""

    guest_bytes: int
    dirty_bytes_per_s: int
    link_bits_per_s: int | None

    def __str__(self) -> str:
        writes = f"writing {self.dirty_bytes_per_s / MIB:.0f} MiB/s" if self.dirty_bytes_per_s else "idle"
        return f"{self.guest_bytes / GIB:g} GiB guest, {writes}, {link_text(self.link_bits_per_s)}"


def link_text(bits_per_s: int | None) -> str:
    """Return a link as text."""
    return "unshaped link" if bits_per_s is None else f"link of {bits_per_s / 1e9:g} Gbit/s"

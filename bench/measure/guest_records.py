"""What ``bench migrate`` measures: guests moved in different modes, and how fast a guest may write meanwhile.

These are the records ``migration``, ``probe`` and ``convergence`` of a result file; ``contestant`` records
name the modes and their settings. Sizes are bytes, times seconds, rates per second. ``link_bits_per_s`` is
None for a link that was not shaped. ``cpu_seconds`` is by side (``a`` the source, ``b``), then by program
(``qemu``, ``libvirtd``, ``mtunnel``).
"""

from __future__ import annotations

from dataclasses import dataclass

from tunnel.units import GIB, MIB

TOLERANCE = 1.5
"""QEMU aims at the downtime limit and misses it by some: so many times the limit still counts as within."""


@dataclass(frozen=True)
class MeasuredMigration:
    """One guest moved once, in one mode, and every page of it verified where it then was.

    ``seconds``: from the first of the stream until the guest ran whole on the other side; ``wall_seconds``
    those of virsh, with all that libvirt prepares. ``bytes``: what QEMU says it transferred, and
    ``stream_bytes_per_s`` its own figure of how fast. ``downtime_seconds``: how long the guest ran nowhere.
    ``dirty_bytes_per_s`` is what the guest was told to write, ``written_bytes_per_s`` what it did.
    ``converged``: whether it ended by itself; ``aborted`` says why it was given up, and the figures are
    then what was so far.
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
        """What was moved, over which link."""
        return Setting(self.guest_bytes, self.dirty_bytes_per_s, self.link_bits_per_s)

    @property
    def mib_per_s(self) -> float:
        """Throughput over the whole migration."""
        return self.bytes / MIB / self.seconds

    @property
    def sent_per_byte(self) -> float:
        """How many times its memory was sent."""
        return self.bytes / self.guest_bytes

    def cpu_per_gib(self, side: str, *programs: str) -> float:
        """CPU seconds per GiB transferred, of ``programs`` on one side, or of all."""
        used = self.cpu_seconds.get(side, {})
        return sum(used.get(program, 0.0) for program in programs or used) / (self.bytes / GIB)

    def is_within(self, downtime_limit: float) -> bool:
        """Whether it converged, with the guest standing still for no longer than may be."""
        stood = self.downtime_seconds
        return self.converged and stood is not None and stood <= TOLERANCE * downtime_limit


@dataclass(frozen=True)
class Convergence:
    """The highest rate at which a guest may write so that a mode still converges, as found in one round.

    ``dirty_bytes_per_s`` is what the guest really wrote there, ``asked_bytes_per_s`` what it was told to;
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
        """Whether nothing was tried that did not converge: the limit is at least this."""
        return self.asked_bytes_per_s + self.step_bytes_per_s > self.highest_bytes_per_s


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

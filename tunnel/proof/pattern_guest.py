"""The pattern guest: its image with a workload patched in, and the parser of its state block.

The guest itself is ``guest.asm``, shipped assembled as ``guest.bin``; the layouts here mirror the ones
there. The contents of the filled pages at any stop point follow from the state alone: see ``pattern.py``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from importlib.resources import files

from tunnel.errors import VerificationError
from tunnel.units import MIB

PAGE = 4096
STATE_ADDRESS = 0x101000
FIRST_PATTERN_ADDRESS = 0x200000
TICKS_PER_SECOND = 100
SERIAL_READY = b"BFT"  # booted, filled, first timer tick seen

_PARAMETER_MAGIC = b"MTGPARAM"
_PARAMETERS = struct.Struct("<QQQ")
_STATE_MAGIC = b"MTGSTATE"
_STATE = struct.Struct("<8sIIQQQQQ8x")
_REGION = struct.Struct("<QQ")
_MAX_REGIONS = 16
_FLAT_OUT = (1 << 64) - 1
_ADDRESS_LIMIT = 64 << 30  # mapped by the guest
_TAG_SHIFT = 48  # above all physical addresses, so that tag + address never carries


@dataclass(frozen=True, slots=True)
class Workload:
    """The guest's workload after it has filled its memory.

    ``working_set`` bytes at the start of the filled memory are dirtied cyclically, one counter per page, at
    ``dirty_rate`` bytes per second (a page counts as 4096): 0 = never, None = at full speed. ``seed`` (1 to
    65535) is part of every word and distinguishes two guests.
    """

    working_set: int = 64 * MIB
    dirty_rate: int | None = 0
    seed: int = 0x4D54


class GuestPhase(IntEnum):
    """The guest's progress."""

    BOOTED = 1
    FILLED = 2


@dataclass(frozen=True, slots=True)
class Region:
    """A run of filled pages: physical addresses, ``end`` excluded."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class GuestState:
    """The guest's state block. ``filled`` and ``working_set`` count pages, ``ticks`` hundredths of a second.

    ``dirtied`` counts every increment of a page counter since the fill; the page being incremented at the
    stop point may already be one ahead of it.
    """

    phase: GuestPhase
    filled: int
    working_set: int
    dirtied: int
    ticks: int
    tag: int
    regions: tuple[Region, ...]

    @property
    def passes(self) -> int:
        """The number of complete passes of the cursor over the working set."""
        return self.dirtied // self.working_set if self.working_set else 0

    @property
    def cursor(self) -> int:
        """The index, among the filled pages, of the next page to increment."""
        return self.dirtied % self.working_set if self.working_set else 0

    def slices(self, size: int) -> Iterator[tuple[int, int]]:
        """Yield the filled memory as ``(address, length)`` of at most ``size`` bytes, each in one region."""
        for region in self.regions:
            for address in range(region.start, region.end, size):
                yield address, min(size, region.end - address)


def build_image(workload: Workload) -> bytes:
    """Return the Multiboot image of a guest with this workload, for ``-kernel`` or libvirt's ``<kernel>``."""
    image = bytearray(files("tunnel.proof").joinpath("guest.bin").read_bytes())
    rate = _FLAT_OUT if workload.dirty_rate is None else workload.dirty_rate // PAGE
    pages = workload.working_set // PAGE if rate else 0
    where = image.index(_PARAMETER_MAGIC) + len(_PARAMETER_MAGIC)
    _PARAMETERS.pack_into(image, where, pages, rate, workload.seed << _TAG_SHIFT)
    return bytes(image)


def parse_state(block: bytes) -> GuestState:
    """Parse the page at ``STATE_ADDRESS``.

    Raises VerificationError when it is not the state block of a pattern guest, or is inconsistent.
    """
    magic, phase, count, filled, working_set, dirtied, ticks, tag = _STATE.unpack_from(block)
    if magic != _STATE_MAGIC:
        raise VerificationError(
            f"not a pattern guest: the state block at {STATE_ADDRESS:#x} starts with {magic.hex()}, "
            f"expected {_STATE_MAGIC.hex()}"
        )
    if phase not in tuple(GuestPhase) or count > _MAX_REGIONS:
        raise VerificationError(f"the guest's state block is damaged: phase {phase}, {count} regions")
    table = block[_STATE.size : _STATE.size + count * _REGION.size]
    regions = tuple(Region(start, end) for start, end in _REGION.iter_unpack(table))
    state = GuestState(GuestPhase(phase), filled, working_set, dirtied, ticks, tag, regions)
    _check_sense(state)
    return state


def _check_sense(state: GuestState) -> None:
    pages = sum(region.end - region.start for region in state.regions) // PAGE
    sound = all(
        FIRST_PATTERN_ADDRESS <= region.start < region.end <= _ADDRESS_LIMIT
        and (region.start | region.end) % PAGE == 0
        for region in state.regions
    )
    sound &= state.tag % (1 << _TAG_SHIFT) == 0
    sound &= state.phase is not GuestPhase.FILLED or state.working_set <= state.filled == pages
    if not sound:
        raise VerificationError(f"the guest's state block is damaged: {pages} pages in its regions, {state}")

"""Real QEMU guests for tests: a source, a destination, and verification after the migration.

A test that migrates a guest through its own relay::

    async with await Trial.start(tmp, 64 * MIB, BUSY) as trial:
        await trial.migrate("tcp:127.0.1.2:49152", "tcp:127.0.0.1:49152")
        await trial.verify()

or uses the ``trial`` fixture, which is that guest; the ``conftest.py`` of its folder imports it from here.
"""

from __future__ import annotations

from array import array
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tunnel.proof.pattern_guest import PAGE, GuestPhase, GuestState, Region, Workload, build_image
from tunnel.proof.qemu import Machine, Qemu
from tunnel.proof.verified_pair import Trial
from tunnel.units import MIB
from tunnel.virt.move_options import MoveOptions

MEMORY = 64 * MIB
BUSY = Workload(working_set=16 * MIB, dirty_rate=16 * MIB)

# A guest this small converges immediately: so switch before the first pass ends, with a minimal downtime
# limit and a low bandwidth.
POSTCOPY = MoveOptions(
    postcopy=True, postcopy_preempt=None, bandwidth=4 * MEMORY, downtime_limit=0.001, switch_after=0
)
MULTIFD = MoveOptions(parallel=3)
PRECOPY = MoveOptions()


def mode_of(options: object) -> str:
    """Return a name for a parametrized test, "" for other parameters."""
    if not isinstance(options, MoveOptions):
        return ""
    return "postcopy" if options.postcopy else "multifd" if options.parallel else "precopy"


def small_machine(directory: Path, *extra: str) -> Machine:
    """Return the smallest machine that boots the guest, for tests that do not depend on its memory."""
    kernel = directory / "kernel"
    kernel.write_bytes(build_image(Workload()))
    return Machine(kernel, 16 * MIB, extra=extra)


@pytest.fixture
async def qemu(tmp: Path) -> AsyncIterator[Qemu]:
    """A QEMU that has just started."""
    async with await Qemu.start("guest", small_machine(tmp), tmp) as started:
        yield started


@pytest.fixture
async def trial(tmp: Path) -> AsyncIterator[Trial]:
    """A busy guest of 64 MiB that has filled its memory, and a QEMU that waits for it."""
    async with await Trial.start(tmp, MEMORY, BUSY) as started:
        yield started


def filled_state(*regions: Region, working_set: int = 0, dirtied: int = 0) -> GuestState:
    """Return the state of a fictitious guest that has filled ``regions``."""
    pages = sum(region.end - region.start for region in regions) // PAGE
    return GuestState(GuestPhase.FILLED, pages, working_set, dirtied, 100, 0x4D54 << 48, regions)


def filled_memory(state: GuestState, region: Region) -> bytearray:
    """Return the expected content of ``region``, computed word by word, independently of the verification."""
    index = 0
    for other in state.regions:
        if other == region:
            break
        index += (other.end - other.start) // PAGE
    words = array("Q")
    for address in range(region.start, region.end, PAGE):
        turns = range(index, state.dirtied, state.working_set) if index < state.working_set else ()
        words.append(len(turns))
        words.extend(state.tag + address + offset for offset in range(8, PAGE, 8))
        index += 1
    return bytearray(words.tobytes())

"""Verification of a guest's memory: every page, dumped through its monitor, compared with the pattern."""

from __future__ import annotations

import mmap
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tunnel.errors import HypervisorError, VerificationError
from tunnel.proof.pattern import BadPage, Pattern
from tunnel.proof.pattern_guest import PAGE, STATE_ADDRESS, GuestPhase, GuestState, parse_state
from tunnel.units import MIB
from tunnel.virt.polling import until
from tunnel.virt.qmp import Monitor

SLICE = 16 * MIB  # compared in about 10 ms, without a thread, which could outlive a cancelled caller
HEARTBEAT = 10.0
"""Seconds within which a running guest must tick."""

_SHOWN = 5
_ENOUGH = 1000  # bad pages after which the comparison stops

Progress = Callable[[int, int], None]  # pages done, pages in all


@dataclass(frozen=True, slots=True)
class Verified:
    """The result for correct memory: the number of pages compared, and the guest's state."""

    pages: int
    state: GuestState


async def read_state(monitor: Monitor, directory: Path) -> GuestState:
    """Return the guest's current state block; the guest may be running.

    QEMU must be able to write to ``directory``, an absolute path. Raises VerificationError when there is no
    state block, such as right after a start.
    """
    async with _memory(monitor, directory, STATE_ADDRESS, PAGE) as content:
        return parse_state(bytes(content))


async def wait_filled(monitor: Monitor, directory: Path, *, within: float) -> GuestState:
    """Wait until the guest has filled its memory. Raises HypervisorError after ``within`` seconds."""

    async def filled() -> GuestState | None:
        try:
            state = await read_state(monitor, directory)
        except VerificationError:  # the firmware is still running
            return None
        return state if state.phase is GuestPhase.FILLED else None

    try:
        return await until(filled, within=within, every=0.05)
    except TimeoutError:
        raise HypervisorError(f"{monitor.name}: the guest did not fill its memory in {within:g} s") from None


async def wait_heartbeat(
    monitor: Monitor, directory: Path, since: GuestState, *, within: float
) -> GuestState:
    """Wait until the guest ticks after ``since``. Raises HypervisorError after ``within`` seconds."""

    async def beating() -> GuestState | None:
        state = await read_state(monitor, directory)
        return state if state.ticks > since.ticks else None

    try:
        return await until(beating, within=within, every=0.02)
    except TimeoutError:
        raise HypervisorError(f"{monitor.name}: no heartbeat of the guest for {within:g} s") from None


async def verify_memory(
    monitor: Monitor, directory: Path, since: GuestState, progress: Progress | None = None
) -> Verified:
    """Compare every filled page of a STOPPED guest with the contents that follow from its state.

    ``since`` is an earlier state of the same guest: same memory, and not newer than the current state.
    Memory is dumped to ``directory`` in slices of 16 MiB. Raises VerificationError with the first bad pages,
    and HypervisorError when the guest is running.
    """
    if await monitor.status() == "running":
        raise HypervisorError(f"{monitor.name}: stop the guest before verifying its memory")
    state = await read_state(monitor, directory)
    _check_succession(since, state)
    pattern, bad, done = Pattern(state), list[BadPage](), 0
    for address, length in state.slices(SLICE):
        async with _memory(monitor, directory, address, length) as content:
            bad += pattern.bad_pages(address, content)
        done += length // PAGE
        if progress:
            progress(done, state.filled)
        if len(bad) >= _ENOUGH:
            break
    if bad:
        raise VerificationError(_describe(bad, done, state))
    return Verified(done, state)


async def verify_guest(
    monitor: Monitor,
    directory: Path,
    since: GuestState,
    progress: Progress | None = None,
    *,
    wake: bool | None = None,
    held: Callable[[], None] = lambda: None,
) -> Verified:
    """Verify that a guest is intact and running: stop it, ``verify_memory``, resume it, wait for a tick.

    ``wake``: whether to resume it, by default if it ran before. ``held`` is called while it is stopped, after
    QEMU has flushed its disks. Raises what ``verify_memory`` raises, and HypervisorError when its heartbeat
    has stopped.
    """
    ran = await monitor.status() == "running"
    await monitor.execute("stop")
    verified = await verify_memory(monitor, directory, since, progress)
    held()
    if ran if wake is None else wake:
        await monitor.execute("cont")
        await wait_heartbeat(monitor, directory, verified.state, within=HEARTBEAT)
    return verified


def _check_succession(before: GuestState, now: GuestState) -> None:
    if now.phase is not GuestPhase.FILLED:
        raise VerificationError("the guest has not filled its memory yet")
    if (before.regions, before.tag, before.working_set) != (now.regions, now.tag, now.working_set):
        raise VerificationError(f"this is a different guest: it was {before}, it is {now}")
    if now.ticks < before.ticks or now.dirtied < before.dirtied:
        raise VerificationError(
            f"the guest's counters went backwards: from tick {before.ticks} and {before.dirtied} increments "
            f"to tick {now.ticks} and {now.dirtied}"
        )


def _describe(bad: list[BadPage], seen: int, state: GuestState) -> str:
    shown = [f"  {page}" for page in bad[:_SHOWN]]
    if len(bad) > _SHOWN:
        shown.append(f"  … and {len(bad) - _SHOWN} more")
    head = (
        f"{len(bad)} of the {seen} pages compared are wrong "
        f"({state.filled} in all, pass {state.passes}, cursor {state.cursor}):"
    )
    return "\n".join([head, *shown])


@asynccontextmanager
async def _memory(monitor: Monitor, directory: Path, address: int, length: int) -> AsyncIterator[memoryview]:
    """Yield guest memory, valid inside the context: QEMU writes a file, which is mapped without a copy."""
    dump = directory / f"memory-{uuid.uuid4().hex}"
    try:
        await monitor.execute("pmemsave", {"val": address, "size": length, "filename": str(dump)})
        with _mapped(dump) as content:
            yield content
    finally:
        dump.unlink(missing_ok=True)


@contextmanager
def _mapped(path: Path) -> Iterator[memoryview]:
    try:
        with path.open("rb") as file:
            mapping = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    except (OSError, ValueError) as error:
        raise HypervisorError(f"cannot read the memory that QEMU wrote to {path}: {error}") from error
    with mapping, memoryview(mapping) as content:
        yield content

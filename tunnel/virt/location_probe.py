"""Where a guest is, by the monitors of the QEMU that it leaves and of the one that it goes to."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable

from tunnel.errors import HypervisorError
from tunnel.virt.guest_location import FINAL, Side, Where, judge
from tunnel.virt.polling import until
from tunnel.virt.qmp import Monitor, MonitorLost
from tunnel.virt.qmp_sample import QemuPhase, sample_of

HasEnded = Callable[[], Awaitable[bool]]

_SETTLE = 5.0  # seconds for the two sides to agree on where the guest runs
_EVERY = 0.15


async def look_at_source(monitor: Monitor, before: str) -> Side:
    """What the source's QEMU says of a guest that was ``before`` (running or paused) until it moved."""
    try:
        status, phase = await monitor.status(), await phase_of(monitor)
    except MonitorLost:
        return Side.GONE if await monitor.ended() else Side.UNKNOWN
    except HypervisorError:
        return Side.UNKNOWN
    if phase.broken:
        return Side.BROKEN
    if status == before:
        return Side.LEAVING if phase.under_way else Side.RUNS
    return Side.GONE if status == "postmigrate" else Side.HELD


async def look_at_destination(monitor: Monitor | None, before: str, ended: HasEnded | None = None) -> Side:
    """The same of the QEMU that waited.

    ``ended`` tells, once its monitor is lost, whether that QEMU has ended and not the way to it. Without, its
    socket does, which must not be a relay's then.
    """
    if monitor is None:
        return Side.UNKNOWN
    try:
        status, phase = await monitor.status(), await phase_of(monitor)
    except MonitorLost:
        has_ended = await monitor.ended() if ended is None else await ended()
        return Side.GONE if has_ended else Side.UNKNOWN
    except HypervisorError:
        return Side.UNKNOWN
    if phase.broken:
        return Side.BROKEN
    if status == before:
        return Side.RUNS
    return Side.GONE if status == "inmigrate" else Side.HELD


async def phase_of(monitor: Monitor) -> QemuPhase:
    """Where QEMU's migration stands, in or out; NONE when there was none since it started."""
    return sample_of(await monitor.execute("query-migrate")).phase


async def whereabouts(source: Monitor, destination: Monitor | None, before: str) -> Where:
    """Where the guest is, after giving both sides a moment to settle."""
    last = Where.UNKNOWN

    async def settled() -> Where | None:
        nonlocal last
        here, there = await look_at_source(source, before), await look_at_destination(destination, before)
        last = judge(here, there)
        return last if last in FINAL else None

    with contextlib.suppress(TimeoutError):
        return await until(settled, within=_SETTLE, every=_EVERY)
    return last

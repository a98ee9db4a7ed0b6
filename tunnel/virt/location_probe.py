"""The location of a guest, queried from the monitors of the source's and the destination's QEMU."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from tunnel.errors import HypervisorError
from tunnel.virt.guest_location import Side
from tunnel.virt.progress import QemuPhase, phase_in
from tunnel.virt.qmp import Monitor, MonitorLost

HasEnded = Callable[[], Awaitable[bool]]


async def look_at_source(monitor: Monitor, before: str) -> Side:
    """Return the guest's state at the source; ``before`` is its run state before the migration."""
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
    """Return the guest's state at the destination.

    When the monitor is lost, ``ended`` returns whether QEMU itself has ended rather than the path to it.
    Without ``ended``, the monitor's socket decides, which must not be that of a relay then.
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
    """Return the phase of QEMU's migration, incoming or outgoing; NONE if there was none since its start."""
    return phase_in(await monitor.execute("query-migrate"))

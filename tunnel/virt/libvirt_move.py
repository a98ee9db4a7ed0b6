"""A migration through libvirt, managed by the source's daemon ("p2p") or by this client ("direct")."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tunnel.errors import HypervisorError, TunnelError, UnreachableError
from tunnel.virt.guest_location import Side, Where, judge
from tunnel.virt.libvirt import LibvirtGuest, LibvirtHost, State
from tunnel.virt.libvirt_request import LibvirtRoute, flags, parameters
from tunnel.virt.move import PERIOD, MoveSummary
from tunnel.virt.move_options import MoveOptions
from tunnel.virt.progress import Progress, of_libvirt

STANDSTILL = 20.0
"""Seconds without a change on either side after which a post-copy that libvirt reported failed has ended.

A link detects a silent connection after 15.
"""

CRASHING = ((11, 2, 0), (11, 4, 0))
"""The first libvirt that crashes as destination when post-copy is resumed, and the first with the fix.

libvirt's NEWS, 11.4.0: "Fix virtqemud crash when resuming failed post-copy migration". Debian 13 has 11.3.0.
"""

T = TypeVar("T")

_RESUMABLE = {State.POSTCOPY, State.POSTCOPY_BROKEN}


class LibvirtMove:
    """A ``move.Move`` through libvirt.

    ``destination`` is this client's connection, ``uri`` what the source's libvirt connects to.
    """

    def __init__(
        self,
        guest: LibvirtGuest,
        destination: LibvirtHost,
        uri: str,
        options: MoveOptions,
        route: LibvirtRoute,
    ) -> None:
        self._guest = guest
        self._destination = destination
        self._uri = uri
        self._options = options
        self._route = route
        self._switching: asyncio.Task[None] | None = None
        self._before = State.RUNNING
        self._last: Progress | None = None

    async def prepare(self) -> None:
        """Record the current state of the guest.

        Raises HypervisorError when it cannot be migrated or has a job, and when the destination's libvirt
        would crash.
        """
        self._before = await self._guest.state()
        resumable = self._options.postcopy_resume and self._before in _RESUMABLE
        if self._before not in {State.RUNNING, State.PAUSED} and not resumable:
            raise HypervisorError(f"{self._guest.name} is {self._before}: nothing to migrate")
        if resumable:
            await require_surviving(self._destination)
        else:
            await require_idle(self._guest)

    async def run(self) -> MoveSummary:
        """Migrate."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        destination = self._uri if self._options.p2p else self._destination
        try:
            async with self._guest.iterations(self._passed):
                await self._guest.migrate(
                    destination, flags(self._options), parameters(self._options, self._route)
                )
        except HypervisorError:
            if not (self._options.postcopy_resume and await self._arrives()):
                raise
        return await self._summary(loop.time() - started)

    async def progress(self) -> Progress | None:
        """Return the progress reported by the source."""
        stats = await self._guest.job()
        if stats is None:
            return None
        moved_over = self._options.postcopy and await self._guest.state() in _RESUMABLE
        self._last = of_libvirt(stats, postcopy=moved_over)
        return self._last

    async def abort(self) -> None:
        """Abort at the source."""
        await self._guest.abort()

    async def start_postcopy(self) -> None:
        """Switch to post-copy at the source."""
        await self._guest.start_postcopy()

    async def suspend(self) -> None:
        """Pause the guest until it has arrived."""
        await self._guest.suspend()

    async def where(self) -> Where:
        """Return the side where it is active, in the state from before the migration."""
        here, there = await self._state(self._guest.host), await self._state(self._destination)
        side = self._side(here)
        if side is Side.RUNS:
            side = await self._side_of_running()
        return judge(side, self._side(there))

    async def _arrives(self) -> bool:
        """Return whether a guest arrives although libvirt reported that its resumed post-copy failed.

        libvirt 9 may report the previous failure, if it queries the destination before QEMU there has
        reported the new start. QEMU continues, and both libvirts see it complete. So this waits until the
        guest is gone from the source, or until nothing has changed for ``STANDSTILL``.
        """
        loop = asyncio.get_running_loop()
        last: tuple[object, ...] = ()
        since = loop.time()
        while loop.time() - since < STANDSTILL:
            here, there = await self._state(self._guest.host), await self._state(self._destination)
            if Side.GONE in {self._side(here), self._side(there)}:
                return self._side(here) is Side.GONE and self._side(there) is Side.RUNS
            if (seen := (here, there, await self._remaining())) != last:
                last, since = seen, loop.time()
            await asyncio.sleep(PERIOD)
        return False

    async def _remaining(self) -> int | None:
        with contextlib.suppress(TunnelError):
            progress = await self.progress()
            return progress.remaining if progress is not None else None
        return None

    def _passed(self, number: int) -> None:
        at = self._options.switch_at
        if at is not None and number >= at and self._switching is None:
            self._switching = asyncio.create_task(self._switch(), name="switch to post-copy")

    async def _switch(self) -> None:
        # It may have just arrived.
        with contextlib.suppress(HypervisorError):
            await self._guest.start_postcopy()

    async def _state(self, host: LibvirtHost) -> State | None:
        return await self._asked(host, lambda connected: connected.state_of(self._guest.name))

    async def _side_of_running(self) -> Side:
        """Return LEAVING if the guest, running at the source, is being migrated away, else RUNS."""

        async def operation(host: LibvirtHost) -> str:
            guest = await host.guest(self._guest.name)
            return "" if guest is None else await guest.operation() or ""

        found = await self._asked(self._guest.host, operation)
        if found is None:
            return Side.UNKNOWN
        return Side.LEAVING if found == "migration out" else Side.RUNS

    async def _asked(self, host: LibvirtHost, question: Callable[[LibvirtHost], Awaitable[T]]) -> T | None:
        """Query a libvirt, reconnecting once if it was restarted meanwhile; None when there is no reply."""
        with contextlib.suppress(UnreachableError, HypervisorError):
            return await question(host)
        with contextlib.suppress(UnreachableError, HypervisorError):
            async with await host.again() as anew:
                return await question(anew)
        return None

    def _side(self, state: State | None) -> Side:
        if state is None:
            return Side.UNKNOWN
        if state is State.POSTCOPY_BROKEN:
            return Side.BROKEN
        if state.gone:
            return Side.GONE
        paused = self._before is State.PAUSED and state is State.PAUSED
        return Side.RUNS if state is State.RUNNING or paused else Side.HELD

    async def _summary(self, seconds: float) -> MoveSummary:
        """Return the summary, from the destination's job statistics if available."""
        stats = {}
        with contextlib.suppress(TunnelError):
            arrived = await self._destination.guest(self._guest.name)
            stats = await arrived.completed_job() if arrived else {}
        final = of_libvirt(stats, postcopy=False) if stats else self._last
        return MoveSummary(
            seconds,
            final.expected_downtime if stats and final else None,
            final.sent if final else None,
            final.iteration if final else None,
            self._switching is not None or bool(self._last and self._last.postcopy),
        )


async def require_idle(guest: LibvirtGuest) -> None:
    """Raise HypervisorError when libvirt has a job on ``guest``; it runs one at a time."""
    if operation := await guest.operation():
        raise HypervisorError(
            f"{guest.name}: libvirt is already running another job ({operation}): wait until virsh "
            f"domjobinfo {shlex.quote(guest.name)} reports none"
        )


async def require_surviving(destination: LibvirtHost) -> None:
    """Raise HypervisorError when resuming post-copy would crash the libvirt of ``destination``."""
    version = await destination.version()
    if CRASHING[0] <= version < CRASHING[1]:
        name = ".".join(map(str, version))
        raise HypervisorError(
            f"libvirt {name} at {destination.uri} crashes when post-copy is resumed: update it to 11.4 or "
            'newer, or recover post-copy by hand (docs/libvirt.md, "Post-copy with libvirt 11.2 and 11.3"). '
            "If your distribution has fixed its package, use virsh migrate --postcopy --postcopy-resume"
        )

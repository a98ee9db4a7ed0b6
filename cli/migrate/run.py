"""The run of ``mtunnel migrate``: check, migrate, verify where the guest runs, report causes of failure."""

from __future__ import annotations

import asyncio
import contextlib
import posixpath
import time
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from typing import TypeAlias

from tunnel.cli.migrate.link_monitor import Cause, LinkMonitor
from tunnel.cli.migrate.order import MigrateArguments
from tunnel.cli.migrate.output import Announcer
from tunnel.cli.migrate.readiness import (
    CheckResult,
    check_callers,
    check_guest,
    check_hosts,
    check_link,
    check_name_free,
    check_redirects,
    check_streams,
    check_targets,
)
from tunnel.daemon import targets
from tunnel.daemon.libvirt_keepalives import SILENCE
from tunnel.daemon.uris import Entry, find_entry, find_routes, known_peer
from tunnel.errors import HypervisorError, MigrationError, RefusedError, TunnelError, UnreachableError
from tunnel.relay import egress
from tunnel.relay.address import TargetAddress
from tunnel.relay.link_plan import LinkState
from tunnel.virt.guest_location import Where, sentence
from tunnel.virt.identity import Identity, comparable, identify, require_guest, require_same
from tunnel.virt.libvirt import LibvirtHost
from tunnel.virt.libvirt_move import LibvirtMove
from tunnel.virt.libvirt_request import LibvirtRoute
from tunnel.virt.move import Ending, MigrationRunner, Move, settled
from tunnel.virt.qmp import Monitor
from tunnel.virt.qmp_move import QmpMove, require_capability, require_idle

UNVERIFIED = 5
"""The exit code when the guest has left the source but could not be verified at the destination."""

FAR_PATIENCE = egress.DEADLINE + 2.0
"""Timeout for the destination's monitor in seconds: long enough for the tunnel to report a failed dial."""

_Prepared: TypeAlias = tuple[Move, str]  # the move, and the route as text


class MigrationRun:
    """Executes one migration. ``interrupt`` may be called at any time, also before and after ``run``."""

    def __init__(self, order: MigrateArguments, announcer: Announcer) -> None:
        self._order = order
        self._announcer = announcer
        self._label = order.label
        self._tunnel = LinkMonitor(order.config.host.control, order.peer)
        self._conductor: MigrationRunner | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopped = False

    def interrupt(self) -> None:
        """Stop: immediately before the migration starts, with an orderly abort afterwards."""
        if self._conductor is not None:
            self._conductor.interrupt()
        elif self._task is not None and not self._stopped:
            self._stopped = True  # a second cancellation would interrupt the cleanup
            self._task.cancel()

    async def run(self) -> Where:
        """Migrate; return DESTINATION, or LEFT when the guest has left and its arrival cannot be verified.

        Raises TunnelError, with the exit code of the command, when the guest has not moved, CancelledError
        when interrupted before anything moves.
        """
        self._task = asyncio.current_task()
        async with AsyncExitStack() as stack:
            move, route = await self._prepared(stack)
            options = self._order.options
            self._conductor = MigrationRunner(move, self._announcer, options.timeout, options.timeout_action)
            return await self._recorded(self._carry(self._conductor, move, route))

    async def _prepared(self, stack: AsyncExitStack) -> _Prepared:
        prepare = self._libvirt if self._order.qmp is None else self._qmp
        try:
            move, route = await prepare(stack)
            await move.prepare()
        except (HypervisorError, UnreachableError) as error:
            raise await self._explained(error, type(error)) from error
        return move, route

    async def _recorded(self, carried: Coroutine[None, None, Where]) -> Where:
        """Log the start and the outcome on both hosts."""
        what = f"migration of {self._label} from {self._order.config.host.name} to {self._order.peer}"
        began = time.monotonic()
        await self._tunnel.record(f"{what} started")
        outcome = "internal error of mtunnel migrate"
        try:
            where = await carried
            outcome = "done" if where is Where.DESTINATION else f"not verified, exit code {UNVERIFIED}"
        except TunnelError as error:
            outcome = f"failed: {error}"
            raise
        finally:
            await self._tunnel.record(f"{what}, {time.monotonic() - began:.1f} s: {outcome}")
        return where

    async def _carry(self, conductor: MigrationRunner, move: Move, route: str) -> Where:
        here, there = self._order.config.host.name, self._order.peer
        try:
            with self._announcer.moving(self._label, route, lambda: self._tunnel.rate):
                ending = await conductor.run()
        except HypervisorError as error:
            text = sentence(await settled(move), here, there)
            raise await self._explained(error, MigrationError, text) from error
        where = await settled(move)
        text = sentence(where, here, there)
        if where in {Where.DESTINATION, Where.LEFT}:
            result = "done" if where is Where.DESTINATION else "unverified"
            self._announcer.ended(result, where, text, conductor.summary)
            return where
        if ending is Ending.ABORTED and where in {Where.SOURCE, Where.STAYED}:
            raise MigrationError(f"Aborted. {text}")
        raise await self._explained(
            HypervisorError(f"migration {ending}, but not verified"), MigrationError, text
        )

    async def _explained(self, error: TunnelError, kind: type[TunnelError], where: str = "") -> TunnelError:
        """Return ``error`` with the location of the guest and the incidents of the link.

        It is of ``kind``, unless the incidents show that a refusal or the link was the cause.
        """
        news = await self._tunnel.news()
        lines = [str(error), where, *(f"The tunnel reports: {each.text}" for each in news)]
        text = "\n".join(filter(None, lines))
        if news and not await self._is_up():
            return UnreachableError(text)
        causes = {each.cause for each in news}
        if Cause.REFUSAL in causes:
            return RefusedError(text)
        return UnreachableError(text) if Cause.ABSENCE in causes else kind(text)

    async def _is_up(self) -> bool:
        with contextlib.suppress(TunnelError):
            return (await self._tunnel.link())["state"] == LinkState.UP
        return False

    async def _check_link(self, stack: AsyncExitStack, *uris: str) -> None:
        """Check that the link is up and ``uris`` lead to it; later errors include its incidents."""
        self._announcer.check(await check_link(self._tunnel))
        await check_redirects(self._tunnel, uris)
        await stack.enter_async_context(self._tunnel.watching())

    async def _check_targets(self, wanted: Sequence[TargetAddress]) -> None:
        """Check that the peer allows all targets of the migration."""
        self._announcer.check(await check_targets(self._tunnel, self._order.config.host.name, wanted))

    async def _check_room(self, disks: int) -> None:
        needed = self._order.streams(disks)
        self._announcer.check(await check_streams(self._tunnel, needed, self._order.options.parallel))

    # Through libvirt.

    async def _libvirt(self, stack: AsyncExitStack) -> _Prepared:
        order = self._order
        name = order.guest or ""
        routes = find_routes(order.config, order.peer, name, order.via)
        disks = order.options.copy_storage is not None
        route = routes.require_way(disks=disks)
        uri = routes.require_libvirt(order.desturi)
        ram = targets.of_way(order.config, order.peer, route, disks=disks)
        await self._check_link(stack, uri, route.migrate_uri)
        await self._check_targets([*targets.of_libvirt(order.config, order.peer, uri), *ram])
        source = await stack.enter_async_context(await LibvirtHost.connect(order.connect))
        silence = order.config.transport.resume_window + SILENCE  # libvirt must tolerate as much as the link
        destination = await stack.enter_async_context(await LibvirtHost.connect(uri, silence=silence))
        self._announcer.check(await check_hosts(source, destination))
        guest, finding = await check_guest(source, name, resume=order.options.postcopy_resume)
        self._announcer.check(finding)
        if not order.options.postcopy_resume:
            self._announcer.check(await check_name_free(guest, destination))
        if order.options.parallel or disks:
            ingresses = targets.ingresses_of(order.config, order.peer, route, disks=disks)
            await check_callers(guest, ingresses)
        await self._check_room(await guest.disks() if disks else 0)
        way = LibvirtRoute(route.migrate_uri, route.listen_address, route.disks_port, route.disks_uri)
        return LibvirtMove(guest, destination, uri, order.options, way), route.migrate_uri

    # Without it.

    async def _qmp(self, stack: AsyncExitStack) -> _Prepared:
        order = self._order
        known_peer(order.config, order.peer)
        # Local mistakes are reported before anything is contacted.
        uris = [] if order.guest is None else [self._entry(order.guest).uri]
        await self._check_link(stack, *uris)
        source = await self._monitor(stack, "source")
        found = await identify(source)
        require_guest(order.guest, found, source.name)
        await require_idle(source)  # before the destination's monitor, which another migration may hold
        self._label = found.name or order.label
        entry = self._entry(order.guest or found.name)
        await check_redirects(self._tunnel, [entry.uri])
        await self._check_targets(targets.of_qemu(order.config, order.peer, entry, self._far_monitor))
        destination = await self._destination(stack, found, entry)
        if order.options.postcopy_preempt:
            for side in filter(None, (source, destination)):
                await require_capability(side, "postcopy-preempt")
        self._announcer.check(CheckResult("guest", f"{found} is {await source.status()}"))
        await self._check_room(0)
        ended = self._tunnel.held if self._is_relayed else None
        move = QmpMove(source, destination, entry.uri, entry.listen, order.options, destination_ended=ended)
        return move, entry.uri

    def _entry(self, guest: str | None) -> Entry:
        order = self._order
        return find_entry(order.config, order.peer, order.via, guest, self._far_monitor)

    @property
    def _far_monitor(self) -> str:
        """The path of the destination's QMP socket, normalized as in an ingress."""
        path = self._order.dest_qmp
        return posixpath.normpath(path.absolute()) if path else ""

    @property
    def _is_relayed(self) -> bool:
        """Whether that socket is an ingress instead of a QEMU's own."""
        monitor = f"unix:{self._far_monitor}"
        return any(str(ingress.listen) == monitor for ingress in self._order.config.ingresses)

    async def _destination(self, stack: AsyncExitStack, source: Identity, entry: Entry) -> Monitor | None:
        """Return the monitor of the waiting QEMU, if given, after checking that it waits for this guest."""
        if self._order.dest_qmp is None:
            self._announcer.notice(
                f"without --dest-qmp, the QEMU on {self._order.peer} must listen on {entry.listen} with the "
                f"same capabilities, and the guest cannot be verified there: exit code {UNVERIFIED}"
            )
            return None
        destination = await self._monitor(stack, "destination")
        waiting = await identify(destination)
        require_same(source, waiting, destination.name)
        if not comparable(source, waiting):
            self._announcer.notice(
                f"{destination.name} is waiting for {waiting}: cannot verify that it is for {source}"
            )
        return destination

    async def _monitor(self, stack: AsyncExitStack, side: str) -> Monitor:
        path = self._order.qmp if side == "source" else self._order.dest_qmp
        assert path is not None  # noqa: S101  called only if given
        patience = FAR_PATIENCE if side == "destination" and self._is_relayed else 5.0
        monitor = await Monitor.reach(path, f"{side} ({path})", within=patience)
        return await stack.enter_async_context(monitor)

"""What ``mtunnel migrate`` does: look first, move the guest, see where it runs, name what went wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import TypeAlias

from tunnel.cli.announcer import Announcer
from tunnel.cli.order import Order
from tunnel.cli.readiness import (
    Finding,
    check_guest,
    check_hosts,
    check_link,
    check_name_free,
    check_targets,
)
from tunnel.cli.tunnelwatch import TunnelWatch, is_refusal
from tunnel.daemon import targets
from tunnel.daemon.uris import find_entry, find_routes
from tunnel.errors import HypervisorError, MigrationError, RefusedError, TunnelError, UnreachableError
from tunnel.relay.address import TargetAddress
from tunnel.virt.libvirt import Host
from tunnel.virt.libvirtmove import LibvirtMove
from tunnel.virt.migration import Mode, Options
from tunnel.virt.move import Conductor, Ending, Where, sentence, settled
from tunnel.virt.qmp import Monitor
from tunnel.virt.qmpmove import QmpMove, require_capability
from tunnel.virt.request import Request

_Prepared: TypeAlias = tuple[LibvirtMove | QmpMove, str]  # the move, and the route in words


class Migration:
    """One order carried out. ``interrupt`` may be called at any time, also before and after ``run``."""

    def __init__(self, order: Order, announcer: Announcer) -> None:
        self._order = order
        self._announcer = announcer
        self._tunnel = TunnelWatch(order.config.host.control, order.peer)
        self._conductor: Conductor | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopped = False

    def interrupt(self) -> None:
        """Stop: at once while nothing moves, in order when something does."""
        if self._conductor is not None:
            self._conductor.interrupt()
        elif self._task is not None and not self._stopped:
            self._stopped = True  # cancelled twice, it could not put its things away
            self._task.cancel()

    async def run(self) -> None:
        """Carry it out. Raises TunnelError, whose exit code is the command's, unless the guest has moved.

        When interrupted before anything moves: CancelledError.
        """
        self._task = asyncio.current_task()
        async with AsyncExitStack() as stack:
            prepare = self._libvirt if self._order.qmp is None else self._qmp
            move, route = await prepare(stack)
            await stack.enter_async_context(self._tunnel.watching())
            await move.prepare()
            order = self._order
            self._conductor = Conductor(move, self._announcer, order.timeout, order.timeout_action)
            await self._carry(self._conductor, move, route)

    async def _carry(self, conductor: Conductor, move: LibvirtMove | QmpMove, route: str) -> None:
        here, there = self._order.config.host.name, self._order.peer
        try:
            with self._announcer.moving(self._order.label, route, lambda: self._tunnel.rate):
                ending = await conductor.run()
        except HypervisorError as error:
            words = "" if isinstance(error, MigrationError) else sentence(await settled(move), here, there)
            raise await self._explained(error, words) from error
        where = await settled(move)
        words = sentence(where, here, there)
        if where not in {Where.DESTINATION, Where.LEFT}:
            if ending is Ending.ABORTED and where is Where.SOURCE:
                raise MigrationError(f"Aborted. {words}")
            raise await self._explained(HypervisorError(f"the migration {ending}, but"), words)
        self._announcer.ended("done", where, words, conductor.summary)

    async def _explained(self, error: TunnelError, where: str) -> TunnelError:
        """The same with where the guest runs, and with what the tunnel knows about the cause."""
        news = await self._tunnel.news()
        lines = [str(error), where, *(f"The tunnel says: {each['what']}: {each['reason']}" for each in news)]
        text = "\n".join(filter(None, lines))
        return await self._kind(news, text)

    async def _kind(self, news: list[Mapping[str, str]], text: str) -> TunnelError:
        try:
            state = (await self._tunnel.link())["state"]
        except TunnelError:
            state = "gone"
        if news and state != "up":
            return UnreachableError(text)
        return RefusedError(text) if any(map(is_refusal, news)) else MigrationError(text)

    async def _check_tunnel(self, wanted: Sequence[TargetAddress]) -> None:
        """The link is up, and the peer allows all that will be asked of it."""
        self._announcer.check(await check_link(self._tunnel))
        self._announcer.check(await check_targets(self._tunnel, self._order.config.host.name, wanted))

    # Through libvirt.

    async def _libvirt(self, stack: AsyncExitStack) -> _Prepared:
        order = self._order
        name = order.guest or ""
        routes = find_routes(order.config, order.peer, name, order.via)
        disks = order.copy_storage is not None
        way = routes.require_way(disks=disks)
        uri = routes.require_libvirt(order.desturi)
        request = Request(
            migrate_uri=way.migrate_uri,
            listen_address=way.listen_address,
            disks_port=way.disks_port,
            disks_uri=way.disks_uri,
            p2p=order.p2p,
            live=order.live,
            postcopy=order.postcopy,
            postcopy_resume=order.postcopy_resume,
            parallel=order.parallel,
            storage=order.copy_storage,
            persist=order.persist,
            undefine_source=order.undefine_source,
            bandwidth=order.bandwidth,
            auto_converge=order.auto_converge,
            tls_destination=order.tls_destination,
        )
        request.check()
        ram = targets.of_way(order.config, order.peer, way, disks=disks)
        await self._check_tunnel([*targets.of_libvirt(order.config, order.peer, uri), *ram])
        source = await stack.enter_async_context(await Host.connect(order.connect))
        destination = await stack.enter_async_context(await Host.connect(uri))
        self._announcer.check(await check_hosts(source, destination))
        guest, finding = await check_guest(source, name, resume=order.postcopy_resume)
        self._announcer.check(finding)
        if not order.postcopy_resume:
            self._announcer.check(await check_name_free(destination, name))
        move = LibvirtMove(guest, destination, uri, request, switch_later=order.switch_later)
        return move, way.migrate_uri

    # Without it.

    async def _qmp(self, stack: AsyncExitStack) -> _Prepared:
        order = self._order
        entry = find_entry(order.config, order.peer, order.via, order.guest, str(order.dest_qmp or ""))
        await self._check_tunnel(targets.of_qemu(order.config, order.peer, entry, str(order.dest_qmp or "")))
        source = await self._monitor(stack, "source")
        destination = await self._monitor(stack, "destination") if order.dest_qmp else None
        if order.postcopy_preempt:
            for side in filter(None, (source, destination)):
                await require_capability(side, "postcopy-preempt")
        if destination is None:
            self._announcer.notice(
                f"without --dest-qmp the QEMU at {order.peer} must wait at {entry.listen} with the same "
                "capabilities, and that the guest runs there cannot be verified"
            )
        self._announcer.check(Finding("guest", f"{order.label} is {await source.status()}"))
        return QmpMove(source, destination, entry.uri, entry.listen, qemu_options(order)), entry.uri

    async def _monitor(self, stack: AsyncExitStack, side: str) -> Monitor:
        path = self._order.qmp if side == "source" else self._order.dest_qmp
        assert path is not None  # noqa: S101  asked for only where there is one
        return await stack.enter_async_context(await Monitor.connect(path, f"{side} ({path})", within=5.0))


def qemu_options(order: Order) -> Options:
    """The same order in QEMU's terms."""
    mode = Mode.POSTCOPY if order.postcopy else Mode.MULTIFD if order.parallel else Mode.PRECOPY
    return Options(
        mode=mode,
        channels=order.parallel or 1,
        max_bandwidth=order.bandwidth,
        postcopy_after=None if order.switch_later else 1,
        return_path=order.return_path,
        preempt=order.postcopy_preempt,
        auto_converge=order.auto_converge,
    )

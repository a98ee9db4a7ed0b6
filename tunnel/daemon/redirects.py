"""The firewall redirects of a daemon's ingresses: installed, monitored, repaired, removed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

import structlog

from tunnel.daemon import aliases
from tunnel.errors import TunnelError, UsageError
from tunnel.host import nftables
from tunnel.host.nftables import Redirect, RedirectTable
from tunnel.net.sockets import reason_of
from tunnel.relay.ingress import Ingress

INTERVAL = 0.5
"""Seconds between two checks of the firewall: a single generation number, unless a table has changed."""

PROBE_INTERVAL = 10.0
"""Seconds between two probe connections while nothing changes."""

PATIENCE = 4.0
"""Timeout of an examination in seconds: less than that of a control command."""

_T = TypeVar("_T")
log = structlog.get_logger()


class Redirects:
    """The nftables table and the guard routes of a daemon's ingresses; none without redirects."""

    def __init__(self, host: str, ingresses: Sequence[Ingress]) -> None:
        self._table = RedirectTable(host)
        self._ingresses = [ingress for ingress in ingresses if ingress.redirection is not None]
        self._rules = list(_rules(self._ingresses))
        self._guarded = list(dict.fromkeys(rule.host for rule in self._rules if rule.exclusive))
        self._seen = b"", b""  # nftables generation and table fingerprint when the table was last correct
        self._installed = False
        self._was_installed = False
        self._found: dict[str, str] = {}
        self._asked = asyncio.Event()
        self._told: dict[str, str] = {}
        # nft is slow with a large firewall, so it runs on a thread; a single one, to keep the order.
        self._worker = ThreadPoolExecutor(1, "nft")

    async def install(self) -> None:
        """Install the redirects, replacing those of a previous daemon. Raises UsageError on failure."""
        if not self._rules:
            await self._run(self._discard)
            return
        await self._run(self._install)
        self._installed = self._was_installed = True
        log.info("ports are redirected", table=self._table.name, rules=len(self._rules))
        await self.examine()

    async def examine(self) -> dict[str, str]:
        """Probe every redirect with a connection; return the faults by the ingress address."""
        if self._installed:
            try:
                async with asyncio.timeout(PATIENCE):
                    await self._put_right()  # so that no probe can reach a hypervisor
                    await self._probe()
            except TimeoutError:
                return {str(each.plan.listen): "timed out waiting for nftables" for each in self._ingresses}
        return self._found

    def repair(self) -> None:
        """Request a reinstallation of the rules and routes, even if they appear correct."""
        self._asked.set()

    async def keep(self) -> None:
        """Repair external changes as soon as they are detected, and on request. Never returns."""
        loop = asyncio.get_running_loop()
        probe_at = loop.time() + PROBE_INTERVAL
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._asked.wait(), INTERVAL if self._installed else None)
            changed = await self._put_right()
            if self._asked.is_set():
                self._asked.clear()
                changed = self._installed and await self._try("repair", self._repair)
            if self._installed and (changed or loop.time() >= probe_at):
                await self._probe()
                probe_at = loop.time() + PROBE_INTERVAL

    async def clear(self) -> None:
        """Stop redirecting new connections, before the ingresses close; established ones are kept."""
        if self._installed:
            self._installed = False
            await self._try("clear", self._table.clear, self._rules)

    async def close(self) -> None:
        """Leave only the guard, after the last connection has closed."""
        if self._was_installed:
            self._was_installed = False
            await self._try("close", self._table.close, self._rules)
        self._worker.shutdown(wait=False)

    # Monitoring.

    async def _put_right(self) -> bool:
        """Check the rules and routes, and repair them if damaged; return whether they were repaired."""
        if not self._installed:
            return False
        damage = await self._run(self._damage)
        if not damage or not self._installed:  # cleared meanwhile
            repaired = False
        else:
            repaired = await self._try("repair", self._repair, damage=", ".join(damage))
        self._tell("guard", await self._run(self._unguarded))
        return repaired

    async def _probe(self) -> None:
        probes = {str(each.plan.listen): each.redirection for each in self._ingresses if each.redirection}
        reasons = await asyncio.gather(*(probe.examine() for probe in probes.values()))
        results = dict(zip(probes, reasons, strict=True))
        self._found = {listen: reason for listen, reason in results.items() if reason is not None}
        for listen in probes:
            self._tell(listen, self._found.get(listen, ""))

    def _tell(self, about: str, reason: str) -> None:
        """Log a fault once, and its end."""
        if reason and self._told.get(about) != reason:
            log.warning("not redirected", ingress=about, reason=reason)
        elif not reason and about in self._told:
            log.info("redirected again", ingress=about)
        self._told.pop(about, None)
        if reason:
            self._told[about] = reason

    async def _try(
        self, what: str, change: Callable[..., None], *arguments: object, damage: str = ""
    ) -> bool:
        try:
            await self._run(change, *arguments)
        except TunnelError as error:
            if self._told.get(what) != str(error):
                log.error("redirects not changed", wanted=what, error=str(error))
            self._told[what] = str(error)
            return False
        self._told.pop(what, None)
        if damage:
            log.warning("redirects changed", done=what, table=self._table.name, because=damage)
        else:
            log.info("redirects changed", done=what, table=self._table.name)
        return True

    async def _run(self, change: Callable[..., _T], *arguments: object) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._worker, change, *arguments)

    # In the thread.

    def _install(self) -> None:
        if problem := nftables.unavailable_reason():
            raise UsageError(problem)
        # The table with the guard first, as it marks the routes as ours; the redirects last.
        self._table.close(self._rules)
        aliases.install(self._guarded)
        self._table.install(self._rules)
        self._discard_routes()
        self._look()

    def _repair(self) -> None:
        self._table.repair(self._rules)
        aliases.install(self._guarded)
        self._look()

    def _look(self) -> None:
        """Record the generation and fingerprint of the correct table."""
        try:
            generation = nftables.generation()
            self._seen = generation, self._table.fingerprint()
        except OSError as error:
            raise UsageError(
                f"cannot watch the nftables table {self._table.name}: {reason_of(error)}"
            ) from None

    def _damage(self) -> list[str]:
        """Return external changes of our table and routes. Other changes of the firewall are ignored."""
        found = []
        if any(each.no_route for each in aliases.unguarded(self._guarded)):
            found.append("a guard route was removed")
        with suppress(OSError):  # timeout: the next check will find it
            generation, fingerprint = nftables.generation(), b""
            if generation != self._seen[0]:
                fingerprint = self._table.fingerprint()
                if fingerprint != self._seen[1]:
                    found.append("the table was changed" if self._table.exists() else "the table was removed")
                else:
                    self._seen = generation, fingerprint
        return found

    def _unguarded(self) -> str:
        return "; ".join(each.reason for each in aliases.unguarded(self._guarded))

    def _discard(self) -> None:
        """Remove the table and routes of a previous configuration that had redirects."""
        with suppress(OSError):  # without CAP_NET_ADMIN
            try:
                if self._table.exists():
                    self._table.remove()
                    log.info("a redirect that is no longer configured was removed", table=self._table.name)
                self._discard_routes()
            except UsageError as error:
                log.warning("a redirect that is no longer configured was not removed", reason=str(error))

    def _discard_routes(self) -> None:
        try:
            aliases.discard(self._table, self._guarded)
        except (OSError, UsageError) as error:
            log.warning("guards that are no longer configured were not removed", reason=str(error))


def _rules(ingresses: Sequence[Ingress]) -> Iterator[Redirect]:
    for ingress in ingresses:
        alias, port = ingress.plan.alias, ingress.port
        if alias is not None and port is not None:
            first, last, comment = alias.first_port, alias.last_port, f"leads to {ingress.peer}"
            yield Redirect(alias.host, first, last, port, comment, exclusive=ingress.plan.guarded)

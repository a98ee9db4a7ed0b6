"""The redirection of ingresses, from the start of the daemon to its end: put in place, watched, put right."""

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
"""Seconds between two looks at the firewall: one number, unless somebody has changed a table."""

PROBE_INTERVAL = 10.0
"""Seconds between two probe connections, while nothing has changed."""

PATIENCE = 4.0
"""Seconds that an examination may take: less than a control command may."""

_T = TypeVar("_T")
log = structlog.get_logger()


class Redirects:
    """One table and some routes for the ingresses of a daemon; none when there is nothing to redirect."""

    def __init__(self, host: str, ingresses: Sequence[Ingress]) -> None:
        self._table = RedirectTable(host)
        self._ingresses = [ingress for ingress in ingresses if ingress.redirection is not None]
        self._rules = list(_rules(self._ingresses))
        self._guarded = list(dict.fromkeys(rule.host for rule in self._rules if rule.exclusive))
        self._seen = b"", b""  # nftables' generation when the table was as it must be, and how that looks
        self._installed = False
        self._was_installed = False
        self._found: dict[str, str] = {}
        self._asked = asyncio.Event()
        self._told: dict[str, str] = {}
        # nft takes long where the firewall is large, so it has a thread; one, so that nothing overtakes.
        self._worker = ThreadPoolExecutor(1, "nft")

    async def install(self) -> None:
        """Let the callers come, in place of what a predecessor left. UsageError when that cannot be had."""
        if not self._rules:
            await self._run(self._discard)
            return
        await self._run(self._install)
        self._installed = self._was_installed = True
        log.info("ports are redirected", table=self._table.name, rules=len(self._rules))
        await self.examine()

    async def examine(self) -> dict[str, str]:
        """Try every redirect by a connection of our own: what is wrong, by the address of the ingress."""
        if self._installed:
            try:
                async with asyncio.timeout(PATIENCE):
                    await self._put_right()  # so that no probe can meet a hypervisor
                    await self._probe()
            except TimeoutError:
                return {str(each.plan.listen): "nftables does not answer" for each in self._ingresses}
        return self._found

    def repair(self) -> None:
        """Ask for everything to be put in place again, whether it looks right or not."""
        self._asked.set()

    async def keep(self) -> None:
        """Put right what somebody has changed, as soon as it is seen, and on request. Never returns."""
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
        """Lead no more callers here, before the ingresses close; who came stays connected."""
        if self._installed:
            self._installed = False
            await self._try("clear", self._table.clear, self._rules)

    async def close(self) -> None:
        """Leave only the guard, after the last connection is over."""
        if self._was_installed:
            self._was_installed = False
            await self._try("close", self._table.close, self._rules)
        self._worker.shutdown(wait=False)

    # Watching.

    async def _put_right(self) -> bool:
        """Look whether all is in place, and put it there; whether there was anything to do."""
        if not self._installed:
            return False
        damage = await self._run(self._damage)
        if not damage or not self._installed:  # cleared meanwhile: this thread does one after the other
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
        """Log what is wrong once, and when it is over."""
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
        # The guard first, which tells other daemons whose the routes are; the way in when both are there.
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
        """Remember how the firewall looks while all is right."""
        try:
            generation = nftables.generation()
            self._seen = generation, self._table.fingerprint()
        except OSError as error:
            raise UsageError(
                f"cannot watch the nftables table {self._table.name}: {reason_of(error)}"
            ) from None

    def _damage(self) -> list[str]:
        """What somebody has changed. A change elsewhere in the firewall is none."""
        found = []
        if any(reason.startswith("no route") for _, reason in aliases.unguarded(self._guarded)):
            found.append("a guard's route was removed")
        with suppress(OSError):  # no answer in time: the next look will tell
            generation, fingerprint = nftables.generation(), b""
            if generation != self._seen[0]:
                fingerprint = self._table.fingerprint()
                if fingerprint != self._seen[1]:
                    found.append("the table was changed" if self._table.exists() else "the table was removed")
                else:
                    self._seen = generation, fingerprint
        return found

    def _unguarded(self) -> str:
        return "; ".join(reason for _, reason in aliases.unguarded(self._guarded))

    def _discard(self) -> None:
        """Remove what a predecessor left for a configuration that had redirects."""
        with suppress(OSError):  # without CAP_NET_ADMIN: whoever made it had that
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

"""The firewall rules of all redirect ingresses, from the start of the daemon to its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import structlog

from tunnel.errors import TunnelError
from tunnel.relay.address import RedirectAddress
from tunnel.relay.ingress import Ingress
from tunnel.transport.nftables import Redirect, RedirectTable

log = structlog.get_logger()


class Redirects:
    """One table for the ingresses of a daemon; nothing at all when none of them redirects."""

    def __init__(self, host: str, ingresses: Sequence[Ingress]) -> None:
        self._table = RedirectTable(host)
        self._rules = list(_rules(ingresses))
        self._installed = False
        self._asked = asyncio.Event()
        # nft takes long where the firewall is large, so it has a thread; one, so that nothing overtakes.
        self._worker = ThreadPoolExecutor(1, "nft")

    async def install(self) -> None:
        """Let the callers come. Raises UsageError when the rules cannot be had."""
        if self._rules:
            await self._run(self._table.install, self._rules)
            self._installed = True
            log.info("ports are redirected", table=self._table.name, rules=len(self._rules))

    def repair(self) -> None:
        """Ask for the rules to be put in place again."""
        self._asked.set()

    async def keep(self) -> None:
        """Put the rules in place again whenever that is asked for. Never returns."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            if self._rules:
                await self._try("repair", self._table.repair, self._rules)

    async def clear(self) -> None:
        """Lead no more callers here, before the ingresses close; who came stays connected."""
        if self._installed:
            await self._try("clear", self._table.clear)

    async def remove(self) -> None:
        """Take the table away, after the last connection is over."""
        if self._installed:
            await self._try("remove", self._table.remove)
            self._installed = False
        self._worker.shutdown(wait=False)

    async def _try(self, what: str, change: Callable[..., None], *arguments: object) -> None:
        try:
            await self._run(change, *arguments)
        except TunnelError as error:
            log.error("redirects not changed", wanted=what, error=str(error))
        else:
            log.info("redirects changed", done=what, table=self._table.name)

    async def _run(self, change: Callable[..., None], *arguments: object) -> None:
        await asyncio.get_running_loop().run_in_executor(self._worker, change, *arguments)


def _rules(ingresses: Sequence[Ingress]) -> Iterator[Redirect]:
    for ingress in ingresses:
        match ingress.plan.listen, ingress.port:
            case RedirectAddress(host, first, last), int(port):
                yield Redirect(host, first, last, port, f"leads to {ingress.peer}")

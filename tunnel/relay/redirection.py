"""Check with a probe connection that an alias is redirected to our listener."""

from __future__ import annotations

import asyncio
import socket

from tunnel.errors import RefusedError
from tunnel.net.conntrack import original_source
from tunnel.net.sockets import discard_unsent, name_of, reason_of
from tunnel.relay.address import RedirectAddress

DEADLINE = 3.0
"""Seconds within which a probe must arrive: local, but possibly behind many clients."""


class Redirection:
    """The probes of one ingress. They carry no data and are not counted as clients."""

    def __init__(self, alias: RedirectAddress) -> None:
        self._alias = alias
        self._expected: dict[tuple[str, int], asyncio.Future[None]] = {}

    async def examine(self, within: float = DEADLINE) -> str | None:
        """Connect to the first port of the range. Return None if the probe arrives here, else the reason.

        Use it only with a guard behind the redirect: otherwise the probe may reach a hypervisor that waits
        for a migration.
        """
        where = (self._alias.host, self._alias.first_port)
        arrived: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        why = ""
        try:
            async with asyncio.timeout(within):
                await self._call(where, arrived)
        except TimeoutError:
            pass
        except OSError as error:  # also EMFILE
            why = f": {reason_of(error)}"
        # A probe that arrives is reset, and that error may come first.
        if arrived.done() and not arrived.cancelled():
            return None
        return f"a probe connection to {name_of(where)} did not arrive{why}"

    async def _call(self, where: tuple[str, int], arrived: asyncio.Future[None]) -> None:
        with socket.socket() as caller:
            caller.setblocking(False)
            # Hypervisors may need the same port: they set SO_REUSEADDR as well.
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            discard_unsent(caller)
            caller.bind(("127.0.0.1", 0))
            name = caller.getsockname()
            self._expected[name] = arrived
            try:
                await asyncio.get_running_loop().sock_connect(caller, where)
                await arrived
            finally:
                del self._expected[name]

    def is_own(self, sock: socket.socket) -> bool:
        """Whether an accepted connection is one of our probes; if so, record its arrival."""
        if not self._expected:
            return False
        try:
            arrived = self._expected.get(original_source(sock))
        except (RefusedError, OSError):
            return False
        if arrived is not None and not arrived.done():
            arrived.set_result(None)
        return arrived is not None

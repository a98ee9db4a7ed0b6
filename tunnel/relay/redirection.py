"""Whether connections to an alias come out at our listener: tried by one of our own."""

from __future__ import annotations

import asyncio
import socket

from tunnel.errors import RefusedError
from tunnel.net.conntrack import original_source
from tunnel.net.sockets import discard_unsent, name_of, reason_of
from tunnel.relay.address import RedirectAddress

DEADLINE = 3.0
"""Seconds until a probe must have arrived. It does not leave this host, but may wait among many callers."""


class Redirection:
    """The probes of one ingress. They carry no byte, and are no callers."""

    def __init__(self, alias: RedirectAddress) -> None:
        self._alias = alias
        self._expected: dict[tuple[str, int], asyncio.Future[None]] = {}

    async def examine(self, within: float = DEADLINE) -> str | None:
        """Connect to the first port of the range: None if that came here, otherwise what happened.

        Only where a guard stands behind the redirect: without one, a hypervisor that waits for a migration
        may be what answers.
        """
        where = (self._alias.host, self._alias.first_port)
        arrived: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        why = ""
        try:
            async with asyncio.timeout(within):
                await self._call(where, arrived)
        except TimeoutError:
            pass
        except OSError as error:  # also without a descriptor to try it with
            why = f": {reason_of(error)}"
        # One that has arrived is reset, and may have seen that first.
        if arrived.done() and not arrived.cancelled():
            return None
        return f"a probe connection to {name_of(where)} did not arrive{why}"

    async def _call(self, where: tuple[str, int], arrived: asyncio.Future[None]) -> None:
        with socket.socket() as caller:
            caller.setblocking(False)
            # The port is also one that hypervisors take: those ask for SO_REUSEADDR as well.
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
        """Whether an accepted connection is a probe of ours; then it has arrived."""
        if not self._expected:
            return False
        try:
            arrived = self._expected.get(original_source(sock))
        except (RefusedError, OSError):
            return False
        if arrived is not None and not arrived.done():
            arrived.set_result(None)
        return arrived is not None

"""Connecting to a host: all addresses of its name, as in RFC 8305, each with its own timeout."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Mapping
from math import inf
from types import MappingProxyType
from typing import Any, cast

from aiohappyeyeballs import AddrInfoType, start_connection

from tunnel.errors import UnreachableError
from tunnel.net.sockets import name_of, reason_of, socket_address

TIMEOUT = 5.0
"""Seconds for the resolver, and then for each address."""

DELAY = 0.25
"""Seconds after which the next address is tried in parallel (RFC 8305, section 5)."""

_OUT_OF_REACH = "is the host up, and the port open in all firewalls on the path?"
_ADVICE = {
    errno.ECONNREFUSED: "is mtunnel running there, with this port in host.listen?",
    errno.EHOSTUNREACH: _OUT_OF_REACH,  # also for ICMP "prohibited", which firewalls send
    errno.ETIMEDOUT: _OUT_OF_REACH,
}

Prepare = Callable[[socket.socket, str], None]
"""Called with each socket before it connects, and with its address. May raise OSError."""


async def connect(
    host: str, port: int, prepare: Prepare, failed: Mapping[str, float] = MappingProxyType({})
) -> socket.socket:
    """Return a connection to ``port`` of ``host``, a name or an address.

    ``failed`` has the time of the last unusable connection to an address: the most recent is tried last.
    Raises UnreachableError with each address that was tried and its error.
    """
    addresses = sorted(await _resolve(host, port), key=lambda info: failed.get(str(info[4][0]), -inf))
    attempts = _Attempts(prepare)
    try:
        return await start_connection(
            addresses,
            happy_eyeballs_delay=DELAY,
            loop=cast("asyncio.AbstractEventLoop", attempts),
            socket_factory=attempts.make_socket,
        )
    except (OSError, RuntimeError):  # uvloop raises RuntimeError as well
        raise UnreachableError(attempts.explain()) from None


async def _resolve(host: str, port: int) -> list[AddrInfoType]:
    try:
        if "%" in host:
            socket_address(host, port)  # the resolver would only report an unknown name
        async with asyncio.timeout(TIMEOUT):
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except TimeoutError:
        late = f"timed out after {TIMEOUT:g} s resolving the name"
        raise UnreachableError(late) from None
    except OSError as error:
        raise UnreachableError(reason_of(error)) from None
    if not found:
        raise UnreachableError("the name has no address")
    return list(dict.fromkeys(found))


class _Attempts:
    """Replaces the running loop, of which only ``sock_connect`` is used: adds a timeout and keeps errors."""

    def __init__(self, prepare: Prepare) -> None:
        self._loop = asyncio.get_running_loop()
        self._prepare = prepare
        self._faults: dict[str, OSError] = {}  # by address

    def make_socket(self, info: AddrInfoType) -> socket.socket:
        """Create the socket for an address. Raises OSError."""
        sock = None
        try:
            sock = socket.socket(info[0], socket.SOCK_STREAM)
            self._prepare(sock, str(info[4][0]))
        except OSError as error:
            if sock is not None:
                sock.close()
            self._faults[name_of(info[4])] = error
            raise
        return sock

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        """Connect within the timeout of an address. Raises OSError."""
        try:
            async with asyncio.timeout(TIMEOUT):
                await self._loop.sock_connect(sock, address)
        except TimeoutError as error:
            fault = error if error.errno else OSError(errno.ETIMEDOUT, "")  # the kernel's or ours
        except OSError as error:
            fault = error
        except RuntimeError as error:
            fault = OSError(str(error))
        else:
            return
        self._faults[name_of(address)] = fault
        raise fault

    def explain(self) -> str:
        """Return the error of each address, and what to check."""
        faults = list(self._faults.values())
        advice = next((text for number, text in _ADVICE.items() if number in {f.errno for f in faults}), "")
        advice = advice and f"; {advice}"
        if len(faults) == 1:
            [fault] = faults
            if fault.errno == errno.ETIMEDOUT:
                return f"timed out after {TIMEOUT:g} s{advice}"
            return f"{reason_of(fault)}{advice}"
        tried = [f"{address}: {reason_of(fault)}" for address, fault in self._faults.items()]
        return f"all addresses failed ({', '.join(tried)}){advice}"

"""A separate network namespace, where every TCP socket uses the same congestion control.

A system default of BBR paces even on loopback, and would dominate the measurement. Third-party programs have
no option for the algorithm, so their sockets take it from the route: inside a new namespace the loopback
routes have a ``congctl`` metric (``ip-route(8)``). The machine outside is never changed, and the namespace
ends with the last process in it, however that ends.
"""

from __future__ import annotations

import ctypes
import os
import socket
from dataclasses import dataclass

from pyroute2 import IPRoute, NetlinkError

from tunnel.errors import UsageError

_CLONE_NEWNET = 0x40000000  # linux/sched.h
_LOOPBACK_INDEX = 1  # lo is the first interface of every namespace
_TABLE_LOCAL = 255
_SCOPE_HOST = 254
_PROTO_KERNEL = 2


@dataclass(frozen=True)
class Network:
    """The network of the contestants: the congestion control of their sockets, and whether it is pinned."""

    congestion: str
    pinned: bool


def enter(congestion: str) -> Network:
    """Move this process, and its future children, into a new namespace with ``congestion`` pinned.

    Without root that is impossible: then the system default stays, and ``pinned`` is False. Raises UsageError
    when the kernel does not support ``congestion``.
    """
    if os.geteuid() != 0:
        return Network(effective_congestion(), pinned=False)
    _unshare_network()
    _pin(congestion)
    found = effective_congestion()
    if found != congestion:
        raise UsageError(f"sockets use congestion control {found}, but the routes have {congestion}")
    return Network(congestion, pinned=True)


def effective_congestion() -> str:
    """Return the congestion control of a new loopback TCP connection."""
    with (
        socket.create_server(("127.0.0.3", 0)) as server,
        socket.create_connection(server.getsockname(), timeout=5) as client,
    ):
        name = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
    return name.rstrip(b"\0").decode()


def _unshare_network() -> None:
    libc = ctypes.CDLL(None, use_errno=True)  # os.unshare() is new in Python 3.12
    if libc.unshare(_CLONE_NEWNET) != 0:
        raise UsageError(f"cannot create a network namespace: {os.strerror(ctypes.get_errno())}")


def _pin(congestion: str) -> None:
    with IPRoute() as routes:
        routes.link("set", index=_LOOPBACK_INDEX, state="up")
        for destination in ("127.0.0.0/8", "127.0.0.1/32"):
            try:
                routes.route(
                    "replace",
                    dst=destination,
                    oif=_LOOPBACK_INDEX,
                    table=_TABLE_LOCAL,
                    type="local",
                    scope=_SCOPE_HOST,
                    proto=_PROTO_KERNEL,
                    prefsrc="127.0.0.1",
                    metrics={"cc_algo": congestion},
                )
            except NetlinkError as error:
                raise UsageError(
                    f"the kernel does not accept congestion control {congestion}: {error}"
                ) from error

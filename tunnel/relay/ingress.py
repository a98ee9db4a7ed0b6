"""Local addresses that lead to a peer: who may come in, and in which order they are passed on."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import structlog

from tunnel.errors import RefusedError, TunnelError, UsageError
from tunnel.relay.address import ListenAddress, TargetAddress, TcpAddress, UnixAddress
from tunnel.relay.link import Link
from tunnel.transport.credentials import caller_uid, user_name
from tunnel.transport.listener import Listener, bind_tcp, bind_unix
from tunnel.transport.sockets import reset

SOCKET_MODE = 0o666
"""Of a unix socket: who may really use it is decided by uid, for each connection."""

LINK_DEADLINE = 10.0
"""Seconds that a connection waits for a link that is not up."""

MOST_WAITING = 256
"""Connections that may wait to be judged or for the link; more are reset at once."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class IngressPlan:
    """What one ``[[ingress]]`` asks for."""

    listen: ListenAddress
    target: TargetAddress
    uids: Collection[int]


class Ingress:
    """One listening address. Connections are judged and opened one by one, in the order they came."""

    def __init__(self, plan: IngressPlan, link: Link) -> None:
        self.plan = plan
        self.peer = link.peer
        self.accepted = 0
        self.refused = 0
        self._link = link
        self._queue: asyncio.Queue[tuple[socket.socket, float]] = asyncio.Queue(MOST_WAITING)
        self._listener = Listener(_bind(plan.listen), self._take)
        self._task = asyncio.create_task(self._run(), name=f"ingress {plan.listen}")

    async def close(self) -> None:
        """Take no more connections; those that wait are reset."""
        self._listener.close()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        while not self._queue.empty():
            reset(self._queue.get_nowait()[0])

    def _take(self, sock: socket.socket) -> None:
        """Judge a caller at once, while it is there to be judged."""
        try:
            self._judge(caller_uid(sock))
            self._queue.put_nowait((sock, asyncio.get_running_loop().time() + LINK_DEADLINE))
        except asyncio.QueueFull:
            self._refuse(sock, f"{MOST_WAITING} connections are waiting already")
        except (TunnelError, OSError) as error:
            self._refuse(sock, str(error))

    def _judge(self, uid: int) -> None:
        if uid not in self.plan.uids:
            allowed = ", ".join(sorted(user_name(u) for u in self.plan.uids))
            raise RefusedError(f"user {user_name(uid)} may not use this ingress ({allowed} may)")

    async def _run(self) -> None:
        while True:
            sock, deadline = await self._queue.get()
            try:
                await self._link.open(sock, str(self.plan.target), deadline)
                self.accepted += 1
            except (TunnelError, OSError) as error:
                self._refuse(sock, str(error))
            except asyncio.CancelledError:
                reset(sock)
                raise
            except Exception as error:  # one caller's trouble must not close the door to others
                log.exception("connection failed", ingress=str(self.plan.listen))
                self._refuse(sock, f"a fault of this daemon: {error!r}")

    def _refuse(self, sock: socket.socket, reason: str) -> None:
        self.refused += 1
        self._link.note("connection refused", reason, ingress=str(self.plan.listen))
        reset(sock)


def _bind(listen: ListenAddress) -> socket.socket:
    match listen:
        case TcpAddress():
            return bind_tcp(listen.host, listen.port)
        case UnixAddress():
            if not Path(listen.path).parent.is_dir():
                raise UsageError(f"cannot listen on {listen}: its directory does not exist")
            return bind_unix(listen.path, SOCKET_MODE)
        case _:
            raise UsageError(f"cannot listen on {listen}: redirect ingress is not in this version")

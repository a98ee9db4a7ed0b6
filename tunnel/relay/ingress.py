"""Local listen addresses that lead to a peer: which users may connect, and the order of their streams."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Collection, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

import structlog

from tunnel.errors import RefusedError, TunnelError, UnreachableError, UsageError
from tunnel.host.permissions import weakness_of_directory
from tunnel.host.reserved_ports import bind_reserved
from tunnel.host.users import local_names, user_name
from tunnel.net.conntrack import original_destination
from tunnel.net.listener import Listener, bind_tcp, bind_unix
from tunnel.net.peer_credentials import caller_uid
from tunnel.net.sockets import name_of, reset
from tunnel.net.token_bucket import Bucket, Rate
from tunnel.relay.address import ListenAddress, RedirectAddress, TargetAddress, TcpAddress, UnixAddress
from tunnel.relay.delayed_resets import DelayedResets
from tunnel.relay.incidents import IncidentKind
from tunnel.relay.redirection import Redirection
from tunnel.relay.timeouts import Timeouts
from tunnel.wire.codes import Code

LOOPBACK = "127.0.0.1"
"""Where the firewall redirects connections to, and the host part of their target at the peer."""

MOST_WAITING = 1024
"""Connections that may wait for the link, or for a stream to end; further ones are reset immediately."""

OPENED = Rate(512, 20)
"""Connections of one user: a stream costs both hosts a millisecond, and one user must not slow down others.
The burst allows for sixteen guests with sixteen channels each."""

log = structlog.get_logger()


class _Caller(NamedTuple):
    """An accepted connection, with the arguments of ``Link.open``."""

    sock: socket.socket
    target: str
    deadline: float
    uid: int


class _ForbiddenError(RefusedError):
    """A local user may not use the ingress."""

    def __init__(self, uid: int, reason: str) -> None:
        super().__init__(reason)
        self.uid = uid


@dataclass(frozen=True, slots=True)
class IngressPlan:
    """Settings of one ``[[ingress]]``. ``target`` None: 127.0.0.1 and the port that each client connected to.

    ``guarded``: no program can listen on its address, this one included, so all its clients are redirected.
    """

    listen: ListenAddress
    target: TargetAddress | None
    uids: Collection[int]
    guarded: bool = False
    timeouts: Timeouts = field(default_factory=Timeouts)

    @property
    def alias(self) -> RedirectAddress | None:
        """The address and ports to be redirected to the ingress; None if it listens there itself."""
        match self.listen:
            case RedirectAddress():
                return self.listen
            case TcpAddress(host, port) if self.guarded:
                return RedirectAddress(host, port, port)
        return None


class Carrier(Protocol):
    """The link with a peer, or the group of all its links."""

    peer: str

    @property
    def parallel(self) -> bool:
        """Whether streams to different targets are opened concurrently."""

    def open(
        self, sock: socket.socket, target: str, deadline: float, uid: int | None = None
    ) -> Coroutine[None, None, None]:
        """See ``Link.open``."""

    def note(self, kind: IncidentKind, reason: str, **details: object) -> None:
        """Log an incident for the operator, and record it for ``status``."""


class Ingress:
    """One listening address. Connections are checked one by one, and opened in the order of arrival.

    If they may use several sessions, that order holds for each target.
    """

    def __init__(self, plan: IngressPlan, link: Carrier) -> None:
        self.plan = plan
        self.peer = link.peer
        self.accepted = 0
        self.refused = 0
        self._link = link
        self._rates: dict[int, Bucket] = {}  # by uid, of allowed users
        local_names()  # cache the names that refusals need
        self._allowed = ", ".join(sorted(map(user_name, plan.uids)))
        self._queue: asyncio.Queue[_Caller] = asyncio.Queue(MOST_WAITING)
        self.redirection = Redirection(plan.alias) if plan.alias is not None else None
        sock = _bind(plan)
        self.port: int | None = None if sock.family == socket.AF_UNIX else sock.getsockname()[1]
        """The port bound: for a redirect, the one to which the firewall must redirect."""
        self._refused = DelayedResets(plan.timeouts.refusal)
        self._listener = Listener(sock, self._take)
        self._led: set[asyncio.Task[None]] = set()  # one for each client, if opened concurrently
        self._task = asyncio.create_task(self._run(), name=f"ingress {plan.listen}")

    @property
    def displaced(self) -> bool:
        """Whether its socket file was removed or replaced."""
        return self._listener.displaced

    async def close(self) -> None:
        """Accept no more connections; reset those that wait."""
        self._listener.close()
        tasks = [self._task, *self._led]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        while not self._queue.empty():
            reset(self._queue.get_nowait().sock)
        self._refused.close()

    def _take(self, sock: socket.socket) -> None:
        """Check a client immediately, while its credentials can be read."""
        if self.redirection is not None and self.redirection.is_own(sock):
            reset(sock)
            return
        try:
            target, uid = self._admit(sock)
            deadline = asyncio.get_running_loop().time() + self.plan.timeouts.link
            self._queue.put_nowait(_Caller(sock, target, deadline, uid))
        except asyncio.QueueFull:
            self._turn_away(sock, f"{MOST_WAITING} connections are already waiting")
        except _ForbiddenError as error:
            self._turn_away(sock, error.reason, uid=error.uid)
        except (TunnelError, OSError) as error:
            self._turn_away(sock, str(error))

    def _turn_away(self, sock: socket.socket, reason: str, **details: int) -> None:
        """Refuse a client, and have the listener bound the time spent on such clients."""
        self._listener.refused()
        self._refuse(sock, asyncio.get_running_loop().time(), reason, **details)

    def _admit(self, sock: socket.socket) -> tuple[str, int]:
        """Return the target and uid of a client. Raises RefusedError if it is not allowed."""
        alias, target = self.plan.alias, self.plan.target
        if alias is None:
            return str(target), self._judge(caller_uid(sock))
        wanted = _wanted(sock, alias)
        return str(target or TcpAddress(LOOPBACK, wanted[1])), self._judge(caller_uid(sock, wanted))

    def _judge(self, uid: int) -> int:
        if uid not in self.plan.uids:
            reason = f"user {user_name(uid)} may not use this ingress (allowed: {self._allowed})"
            raise _ForbiddenError(uid, reason)
        now = time.monotonic()
        if not self._rates.setdefault(uid, Bucket(OPENED, now)).take(now):
            most = f"a burst of {OPENED.burst:.0f}, then {OPENED.per_second:.0f} per second"
            raise _ForbiddenError(uid, f"user {user_name(uid)} exceeds the connection rate: {most}")
        return uid

    async def _run(self) -> None:
        while True:
            caller = await self._queue.get()
            if not self._link.parallel:
                await self._lead(caller)
                continue
            while len(self._led) >= MOST_WAITING:
                await asyncio.wait(self._led, return_when=asyncio.FIRST_COMPLETED)
            task = asyncio.create_task(self._lead(caller), name="caller")
            self._led.add(task)
            task.add_done_callback(self._led.discard)
            await asyncio.sleep(0)  # start the task: from then on it closes the connection when cancelled

    async def _lead(self, caller: _Caller) -> None:
        try:
            await self._link.open(*caller)
            self.accepted += 1
        except (TunnelError, OSError) as error:
            self._refuse(caller.sock, self._accepted_at(caller), str(error), uid=caller.uid, **_coded(error))
        except asyncio.CancelledError:
            reset(caller.sock)
            raise
        except Exception as error:  # must not stop the ingress for other clients
            log.exception("connection failed", ingress=str(self.plan.listen))
            self._refuse(caller.sock, self._accepted_at(caller), f"internal error: {error!r}", uid=caller.uid)

    def _accepted_at(self, caller: _Caller) -> float:
        return caller.deadline - self.plan.timeouts.link

    def _refuse(self, sock: socket.socket, accepted: float, reason: str, **details: int | str) -> None:
        self._refused.add(sock, accepted)
        self.refused += 1
        self._link.note(IncidentKind.CALLER_REFUSED, reason, ingress=str(self.plan.listen), **details)


def _bind(plan: IngressPlan) -> socket.socket:
    """Listen; for redirects on a port outside their range, as libvirt probes those ports by binding them."""
    if plan.alias is not None:
        return bind_reserved(LOOPBACK)
    match plan.listen:
        case UnixAddress(path):
            if not Path(path).parent.is_dir():
                raise UsageError(f"cannot listen on {plan.listen}: its directory does not exist")
            return bind_unix(path, *_access(Path(path).parent, plan.uids))
        case TcpAddress(host, port):
            return bind_tcp(host, port)
    raise AssertionError(f"{plan.listen} is redirected")


def _access(directory: Path, uids: Collection[int]) -> tuple[int, int | None]:
    """Return mode and owner of a socket for ``uids``: no one else can open it, if a mode can express that.

    A mode can for root (to which modes do not apply) and one more user. For several users anyone may open the
    socket, and each connection is checked; likewise if another user than root could replace the file.
    """
    others = set(uids) - {0}
    if others <= {os.geteuid()}:
        return 0o600, None
    if len(others) > 1 or os.geteuid() != 0 or weakness_of_directory(directory):
        return 0o666, None
    return 0o600, others.pop()


def _coded(error: Exception) -> dict[str, str]:
    """Return the protocol code of a refusal, for programs, if there is one."""
    match error:
        case RefusedError(code=Code() as code):
            return {"code": code.name}
        case UnreachableError():
            return {"code": Code.LINK_LOST.name}
    return {}


def _wanted(sock: socket.socket, alias: RedirectAddress) -> tuple[str, int]:
    """Return the original destination of a client. RefusedError if it was not redirected by our rules."""
    wanted = original_destination(sock)
    if wanted is None or wanted[0] != alias.host or not alias.first_port <= wanted[1] <= alias.last_port:
        where = name_of(wanted or sock.getsockname())
        raise RefusedError(f"a connection to {where} was not redirected from {alias}")
    return wanted

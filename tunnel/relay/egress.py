"""Dial local targets for a peer: only those on its allow list, in the order of its requests.

Streams to one target are dialled one at a time: QEMU's multifd channels must not overtake the main channel,
and connections are accepted in the order in which they were dialled.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
from collections.abc import Collection
from typing import Protocol

import structlog

from tunnel.errors import RefusedError, UnreachableError
from tunnel.net import unix_path
from tunnel.net.listening_sockets import listening_at
from tunnel.net.sockets import reason_of, reset
from tunnel.net.unix_path import ForbiddenSocketError, LinkedPathError
from tunnel.relay.address import TargetAddress, TcpAddress, UnixAddress, parse_target
from tunnel.relay.allow_list import AllowList
from tunnel.wire.codes import Code

DEADLINE = 10.0
"""Seconds within which a target must accept: the hypervisor listens before its peer dials."""

FIRST_PAUSE = 0.01
LONGEST_PAUSE = 0.25

_NOT_YET = {errno.ECONNREFUSED, errno.ENOENT, errno.EAGAIN}  # EAGAIN: full backlog; QEMU's may be 1


log = structlog.get_logger()


class EgressHandler(Protocol):
    """What an egress needs from the stream table."""

    def on_dialled(self, number: int, sock: socket.socket) -> None:
        """Called when the target of stream ``number`` has accepted."""

    def on_not_dialled(self, number: int, error: RefusedError) -> None:
        """Called when it has not, or must not be dialled."""


class Egress:
    """Connects to local targets for the streams that a peer opens on one link."""

    def __init__(self, allowed: AllowList, requester: EgressHandler, host: str, peer: str) -> None:
        """``host`` and ``peer`` are used in error texts, which are logged on both hosts."""
        self._allowed = allowed
        self._requester = requester
        self._host = host
        self._peer = peer
        # Streams and their deadlines by target, in order: the first one is being dialled.
        self._queues: dict[TargetAddress, dict[int, float]] = {}
        self._targets: dict[int, TargetAddress] = {}  # by stream
        self._serving: dict[TargetAddress, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()  # those, and cancelled ones until they end

    def request(self, number: int, text: str) -> None:
        """Dial the target that the peer requests for stream ``number``."""
        try:
            target = self.admit(text)
        except RefusedError as error:
            self._requester.on_not_dialled(number, error)
            return
        deadline = asyncio.get_running_loop().time() + DEADLINE
        self._targets[number] = target
        if target in self._queues:
            self._queues[target][number] = deadline
            return
        self._queues[target] = {number: deadline}
        self._begin(target)

    @property
    def dialling(self) -> bool:
        """Whether any stream waits for its target."""
        return bool(self._queues)

    def cancel(self, number: int) -> None:
        """Forget a stream that is gone: dequeue it, and reset a connection in progress."""
        if number not in self._targets:
            return
        target = self._targets[number]
        dialled = next(iter(self._queues[target])) == number
        self._remove(number)
        if dialled:
            self._serving[target].cancel()
            self._begin(target)

    def close(self) -> None:
        """Stop dialling."""
        for task in self._tasks:
            task.cancel()
        self._queues.clear()
        self._targets.clear()
        self._serving.clear()

    def admit(self, text: str) -> TargetAddress:
        """Parse a target that the peer requests, and check the allow list. Raises RefusedError."""
        try:
            target = parse_target(text)
        except ValueError as error:
            raise RefusedError(f"on {self._host}: invalid target: {error}", Code.TARGET_FORBIDDEN) from None
        if self._allowed.leads_back(target):
            reason = f"{target} is a listen address of mtunnel on {self._host} itself, not of a hypervisor"
            raise RefusedError(reason, Code.TARGET_FORBIDDEN)
        if not self._allowed.allows(target):
            reason = f"{target} is not in the egress list for {self._peer} on {self._host}"
            raise RefusedError(reason, Code.TARGET_FORBIDDEN)
        return target

    def _begin(self, target: TargetAddress) -> None:
        """Dial ``target`` if streams wait for it."""
        if not self._queues[target]:
            self._leave(target)
            return
        task = asyncio.create_task(self._serve(target), name=f"egress {target}")
        self._serving[target] = task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, target: TargetAddress) -> None:
        """Dial ``target`` for one stream after the other until none waits."""
        queue = self._queues[target]
        while queue:
            number, deadline = next(iter(queue.items()))
            try:
                sock = await dial(target, deadline, self._allowed.own_paths)
            except (RefusedError, UnreachableError) as error:
                self._remove(number)
                self._requester.on_not_dialled(number, self._refusal(error))
            except Exception as error:  # others that wait for this target must not hang
                log.exception("target not dialled", target=str(target))
                self._remove(number)
                refusal = RefusedError(f"internal error on {self._host}: {error!r}", Code.INTERNAL)
                self._requester.on_not_dialled(number, refusal)
            else:
                self._remove(number)
                self._requester.on_dialled(number, sock)
        self._leave(target)

    def _remove(self, number: int) -> None:
        del self._queues[self._targets.pop(number)][number]

    def _leave(self, target: TargetAddress) -> None:
        """Forget ``target``: no stream waits for it."""
        del self._queues[target], self._serving[target]

    def _refusal(self, error: RefusedError | UnreachableError) -> RefusedError:
        code = error.code if isinstance(error, RefusedError) else Code.TARGET_UNREACHABLE
        return RefusedError(f"on {self._host}: {error}", code)


async def dial(target: TargetAddress, deadline: float, never: Collection[str] = ()) -> socket.socket:
    """Connect to ``target``, with retries until it listens. UnreachableError at ``deadline`` (loop time).

    RefusedError if a unix socket's path contains a symbolic link, or it is one of those at ``never``. On
    cancellation a connection in progress is reset.
    """
    pause = FIRST_PAUSE
    loop = asyncio.get_running_loop()
    refusal: OSError | None = None  # the last one
    while True:
        try:
            async with asyncio.timeout_at(deadline):
                return await _connect(target, never)
        except LinkedPathError as error:
            reason = f"{target}: {error.filename} is a symbolic link; egress targets must be real paths"
            raise RefusedError(reason, Code.TARGET_FORBIDDEN) from None
        except ForbiddenSocketError as error:
            raise RefusedError(f"{target} {error.strerror}", Code.TARGET_FORBIDDEN) from None
        except TimeoutError:
            if refusal is not None:
                raise UnreachableError(f"cannot connect to {target}: {_explain(refusal, target)}") from None
            raise UnreachableError(f"cannot connect to {target}: timed out after {DEADLINE:.0f} s") from None
        except OSError as error:
            if error.errno not in _NOT_YET or loop.time() + pause > deadline:
                raise UnreachableError(f"cannot connect to {target}: {_explain(error, target)}") from None
            refusal = error
        await asyncio.sleep(pause)
        pause = min(pause * 2, LONGEST_PAUSE)


def _explain(error: OSError, target: TargetAddress) -> str:
    """Return why connecting to a target failed, with a hint for the operator."""
    if error.errno not in _NOT_YET:
        return reason_of(error)
    if isinstance(target, TcpAddress) and (others := _elsewhere(target.port)):
        return (
            f"{reason_of(error)}; that port is open on {' and '.join(others)} only: set migration_address in "
            f"qemu.conf on that host, or virsh's --listen-address, to {target.host}"
        )
    return f"{reason_of(error)}; is QEMU or libvirtd listening there?"


def _elsewhere(port: int) -> list[str]:
    """Return local addresses on which ``port`` is open, except loopback ones, which ingresses use."""
    return [each for each in listening_at(port) if not ipaddress.ip_address(each).is_loopback]


async def _connect(target: TargetAddress, never: Collection[str]) -> socket.socket:
    family = socket.AF_INET6
    if isinstance(target, UnixAddress):
        family = socket.AF_UNIX
    elif ":" not in target.host:
        family = socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        if isinstance(target, UnixAddress):
            unix_path.connect(sock, target.path, never)  # immediate, or EAGAIN: never EINPROGRESS
        else:
            await asyncio.get_running_loop().sock_connect(sock, (target.host, target.port))
            _check_other_end(sock)
    except BaseException:
        reset(sock)
        raise
    return sock


def _check_other_end(sock: socket.socket) -> None:
    """Refuse a TCP self-connect.

    It happens if no socket listens on the dialled port and the kernel picks that port as the source port;
    migration ports are within the ephemeral port range of Linux.
    """
    if sock.getsockname() == sock.getpeername():
        raise ConnectionRefusedError(errno.ECONNREFUSED, "connected to itself")

"""Dialling local targets for a peer: only what its allow list names, and in the order it was asked.

Streams of one target are dialled one after the other. QEMU's multifd channels must not overtake the main
channel, and the order of accepted connections is the order in which they were dialled.
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
from tunnel.relay.address import AllowList, TargetAddress, TcpAddress, UnixAddress, parse_target
from tunnel.wire.codes import Code

DEADLINE = 10.0
"""Seconds until a target must have accepted: the hypervisor listens before its peer dials."""

FIRST_PAUSE = 0.01
LONGEST_PAUSE = 0.25

_NOT_YET = {errno.ECONNREFUSED, errno.ENOENT, errno.EAGAIN}  # EAGAIN: a full backlog; QEMU's may be 1


log = structlog.get_logger()


class EgressHandler(Protocol):
    """The table of streams, as its egress sees it."""

    def on_dialled(self, number: int, sock: socket.socket) -> None:
        """The target of stream ``number`` accepted."""

    def on_not_dialled(self, number: int, error: RefusedError) -> None:
        """It did not, or must not be dialled."""


class Egress:
    """One peer's way out, on one link."""

    def __init__(self, allowed: AllowList, requester: EgressHandler, host: str, peer: str) -> None:
        """``host`` and ``peer`` are names for reasons: those are read on both hosts."""
        self._allowed = allowed
        self._requester = requester
        self._host = host
        self._peer = peer
        # Streams and their deadlines, for each target in order: the first of them is being dialled for.
        self._queues: dict[TargetAddress, dict[int, float]] = {}
        self._targets: dict[int, TargetAddress] = {}  # of those streams
        self._serving: dict[TargetAddress, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()  # those, and others until their end

    def request(self, number: int, text: str) -> None:
        """Dial the target that the peer named for stream ``number``."""
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
        """The stream is gone, and nothing of it stays: its turn passes, a connection under way is reset."""
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
        """Read a target that the peer named, by the allow list alone. RefusedError when it is not allowed."""
        try:
            target = parse_target(text)
        except ValueError as error:
            raise RefusedError(f"on {self._host}: not a target: {error}", Code.TARGET_FORBIDDEN) from None
        if self._allowed.leads_back(target):
            reason = (
                f"{target} is where the mtunnel of {self._host} itself listens, and leads to no hypervisor"
            )
            raise RefusedError(reason, Code.TARGET_FORBIDDEN)
        if not self._allowed.allows(target):
            reason = f"{target} is not in the egress list that {self._host} has for {self._peer}"
            raise RefusedError(reason, Code.TARGET_FORBIDDEN)
        return target

    def _begin(self, target: TargetAddress) -> None:
        """Dial ``target`` for who waits, if anybody does."""
        if not self._queues[target]:
            self._leave(target)
            return
        task = asyncio.create_task(self._serve(target), name=f"egress {target}")
        self._serving[target] = task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, target: TargetAddress) -> None:
        """Dial ``target`` for one stream after the other until nobody waits."""
        queue = self._queues[target]
        while queue:
            number, deadline = next(iter(queue.items()))
            try:
                sock = await dial(target, deadline, self._allowed.own_paths)
            except (RefusedError, UnreachableError) as error:
                self._remove(number)
                self._requester.on_not_dialled(number, self._refusal(error))
            except Exception as error:  # who waits for the same target must not wait for ever
                log.exception("target not dialled", target=str(target))
                self._remove(number)
                refusal = RefusedError(f"a fault of the daemon on {self._host}: {error!r}", Code.INTERNAL)
                self._requester.on_not_dialled(number, refusal)
            else:
                self._remove(number)
                self._requester.on_dialled(number, sock)
        self._leave(target)

    def _remove(self, number: int) -> None:
        del self._queues[self._targets.pop(number)][number]

    def _leave(self, target: TargetAddress) -> None:
        """Nobody waits for ``target`` any more."""
        del self._queues[target], self._serving[target]

    def _refusal(self, error: RefusedError | UnreachableError) -> RefusedError:
        code = error.code if isinstance(error, RefusedError) else Code.TARGET_UNREACHABLE
        return RefusedError(f"on {self._host}: {error}", code)


async def dial(target: TargetAddress, deadline: float, never: Collection[str] = ()) -> socket.socket:
    """Connect to ``target``, again while nobody listens yet. UnreachableError at ``deadline`` (loop time).

    RefusedError for a unix socket that is reached by a symbolic link, or is one of those at ``never``. A
    connection that is under way when this is cancelled is reset.
    """
    pause = FIRST_PAUSE
    loop = asyncio.get_running_loop()
    refusal: OSError | None = None  # so far
    while True:
        try:
            async with asyncio.timeout_at(deadline):
                return await _connect(target, never)
        except LinkedPathError as error:
            reason = f"{target}: {error.filename} is a symbolic link, and egress lists name real paths"
            raise RefusedError(reason, Code.TARGET_FORBIDDEN) from None
        except ForbiddenSocketError as error:
            raise RefusedError(f"{target} {error.strerror}", Code.TARGET_FORBIDDEN) from None
        except TimeoutError:
            if refusal is not None:
                raise UnreachableError(f"{target} cannot be reached: {_explain(refusal, target)}") from None
            raise UnreachableError(f"{target} did not answer within {DEADLINE:.0f} seconds") from None
        except OSError as error:
            if error.errno not in _NOT_YET or loop.time() + pause > deadline:
                raise UnreachableError(f"{target} cannot be reached: {_explain(error, target)}") from None
            refusal = error
        await asyncio.sleep(pause)
        pause = min(pause * 2, LONGEST_PAUSE)


def _explain(error: OSError, target: TargetAddress) -> str:
    """Say why a target could not be connected to, and where to look."""
    if error.errno not in _NOT_YET:
        return reason_of(error)
    if isinstance(target, TcpAddress) and (others := _elsewhere(target.port)):
        return (
            f"{reason_of(error)}: on that port somebody listens at {' and '.join(others)} only; a QEMU that "
            "waits for a guest does where migration_address in qemu.conf there, or virsh's --listen-address, "
            f"says: make that {target.host}"
        )
    return f"{reason_of(error)}: does a QEMU or a libvirt accept connections there?"


def _elsewhere(port: int) -> list[str]:
    """Where on this host something listens on ``port``. Not at loopback addresses: there our ingresses do."""
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
            unix_path.connect(sock, target.path, never)  # at once, or EAGAIN: never "in progress"
        else:
            await asyncio.get_running_loop().sock_connect(sock, (target.host, target.port))
            _check_other_end(sock)
    except BaseException:
        reset(sock)
        raise
    return sock


def _check_other_end(sock: socket.socket) -> None:
    """Refuse a connection with itself.

    TCP makes one when nobody listens on the port that is dialled and the kernel picks that very port to dial
    from; migration ports are among those that Linux picks from.
    """
    if sock.getsockname() == sock.getpeername():
        raise ConnectionRefusedError(errno.ECONNREFUSED, "connected to itself")

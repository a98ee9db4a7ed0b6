"""The host's one port: incoming lanes, from an unknown connection to a link of a configured peer."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping

import structlog

from tunnel.errors import TunnelError
from tunnel.relay.link import Link
from tunnel.transport.lane import Lane
from tunnel.transport.lanes import LaneMaker, userspace
from tunnel.transport.listener import Listener, bind_tcp
from tunnel.transport.sockets import caller_of, reset, tune_lane
from tunnel.transport.tls import TlsContexts
from tunnel.wire.codes import Code
from tunnel.wire.frames import Frame, Hello, Resume
from tunnel.wire.states import LaneState

MOST_HALF_OPEN = 64
"""Connections that may be between accept and their first frame; more are reset at once."""

FIRST_FRAME_TIMEOUT = 10.0

log = structlog.get_logger()


class Reception:
    """Accepts lanes. A connection that does not prove to be a peer's never reaches a link."""

    def __init__(
        self,
        host: str,
        port: int,
        contexts: Callable[[], TlsContexts],
        congestion: str | None,
        links: Mapping[str, Link],
        make_lane: LaneMaker = userspace,
    ) -> None:
        self.rejected = 0
        self._contexts = contexts
        self._congestion = congestion
        self._links = links
        self._make_lane = make_lane
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener = Listener(bind_tcp(host, port), self._accepted)

    async def close(self) -> None:
        """Accept no more, and drop who is not through yet."""
        self._listener.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accepted(self, sock: socket.socket) -> None:
        if len(self._tasks) >= MOST_HALF_OPEN:
            self._reject(sock, f"{MOST_HALF_OPEN} connections are half-open already")
            return
        task = asyncio.create_task(self._receive(sock), name="reception")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _reject(self, sock: socket.socket, reason: str) -> None:
        self.rejected += 1
        log.warning("connection rejected", remote=caller_of(sock), reason=reason)
        reset(sock)

    async def _receive(self, sock: socket.socket) -> None:
        remote = caller_of(sock)
        try:
            tune_lane(sock, self._congestion)
            contexts, state = self._contexts(), LaneState.AWAIT_FIRST
            lane = await self._make_lane(sock, contexts, self._links, state, dialing=False)
        except (TunnelError, OSError) as error:
            self.rejected += 1
            log.warning("connection rejected", remote=remote, reason=str(error))
            sock.close()
            return
        except BaseException:
            sock.close()
            raise
        newcomer = _Newcomer(self._links[lane.peer])
        lane.start(newcomer)
        await newcomer.outcome(lane)


class _Newcomer:
    """Owns an accepted lane until its first frame."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._done = asyncio.Event()

    async def outcome(self, lane: Lane) -> None:
        """Return when the lane is a link's, or gone."""
        try:
            async with asyncio.timeout(FIRST_FRAME_TIMEOUT):
                await self._done.wait()
        except TimeoutError:
            if self._done.is_set():  # at the last moment: the lane is not ours any more
                return
            lane.close(Code.HANDSHAKE, "no first frame came")
            self._link.note("lane rejected", f"{lane.remote} sent no first frame")
        except asyncio.CancelledError:
            if not self._done.is_set():
                lane.abort()
            raise

    def on_frame(self, lane: Lane, frame: Frame, sequence: int) -> None:
        """Take the first frame; the lane's state admits no other."""
        if isinstance(frame, Hello):
            self._link.welcome(lane, frame)
        elif isinstance(frame, Resume):
            self._link.readmit(lane, frame)
        self._done.set()

    def on_payload(self, lane: Lane, stream: int, offset: int, payload: memoryview) -> None:
        """Never called: the state admits no DATA."""

    def on_batch_end(self, lane: Lane) -> None:
        """Nothing was handed over."""

    def on_writable(self, lane: Lane) -> None:
        """Nothing to send before the first frame."""

    def on_tick(self, lane: Lane) -> None:
        """Never called: the lane is not attached."""

    def on_end(self, lane: Lane, reason: TunnelError) -> None:
        """The lane ended before it was anybody's."""
        if not self._done.is_set():
            self._link.note("lane rejected", str(reason))
            self._done.set()

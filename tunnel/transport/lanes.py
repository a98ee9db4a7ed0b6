"""Making lanes: from a connected socket, through the TLS handshake, to a lane that is not started yet."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Collection
from functools import partial
from typing import Any, Protocol

from tunnel.engine.binding import Provider
from tunnel.transport import ktls
from tunnel.transport.handshake import handshake
from tunnel.transport.kernel import KernelLane
from tunnel.transport.lane import Lane, LaneKind
from tunnel.transport.proof import Proof
from tunnel.transport.sockets import bound_unread
from tunnel.transport.threadlane import ThreadLane
from tunnel.transport.tls import TlsContexts
from tunnel.transport.userspace import UserspaceLane
from tunnel.transport.watched import WatchedLane
from tunnel.wire.states import LaneState

ENOUGH = 2
"""Processors that the loop, QEMU and the network keep busy: on no more, threads only hand bytes around."""


class LaneMaker(Protocol):
    """Makes a lane of ``sock``, which stays the caller's, to be closed, when this raises.

    ``peers`` are the names of which the peer has to prove one. Raises LaneError, IdentityError, or OSError.
    """

    async def __call__(
        self,
        sock: socket.socket,
        contexts: TlsContexts,
        peers: Collection[str],
        state: LaneState,
        *,
        dialing: bool,
    ) -> Lane:
        """Shake hands, and make the lane."""


async def userspace(
    sock: socket.socket,
    contexts: TlsContexts,
    peers: Collection[str],
    state: LaneState,
    *,
    dialing: bool,
    threaded: bool = False,
    provider: Provider | None = None,
) -> Lane:
    """LaneMaker for userspace lanes: in the running loop, or each on a thread of its own."""
    keys, proof = await handshake(sock, contexts, peers, dialing=dialing)
    bound_unread(sock)
    make = partial(UserspaceLane, sock, keys, proof.peer, state, provider=provider)
    return _placed(make, proof, threaded=threaded)


async def kernel(
    sock: socket.socket,
    contexts: TlsContexts,
    peers: Collection[str],
    state: LaneState,
    *,
    dialing: bool,
    threaded: bool = False,
) -> Lane:
    """LaneMaker for kernel lanes. ``contexts`` must have been loaded for them."""
    keys, proof = await handshake(sock, contexts, peers, dialing=dialing)
    ktls.enable(sock, keys)
    bound_unread(sock)
    return _placed(partial(KernelLane, sock, keys.cipher, proof.peer, state), proof, threaded=threaded)


def _placed(make: Callable[..., WatchedLane[Any]], proof: Proof, *, threaded: bool) -> Lane:
    """Make a lane on a thread of its own, or in the running loop."""
    lane = ThreadLane(make) if threaded else make()
    lane.proof = proof
    return lane


def maker(
    lanes: int,
    kind: LaneKind = LaneKind.USERSPACE,
    *,
    threaded: bool | None = None,
    provider: Provider | None = None,
) -> LaneMaker:
    """Return how a host makes lanes that has up to ``lanes`` of them in a link; see ``UserspaceLane``.

    Unless ``threaded`` says otherwise, several lanes get a thread each where these have processors to run on.
    """
    make = partial(kernel) if kind is LaneKind.KERNEL else partial(userspace, provider=provider)
    if threaded is None:
        threaded = lanes > 1 and len(os.sched_getaffinity(0)) > ENOUGH
    return partial(make, threaded=True) if threaded else make

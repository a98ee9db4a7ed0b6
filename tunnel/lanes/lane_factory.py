"""Making lanes: from a connected socket, through the TLS handshake, to a lane that is not started yet."""

from __future__ import annotations

import socket
from collections.abc import Collection
from functools import partial
from typing import Protocol

from tunnel.engine.binding import Provider
from tunnel.lanes import kernel_tls
from tunnel.lanes.kernel_lane import KernelLane
from tunnel.lanes.lane import Lane
from tunnel.lanes.userspace_lane import UserspaceLane
from tunnel.net.sockets import bound_unread
from tunnel.tls.contexts import TlsContexts
from tunnel.tls.handshake import handshake
from tunnel.tls.lane_kinds import LaneKind
from tunnel.wire.states import LaneState


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
    provider: Provider | None = None,
) -> Lane:
    """LaneMaker for userspace lanes; see ``UserspaceLane`` for ``provider``."""
    keys, proof = await handshake(sock, contexts, peers, dialing=dialing)
    bound_unread(sock)
    lane = UserspaceLane(sock, keys, proof.peer, state, provider=provider)
    lane.proof = proof
    return lane


async def kernel(
    sock: socket.socket,
    contexts: TlsContexts,
    peers: Collection[str],
    state: LaneState,
    *,
    dialing: bool,
) -> Lane:
    """LaneMaker for kernel lanes. ``contexts`` must have been loaded for them."""
    keys, proof = await handshake(sock, contexts, peers, dialing=dialing)
    kernel_tls.enable(sock, keys)
    bound_unread(sock)
    lane = KernelLane(sock, keys.cipher, proof.peer, state)
    lane.proof = proof
    return lane


def maker(kind: LaneKind, provider: Provider | None = None) -> LaneMaker:
    """Return how a host makes lanes of ``kind``; userspace ones have their records made by ``provider``."""
    return kernel if kind is LaneKind.KERNEL else partial(userspace, provider=provider)

"""Creates lanes: does the TLS handshake on a connected socket; the lane is not started yet."""

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
    """Creates a lane on ``sock``; the caller must close ``sock`` if this raises.

    The peer's certificate must have one of the names in ``peers``. Raises LaneError, IdentityError, OSError.
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
        """Do the handshake, and create the lane."""


async def userspace(
    sock: socket.socket,
    contexts: TlsContexts,
    peers: Collection[str],
    state: LaneState,
    *,
    dialing: bool,
    provider: Provider | None = None,
) -> Lane:
    """Create a userspace lane (a LaneMaker); ``provider``: see ``UserspaceLane``."""
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
    """Create a kernel lane (a LaneMaker). ``contexts`` must have been loaded for kernel lanes."""
    keys, proof = await handshake(sock, contexts, peers, dialing=dialing)
    kernel_tls.enable(sock, keys)
    bound_unread(sock)
    lane = KernelLane(sock, keys.cipher, proof.peer, state)
    lane.proof = proof
    return lane


def maker(kind: LaneKind, provider: Provider | None = None) -> LaneMaker:
    """Return the LaneMaker for ``kind``; records of userspace lanes are made by ``provider``."""
    return kernel if kind is LaneKind.KERNEL else partial(userspace, provider=provider)

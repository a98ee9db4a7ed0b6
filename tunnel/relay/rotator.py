"""Replace the lanes that a link's rotation selects, by means of its dialer."""

from __future__ import annotations

import asyncio

import structlog

from tunnel.errors import TunnelError
from tunnel.relay.dialer import Dialer
from tunnel.relay.link import Link

FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0
"""Seconds between failing attempts, doubled each time; the old lane stays in use."""

SPACING = 0.04
"""Seconds between rotations: a handshake costs more than what a lane carries in that time, and a peer admits
30 connections a second in the long run."""

log = structlog.get_logger()


class Rotator:
    """Replaces lanes of one link for as long as ``run`` runs, concurrently with the dialer."""

    def __init__(self, link: Link, dialer: Dialer) -> None:
        self._link = link
        self._dialer = dialer
        self._said = ""

    async def run(self) -> None:
        """Replace lanes one by one, whenever rotation selects one. Never returns."""
        pause = FIRST_PAUSE
        while True:
            epoch = self._link.rotation.next_due()
            if not epoch:
                await self._link.wait_change()
            elif reason := await self._fault(epoch):
                self._report(epoch, reason, pause)
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE)
            else:
                self._said, pause = "", FIRST_PAUSE
                await asyncio.sleep(SPACING)

    async def _fault(self, epoch: int) -> str:
        """Replace a lane. Return why that failed, "" if it succeeded or was cancelled for a lost lane."""
        rotation = self._link.rotation
        self._link.attempt = attempt = asyncio.create_task(self._dialer.replace(epoch), name="rotation")
        try:
            await asyncio.wait([attempt])
        finally:
            attempt.cancel()
            self._link.attempt = None
            rotation.attempt_ended()
        if attempt.cancelled():
            return ""
        match attempt.exception():
            case None:
                return ""
            case TunnelError() | OSError() as error:
                return str(error)
            case error:  # a bug must not end the daemon, and every migration with it
                log.error("attempt to replace a lane failed", peer=self._link.peer, exc_info=error)
                return f"internal error: {error!r}"

    def _report(self, epoch: int, reason: str, pause: float) -> None:
        """Report a failure once, not at every attempt."""
        if reason != self._said:
            self._said = reason
            self._link.rotation.attempt_failed(epoch, reason, pause)

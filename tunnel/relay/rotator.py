"""Bringing lanes in the place of those that are due: what a link's rotation wants, done by its dialer."""

from __future__ import annotations

import asyncio

import structlog

from tunnel.errors import TunnelError
from tunnel.relay.dialer import Dialer
from tunnel.relay.link import Link

FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0
"""Seconds between attempts while they fail, doubled each time: the old lane goes on meanwhile."""

SPACING = 0.04
"""Seconds from one rotation to the next: a handshake costs more than what a lane carries meanwhile, and a
peer admits 30 connections a second for long."""

log = structlog.get_logger()


class Rotator:
    """Runs beside the dialer, as long as the link is wanted."""

    def __init__(self, link: Link, dialer: Dialer) -> None:
        self._link = link
        self._dialer = dialer
        self._said = ""

    async def run(self) -> None:
        """Replace one lane after the other, whenever one is due. Never returns."""
        pause = FIRST_PAUSE
        while True:
            epoch = self._link.rotation.next()
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
        """Try to replace a lane; why that failed, "" if it did not, or was given up for a lost lane."""
        rotation = self._link.rotation
        rotation.attempt = attempt = asyncio.create_task(self._dialer.replace(epoch), name="rotation")
        try:
            await asyncio.wait([attempt])
        finally:
            attempt.cancel()
            rotation.over()
        if attempt.cancelled():
            return ""
        match attempt.exception():
            case None:
                return ""
            case TunnelError() | OSError() as error:
                return str(error)
            case error:  # a bug must not end the daemon, and every migration with it
                log.error("attempt to replace a lane failed", peer=self._link.peer, exc_info=error)
                return f"a fault of this daemon: {error!r}"

    def _report(self, epoch: int, reason: str, pause: float) -> None:
        """Say what is wrong once, not at every attempt."""
        if reason != self._said:
            self._said = reason
            self._link.rotation.failed(epoch, reason, pause)

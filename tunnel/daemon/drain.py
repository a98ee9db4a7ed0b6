"""Draining, the time between SIGTERM and the exit of the daemon: active streams may end, and are logged."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import suppress

import structlog

from tunnel.relay.link import Link
from tunnel.relay.pump import Pump

REPORT_INTERVAL = 60.0
"""Seconds between two log lines about the streams that are still active."""

MOST_NAMED = 8
"""Kinds of streams, by peer and target, that such a line names."""

_STEP = 0.1

log = structlog.get_logger()


class Drain:
    """Waits for the streams of ``links`` to end, until ``hurry`` is set or for ``timeout`` seconds (0: ever).

    ``tell`` is called with a status text for systemd whenever it changes.
    """

    def __init__(
        self, links: Collection[Link], timeout: float, hurry: asyncio.Event, tell: Callable[[str], None]
    ) -> None:
        self._links = links
        self._timeout = timeout
        self._hurry = hurry
        self._tell = tell

    async def run(self) -> None:
        """Return when no stream is active, on ``hurry``, or on timeout."""
        began = reported = time.monotonic()
        if self._running() and not self._hurry.is_set():
            limit = f"{self._timeout:g} seconds" if self._timeout else "none"
            self._report("stopping: waiting for streams to end", timeout=limit, at_once="SIGTERM again")
        while self._running() and not self._hurry.is_set():
            now = time.monotonic()
            if self._timeout and now - began >= self._timeout:
                self._report("host.drain_timeout is over: streams are reset")
                return
            if now - reported >= REPORT_INTERVAL:
                reported = now
                self._report("still waiting for streams to end", seconds=round(now - began))
            with suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), _STEP)
        if self._running():
            self._report("stopping at once: streams are reset")

    def _running(self) -> bool:
        return any(link.streams.busy for link in self._links)

    def _report(self, event: str, **facts: object) -> None:
        # Each table in one step: another thread may change it.
        tables = [(link, list(link.streams.pumps.values())) for link in self._links]
        kinds = Counter(_kind(link, pump) for link, pumps in tables for pump in pumps)
        named = [f"{kind} ({count})" for kind, count in kinds.most_common(MOST_NAMED)]
        if len(kinds) > MOST_NAMED:
            named.append(f"and {len(kinds) - MOST_NAMED} more")
        log.warning(event, streams=kinds.total(), of=", ".join(named), **facts)
        self._tell(f"{event} ({kinds.total()})")


def _kind(link: Link, pump: Pump) -> str:
    return f"{'to' if pump.outwards else 'from'} {link.peer}: {pump.target}"

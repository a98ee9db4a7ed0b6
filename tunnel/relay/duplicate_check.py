"""Whether the daemon that has a session is up: PING on its lanes, while an incoming lane waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from tunnel.errors import TunnelError
from tunnel.lanes.lane import Lane
from tunnel.wire.duplicate_hosts import DuplicateOutcome
from tunnel.wire.frames import Frame
from tunnel.wire.payload import Payload


class DuplicateCheck:
    """A check in progress: the handler of the incoming lane until it ends. Implements LaneHandler.

    ``old`` are the session's lanes, which must answer ``within`` that many seconds. ``settle`` is called with
    the outcome, perhaps several times: the first one counts.
    """

    def __init__(
        self, lane: Lane, old: Iterable[Lane], within: float, settle: Callable[[DuplicateOutcome], None]
    ) -> None:
        self._settle = settle
        lane.hand_over(self)
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(within, settle, DuplicateOutcome.TAKES_OVER)
        for each in old:
            each.ping(self._answered)

    def _answered(self) -> None:
        self._settle(DuplicateOutcome.IS_REFUSED)

    def close(self) -> None:
        """Stop the timer: the check has ended."""
        self._timer.cancel()
        self._settle = _ignore

    def on_frame(self, lane: Lane, frame: Frame, sequence: int) -> None:
        """Never called: only GOAWAY may arrive before our answer."""

    def on_payload(self, lane: Lane, stream: int, offset: int, payload: Payload) -> None:
        """Never called: the state allows no DATA."""

    def on_batch_end(self, lane: Lane) -> None:
        """Nothing to do: there is no payload."""

    def on_writable(self, lane: Lane) -> None:
        """Nothing to send before the answer."""

    def on_tick(self, lane: Lane) -> None:
        """Never called: the lane is not attached."""

    def on_worn(self, lane: Lane) -> None:
        """Never called: the lane is not attached."""

    def on_end(self, lane: Lane, reason: TunnelError) -> None:
        """End the check: the incoming lane is gone."""
        self._settle(DuplicateOutcome.IS_GONE)


def _ignore(outcome: DuplicateOutcome) -> None:
    """A PING may be answered after the check."""

"""Two daemons with the same verified name: a restarted peer, or a duplicate (cloned or restored) host.

Both present another instance than the one that has the session. The old connection of a restarted peer is
closed or unresponsive, so PING is sent on the old lanes. If one of them answers, the incoming lane belongs to
a duplicate: it is refused, and so are its later attempts for as long as this session exists.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from enum import Enum

from tunnel.errors import TunnelError
from tunnel.lanes.lane import Lane
from tunnel.net.sockets import host_of
from tunnel.relay import notices
from tunnel.wire.codes import Code, Feature
from tunnel.wire.frames import Frame

ANSWER_WITHIN = 5.0
"""Seconds within which an old lane must answer: less than a peer waits for WELCOME."""

MOST_REMEMBERED = 16
"""Refused instances that are remembered."""


class DuplicateOutcome(Enum):
    """Result of a check for the incoming lane."""

    TAKES_OVER = "takes over"
    IS_REFUSED = "is refused"
    IS_GONE = "is gone"


Settled = Callable[[DuplicateOutcome], None]


class DuplicateHosts:
    """Detects duplicate hosts on one link: daemons that have its peer's name.

    ``lanes`` are those of the link that carry its session; ``note`` logs, and adds to ``status``.
    """

    def __init__(self, peer: str, lanes: Mapping[int, Lane], note: Callable[[str, str], None]) -> None:
        self._peer = peer
        self._lanes = lanes
        self._note = note
        self._refused: deque[bytes] = deque(maxlen=MOST_REMEMBERED)
        self._trial: _Trial | None = None

    def owns(self, lane: Lane) -> bool:
        """Whether ``lane`` is being checked."""
        return self._trial is not None and self._trial.lane is lane

    def objection(self, instance: bytes, kept: str) -> str:
        """Return why a daemon cannot have the session, or "". ``kept``: address of the daemon that has it."""
        if instance in self._refused:
            return self._words(kept)
        if self._trial is not None:
            return f"another daemon named {self._peer} is requesting this session"
        return ""

    def judge(self, lane: Lane, instance: bytes, features: Feature, take: Callable[[], None]) -> None:
        """Check whether lanes of the link are up; then refuse ``lane``, or call ``take``.

        ``features`` are those of the session.
        """
        lanes = list(self._lanes.values())
        if not lanes:
            take()
            return
        kept = ", ".join(each.remote for each in lanes)

        def settled(outcome: DuplicateOutcome) -> None:
            self._trial = None
            if outcome is DuplicateOutcome.TAKES_OVER:
                take()
            elif outcome is DuplicateOutcome.IS_REFUSED:
                self._refuse(lane, instance, kept)
                self._tell(host_of(lane.remote), features)

        self._trial = _Trial(lane, lanes, settled)

    def settle(self, outcome: DuplicateOutcome) -> None:
        """End a pending check: the old daemon has sent something, or its lanes are gone."""
        if self._trial is not None:
            self._trial.settle(outcome)

    def dismiss(self, code: Code, reason: str) -> list[Lane]:
        """Close the lane that is being checked, if there is one, and return it."""
        if self._trial is None:
            return []
        lane = self._trial.lane
        lane.close(code, reason)
        self._trial.settle(DuplicateOutcome.IS_GONE)
        return [lane]

    def forget(self) -> None:
        """Forget refused instances: a new session has begun, and its peer may restart."""
        self._refused.clear()

    def _refuse(self, lane: Lane, instance: bytes, kept: str) -> None:
        self._refused.append(instance)
        refused = host_of(lane.remote)  # the port differs each time
        self._note(
            "two daemons of one name",
            f"two daemons are named {self._peer}: the one at {kept} answers and is kept, "
            f"the one at {refused} is refused",
        )
        lane.close(Code.COLLISION, self._words(kept))

    def _tell(self, other: str, features: Feature) -> None:
        """Send a NOTICE about the other daemon to the one that is kept."""
        reason = (
            f"another daemon named {self._peer} has connected from {other} and was refused: "
            "two hosts have the same name and certificate"
        )
        # On the lanes that carry the session now.
        notices.tell(self._lanes.values(), features, Code.COLLISION, reason)

    def _words(self, kept: str) -> str:
        """Return the error text for the refused daemon, which logs it."""
        return (
            f"another daemon named {self._peer} has this link, from {kept}: "
            "two hosts have the same name and certificate"
        )


class _Trial:
    """A check in progress: owns the incoming lane until it ends. Implements LaneHandler."""

    def __init__(self, lane: Lane, old: Iterable[Lane], settled: Settled) -> None:
        self.lane = lane
        self._settled: Settled | None = settled
        lane.hand_over(self)
        self._timer = asyncio.get_running_loop().call_later(
            ANSWER_WITHIN, self.settle, DuplicateOutcome.TAKES_OVER
        )
        for each in old:
            each.ping(self._answered)

    def _answered(self) -> None:
        self.settle(DuplicateOutcome.IS_REFUSED)

    def settle(self, outcome: DuplicateOutcome) -> None:
        """End the check; only the first call counts."""
        self._timer.cancel()
        settled, self._settled = self._settled, None
        if settled is not None:
            settled(DuplicateOutcome.IS_GONE if self.lane.ended else outcome)

    def on_frame(self, lane: Lane, frame: Frame, sequence: int) -> None:
        """Never called: only GOAWAY may arrive before our answer."""

    def on_writable(self, lane: Lane) -> None:
        """Nothing to send before the answer."""

    def on_tick(self, lane: Lane) -> None:
        """Never called: the lane is not attached."""

    def on_worn(self, lane: Lane) -> None:
        """Never called: the lane is not attached."""

    def on_end(self, lane: Lane, reason: TunnelError) -> None:
        """End the check: the incoming lane is gone."""
        self.settle(DuplicateOutcome.IS_GONE)

"""Two daemons that prove the same name: a peer that has restarted, or a copy of it (a cloned host, a backup).

Both come with another instance than the one that has the session. One that has restarted has left the old
connection behind, which is closed or does not answer; so the old lanes are asked, by PING. When one of them
answers, the newcomer is a copy: it is refused, and stays refused as long as this session exists.
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
from tunnel.wire.payload import Payload

ANSWER_WITHIN = 5.0
"""Seconds that an old lane has to answer: less than a peer waits for WELCOME."""

MOST_REMEMBERED = 16
"""Instances that were refused."""


class DuplicateOutcome(Enum):
    """How a trial ends for the newcomer."""

    TAKES_OVER = "takes over"
    IS_REFUSED = "is refused"
    IS_GONE = "is gone"


Settled = Callable[[DuplicateOutcome], None]


class DuplicateHosts:
    """What one link knows of daemons that have its peer's name.

    ``lanes`` are those of the link that carry its session; ``note`` logs, and adds to ``status``.
    """

    def __init__(self, peer: str, lanes: Mapping[int, Lane], note: Callable[[str, str], None]) -> None:
        self._peer = peer
        self._lanes = lanes
        self._note = note
        self._refused: deque[bytes] = deque(maxlen=MOST_REMEMBERED)
        self._trial: _Trial | None = None

    def owns(self, lane: Lane) -> bool:
        """Whether it is not decided yet about ``lane``."""
        return self._trial is not None and self._trial.lane is lane

    def objection(self, instance: bytes, kept: str) -> str:
        """Why a daemon cannot have the session, "" if it may. ``kept`` is where the one is that has it."""
        if instance in self._refused:
            return self._words(kept)
        if self._trial is not None:
            return f"another daemon that calls itself {self._peer} has just asked for the session"
        return ""

    def judge(self, lane: Lane, instance: bytes, features: Feature, take: Callable[[], None]) -> None:
        """Find out whether the link has lanes that are alive; then refuse ``lane``, or call ``take``.

        ``features`` are those that the session has.
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
        """The old daemon was heard of, or is gone: decide now, if there is something to decide."""
        if self._trial is not None:
            self._trial.settle(outcome)

    def dismiss(self, code: Code, reason: str) -> list[Lane]:
        """End the lane, if there is one, about which it is not decided."""
        if self._trial is None:
            return []
        lane = self._trial.lane
        lane.close(code, reason)
        self._trial.settle(DuplicateOutcome.IS_GONE)
        return [lane]

    def forget(self) -> None:
        """The session is another one: whoever comes next may be who has restarted."""
        self._refused.clear()

    def _refuse(self, lane: Lane, instance: bytes, kept: str) -> None:
        self._refused.append(instance)
        refused = host_of(lane.remote)  # it comes from another port each time
        self._note(
            "two daemons of one name",
            f"two daemons call themselves {self._peer}: the one at {kept} answers and is kept, "
            f"the one at {refused} is refused",
        )
        lane.close(Code.COLLISION, self._words(kept))

    def _tell(self, other: str, features: Feature) -> None:
        """Let the daemon that is kept know of the other one."""
        reason = (
            f"another daemon that calls itself {self._peer} has connected from {other} and is refused: "
            "two hosts have the same name and certificate"
        )
        # On the lanes that carry the session, whatever has happened meanwhile.
        notices.tell(self._lanes.values(), features, Code.COLLISION, reason)

    def _words(self, kept: str) -> str:
        """For the one that is refused: it reads this in its own log."""
        return (
            f"another daemon that calls itself {self._peer} has this link, from {kept}: "
            "two hosts have the same name and certificate"
        )


class _Trial:
    """Owns a newcomer's lane until it is decided. Implements LaneHandler."""

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
        """Decide, once."""
        self._timer.cancel()
        settled, self._settled = self._settled, None
        if settled is not None:
            settled(DuplicateOutcome.IS_GONE if self.lane.ended else outcome)

    def on_frame(self, lane: Lane, frame: Frame, sequence: int) -> None:
        """Never called: nothing but GOAWAY may come before our answer."""

    def on_payload(self, lane: Lane, stream: int, offset: int, payload: Payload) -> None:
        """Never called: the state admits no DATA."""

    def on_batch_end(self, lane: Lane) -> None:
        """Nothing was handed over."""

    def on_writable(self, lane: Lane) -> None:
        """Nothing to send before the answer."""

    def on_tick(self, lane: Lane) -> None:
        """Never called: the lane is not attached."""

    def on_worn(self, lane: Lane) -> None:
        """Never called: the lane is not attached."""

    def on_end(self, lane: Lane, reason: TunnelError) -> None:
        """The newcomer has gone away."""
        self.settle(DuplicateOutcome.IS_GONE)

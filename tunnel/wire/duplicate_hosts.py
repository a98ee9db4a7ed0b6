"""Two daemons with the same verified name: a restarted peer, or a duplicate (cloned or restored) host.

Both present another instance than the one that has the session. The old connection of a restarted peer is
closed or unresponsive, so PING is sent on the old lanes. If one of them answers, the incoming lane belongs to
a duplicate: it is refused, and so are its later attempts for as long as this session exists.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Generic

from tunnel.wire.codes import Code
from tunnel.wire.membership_owner import L, MembershipOwner

MOST_REMEMBERED = 16
"""Refused instances that are remembered."""


class DuplicateOutcome(Enum):
    """Result of a check for the incoming lane."""

    TAKES_OVER = "takes over"
    IS_REFUSED = "is refused"
    IS_GONE = "is gone"


@dataclass(slots=True)
class _Check(Generic[L]):
    """A check of ``lane``, on which ``instance`` requests the session of the daemon at ``kept``."""

    lane: L
    instance: bytes
    kept: str
    accept: Callable[[], None]


class DuplicateHosts(Generic[L]):
    """Detects duplicate hosts of one link: daemons that have its peer's name.

    ``lanes`` are those that carry its session; ``tell`` sends a NOTICE to the daemon that has it.
    """

    def __init__(
        self,
        owner: MembershipOwner[L],
        peer: str,
        lanes: Mapping[int, L],
        tell: Callable[[Code, str], None],
    ) -> None:
        self._owner = owner
        self._peer = peer
        self._lanes = lanes
        self._tell = tell
        self._refused: deque[bytes] = deque(maxlen=MOST_REMEMBERED)
        self._check: _Check[L] | None = None

    def owns(self, lane: L) -> bool:
        """Whether ``lane`` is being checked."""
        return self._check is not None and self._check.lane is lane

    def objection(self, instance: bytes, kept: str) -> str:
        """Return why a daemon cannot have the session, or "". ``kept``: address of the daemon that has it."""
        if instance in self._refused:
            return self._refusal(kept)
        if self._check is not None:
            return f"another daemon named {self._peer} is requesting this session"
        return ""

    def judge(self, lane: L, instance: bytes, accept: Callable[[], None]) -> None:
        """Check whether the session's lanes are up; then refuse ``lane``, or call ``accept``."""
        if not self._lanes:
            accept()
            return
        kept = ", ".join(each.remote for each in self._lanes.values())
        self._check = _Check(lane, instance, kept, accept)
        self._owner.begin_check(lane)

    def settle(self, outcome: DuplicateOutcome) -> None:
        """End a check: the old daemon has sent something, or did not in time, or a lane is gone."""
        check, self._check = self._check, None
        if check is None:
            return
        self._owner.end_check()
        if check.lane.ended:
            return
        if outcome is DuplicateOutcome.TAKES_OVER:
            check.accept()
        elif outcome is DuplicateOutcome.IS_REFUSED:
            self._refuse(check)

    def dismiss(self, code: Code, reason: str) -> list[L]:
        """Close the lane that is being checked, if there is one, and return it."""
        if self._check is None:
            return []
        lane = self._check.lane
        lane.close(code, reason)
        self.settle(DuplicateOutcome.IS_GONE)
        return [lane]

    def forget(self) -> None:
        """Forget refused instances: a new session has begun, and its peer may restart."""
        self._refused.clear()

    def _refuse(self, check: _Check[L]) -> None:
        self._refused.append(check.instance)
        refused = self._owner.place(check.lane)  # the port differs each time
        self._owner.duplicate_refused(
            f"two daemons are named {self._peer}: the one at {check.kept} answers and is kept, "
            f"the one at {refused} is refused",
        )
        check.lane.close(Code.COLLISION, self._refusal(check.kept))
        self._tell(
            Code.COLLISION,
            f"another daemon named {self._peer} has connected from {refused} and was refused: "
            "two hosts have the same name and certificate",
        )

    def _refusal(self, kept: str) -> str:
        """Return the error text for the refused daemon, which logs it."""
        return (
            f"another daemon named {self._peer} has this link, from {kept}: "
            "two hosts have the same name and certificate"
        )

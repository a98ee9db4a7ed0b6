"""Check targets at the peer, and answer its checks: by the allow list alone, nothing is dialled."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from tunnel.errors import RefusedError, UnreachableError
from tunnel.relay.status_schema import ProbeAnswer
from tunnel.wire.codes import Code
from tunnel.wire.events import TargetJudged, TargetProbed
from tunnel.wire.session import Session


class TargetVerdict(StrEnum):
    """Result of a target check."""

    ADMITTED = "admitted"
    REFUSED = "refused"
    NOT_ASKED = "not asked"  # the peer's version does not support it


@dataclass(frozen=True, slots=True)
class TargetCheck:
    """The peer's answer for ``target``. ``code`` is the name of a Code, ``reason`` an error text."""

    target: str
    verdict: TargetVerdict
    code: str
    reason: str

    def facts(self) -> ProbeAnswer:
        """Return it for the reply on the control socket."""
        return {"target": self.target, "verdict": self.verdict, "code": self.code, "reason": self.reason}


class TargetChecks:
    """Target checks of one link, in both directions. ``admit`` raises RefusedError for a forbidden target."""

    def __init__(self, admit: Callable[[str], object]) -> None:
        self._admit = admit
        self._session: Session | None = None
        self._waiting: deque[asyncio.Future[TargetJudged]] = deque()

    def begin(self, session: Session) -> None:
        """Use ``session`` from now on."""
        self._session = session

    def end(self) -> None:
        """Fail all pending checks: the session has ended."""
        self._session = None
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_exception(UnreachableError("the link was lost before the peer answered"))

    def ask(self, target: str) -> asyncio.Future[TargetJudged] | None:
        """Ask the peer whether it would accept ``target``. Return None if it does not support that.

        Raises UnreachableError without a session, RefusedError if too many checks are pending at the peer.
        The future may fail with UnreachableError.
        """
        if self._session is None:
            raise UnreachableError("the link is down")
        if not self._session.probes.known:
            return None
        self._session.probes.ask(target)
        self._waiting.append(asyncio.get_running_loop().create_future())
        return self._waiting[-1]

    def act(self, event: TargetProbed | TargetJudged) -> None:
        """Answer a check of the peer, or handle its answer."""
        if isinstance(event, TargetProbed):
            self._answer(event.target)
            return
        future = self._waiting.popleft()
        if not future.done():  # the caller may have timed out
            future.set_result(event)

    def _answer(self, target: str) -> None:
        code, reason = Code.NONE, ""
        try:
            self._admit(target)
        except RefusedError as error:
            code, reason = error.code or Code.INTERNAL, error.reason
        if self._session is not None:
            self._session.probes.judge(code, reason)


def answer(target: str, judged: TargetJudged | None) -> TargetCheck:
    """Return the result for ``target``; ``judged`` is None if the peer was not asked."""
    if judged is None:
        return TargetCheck(
            target, TargetVerdict.NOT_ASKED, Code.NONE.name, "the peer's version does not support this check"
        )
    verdict = TargetVerdict.ADMITTED if judged.code is Code.NONE else TargetVerdict.REFUSED
    return TargetCheck(target, verdict, judged.code.name, judged.reason)

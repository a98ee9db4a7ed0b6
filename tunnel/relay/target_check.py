"""Asking the peer what it would admit, and answering it: by the allow list alone, nothing is dialled."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from tunnel.errors import RefusedError, UnreachableError
from tunnel.wire.codes import Code
from tunnel.wire.events import TargetJudged, TargetProbed
from tunnel.wire.session import Session


class TargetVerdict(StrEnum):
    """What would become of a stream to a target."""

    ADMITTED = "admitted"
    REFUSED = "refused"
    NOT_ASKED = "not asked"  # the peer's version cannot be asked


@dataclass(frozen=True, slots=True)
class TargetCheck:
    """What the peer says of ``target``. ``code`` is the name of a Code, ``reason`` for people."""

    target: str
    verdict: TargetVerdict
    code: str
    reason: str


class TargetChecks:
    """Both directions on one link. ``admit`` raises RefusedError for what our peer may not reach here."""

    def __init__(self, admit: Callable[[str], object]) -> None:
        self._admit = admit
        self._session: Session | None = None
        self._waiting: deque[asyncio.Future[TargetJudged]] = deque()

    def begin(self, session: Session) -> None:
        """Ask and answer on ``session`` from now on."""
        self._session = session

    def end(self) -> None:
        """The session is over: who waits for an answer gets none."""
        self._session = None
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_exception(UnreachableError("the link was lost before the peer answered"))

    def ask(self, target: str) -> asyncio.Future[TargetJudged] | None:
        """Ask the peer about ``target``; None when it knows no such questions.

        Raises UnreachableError without a session, RefusedError when the peer has too much to answer already.
        The future fails with UnreachableError.
        """
        if self._session is None:
            raise UnreachableError("there is no link")
        if not self._session.probes.known:
            return None
        self._session.probes.ask(target)
        self._waiting.append(asyncio.get_running_loop().create_future())
        return self._waiting[-1]

    def act(self, event: TargetProbed | TargetJudged) -> None:
        """Answer the peer, or take its answer."""
        if isinstance(event, TargetProbed):
            self._answer(event.target)
            return
        future = self._waiting.popleft()
        if not future.done():  # whoever asked may have given up
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
    """The peer's word on ``target``; with None it was not asked."""
    if judged is None:
        return TargetCheck(
            target, TargetVerdict.NOT_ASKED, Code.NONE.name, "the peer's version cannot be asked"
        )
    verdict = TargetVerdict.ADMITTED if judged.code is Code.NONE else TargetVerdict.REFUSED
    return TargetCheck(target, verdict, judged.code.name, judged.reason)

"""Questions about targets in a simulated session: what one host asked, and what the other made of it."""

from __future__ import annotations

from tunnel.wire.codes import Code
from tunnel.wire.events import TargetJudged, TargetProbed
from tunnel.wire.session import Session


def verdict(target: str) -> tuple[Code, str]:
    """What a host says of ``target``: every third may not be reached, and the reason names it."""
    refused = int(target.rpartition(":")[2]) % 3 == 0
    return (Code.TARGET_FORBIDDEN, f"{target} is not allowed") if refused else (Code.NONE, "")


class Questions:
    """Those of one host and those to it. Each target is asked about once: so answers show their order."""

    def __init__(self) -> None:
        self._asked: list[str] = []
        self._answers: list[tuple[Code, str]] = []
        self._open: list[str] = []  # the peer's, without an answer

    def ask(self, session: Session) -> None:
        """Ask about the next target."""
        self._asked.append(f"tcp:127.0.0.1:{49152 + len(self._asked)}")
        session.probes.ask(self._asked[-1])

    def judge(self, session: Session, most: int = 1 << 30) -> bool:
        """Answer up to so many of the peer's; whether there were any."""
        due, self._open = self._open[:most], self._open[most:]
        for target in due:
            session.probes.judge(*verdict(target))
        return bool(due)

    def note(self, event: TargetProbed | TargetJudged) -> None:
        """Take in what the session reports."""
        if isinstance(event, TargetProbed):
            self._open.append(event.target)
        else:
            self._answers.append((event.code, event.reason))

    def check_finished(self) -> None:
        """Raise AssertionError unless every question has its own answer, once and in order."""
        assert self._answers == [verdict(target) for target in self._asked]
        assert not self._open

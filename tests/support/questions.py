"""Probes of targets in a simulated session, and their verdicts."""

from __future__ import annotations

from tunnel.wire.codes import Code
from tunnel.wire.events import TargetJudged, TargetProbed
from tunnel.wire.session import Session


def verdict(target: str) -> tuple[Code, str]:
    """Return the verdict on ``target``: every third is forbidden, with a reason that names it."""
    refused = int(target.rpartition(":")[2]) % 3 == 0
    return (Code.TARGET_FORBIDDEN, f"{target} is not allowed") if refused else (Code.NONE, "")


class Questions:
    """Probes sent and received by one host. Each target is probed once, so answers show their order."""

    def __init__(self) -> None:
        self._asked: list[str] = []
        self._answers: list[tuple[Code, str]] = []
        self._open: list[str] = []  # probes of the peer without an answer

    def ask(self, session: Session) -> None:
        """Probe the next target."""
        self._asked.append(f"tcp:127.0.0.1:{49152 + len(self._asked)}")
        session.probes.ask(self._asked[-1])

    def judge(self, session: Session, most: int = 1 << 30) -> bool:
        """Answer up to ``most`` probes of the peer; return whether there were any."""
        pending, self._open = self._open[:most], self._open[most:]
        for target in pending:
            session.probes.judge(*verdict(target))
        return bool(pending)

    def note(self, event: TargetProbed | TargetJudged) -> None:
        """Record an event of the session."""
        if isinstance(event, TargetProbed):
            self._open.append(event.target)
        else:
            self._answers.append((event.code, event.reason))

    def check_finished(self) -> None:
        """Raise AssertionError unless every probe has its own answer, once and in order."""
        assert self._answers == [verdict(target) for target in self._asked]
        assert not self._open

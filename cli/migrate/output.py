"""A migration as it is told: lines and a bar for people, one JSON object a line for programs.

The keys of the objects are stable. Every one has ``event`` and ``time`` (UTC, ISO 8601); bytes, seconds,
bytes a second.
"""

from __future__ import annotations

import dataclasses
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime

import typer
from rich.console import Console

from tunnel.cli.demo.display import Display, ShowMove
from tunnel.cli.migrate.readiness import CheckResult
from tunnel.errors import TunnelError
from tunnel.units import MIB
from tunnel.virt.guest_location import Where
from tunnel.virt.move import MoveSummary
from tunnel.virt.progress import Progress

Rate = Callable[[], float | None]
"""What the tunnel carries now, in bytes a second; None when that is not known."""


class Announcer(ABC):
    """Whoever tells. Serves as the conductor's ``Report``."""

    @abstractmethod
    def check(self, finding: CheckResult) -> None:
        """Tell what a check found."""

    @abstractmethod
    def moving(self, guest: str, route: str, rate: Rate) -> AbstractContextManager[None]:
        """Tell that it begins; ``progress`` is for inside this context."""

    @abstractmethod
    def progress(self, progress: Progress) -> None:
        """Tell where it stands."""

    @abstractmethod
    def notice(self, text: str) -> None:
        """Tell something that the operator should know."""

    @abstractmethod
    def ended(self, result: str, where: Where, words: str, summary: MoveSummary | None) -> None:
        """Tell the end."""

    @abstractmethod
    def failed(self, error: TunnelError) -> None:
        """Tell programs; people read the error itself, on stderr."""


class HumanOutput(Announcer):
    """Steps and the bar go to ``console`` (stderr), the end to stdout."""

    def __init__(self, console: Console) -> None:
        self._display = Display(console)
        self._show: ShowMove | None = None
        self._rate: Rate = lambda: None

    def check(self, finding: CheckResult) -> None:
        """A line."""
        self._display.step(finding.check, finding.detail)

    @contextmanager
    def moving(self, guest: str, route: str, rate: Rate) -> Iterator[None]:
        """A line and a bar."""
        self._display.step("moving", f"{guest} over {route}; ctrl-C aborts")
        self._rate = rate
        with self._display.move() as self._show:
            yield
        self._show = None

    def progress(self, progress: Progress) -> None:
        """Move the bar."""
        if self._show is not None:
            self._show(progress, self._rate())

    def notice(self, text: str) -> None:
        """A line."""
        self._display.step("note", text)

    def ended(self, result: str, where: Where, words: str, summary: MoveSummary | None) -> None:
        """The verdict, and the figures if there are any."""
        typer.echo(words)
        if summary is not None:
            typer.echo(f"  {describe(summary)}")

    def failed(self, error: TunnelError) -> None:
        """Nothing: the command line writes errors."""


class JsonOutput(Announcer):
    """One JSON object a line on stdout, written at once."""

    def __init__(self) -> None:
        self._rate: Rate = lambda: None

    def check(self, finding: CheckResult) -> None:
        """``check``."""
        self._write("check", check=finding.check, detail=finding.detail)

    @contextmanager
    def moving(self, guest: str, route: str, rate: Rate) -> Iterator[None]:
        """``started``."""
        self._rate = rate
        self._write("started", guest=guest, route=route)
        yield

    def progress(self, progress: Progress) -> None:
        """``progress``."""
        rate = self._rate()
        tunnel = None if rate is None else round(rate)
        self._write("progress", **dataclasses.asdict(progress), tunnel_throughput=tunnel)

    def notice(self, text: str) -> None:
        """``notice``."""
        self._write("notice", text=text)

    def ended(self, result: str, where: Where, words: str, summary: MoveSummary | None) -> None:
        """``ended``."""
        figures = dataclasses.asdict(summary) if summary is not None else None
        self._write("ended", result=result, runs_at=where.value, text=words, summary=figures)

    def failed(self, error: TunnelError) -> None:
        """``failed``."""
        self._write("failed", error=str(error), exit_code=error.exit_code)

    def _write(self, event: str, **facts: object) -> None:
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        typer.echo(json.dumps({"event": event, "time": time, **facts}))


def describe(summary: MoveSummary) -> str:
    """The figures in one line."""
    parts = [f"{summary.seconds:.1f} s"]
    if summary.sent is not None:
        parts.append(f"{summary.sent / MIB:.0f} MiB sent")
    if summary.iterations:
        parts.append(f"{summary.iterations} passes" if summary.iterations > 1 else "1 pass")
    if summary.downtime is not None:
        parts.append(f"downtime {summary.downtime * 1000:.0f} ms")
    if summary.postcopied:
        parts.append("post-copy")
    return ", ".join(parts)

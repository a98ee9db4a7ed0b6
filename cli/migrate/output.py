"""The output of a migration: text with a progress bar, or JSON lines.

The keys of the JSON objects are stable. Each has ``event`` and ``time`` (UTC, ISO 8601); units are bytes,
seconds and bytes per second.
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
"""Returns the throughput of the tunnel in bytes per second; None when unknown."""


class Announcer(ABC):
    """The interface for output; implements ``tunnel.virt.move.MoveHandler``."""

    @abstractmethod
    def check(self, finding: CheckResult) -> None:
        """Report a passed check."""

    @abstractmethod
    def moving(self, guest: str, route: str, rate: Rate) -> AbstractContextManager[None]:
        """Report the start; ``progress`` may be called inside this context."""

    @abstractmethod
    def progress(self, progress: Progress) -> None:
        """Report progress."""

    @abstractmethod
    def notice(self, text: str) -> None:
        """Report a notice for the operator."""

    @abstractmethod
    def ended(self, result: str, where: Where, words: str, summary: MoveSummary | None) -> None:
        """Report the result."""

    @abstractmethod
    def failed(self, error: TunnelError) -> None:
        """Report an error in JSON; in text mode ``main`` writes it to stderr."""


class HumanOutput(Announcer):
    """Text output: steps and the bar go to ``console`` (stderr), the result to stdout."""

    def __init__(self, console: Console) -> None:
        self._display = Display(console)
        self._show: ShowMove | None = None
        self._rate: Rate = lambda: None

    def check(self, finding: CheckResult) -> None:
        """Print a line."""
        self._display.step(finding.check, finding.detail)

    @contextmanager
    def moving(self, guest: str, route: str, rate: Rate) -> Iterator[None]:
        """Print a line and show a bar."""
        self._display.step("moving", f"{guest} over {route}; ctrl-C aborts")
        self._rate = rate
        with self._display.move() as self._show:
            yield
        self._show = None

    def progress(self, progress: Progress) -> None:
        """Update the bar."""
        if self._show is not None:
            self._show(progress, self._rate())

    def notice(self, text: str) -> None:
        """Print a line."""
        self._display.step("note", text)

    def ended(self, result: str, where: Where, words: str, summary: MoveSummary | None) -> None:
        """Print the result, and the figures if available."""
        typer.echo(words)
        if summary is not None:
            typer.echo(f"  {describe(summary)}")

    def failed(self, error: TunnelError) -> None:
        """Do nothing: ``main`` writes errors."""


class JsonOutput(Announcer):
    """JSON output: one object per line on stdout."""

    def __init__(self) -> None:
        self._rate: Rate = lambda: None

    def check(self, finding: CheckResult) -> None:
        """Write a ``check`` event."""
        self._write("check", check=finding.check, detail=finding.detail)

    @contextmanager
    def moving(self, guest: str, route: str, rate: Rate) -> Iterator[None]:
        """Write a ``started`` event."""
        self._rate = rate
        self._write("started", guest=guest, route=route)
        yield

    def progress(self, progress: Progress) -> None:
        """Write a ``progress`` event."""
        rate = self._rate()
        tunnel = None if rate is None else round(rate)
        self._write("progress", **dataclasses.asdict(progress), tunnel_throughput=tunnel)

    def notice(self, text: str) -> None:
        """Write a ``notice`` event."""
        self._write("notice", text=text)

    def ended(self, result: str, where: Where, words: str, summary: MoveSummary | None) -> None:
        """Write an ``ended`` event."""
        figures = dataclasses.asdict(summary) if summary is not None else None
        self._write("ended", result=result, runs_at=where.value, text=words, summary=figures)

    def failed(self, error: TunnelError) -> None:
        """Write a ``failed`` event."""
        self._write("failed", error=str(error), exit_code=error.exit_code)

    def _write(self, event: str, **facts: object) -> None:
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        typer.echo(json.dumps({"event": event, "time": time, **facts}))


def describe(summary: MoveSummary) -> str:
    """Return the figures in one line."""
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

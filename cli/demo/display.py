"""Progress of a migration on a terminal: a line for each step, and transient progress bars."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from tunnel.units import MIB
from tunnel.virt import progress as figures

ShowMove = Callable[[figures.Progress, float | None], None]
"""Called with the progress of a migration and the throughput of the tunnel in bytes per second, if known."""


class Display:
    """Writes progress to one console; bars are shown only on a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def step(self, name: str, text: str) -> None:
        """Print a completed step."""
        self._console.print(f"{name:<12} {text}", markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        """Show an indeterminate bar."""
        with self._progress() as progress:
            progress.add_task(text, total=None, note="")
            yield

    @contextmanager
    def migration(self) -> Iterator[Callable[[figures.Progress], None]]:
        """Show a bar of the memory sent; it may go back when the guest dirties memory."""
        with self._progress() as progress:
            task = progress.add_task("migrating", total=None, note="")

            def show(now: figures.Progress) -> None:
                note = f"{now.phase}, {now.throughput / MIB:.0f} MiB/s, pass {now.iteration}"
                done = now.total - now.remaining
                progress.update(task, total=now.total or None, completed=done, note=note)

            yield show

    @contextmanager
    def move(self) -> Iterator[ShowMove]:
        """Show a bar of the memory and disks sent, with the figures that indicate convergence."""
        with self._progress() as progress:
            task = progress.add_task("moving", total=1.0, note="")

            def show(now: figures.Progress, tunnel: float | None) -> None:
                progress.update(task, completed=now.done, note=describe(now, tunnel))

            yield show

    @contextmanager
    def verification(self) -> Iterator[Callable[[int, int], None]]:
        """Show a bar of the pages compared."""
        with self._progress() as progress:
            task = progress.add_task("verifying", total=None, note="")

            def show(done: int, total: int) -> None:
                progress.update(task, total=total, completed=done, note=f"{done} of {total} pages")

            yield show

    def _progress(self) -> Progress:
        return Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal or self._console.quiet,
        )


def describe(now: figures.Progress, tunnel: float | None) -> str:
    """Return the progress of a migration in one line."""
    parts = [
        f"{now.phase}, pass {now.iteration}",
        f"{now.sent / MIB:.0f} MiB sent, {(now.remaining + now.disk_remaining) / MIB:.0f} left",
        f"dirty {now.dirty_rate / MIB:.0f} MiB/s",
        f"downtime {now.expected_downtime * 1000:.0f} ms",
    ]
    if tunnel is not None:
        parts.append(f"tunnel {tunnel / MIB:.0f} MiB/s")
    return "; ".join(parts)

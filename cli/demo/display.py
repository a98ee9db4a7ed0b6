"""Progress of a migration for people: a line for each step, and bars that vanish when their work is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from tunnel.units import MIB
from tunnel.virt import progress as figures
from tunnel.virt.qmp_sample import Sample

ShowMove = Callable[[figures.Progress, float | None], None]
"""Takes where a migration stands, and the bytes a second that the tunnel carries, if they are known."""


class Display:
    """Writes to one console; on one that is no terminal only the steps appear."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def step(self, name: str, text: str) -> None:
        """Report that something is in place."""
        self._console.print(f"{name:<12} {text}", markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        """A bar without an end, for what cannot be counted."""
        with self._progress() as progress:
            progress.add_task(text, total=None, note="")
            yield

    @contextmanager
    def migration(self) -> Iterator[Callable[[Sample], None]]:
        """A bar over the memory that is still to move; it may go back when the guest dirties it again."""
        with self._progress() as progress:
            task = progress.add_task("migrating", total=None, note="")

            def show(sample: Sample) -> None:
                note = f"{sample.phase}, {sample.throughput / MIB:.0f} MiB/s, pass {sample.iteration}"
                done = sample.total - sample.remaining
                progress.update(task, total=sample.total or None, completed=done, note=note)

            yield show

    @contextmanager
    def move(self) -> Iterator[ShowMove]:
        """A bar over memory and disks, with everything that tells whether it will come to an end."""
        with self._progress() as progress:
            task = progress.add_task("moving", total=1.0, note="")

            def show(now: figures.Progress, tunnel: float | None) -> None:
                progress.update(task, completed=now.done, note=describe(now, tunnel))

            yield show

    @contextmanager
    def verification(self) -> Iterator[Callable[[int, int], None]]:
        """A bar over the pages that are compared."""
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
    """Where a migration stands, in one line."""
    parts = [
        f"{now.phase}, pass {now.iteration}",
        f"{now.sent / MIB:.0f} MiB sent, {(now.remaining + now.disk_remaining) / MIB:.0f} left",
        f"dirty {now.dirty_rate / MIB:.0f} MiB/s",
        f"downtime {now.expected_downtime * 1000:.0f} ms",
    ]
    if tunnel is not None:
        parts.append(f"tunnel {tunnel / MIB:.0f} MiB/s")
    return "; ".join(parts)

"""The run of one migration, independent of the backend: progress, timeout and orderly abort.

``Move`` is the common interface of libvirt and QEMU's monitor. ``MigrationRunner`` runs one: it reports
progress, acts on a timeout, and turns an interruption into a confirmed abort.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from tunnel.errors import HypervisorError, MigrationError, TunnelError
from tunnel.virt.guest_location import FINAL, Where, sentence
from tunnel.virt.move_options import Action
from tunnel.virt.polling import until
from tunnel.virt.progress import Progress

PERIOD = 0.25
"""Seconds between two polls of a migration."""

SETTLE = 10.0
"""Seconds for both sides to reach a consistent state."""

ShowProgress = Callable[[Progress], None]

ABORT_DEADLINE = 60.0
"""Seconds after which an abort is reported as failed."""


class Ending(StrEnum):
    """How a migration ended that did not fail."""

    DONE = "done"
    ABORTED = "aborted"


@dataclass(frozen=True, slots=True)
class MoveSummary:
    """The figures of a successful migration, in seconds and bytes; None if unknown.

    ``setup``: the part of ``seconds`` before the memory was sent. ``postcopied``: it switched to post-copy.
    """

    seconds: float
    downtime: float | None
    sent: int | None
    iterations: int | None
    postcopied: bool
    setup: float | None = None

    @property
    def throughput(self) -> float:
        """Bytes per second after the setup; 0 if unknown."""
        return (self.sent or 0) / max(self.seconds - (self.setup or 0), 0.001)


class Move(Protocol):
    """A migration that can be started once. Methods raise HypervisorError with the hypervisor's text."""

    async def prepare(self) -> None:
        """Check that the guest can be migrated, and record its state."""

    async def run(self) -> MoveSummary:
        """Migrate; return when completed."""

    async def progress(self) -> Progress | None:
        """Return the progress; None before it begins and after it ended."""

    async def abort(self) -> None:
        """Abort; ``run`` then raises. Not in post-copy: the guest would be lost.

        Aborts only a migration that ``run`` has started.
        """

    async def start_postcopy(self) -> None:
        """Switch to post-copy now."""

    async def suspend(self) -> None:
        """Pause the guest until it has arrived."""

    async def where(self) -> Where:
        """Return the side where the guest is currently active."""


class MoveHandler(Protocol):
    """The receiver of progress and notices."""

    def progress(self, progress: Progress) -> None:
        """Handle new figures."""

    def notice(self, text: str) -> None:
        """Handle a notice for the operator."""


class MigrationRunner:
    """Runs one ``move``. ``timeout`` in seconds, None = no limit."""

    def __init__(
        self, move: Move, report: MoveHandler, timeout: float | None = None, action: Action = Action.SUSPEND
    ) -> None:
        self.summary: MoveSummary | None = None
        self._move = move
        self._report = report
        self._timeout = timeout
        self._action = action
        self._interrupted = asyncio.Event()
        self._overdue = False
        self._aborting_since: float | None = None
        self._told = set[str]()

    def interrupt(self) -> None:
        """Abort, if still possible without losing the guest. May be called repeatedly, at any time."""
        if self._interrupted.is_set():
            self._report.notice("already aborting; waiting until the guest is safe")
        self._interrupted.set()

    async def run(self) -> Ending:
        """Migrate. Raises what ``run`` of the move raises, unless aborted here."""
        started = asyncio.get_running_loop().time()
        task = asyncio.create_task(self._move.run(), name="migration")
        waiter = asyncio.create_task(self._interrupted.wait(), name="interruption")
        try:
            while not task.done():
                await asyncio.wait(
                    {task} if waiter.done() else {task, waiter},
                    timeout=PERIOD,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if not task.done():
                    await self._turn(asyncio.get_running_loop().time() - started)
            await self._look()  # the final figures
            return self._ending(task)
        finally:
            task.cancel()
            waiter.cancel()
            await asyncio.gather(task, waiter, return_exceptions=True)

    def _ending(self, task: asyncio.Task[MoveSummary]) -> Ending:
        try:
            self.summary = task.result()
        except HypervisorError:
            if self._aborting_since is None:
                raise
            return Ending.ABORTED
        return Ending.DONE

    async def _turn(self, elapsed: float) -> None:
        progress = await self._look()
        overdue = self._timeout is not None and elapsed >= self._timeout
        if overdue and await self._time_is_up(progress):
            self._timeout = None
        if self._interrupted.is_set() or self._overdue:
            await self._abort(progress)

    async def _look(self) -> Progress | None:
        # The migration may end during the query; ``run`` reports that.
        with contextlib.suppress(TunnelError):
            progress = await self._move.progress()
            if progress is not None:
                self._report.progress(progress)
            return progress
        return None

    async def _time_is_up(self, progress: Progress | None) -> bool:
        """Perform the timeout action; return whether done. It fails while the destination is set up."""
        if progress is not None and progress.postcopy:
            return True
        self._tell_once(f"timeout after {self._timeout:.0f} s: {self._action}")
        try:
            match self._action:
                case Action.ABORT:
                    self._overdue = True
                case Action.SUSPEND:
                    await self._move.suspend()
                case Action.POSTCOPY:
                    await self._move.start_postcopy()
        except HypervisorError as error:  # the migration itself is unaffected
            self._tell_once(f"{self._action} failed, the migration continues, retrying: {error}")
            return False
        return True

    def _tell_once(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._report.notice(text)

    async def _abort(self, progress: Progress | None) -> None:
        """Abort, repeatedly until it ends: early in a migration there is no job yet to abort."""
        if progress is not None and progress.postcopy:
            self._tell_once(
                "cannot abort: the guest already runs at the destination and would be lost; continuing"
            )
            return
        now = asyncio.get_running_loop().time()
        if self._aborting_since is None:
            self._aborting_since = now
            self._report.notice("aborting")
        if now - self._aborting_since > ABORT_DEADLINE:
            raise HypervisorError(
                f"timed out after {ABORT_DEADLINE:g} s waiting for the abort: the migration may continue"
            )
        with contextlib.suppress(HypervisorError):
            await self._move.abort()


async def settled(move: Move, within: float = SETTLE) -> Where:
    """Return the location of the guest, once both sides have settled or after ``within`` seconds."""
    last = Where.UNKNOWN

    async def agreed() -> Where | None:
        nonlocal last
        last = await move.where()
        return last if last in FINAL else None

    with contextlib.suppress(TimeoutError):
        return await until(agreed, within=within, every=PERIOD / 2)
    return last


async def completed(move: Move, show: ShowProgress | None = None) -> MoveSummary:
    """Run ``move`` without a timeout, and verify that the guest has arrived; ``show`` gets the progress.

    Raises MigrationError, with the location of the guest, when not.
    """
    runner = MigrationRunner(move, _Shown(show))
    try:
        await move.prepare()
        await runner.run()
    except HypervisorError as error:
        raise MigrationError(f"{error}\n{sentence(await settled(move))}") from error
    where = await settled(move)
    if where is not Where.DESTINATION or runner.summary is None:
        raise MigrationError(f"migration done, but not verified\n{sentence(where)}")
    return runner.summary


class _Shown:
    """A MoveHandler that passes the progress to a function."""

    def __init__(self, show: ShowProgress | None) -> None:
        self._show = show

    def progress(self, progress: Progress) -> None:
        if self._show is not None:
            self._show(progress)

    def notice(self, text: str) -> None:
        """Never called: there is no timeout and no abort."""

"""One migration from its start to its end, whoever does it: followed, held to its timeout, aborted in order.

A ``Move`` is what libvirt and QEMU's monitor have in common. The ``MigrationRunner`` watches one: it reports
progress, acts when time is up, and turns an interruption into an abort that has been seen to work.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from tunnel.errors import HypervisorError, TunnelError
from tunnel.virt.guest_location import FINAL, Where
from tunnel.virt.polling import until
from tunnel.virt.progress import Progress

PERIOD = 0.25
"""Seconds between two looks at a migration."""

SETTLE = 10.0
"""Seconds that both sides may take to agree on where the guest runs."""

ABORT_DEADLINE = 60.0
"""Seconds that an abort may take until we say that it does not work."""


class Action(StrEnum):
    """What to do with a migration that takes too long."""

    SUSPEND = "suspend"
    POSTCOPY = "postcopy"
    ABORT = "abort"


class Ending(StrEnum):
    """How a migration ended that did not fail."""

    DONE = "done"
    ABORTED = "aborted"


@dataclass(frozen=True, slots=True)
class MoveSummary:
    """A migration that succeeded, in seconds and bytes; None where nobody could tell."""

    seconds: float
    downtime: float | None
    sent: int | None
    iterations: int | None
    postcopied: bool


class Move(Protocol):
    """A migration that can be started once. Every verb raises HypervisorError with the hypervisor's words."""

    async def run(self) -> MoveSummary:
        """Migrate; return when that is done."""

    async def progress(self) -> Progress | None:
        """Where it stands; None before it begins and after it ended."""

    async def abort(self) -> None:
        """Ask for its end; ``run`` then raises. Not in post-copy: the guest would be lost.

        Only what ``run`` has started is ended: not a migration of somebody else's.
        """

    async def start_postcopy(self) -> None:
        """Let the guest go over now, and its memory follow."""

    async def suspend(self) -> None:
        """Hold the guest until it has arrived."""

    async def where(self) -> Where:
        """On which side the guest is alive at this moment."""


class MoveHandler(Protocol):
    """Whoever is told."""

    def progress(self, progress: Progress) -> None:
        """Take a new figure."""

    def notice(self, text: str) -> None:
        """Take something that the operator should know."""


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
        """Abort, if that can still be done without losing the guest. Safe to call again, at any time."""
        if self._interrupted.is_set():
            self._report.notice("already stopping; waiting until the guest is safe")
        self._interrupted.set()

    async def run(self) -> Ending:
        """Migrate. Raises what ``run`` of the move raises, unless we aborted it."""
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
            await self._look()  # the last figures of all
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
        # A migration ends while it is looked at: what that was, ``run`` says.
        with contextlib.suppress(TunnelError):
            progress = await self._move.progress()
            if progress is not None:
                self._report.progress(progress)
            return progress
        return None

    async def _time_is_up(self, progress: Progress | None) -> bool:
        """Act; whether that is done. While the destination is still being set up it cannot be."""
        if progress is not None and progress.postcopy:
            return True
        self._tell_once(f"not done after {self._timeout:.0f} s: {self._action}")
        try:
            match self._action:
                case Action.ABORT:
                    self._overdue = True
                case Action.SUSPEND:
                    await self._move.suspend()
                case Action.POSTCOPY:
                    await self._move.start_postcopy()
        except HypervisorError as error:  # the migration itself is none the worse
            self._tell_once(f"{self._action} failed, it goes on as before, and this is tried again: {error}")
            return False
        return True

    def _tell_once(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._report.notice(text)

    async def _abort(self, progress: Progress | None) -> None:
        """Ask on every turn until it ends: early in a migration there is nothing yet to abort."""
        if progress is not None and progress.postcopy:
            self._tell_once(
                "the guest runs at the destination already, and would be lost: it goes on to its end"
            )
            return
        now = asyncio.get_running_loop().time()
        if self._aborting_since is None:
            self._aborting_since = now
            self._report.notice("aborting")
        if now - self._aborting_since > ABORT_DEADLINE:
            raise HypervisorError(
                f"the migration did not stop within {ABORT_DEADLINE:g} s: it may still be under way"
            )
        with contextlib.suppress(HypervisorError):
            await self._move.abort()


async def settled(move: Move, within: float = SETTLE) -> Where:
    """Where the guest is, after giving both sides a moment to agree."""
    last = Where.UNKNOWN

    async def agreed() -> Where | None:
        nonlocal last
        last = await move.where()
        return last if last in FINAL else None

    with contextlib.suppress(TimeoutError):
        return await until(agreed, within=within, every=PERIOD / 2)
    return last

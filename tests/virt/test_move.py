"""The migration runner: its reports, its timeout action, and the safe abort on ctrl-C."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest

from tests.support.waiting import until
from tunnel.errors import HypervisorError, MigrationError, UnreachableError
from tunnel.virt import move as module
from tunnel.virt.guest_location import Where
from tunnel.virt.move import Ending, MigrationRunner, MoveSummary, completed, settled
from tunnel.virt.move_options import Action
from tunnel.virt.progress import Progress

DONE = MoveSummary(1.0, 0.1, 100, 1, postcopied=False)


def standing(*, postcopy: bool = False) -> Progress:
    return Progress("active", 1.0, 100, 50, 50, 0, 1, 50, 0.3, postcopy=postcopy)


class FakeMove:
    """A migration that runs until the test ends it."""

    def __init__(self, *, postcopy: bool = False, wheres: Iterable[Where] = ()) -> None:
        self.calls: list[str] = []
        self.refused_aborts = 0
        self.broken = ""
        self.standing: Progress | None = standing(postcopy=postcopy)
        self.end: asyncio.Future[MoveSummary] = asyncio.get_running_loop().create_future()
        self._wheres = iter(wheres)

    async def prepare(self) -> None:
        self.calls.append("prepare")

    async def run(self) -> MoveSummary:
        return await self.end

    async def progress(self) -> Progress | None:
        self.calls.append("progress")
        if self.broken == "progress":
            raise UnreachableError("libvirt did not answer")
        return self.standing

    async def abort(self) -> None:
        self.calls.append("abort")
        if self.calls.count("abort") <= self.refused_aborts:
            raise HypervisorError("no job is active")
        self.end.set_exception(HypervisorError("operation aborted"))

    async def start_postcopy(self) -> None:
        self.calls.append("start_postcopy")
        self.standing = standing(postcopy=True)

    async def suspend(self) -> None:
        self.calls.append("suspend")
        if self.broken == "suspend":
            raise HypervisorError("the guest cannot be held")

    async def where(self) -> Where:
        return next(self._wheres)

    @property
    def deeds(self) -> list[str]:
        return [call for call in self.calls if call != "progress"]


class Report:
    """A recording handler."""

    def __init__(self) -> None:
        self.figures: list[Progress] = []
        self.notices: list[str] = []

    def progress(self, progress: Progress) -> None:
        self.figures.append(progress)

    def notice(self, text: str) -> None:
        self.notices.append(text)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PERIOD", 0.01)


def conduct(
    move: FakeMove, timeout: float | None = None, action: Action = Action.SUSPEND
) -> tuple[MigrationRunner, Report, asyncio.Task[Ending]]:
    report = Report()
    runner = MigrationRunner(move, report, timeout, action)
    return runner, report, asyncio.create_task(runner.run())


async def test_progress_is_reported_to_the_end() -> None:
    move = FakeMove()
    runner, report, running = conduct(move)
    await until(lambda: report.figures)
    move.standing = last = standing(postcopy=True)
    move.end.set_result(DONE)
    assert await running is Ending.DONE
    assert runner.summary == DONE
    assert report.figures[-1] == last
    assert move.deeds == []


async def test_failure_is_propagated() -> None:
    move = FakeMove()
    _, _, running = conduct(move)
    move.end.set_exception(HypervisorError("the cable broke"))
    with pytest.raises(HypervisorError, match="the cable broke"):
        await running


async def test_unavailable_figures_do_not_end_it() -> None:
    move = FakeMove()
    move.broken = "progress"
    _, report, running = conduct(move)
    await until(lambda: len(move.calls) > 3)
    move.end.set_result(DONE)
    assert await running is Ending.DONE
    assert report.figures == []


async def test_interruption_aborts_until_that_works() -> None:
    move = FakeMove()
    move.refused_aborts = 3  # there is no job yet
    runner, report, running = conduct(move)
    runner.interrupt()
    assert await running is Ending.ABORTED
    assert move.deeds == ["abort"] * 4
    assert report.notices == ["aborting"]
    assert runner.summary is None


async def test_second_interruption_changes_nothing() -> None:
    move = FakeMove()
    move.refused_aborts = 10**6
    runner, report, running = conduct(move)
    runner.interrupt()
    await until(lambda: "abort" in move.calls)
    runner.interrupt()
    assert not running.done()
    move.end.set_exception(HypervisorError("operation aborted"))
    assert await running is Ending.ABORTED
    assert report.notices == ["aborting", "already aborting; waiting until the guest is safe"]


async def test_interruption_that_comes_too_late_is_a_success() -> None:
    move = FakeMove()
    move.refused_aborts = 10**6
    runner, _, running = conduct(move)
    runner.interrupt()
    await until(lambda: "abort" in move.calls)
    move.end.set_result(DONE)
    assert await running is Ending.DONE


async def test_abort_without_effect_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ABORT_DEADLINE", 0.05)
    move = FakeMove()
    move.refused_aborts = 10**6
    runner, _, running = conduct(move)
    runner.interrupt()
    with pytest.raises(HypervisorError, match=r"timed out after 0\.05 s waiting for the abort"):
        await running


async def test_postcopy_is_never_aborted() -> None:
    move = FakeMove(postcopy=True)
    runner, report, running = conduct(move)
    runner.interrupt()
    await until(lambda: len(move.calls) > 5)
    assert move.deeds == []
    move.end.set_result(DONE)
    assert await running is Ending.DONE
    assert len(report.notices) == 1
    assert "would be lost" in report.notices[0]


@pytest.mark.parametrize(
    ("action", "deed"), [(Action.SUSPEND, "suspend"), (Action.POSTCOPY, "start_postcopy")]
)
async def test_timeout_acts_once(action: Action, deed: str) -> None:
    move = FakeMove()
    _, report, running = conduct(move, 0.02, action)
    await until(lambda: deed in move.calls)
    seen = len(move.calls)
    await until(lambda: len(move.calls) > seen + 3)
    move.end.set_result(DONE)
    assert await running is Ending.DONE
    assert move.deeds == [deed]
    assert report.notices == [f"timeout after 0 s: {action}"]


async def test_timeout_can_abort() -> None:
    move = FakeMove()
    _, _, running = conduct(move, 0.02, Action.ABORT)
    assert await running is Ending.ABORTED


async def test_timeout_leaves_postcopy_alone() -> None:
    move = FakeMove(postcopy=True)
    _, report, running = conduct(move, 0.01, Action.ABORT)
    await until(lambda: len(move.calls) > 5)
    move.end.set_result(DONE)
    assert await running is Ending.DONE
    assert (move.deeds, report.notices) == ([], [])


async def test_failed_action_is_reported_once_and_retried() -> None:
    move = FakeMove()
    move.broken = "suspend"
    _, report, running = conduct(move, 0.01, Action.SUSPEND)
    await until(lambda: move.deeds.count("suspend") > 2, "for a retry")
    move.broken = ""
    tries = move.deeds.count("suspend")
    await until(lambda: move.deeds.count("suspend") > tries, "for the action to succeed")
    seen = len(move.calls)
    await until(lambda: len(move.calls) > seen + 3)
    move.end.set_result(DONE)
    assert await running is Ending.DONE
    assert move.deeds.count("suspend") == tries + 1
    again = "suspend failed, the migration continues, retrying: the guest cannot be held"
    assert report.notices[1:] == [again]


async def test_location_is_polled_until_both_sides_agree() -> None:
    move = FakeMove(wheres=[Where.BOTH, Where.NEITHER, Where.DESTINATION])
    assert await settled(move) is Where.DESTINATION


async def test_persistent_conflict_is_reported() -> None:
    move = FakeMove(wheres=[Where.BOTH] * 10_000)
    assert await settled(move, within=0.05) is Where.BOTH


async def test_location_without_a_reply_in_time_is_unknown() -> None:
    class Silent(FakeMove):
        async def where(self) -> Where:
            await asyncio.sleep(60)
            return Where.SOURCE

    assert await settled(Silent(), within=0.02) is Where.UNKNOWN


async def test_completed_move_shows_its_progress_and_returns_the_figures() -> None:
    move = FakeMove(wheres=[Where.BOTH, Where.DESTINATION])
    move.end.set_result(DONE)
    shown: list[Progress] = []
    assert await completed(move, shown.append) == DONE
    assert shown == [standing()]
    assert move.calls[0] == "prepare"


@pytest.mark.parametrize(
    ("failed", "where", "message"),
    [
        (True, Where.SOURCE, "it broke\nThe guest is still running at the source, and nowhere else."),
        (False, Where.SOURCE, "migration done, but not verified\nThe guest is still running at the source"),
        (False, Where.LEFT, "migration done, but not verified\nThe guest has left"),
    ],
)
async def test_move_that_did_not_complete_names_the_location(
    failed: bool, where: Where, message: str
) -> None:
    move = FakeMove(wheres=[where])
    if failed:
        move.end.set_exception(HypervisorError("it broke"))
    else:
        move.end.set_result(DONE)
    with pytest.raises(MigrationError) as caught:
        await completed(move)
    assert str(caught.value).startswith(message)


def test_throughput_does_not_count_the_setup() -> None:
    assert MoveSummary(2.5, None, 1000, None, postcopied=False, setup=0.5).throughput == 500
    assert MoveSummary(2.5, None, None, None, postcopied=False).throughput == 0

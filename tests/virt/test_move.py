"""The conductor: what it reports, what it does when time is up, and how it turns ctrl-C into a safe abort."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest

from tests.support.waiting import until
from tunnel.errors import HypervisorError, UnreachableError
from tunnel.virt import move as module
from tunnel.virt.guest_location import Where
from tunnel.virt.move import Action, Ending, MigrationRunner, MoveSummary, settled
from tunnel.virt.progress import Progress

DONE = MoveSummary(1.0, 0.1, 100, 1, postcopied=False)


def standing(*, postcopy: bool = False) -> Progress:
    return Progress("active", 1.0, 100, 50, 50, 0, 1, 50, 0.3, postcopy=postcopy)


class FakeMove:
    """A migration that goes on until a test ends it."""

    def __init__(self, *, postcopy: bool = False, wheres: Iterable[Where] = ()) -> None:
        self.calls: list[str] = []
        self.refused_aborts = 0
        self.broken = ""
        self.standing: Progress | None = standing(postcopy=postcopy)
        self.end: asyncio.Future[MoveSummary] = asyncio.get_running_loop().create_future()
        self._wheres = iter(wheres)

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


class Told:
    """A report that remembers."""

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
) -> tuple[MigrationRunner, Told, asyncio.Task[Ending]]:
    told = Told()
    conductor = MigrationRunner(move, told, timeout, action)
    return conductor, told, asyncio.create_task(conductor.run())


async def test_a_migration_that_ends_is_followed_to_its_last_figure() -> None:
    move = FakeMove()
    conductor, told, running = conduct(move)
    await until(lambda: told.figures)
    move.standing = last = standing(postcopy=True)
    move.end.set_result(DONE)
    assert await running is Ending.DONE
    assert conductor.summary == DONE
    assert told.figures[-1] == last
    assert move.deeds == []


async def test_a_failure_comes_through() -> None:
    move = FakeMove()
    _, _, running = conduct(move)
    move.end.set_exception(HypervisorError("the cable broke"))
    with pytest.raises(HypervisorError, match="the cable broke"):
        await running


async def test_figures_that_cannot_be_had_do_not_end_it() -> None:
    move = FakeMove()
    move.broken = "progress"
    _, told, running = conduct(move)
    await until(lambda: len(move.calls) > 3)
    move.end.set_result(DONE)
    assert await running is Ending.DONE
    assert told.figures == []


async def test_interruption_aborts_until_that_works() -> None:
    move = FakeMove()
    move.refused_aborts = 3  # there is no job yet
    conductor, told, running = conduct(move)
    conductor.interrupt()
    assert await running is Ending.ABORTED
    assert move.deeds == ["abort"] * 4
    assert told.notices == ["aborting"]
    assert conductor.summary is None


async def test_second_interruption_changes_nothing() -> None:
    move = FakeMove()
    move.refused_aborts = 10**6
    conductor, told, running = conduct(move)
    conductor.interrupt()
    await until(lambda: "abort" in move.calls)
    conductor.interrupt()
    assert not running.done()
    move.end.set_exception(HypervisorError("operation aborted"))
    assert await running is Ending.ABORTED
    assert told.notices == ["aborting", "already stopping; waiting until the guest is safe"]


async def test_interruption_that_comes_too_late_is_a_success() -> None:
    move = FakeMove()
    move.refused_aborts = 10**6
    conductor, _, running = conduct(move)
    conductor.interrupt()
    await until(lambda: "abort" in move.calls)
    move.end.set_result(DONE)
    assert await running is Ending.DONE


async def test_abort_that_has_no_effect_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ABORT_DEADLINE", 0.05)
    move = FakeMove()
    move.refused_aborts = 10**6
    conductor, _, running = conduct(move)
    conductor.interrupt()
    with pytest.raises(HypervisorError, match="did not stop within"):
        await running


async def test_postcopy_is_never_aborted() -> None:
    move = FakeMove(postcopy=True)
    conductor, told, running = conduct(move)
    conductor.interrupt()
    await until(lambda: len(move.calls) > 5)
    assert move.deeds == []
    move.end.set_result(DONE)
    assert await running is Ending.DONE
    assert len(told.notices) == 1
    assert "would be lost" in told.notices[0]


@pytest.mark.parametrize(
    ("action", "deed"), [(Action.SUSPEND, "suspend"), (Action.POSTCOPY, "start_postcopy")]
)
async def test_time_that_is_up_acts_once(action: Action, deed: str) -> None:
    move = FakeMove()
    _, told, running = conduct(move, 0.02, action)
    await until(lambda: deed in move.calls)
    seen = len(move.calls)
    await until(lambda: len(move.calls) > seen + 3)
    move.end.set_result(DONE)
    assert await running is Ending.DONE
    assert move.deeds == [deed]
    assert told.notices == [f"not done after 0 s: {action}"]


async def test_time_that_is_up_can_abort() -> None:
    move = FakeMove()
    _, _, running = conduct(move, 0.02, Action.ABORT)
    assert await running is Ending.ABORTED


async def test_time_that_is_up_leaves_postcopy_alone() -> None:
    move = FakeMove(postcopy=True)
    _, told, running = conduct(move, 0.01, Action.ABORT)
    await until(lambda: len(move.calls) > 5)
    move.end.set_result(DONE)
    assert await running is Ending.DONE
    assert (move.deeds, told.notices) == ([], [])


async def test_action_that_fails_is_told_once_and_tried_until_it_is_done() -> None:
    move = FakeMove()
    move.broken = "suspend"
    _, told, running = conduct(move, 0.01, Action.SUSPEND)
    await until(lambda: move.deeds.count("suspend") > 2, "for it to be tried again")
    move.broken = ""
    tries = move.deeds.count("suspend")
    await until(lambda: move.deeds.count("suspend") > tries, "for it to be done")
    seen = len(move.calls)
    await until(lambda: len(move.calls) > seen + 3)
    move.end.set_result(DONE)
    assert await running is Ending.DONE
    assert move.deeds.count("suspend") == tries + 1
    again = "suspend failed, it goes on as before, and this is tried again: the guest cannot be held"
    assert told.notices[1:] == [again]


async def test_verdict_waits_until_both_sides_agree() -> None:
    move = FakeMove(wheres=[Where.BOTH, Where.NEITHER, Where.DESTINATION])
    assert await settled(move) is Where.DESTINATION


async def test_verdict_that_stays_bad_is_reported() -> None:
    move = FakeMove(wheres=[Where.BOTH] * 10_000)
    assert await settled(move, within=0.05) is Where.BOTH


async def test_verdict_that_nobody_came_to_in_time_is_that_nothing_is_known() -> None:
    class Silent(FakeMove):
        async def where(self) -> Where:
            await asyncio.sleep(60)
            return Where.SOURCE

    assert await settled(Silent(), within=0.02) is Where.UNKNOWN

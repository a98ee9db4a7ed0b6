"""A migration through libvirt, with fakes; tests/e2e/lab does the same between two real libvirts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from tests.support.waiting import turns
from tunnel.errors import HypervisorError, UnreachableError
from tunnel.virt import libvirt_move as module
from tunnel.virt.guest_location import Where
from tunnel.virt.libvirt import LibvirtGuest, LibvirtHost, State
from tunnel.virt.libvirt_move import LibvirtMove
from tunnel.virt.libvirt_request import LibvirtRoute
from tunnel.virt.move_options import DEFAULTS, Action, MoveOptions

POSTCOPY = MoveOptions(postcopy=True)
LATE = MoveOptions(postcopy=True, timeout=9.0, timeout_action=Action.POSTCOPY)
STATS = {
    "type": 2,
    "memory_total": 100,
    "memory_processed": 60,
    "memory_remaining": 40,
    "memory_iteration": 1,
}
FINAL = {"type": 3, "memory_total": 100, "memory_processed": 120, "memory_iteration": 2, "downtime": 40}


class FakeHost:
    """A libvirt with one guest; with a state of None it does not reply."""

    def __init__(self, state: State | None) -> None:
        self.state = state
        self.next: FakeHost | None = None  # the restarted libvirt
        self.final: dict[str, Any] | None = FINAL
        self.operation: str | None = None  # its job on the guest
        self.closed = False
        self.version_number = (9, 0, 0)
        self.uri = "qemu:///there"

    async def version(self) -> tuple[int, int, int]:
        return self.version_number

    async def again(self) -> FakeHost:
        if self.next is None:
            raise UnreachableError("no libvirt answers")
        return self.next

    async def __aenter__(self) -> FakeHost:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.closed = True

    async def state_of(self, name: str) -> State:
        assert name == "web1"
        if self.state is None:
            raise UnreachableError("libvirt did not answer")
        return self.state

    async def guest(self, name: str) -> FakeGuest | None:
        return FakeGuest(self) if self.final is not None else None


class FakeGuest:
    """web1, which migrates immediately."""

    name = "web1"

    def __init__(self, host: FakeHost) -> None:
        self.host = host
        self.asked: list[str] = []
        self.migrated_to: object = None
        self.stats: dict[str, Any] | None = STATS
        self._passed: Callable[[int], None] = lambda number: None

    async def state(self) -> State:
        return await self.host.state_of("web1")

    @asynccontextmanager
    async def iterations(self, passed: Callable[[int], None]) -> AsyncIterator[None]:
        self._passed = passed
        yield

    async def migrate(
        self, destination: object, flags: Collection[str], parameters: Mapping[str, str | int]
    ) -> None:
        self.migrated_to = destination
        for number in (1, 2, 3):
            self._passed(number)
            await turns()

    async def job(self) -> dict[str, Any] | None:
        return self.stats

    async def operation(self) -> str | None:
        if self.host.state is None:
            raise UnreachableError("libvirt did not answer")
        return self.host.operation

    async def completed_job(self) -> dict[str, Any]:
        return self.host.final or {}

    async def abort(self) -> None:
        self.asked.append("abort")

    async def start_postcopy(self) -> None:
        self.asked.append("start_postcopy")
        raise HypervisorError("it has arrived already")

    async def suspend(self) -> None:
        self.asked.append("suspend")


class Both:
    """Both hosts, the guest, and its move."""

    def __init__(self, options: MoveOptions = DEFAULTS) -> None:
        self.here, self.there = FakeHost(State.RUNNING), FakeHost(State.ABSENT)
        self.guest = FakeGuest(self.here)
        self.move = LibvirtMove(
            cast("LibvirtGuest", self.guest),
            cast("LibvirtHost", self.there),
            "qemu+unix:///system",
            options,
            LibvirtRoute("tcp://127.0.1.2"),
        )


async def test_peer_to_peer_uses_the_uri_and_direct_the_connection() -> None:
    both = Both()
    await both.move.run()
    assert both.guest.migrated_to == "qemu+unix:///system"
    both = Both(MoveOptions(p2p=False))
    await both.move.run()
    assert both.guest.migrated_to is both.there


async def test_final_figures_are_the_destinations() -> None:
    summary = await Both().move.run()
    assert (summary.sent, summary.iterations, summary.downtime) == (120, 2, 0.04)
    assert not summary.postcopied


async def test_without_them_the_last_progress_is_used() -> None:
    both = Both()
    both.there.final = None
    assert (await both.move.run()).sent is None
    await both.move.progress()
    summary = await both.move.run()
    assert (summary.sent, summary.downtime) == (60, None)


@pytest.mark.parametrize(("options", "asked"), [(DEFAULTS, []), (POSTCOPY, ["start_postcopy"]), (LATE, [])])
async def test_postcopy_begins_once_with_the_second_pass(options: MoveOptions, asked: list[str]) -> None:
    both = Both(options)
    await both.move.run()
    assert both.guest.asked == asked


async def test_progress_detects_the_switch_by_the_guests_state() -> None:
    both = Both(POSTCOPY)
    before = await both.move.progress()
    both.here.state = State.POSTCOPY
    after = await both.move.progress()
    both.guest.stats = None
    assert await both.move.progress() is None
    assert before is not None
    assert after is not None
    assert (before.postcopy, after.postcopy, after.sent) == (False, True, 60)


@pytest.mark.parametrize(
    ("here", "there", "where"),
    [
        (State.RUNNING, State.ABSENT, Where.SOURCE),
        (State.ABSENT, State.RUNNING, Where.DESTINATION),
        (State.RUNNING, State.PAUSED, Where.SOURCE),
        (State.RUNNING, State.RUNNING, Where.BOTH),
        (State.RUNNING, None, Where.STAYED),
        (State.PAUSED, State.PAUSED, Where.NEITHER),
        (State.PAUSED, None, Where.HALTED),
        (State.POSTCOPY, None, Where.HALTED),
        (State.OFF, State.RUNNING, Where.DESTINATION),
        (State.OFF, State.SAVED, Where.NEITHER),
        (State.OFF, State.POSTCOPY_BROKEN, Where.LOST),
        (State.POSTCOPY, State.RUNNING, Where.DESTINATION),
        (State.POSTCOPY_BROKEN, State.RUNNING, Where.BROKEN),
        (State.RUNNING, State.POSTCOPY_BROKEN, Where.BROKEN),
        (State.POSTCOPY_BROKEN, None, Where.BROKEN),
        (State.POSTCOPY_BROKEN, State.ABSENT, Where.LOST),
        (State.ABSENT, State.POSTCOPY_BROKEN, Where.LOST),
        (State.ABSENT, None, Where.LEFT),
        (None, State.RUNNING, Where.UNKNOWN),
    ],
)
async def test_location_is_derived_from_both_libvirts(
    here: State | None, there: State | None, where: Where
) -> None:
    both = Both()
    await both.move.prepare()
    both.here.state, both.there.state = here, there
    assert await both.move.where() is where


async def test_guest_with_a_migration_in_progress_is_moving() -> None:
    both = Both()
    await both.move.prepare()
    both.here.operation = "migration out"
    assert await both.move.where() is Where.MOVING
    both.here.operation = "backup"
    assert await both.move.where() is Where.SOURCE


async def test_location_is_unknown_if_the_job_cannot_be_queried() -> None:
    class Mute(FakeGuest):
        async def operation(self) -> str | None:
            raise HypervisorError("cannot acquire state change lock")

    both = Both()
    await both.move.prepare()
    both.here.guest = lambda name: _done(Mute(both.here))  # type: ignore[method-assign]  # a fake
    assert await both.move.where() is Where.UNKNOWN


async def _done(guest: FakeGuest) -> FakeGuest | None:
    return guest


@pytest.mark.parametrize("operation", ["migration out", "backup", "save"])
async def test_guest_with_a_job_is_not_moved(operation: str) -> None:
    both = Both()
    both.here.operation = operation
    words = rf"web1: libvirt is already running another job \({operation}\): .*virsh domjobinfo web1"
    with pytest.raises(HypervisorError, match=words):
        await both.move.prepare()
    assert both.guest.migrated_to is None


async def test_job_of_a_resumed_postcopy_is_accepted() -> None:
    both = Both(RESUME)
    both.here.state, both.here.operation = State.POSTCOPY_BROKEN, "migration out"
    await both.move.prepare()


async def test_restarted_libvirt_is_queried_again() -> None:
    both = Both()
    both.here.state, both.here.next = None, FakeHost(State.RUNNING)
    assert await both.move.where() is Where.SOURCE
    assert both.here.next.closed


async def test_paused_guest_is_expected_paused() -> None:
    both = Both()
    both.here.state = State.PAUSED
    await both.move.prepare()
    both.here.state, both.there.state = State.ABSENT, State.PAUSED
    assert await both.move.where() is Where.DESTINATION


async def test_guest_that_cannot_be_migrated_is_refused() -> None:
    both = Both(POSTCOPY)
    both.here.state = State.POSTCOPY_BROKEN
    with pytest.raises(HypervisorError, match="web1 is in failed post-copy: nothing to migrate"):
        await both.move.prepare()
    resuming = Both(MoveOptions(postcopy=True, postcopy_resume=True))
    resuming.here.state = State.POSTCOPY_BROKEN
    await resuming.move.prepare()
    resuming.there.state = State.RUNNING
    assert await resuming.move.where() is Where.BROKEN
    resuming.here.state = State.ABSENT
    assert await resuming.move.where() is Where.DESTINATION


RESUME = MoveOptions(postcopy=True, postcopy_resume=True)


@pytest.mark.parametrize("version", [(11, 2, 0), (11, 3, 0), (11, 3, 1)])
async def test_postcopy_is_not_resumed_on_a_libvirt_that_would_crash(
    version: tuple[int, int, int],
) -> None:
    both = Both(RESUME)
    both.here.state = State.POSTCOPY_BROKEN
    both.there.version_number = version
    words = f"libvirt {'.'.join(map(str, version))} at qemu:///there crashes .*docs/libvirt.md"
    with pytest.raises(HypervisorError, match=words):
        await both.move.prepare()
    assert both.guest.migrated_to is None


@pytest.mark.parametrize("version", [(9, 0, 0), (11, 1, 0), (11, 4, 0), (12, 8, 0)])
async def test_postcopy_is_resumed_on_other_versions(version: tuple[int, int, int]) -> None:
    both = Both(RESUME)
    both.here.state = State.POSTCOPY_BROKEN
    both.there.version_number = version
    await both.move.prepare()


async def test_libvirt_that_would_crash_receives_guests_otherwise() -> None:
    both = Both(POSTCOPY)
    both.there.version_number = (11, 3, 0)
    await both.move.prepare()


JUDGED = "job 'migration in' failed in post-copy phase"


class Judged(Both):
    """A move that libvirt reports as failed; ``later``: both states and the remaining bytes afterwards."""

    def __init__(self, options: MoveOptions, *later: tuple[State | None, State | None, int]) -> None:
        super().__init__(options)
        self.guest.migrate = self._fail  # type: ignore[assignment,method-assign]  # a fake of a fake
        self.guest.job = self._job  # type: ignore[method-assign]  # as above
        self._later = list(later)

    async def _fail(self, *_: object) -> None:
        raise HypervisorError(JUDGED)

    async def _job(self) -> dict[str, Any]:
        """Advance to the next states: called once per poll."""
        here, there, remaining = self._later.pop(0) if len(self._later) > 1 else self._later[0]
        self.here.state, self.there.state = here, there
        return {"type": 2, "memory_remaining": remaining}


B, R, A = State.POSTCOPY_BROKEN, State.RUNNING, State.ABSENT


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PERIOD", 0.0)
    monkeypatch.setattr(module, "STANDSTILL", 0.1)


@pytest.mark.usefixtures("hurried")
async def test_postcopy_that_qemu_continues_is_waited_for() -> None:
    going = [(B, B, 300), (B, R, 200), (State.POSTCOPY, R, 100), (None, R, 50), (A, R, 0)]
    both = Judged(RESUME, *going)
    both.here.state = both.there.state = B
    assert (await both.move.run()).sent == 120
    assert not both._later[1:], "it polled until the end"


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("end", [(B, B, 300), (B, A, 300), (A, None, 300), (None, None, 300), (A, A, 300)])
async def test_postcopy_that_really_failed_is_an_error(end: tuple[State, State, int]) -> None:
    both = Judged(RESUME, (B, B, 400), end)
    both.here.state = both.there.state = B
    with pytest.raises(HypervisorError, match=JUDGED):
        await both.move.run()


@pytest.mark.usefixtures("hurried")
async def test_failed_first_attempt_is_an_immediate_error() -> None:
    both = Judged(POSTCOPY, (A, R, 0))
    with pytest.raises(HypervisorError, match=JUDGED):
        await both.move.run()
    assert both.here.state is R, "not polled"


async def test_commands_are_passed_on() -> None:
    both = Both()
    await both.move.abort()
    await both.move.suspend()
    with pytest.raises(HypervisorError):
        await both.move.start_postcopy()
    assert both.guest.asked == ["abort", "suspend", "start_postcopy"]

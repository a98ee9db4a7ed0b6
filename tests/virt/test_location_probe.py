"""What a look at a QEMU says of the guest, by its run state and by how its migration stands."""

from __future__ import annotations

from typing import Any, cast

import pytest

from tunnel.errors import HypervisorError
from tunnel.virt.guest_location import Side, Where
from tunnel.virt.location_probe import look_at_destination, look_at_source, whereabouts
from tunnel.virt.qmp import Monitor, MonitorLost


class Told:
    """A QEMU in this run state whose migration stands so; None: its monitor is lost."""

    def __init__(self, status: str | None, phase: str = "", *, ended: bool = False) -> None:
        self._status = status
        self._phase = phase
        self._ended = ended

    async def status(self) -> str:
        if self._status is None:
            raise MonitorLost("QEMU's monitor closed")
        return self._status

    async def execute(self, command: str) -> Any:
        assert command == "query-migrate"
        return {"status": self._phase} if self._phase else {}

    async def ended(self) -> bool:
        return self._ended


def told(status: str | None, phase: str = "", *, ended: bool = False) -> Monitor:
    return cast("Monitor", Told(status, phase, ended=ended))


@pytest.mark.parametrize(
    ("status", "phase", "side"),
    [
        ("running", "", Side.RUNS),
        ("running", "cancelled", Side.RUNS),
        ("running", "failed", Side.RUNS),
        ("running", "setup", Side.LEAVING),
        ("running", "active", Side.LEAVING),
        ("running", "cancelling", Side.LEAVING),
        ("postmigrate", "completed", Side.GONE),
        ("paused", "completed", Side.HELD),
        ("finish-migrate", "postcopy-active", Side.HELD),
        ("internal-error", "failed", Side.HELD),
        ("finish-migrate", "postcopy-paused", Side.BROKEN),
        ("postmigrate", "postcopy-recover", Side.BROKEN),
    ],
)
async def test_source_is_told_by_its_state_and_its_migration(status: str, phase: str, side: Side) -> None:
    assert await look_at_source(told(status, phase), "running") is side


async def test_guest_that_was_paused_is_alive_while_it_is_paused() -> None:
    assert await look_at_source(told("paused"), "paused") is Side.RUNS
    assert await look_at_destination(told("paused", "completed"), "paused") is Side.RUNS
    assert await look_at_destination(told("running", "completed"), "paused") is Side.HELD


@pytest.mark.parametrize(
    ("status", "phase", "side"),
    [
        ("running", "completed", Side.RUNS),
        ("running", "postcopy-active", Side.RUNS),
        ("running", "postcopy-paused", Side.BROKEN),
        ("inmigrate", "", Side.GONE),
        ("inmigrate", "active", Side.GONE),
        ("io-error", "completed", Side.HELD),
    ],
)
async def test_destination_is_told_so_too(status: str, phase: str, side: Side) -> None:
    assert await look_at_destination(told(status, phase), "running") is side


@pytest.mark.parametrize(("ended", "side"), [(True, Side.GONE), (False, Side.UNKNOWN)])
async def test_monitor_that_was_lost_is_a_qemu_that_ended_only_if_that_was_seen(
    ended: bool, side: Side
) -> None:
    async def relayed() -> bool:
        return ended

    assert await look_at_source(told(None, ended=ended), "running") is side
    assert await look_at_destination(told(None, ended=ended), "running") is side
    assert await look_at_destination(told(None, ended=not ended), "running", relayed) is side


async def test_destination_that_nobody_can_ask_is_unknown() -> None:
    assert await look_at_destination(None, "running") is Side.UNKNOWN


async def test_both_looks_make_the_verdict() -> None:
    assert (
        await whereabouts(told("postmigrate", "completed"), told("running"), "running") is Where.DESTINATION
    )
    assert await whereabouts(told("running", "failed"), None, "running") is Where.STAYED


async def test_question_that_fails_is_not_an_answer() -> None:
    class Broken(Told):
        async def execute(self, command: str) -> Any:
            raise HypervisorError("QEMU refused")

    broken = cast("Monitor", Broken("running"))
    assert await look_at_source(broken, "running") is Side.UNKNOWN
    assert await look_at_destination(broken, "running") is Side.UNKNOWN

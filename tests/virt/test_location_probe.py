"""The state of the guest at a QEMU, from its run state and the phase of its migration."""

from __future__ import annotations

from typing import Any, cast

import pytest

from tunnel.errors import HypervisorError
from tunnel.virt.guest_location import Side
from tunnel.virt.location_probe import look_at_destination, look_at_source
from tunnel.virt.qmp import Monitor, MonitorLost


class FakeMonitor:
    """A QEMU in this run state and migration phase; a status of None: its monitor is lost."""

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


def fake(status: str | None, phase: str = "", *, ended: bool = False) -> Monitor:
    return cast("Monitor", FakeMonitor(status, phase, ended=ended))


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
async def test_state_at_the_source(status: str, phase: str, side: Side) -> None:
    assert await look_at_source(fake(status, phase), "running") is side


async def test_guest_that_was_paused_is_active_while_paused() -> None:
    assert await look_at_source(fake("paused"), "paused") is Side.RUNS
    assert await look_at_destination(fake("paused", "completed"), "paused") is Side.RUNS
    assert await look_at_destination(fake("running", "completed"), "paused") is Side.HELD


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
async def test_state_at_the_destination(status: str, phase: str, side: Side) -> None:
    assert await look_at_destination(fake(status, phase), "running") is side


@pytest.mark.parametrize(("ended", "side"), [(True, Side.GONE), (False, Side.UNKNOWN)])
async def test_lost_monitor_means_gone_only_if_qemu_has_ended(ended: bool, side: Side) -> None:
    async def relayed() -> bool:
        return ended

    assert await look_at_source(fake(None, ended=ended), "running") is side
    assert await look_at_destination(fake(None, ended=ended), "running") is side
    assert await look_at_destination(fake(None, ended=not ended), "running", relayed) is side


async def test_destination_without_a_monitor_is_unknown() -> None:
    assert await look_at_destination(None, "running") is Side.UNKNOWN


async def test_failed_query_is_unknown() -> None:
    class Broken(FakeMonitor):
        async def execute(self, command: str) -> Any:
            raise HypervisorError("QEMU refused")

    broken = cast("Monitor", Broken("running"))
    assert await look_at_source(broken, "running") is Side.UNKNOWN
    assert await look_at_destination(broken, "running") is Side.UNKNOWN

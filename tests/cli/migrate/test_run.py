"""Execution of a migration: the result, the cause of a failure, and interruption at any time."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, cast

import pytest

from tests.support.configs import HOST, INGRESS, PEER, TLS, write_config
from tests.support.waiting import until
from tunnel.cli.migrate import run as module
from tunnel.cli.migrate.link_monitor import Cause, LinkNews
from tunnel.cli.migrate.order import MigrateArguments
from tunnel.cli.migrate.output import JsonOutput
from tunnel.cli.migrate.run import MigrationRun
from tunnel.daemon.config import load
from tunnel.errors import HypervisorError, MigrationError, RefusedError, TunnelError, UnreachableError
from tunnel.virt.guest_location import Where
from tunnel.virt.libvirt_move import LibvirtMove
from tunnel.virt.move import MoveSummary, settled
from tunnel.virt.progress import Progress

# The texts deliberately suggest other causes: the exit code does not depend on them.
REFUSED = LinkNews("lane lost: unreachable", Cause.REFUSAL)
ABSENT = LinkNews("stream refused by the peer: not allowed", Cause.ABSENCE)
LOST = LinkNews("connection refused: draining")


class FakeMove:
    """A move with a given result and location; "endless" runs until aborted."""

    def __init__(self, where: Where, ending: TunnelError | str | None) -> None:
        self._where = where
        self._ending = ending
        self._aborted = asyncio.Event()
        self.unfit: TunnelError | None = None

    async def prepare(self) -> None:
        if self.unfit is not None:
            raise self.unfit

    async def run(self) -> MoveSummary:
        if isinstance(self._ending, TunnelError):
            raise self._ending
        if self._ending == "endless":
            await self._aborted.wait()
            raise HypervisorError("operation aborted")
        return MoveSummary(1.0, None, None, None, postcopied=False)

    async def progress(self) -> Progress | None:
        return None

    async def abort(self) -> None:
        self._aborted.set()

    async def where(self) -> Where:
        return self._where


class FakeTunnel:
    """A link in a given state, with incidents."""

    rate = None

    def __init__(self, state: str = "up", *news: LinkNews) -> None:
        self._state = state
        self._news = list(news)
        self.records: list[str] = []

    async def record(self, text: str) -> None:
        self.records.append(re.sub(r"[0-9.]+ s:", "N s:", text))

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        yield

    async def news(self) -> list[LinkNews]:
        return self._news

    async def link(self) -> dict[str, Any]:
        if self._state == "gone":
            raise UnreachableError("no daemon")
        return {"state": self._state}


class Prepared(MigrationRun):
    """A run with a given move and tunnel."""

    def __init__(self, order: MigrateArguments, move: FakeMove, tunnel: FakeTunnel) -> None:
        super().__init__(order, JsonOutput())
        self._tunnel = cast("Any", tunnel)
        self._move = move
        self.preparing = asyncio.Event()
        self.hold = asyncio.Event()
        self.hold.set()

    async def _libvirt(self, stack: AsyncExitStack) -> tuple[LibvirtMove, str]:
        self.preparing.set()
        await self.hold.wait()
        return cast("LibvirtMove", self._move), "tcp://127.0.1.2"


@pytest.fixture
def order(tmp_path: Path) -> MigrateArguments:
    return MigrateArguments(load(write_config(tmp_path, HOST, TLS, PEER, INGRESS)), "web1", "hostb")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "settled", lambda move: settled(move, within=0.05))


async def test_arrival_is_reported(order: MigrateArguments, capsys: pytest.CaptureFixture[str]) -> None:
    assert await Prepared(order, FakeMove(Where.DESTINATION, None), FakeTunnel()).run() is Where.DESTINATION
    output = capsys.readouterr().out
    assert "The guest is running at hostb, the destination, and nowhere else." in output
    assert '"result": "done"' in output


@pytest.mark.parametrize(
    ("move", "outcome"),
    [
        (FakeMove(Where.DESTINATION, None), "done"),
        (FakeMove(Where.LEFT, None), "not verified, exit code 5"),
        (FakeMove(Where.SOURCE, HypervisorError("it broke")), "failed: it broke"),
    ],
)
async def test_start_and_outcome_are_logged_on_both_hosts(
    order: MigrateArguments, move: FakeMove, outcome: str
) -> None:
    tunnel = FakeTunnel()
    with suppress(TunnelError):
        await Prepared(order, move, tunnel).run()
    what = f"migration of web1 from {order.config.host.name} to hostb"
    begin, end = tunnel.records
    assert begin == f"{what} started"
    assert end.startswith(f"{what}, N s: {outcome}")


async def test_guest_that_left_and_was_not_verified_is_another_result(
    order: MigrateArguments, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await Prepared(order, FakeMove(Where.LEFT, None), FakeTunnel()).run() is Where.LEFT
    output = capsys.readouterr().out
    assert "could not verify that it is running at hostb" in output
    assert '"result": "unverified"' in output


@pytest.mark.parametrize(
    "where",
    [Where.SOURCE, Where.STAYED, Where.MOVING, Where.BOTH, Where.NEITHER, Where.HALTED, Where.UNKNOWN],
)
async def test_unverified_success_is_an_error(order: MigrateArguments, where: Where) -> None:
    with pytest.raises(MigrationError, match="migration done, but not verified"):
        await Prepared(order, FakeMove(where, None), FakeTunnel()).run()


@pytest.mark.parametrize(
    ("tunnel", "kind"),
    [
        (FakeTunnel("up"), MigrationError),
        (FakeTunnel("up", LOST), MigrationError),
        (FakeTunnel("up", REFUSED), RefusedError),
        (FakeTunnel("up", ABSENT), UnreachableError),
        (FakeTunnel("resuming", LOST), UnreachableError),
        (FakeTunnel("gone"), MigrationError),
    ],
)
async def test_failure_names_the_location_and_the_cause(
    order: MigrateArguments, tunnel: FakeTunnel, kind: type[TunnelError]
) -> None:
    move = FakeMove(Where.SOURCE, HypervisorError("unable to connect"))
    with pytest.raises(kind) as caught:
        await Prepared(order, move, tunnel).run()
    lines = str(caught.value).splitlines()
    assert lines[:2] == [
        "unable to connect",
        "The guest is still running at hosta, the source, and nowhere else.",
    ]
    assert lines[2:] == [f"The tunnel reports: {each.text}" for each in await tunnel.news()]


@pytest.mark.parametrize(
    ("error", "tunnel", "kind"),
    [
        (HypervisorError("web1 is busy"), FakeTunnel("up"), HypervisorError),
        (UnreachableError("no libvirt answers"), FakeTunnel("up"), UnreachableError),
        (UnreachableError("no libvirt answers"), FakeTunnel("up", ABSENT), UnreachableError),
        (UnreachableError("no libvirt answers"), FakeTunnel("up", REFUSED), RefusedError),
        (HypervisorError("the monitor closed"), FakeTunnel("down", LOST), UnreachableError),
    ],
)
async def test_failure_before_anything_moves_names_the_cause_and_no_location(
    order: MigrateArguments, error: TunnelError, tunnel: FakeTunnel, kind: type[TunnelError]
) -> None:
    move = FakeMove(Where.SOURCE, None)
    move.unfit = error
    with pytest.raises(TunnelError) as caught:
        await Prepared(order, move, tunnel).run()
    assert type(caught.value) is kind
    causes = [f"The tunnel reports: {each.text}" for each in await tunnel.news()]
    assert str(caught.value).splitlines() == [str(error), *causes]


async def test_interruption_aborts_and_reports_the_location(order: MigrateArguments) -> None:
    migration = Prepared(order, FakeMove(Where.SOURCE, "endless"), FakeTunnel())
    running = asyncio.create_task(migration.run())
    await until(lambda: migration._conductor)
    migration.interrupt()
    migration.interrupt()
    with pytest.raises(MigrationError, match=r"^Aborted\. The guest is still running at hosta"):
        await running


async def test_abort_with_an_unchecked_destination_reports_that(order: MigrateArguments) -> None:
    migration = Prepared(order, FakeMove(Where.STAYED, "endless"), FakeTunnel())
    running = asyncio.create_task(migration.run())
    await until(lambda: migration._conductor)
    migration.interrupt()
    with pytest.raises(MigrationError, match=r"^Aborted\..* Could not check hostb, the destination\.$"):
        await running


async def test_interruption_before_anything_moves_is_immediate(order: MigrateArguments) -> None:
    migration = Prepared(order, FakeMove(Where.SOURCE, None), FakeTunnel())
    migration.hold.clear()
    running = asyncio.create_task(migration.run())
    await migration.preparing.wait()
    migration.interrupt()
    migration.interrupt()
    with pytest.raises(asyncio.CancelledError):
        await running


def test_interruption_before_the_run_is_ignored(order: MigrateArguments) -> None:
    async def idle() -> None:
        MigrationRun(order, JsonOutput()).interrupt()

    asyncio.run(idle())

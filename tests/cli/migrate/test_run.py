"""How an order is carried out: the verdict, the cause of a failure, and an interruption at any time."""

from __future__ import annotations

import asyncio
import dataclasses
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, cast

import pytest

from tests.support.configs import HOST, INGRESS, PEER, TLS, write_config
from tests.support.waiting import until
from tunnel.cli.migrate import run as module
from tunnel.cli.migrate.order import MigrateArguments
from tunnel.cli.migrate.output import JsonOutput
from tunnel.cli.migrate.run import MigrationRun, qemu_options
from tunnel.daemon.config import load
from tunnel.errors import HypervisorError, MigrationError, RefusedError, TunnelError, UnreachableError
from tunnel.virt.guest_location import Where
from tunnel.virt.libvirt_move import LibvirtMove
from tunnel.virt.move import Action, MoveSummary, settled
from tunnel.virt.progress import Progress
from tunnel.virt.qmp_migration import Mode

REFUSED = {"what": "stream refused by the peer", "reason": "tcp:127.0.0.1:49152 is not allowed"}
ABSENT = {
    "what": "stream refused by the peer",
    "reason": "unix:/run/libvirt/libvirt-sock on hostb cannot be reached",
    "code": "TARGET_UNREACHABLE",
}
LOST = {"what": "lane lost", "reason": "it was closed"}


class FakeMove:
    """Ends as told, at ``where``; without an ending it goes on until it is aborted."""

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
    """A link in some state, with news."""

    rate = None

    def __init__(self, state: str = "up", *news: Mapping[str, str]) -> None:
        self._state = state
        self._news = list(news)
        self.records: list[str] = []

    async def record(self, text: str) -> None:
        self.records.append(re.sub(r"[0-9.]+ s:", "N s:", text))

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        yield

    async def news(self) -> list[Mapping[str, str]]:
        return self._news

    async def link(self) -> dict[str, Any]:
        if self._state == "gone":
            raise UnreachableError("no daemon")
        return {"state": self._state}


class Prepared(MigrationRun):
    """Whose move is given."""

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


async def test_guest_that_arrived_is_announced(
    order: MigrateArguments, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await Prepared(order, FakeMove(Where.DESTINATION, None), FakeTunnel()).run() is Where.DESTINATION
    said = capsys.readouterr().out
    assert "The guest runs at hostb, the destination, and nowhere else." in said
    assert '"result": "done"' in said


@pytest.mark.parametrize(
    ("move", "outcome"),
    [
        (FakeMove(Where.DESTINATION, None), "done"),
        (FakeMove(Where.LEFT, None), "not verified, exit code 5"),
        (FakeMove(Where.SOURCE, HypervisorError("it broke")), "failed: it broke"),
    ],
)
async def test_both_hosts_logs_get_its_begin_and_its_end(
    order: MigrateArguments, move: FakeMove, outcome: str
) -> None:
    tunnel = FakeTunnel()
    with suppress(TunnelError):
        await Prepared(order, move, tunnel).run()
    what = f"migration of web1 from {order.config.host.name} to hostb"
    begin, end = tunnel.records
    assert begin == f"{what} begins"
    assert end.startswith(f"{what}, N s: {outcome}")


async def test_guest_that_left_and_was_not_seen_there_is_another_end(
    order: MigrateArguments, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await Prepared(order, FakeMove(Where.LEFT, None), FakeTunnel()).run() is Where.LEFT
    said = capsys.readouterr().out
    assert "that it runs at hostb could not be verified" in said
    assert '"result": "unverified"' in said


@pytest.mark.parametrize(
    "where",
    [Where.SOURCE, Where.STAYED, Where.MOVING, Where.BOTH, Where.NEITHER, Where.HALTED, Where.UNKNOWN],
)
async def test_success_that_is_none_is_not_believed(order: MigrateArguments, where: Where) -> None:
    with pytest.raises(MigrationError, match="the migration done, but"):
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
async def test_failure_names_the_place_and_the_cause(
    order: MigrateArguments, tunnel: FakeTunnel, kind: type[TunnelError]
) -> None:
    move = FakeMove(Where.SOURCE, HypervisorError("unable to connect"))
    with pytest.raises(kind) as caught:
        await Prepared(order, move, tunnel).run()
    lines = str(caught.value).splitlines()
    assert lines[:2] == [
        "unable to connect",
        "The guest runs on at hosta, the source, and nowhere else.",
    ]
    assert lines[2:] == [f"The tunnel says: {each['what']}: {each['reason']}" for each in await tunnel.news()]


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
async def test_failure_before_anything_moves_names_the_tunnels_reason_and_no_place(
    order: MigrateArguments, error: TunnelError, tunnel: FakeTunnel, kind: type[TunnelError]
) -> None:
    move = FakeMove(Where.SOURCE, None)
    move.unfit = error
    with pytest.raises(TunnelError) as caught:
        await Prepared(order, move, tunnel).run()
    assert type(caught.value) is kind
    told = [f"The tunnel says: {each['what']}: {each['reason']}" for each in await tunnel.news()]
    assert str(caught.value).splitlines() == [str(error), *told]


async def test_interruption_aborts_and_says_where_the_guest_is(order: MigrateArguments) -> None:
    migration = Prepared(order, FakeMove(Where.SOURCE, "endless"), FakeTunnel())
    running = asyncio.create_task(migration.run())
    await until(lambda: migration._conductor)
    migration.interrupt()
    migration.interrupt()
    with pytest.raises(MigrationError, match=r"^Aborted\. The guest runs on at hosta"):
        await running


async def test_abort_is_not_said_to_have_left_the_guest_where_nobody_looked(order: MigrateArguments) -> None:
    migration = Prepared(order, FakeMove(Where.STAYED, "endless"), FakeTunnel())
    running = asyncio.create_task(migration.run())
    await until(lambda: migration._conductor)
    migration.interrupt()
    with pytest.raises(MigrationError, match=r"^Aborted\..* Nobody could look at hostb, the destination\.$"):
        await running


async def test_interruption_before_anything_moves_is_at_once(order: MigrateArguments) -> None:
    migration = Prepared(order, FakeMove(Where.SOURCE, None), FakeTunnel())
    migration.hold.clear()
    running = asyncio.create_task(migration.run())
    await migration.preparing.wait()
    migration.interrupt()
    migration.interrupt()
    with pytest.raises(asyncio.CancelledError):
        await running


def test_interruption_before_it_runs_is_nothing(order: MigrateArguments) -> None:
    async def idle() -> None:
        MigrationRun(order, JsonOutput()).interrupt()

    asyncio.run(idle())


def test_orders_in_qemus_terms(order: MigrateArguments) -> None:
    plain = qemu_options(order)
    assert (plain.mode, plain.max_bandwidth, plain.return_path) == (Mode.PRECOPY, None, True)
    parallel = qemu_options(dataclasses.replace(order, parallel=4, bandwidth=1000, auto_converge=True))
    assert (parallel.mode, parallel.channels, parallel.max_bandwidth) == (Mode.MULTIFD, 4, 1000)
    assert parallel.auto_converge
    postcopy = dataclasses.replace(order, postcopy=True, postcopy_preempt=True)
    assert qemu_options(postcopy).postcopy_after == 1
    assert qemu_options(postcopy).preempt is True
    late = dataclasses.replace(postcopy, timeout=1.0, timeout_action=Action.POSTCOPY)
    assert qemu_options(late).postcopy_after is None
    assert qemu_options(order, blind=True).validate_uuid
    assert not plain.validate_uuid

"""``mtunnel migrate --qmp`` migrates real guests through real daemons, reports errors, and aborts cleanly."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pytest

from tests.support.commands import Command, run, running, second_monitor, waiting_pair
from tests.support.daemons import TwoHosts
from tunnel.proof.free_port import free_port
from tunnel.units import MIB

pytestmark = [pytest.mark.slow]

SLOW = ("--bandwidth", "8MiB/s")  # such a migration does not complete during a test


@dataclass
class Route:
    """The route of one guest, and of the destination's monitor, through two daemons."""

    hosts: TwoHosts
    directory: Path
    entry: str
    listen: str

    @classmethod
    def laid(cls, hosts: TwoHosts, directory: Path, kind: str = "tcp", *, allowed: bool = True) -> Self:
        """Configure both hosts and start them."""
        listen = f"unix:{directory}/arrival" if kind == "unix" else f"tcp:127.0.0.1:{free_port('127.0.0.1')}"
        entry = hosts.a.leads_to(hosts.b, listen, f"unix:{directory}/entry" if kind == "unix" else "")
        if not allowed:
            hosts.b.egress["hosta"].remove(listen)
        hosts.a.leads_to(
            hosts.b, f"unix:{second_monitor(directory, 'destination')}", f"unix:{directory}/far.qmp"
        )
        hosts.start()
        return cls(hosts, directory, entry, listen)

    def arguments(self, *options: str, dest_qmp: bool = True) -> list[str]:
        """Return the command line."""
        there = ["--dest-qmp", str(self.directory / "far.qmp")] if dest_qmp else []
        here = ["--qmp", str(second_monitor(self.directory, "source"))]
        return ["migrate", "web1", "hostb", "--config", str(self.hosts.a.config), *here, *there, *options]


async def sent_some(command: Command, bytes_sent: int = 2 * MIB) -> None:
    await command.event(lambda event: event["event"] == "progress" and event["sent"] > bytes_sent)


@pytest.mark.parametrize(
    "options",
    [(), ("--parallel", "4"), ("--auto-converge", "--bandwidth", "512MiB/s"), ("--no-return-path",)],
    ids=lambda options: options[0] if options else "plain",
)
@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_guest_moves(hosts: TwoHosts, tmp: Path, kind: str, options: tuple[str, ...]) -> None:
    route = Route.laid(hosts, tmp, kind)
    async with waiting_pair(tmp) as trial:
        code, command = await run(*route.arguments(*options))
        assert (code, command.words) == (0, "")
        await trial.verify()
    assert [event["check"] for event in command.named("check")] == ["link", "targets", "guest", "streams"]
    assert command.named("started")[0]["guest"] == "web1"
    assert command.named("progress")
    end = command.last
    assert (end["event"], end["result"], end["runs_at"]) == ("ended", "done", "destination")
    assert end["summary"]["sent"] > 32 * MIB
    assert "is running at hostb, the destination, and nowhere else" in end["text"]


async def test_destination_that_already_listens_needs_no_setup(hosts: TwoHosts, tmp: Path) -> None:
    route = Route.laid(hosts, tmp)
    async with waiting_pair(tmp, incoming=route.listen) as trial:
        code, command = await run(*route.arguments())
        assert (code, command.words) == (0, "")
        await trial.verify()


async def test_without_the_remote_monitor_the_result_is_unverified(hosts: TwoHosts, tmp: Path) -> None:
    route = Route.laid(hosts, tmp)
    async with waiting_pair(tmp, incoming=route.listen) as trial:
        code, command = await run(*route.arguments(dest_qmp=False))
        assert (code, command.words) == (5, "")
        await trial.verify()
    assert (command.last["runs_at"], command.last["result"]) == ("left", "unverified")
    assert "could not verify that it is running at" in command.last["text"]
    assert route.listen in command.named("notice")[0]["text"]


async def test_postcopy_switches_after_the_first_pass(hosts: TwoHosts, tmp: Path) -> None:
    route = Route.laid(hosts, tmp)
    async with waiting_pair(tmp) as trial:
        await trial.source.monitor.execute("migrate-set-parameters", {"downtime-limit": 1})
        code, command = await run(*route.arguments("--postcopy", "--bandwidth", "16MiB/s"))
        assert (code, command.words) == (0, "")
        await trial.verify()
    assert command.last["summary"]["postcopied"]


async def test_timeout_switches_to_postcopy(hosts: TwoHosts, tmp: Path) -> None:
    route = Route.laid(hosts, tmp)
    options = ("--postcopy", "--timeout", "1s", "--timeout-action", "postcopy", *SLOW)
    async with waiting_pair(tmp) as trial:
        code, command = await run(*route.arguments(*options))
        assert (code, command.words) == (0, "")
        await trial.verify()
    assert command.last["summary"]["postcopied"]
    assert command.last["summary"]["iterations"] <= 2


async def test_timeout_suspends_the_guest_until_it_has_arrived(hosts: TwoHosts, tmp: Path) -> None:
    route = Route.laid(hosts, tmp)
    async with waiting_pair(tmp) as trial:  # dirties its memory faster than SLOW transfers it
        options = ("--timeout", "1s", "--timeout-action", "suspend", *SLOW)
        code, command = await run(*route.arguments(*options))
        assert (code, command.words) == (0, "")
        await trial.verify()
    assert [notice["text"] for notice in command.named("notice")] == ["timeout after 1 s: suspend"]


async def test_timeout_aborts(hosts: TwoHosts, tmp: Path) -> None:
    route = Route.laid(hosts, tmp)
    async with waiting_pair(tmp) as trial:
        code, command = await run(*route.arguments("--timeout", "1s", "--timeout-action", "abort", *SLOW))
        assert code == 1
        assert await trial.source.monitor.status() == "running"
    assert "Aborted. The guest is still running at hosta" in command.words


@pytest.mark.parametrize("presses", [1, 3])
async def test_ctrl_c_leaves_the_guest_running_here(hosts: TwoHosts, tmp: Path, presses: int) -> None:
    route = Route.laid(hosts, tmp)
    async with waiting_pair(tmp) as trial, running(*route.arguments(*SLOW)) as command:
        await sent_some(command)
        for _ in range(presses):
            command.interrupt()
        assert await command.end() == 1
        assert command.last == {**command.last, "event": "failed", "exit_code": 1}
        assert "Aborted. The guest is still running at hosta, the source, and nowhere else." in command.words
        assert await trial.source.monitor.status() == "running"
        answer = await trial.source.monitor.execute("query-migrate")
        assert answer["status"] == "cancelled"


async def test_ctrl_c_in_postcopy_does_not_lose_the_guest(hosts: TwoHosts, tmp: Path) -> None:
    route = Route.laid(hosts, tmp)
    options = ("--postcopy", "--timeout", "500ms", "--timeout-action", "postcopy", *SLOW)
    async with waiting_pair(tmp) as trial, running(*route.arguments(*options)) as command:
        await command.event(lambda event: event["event"] == "progress" and event["postcopy"])
        command.interrupt()
        assert await command.end() == 0
        await trial.verify()
    assert any("would be lost" in notice["text"] for notice in command.named("notice"))
    assert command.last["result"] == "done"


async def test_target_that_is_not_allowed_is_reported(hosts: TwoHosts, tmp: Path) -> None:
    route = Route.laid(hosts, tmp, allowed=False)
    async with waiting_pair(tmp) as trial:
        code, command = await run(*route.arguments())
        assert code == 3
        assert await trial.source.monitor.status() == "running"
        assert await trial.source.monitor.execute("query-migrate") == {}, "no migration was started"
    told = " ".join(command.words.split())
    assert f'add "{route.listen}" to egress of [[peer]] name = "hosta" on hostb' in told
    assert command.last["exit_code"] == 3
    happened = {incident["what"] for incident in hosts.a.link(hosts.b)["incidents"]}
    assert happened <= {"cannot connect"}, "except while only one daemon was up"


async def test_user_who_may_not_use_the_ingress_is_refused(hosts: TwoHosts, tmp: Path) -> None:
    hosts.a.leads_to(hosts.b, f"tcp:127.0.0.1:{free_port('127.0.0.1')}", users=("4000000001",))
    hosts.start()
    async with waiting_pair(tmp) as trial:
        qmp = str(second_monitor(tmp, "source"))
        code, command = await run("migrate", "hostb", "--config", str(hosts.a.config), "--qmp", qmp)
        assert code == 3
        assert await trial.source.monitor.status() == "running"
    assert "may not use this ingress" in command.words


async def test_peer_that_is_down_is_4_and_nothing_moves(hosts: TwoHosts, tmp: Path) -> None:
    hosts.a.leads_to(hosts.b, "tcp:127.0.0.1:1")
    hosts.a.start()
    hosts.a.wait_serving()
    code, command = await run(
        *("migrate", "hostb", "--config", str(hosts.a.config), "--qmp", str(tmp / "none.qmp"))
    )
    assert code == 4
    assert "hostb is not reachable" in command.words
    assert command.last["event"] == "failed"


async def test_no_guest_behind_the_monitor_is_an_error(hosts: TwoHosts, tmp: Path) -> None:
    route = Route.laid(hosts, tmp)
    async with waiting_pair(tmp) as trial:
        await trial.destination.stop()
        code, command = await run(*route.arguments())
        assert code == 4
        assert await trial.source.monitor.status() == "running"
    assert "destination" in command.words
    assert "far.qmp" in command.words
    told = " ".join(command.words.split())
    assert "The tunnel reports: stream refused by the peer" in told
    assert "destination-2.qmp" in told
    assert "this host" not in told, "the fault is on the other host"


async def test_more_channels_than_streams_are_refused_before_anything_moves(
    hosts: TwoHosts, tmp: Path
) -> None:
    hosts.b.transport["streams"] = 100
    route = Route.laid(hosts, tmp)
    async with waiting_pair(tmp) as trial:
        code, command = await run(*route.arguments("--parallel", "255"))
        assert code == 3
        told = " ".join(command.words.split())
        assert "needs 256 streams, 99 are free on the link with hostb: --parallel 98 would fit" in told
        assert await trial.source.monitor.status() == "running"
        assert hosts.a.link(hosts.b)["streams_opened"] == 1, "only that of the remote monitor"
        code, command = await run(*route.arguments("--parallel", "98"))
        assert (code, command.words) == (0, "")
        await trial.verify()


OTHER = "22222222-2222-4222-8222-222222222222"


@pytest.mark.parametrize(
    ("names", "more", "complaint"),
    [
        (("mailserver", "mailserver"), ((), ()), "this QEMU runs mailserver, not web1"),
        (("web1", "db7"), ((), ()), "this QEMU is waiting for db7, but the guest to migrate is web1"),
        (("web", "web"), ((), ()), "this QEMU runs web, not web1"),
        (
            ("web1", "web1"),
            (("-uuid", "11111111-1111-4111-8111-111111111111"), ("-uuid", OTHER)),
            f"this QEMU is waiting for web1 (UUID {OTHER})",
        ),
    ],
    ids=["another source", "another destination", "a name with a common prefix", "another UUID"],
)
async def test_another_guest_is_not_moved(
    hosts: TwoHosts,
    tmp: Path,
    names: tuple[str, str],
    more: tuple[tuple[str, ...], tuple[str, ...]],
    complaint: str,
) -> None:
    route = Route.laid(hosts, tmp)
    async with waiting_pair(tmp, names=names, more=more) as trial:
        code, command = await run(*route.arguments())
        assert code == 2
        assert complaint in " ".join(command.words.split())
        assert await trial.source.monitor.execute("query-migrate") == {}, "no migration was started"
        assert await trial.destination.monitor.status() == "inmigrate"


async def test_second_migration_leaves_the_first_alone(hosts: TwoHosts, tmp: Path) -> None:
    route = Route.laid(hosts, tmp)
    third = f"unix:{tmp}/third.qmp,server=on,wait=off"
    async with (
        waiting_pair(tmp, more=(("-qmp", third), ())) as trial,
        running(*route.arguments("--bandwidth", "16MiB/s")) as first,
    ):
        await sent_some(first)
        arguments = route.arguments()  # with the remote monitor that the first one uses
        arguments[arguments.index("--qmp") + 1] = str(tmp / "third.qmp")
        code, second = await run(*arguments)
        assert code == 1
        assert "a migration of this guest is already in progress" in " ".join(second.words.split())
        assert "still running" not in second.words
        assert second.named("started") == []
        await trial.source.monitor.execute("migrate-set-parameters", {"max-bandwidth": 1024 * MIB})
        assert (await first.end(), first.words) == (0, "")
        await trial.verify()


async def test_monitor_that_does_not_exist_is_4_immediately(hosts: TwoHosts, tmp: Path) -> None:
    route = Route.laid(hosts, tmp)
    code, command = await run(*route.arguments())
    assert code == 4
    assert f"source ({tmp}/source-2.qmp): cannot connect to QEMU at" in " ".join(command.words.split())


async def test_urgent_pages_get_a_separate_channel(hosts: TwoHosts, tmp: Path) -> None:
    route = Route.laid(hosts, tmp)
    async with waiting_pair(tmp) as trial:
        await trial.source.monitor.execute("migrate-set-parameters", {"downtime-limit": 1})
        options = ("--postcopy", "--postcopy-preempt", "--timeout", "1s", "--timeout-action", "postcopy")
        code, command = await run(*route.arguments(*options, *SLOW))
        assert (code, command.words) == (0, "")
        await trial.verify()
    assert command.last["summary"]["postcopied"]
    assert hosts.a.link(hosts.b)["streams_opened"] == 3  # the remote monitor, the main channel, and that one

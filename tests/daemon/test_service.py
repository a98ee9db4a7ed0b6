"""The service in this process: what it starts, what it reports, and its shutdown on each signal."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog

from tests.support.daemons import TwoHosts
from tests.support.streams import Target
from tests.support.waiting import until
from tunnel.daemon import preflight as preflights
from tunnel.daemon import service as module
from tunnel.daemon.config import load
from tunnel.daemon.control_socket import TIMEOUT, ask, ask_status, ask_targets
from tunnel.daemon.preflight import preflight
from tunnel.daemon.service import Service, notify
from tunnel.engine.binding import Provider
from tunnel.engine.choice import UNASKED
from tunnel.errors import TunnelError, UsageError
from tunnel.host import nftables
from tunnel.lanes.lane_factory import LaneMaker
from tunnel.lanes.lane_factory import maker as lane_maker
from tunnel.records.key_schedule import SUITES
from tunnel.relay.link import LinkState
from tunnel.relay.pump import Pump
from tunnel.relay.spliced_pump import SplicedPump
from tunnel.tls.lane_kinds import KernelTlsSupport, LaneCosts, LaneKind
from tunnel.wire.rotation import RotationPlan


async def turned_away(entry: Path) -> bool:
    """Whether the connection of a caller is closed."""
    with socket.socket(socket.AF_UNIX) as caller:
        caller.setblocking(False)
        caller.connect(str(entry))
        return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(caller, 1), 60) == b""


@pytest.fixture
def hosts(tmp: Path) -> TwoHosts:
    """Two configurations; a has an ingress that leads to b, b has none."""
    pair = TwoHosts(tmp)
    pair.a.leads_to(pair.b, "tcp:127.0.0.1:49152", f"unix:{tmp}/entry")
    return pair


def service(host: Any) -> Service:
    config = load(host.write_config())
    return Service(config, preflight(config, str(host.config), starting=True))


@asynccontextmanager
async def running(*services: Service) -> AsyncIterator[list[asyncio.Task[None]]]:
    tasks = [asyncio.create_task(each.run()) for each in services]
    try:
        await until(lambda: all(each._control for each in services), "for the control sockets")
        yield tasks
        for each in services:
            each._stop_now()
        await asyncio.wait_for(asyncio.gather(*tasks), 60)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_status_has_all_facts(hosts: TwoHosts) -> None:
    async with running(service(hosts.a)):
        facts: dict[str, Any] = {**await asyncio.to_thread(ask_status, hosts.a.control)}
        assert facts.pop("uptime") >= 0
        assert facts.pop("version")
        certificate = facts.pop("certificate")
        keys = {"names", "not_after", "ends_first", "days_left", "warnings", "problem"}
        assert certificate.keys() == keys
        assert (certificate["names"], certificate["problem"]) == (["hosta"], None)
        lane = facts.pop("lane")
        assert lane["kind"] in set(LaneKind)
        assert re.search("self-test|module tls", lane["reason"]), "auto reports its choice"
        serving = {"worker": 0, "state": "serving", "sessions": 0, "streams": 0}
        assert facts.pop("workers") == [serving]
        [link] = facts.pop("links")
        assert (link["peer"], link["state"]) == ("hostb", "down")
        [ingress] = facts.pop("ingresses")
        assert ingress["listen"] == hosts.a.ingresses[0]["listen"]
        assert facts == {
            "host": "hosta",
            "pid": os.getpid(),
            "draining": False,
            "listen": hosts.a.address,
            "listen_configured": True,
            "rejected": 0,
        }


async def test_number_of_workers_is_as_configured(hosts: TwoHosts) -> None:
    hosts.a.workers = hosts.b.workers = 2
    a, b = service(hosts.a), service(hosts.b)
    async with running(a, b):
        await until(lambda: a._links["hostb"].standing.state is LinkState.UP, "for the link")
        facts = await asyncio.to_thread(ask_status, hosts.a.control)
        assert [worker["state"] for worker in facts["workers"]] == ["serving", "serving"]
        assert a._links["hostb"].parallel
        assert not b._links["hosta"].parallel, "no ingress leads to hosta"
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("worker")]


async def test_only_the_host_with_an_ingress_dials(hosts: TwoHosts) -> None:
    a, b = service(hosts.a), service(hosts.b)
    assert len(list(a._dialers())) == 1
    assert list(b._dialers()) == []
    async with running(a, b):
        await until(lambda: a._links["hostb"].standing.state is LinkState.UP, "for the link")
        assert b._links["hosta"].standing.session is not None
        assert b._links["hosta"].standing.session.initiator is False


async def test_configured_parameters_reach_the_links(hosts: TwoHosts) -> None:
    hosts.a.transport = {"memory": "64MiB", "resume_window": "7s", "congestion": "reno"}
    hosts.a.transport |= {"rotate_records": 2048, "rotate_after": "1h"}
    hosts.b.egress["hosta"] = ["unix:/run/qemu/*"]
    [(_, plan)] = service(hosts.a)._link_plans()
    assert (plan.host, plan.peer) == ("hosta", "hostb")
    assert (plan.settings.memory, plan.resume_window) == (64 * 2**20, 7.0)
    [(link, dialer)] = service(hosts.a)._dialers()
    assert link.plan.rotation == RotationPlan(2048, 3600.0)
    assert dialer._plan.congestion == "reno"
    assert dialer._plan.source == hosts.a.address.rpartition(":")[0]
    [(_, plan)] = service(hosts.b)._link_plans()
    assert [str(rule) for rule in plan.egress.rules] == ["unix:/run/qemu/*"]


async def test_log_reports_where_encryption_happens_and_why(
    hosts: TwoHosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel, none = (
        KernelTlsSupport(tuple(SUITES), "tried"),
        KernelTlsSupport((), "module tls not loaded", no_module=True),
    )
    cheap, dear = LaneCosts(0.61, 0.74), LaneCosts(0.74, 0.61)
    for found, costs, where, reason in (
        (kernel, cheap, "kernel (0.61 CPU s/GiB; in the daemon 0.74)", "tried"),
        (kernel, dear, "daemon (0.61 CPU s/GiB; in the kernel 0.74)", "kernel lanes work on this host, but"),
        (none, None, "daemon", "module tls not loaded; optional"),
    ):
        monkeypatch.setattr(preflights, "run_selftest", lambda files, found=found: found)
        monkeypatch.setattr(preflights, "measure", lambda *_, costs=costs: costs)
        with structlog.testing.capture_logs() as said:
            async with running(service(hosts.a)):
                pass
        [line] = [each for each in said if each["event"].startswith("encryption")]
        assert line["event"] == f"encryption: in the {where}"
        assert line["reason"].startswith(reason)
        assert line["log_level"] == "info"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signal_ends_an_idle_service(hosts: TwoHosts, number: signal.Signals) -> None:
    serving = service(hosts.a)
    async with running(serving) as [task]:
        os.kill(os.getpid(), number)
        await asyncio.wait_for(asyncio.shield(task), 10)
    assert not hosts.a.control.exists()
    assert not (hosts.directory / "entry").exists()


async def test_drain_waits_for_streams_for_the_configured_timeout(hosts: TwoHosts) -> None:
    with Target() as target:
        hosts.a.ingresses[0]["target"] = target.address
        hosts.b.egress["hosta"] = [target.address]
        hosts.a.drain_timeout = "2s"
        a, b = service(hosts.a), service(hosts.b)
        async with running(a, b) as [task, _]:
            await until(lambda: a._links["hostb"].standing.state is LinkState.UP, "for the link")
            with socket.socket(socket.AF_UNIX) as caller:
                caller.setblocking(False)
                caller.connect(str(hosts.directory / "entry"))
                await until(lambda: b._links["hosta"].standing.streams.pumps, "for the stream")
                started = asyncio.get_running_loop().time()
                a._stop()
                assert await turned_away(hosts.directory / "entry")
                assert not task.done(), "it waits for the stream"
                await asyncio.wait_for(asyncio.shield(task), 10)
                assert asyncio.get_running_loop().time() - started >= 2.0
            await until(lambda: not b._links["hosta"].standing.streams.pumps, "for b to drop the stream")


async def test_sigint_does_not_wait_for_streams(hosts: TwoHosts) -> None:
    with Target() as target:
        hosts.a.ingresses[0]["target"] = target.address
        hosts.b.egress["hosta"] = [target.address]
        a, b = service(hosts.a), service(hosts.b)
        async with running(a, b) as [task, other]:
            await until(lambda: a._links["hostb"].standing.state is LinkState.UP, "for the link")
            with socket.socket(socket.AF_UNIX) as caller:
                caller.connect(str(hosts.directory / "entry"))
                await until(lambda: b._links["hosta"].standing.streams.pumps, "for the stream")
                os.kill(os.getpid(), signal.SIGINT)  # only the service that started last receives it
                await asyncio.wait({task, other}, timeout=60, return_when=asyncio.FIRST_COMPLETED)
                assert other.done()


async def test_sighup_repairs_the_redirects_and_ends_nothing(hosts: TwoHosts) -> None:
    serving = service(hosts.a)
    async with running(serving) as [task]:
        assert serving._redirects is not None
        with structlog.testing.capture_logs() as said:
            os.kill(os.getpid(), signal.SIGHUP)
            await until(lambda: any("not read again" in each["event"] for each in said), "for the answer")
        assert [each["log_level"] for each in said if "not read again" in each["event"]] == ["warning"]
        assert not task.done()
        assert (await asyncio.to_thread(ask_status, hosts.a.control))["host"] == "hosta"


async def test_failed_redirect_leaves_nothing_behind(
    hosts: TwoHosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    del hosts.a.ingresses[0]["target"]
    hosts.a.ingresses[0]["listen"] = "redirect:127.0.1.2:49152-49215"
    monkeypatch.setattr(nftables, "unavailable_reason", lambda: None)
    serving = service(hosts.a)
    monkeypatch.setattr(nftables, "unavailable_reason", lambda: "the firewall has gone meanwhile")
    with pytest.raises(UsageError, match="the firewall has gone meanwhile"):
        await serving.run()
    assert not hosts.a.control.exists()
    host, _, port = hosts.a.address.rpartition(":")
    socket.create_server((host, int(port))).close()


async def test_unavailable_address_leaves_nothing_behind(hosts: TwoHosts) -> None:
    serving = service(hosts.a)
    host, _, port = hosts.a.address.rpartition(":")
    with (
        socket.create_server((host, int(port))),
        pytest.raises(UsageError, match="is mtunnel already running"),
    ):
        await serving.run()
    assert not hosts.a.control.exists()


async def test_systemd_is_notified(hosts: TwoHosts, tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp / "notify"))
        systemd.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp / "notify"))
        async with running(service(hosts.a)):
            assert await asyncio.to_thread(systemd.recv, 100) == b"READY=1"
        assert await asyncio.to_thread(systemd.recv, 100) == b"STOPPING=1"


def test_systemds_socket_may_be_abstract(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"mtunnel-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(f"\0{name}")
        systemd.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        notify("READY=1")
        assert systemd.recv(100) == b"READY=1"


@pytest.mark.parametrize("path", ["", "/nobody/listens/here"])
def test_without_systemd_nothing_is_sent(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    notify("READY=1")


async def test_probe_returns_what_the_peer_would_admit(hosts: TwoHosts) -> None:
    hosts.b.egress["hosta"] = ["tcp:127.0.0.1:49152-49153"]
    a, b = service(hosts.a), service(hosts.b)
    async with running(a, b):
        ports = [f"tcp:127.0.0.1:{port}" for port in (49152, 49154)]
        answers = await asyncio.to_thread(
            ask_targets, hosts.a.control, "hostb", ["tcp:localhost:49152", ports[1]]
        )
        assert [each["target"] for each in answers] == ports
        assert [each["verdict"] for each in answers] == ["admitted", "refused"]
        assert answers[1]["reason"] == f"{ports[1]} is not in the egress list for hosta on hostb"
        assert b._links["hosta"].standing.streams.opened == 0


@pytest.mark.parametrize(
    ("peer", "targets", "message"),
    [
        ("hostx", [], "no peer 'hostx'; configured peers: hostb"),
        (["hostb"], [], r"no peer \['hostb'\]; configured peers: hostb"),
        ("hostb", "tcp:127.0.0.1:1", "expected a list"),
        ("hostb", ["tcp:127.0.0.1:1"] * 2000, "at most 1024"),
        ("hostb", ["here"], "'here' is not a target address"),
        ("hostb", [22], "'22' is not a target address"),
    ],
)
async def test_invalid_probe_is_refused(hosts: TwoHosts, peer: Any, targets: Any, message: str) -> None:
    serving = service(hosts.a)
    async with running(serving):
        with pytest.raises(TunnelError, match=message):
            await asyncio.to_thread(ask, hosts.a.control, "probe", peer=peer, targets=targets)


async def test_a_record_is_logged_on_both_hosts(hosts: TwoHosts) -> None:
    hosts.a.leads_to(hosts.b, "tcp:127.0.0.1:49152")  # so that it dials
    with structlog.testing.capture_logs() as said:
        a, b = service(hosts.a), service(hosts.b)
        async with running(a, b):
            await until(
                lambda: a._links["hostb"].standing.state is b._links["hosta"].standing.state is LinkState.UP
            )
            await asyncio.to_thread(ask, hosts.a.control, "record", peer="hostb", text="web1 has gone")
            await until(lambda: any(each.get("reason") == "hosta reports: web1 has gone" for each in said))
            for text in (1, "two\nlines"):
                with pytest.raises(TunnelError, match="text: expected one line"):
                    await asyncio.to_thread(ask, hosts.a.control, "record", peer="hostb", text=text)
    assert [each["peer"] for each in said if each.get("reason") == "web1 has gone"] == ["hostb"]


async def test_probe_of_an_unreachable_peer_times_out_before_the_command(
    hosts: TwoHosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert module.PROBE_DEADLINE < TIMEOUT
    monkeypatch.setattr(module, "PROBE_DEADLINE", 0.05)
    async with running(service(hosts.a)):
        with pytest.raises(TunnelError, match="no link with hostb"):
            await asyncio.to_thread(ask, hosts.a.control, "probe", peer="hostb", targets=["tcp:127.0.0.1:1"])


async def test_links_of_kernel_lanes_splice(hosts: TwoHosts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this host's kernel supports."""
    made: list[LaneKind] = []

    def maker(kind: LaneKind, provider: Provider | None) -> LaneMaker:
        made.append(kind)
        return lane_maker(kind, provider)

    monkeypatch.setattr(module, "maker", maker)
    for found, pump in (
        (KernelTlsSupport(tuple(SUITES), "tried"), SplicedPump),
        (KernelTlsSupport((), "tried"), Pump),
    ):
        monkeypatch.setattr(preflights, "run_selftest", lambda files, found=found: found)
        monkeypatch.setattr(preflights, "measure", lambda *_: LaneCosts(0.6149, 0.7352))
        one = service(hosts.a)
        assert one._links["hostb"].plan.pump is pump
        assert (await one.status())["lane"] == {
            "kind": made[-1].value,
            "reason": "tried",
            "cpu_seconds_per_gib": {"kernel": 0.615, "userspace": 0.735} if found.suites else None,
            "engine": UNASKED.reason,
        }
    assert made == [LaneKind.KERNEL, LaneKind.USERSPACE]

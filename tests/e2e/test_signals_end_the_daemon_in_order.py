"""SIGTERM drains streams, SIGINT does not, and a restart recovers from SIGKILL."""

from __future__ import annotations

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.cutter import Cutter
from tests.support.daemons import Host, TwoHosts, is_up, until
from tests.support.streams import (
    Target,
    connect,
    ends_in_reset,
    exchange,
    fill,
    receive,
    send_bulk,
    turned_away,
)
from tunnel.units import MIB
from tunnel.wire.window import INITIAL_WINDOW

AT_ONCE = 8.0
"""Seconds, on a busy machine; a drain waits without limit, and a link waits 30 seconds to resume."""


@pytest.fixture
def entry(hosts: TwoHosts, target: Target, tmp: Path) -> str:
    """An ingress of host a, whose daemon is running."""
    where = hosts.a.leads_to(hosts.b, target.address, f"unix:{tmp}/entry")
    hosts.start()
    return where


def sockets_of(host: Host, entry: str) -> list[Path]:
    return [path for path in (host.control, Path(entry.removeprefix("unix:"))) if path.exists()]


def test_sigterm_lets_streams_end(hosts: TwoHosts, target: Target, entry: str) -> None:
    with connect(entry) as caller, target.accept() as called:
        exchange(caller, called)
        hosts.a.signal(signal.SIGTERM)
        until(lambda: hosts.a.status()["draining"], "for the drain to begin")
        hosts.a.wait_log(f"stopping: waiting for streams to end.*streams=1 of=.to hostb: {target.address} ")
        assert turned_away(entry)
        hosts.a.wait_log("connection refused.*this host is stopping")
        assert not target.called
        exchange(caller, called)
    assert hosts.a.wait(AT_ONCE) == 0
    assert sockets_of(hosts.a, entry) == []
    hosts.b.wait_log("hosta is stopping")
    assert hosts.b.link(hosts.a)["state"] == "down"


def test_sigterm_of_the_destination_lets_streams_end_and_refuses_new_ones(
    hosts: TwoHosts, target: Target, entry: str
) -> None:
    with connect(entry) as caller, target.accept() as called:
        exchange(caller, called)
        hosts.b.signal(signal.SIGTERM)
        until(lambda: hosts.b.status()["draining"], "for the drain to begin")
        assert turned_away(entry)
        hosts.a.wait_log("stream refused by the peer.*hostb is stopping.*DRAINING")
        assert not target.called
        exchange(caller, called)
    assert hosts.b.wait(AT_ONCE) == 0


def test_second_sigterm_ends_the_drain_immediately(hosts: TwoHosts, target: Target, entry: str) -> None:
    with connect(entry) as caller, target.accept() as called:
        exchange(caller, called)
        hosts.a.signal(signal.SIGTERM)
        until(lambda: hosts.a.status()["draining"], "for the drain to begin")
        hosts.a.signal(signal.SIGTERM)
        assert hosts.a.wait(AT_ONCE) == 0
        assert ends_in_reset(caller)
        assert ends_in_reset(called)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_idle_daemon_ends_immediately(hosts: TwoHosts, entry: str, number: signal.Signals) -> None:
    hosts.a.signal(number)
    assert hosts.a.wait(AT_ONCE) == 0
    assert sockets_of(hosts.a, entry) == []
    until(lambda: hosts.b.link(hosts.a)["state"] == "down", "for b to detect it", AT_ONCE)
    assert "resuming" not in hosts.b.log


@pytest.mark.parametrize("sender", ["a", "b"])
def test_sigint_in_mid_transfer_ends_both_sides_immediately(
    hosts: TwoHosts, target: Target, entry: str, background: ThreadPoolExecutor, sender: str
) -> None:
    with connect(entry) as caller, target.accept() as called:
        one, other = (caller, called) if sender == "a" else (called, caller)
        sending = background.submit(send_bulk, one, 1024 * MIB)
        receive(other, 4 * MIB)
        draining = background.submit(ends_in_reset, other)
        hosts.a.signal(signal.SIGINT)
        interrupted = time.monotonic()
        assert hosts.a.wait(AT_ONCE) == 0
        assert draining.result()
        with pytest.raises(ConnectionError):
            sending.result()
        until(lambda: hosts.b.link(hosts.a)["state"] == "down", "for b to detect it", AT_ONCE)
        assert time.monotonic() - interrupted < AT_ONCE
    hosts.b.wait_log("hosta is stopping")
    assert sockets_of(hosts.a, entry) == []


def test_killed_daemon_starts_again_despite_stale_sockets(
    hosts: TwoHosts, target: Target, entry: str
) -> None:
    with connect(entry) as caller, target.accept() as called:
        exchange(caller, called)
        hosts.a.kill()
        assert len(sockets_of(hosts.a, entry)) == 2
        hosts.a.start()
        hosts.wait_up()
        assert ends_in_reset(caller)
        assert ends_in_reset(called)
    with connect(entry) as caller, target.accept() as called:
        exchange(caller, called)


def test_restart_in_order_links_again(hosts: TwoHosts, target: Target, entry: str) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        hosts.b.signal(number)
        assert hosts.b.wait(AT_ONCE) == 0
        hosts.b.start()
        hosts.b.wait_serving()
        until(lambda: is_up(hosts.b, hosts.a), "for a link")
        with connect(entry) as caller, target.accept() as called:
            exchange(caller, called)


def test_shutdown_waits_for_goaway_on_a_slow_link(
    hosts: TwoHosts, target: Target, background: ThreadPoolExecutor
) -> None:
    """With full buffers GOAWAY cannot be sent immediately; without it b would wait 30 seconds to resume."""
    with Cutter(hosts.b.address) as cutter:
        hosts.a.knows(hosts.b, cutter.address)
        entry = hosts.a.leads_to(hosts.b, target.address)
        hosts.start()
        with ExitStack() as stack:
            callers = [stack.enter_context(connect(entry)) for _ in range(8)]
            called = [stack.enter_context(target.accept()) for _ in callers]
            cutter.stall()
            assert sum(background.map(fill, callers)) > 2 * INITIAL_WINDOW  # more than sockets hold
            hosts.a.signal(signal.SIGINT)
            hosts.a.wait_log("hosta is stopping")
            cutter.flow()
            assert all(background.map(ends_in_reset, called))
            assert hosts.a.wait(AT_ONCE) == 0
    hosts.b.wait_log("hosta is stopping")
    assert "lane lost" not in hosts.b.log

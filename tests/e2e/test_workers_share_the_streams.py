"""Several workers: streams are distributed over them, through one port, and behave as with one worker."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from tests.support.daemons import TwoHosts, is_idle, until
from tests.support.streams import Target, connect, exchange, receive_all, send_bulk

COUNT = 6
SIZE = 64 << 20


@pytest.fixture
def workers() -> int:
    """The number of workers in these tests."""
    return 3


def test_streams_are_distributed_and_their_bytes_are_intact(
    hosts: TwoHosts, target: Target, background: ThreadPoolExecutor
) -> None:
    entry = hosts.a.leads_to(hosts.b, target.address)
    hosts.start()
    with ExitStack() as stack:
        callers, called = [], []
        for _ in range(COUNT):
            callers.append(stack.enter_context(connect(entry)))
            called.append(stack.enter_context(target.accept()))
        for host in (hosts.a, hosts.b):
            assert [worker["streams"] for worker in host.status()["workers"]] == [2, 2, 2]
        sent = [background.submit(send_bulk, caller, SIZE) for caller in callers]
        received = [background.submit(receive_all, sock) for sock in called]
        assert [each.result() for each in sent] == [each.result() for each in received]


def test_a_firewall_sees_one_port(hosts: TwoHosts, target: Target) -> None:
    entry = hosts.a.leads_to(hosts.b, target.address)
    hosts.start()
    with ExitStack() as stack:
        for _ in range(COUNT):
            stack.enter_context(connect(entry))
            stack.enter_context(target.accept())
        lanes = hosts.a.link(hosts.b)["lanes"]
        assert len(lanes) == 3
        assert {lane["remote"] for lane in lanes} == {hosts.b.address}
        assert {lane["local"] for lane in hosts.b.link(hosts.a)["lanes"]} == {hosts.b.address}


def test_a_host_with_one_worker_has_one_connection(hosts: TwoHosts, target: Target) -> None:
    hosts.b.workers = 1
    entry = hosts.a.leads_to(hosts.b, target.address)
    hosts.start()
    with ExitStack() as stack:
        for _ in range(COUNT):
            caller = stack.enter_context(connect(entry))
            exchange(caller, stack.enter_context(target.accept()))
        assert len(hosts.a.link(hosts.b)["lanes"]) == 1


def test_each_direction_has_separate_sessions(hosts: TwoHosts, target: Target) -> None:
    there = hosts.a.leads_to(hosts.b, target.address)
    with Target() as other, ExitStack() as stack:
        back = hosts.b.leads_to(hosts.a, other.address)
        hosts.start()
        for _ in range(COUNT // 2):
            for entry, listening in ((there, target), (back, other)):
                caller = stack.enter_context(connect(entry))
                exchange(caller, stack.enter_context(listening.accept()))
        names = {part["session"] for part in hosts.a.link(hosts.b)["sessions"]}
        assert {"standing", "ours 1", "theirs 1"} <= names
        stack.close()
        for host, peer in hosts.both_ways:
            until(lambda: is_idle(host, peer), f"for {host.name} to be idle")  # noqa: B023  awaited here


def test_a_migration_is_one_line_in_the_log(hosts: TwoHosts, target: Target) -> None:
    """Whichever workers have its streams: operators get one line per migration."""
    entry = hosts.a.leads_to(hosts.b, target.address)
    hosts.start()
    with ExitStack() as stack:
        for _ in range(COUNT):
            caller = stack.enter_context(connect(entry))
            exchange(caller, stack.enter_context(target.accept()))
    for host in (hosts.a, hosts.b):
        line = host.wait_log(r'event="transfer ended".*')
        assert f"streams={COUNT}" in line.group()
        assert host.log.count("transfer ended") == 1

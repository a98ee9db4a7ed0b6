"""Hosts that dial each other simultaneously agree on one session, whatever the timing."""

from __future__ import annotations

import pytest

from tests.support.daemons import Host, TwoHosts, standing_lanes
from tests.support.streams import Target, connect, exchange

ROUNDS = 6


def lane_of(host: Host, peer: Host) -> tuple[str, str]:
    [lane] = standing_lanes(host, peer)
    return lane["local"], lane["remote"]


def test_simultaneous_starts(hosts: TwoHosts, target: Target) -> None:
    with Target() as other:
        there = hosts.a.leads_to(hosts.b, target.address)
        back = hosts.b.leads_to(hosts.a, other.address)
        for round_ in range(1, ROUNDS + 1):
            first, second = hosts.both_ways[round_ % 2]
            first.start()
            second.start()
            hosts.wait_up()
            for entry, listener in ((there, target), (back, other)):
                with connect(entry) as caller, listener.accept() as called:
                    exchange(caller, called)
            assert lane_of(hosts.a, hosts.b) == lane_of(hosts.b, hosts.a)[::-1]
            assert {host.link(peer)["initiator"] for host, peer in hosts.both_ways} == {True, False}
            for host in (hosts.a, hosts.b):
                assert host.log.count('event="link up"') == round_, "no session is created only to be dropped"
                host.kill()


@pytest.mark.parametrize("restarted", ["a", "b"])
def test_restarted_host_gets_a_new_session(hosts: TwoHosts, target: Target, restarted: str) -> None:
    there = hosts.a.leads_to(hosts.b, target.address)
    hosts.b.leads_to(hosts.a, target.address)
    hosts.start()
    host = hosts.a if restarted == "a" else hosts.b
    for _ in range(3):
        host.kill()
        host.start()
        hosts.wait_up()
        with connect(there) as caller, target.accept() as called:
            exchange(caller, called)
        assert lane_of(hosts.a, hosts.b) == lane_of(hosts.b, hosts.a)[::-1]

"""Two wires, and sockets that use the congestion control that was asked for."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest

from tests.support.lab import Listener, reaches
from tunnel.bench.lab import network
from tunnel.bench.lab.lab import Lab
from tunnel.bench.lab.plan import Plan
from tunnel.bench.lab.waiting import LabError

CONGESTION_OF = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5) as caller:
    print(caller.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\\0").decode())
"""


def test_the_hosts_are_on_the_same_networks(plans: tuple[Plan, Plan]) -> None:
    a, b = plans
    for mine, other in ((a.address, b.address), (a.second_address, b.second_address)):
        assert ipaddress.ip_address(other) in ipaddress.ip_interface(f"{mine}/24").network
    assert "addr add 192.0.2.1/24 dev eth0\n" in network.addresses(a)
    assert "addr add 2001:db8::1/64 dev eth0 nodad\n" in network.addresses(a)
    assert "addr add 198.51.100.1/24 dev eth1\n" in network.addresses(a)


def test_every_route_names_the_congestion_control(plans: tuple[Plan, Plan]) -> None:
    lines = network.routes(plans[0], "vegas").splitlines()
    assert lines
    assert all("congctl vegas" in line for line in lines)
    assert any("192.0.2.0/24 dev eth0" in line for line in lines)
    assert any("2001:db8::/64 dev eth0" in line for line in lines)


def test_a_refused_command_is_quoted() -> None:
    with pytest.raises(LabError, match=r"(?s)ip refused: .*nonesuch"):
        network.batch("nonesuch add\n")


@pytest.mark.root
def test_each_address_of_the_peer_is_reached(lab: Lab) -> None:
    with Listener(lab.b, 16515):
        for address in (lab.b.plan.address, lab.b.plan.second_address, lab.b.plan.address6):
            assert reaches(lab.a, address, 16515)


@pytest.mark.root
def test_sockets_use_the_congestion_control_that_was_asked_for(lab: Lab) -> None:
    with Listener(lab.b, 16515):
        for address in (lab.b.plan.address, lab.b.plan.second_address, lab.b.plan.address6):
            found = lab.a.run(["python3", "-c", CONGESTION_OF, address, "16515"])
            assert found.stdout == "cubic\n"
    with Listener(lab.a, 7777):
        assert lab.a.run(["python3", "-c", CONGESTION_OF, "127.0.1.2", "7777"]).stdout == "cubic\n"


@pytest.mark.root
def test_the_machine_outside_has_none_of_the_interfaces(lab: Lab) -> None:
    assert lab.a.plan.address in lab.a.run(["cat", "/proc/net/fib_trie"]).stdout
    assert lab.a.plan.address not in Path("/proc/net/fib_trie").read_text()

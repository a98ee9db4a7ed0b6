"""Two links, and sockets that use the configured congestion control."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest

from tests.support.lab import Listener, reaches
from tunnel.bench.lab import wires
from tunnel.bench.lab.host_plan import LabHostPlan
from tunnel.bench.lab.lab import Lab
from tunnel.bench.lab.waiting import LabError, until

CONGESTION_OF = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5) as caller:
    print(caller.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\\0").decode())
"""


def test_the_hosts_are_on_the_same_networks(plans: tuple[LabHostPlan, LabHostPlan]) -> None:
    a, b = plans
    for mine, other in ((a.address, b.address), (a.second_address, b.second_address)):
        assert ipaddress.ip_address(other) in ipaddress.ip_interface(f"{mine}/24").network
    assert "addr add 192.0.2.1/24 dev eth0\n" in wires.addresses(a)
    assert "addr add 2001:db8::1/64 dev eth0 nodad\n" in wires.addresses(a)
    assert "addr add 198.51.100.1/24 dev eth1\n" in wires.addresses(a)


def test_every_route_names_the_congestion_control(plans: tuple[LabHostPlan, LabHostPlan]) -> None:
    lines = wires.routes(plans[0], "vegas").splitlines()
    assert lines
    assert all("congctl vegas" in line for line in lines)
    assert any("192.0.2.0/24 dev eth0" in line for line in lines)
    assert any("2001:db8::/64 dev eth0" in line for line in lines)


def test_a_rate_limit_is_in_bits_and_allows_bursts_of_milliseconds() -> None:
    command = " ".join(wires.shaping(10**9))
    assert command.endswith("dev eth0 root tbf rate 1000000000bit burst 500000b latency 20ms")
    assert "burst 131072b" in " ".join(wires.shaping(8 * 10**6))
    assert " ".join(wires.shaping(None)).endswith("root noqueue")


def test_a_failed_command_is_an_error_with_its_output() -> None:
    with pytest.raises(LabError, match=r"(?s)ip failed: .*nonesuch"):
        wires.batch("nonesuch add\n")


@pytest.mark.root
def test_each_address_of_the_peer_is_reached(lab: Lab) -> None:
    with Listener(lab.b, 16515):
        for address in (lab.b.plan.address, lab.b.plan.second_address, lab.b.plan.address6):
            assert reaches(lab.a, address, 16515)


@pytest.mark.root
def test_sockets_use_the_configured_congestion_control(lab: Lab) -> None:
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


SEND = """
import socket, sys, time
with socket.create_connection((sys.argv[1], 16515), timeout=20) as peer:
    began = time.monotonic()
    peer.sendall(bytes(int(sys.argv[2])))
    peer.shutdown(socket.SHUT_WR)
    peer.recv(1)
    print(time.monotonic() - began)
"""
SWALLOW = """
import socket
with socket.create_server(("0.0.0.0", 16515)) as server:
    print("listening", flush=True)
    while True:
        peer = server.accept()[0]
        while peer.recv(1 << 20):
            pass
        peer.close()
"""


@pytest.mark.root
def test_a_rate_limit_applies_until_reset(lab: Lab) -> None:
    swallow = lab.b.start(["python3", "-c", SWALLOW])
    until(lambda: swallow.output(), "for the reader to listen")
    sent, bound = 4_000_000, 32_000_000
    lab.shape(bound)
    found = float(lab.a.run(["python3", "-c", SEND, lab.b.plan.address, str(sent)]).stdout)
    # The bucket and the reader's socket buffer may exceed the rate limit.
    assert found > 0.9 * (sent - 131072) * 8 / bound
    lab.reset()
    for host in lab.hosts:
        assert "tbf" not in host.run(["tc", "qdisc", "show", "dev", "eth0"]).stdout

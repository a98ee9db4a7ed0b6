"""A flood that exhausts all descriptors is refused, and the daemon survives it."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from functools import partial

from tests.support.daemons import TwoHosts, is_idle, until
from tests.support.streams import Target, connect, exchange

FILES = 48
FLOOD = 120


def has_ebbed(hosts: TwoHosts, target: Target) -> bool:
    """Whether no stream is left; the target closes the connections that arrived."""
    while target.called:
        pass
    return all(host.daemon.serves() and is_idle(host, peer) for host, peer in hosts.both_ways)


def test_flood_of_the_peers_port(hosts: TwoHosts, target: Target) -> None:
    entry = hosts.a.leads_to(hosts.b, target.address)
    hosts.b.start(most_files=FILES)
    hosts.a.start()
    hosts.wait_up()
    with connect(entry) as caller, target.accept() as called:
        with ExitStack() as flood:
            for _ in range(FLOOD):
                flood.enter_context(connect(f"tcp:{hosts.b.address}"))
            hosts.b.wait_log("cannot accept, trying again")
            exchange(caller, called)
        exchange(caller, called)
    until(hosts.b.daemon.serves, "for b to have recovered")
    with connect(entry) as caller, target.accept() as called:
        exchange(caller, called)


def test_flood_of_an_ingress(hosts: TwoHosts, target: Target) -> None:
    entry = hosts.a.leads_to(hosts.b, target.address)
    hosts.a.start(most_files=FILES)
    hosts.b.start()
    hosts.wait_up()
    with ExitStack() as flood:
        for _ in range(FLOOD):
            with suppress(ConnectionResetError):  # refused before connect() returned
                flood.enter_context(connect(entry))
        hosts.a.wait_log("cannot accept, trying again|Too many open files")
    until(partial(has_ebbed, hosts, target), "for the flood to ebb")
    with connect(entry) as caller, target.accept() as called:
        exchange(caller, called)


def test_flood_that_exhausts_the_destination(hosts: TwoHosts, target: Target) -> None:
    entry = hosts.a.leads_to(hosts.b, target.address)
    hosts.b.start(most_files=FILES)
    hosts.a.start()
    hosts.wait_up()
    with ExitStack() as flood:
        for _ in range(FLOOD):
            with suppress(ConnectionResetError):  # refused before connect() returned
                flood.enter_context(connect(entry))
        hosts.a.wait_log("stream refused by the peer.*Too many open files")
    until(partial(has_ebbed, hosts, target), "for the flood to ebb")
    with connect(entry) as caller, target.accept() as called:
        exchange(caller, called)

"""Each port of a redirected range leads to the same port of the peer, through one listening socket."""

from __future__ import annotations

import asyncio
import dataclasses
import re
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from tests.support.daemons import Host, TwoHosts, is_idle, until
from tests.support.guests import BUSY, MEMORY, MULTIFD, PRECOPY
from tests.support.streams import (
    Target,
    connect,
    ends_in_reset,
    exchange,
    receive,
    receive_all,
    send_bulk,
    turned_away,
)
from tests.support.users import NOBODY, acting_as
from tunnel.proof.verified_pair import Trial
from tunnel.units import MIB

pytestmark = pytest.mark.root

ALIAS = "127.0.1.2"
RANGE = range(49152, 49216)
LISTEN = f"redirect:{ALIAS}:{RANGE[0]}-{RANGE[-1]}"
SAME = f"tcp:127.0.0.1:{RANGE[0]}-{RANGE[-1]}"


@pytest.fixture
def pair(network: None, hosts: TwoHosts) -> TwoHosts:
    """Two running hosts in a separate network namespace; host a has the range for b."""
    hosts.a.leads_to(hosts.b, SAME, LISTEN)
    hosts.start()
    return hosts


def has_repaired(host: Host, times: int) -> bool:
    return host.log.count("done=repair") >= times


def entry(port: int) -> str:
    return f"tcp:{ALIAS}:{port}"


def test_every_caller_reaches_its_destination_port(pair: TwoHosts) -> None:
    with ExitStack() as stack:
        for port in (RANGE[0], RANGE[31], RANGE[-1]):
            target = stack.enter_context(Target(port=port))
            for _ in range(3):
                caller = stack.enter_context(connect(entry(port)))
                exchange(caller, stack.enter_context(target.accept()))
        [ingress] = pair.a.status()["ingresses"]
        assert (ingress["accepted"], ingress["refused"]) == (9, 0)
        targets = [stream["target"] for stream in pair.a.link(pair.b)["streams"]]
        assert sorted(set(targets)) == [f"tcp:127.0.0.1:{port}" for port in (49152, 49183, 49215)]


@pytest.mark.slow
async def test_two_guests_cross_at_once_to_two_ports(pair: TwoHosts, tmp: Path) -> None:
    async with (
        await Trial.start(_made(tmp / "one"), MEMORY, BUSY) as first,
        await Trial.start(_made(tmp / "two"), MEMORY, dataclasses.replace(BUSY, seed=2)) as second,
    ):
        await asyncio.gather(
            first.migrate(entry(49152), "tcp:127.0.0.1:49152", MULTIFD),
            second.migrate(entry(49153), "tcp:127.0.0.1:49153", PRECOPY),
        )
        await first.verify()
        await second.verify()
    [ingress] = pair.a.status()["ingresses"]
    assert ingress["accepted"] >= 1 + MULTIFD.parallel + 1
    assert ingress["refused"] == 0


def test_no_port_of_the_range_is_taken(pair: TwoHosts) -> None:
    """Libvirt tests a port by binding the wildcard address, on the source host as well."""
    with ExitStack() as stack:
        for port in RANGE:
            stack.enter_context(socket.create_server(("0.0.0.0", port)))
        [ingress] = pair.a.status()["ingresses"]
        assert ingress["listen"] == LISTEN
        assert ingress["port"] not in RANGE
    with Target(port=RANGE[0]) as target, connect(entry(RANGE[0])) as caller, target.accept() as called:
        exchange(caller, called)


def test_listening_port_itself_refuses_connections(pair: TwoHosts) -> None:
    [ingress] = pair.a.status()["ingresses"]
    assert turned_away(f"tcp:127.0.0.1:{ingress['port']}")
    reason = f"a connection to 127.0.0.1:{ingress['port']} was not redirected from {LISTEN}"
    assert reason in pair.a.reasons(pair.b)


def test_another_user_is_refused(network: None, hosts: TwoHosts) -> None:
    hosts.a.leads_to(hosts.b, SAME, LISTEN, users=("root",))
    hosts.start()
    with Target(port=RANGE[0]) as target:
        with acting_as(NOBODY):
            assert turned_away(entry(RANGE[0]))
        hosts.a.wait_log(re.escape("user nobody may not use this ingress (allowed: root)"))
        assert not target.called
        with connect(entry(RANGE[0])) as caller, target.accept() as called:
            exchange(caller, called)


def test_port_that_the_peer_does_not_allow_is_refused(network: None, hosts: TwoHosts) -> None:
    hosts.a.leads_to(hosts.b, f"tcp:127.0.0.1:{RANGE[0]}", LISTEN)
    hosts.start()
    with Target(port=RANGE[1]) as target:
        assert turned_away(entry(RANGE[1]))
        assert not target.called


def test_reload_in_mid_transfer_corrupts_no_byte(pair: TwoHosts, background: ThreadPoolExecutor) -> None:
    with Target(port=RANGE[5]) as target, connect(entry(RANGE[5])) as caller, target.accept() as called:
        sending = background.submit(send_bulk, caller, 512 * MIB)
        receiving = background.submit(receive_all, called)
        reloads = 0
        while not sending.done():
            reloads += 1
            pair.a.signal(signal.SIGHUP)
            until(partial(has_repaired, pair.a, reloads), "for the repair")
        assert reloads >= 3
        assert receiving.result() == sending.result()


def test_drain_lets_redirected_streams_end_and_takes_no_more(pair: TwoHosts) -> None:
    with Target(port=RANGE[0]) as target:
        with connect(entry(RANGE[0])) as caller, target.accept() as called:
            exchange(caller, called)
            pair.a.signal(signal.SIGTERM)
            until(lambda: pair.a.status()["draining"], "for the drain to begin")
            assert turned_away(entry(RANGE[1]))
            exchange(caller, called)
            caller.shutdown(socket.SHUT_WR)
            assert called.recv(1) == b""
            called.sendall(b"last bytes")
            called.shutdown(socket.SHUT_WR)
            assert receive(caller, 10) == b"last bytes"
            assert caller.recv(1) == b""
        assert pair.a.wait() == 0


@pytest.mark.parametrize("role", ["caller", "called"])
def test_idle_caller_is_reset_immediately_at_shutdown(pair: TwoHosts, role: str) -> None:
    """Its connection must still be translated when the reset is sent, or it would wait forever."""
    with Target(port=RANGE[0]) as target, connect(entry(RANGE[0])) as caller, target.accept() as called:
        exchange(caller, called)
        pair.a.signal(signal.SIGINT)
        assert ends_in_reset(caller if role == "caller" else called)
        assert pair.a.wait() == 0


def test_silence_longer_than_the_conntrack_timeout_ends_nothing(pair: TwoHosts) -> None:
    """The post-copy channel may be silent for long, and then the destination sends first."""
    Path("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established").write_text("3")
    with Target(port=RANGE[0]) as target, connect(entry(RANGE[0])) as caller, target.accept() as called:
        exchange(caller, called)
        caller.settimeout(8)
        with pytest.raises(TimeoutError):  # the silence
            caller.recv(1)
        called.sendall(b"a page, please")
        assert receive(caller, 14) == b"a page, please"
        exchange(caller, called)


def test_range_is_free_again_after_a_stream(pair: TwoHosts) -> None:
    for _ in range(3):
        with Target(port=RANGE[0]) as target, connect(entry(RANGE[0])) as caller, target.accept() as called:
            exchange(caller, called)
        until(lambda: is_idle(pair.a, pair.b), "for the stream to end")


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory

"""The directions of a stream close independently: after a half-close data still flows the other way."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from tests.support.daemons import TwoHosts, is_idle, until
from tests.support.streams import Target, connect, ends_in_reset, fill, receive, receive_all, send_bulk
from tunnel.units import MIB


@pytest.fixture(params=["tcp", "unix"])
def pair(request: pytest.FixtureRequest, hosts: TwoHosts, tmp: Path) -> Iterator[tuple[str, Target]]:
    """An ingress and its target."""
    unix = request.param == "unix"
    with Target(tmp / "target" if unix else None) as target:
        entry = hosts.a.leads_to(hosts.b, target.address, f"unix:{tmp}/entry" if unix else "")
        hosts.start()
        yield entry, target


@pytest.mark.parametrize("first", ["caller", "called"])
def test_late_answer_arrives(
    hosts: TwoHosts, pair: tuple[str, Target], background: ThreadPoolExecutor, first: str
) -> None:
    entry, target = pair
    with connect(entry) as caller, target.accept() as called:
        one, two = (caller, called) if first == "caller" else (called, caller)
        one.sendall(b"question")
        one.shutdown(socket.SHUT_WR)
        assert receive(two, 8) + two.recv(1) == b"question"
        assert not is_idle(hosts.a, hosts.b)
        sending = background.submit(send_bulk, two, 16 * MIB)
        assert receive_all(one) == sending.result()
    for host, peer in hosts.both_ways:
        until(partial(is_idle, host, peer), "for the stream to end")
    assert not any("reset" in reason for reason in hosts.a.reasons(hosts.b))


def test_empty_stream_ends(hosts: TwoHosts, pair: tuple[str, Target]) -> None:
    entry, target = pair
    with connect(entry) as caller, target.accept() as called:
        caller.shutdown(socket.SHUT_WR)
        assert called.recv(1) == b""
        called.shutdown(socket.SHUT_WR)
        assert caller.recv(1) == b""
    for host, peer in hosts.both_ways:
        until(partial(is_idle, host, peer), "for the stream to end")


def test_last_bytes_of_a_caller_arrive_though_it_reads_no_reply(hosts: TwoHosts, tmp: Path) -> None:
    """It fills the window and closes while the target still sends: none of its bytes are lost."""
    with Target(tmp / "target") as target:
        entry = hosts.a.leads_to(hosts.b, target.address, f"unix:{tmp}/entry")
        hosts.start()
        with connect(entry) as caller, target.accept() as called:
            sent = fill(caller)
            caller.close()
            called.sendall(b"are you there?")
            until(
                lambda: hosts.b.link(hosts.a)["streams"][0]["bytes_from_local"] == 14, "for b to receive it"
            )
            assert len(receive(called, sent)) == sent
            assert called.recv(1) == b""
        hosts.a.wait_log("LOCAL_RESET")


def test_reset_is_forwarded(hosts: TwoHosts, pair: tuple[str, Target]) -> None:
    entry, target = pair
    with connect(entry) as caller, target.accept() as called:
        called.sendall(b"unread")
        receive(caller, 1)
        caller.close()  # with unread bytes: the kernel sends a reset
        assert ends_in_reset(called)

"""A link that does not resume ends both local connections with a reset, never with a clean close."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.cutter import Cutter
from tests.support.daemons import TwoHosts, is_up, until
from tests.support.streams import Target, connect, ends_in_reset, exchange, receive, send_bulk
from tunnel.units import MIB

ENDLESS = 1024 * MIB


def test_lost_lane_without_resume(hosts: TwoHosts, target: Target) -> None:
    with Cutter(hosts.b.address) as cutter:
        hosts.a.knows(hosts.b, cutter.address)
        hosts.a.transport = hosts.b.transport = {"resume_window": "0s"}
        entry = hosts.a.leads_to(hosts.b, target.address)
        hosts.start()
        with connect(entry) as caller, target.accept() as called:
            exchange(caller, called)
            cutter.cut()
            assert ends_in_reset(caller)
            assert ends_in_reset(called)
        until(lambda: is_up(hosts.a, hosts.b), "for a new link")
        with connect(entry) as caller, target.accept() as called:
            exchange(caller, called)
        assert hosts.a.link(hosts.b)["resumes"] == 0


def test_resume_on_one_side_only(hosts: TwoHosts, target: Target) -> None:
    with Cutter(hosts.b.address) as cutter:
        hosts.a.knows(hosts.b, cutter.address)
        hosts.b.transport = {"resume_window": "0s"}
        entry = hosts.a.leads_to(hosts.b, target.address)
        hosts.start()
        with connect(entry) as caller, target.accept() as called:
            exchange(caller, called)
            cutter.cut()
            assert ends_in_reset(called)
            assert ends_in_reset(caller)
        until(lambda: is_up(hosts.a, hosts.b), "for a new link")
        with connect(entry) as caller, target.accept() as called:
            exchange(caller, called)


def test_lane_lost_for_longer_than_the_window(hosts: TwoHosts, target: Target) -> None:
    with Cutter(hosts.b.address) as cutter:
        hosts.a.knows(hosts.b, cutter.address)
        hosts.a.transport = hosts.b.transport = {"resume_window": "1s"}
        entry = hosts.a.leads_to(hosts.b, target.address)
        hosts.start()
        with connect(entry) as caller, target.accept() as called:
            exchange(caller, called)
            cutter.stall()
            cutter.cut()
            lost = time.monotonic()
            assert ends_in_reset(caller)
            assert time.monotonic() - lost < 15  # not after the usual 30
            assert ends_in_reset(called)  # the acceptor waits a few seconds longer
            assert time.monotonic() - lost < 25
        assert any("no lane resumed within 1 s" in reason for reason in hosts.a.reasons(hosts.b))
        cutter.flow()
        until(lambda: is_up(hosts.a, hosts.b), "for a new link")
        with connect(entry) as caller, target.accept() as called:
            exchange(caller, called)


def test_peer_killed_in_mid_transfer(hosts: TwoHosts, target: Target, background: ThreadPoolExecutor) -> None:
    hosts.a.transport = {"resume_window": "1s"}
    entry = hosts.a.leads_to(hosts.b, target.address)
    hosts.start()
    with connect(entry) as caller, target.accept() as called:
        sending = background.submit(send_bulk, caller, ENDLESS)
        receive(called, 8 * MIB)
        killed = time.monotonic()
        hosts.b.kill()
        with pytest.raises(ConnectionError):
            sending.result()
        assert time.monotonic() - killed < 20
    hosts.b.start()
    hosts.wait_up()
    with connect(entry) as caller, target.accept() as called:
        exchange(caller, called)


def test_restarted_peer_gets_a_new_session_immediately(hosts: TwoHosts, target: Target) -> None:
    entry = hosts.a.leads_to(hosts.b, target.address)
    hosts.start()
    with connect(entry) as caller, target.accept() as called:
        exchange(caller, called)
        hosts.b.kill()
        hosts.b.start()
        restarted = time.monotonic()
        assert ends_in_reset(caller)
        assert time.monotonic() - restarted < 20  # not after the resume window of 30 seconds
    hosts.wait_up()
    with connect(entry) as caller, target.accept() as called:
        exchange(caller, called)
